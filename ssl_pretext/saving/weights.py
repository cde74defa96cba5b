"""Weights in safetensors files, which are written atomically and loaded strictly."""

import errno
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import atomic_write, check_regular_file

__all__ = ["load_weights", "read_tensors", "save_tensors", "save_weights"]


def save_weights(module: nn.Module, file: Path) -> None:
    """Writes the parameters and buffers of a module to a safetensors file.

    Raises:
        StorageError: The file could not be written; the previous file, if any, is unchanged.
    """
    from safetensors.torch import save_model

    with _writing(file, module.state_dict().values()) as part:
        save_model(module, str(part))


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes tensors, each with memory of its own, to a safetensors file that PyTorch libraries read.

    Raises:
        StorageError: The file could not be written; the previous file, if any, is unchanged.
    """
    from safetensors.torch import save_file

    with _writing(file, tensors.values()) as part:
        save_file(dict(tensors), str(part), metadata={"format": "pt"})


@contextmanager
def _writing(file: Path, tensors: Collection[Tensor]) -> Iterator[Path]:
    from safetensors import SafetensorError

    with atomic_write(file, needed=sum(value.nbytes for value in tensors), sync=True) as part:
        try:
            yield part
        except SafetensorError as error:  # safetensors reports I/O errors only as text
            raise OSError(errno.EIO, str(error)) from error


def load_weights(module: nn.Module, file: Path, what: str) -> None:
    """Loads weights that `save_weights` wrote. Names, shapes and dtypes must be exactly those of the module.

    Args:
        module: The module to load the weights into.
        file: The safetensors file.
        what: What the module is, for messages, such as `"task"`.

    Raises:
        MissingFileError: The file does not exist.
        CheckpointError: The file is damaged, or its weights do not fit the module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    check_regular_file(file)
    try:
        own = module.state_dict()
        for name, value in load_file(str(file)).items():
            if name in own and value.dtype != own[name].dtype:  # `load_model` would convert it silently
                raise ValueError(f"{name} has dtype {value.dtype} instead of {own[name].dtype}")
        load_model(module, str(file), strict=True)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"the weights {file} do not fit the {what}: {error}") from error


def read_tensors(file: Path, what: str) -> dict[str, Any]:
    """Reads tensors by name from a file of safetensors or of `torch.save`; nothing in such a file can run code.

    Args:
        file: The file; one with another suffix than `.safetensors` was written by `torch.save`.
        what: What the weights are for, for messages, such as `"the perceptual loss"`.

    Returns:
        The content of the file. A file of `torch.save` may hold more than tensors, such as numbers.

    Raises:
        CheckpointError: The file is damaged or holds something else.
    """
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zipfile and safetensors raise nearly anything on a damaged file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{file} is not a file of weights for {what}: {reason}") from error
