"""The experiment's questions, answered in words that follow from the intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_pretext.probes import ProbeReport

__all__ = ["answer_questions"]

NOTICEABLE = 1.0  # a shift of the mean colour below one Lab unit is hardly to be seen


def answer_questions(
    reports: Mapping[str, ProbeReport], quality: Sequence[Mapping[str, Any]], *, latent: str, controls: Sequence[str]
) -> list[dict[str, Any]]:
    """One answer per question of the source: few labels, transfer, skewed colours."""
    return [
        _helps("Do the representations help with few labels?", reports["in"], latent, controls),
        _helps("Do they transfer to classes never seen in pretraining?", reports["out"], latent, controls),
        _skew("Do the colours skew, and where to?", quality),
    ]


def _helps(question: str, report: ProbeReport, latent: str, controls: Sequence[str]) -> dict[str, Any]:
    references = (f"{latent} (untrained)", *controls)
    evidence = [row for name in references for row in report.differences(name) if row["representation"] == latent]
    verdicts = [_verdict(row) for row in evidence]
    wins = [row["reference"] for row in evidence if row["significant"] and row["mean"] > 0]
    if len(wins) == len(evidence):
        lead = "Yes, against every control: "
    elif references[0] in wins:
        lead = "Pretraining helps the encoder, but not against every control: "
    else:
        lead = "Not shown: "
    return {"question": question, "answer": lead + "; ".join(verdicts) + ".", "evidence": evidence}


def _verdict(row: Mapping[str, Any]) -> str:
    mean, half = 100 * row["mean"], row["ci95"]
    if half is None:
        return f"{mean:+.1f} points against {row['reference']} with one seed, so without an interval"
    low, high = mean - 100 * half, mean + 100 * half
    span = f"95% interval {low:+.1f} to {high:+.1f}"
    if not row["significant"]:
        return f"no difference from {row['reference']} that these seeds could show ({mean:+.1f} points, {span})"
    word = "above" if mean > 0 else "below"
    return f"{abs(mean):.1f} points {word} {row['reference']} ({span})"


def _skew(question: str, quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = next(row for row in quality if row["images"] == "validation")
    a, b = row["mean_a"] - row["mean_a_truth"], row["mean_b"] - row["mean_b_truth"]
    leanings = [
        f"towards {positive if shift > 0 else negative} by {abs(shift):.1f} units of Lab {axis}"
        for axis, shift, negative, positive in (("a", a, "green", "red"), ("b", b, "blue", "yellow"))
        if abs(shift) >= NOTICEABLE
    ]
    lean = (
        "On validation images the mean colour leans " + " and ".join(leanings)
        if leanings
        else "On validation images the mean colour stays within one Lab unit of the truth"
    )
    share = row["colorfulness"] / max(row["colorfulness_truth"], 1e-6)
    faded = f"the predictions have {share:.0%} of the true colourfulness"
    yellow = "the predicted mean itself is yellow" if row["mean_b"] > NOTICEABLE else "the predicted mean is not yellow"
    hue = f"{yellow} (b = {row['mean_b']:.1f}, in truth {row['mean_b_truth']:.1f})"
    return {"question": question, "answer": f"{lean}; {faded}; {hue}.", "evidence": dict(row)}
