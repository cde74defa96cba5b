"""Weights of a file for an encoder that is created by name: `"timm/resnet18[weights=FILE]"`."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.map_encoder import MapEncoder
from ssl_pretext.errors import CheckpointError, MissingFileError
from ssl_pretext.registry import Option, format_spec, parse_spec
from ssl_pretext.saving.weights import read_tensors
from ssl_pretext.system.files import check_regular_file, file_sha256

__all__ = ["WEIGHTS", "WEIGHTS_SHA256", "load_weights_file", "with_weights_sha256"]

WEIGHTS, WEIGHTS_SHA256 = "weights", "weights_sha256"  # options of every encoder
CONTAINERS = ("state_dict", "model")  # entries under which training scripts save the weights beside other values
# What wrappers and training scripts put before the names of an encoder's weights.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "base_encoder.", "encoder_q.", "body.")
RGB = 3
LISTED = 3  # names in a message

log = logging.getLogger(__name__)


def with_weights_sha256(encoder: str) -> str:
    """Returns the name of an encoder with sorted options, and with the SHA-256 of its file of weights if it has one.

    Args:
        encoder: Name of an encoder with its options.

    Raises:
        MissingFileError: The file does not exist.
        CheckpointError: It is not a regular file.

    Examples:
        >>> with_weights_sha256("timm/resnet18[pretrained=true;layer=layer3]")
        'timm/resnet18[layer=layer3;pretrained=true]'
    """
    name, options = parse_spec(encoder)
    if WEIGHTS in options and WEIGHTS_SHA256 not in options:
        options[WEIGHTS_SHA256] = file_sha256(_checked(name, options[WEIGHTS]))
    return format_spec(name, options)


def load_weights_file(encoder: nn.Module, name: str, weights: Option, sha256: Option | None, in_channels: int) -> None:
    """Loads weights that were trained elsewhere into an encoder.

    The file is in the format of safetensors, or holds a dictionary that `torch.save` wrote. For each of its names that
    the encoder does not have, prefixes such as `module.`, `backbone.` and `encoder.` are removed one after the other
    until the encoder has it. What is left, such as a classifier, is ignored and logged. All weights of the encoder must
    be in the file. Convolutions on RGB are adapted to another number of input channels by timm's rule.

    Args:
        encoder: The encoder, which is changed in place.
        name: Name of the encoder in messages.
        weights: Path of the file.
        sha256: SHA-256 that the file must have; None if it may be any file.
        in_channels: Number of channels of the encoder's input.

    Raises:
        MissingFileError: The file does not exist.
        CheckpointError: The file is damaged, is not the one with this SHA-256, or does not fit the encoder.
    """
    file = _checked(name, weights)
    if sha256 is not None and file_sha256(file) != str(sha256):
        raise CheckpointError(
            f"{file} is not the file of weights that {name} started from, whose SHA-256 was {sha256}; put that file "
            "back, or name the new one without weights_sha256"
        )
    network = encoder.body if isinstance(encoder, MapEncoder) else encoder
    own = network.state_dict()
    found, ignored = _named(_state_dict(read_tensors(file, name)), own.keys(), file)
    # Old versions of PyTorch did not count the batches, which only norms with momentum=None need.
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{file} does not fit {name}: {_some(missing)} of its weights are not in the file")
    adapted = {key: _adapted(key, found.get(key, value), value, in_channels, file, name) for key, value in own.items()}
    network.load_state_dict(adapted)
    note = f"; ignored, because the encoder has no such weights: {_some(ignored)}" if ignored else ""
    log.info("%s got its weights from %s%s", name, file, note)


def _checked(name: str, weights: Option) -> Path:
    file = Path(str(weights)).expanduser()
    if not file.exists():
        raise MissingFileError(f"the file of weights of {name}, {file}, does not exist; correct the path")
    check_regular_file(file)
    return file


def _state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a file, or of its entry that holds the weights, by name."""
    inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
    return {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}


def _named(tensors: Mapping[str, Tensor], own: Collection[str], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors under the names of the encoder, and the names of all others."""
    sources: dict[str, str] = {}
    ignored = []
    for key in tensors:
        name = key
        while name not in own and (prefix := next(filter(name.startswith, PREFIXES), None)):
            name = name.removeprefix(prefix)
        if name not in own:
            ignored.append(key)
        elif name in sources:
            raise CheckpointError(
                f"{file} holds {name} of the encoder twice, as {sources[name]} and {key}; save one of the two networks "
                "alone"
            )
        else:
            sources[name] = key
    return {name: tensors[key] for name, key in sources.items()}, ignored


def _adapted(key: str, found: Tensor, own: Tensor, in_channels: int, file: Path, name: str) -> Tensor:
    """Returns a tensor of a file in the shape that the encoder has."""
    from timm.models import adapt_input_conv

    on_rgb = found.dim() == 4 and found.shape[1] == RGB and own.shape[1:2] == (in_channels,)
    if on_rgb and in_channels != RGB:
        found = adapt_input_conv(in_channels, found)
    if found.shape != own.shape:
        raise CheckpointError(
            f"{file} does not fit {name}: {key} has the shape {tuple(found.shape)} in the file and {tuple(own.shape)} "
            "in the encoder"
        )
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise CheckpointError(f"{file} holds values that are not finite, such as in {key}; its training has diverged")
    return found


def _some(names: Collection[str]) -> str:
    listed = ", ".join(list(names)[:LISTED])
    return f"{listed} and {len(names) - LISTED} more" if len(names) > LISTED else listed
