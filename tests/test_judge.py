"""Scores on held-out labels: the folds, and predictions like those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.targets import KINDS, as_images_with_targets
from ssl_pretext.representations import Pixels, Representation
from ssl_pretext.selection.judge import FOLDS, REPEATS, Judge


def judge_of(labels, probe="knn[k=1]", seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(labels), 3, 4, 4), dtype=torch.uint8, generator=generator)
    pixels[:, 0] = (pixels[:, 0] // 8 + 60 * torch.tensor(labels)[:, None, None]).to(torch.uint8)
    return Judge(*as_images_with_targets((pixels, labels), KINDS["class"]), probe=probe, seed=0, device="cpu")


LABELS = [0] * 12 + [1] * 9 + [2] * 7


def test_each_repetition_divides_all_images_into_folds_with_each_class():
    judge = judge_of(LABELS)
    assert [len(folds) for folds in judge.folds] == [FOLDS] * REPEATS
    assert len({str(folds) for folds in judge.folds}) == REPEATS
    for folds in judge.folds:
        assert sorted(index for fold in folds for index in fold) == list(range(len(LABELS)))
        for fold in folds:
            assert {LABELS[index] for index in fold} == {0, 1, 2}


def test_hits_are_those_of_nearest_neighbors_trained_on_the_other_folds():
    judge = judge_of(LABELS)
    found = judge.hits(Pixels("rgb"))
    features, labels = judge.images.images().flatten(1).numpy() / 127.5 - 1, np.array(LABELS)
    for row, folds in zip(found, judge.folds, strict=True):
        for fold in folds:
            others = np.setdiff1d(np.arange(len(labels)), fold)
            reference = make_pipeline(StandardScaler(), KNeighborsClassifier(1, metric="cosine"))
            predicted = reference.fit(features[others], labels[others]).predict(features[fold])
            assert (row[fold] == (predicted == labels[fold])).all()
    assert 0.5 < found.mean() < 1


def test_other_networks_in_each_repetition_are_scored_in_turn():
    judge = judge_of(LABELS)
    pixels, constant = Pixels("rgb"), Representation("zero", lambda images: torch.zeros(len(images), 1, 1, 1))
    expected = [judge.hits(pixels)[0], judge.hits(constant)[1], judge.hits(pixels)[2]]
    assert (judge.hits([pixels, constant, pixels]) == np.stack(expected)).all()


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_a_class_without_training_images_counts_as_an_error(probe):
    judge = judge_of([0] * 6 + [1] * 6 + [2] * 2, probe)
    for row, folds in enumerate(judge.folds):
        judge.folds[row] = [[12, 13], [index for fold in folds for index in fold if index < 12]]
    found = judge.hits(Pixels("rgb"))
    assert found.shape == (REPEATS, 14)
    assert not found[:, 12:].any()


def test_groups_stay_together_and_few_of_them_give_fewer_folds():
    images = ImageStore.from_arrays(torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8), [0, 1] * 6)
    images.groups = [f"place {index // 4}" for index in range(12)]
    judge = Judge(*as_images_with_targets(images, KINDS["class"]), probe="knn", seed=0, device="cpu")
    assert judge.num_folds == 3
    for folds in judge.folds:
        assert all(len({images.groups[index] for index in fold}) * 4 == len(fold) for fold in folds)
    images.groups = ["one"] * 12
    with pytest.raises(ArgumentError, match="no group can be held out"):
        Judge(*as_images_with_targets(images, KINDS["class"]), probe="knn", seed=0, device="cpu")


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 0]])
def test_too_few_labels_are_refused(labels):
    with pytest.raises(ArgumentError, match="at least two of each class, got . classes, the smallest with"):
        judge_of(labels)
