"""The program `ssl-pretext`, which is also `python -m ssl_pretext.cli`."""

from typing import NoReturn

from ssl_pretext.cli import main
from ssl_pretext.cli.command import exit_process

__all__ = ["run"]


def run() -> NoReturn:
    """Runs the command of `sys.argv`, and ends the process with its exit code."""
    exit_process(main())


if __name__ == "__main__":
    run()
