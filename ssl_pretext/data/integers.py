"""Checks that labels and indices are integers, and the mark of a missing class."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["MISSING", "as_indices", "as_labels"]

MISSING = -1  # marks an image without a class, or a pixel of a mask without one; missing numbers and labels are NaN


def as_labels(labels: Tensor | npt.NDArray[Any] | Sequence[int]) -> list[int]:
    """Converts labels to a list of integers.

    Args:
        labels: Class of each image, `(N,)`.

    Raises:
        ArgumentError: A label is not an integer, or `labels` is not one-dimensional.

    Examples:
        >>> as_labels(np.array([1, 0]))
        [1, 0]
    """
    try:
        # `operator.index` raises for 0.5, which `int` would turn into class 0.
        return [operator.index(x) for x in (labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels)]
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"labels must be integers, one per image ({error})") from error


def as_indices(indices: Sequence[int] | Tensor) -> npt.NDArray[np.int64]:
    """Converts positions of images in a store to an int64 array.

    Args:
        indices: Positions of the images, `(n,)`.

    Raises:
        ArgumentError: `indices` is not one-dimensional, or its elements are not integers.

    Examples:
        >>> as_indices([2, 0])
        array([2, 0])
    """
    chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        # A mask that is cast to integers would silently select images 0 and 1 again and again.
        raise ArgumentError(
            f"indices must be a list of integers, got {chosen.dtype} of shape {chosen.shape}; "
            "mask.nonzero().flatten() converts a mask to indices"
        )
    return chosen.astype(np.int64)
