"""Loads the trained task from the run folder that a command was given."""

from pathlib import Path
from typing import TypeVar

from ssl_pretext.errors import CheckpointError
from ssl_pretext.tasks import PretextTask

__all__ = ["load_run"]

T = TypeVar("T", bound=PretextTask)


def load_run(run: Path, kind: type[T]) -> T:
    """Loads the task from an output folder of `pretrain`, or from a folder written by `save_pretrained`.

    Args:
        run: The folder.
        kind: The class that the task must be an instance of.

    Raises:
        MissingFileError: The folder does not exist, or contains no task.
        CheckpointError: The run has not finished, or its task is not an instance of `kind`.
    """
    if (run / "task" / "config.json").exists():
        return kind.from_pretrained(run / "task")
    if (run / "fit.json").exists():
        raise CheckpointError(
            f"the pretraining run in {run} has not finished; finish it first: ssl-pretext pretrain --config "
            f"{run / 'pretrain.yaml'} --resume"
        )
    return kind.from_pretrained(run)
