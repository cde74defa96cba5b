"""Lines of progress on the screen, in a terminal, a script and a notebook, and the words of their durations."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

from ssl_pretext.system.processes import rank_info

__all__ = ["EscapingFormatter", "describe_duration", "escape_control_characters", "in_notebook", "progress_on_screen"]

LIBRARY = "ssl_pretext"  # the name of its logger


@contextmanager
def progress_on_screen() -> Iterator[None]:
    """Shows what the library logs in the block, without which a caller who has not set up logging would see nothing.

    Where the caller's logging shows these lines anyway, or the logger `ssl_pretext` has a level, nothing changes: with
    `logging.getLogger("ssl_pretext").setLevel("WARNING")` the block is silent. Lines go to the standard error, so that
    the output of a program remains its own, and in a notebook below the cell. Only the first process shows them.
    """
    logger = logging.getLogger(LIBRARY)
    is_set_up = logger.level != logging.NOTSET or (logger.hasHandlers() and logger.isEnabledFor(logging.INFO))
    if is_set_up or rank_info().rank > 0:
        yield
        return
    handler, propagate = _ScreenHandler(), logger.propagate
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def describe_duration(seconds: float) -> str:
    """Writes a duration as it is shown in estimates.

    Examples:
        >>> describe_duration(42.4), describe_duration(90), describe_duration(7_300)
        ('42 s', '1 min 30 s', '2 h 1 min')
    """
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def in_notebook() -> bool:
    """Whether the code runs in a notebook, which shows progress bars although it is no terminal."""
    return "ipykernel" in sys.modules


class _ScreenHandler(logging.Handler):
    """Writes lines between progress bars. Warnings go to the caller's handlers instead, if there are any."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        root = logging.getLogger()
        if root.handlers and root.isEnabledFor(record.levelno):
            root.handle(record)
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout if in_notebook() else sys.stderr)
        except OSError:  # the terminal may be closed, and the work continues without it
            return


class EscapingFormatter(logging.Formatter):
    """Escapes control characters, because names of files can contain commands to the terminal."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return escape_control_characters(super().format(record))


def escape_control_characters(text: str) -> str:
    """Replaces characters that a terminal would not print by their escape sequences; keeps line breaks and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
