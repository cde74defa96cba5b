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
from ssl_pretext.system.files import check_regular_file, write_bytes

__all__ = ["AtomicCheckpointIO", "check_checkpoint"]

KEYS = {"epoch", "global_step", "loops", "optimizer_states", "state_dict"}  # without which Lightning cannot resume


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its folder and renames it.

    Lightning's own class writes to the system's temporary folder first. If that is on another disk, the final file is
    copied and can be read while it is incomplete, and a killed process leaves the temporary file behind.
    """

    @override
    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        # Through memory, because torch reports a full disk as a RuntimeError about positions in an archive.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer(), sync=True)


def check_checkpoint(checkpoint: Path) -> None:
    """Verifies the checksums in a Lightning checkpoint, and that it holds everything that a run resumes from.

    Raises:
        CheckpointError: The file is damaged, or is not a checkpoint.
    """
    try:
        check_regular_file(checkpoint)
        with zipfile.ZipFile(checkpoint) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it holds compressed entries, which PyTorch does not write")
            if (changed := archive.testzip()) is not None:
                raise ValueError(f"{changed} has changed since it was written")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if missing := sorted(KEYS - state.keys()):
            raise ValueError(f"it holds no {', '.join(missing)}")
    except Exception as error:  # zipfile, pickle and torch raise nearly anything on a damaged file
        reason = str(error).partition("\n")[0]  # torch continues with advice for those who trust the file
        raise CheckpointError(
            f"the checkpoint {checkpoint} cannot be resumed: {reason}. Restore a copy of it, or delete it: the same "
            "command then starts the run from the beginning"
        ) from error
