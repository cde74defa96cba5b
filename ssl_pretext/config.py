"""The base class of every configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ssl_pretext.errors import ArgumentError

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: a frozen dataclass that checks itself on construction."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the configuration from a mapping, refusing keys that it does not have."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ArgumentError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain, JSON-ready values."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
