import numpy as np
import pytest
import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.data.integers import as_indices, as_labels
from ssl_pretext.errors import ArgumentError


@pytest.mark.parametrize("labels", [[2, 0, 1], (2, 0, 1), np.array([2, 0, 1], np.uint8), torch.tensor([2, 0, 1])])
def test_labels_become_a_list_of_ints(labels):
    converted = as_labels(labels)
    assert converted == [2, 0, 1]
    assert all(type(label) is int for label in converted)


@pytest.mark.parametrize("indices", [[3, 0, 3], range(3), np.array([3, 0], np.int16), torch.tensor([1, 2]), []])
def test_indices_become_int64(indices):
    converted = as_indices(indices)
    assert converted.dtype == np.int64
    assert converted.tolist() == list(indices)


@pytest.mark.parametrize("labels", [[0.5] * 4, torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64), ["a"]])
def test_labels_that_are_not_integers_are_refused(labels):
    with pytest.raises(ArgumentError, match="labels must be integers, one per image"):
        as_labels(labels)


@pytest.mark.parametrize("indices", [[0.5], [True, False], torch.tensor([True, False]), [[0, 1]], 3])
def test_masks_and_fractions_are_refused_as_indices(indices):
    with pytest.raises(ArgumentError, match="indices must be a list of integers, .* converts a mask to indices"):
        as_indices(indices)


def test_stores_check_labels_and_indices():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    store = ImageStore.from_arrays(images, torch.tensor([0, 1, 1, 0]))
    mask = store.labels == 1
    for choose in (store.images, store.subset):
        for wrong in (mask, mask.tolist(), [0.5]):
            with pytest.raises(ArgumentError, match="indices must be a list of integers"):
                choose(wrong)
    assert torch.equal(store.subset(mask.nonzero().flatten()).images(), images[1:3])
    assert store.images([]).shape == (0, 3, 8, 8)
    for labels in ([0.5] * 4, torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ArgumentError, match="labels must be integers"):
            ImageStore.from_arrays(images, labels)
