"""Random numbers that depend on keys alone: image, epoch, seed and view, and not on the order of the images."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["keyed_normals", "keyed_uniforms", "keys_of_images", "keys_of_names"]

# SplitMix64 (Steele et al. 2014), whose unsigned constants are written as the signed integers of PyTorch.
INCREMENT = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
LAST_SHIFT = 31
MANTISSA = 24  # bits of a float32


def keys_of_images(images: Tensor, *parts: int) -> Tensor:
    """Computes a key for each image from its number and further numbers, such as the seed, the epoch and the view.

    Args:
        images: Numbers of the images, int64 `(B,)`.
        parts: Numbers that all images share; other numbers, or another order of them, give other keys.

    Returns:
        The keys, int64 `(B,)`.
    """
    keys = _mixed(images)
    for part in parts:
        keys = _mixed(keys + (part + 2**63) % 2**64 - 2**63)
    return keys


def keys_of_names(names: Iterable[str]) -> Tensor:
    """Returns a number for each name, int64 `(B,)`, which is the same in every process and on every machine."""
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def keyed_uniforms(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws uniform random numbers in `[0, 1)` for each key, on the device of the keys.

    Args:
        keys: Keys, int64 `(B,)`.
        shape: Shape of the numbers of one key.

    Returns:
        The numbers, float32 `(B, *shape)`.

    Examples:
        >>> keys = torch.tensor([7, 8, 7])
        >>> one, two, again = keyed_uniforms(keys, (2,)).tolist()
        >>> one == again, one == two
        (True, False)
    """
    count = torch.Size(shape).numel()
    counters = torch.arange(1, count + 1, device=keys.device) * INCREMENT
    bits = _mixed(keys[:, None] + counters)
    uniforms: Tensor = _shifted(bits, 64 - MANTISSA).float() / 2**MANTISSA
    return uniforms.view(len(keys), *shape)


def keyed_normals(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws standard normal random numbers for each key, float32 `(B, *shape)`, by the method of Box and Muller."""
    count = torch.Size(shape).numel()
    radius, angle = keyed_uniforms(keys, (2, (count + 1) // 2)).unbind(1)
    radius, angle = (-2 * (1 - radius).log()).sqrt(), 2 * torch.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].view(len(keys), *shape)


def _mixed(bits: Tensor) -> Tensor:
    for shift, multiplier in MULTIPLIERS:
        bits = (bits ^ _shifted(bits, shift)) * multiplier
    return bits ^ _shifted(bits, LAST_SHIFT)


def _shifted(bits: Tensor, shift: int) -> Tensor:
    """Shifts 64 bits to the right without their sign, which PyTorch's shift of signed integers would repeat."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
