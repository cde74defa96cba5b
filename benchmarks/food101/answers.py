"""The questions of the experiment and their answers, in sentences that follow from the confidence intervals."""

import math
import operator
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.food101.studies import DOMAINS, LATENT, PIXELS, Findings
from ssl_pretext.color_metrics import HUES
from ssl_pretext.probes import ProbeReport
from ssl_pretext.registry import joined

__all__ = ["answer_questions"]

NOTICEABLE = 1.0  # in units of Lab; a smaller shift of the mean color is hardly visible
# Measures of the distance from the true images: the name, whether larger (1) or smaller (-1) is closer, and the digits.
DISTANCES = {
    "psnr": ("PSNR", 1, 1),
    "ssim": ("SSIM", 1, 3),
    "lpips": ("LPIPS", -1, 3),
    "auc_raw": ("AuC", 1, 3),
    "auc_rebalanced": ("rebalanced AuC", 1, 3),
}


def answer_questions(
    findings: Findings, quality: Sequence[Mapping[str, Any]], losses: Iterable[str]
) -> list[dict[str, Any]]:
    """Judges the three conclusions of the source, its evidence, its remark about yellow, and its ideas.

    Args:
        findings: The results of the studies.
        quality: The color quality on training, validation and excluded images.
        losses: Names of the losses of pretraining.
    """
    answers = [_colorizes(f"Conclusion 1: do the losses ({', '.join(losses)}) colorize well?", quality)]
    for domain, question in (
        ("in", "Conclusion 2: do the representations raise the accuracy with few labels, in training and validation?"),
        ("out", "Conclusion 3: do they carry over to classes never seen in pretraining?"),
    ):
        asked = [(study, findings.reports[study][domain]) for study in ("conv", "linear") if study in findings.reports]
        if asked:
            parts = [_helps(study, report, LATENT) for study, report in asked]
            if "conv" in findings.reports:
                parts.append(_in_training(findings.reports["conv"][domain]))
            answers.append(_answer(question, parts))
    if "conv" in findings.reports:
        answers.append(_lower_loss("The source's evidence: is the loss lower on the latent?", findings.reports["conv"]))
    answers.append(
        _color_bias("The source's remark that yellow dominates: how are the predicted colors biased?", quality)
    )
    if best := findings.best_layer():
        parts = [_layers(domain, report, best) for domain, report in findings.reports["linear"].items()]
        answers.append(_answer("Idea: do other layers represent more than the latent?", parts))
    for study, question in (
        ("regularized", "Idea: does a nuclear norm on the classifier's weights help?"),
        ("resnet", "Idea: does a stronger classifier help?"),
    ):
        if study in findings.reports and "conv" in findings.reports:
            parts = [
                _alternative_probe(domain, report, findings.reports["conv"][domain])
                for domain, report in findings.reports[study].items()
            ]
            answers.append(_answer(question, parts))
    answers.append(_ideas("Where are the source's four ideas for further work tested?", findings))
    return answers


Part = tuple[str, list[dict[str, Any]]]  # the text of a part of an answer, and the differences behind it


def _answer(question: str, parts: Sequence[Part]) -> dict[str, Any]:
    evidence = [row for _, rows in parts for row in rows]
    return {"question": question, "answer": "\n".join(text for text, _ in parts), "evidence": evidence}


def _helps(study: str, report: ProbeReport, name: str) -> Part:
    """Says whether a representation is better than its controls."""
    controls = report.card["against"][name]
    rows = [report.difference(name, control) for control in controls.values()]
    below = [row["reference"] for row in rows if row["significant"] and row["mean"] > 0]
    if len(below) == len(rows):
        verdict = "better than every control"
    elif controls["untrained"] in below:
        verdict = "better than the untrained encoder, but not better than every control"
    else:
        verdict = "not shown to be better than the untrained encoder"
    return _listed(f"{study.capitalize()} probe: {verdict}.", rows), rows


def _layers(domain: str, report: ProbeReport, best: str) -> Part:
    """Compares the best layer with the latent and with its controls."""
    row = report.difference(best, LATENT)
    found = _helps("linear", report, best)[1]
    lead = f"{DOMAINS[domain].capitalize()}, layer {best} (selected on held-out training images):"
    return _listed(lead, [row, *found]), [row, *found]


def _alternative_probe(domain: str, report: ProbeReport, documented: ProbeReport) -> Part:
    """Compares another probe with the documented one on the same representations."""
    rows = []
    for name in report.card["against"]:
        row = report.difference(name, name, of=documented)
        rows.append(row | {"words": f"{name}: {row['words']}"})
    return _listed(f"{DOMAINS[domain].capitalize()}:", rows), rows


def _listed(lead: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n- ".join([lead, *(row["words"] for row in rows)])


def _in_training(report: ProbeReport) -> Part:
    """Gives the accuracies of the conv probe on the labeled images that it was trained on."""
    names = (LATENT, PIXELS, report.card["against"][LATENT]["untrained"])
    means = [f"{statistics.fmean(_final(report, name, 'train_accuracy')):.1%} on {name}" for name in names]
    return f"Conv probe on its own training images: {joined(means)}.", []


def _lower_loss(question: str, reports: Mapping[str, ProbeReport]) -> dict[str, Any]:
    """Compares the final losses of the conv probe on the latent with those on RGB pixels, as the source does."""
    rows: list[dict[str, Any]] = []
    for domain, report in reports.items():
        untrained = report.card["against"][LATENT]["untrained"]
        for name, key in (("test", "test_loss"), ("training", "train_loss")):
            latent, pixels, random = (_final(report, which, key) for which in (LATENT, PIXELS, untrained))
            row: dict[str, Any] = {"domain": domain, "loss": name, "latent": statistics.fmean(latent)}
            row |= {"pixels": statistics.fmean(pixels), "untrained": statistics.fmean(random)}
            rows.append(row | {"lower": sum(map(operator.lt, latent, pixels)), "runs": len(latent)})
    found = [DOMAINS[row["domain"]] for row in rows if row["loss"] == "test" and row["lower"] == row["runs"]]
    verdict = f"reproduced {' and '.join(found)}" if found else "not reproduced"
    lead = (
        "The source's evidence is a lower loss on the latent than on RGB pixels. On test images, this is "
        f"{verdict}. Final losses of the conv probe, means over the runs:"
    )
    words = [
        f"{DOMAINS[row['domain']]}, {row['loss']} images: {row['latent']:.3f} on the latent, {row['pixels']:.3f} on "
        f"RGB pixels (lower on the latent in {row['lower']} of {row['runs']} runs), {row['untrained']:.3f} on the "
        "untrained latent"
        for row in rows
    ]
    return {"question": question, "answer": "\n- ".join([lead, *words]), "evidence": rows}


def _final(report: ProbeReport, name: str, key: str) -> list[float]:
    """The last values of a training history, one per run."""
    values = [run["history"][-1][key] for run in report.runs if run["representation"] == name]
    # JSON has no NaN: a loss that is not finite is stored as null.
    return [math.nan if value is None else value for value in values]


def _ideas(question: str, findings: Findings) -> dict[str, Any]:
    """Lists the source's ideas for further work with the place where each is tested."""
    ideas = (
        ("other layers than the latent", "linear"),
        ("a regularizer on the classifier", "regularized"),
        ("a stronger classifier", "resnet"),
    )
    tested = [
        f"{idea}: study `{study}`, {'in' if study in findings.reports else 'not in'} this run" for idea, study in ideas
    ]
    colors = "colors as classes, with rebalanced classes and the annealed mean: `python -m benchmarks.color_losses`"
    return {"question": question, "answer": "\n- ".join(["By idea:", *tested, colors]), "evidence": []}


def _colorizes(question: str, quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compares the predictions with gray images, by all measures of the distance from the true colors."""
    predicted, gray = (_validation_row(quality, colors) for colors in ("predicted", "gray"))
    closer: list[str] = []
    others: list[str] = []
    for key, (name, sign, digits) in DISTANCES.items():
        if key in predicted:
            words = f"{name} ({predicted[key]:.{digits}f}; gray {gray[key]:.{digits}f})"
            (closer if sign * predicted[key] > sign * gray[key] else others).append(words)
    lead = (
        'The source does not say what "well" means. Here, the predictions must be closer to the true images than gray '
        "images, which have no color but the exact lightness. On validation images, they are "
    )
    parts = [f"closer by {joined(closer)}"] if closer else []
    parts += [f"not closer by {joined(others)}"] if others else []
    verdict = ", but ".join(parts)
    note = " AuC compares colors alone; the other measures compare whole images, with their lightness."
    return {"question": question, "answer": f"{lead}{verdict}.{note}", "evidence": [dict(predicted), dict(gray)]}


def _color_bias(question: str, quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compares mean color, colorfulness and hues of the predictions with those of the true colors."""
    row = _validation_row(quality, "predicted")
    shifts = [_shift(row, "a", "green", "red"), _shift(row, "b", "blue", "yellow")]
    fraction = row["colorfulness"] / max(row["colorfulness_truth"], 1e-6)
    sentences = [
        f"On validation images, the mean predicted color is {' and '.join(shifts)}.",
        f"The predictions have {fraction:.0%} of the true colorfulness.",
    ]
    return {"question": question, "answer": " ".join([*sentences, *_hues(row)]), "evidence": dict(row)}


def _shift(row: Mapping[str, Any], axis: str, negative: str, positive: str) -> str:
    """Says how the predicted mean of an axis of Lab differs from the true mean."""
    mean, truth = row[f"mean_{axis}"], row[f"mean_{axis}_truth"]
    values = f"({axis} = {mean:.1f}; the true mean has {truth:.1f})"
    color = positive if truth > 0 else negative
    if abs(mean - truth) < NOTICEABLE:
        return f"as {color} as the true mean within one unit of Lab {values}"
    return f"{'more' if (mean > truth) == (truth > 0) else 'less'} {color} by {abs(mean - truth):.1f} units {values}"


def _hues(row: Mapping[str, Any]) -> list[str]:
    """Says which hues colored pixels have, which dominates, and which the predictions favor and lack."""
    predicted, true = ({hue: row[f"hue_{hue}{suffix}"] for hue in HUES} for suffix in ("", "_truth"))
    change = {hue: 100 * (predicted[hue] - true[hue]) for hue in HUES}
    most, most_true = (max(shares, key=shares.__getitem__) for shares in (predicted, true))
    gained, lost = max(change, key=change.__getitem__), min(change, key=change.__getitem__)
    shares = [
        f"{predicted[hue]:.1%} {'are ' if not i else ''}{hue} ({'true images: ' if not i else ''}{true[hue]:.1%})"
        for i, hue in enumerate(HUES)
    ]
    return [
        f"{row['colored']:.0%} of the pixels are colored (true images: {row['colored_truth']:.0%}).",
        f"Of these, {joined(shares)}.",
        f"The dominant hue is {most}{' in both' if most == most_true else f'; in the true images it is {most_true}'}.",
        f"The share of {gained} is the most exaggerated ({change[gained]:+.1f} points), and that of {lost} is reduced "
        f"the most ({change[lost]:+.1f} points).",
    ]


def _validation_row(quality: Sequence[Mapping[str, Any]], colors: str) -> Mapping[str, Any]:
    return next(row for row in quality if (row["images"], row["colors"]) == ("validation", colors))
