"""The command `ssl-pretext list`, which prints the names of tasks, encoders, losses or probes."""

from inspect import getdoc

from ssl_pretext.cli.options import List
from ssl_pretext.encoders import list_encoders
from ssl_pretext.errors import UnknownNameError
from ssl_pretext.losses import list_losses
from ssl_pretext.probes import list_probes
from ssl_pretext.tasks import list_tasks
from ssl_pretext.tasks.base import TASKS

__all__ = ["run"]

LISTS = {"tasks": list_tasks, "losses": list_losses, "probes": list_probes}


def run(options: List) -> None:
    """Prints one name per line, and what it is if it is a task.

    Raises:
        UnknownNameError: No name contains the text to search for.
    """
    text = options.search or ""
    if options.kind == "encoders":
        names = list_encoders(f"*{text}*" if text else None)
    else:
        names = [name for name in LISTS[options.kind]() if text in name]
    if not names:
        raise UnknownNameError(
            f"there are no {options.kind} with {text!r} in their name; ssl-pretext list {options.kind} shows all names"
        )
    print("\n".join(_described(names) if options.kind == "tasks" else names))


def _described(names: list[str]) -> list[str]:
    """Returns a line for each task, with what it is and the first line of its documentation."""
    width = max(map(len, names))
    return [f"{name:{width}}  {(getdoc(TASKS.factory(name)) or '').partition(chr(10))[0]}".rstrip() for name in names]
