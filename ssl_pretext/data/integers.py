"""Labels and indices: whole numbers, or an error that says so."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["as_indices", "as_labels"]


def as_labels(labels: Tensor | npt.NDArray[Any] | Sequence[int]) -> list[int]:
    """Classes as integers, one per image."""
    try:
        # `operator.index` refuses 0.5, where `int` would make it class 0.
        return [operator.index(x) for x in (labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels)]
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"labels are whole numbers, one per image; got others ({error})") from error


def as_indices(indices: Sequence[int] | Tensor) -> npt.NDArray[np.int64]:
    """Positions of images in a store, `(n,)`."""
    chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        # A mask cast to integers would quietly choose images 0 and 1, over and over.
        raise ArgumentError(
            f"indices are a list of whole numbers, got {chosen.dtype} of shape {chosen.shape}; "
            "a mask becomes indices by mask.nonzero().flatten()"
        )
    return chosen.astype(np.int64)
