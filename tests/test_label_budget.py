"""Label budgets: which labeled images are used with a seed."""

import logging

import pytest
import torch
from probing import noise, recorded_batches
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.label_budget import LabelBudget


@pytest.fixture(autouse=True)
def no_estimate(caplog):
    """The time of a probe is estimated by training one, which would be recorded, if somebody sees the estimate."""
    caplog.set_level(logging.WARNING, "ssl_pretext.probes.time_estimate")


def test_label_fraction_draws_the_same_fraction_of_each_class() -> None:
    _, batches = recorded_batches({"narrow": 1, "wide": 5}, seeds=[0, 1], label_fraction=0.2)
    first, first_again, second, second_again = map(sorted, batches)
    assert (first, second) == (first_again, second_again)
    assert first != second
    for chosen in (first, second):
        assert sum(i % 3 == 0 for i in chosen) == 10
        assert sum(i % 3 != 0 for i in chosen) == 20


def test_label_fraction_uses_at_least_one_image_of_each_class() -> None:
    _, batches = recorded_batches({"one": 1}, seeds=1, label_fraction=0.001)
    assert sorted(i % 3 == 0 for i in batches[0]) == [False, True]


def test_a_budget_is_a_subset_of_a_larger_one_and_the_same_for_all_representations() -> None:
    class Recorder(nn.Module):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.classify = nn.Linear(channels, classes)

        def forward(self, features: Tensor) -> Tensor:
            if self.training:
                recorded.append({int(value) for value in features[:, 0, 0, 0]})
            return self.classify(features.mean(dim=(2, 3)))

    images = torch.arange(24, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    data = (images, [i % 3 for i in range(24)])
    representations = {name: sp.Representation(name, lambda x: x.float()[:, :1]) for name in ("one", "other")}
    recorded: list[set[int]] = []
    training = sp.probes.ProbeConfig(standardize=False)
    options = {"probe": Recorder, "training": training, "epochs": 1, "seeds": 2, "controls": False}
    curve = sp.label_efficiency(representations, data, data, per_class=[4, 1, 2], **options)
    assert list(curve.reports) == [1, 2, 4]
    assert [len(values) for values in recorded] == [3, 6, 12] * 4
    for one, other in zip(recorded[:3], recorded[3:6], strict=True):
        assert one == other
    assert recorded[0] < recorded[1] < recorded[2]
    assert recorded[0] != recorded[6], "another seed must draw other labels"
    assert {value % 3 for value in recorded[0]} == {0, 1, 2}


def test_budgets_that_cannot_be_met_are_rejected() -> None:
    pixels, data = {"pixels": sp.Pixels("rgb")}, noise([0, 1, 2] * 4)
    with pytest.raises(ArgumentError, match=r"'a' has 4 labeled images, fewer than per_class=5"):
        sp.evaluate(pixels, data, data, per_class=5)
    with pytest.raises(ArgumentError, match=r"per_class or label_fraction, not both; got per_class=2 and .*=0\.5"):
        sp.evaluate(pixels, data, data, per_class=2, label_fraction=0.5)
    with pytest.raises(ArgumentError, match=r"must have no number twice, got \[2, 2\]"):
        sp.label_efficiency(pixels, data, data, per_class=[2, 2])


# Labels that seeds share


@pytest.mark.parametrize(
    ("counts", "per_class", "seeds", "kind", "parts"),
    [
        ([20, 20], 4, 5, "disjoint", 0),
        ([20, 20], 5, 5, "parts", 5),
        ([20, 20], None, 5, "parts", 5),
        ([20, 20], None, 1, "fixed", 0),
        ([3, 3], None, 5, "parts", 3),
        ([20, 1], None, 5, "fixed", 0),  # nothing shows what another image of the second class would change
        ([20] * 9 + [1], None, 5, "parts", 5),  # one class in ten may be that small
    ],
)
def test_seeds_share_as_few_labels_as_possible(
    counts: list[int], per_class: int | None, seeds: int, kind: str, parts: int
) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    found = LabelBudget(per_class=per_class).draw(labels, range(seeds))
    assert (found.kind, len(found.parts)) == (kind, parts)
    assert len(found.full) == seeds
    for chosen in found.full:
        used = labels[chosen].bincount(minlength=len(counts)).tolist()
        assert used == [count if per_class is None else per_class for count in counts]
    if kind == "disjoint":
        assert len(torch.cat(found.full).unique()) == sum(map(len, found.full))
    big = [label for label, count in enumerate(counts) if count >= max(parts, 2)]
    of_big = [part[torch.isin(labels[part], torch.tensor(big))] for part in found.parts]
    assert sum(map(len, of_big)) == len({int(i) for part in of_big for i in part}), "parts are disjoint"


def test_seeds_that_must_share_labels_share_them_evenly() -> None:
    found = LabelBudget(per_class=10).draw(torch.zeros(20, dtype=torch.long), range(5))
    times = torch.cat(found.full).bincount(minlength=20)
    assert set(times.tolist()) == {2, 3}, "50 uses of 20 images"
