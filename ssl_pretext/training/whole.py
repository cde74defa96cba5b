"""Whether the checkpoint of a run that is to go on is whole."""

import zipfile
from pathlib import Path

import torch

from ssl_pretext.config import check_regular
from ssl_pretext.errors import CheckpointError

__all__ = ["check_whole"]

PARTS = {"epoch", "global_step", "loops", "optimizer_states", "state_dict"}


def check_whole(checkpoint: Path) -> None:
    """Looks at every checksum in a checkpoint of Lightning's, and whether it holds what a run goes on from.

    Raises:
        CheckpointError: It is damaged, or something else.
    """
    try:
        check_regular(checkpoint)
        with zipfile.ZipFile(checkpoint) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it holds compressed parts, which PyTorch does not write")
            if (changed := archive.testzip()) is not None:
                raise ValueError(f"{changed} has changed since it was written")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if missing := sorted(PARTS - state.keys()):
            raise ValueError(f"it holds no {', '.join(missing)}")
    except Exception as error:  # zipfile, pickle and torch raise nearly anything on a broken file
        reason = str(error).partition("\n")[0]  # torch goes on with advice for those who trust the file
        raise CheckpointError(
            f"the checkpoint {checkpoint} cannot be gone on from: {reason}. Put a copy of it there, or delete it, and "
            "the same command begins the run anew"
        ) from error
