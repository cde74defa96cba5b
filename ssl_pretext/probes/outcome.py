"""The outcome of training and testing a probe once; its hits can be packed into text that JSON can hold."""

import base64
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Outcome", "pack_hits", "unpack_hits"]


class Outcome(NamedTuple):
    """The result of training and testing a probe once.

    Attributes:
        history: A row per epoch with `epoch`, `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy`.
        settings: The settings that were selected on training images, their accuracy there, and how the training ended.
        hits: Whether the final probe classifies each test image correctly, `(N,)` of type bool.
    """

    history: list[dict[str, float]]
    settings: dict[str, float]
    hits: Tensor


def pack_hits(hits: Tensor) -> str:
    """Packs hits `(N,)` into text: eight images per byte, compressed, in base64.

    Examples:
        >>> import torch
        >>> pack_hits(torch.tensor([True, False, True]))
        'eNpbAAAAoQCh'
        >>> unpack_hits('eNpbAAAAoQCh', 3)
        array([ True, False,  True])
    """
    bits = np.packbits(hits.cpu().numpy())
    return base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode()


def unpack_hits(text: str, images: int) -> NDArray[np.bool_]:
    """Unpacks what `pack_hits` returned for a number of images, as an array `(images,)` of type bool."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.unpackbits(bits, count=images).astype(bool)
