import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from ssl_pretext.data import ImageStore, holdout_split
from ssl_pretext.data.splits import split_role, stated_split
from ssl_pretext.errors import ArgumentError

LABELED_GROUPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60)


def store_of(labels, **known):
    pixels = np.zeros((len(labels), 1, 2, 2), np.uint8)
    classes = [str(i) for i in range(max(labels) + 1)]
    return ImageStore(pixels, labels, classes, [f"image {i}" for i in range(len(labels))], **known)


def can_be_held_out(labels, groups):
    """Whether some group leaves other images of each of its classes."""
    sizes = Counter(labels)
    return any(
        all(Counter(k for k, g in zip(labels, groups, strict=True) if g == group)[k] < sizes[k] for k in sizes)
        for group in groups
    )


@given(LABELED_GROUPS, st.floats(0.05, 0.6), st.integers(0, 5), st.randoms())
def test_a_group_is_never_on_both_sides_and_the_order_of_images_does_not_matter(images, fraction, seed, random):
    labels, groups = [label for label, _ in images], [f"group {group}" for _, group in images]
    names = [f"image {i}" for i in range(len(images))]
    try:
        kept, held_out = holdout_split(names, labels, groups=groups, fraction=fraction, seed=seed)
    except ArgumentError:
        assert not can_be_held_out(labels, groups)
        return
    assert sorted(kept + held_out) == list(range(len(images)))
    assert held_out
    assert not {groups[i] for i in kept} & {groups[i] for i in held_out}
    repeated = {label for label in labels if labels.count(label) > 1}
    assert {labels[i] for i in kept} >= {k for k in repeated if round(fraction * labels.count(k)) < labels.count(k)}
    order = list(range(len(images)))
    random.shuffle(order)
    shuffled = holdout_split(
        [names[i] for i in order], [labels[i] for i in order], groups=[groups[i] for i in order], fraction=fraction,
        seed=seed,
    )  # fmt: skip
    assert {order[i] for i in shuffled[1]} == set(held_out)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_images_that_stand_alone_are_held_out_by_their_rank_within_the_class(labels, fraction, seed):
    names = [f"image {i}" for i in range(len(labels))]
    expected = set()
    for label in set(labels):
        members = [name for name, other in zip(names, labels, strict=True) if other == label]
        ranked = sorted(members, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        expected.update(ranked[: max(round(fraction * len(members)), int(len(members) > 1))])
    for groups in (None, names):
        if groups is None or expected:
            _, held_out = holdout_split(names, labels, groups=groups, fraction=fraction, seed=seed)
            assert {names[i] for i in held_out} == expected


def test_groups_are_stratified_nearly_as_by_scikit_learn():
    ours, others = [], []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), draw.integers(3, 25, 60))
        labels = np.where(draw.random(len(groups)) < 0.7, groups % 3, draw.integers(0, 3, len(groups)))
        store = store_of(labels.tolist(), groups=[f"g{group}" for group in groups])
        train, test = store.split(0.2, seed=seed)
        assert {*train.groups} ^ {*test.groups} == {*store.groups}
        _, other = next(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups))
        for errors, held_out in ((ours, test.labels.numpy()), (others, labels[other])):
            errors.append(np.abs(np.bincount(held_out) / np.bincount(labels) - 0.2).max())
    assert np.mean(ours) < min(np.mean(others) + 0.01, 0.02)


def test_a_class_of_few_large_groups_is_still_tested():
    labels, groups = [0] * 30 + [1] * 30, [f"g{i // 10}" for i in range(60)]
    _, test = store_of(labels).split(0.1, groups=groups)
    assert np.bincount(test.labels).tolist() == [10, 10]
    with pytest.raises(ArgumentError, match="no group can be held out, because each has all images of a class"):
        store_of([0, 0, 1, 1]).split(0.5, groups=["a", "a", "b", "b"])


def test_a_split_of_a_store_is_that_of_its_names_and_labels():
    store = store_of([0, 1] * 20)
    kept, held_out = holdout_split(store.names, store.labels, fraction=0.3, seed=4)
    train, test = store.split(0.3, seed=4)
    assert (train.names, test.names) == ([store.names[i] for i in kept], [store.names[i] for i in held_out])
    assert len(store.split()[1]) == 4
    with pytest.raises(ArgumentError, match=r"for an ImageStore, store.split\(0.1\) returns both parts"):
        holdout_split(store)
    with pytest.raises(ArgumentError, match="there are 40 images and 1 groups"):
        store.split(groups=["a"])
    with pytest.raises(ArgumentError, match="the group of 39 of 40 images is missing, such as that of image 1"):
        store.split(groups=["a"] + [""] * 39)
    with pytest.raises(ArgumentError, match="must be between 0 and 1, got 0"):
        store.split(0.0)


def test_a_stated_split_is_used_and_validation_images_are_left_out():
    splits = ["train", "val", "test", "train"]
    train, test = store_of([0, 1, 0, 1], splits=splits).split()
    assert (train.names, test.names) == (["image 0", "image 3"], ["image 2"])
    assert train.splits == ["train", "train"]
    assert stated_split(["val", "train"]) == ([1], [0])
    assert len(store_of([0, 1, 0, 1], splits=splits).split(0.5)[1]) == 2
    with pytest.raises(ArgumentError, match="needs images for training and for testing; it has 2 val"):
        stated_split(["val", "val"])


def test_a_group_on_both_sides_of_a_stated_split_is_logged(caplog):
    assert stated_split(["train", "test", "test"], ["a", "a", "b"]) == ([0], [1, 2])
    assert "1 of 2 groups have images for training and for testing, such as a;" in caplog.text
    caplog.clear()
    stated_split(["train", "test", "test"], ["a", "b", "b"])
    assert not caplog.text


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("train", ["train", "TRAIN", "training", "train2017", "seg_train"]),
        ("val", ["val", "valid", "validation", "dev"]),
        ("test", ["test", "testing", "eval", "holdout"]),
        (None, ["trainer", "latest", "0", "unlabeled"]),
    ],
)
def test_roles_of_splits(role, names):
    assert [split_role(name) for name in names] == [role] * len(names)
