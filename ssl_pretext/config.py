"""The base class of all configurations, which checks the types of their fields, and converts them to dictionaries."""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import Self

from ssl_pretext.errors import ArgumentError

__all__ = ["Config"]

SYNONYMS = {"lr": "learning_rate"}  # names that people type


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of configurations: frozen dataclasses that check their values on construction.

    Each value must have the type of its annotation. Numbers of NumPy become those of Python, which JSON can hold, and
    texts become paths where a path is needed. A subclass that has a `__post_init__` calls the one of this class first.

    Raises:
        ArgumentError: A value is invalid, or there is no such field.
    """

    def __new__(cls, *_: Any, **values: Any) -> Self:
        """Refuses unknown fields with a sentence, before `__init__` would raise a `TypeError`."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(values.keys() - known):
            meant = SYNONYMS.get(unknown[0])
            hint = f" (did you mean {meant}?)" if meant in known else ""
            raise ArgumentError(
                f"{cls.__name__} has no field {', '.join(unknown)}{hint}; its fields are {', '.join(sorted(known))}"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            try:
                object.__setattr__(self, field.name, _converted(value, hint))
            except TypeError as error:
                raise ArgumentError(
                    f"{type(self).__name__}.{field.name} must be {_described(hint)}, got {value!r}"
                ) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Creates the configuration from a mapping of its fields.

        Raises:
            ArgumentError: The mapping has a key that is not a field, or a value is invalid.
        """
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of the configuration as plain values that can be written as JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _converted(value: Any, hint: Any) -> Any:
    """Returns a value as the type of an annotation, and raises `TypeError` if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _converted_to_one_of(value, arguments)
    if origin is Literal:
        fits = value in arguments
    elif hint is bool:
        fits = isinstance(value, bool)
    elif hint in NUMBERS:
        kind, convert = NUMBERS[hint]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        value = convert(value) if fits else value
    elif origin is tuple:
        fits = isinstance(value, tuple | list)
        value = tuple(_converted(item, arguments[0]) for item in value) if fits else value
    elif hint is Path:
        fits = isinstance(value, str | Path)
        value = Path(value) if fits else value
    else:
        fits = isinstance(value, origin or hint)
    if not fits:
        raise TypeError
    return value


def _converted_to_one_of(value: Any, hints: Sequence[Any]) -> Any:
    if type(value) in hints:
        return value
    for hint in hints:
        try:
            return _converted(value, hint)
        except TypeError:
            continue
    raise TypeError


NUMBERS: dict[Any, tuple[type, Callable[[Any], Any]]] = {int: (Integral, int), float: (Real, float)}
DESCRIBED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def _described(hint: Any) -> str:
    """Describes the values that fit an annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if hint is type(None):
        return "None"
    return DESCRIBED.get(hint) or f"of the type {getattr(origin or hint, '__name__', hint)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
