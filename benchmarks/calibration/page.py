"""The page of the calibration: its answer in sentences, and its table."""

from collections.abc import Mapping
from typing import Any

from ssl_pretext.reporting import markdown_table

__all__ = ["COVERAGE", "LIMITS", "sections", "within_limits"]

LIMITS = (0.02, 0.09)  # share of false claims, where there is no difference
COVERAGE = 0.92  # least share of intervals that hold a true difference

Results = Mapping[str, Any]


def sections(results: Results) -> list[str]:
    """Returns the body of the page as parts in Markdown.

    Args:
        results: The results of the calibration.
    """
    found, env = results["calibration"], results["environment"]
    inside = sum(within_limits(row) for row in found)
    missed, alone = ([row[key] for row in found] for key in ("missed", "missed_by_seeds_alone"))
    return [
        f"**A 95% interval of `evaluate` misses the truth in {100 * min(missed):.0f} to {100 * max(missed):.0f}% of "
        f"cases; the usual interval over the seeds alone misses it in {100 * min(alone):.0f} to "
        f"{100 * max(alone):.0f}%.** The interval promises 5%. Within the limits that we set, {100 * LIMITS[0]:.0f} to "
        f"{100 * LIMITS[1]:.0f}% of false claims and at least {100 * COVERAGE:.0f}% of true differences held, are "
        f"{inside} of {len(found)} rows.",
        f"```bash\n{results['command']}\n```",
        f"Photographs: {results['photographs'] or 'none'}. {env['device']}, "
        f"{env['processor']}, {env['cores']} cores, torch {env['torch']}.",
        *METHOD,
        markdown_table(_table(found, env["commit"])),
        *NOTES,
    ]


def within_limits(row: Mapping[str, Any]) -> bool:
    """Whether false claims are neither too frequent nor too rare, or a true difference is held often enough."""
    if row["true_difference"]:
        return bool(1 - row["missed"] >= COVERAGE)
    return bool(LIMITS[0] <= row["missed"] <= LIMITS[1])


METHOD = (
    "In each *world*, labeled images and 1,000 test images (400 for the conv probe) are drawn anew, and `evaluate` "
    "compares two representations with five seeds, unless the row says otherwise. The two are equally good, because "
    "they are made in the same way: the same features, each with its own noise. So each significant difference is a "
    "false claim. In rows with *a true difference*, one of the two has more noise, and the interval must hold the "
    "difference, which is the mean over all worlds. Simulated features are normally distributed around a random center "
    "of each class; those of photographs come from a network that was trained with ImageNet's labels.",
)
NOTES = (
    "*All 20 labels* means that every seed is trained on the same labeled images, as when no budget is given. The "
    "interval then also covers the choice of these images: each seed trains a second probe on its own part of them. "
    "*10 of 20* means that each seed draws ten of twenty images per class, so that seeds share images; with "
    "*10 of 200* they do not.",
    "*One network against untrained draws* is the case that pretraining did nothing: the network is one more random "
    "draw. *A table of 8 tasks* has three pretrainings per task, and none of them does anything; their spreads "
    "are moderated.",
    "The *interval over the seeds alone* is Student's t over the accuracies, or their paired differences. It is what "
    "most tables show. With seeds that all agree, its width is zero.",
    "*Labels*, *numbers*, *mask* and *map* are other kinds of targets: three labels, three numbers, or for each of 8×8 "
    "positions one of three classes or three numbers, which follow from the features up to noise. Each world has 500 "
    "test images. Points are hundredths of the mean average precision, of R² and of the mean intersection over union.",
    "If all labels are used and the probe is a network, or finds neighbors to predict numbers, the intervals are "
    "cautious: probes that are trained on part of few labels vary more than those that are trained on all of them, and "
    "this counts as the choice of labels.",
)


def _table(found: list[dict[str, Any]], commit: str) -> list[dict[str, str]]:
    return [
        {
            "case": row["row"],
            "commit": row.get("commit", commit)[:7],
            "worlds": f"{row['worlds']:,}",
            "true difference, points": f"{100 * row['true_difference']:.1f}",
            "intervals that miss it, %": f"{100 * row['missed']:.1f}",
            "over the seeds alone, %": f"{100 * row['missed_by_seeds_alone']:.1f}",
            "mean half width, points": f"{100 * row['half']:.1f}",
        }
        for row in found
    ]
