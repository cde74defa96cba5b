"""What a report says in sentences: its differences, what their intervals cover, and warnings."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_pretext.probes.controls import UNTRAINED
from ssl_pretext.probes.statistics import Interval, describe_difference

__all__ = ["basis", "describe_correction", "few_steps_warning", "is_prediction", "networks", "verdict", "warnings"]

Card = Mapping[str, Any]

FEW_STEPS = 100  # with fewer training steps, a network hardly learns
ENOUGH_PRETRAININGS = 3  # with fewer, nothing is said about pretraining, only about the networks that were compared
FEW_COMPARISONS = 3  # tables with more are corrected


def networks(card: Card, name: str) -> int:
    """The number of different networks behind a representation; 0 if it has none, as pixels."""
    described = card["representations"][name]
    return len(described) if "networks" in described[0] else 0


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
    seeds, twin = len(card["seeds"]), card["against"].get(name, {}).get(UNTRAINED)
    counts = [networks(card, one) for one in (name, reference) if one is not None]
    covered, fixed = [], []
    if seeds > 1:
        if counts[0] > 1:
            covered.append(f"{counts[0]} pretrainings")
        if reference is not None and counts[1] > 1:
            covered.append(f"{counts[1]} {'untrained networks' if reference == twin else 'pretrainings'}")
        covered = covered or [f"{seeds} seeds"]
    if card["label_sets"] != "fixed":
        covered.append("labeled images")
    covered.append("test images")
    if 1 in counts:
        fixed.append("one pretraining")
    if seeds == 1:
        fixed.append("one seed")
    if card["label_sets"] == "fixed":
        fixed.append("one set of labeled images")
    *others, last = covered
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"over {listed}" + (f"; {', '.join(fixed)}" if fixed else "")


def verdict(card: Card, name: str, reference: str, found: Interval) -> str:
    """Describes a difference; says that pretraining helps only if there are enough pretrainings to say so."""
    words = describe_difference(found, reference, basis(card, name, reference))
    if not found.significant or reference != card["against"].get(name, {}).get(UNTRAINED):
        return words
    if networks(card, name) >= ENOUGH_PRETRAININGS:
        return f"pretraining {'helps' if found.mean > 0 else 'does harm'}: {words}"
    return f"this network is {words}"


def describe_correction(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says which of many comparisons are significant after the correction of Holm; nothing for a few comparisons."""
    if len(rows) <= FEW_COMPARISONS:
        return []
    claimed = [row for row in rows if row["significant"]]
    kept = [f"{row['representation']} and {row['reference']}" for row in claimed if row["p_holm"] < 0.05]
    which = f": {'; '.join(kept)}" if kept else ""
    return [
        f"There are {len(rows)} comparisons, so some may be significant by chance: {len(claimed)} are significant each "
        f"by itself, {len(kept)} after the correction of Holm{which}."
    ]


def warnings(card: Card, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what guessing gets, and what makes the accuracies hard to interpret.

    Args:
        card: The card of the report.
        runs: The runs of the report.
    """
    labels = runs[0]["labels"]
    chance, guessed = 1 / card["classes"], card["guessed"]
    frequent = f"; always naming the most frequent class gets {guessed:.1%}" if guessed > chance else ""
    found = [f"Guessing one of {card['classes']} classes gets {chance:.1%}{frequent}."]
    if len(card["seeds"]) == 2:
        found.append(
            "Warning: two seeds show little of the variation between seeds, so that up to one interval in eight misses "
            "the true value. Use three seeds or more."
        )
    if seen := card["seen"]:
        number = card["test"]["images"]
        found.append(f"Warning: {seen:,} of {number:,} test images are identical to training images.")
    if warning := few_steps_warning(card, labels):
        found.append(warning)
    if stopped := sum(run.get("converged") is False for run in runs):
        found.append(f"Warning: {stopped} of {len(runs)} probes stopped before they converged.")
    return found


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
    return (
        f"Warning: {labels} labels give only {steps} training steps, too few for the {card['probe']} probe. Use the "
        "linear or knn probe with so few labels, or more epochs."
    )
