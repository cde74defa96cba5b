"""What a report says in sentences: its differences, what their intervals cover, and warnings."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_pretext.probes.controls import BEFORE, UNTRAINED
from ssl_pretext.probes.metrics import ACCURACY, Metric
from ssl_pretext.probes.statistics import Interval, describe_difference
from ssl_pretext.registry import joined

__all__ = [
    "basis",
    "describe_correction",
    "few_steps_warning",
    "is_prediction",
    "networks",
    "share_networks",
    "verdict",
    "warnings",
]

Card = Mapping[str, Any]

FEW_STEPS = 100  # with fewer training steps, a network hardly learns
ENOUGH_PRETRAININGS = 3  # with fewer, nothing is said about pretraining, only about the networks that were compared
WITH_FEW_LABELS = "Use the linear or knn probe with so few labels, or more epochs."
MOST_REPEATED = 0.005  # share of test images that may repeat others without a warning
FALSE_ALARMS = 0.005  # share of test images that may be similar to others by chance; see `data/duplicates.py`
IMBALANCED = 2  # how many times as large as on average the largest class may be without a remark
FEW_COMPARISONS = 3  # tables with more are corrected


def networks(card: Card, name: str) -> int:
    """The number of different networks behind a representation; 0 if it has none, as pixels."""
    return len(_weights(card, name))


def share_networks(card: Card, names: Sequence[str]) -> bool:
    """Whether some of the representations are computed by the same network, as its layers are."""
    return len(set().union(*(_weights(card, name) for name in names))) < sum(networks(card, name) for name in names)


def _weights(card: Card, name: str) -> set[str]:
    """Identifies the networks behind a representation; its layers do not count."""
    described = card["representations"][name]
    return {json.dumps(one["networks"], sort_keys=True) for one in described if "networks" in one}


def is_prediction(card: Card, name: str, reference: str) -> bool:
    """Whether one pretrained network is compared with untrained ones that were drawn for each seed."""
    twin = card["against"].get(name, {}).get(UNTRAINED)
    return bool(reference == twin and networks(card, name) == 1 < networks(card, reference))


def basis(card: Card, name: str, reference: str | None = None) -> str:
    """Says what an interval covers and what was held fixed.

    Args:
        card: The card of the report.
        name: Name of the representation.
        reference: Name of the representation that it is compared with, if any.
    """
    seeds, controls = len(card["seeds"]), card["against"].get(name, {})
    own, other = networks(card, name), 0 if reference is None else networks(card, reference)
    covered, fixed = [], []
    if seeds > 1:
        if own > 1:
            covered.append(f"{own} pretrainings")
        if other > 1:
            covered.append(
                f"{other} {'untrained networks' if reference == controls.get(UNTRAINED) else 'pretrainings'}"
            )
        covered = covered or [f"{seeds} seeds"]
    if card["label_sets"] != "fixed":
        covered.append("labeled images")
    covered.append("test images")
    if own == 1:
        fixed.append("one pretraining")
    given = reference is not None and reference not in (controls.get(UNTRAINED), controls.get(BEFORE))
    if other == 1 and given and not share_networks(card, [name, str(reference)]):
        fixed.append(f"one network as {reference}")
    if seeds == 1:
        fixed.append("one seed")
    if card["label_sets"] == "fixed":
        fixed.append("always the same labeled images")
    return f"over {joined(covered)}" + (f"; {', '.join(fixed)}" if fixed else "")


def verdict(card: Card, name: str, reference: str, found: Interval, metric: Metric = ACCURACY) -> str:
    """Describes a difference; says that pretraining helps only if there are enough pretrainings to say so."""
    kind = "95% prediction interval" if is_prediction(card, name, reference) else "95% interval"
    words = describe_difference(found, reference, basis(card, name, reference), kind=kind, metric=metric)
    if not found.significant or reference != card["against"].get(name, {}).get(UNTRAINED):
        return words
    if networks(card, name) >= ENOUGH_PRETRAININGS:
        better = (found.mean > 0) == metric.higher_is_better
        return f"pretraining {'helps' if better else 'makes it worse'}: {words}"
    return f"this network is {words}"


def describe_correction(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says which of many comparisons are significant after the correction of Holm; nothing for a few comparisons."""
    if len(rows) <= FEW_COMPARISONS:
        return []
    claimed = [row for row in rows if row["significant"]]
    kept = [f"of {row['representation']} from {row['reference']}" for row in claimed if row["p_holm"] < 0.05]
    if not claimed:
        return [f"None of the {len(rows)} differences is significant."]
    if len(kept) == len(claimed):
        return [f"The significant ones of these {len(rows)} differences remain so after the correction of Holm."]
    which = f"only the difference{'s' * (len(kept) > 1)} {joined(kept)}" if kept else "none"
    return [
        f"With {len(rows)} comparisons, some are significant by chance. After the correction of Holm, {which} "
        f"{'remain' if len(kept) > 1 else 'remains'} significant."
    ]


def warnings(card: Card, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what guessing gets, and what makes the accuracies hard to interpret.

    Args:
        card: The card of the report.
        runs: The runs of the report.
    """
    labels = runs[0]["labels"]
    found = _about_targets(card)
    if len(card["seeds"]) == 2:
        found.append(
            "Warning: two seeds show little of the variation between seeds, so that up to one interval in eight misses "
            "the true value. Use three seeds or more."
        )
    found += _about_repeats(card)
    for name, reason in card.get("without_twin", {}).items():
        found.append(
            f"{name} has no untrained control, because {reason}: nothing here shows what training contributed. Pass "
            "networks as FrozenNetwork(network).representation()."
        )
    if diverged := sum(not math.isfinite(run["history"][-1]["test_loss"] or math.nan) for run in runs):
        found.append(f"Warning: {diverged} of {len(runs)} probes diverged; their accuracies mean nothing.")
    if warning := few_steps_warning(card, labels):
        found.append(warning)
    if (edges := sum(run.get("at_edge") is True for run in runs)) > len(runs) / 2:
        found.append(
            f"Warning: {edges} of {len(runs)} probes selected the smallest or the largest weight decay; one beyond "
            "might be better."
        )
    if stopped := sum(run.get("converged") is False for run in runs):
        found.append(f"Warning: {stopped} of {len(runs)} probes stopped before they converged.")
    return found


def _about_targets(card: Card) -> list[str]:
    """Says what guessing gets, how unequal the classes are, and how many images were left out."""
    found = []
    if card["target"] == "class":
        chance, guessed = card["predictable"] / card["classes"], card["guessed"]
        frequent = f"; always naming the most frequent class gets {guessed:.1%}" if guessed > chance else ""
        found.append(f"Guessing one of {card['classes']} classes gets {chance:.1%}{frequent}.")
        if card["largest_class"] > IMBALANCED / card["classes"]:
            found.append(
                f"The classes are imbalanced: {card['largest_class']:.0%} of the test images belong to one of "
                f"{card['classes']}, so that accuracy mostly shows how that one is recognized. "
                'table("balanced_accuracy") gives all classes the same weight.'
            )
    if others := card.get("without_network", {}).get("names"):
        found.append(
            f"{', '.join(others)}: there is no network to train, so a {card['without_network']['probe']} probe was "
            "trained on these features instead."
        )
    if any(card["unlabeled"].values()):
        train, test = card["unlabeled"]["train"], card["unlabeled"]["test"]
        found.append(f"{train:,} training images and {test:,} test images have no target and were left out.")
    return found


def _about_repeats(card: Card) -> list[str]:
    """Says how many test images repeat training images, each other or images of the pretraining."""
    number, repeats = card["test"]["images"], card.get("repeats", {})
    found = []
    if card["seen"] or _similar(card, "train"):
        found.append(f"Warning: {_count(card, 'train', card['seen'])} training images{_examples(card, 'train')}.")
    if card["repeated"] > MOST_REPEATED * number or _similar(card, "test"):
        found.append(
            f"Warning: {_count(card, 'test', card['repeated'])} other test images, so that the intervals are too narrow"
            f"{_examples(card, 'test')}."
        )
    if "pretraining" in repeats and (repeats["pretraining"]["identical"] or _similar(card, "pretraining")):
        counted = _count(card, "pretraining", repeats["pretraining"]["identical"])
        found.append(
            f"{counted} images of the pretraining, whose labels it did not use{_examples(card, 'pretraining')}."
        )
    return found


def _count(card: Card, split: str, identical: int) -> str:
    """The first part of a sentence about the test images that repeat others."""
    similar, of_all = _similar(card, split), f"of {card['test']['images']:,} test images are"
    if not identical:
        return f"{similar:,} {of_all} nearly equal to"
    return f"{identical:,} {of_all} identical" + (f", and {similar:,} nearly equal," if similar else "") + " to"


def _similar(card: Card, split: str) -> int:
    """The number of test images that are nearly equal to others, or 0 if no more than may be so by chance."""
    similar = int(card.get("repeats", {}).get(split, {}).get("similar", 0))
    return similar if similar > FALSE_ALARMS * card["test"]["images"] else 0


def _examples(card: Card, split: str) -> str:
    named = [f"{name} repeats {other}" for name, other in card.get("repeats", {}).get(split, {}).get("examples", [])]
    return f" ({', '.join(named)})" if named else ""


def few_steps_warning(card: Card, labels: int) -> str | None:
    """Returns a warning if a probe that is trained by gradient descent had too few steps to learn, otherwise None.

    Args:
        card: The card of a report.
        labels: Number of labeled images that the probe was trained on.
    """
    if card.get("optimizer") != "AdamW":  # the linear and knn probes do not take such steps
        return None
    steps = card["epochs"] * max(1, labels // card["batch_size"])
    if steps >= FEW_STEPS:
        return None
    return f"Warning: {labels} labels give only {steps} training steps, too few for the {card['probe']} probe. " + (
        "Use more epochs." if card.get("target") in ("mask", "map") else WITH_FEW_LABELS
    )
