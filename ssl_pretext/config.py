"""The base class of all configurations, with conversion from and to plain dictionaries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ssl_pretext.errors import ArgumentError

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of configurations: frozen dataclasses that check their values on construction."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Creates the configuration from a mapping of its fields.

        Raises:
            ArgumentError: The mapping has a key that is not a field, or a value is invalid.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ArgumentError(
                f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(sorted(known))}"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of the configuration as plain values that can be written as JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
