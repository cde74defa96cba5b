"""The trained task of a run, from the folder that a command names."""

from pathlib import Path
from typing import TypeVar

from ssl_pretext.errors import CheckpointError
from ssl_pretext.tasks import PretextTask

__all__ = ["load_run"]

T = TypeVar("T", bound=PretextTask)


def load_run(run: Path, kind: type[T]) -> T:
    """Loads the task that `pretrain` left in `run`, or that `save_pretrained` wrote there.

    Raises:
        MissingFileError: There is none.
        CheckpointError: The run has not ended yet, or its task is not of this kind.
    """
    if (run / "task" / "config.json").exists():
        return kind.from_pretrained(run / "task")
    if (run / "fit.json").exists():
        raise CheckpointError(
            f"the pretraining in {run} has not ended; let it: ssl-pretext pretrain --config {run / 'pretrain.yaml'} "
            "--resume"
        )
    return kind.from_pretrained(run)
