"""Checkpoint files: written atomically, and checked before a run resumes from them."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from typing_extensions import override

from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import WRITE_LOCK, check_regular_file, write_bytes

__all__ = ["AtomicCheckpointIO", "check_checkpoint"]

REQUIRED_KEYS = {"epoch", "global_step", "loops", "optimizer_states", "state_dict"}  # Lightning resumes from these


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, and then renames it.

    Lightning's own class writes to the system's temporary folder first. If that is on another disk, the file is copied
    to its destination, where a reader can see it while it is incomplete; and a killed process leaves the temporary
    file behind.
    """

    @override
    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        # Written to memory first, because PyTorch reports a full disk as a RuntimeError about positions in an archive.
        buffer = io.BytesIO()
        with WRITE_LOCK:  # also here, so that a signal does not end the process before the checkpoint is complete
            torch.save(checkpoint, buffer)
            write_bytes(Path(path), buffer.getbuffer(), sync=True)


def check_checkpoint(checkpoint: Path) -> None:
    """Verifies the checksums in a Lightning checkpoint, and that it contains everything that resuming needs.

    Raises:
        CheckpointError: The file is damaged, or it is not a checkpoint.
    """
    try:
        check_regular_file(checkpoint)
        with zipfile.ZipFile(checkpoint) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it contains compressed entries, which PyTorch does not write")
            if (changed := archive.testzip()) is not None:
                raise ValueError(f"{changed} has changed since it was written")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if missing := sorted(REQUIRED_KEYS - state.keys()):
            raise ValueError(f"it holds no {', '.join(missing)}")
    except Exception as error:  # zipfile, pickle and torch raise nearly anything on a damaged file
        reason = str(error).partition("\n")[0]  # the further lines advise to load the file without checks
        raise CheckpointError(
            f"the checkpoint {checkpoint} cannot be resumed: {reason}. Restore a copy of it, or delete it; then "
            "the same command starts the run from the beginning"
        ) from error
