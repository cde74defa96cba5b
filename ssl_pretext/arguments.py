"""Checks of arguments that many functions have in common."""

from numbers import Integral

from ssl_pretext.errors import ArgumentError

__all__ = ["whole_number"]


def whole_number(what: str, value: object, *, least: int = 1) -> int:
    """Checks an argument that must be a whole number, and returns it as an int. `True` and 2.0 are not accepted.

    Args:
        what: Name of the argument in the message, such as `"size of Pixels"`.
        value: The argument.
        least: The smallest value that is allowed.

    Raises:
        ArgumentError: The argument is not a whole number, or is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value)
