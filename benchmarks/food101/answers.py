"""The experiment's questions, answered in words that follow from the intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.food101.studies import DOMAINS, LATENT, Findings
from ssl_pretext.probes import ProbeReport
from ssl_pretext.probes.report import difference_row

__all__ = ["answer_questions"]

NOTICEABLE = 1.0  # a shift of the mean color below one Lab unit is hardly to be seen


def answer_questions(findings: Findings, quality: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One answer per question of the source, then one per idea that it leaves to others."""
    answers = []
    for domain, question in (
        ("in", "Do the representations help with few labels?"),
        ("out", "Do they transfer to classes never seen in pretraining?"),
    ):
        asked = [(study, findings.reports[study][domain]) for study in ("conv", "linear") if study in findings.reports]
        if asked:
            answers.append(_answer(question, [_helps(study, report, LATENT) for study, report in asked]))
    answers.append(_skew("Do the colors skew, and where to?", quality))
    if best := findings.layer():
        parts = [_layers(domain, report, best) for domain, report in findings.reports["linear"].items()]
        answers.append(_answer("Do other layers than the latent represent more?", parts))
    for study, question in (
        ("regularized", "Does a nuclear norm on the classifier's weights help?"),
        ("resnet", "Does a stronger classifier help?"),
    ):
        if study in findings.reports and "conv" in findings.reports:
            parts = [
                _instead(domain, report, findings.reports["conv"][domain])
                for domain, report in findings.reports[study].items()
            ]
            answers.append(_answer(question, parts))
    return answers


Part = tuple[str, list[dict[str, Any]]]


def _answer(question: str, parts: Sequence[Part]) -> dict[str, Any]:
    evidence = [row for _, rows in parts for row in rows]
    return {"question": question, "answer": "\n".join(words for words, _ in parts), "evidence": evidence}


def _helps(study: str, report: ProbeReport, name: str) -> Part:
    controls = report.card["against"][name]
    rows = [report.difference(name, control) for control in controls.values()]
    ahead = [row["reference"] for row in rows if row["significant"] and row["mean"] > 0]
    if len(ahead) == len(rows):
        lead = "yes, against every control"
    elif controls["untrained"] in ahead:
        lead = "pretraining helps the encoder, but not against every control"
    else:
        lead = "not shown"
    return _listed(f"{study.capitalize()} probe: {lead}.", rows), rows


def _layers(domain: str, report: ProbeReport, best: str) -> Part:
    row = report.difference(best, LATENT)
    found = _helps("linear", report, best)[1]
    lead = f"{DOMAINS[domain].capitalize()}, {best}, chosen on held-out training images:"
    return _listed(lead, [row, *found]), [row, *found]


def _instead(domain: str, report: ProbeReport, documented: ProbeReport) -> Part:
    rows = []
    for name in report.card["against"]:
        row = difference_row(name, report.accuracies(name), "the documented probe", documented.accuracies(name))
        rows.append(row | {"words": f"{name}: {row['words']}"})
    return _listed(f"{DOMAINS[domain].capitalize()}:", rows), rows


def _listed(lead: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n- ".join([lead, *(row["words"] for row in rows)])


def _skew(question: str, quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = next(row for row in quality if row["images"] == "validation")
    a, b = row["mean_a"] - row["mean_a_truth"], row["mean_b"] - row["mean_b_truth"]
    leanings = [
        f"toward {positive if shift > 0 else negative} by {abs(shift):.1f} units of Lab {axis}"
        for axis, shift, negative, positive in (("a", a, "green", "red"), ("b", b, "blue", "yellow"))
        if abs(shift) >= NOTICEABLE
    ]
    lean = (
        "On validation images the mean color leans " + " and ".join(leanings)
        if leanings
        else "On validation images the mean color stays within one Lab unit of the truth"
    )
    share = row["colorfulness"] / max(row["colorfulness_truth"], 1e-6)
    faded = f"the predictions have {share:.0%} of the true colorfulness"
    yellow = "the predicted mean itself is yellow" if row["mean_b"] > NOTICEABLE else "the predicted mean is not yellow"
    hue = f"{yellow} (b = {row['mean_b']:.1f}, in truth {row['mean_b_truth']:.1f})"
    return {"question": question, "answer": f"{lean}; {faded}; {hue}.", "evidence": dict(row)}
