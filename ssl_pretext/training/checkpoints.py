"""Checkpoint files that are either whole or not there."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from ssl_pretext.config import write_bytes

__all__ = ["WholeCheckpoints"]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one before, and renames it.

    Lightning's own goes by the system's temporary folder: from another disk, the file grows where it is read, and what
    a killed process leaves there nobody finds.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        # By way of memory: torch's writer tells a full disk as a RuntimeError about positions in an archive.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer(), lasting=True)
