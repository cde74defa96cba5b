"""The questions of the experiment and their answers, in sentences that follow from the confidence intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.food101.studies import DOMAINS, LATENT, Findings
from ssl_pretext.probes import ProbeReport

__all__ = ["answer_questions"]

NOTICEABLE = 1.0  # in units of Lab; a smaller shift of the mean color is hardly visible


def answer_questions(findings: Findings, quality: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers the three questions of the source, then one question for each idea that the source suggests.

    Args:
        findings: The results of the studies.
        quality: The color quality on training, validation and excluded images.
    """
    answers = []
    for domain, question in (
        ("in", "Do the representations help when there are few labels?"),
        ("out", "Do the representations transfer to classes never seen in pretraining?"),
    ):
        asked = [(study, findings.reports[study][domain]) for study in ("conv", "linear") if study in findings.reports]
        if asked:
            answers.append(_answer(question, [_helps(study, report, LATENT) for study, report in asked]))
    answers.append(_color_bias("Are the predicted colors biased, and toward what?", quality))
    if best := findings.best_layer():
        parts = [_layers(domain, report, best) for domain, report in findings.reports["linear"].items()]
        answers.append(_answer("Do other layers represent more than the latent?", parts))
    for study, question in (
        ("regularized", "Does a nuclear norm on the classifier's weights help?"),
        ("resnet", "Does a stronger classifier help?"),
    ):
        if study in findings.reports and "conv" in findings.reports:
            parts = [
                _alternative_probe(domain, report, findings.reports["conv"][domain])
                for domain, report in findings.reports[study].items()
            ]
            answers.append(_answer(question, parts))
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


def _color_bias(question: str, quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compares the mean color and the colorfulness of the predictions with those of the true colors."""
    row = next(row for row in quality if row["images"] == "validation")
    a, b = row["mean_a"] - row["mean_a_truth"], row["mean_b"] - row["mean_b_truth"]
    shifts = [
        f"toward {positive if shift > 0 else negative} by {abs(shift):.1f} units of Lab {axis}"
        for axis, shift, negative, positive in (("a", a, "green", "red"), ("b", b, "blue", "yellow"))
        if abs(shift) >= NOTICEABLE
    ]
    if shifts:
        bias = "On validation images, the mean predicted color is shifted " + " and ".join(shifts)
    else:
        bias = "On validation images, the mean predicted color is within one Lab unit of the true mean"
    fraction = row["colorfulness"] / max(row["colorfulness_truth"], 1e-6)
    yellow = "is yellow" if row["mean_b"] > NOTICEABLE else "is not yellow"
    sentences = (
        f"{bias}.",
        f"The predictions have {fraction:.0%} of the true colorfulness.",
        f"The mean predicted color {yellow} (b = {row['mean_b']:.1f}; the true mean has {row['mean_b_truth']:.1f}).",
    )
    return {"question": question, "answer": " ".join(sentences), "evidence": dict(row)}
