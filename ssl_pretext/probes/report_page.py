"""The page of a probe report: the card with the answer, then the pictures, and the tables folded away."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_pretext.probes.controls import BEFORE, REDUCED, SOURCE, UNTRAINED
from ssl_pretext.probes.metrics import ACCURACY, Metric
from ssl_pretext.probes.results import ProbeResults
from ssl_pretext.probes.verdict import FEW_COMPARISONS, networks
from ssl_pretext.registry import joined
from ssl_pretext.reporting.drawings import Drawing, IntervalRow, interval_chart, line_chart, matrix_chart
from ssl_pretext.reporting.page import Section, Verdict
from ssl_pretext.representations.collapse import collapse_warnings, health_rows

__all__ = [
    "card_sections",
    "confusion_section",
    "difference_drawing",
    "interval_drawing",
    "labels_drawing",
    "verdict_card",
]

IN_A_MATRIX = 12  # classes; with more, the most frequent confusions are listed
CONFUSIONS = 12  # listed
# What the controls are, for somebody who has read nothing else.
PLAIN = {
    UNTRAINED: "the same network without any training",
    BEFORE: "the same network with its published weights",
    SOURCE: "the raw channels that the network sees",
    REDUCED: "the pixels of the shrunken images",
}
PLAIN_NAMES = {"pixels rgb": "the raw pixels", "color histogram": "the color histogram"}
PLAIN_FINETUNED = PLAIN | {
    UNTRAINED: "the same network trained from scratch",
    BEFORE: "the same network fine-tuned from its published weights",
}


def verdict_card(results: ProbeResults, name: str | None = None) -> Verdict:
    """Returns the card that says whether a representation is better than all of its controls.

    The answer is *Yes* if it is significantly better than every control, *No* if a control is significantly better, and
    *Not shown* otherwise. What is significant follows `ProbeReport.sentences`: with more than three comparisons, it is
    what remains so after the correction of Holm.

    Args:
        results: The report.
        name: Name of the representation, by default the first one that is no control.

    Raises:
        UnknownNameError: The report has no such representation.

    Examples:
        >>> import torch
        >>> import ssl_pretext as sp
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> network = sp.FrozenNetwork(torch.nn.Conv2d(3, 4, 2)).representation()
        >>> verdict_card(sp.evaluate({"mine": network}, data, data, seeds=2)).answer in ("Yes", "No", "Not shown")
        True
    """
    name = name or next(iter(results.card["against"]), results.names[0])
    every = results.against_controls()
    rows = [row for row in every if row["representation"] == name]
    metric, direction = results.metric(), 1 if results.metric().higher_is_better else -1

    def claimed(row: Mapping[str, Any]) -> bool:
        return row["significant"] and (len(every) <= FEW_COMPARISONS or row["p_holm"] < 0.05)

    better = [row for row in rows if claimed(row) and direction * row["mean"] > 0]
    worse = [row for row in rows if claimed(row) and direction * row["mean"] < 0]
    answer = "No" if worse else "Yes" if rows and len(better) == len(rows) else "Not shown"
    value = _value(results, name)
    gets = f"recognizes {value} of" if metric == ACCURACY else f"has a {metric.label} of {value} on"
    subject = (
        f"{name}, fine-tuned,"
        if _is_finetuned(results)
        else f"the {results.card['probe']} probe on the features of {name}"
    )
    sentences = [f"{_setting(results)}, {subject} {gets} the test images."]
    if not rows:
        sentences.append("It was compared with nothing, so this does not show whether training helped.")
    if worse:
        best = min(worse, key=lambda row: direction * row["mean"])
        reference = _plain(results, name, best["reference"])
        sentences.append(f"{_compared(results, name, best)} That is significantly worse, so use {reference} instead.")
        sentences += _describe_joined(results, best["reference"], claimed)
    elif answer == "Yes":
        strongest = min(better, key=lambda row: direction * row["mean"])
        sentences.append(f"{_compared(results, name, strongest)} No alternative comes closer.")
    else:
        open_rows = [row for row in rows if row not in better]
        sentences += [f"{_compared(results, name, row)} That does not show which is better." for row in open_rows]
        if better:
            beaten = joined([_plain(results, name, row["reference"]) for row in better])
            sentences.append(f"It is significantly better than {beaten}.")
    if networks(results.card, name) == 1 and rows:
        sentences.append("One trained network was judged; training once more may come out differently.")
    return Verdict(
        f"Is {name} better than its simple alternatives?", answer, sentences, interval_drawing(results, name)
    )


def interval_drawing(results: ProbeResults, name: str | None = None) -> Drawing | None:
    """Draws all rows of a report with their intervals on one axis, controls in gray; None if no value is finite.

    Args:
        results: The report.
        name: Name of the representation that is highlighted, by default the first one that is no control.
    """
    against = results.card["against"]
    name = name or next(iter(against), results.names[0])
    controls = set(results.names) - set(against)
    own = set(against) - {joined_row for control in controls for joined_row in _joined_with(results, control)}
    rows = []
    for shown in results.names:
        mean, half = results.shown(shown)
        role = "main" if shown == name else "other" if shown in against else "control"
        label = _plain(results, name, shown) if role == "control" and len(own) == 1 else shown
        rows.append(IntervalRow(label, mean, half, results.text(shown), role))
    if not any(math.isfinite(row.mean) for row in rows):
        return None
    metric = results.metric()
    caption = (
        f"{_capitalized(metric.heading)} ({results.card['probe']} probe). Each bar is a 95% "
        "interval; gray rows are the controls, which every trained network should beat."
    )
    # An interval of a percentage that is hardly known can reach beyond what is possible.
    return interval_chart(rows, caption=caption, limits=(0, 100) if metric == ACCURACY else None)


def labels_drawing(reports: Mapping[int, ProbeResults]) -> Drawing:
    """Draws the main metric of all representations by the number of labels.

    Args:
        reports: The reports by number of labels.
    """
    first = next(iter(reports.values()))
    metric, each = first.metric(), " per class" if first.card["target"] == "class" else ""
    return line_chart(
        {name: [(count, *report.shown(name)) for count, report in reports.items()] for name in first.names},
        x_label=f"labeled images{each}",
        y_label=metric.heading,
        caption=f"{_capitalized(metric.heading)} by number of labeled images{each}, with 95% intervals.",
        log=True,
    )


def difference_drawing(rows: Sequence[Mapping[str, Any]], name: str, amount: str, metric: Metric) -> Drawing:
    """Draws differences of a representation from others with their intervals, beside a line at zero.

    Args:
        rows: Rows of `ProbeReport.difference`.
        name: Name of the representation.
        amount: With which labels, such as `"all labels"`.
        metric: The metric.
    """
    unit = ", in points" if metric.percent else ""
    drawn = []
    for row in rows:
        half = row["ci95"]
        text = metric.text(row["mean"], half, sign=True)
        drawn.append(
            IntervalRow(f"minus {row['reference']}", metric.factor * row["mean"], half and metric.factor * half, text)
        )
    caption = (
        f"{_capitalized(metric.label)} of {name} minus that of each other one with {amount}{unit}. Each bar is a 95% "
        "interval; one that crosses the dashed line at zero shows no difference."
    )
    return interval_chart(drawn, caption=caption, level=0.0)


def confusion_section(results: ProbeResults, name: str | None = None) -> list[Section]:
    """Shows which classes are taken for which; there is no section if the targets are no classes.

    Args:
        results: The report.
        name: Name of the representation, by default the first one that is no control.
    """
    if results.card["target"] != "class":
        return []
    name = name or next(iter(results.card["against"]), results.names[0])
    counts, names = results.confusion(name), results.card["names"]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, math.nan), where=totals > 0)
    heading = "Which classes are confused?"
    if len(names) <= IN_A_MATRIX:
        caption = (
            f"Of the test images of each row's class, the share in percent that {name} puts into each column's class."
        )
        return [Section(heading, drawings=[matrix_chart(shares.tolist(), names, caption=caption)])]
    wrong = np.where(np.eye(len(names), dtype=bool), 0, np.nan_to_num(shares))
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in order]
    rows = [
        {"class": names[i], "is taken for": names[j], "of its test images, %": f"{100 * wrong[i, j]:.0f}"}
        for i, j in pairs
        if wrong[i, j] > 0
    ]
    return [Section(heading, [f"The most frequent confusions of {name}."], rows)] if rows else []


def card_sections(reports: Mapping[str, ProbeResults]) -> list[Section]:
    """The health of the features and the settings, folded away.

    Args:
        reports: Reports by the name of their probe, all on the same features.
    """
    health = next(iter(reports.values())).card["health"]
    cards = json.dumps({probe: report.card for probe, report in reports.items()}, indent=2, ensure_ascii=False)
    return [
        Section("Health of the features", collapse_warnings(health), health_rows(health), collapsed=True),
        Section("Probe cards", ["All settings that determine the results."], code=cards, collapsed=True),
    ]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _setting(results: ProbeResults) -> str:
    """With which labels a probe was trained, as the beginning of a sentence."""
    card = results.card
    if card.get("per_class"):
        labels = f"{card['per_class']} labeled images per class"
    else:
        labels = f"{results.runs[0]['labels']:,} labeled images"
    return f"With {labels}"


def _is_finetuned(results: ProbeResults) -> bool:
    return "without_network" in results.card


def _plain(results: ProbeResults, name: str, reference: str) -> str:
    controls = results.card["against"].get(name, {})
    plain = PLAIN_FINETUNED if _is_finetuned(results) else PLAIN
    known = PLAIN_NAMES.get(reference, reference)
    return next((plain[label] for label, one in controls.items() if one == reference and label in plain), known)


def _value(results: ProbeResults, name: str) -> str:
    return f"{results.text(name)}{'%' if results.metric().percent else ''}"


def _compared(results: ProbeResults, name: str, row: Mapping[str, Any]) -> str:
    metric, reference = results.metric(), row["reference"]
    unit = " points" if metric.percent else ""
    return (
        f"For {_plain(results, name, reference)} it is {_value(results, reference)}, which makes a difference of "
        f"{metric.text(row['mean'], row['ci95'], sign=True)}{unit}."
    )


def _joined_with(results: ProbeResults, reference: str) -> list[str]:
    """The rows whose features are joined with those of a reference."""
    described = {name: ones[0] for name, ones in results.card["representations"].items()}
    return [name for name, one in described.items() if described[reference] in one.get("parts", [])]


def _describe_joined(results: ProbeResults, reference: str, claimed: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """What other features add to a control, if the report has rows of both joined."""
    found, metric = [], results.metric()
    for name in _joined_with(results, reference):
        row = results.difference(name, reference)
        change = f"{metric.text(row['mean'], row['ci95'], sign=True)}{' points' * metric.percent}"
        shown = "" if claimed(row) else ", which does not show that they add anything"
        found.append(f"Joined as {name}, the features change it by {change}{shown}.")
    return found
