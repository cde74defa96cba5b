"""`ssl-pretext list`: the names of parts."""

from ssl_pretext.cli.options import List
from ssl_pretext.encoders import list_encoders
from ssl_pretext.errors import UnknownNameError
from ssl_pretext.losses import list_losses
from ssl_pretext.probes import list_probes
from ssl_pretext.tasks import list_tasks

__all__ = ["run"]

LISTS = {"tasks": list_tasks, "losses": list_losses, "probes": list_probes}


def run(options: List) -> None:
    """Prints a name per line."""
    text = options.search or ""
    if options.kind == "encoders":
        names = list_encoders(f"*{text}*" if text else None)
    else:
        names = [name for name in LISTS[options.kind]() if text in name]
    if not names:
        raise UnknownNameError(
            f"none of the {options.kind} has {text!r} in its name; ssl-pretext list {options.kind} shows them"
        )
    print("\n".join(names))
