"""Weights in safetensors files: written atomically, loaded strictly."""

import errno
from pathlib import Path

from torch import nn

from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import atomic_write, check_regular_file

__all__ = ["load_weights", "save_weights"]


def save_weights(module: nn.Module, file: Path) -> None:
    """Writes parameters and buffers as safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    needed = sum(value.nbytes for value in module.state_dict().values())
    with atomic_write(file, needed=needed, sync=True) as part:
        try:
            save_model(module, str(part))
        except SafetensorError as error:  # which is no OSError, and names one in words only
            raise OSError(errno.EIO, str(error)) from error


def load_weights(module: nn.Module, file: Path, what: str) -> None:
    """Loads what `save_weights` wrote, strictly.

    Raises:
        CheckpointError: The file is damaged, or its weights are not those of the module, `what` in the message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    check_regular_file(file)
    try:
        own = module.state_dict()
        for name, value in load_file(str(file)).items():
            if name in own and value.dtype != own[name].dtype:  # which loading would convert
                raise ValueError(f"{name} is of {value.dtype} instead of {own[name].dtype}")
        load_model(module, str(file), strict=True)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"the weights {file} do not fit the {what}: {error}") from error
