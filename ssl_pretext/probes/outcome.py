"""The outcome of training and testing a probe once; scores of test images can be packed into text for JSON."""

import base64
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Outcome", "count_confusions", "pack_scores", "unpack_confusions", "unpack_scores"]

STEPS = 2**15 - 1  # of a quantized score on either side of the mean, which is stored exactly
QUANTIZED = "q"  # base64 of compressed data never begins with it


class Outcome(NamedTuple):
    """The result of training and testing a probe once.

    Attributes:
        history: A row per epoch with `epoch`, `train_loss` and `test_loss`; for classes also with `train_accuracy` and
            `test_accuracy`.
        settings: The settings that were selected on training images, their score there, and how the training ended.
        outputs: Outputs of the final probe for the test images, in the form that metrics take, such as probabilities of
            classes `(m, K)`.
    """

    history: list[dict[str, float]]
    settings: dict[str, Any]
    outputs: Tensor


def pack_scores(scores: Tensor) -> str:
    """Packs scores `(m,)` into text, compressed and in base64.

    Scores that are all 0 or 1, such as the hits of accuracy, take one bit per image. Others take two bytes: they are
    rounded to a 32,767th of the largest distance from their mean.

    Examples:
        >>> import torch
        >>> pack_scores(torch.tensor([1.0, 0.0, 1.0]))
        'eNpbAAAAoQCh'
        >>> unpack_scores(pack_scores(torch.tensor([0.5, 0.25, 3.0])), 3).round(3)
        array([0.5 , 0.25, 3.  ])
    """
    values = scores.double().cpu().numpy()
    if ((values == 0) | (values == 1)).all():
        return _encode(np.packbits(values.astype(bool)).tobytes())
    mean = values.mean()
    step = max(np.abs(values - mean).max() / STEPS, np.finfo(float).tiny)
    steps = np.rint((values - mean) / step).astype("<i2")
    return QUANTIZED + _encode(np.array([mean, step], dtype="<f8").tobytes() + steps.tobytes())


def unpack_scores(text: str, images: int) -> NDArray[Any]:
    """Unpacks what `pack_scores` returned for a number of images, as an array `(images,)`, of type bool for hits."""
    data = zlib.decompress(base64.b64decode(text.removeprefix(QUANTIZED)))
    if not text.startswith(QUANTIZED):
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=images).astype(bool)
    mean, step = np.frombuffer(data, dtype="<f8", count=2)
    values = np.frombuffer(data, dtype="<i2", offset=16) * step
    # Rounding must not move the mean, which is the metric.
    return np.asarray(values - values.mean() + mean)


def count_confusions(outputs: Tensor, truth: Tensor) -> str:
    """Counts which classes are predicted for which; returns the counts as text, compressed and in base64.

    Args:
        outputs: Probabilities of the classes `(m, K)`.
        truth: True classes `(m,)`.

    Examples:
        >>> import torch
        >>> unpack_confusions(count_confusions(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])), 2)
        array([[1, 0],
               [1, 0]], dtype=uint32)
    """
    classes = outputs.shape[1]
    pairs = truth.cpu() * classes + outputs.argmax(1).cpu()
    return _encode(pairs.bincount(minlength=classes**2).numpy().astype("<u4").tobytes())


def unpack_confusions(text: str, classes: int) -> NDArray[Any]:
    """Unpacks what `count_confusions` returned: the number of images by true and predicted class, `(K, K)`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4").reshape(classes, classes)


def _encode(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()
