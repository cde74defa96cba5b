"""Checks of arguments that many functions take."""

from numbers import Integral

from ssl_pretext.errors import ArgumentError

__all__ = ["whole_number"]


def whole_number(what: str, value: object, *, least: int = 1) -> int:
    """Checks an argument that counts something; True and 2.0 count nothing.

    Raises:
        ArgumentError: It is no whole number, or less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{what} is a whole number of at least {least}, got {value!r}")
    return int(value)
