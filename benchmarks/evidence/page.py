"""The results page of a study: what helped, by how much, and at what cost."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.finetuning.page import FINETUNING_EPOCHS
from benchmarks.report_tables import machine
from ssl_pretext.probes import LabelEfficiency, ProbeReport, holm, mean_interval
from ssl_pretext.reporting import markdown_table

__all__ = ["sections"]

Results = Mapping[str, Any]
# What is judged, the number of labels per class, and a difference of their report.
Difference = tuple[str, int, ProbeReport, Results]


def sections(results: Results) -> list[str]:
    """The body of the page."""
    found, settings = results["evidence"], results["settings"]
    counts, kinds = found["counts"], _reports(found)
    first = next(iter(next(iter(kinds.values())).values()))
    parts = [
        f"Data: {results['about']} {counts['pretraining']:,} images are pretrained on and labels are drawn from them; "
        f"{counts['test']:,} are test images.",
        f"```bash\n{results['command']}\n```",
        f"{machine(results['environment'])} "
        f"`{settings['encoder']}`, batches of {settings['batch_size']} images, AdamW with learning rate "
        f"{settings['learning_rate']:g}, falling to zero along a cosine. {len(first.card['seeds'])} pretrainings of "
        "each row. Intervals are of 95% and cover pretrainings, labeled images and test images together.",
        "## What pretraining adds",
        _answer(kinds, found["compared"]),
        "## Accuracy by number of labels per class, %",
    ]
    for kind, reports in kinds.items():
        parts += [f"### {kind}"] if kind else []
        parts.append(LabelEfficiency(reports).table())
        parts += [
            f"### {_with(count, kind)}, and points above each control\n\n{report.table()}"
            for count, report in reports.items()
        ]
    if "finetuned" in found:
        parts += ["## Fine-tuned: the network is trained further on the labeled images", *_finetuned(found)]
    if "predicted" in found:
        parts += ["## How good is the prediction?", _predicted(found["predicted"])]
    parts += [
        "## What pretraining costs",
        markdown_table(_costs(found)),
        "Seconds of one pretraining on all processors together, on the machine named above.",
    ]
    if tried := results.get("tried"):
        parts += [
            "## What makes the difference?",
            _tried(tried),
            markdown_table(_effects(tried)),
        ]
    return parts


def _reports(found: Results) -> dict[str, dict[int, ProbeReport]]:
    """The reports by what the judged images are, and by number of labels."""
    return {kind: _by_labels(reports) for kind, reports in found["reports"].items()}


def _by_labels(reports: Results) -> dict[int, ProbeReport]:
    return {int(count): ProbeReport.from_dict(report) for count, report in reports.items()}


def _with(count: int, kind: str) -> str:
    return f"{kind}, with {count} labels per class" if kind else f"With {count} labels per class"


def _answer(kinds: Mapping[str, Mapping[int, ProbeReport]], tasks: list[str]) -> str:
    """States by how much each task gains over its untrained network, and how the first compares with the others."""
    every = [(kind, count, report) for kind, reports in kinds.items() for count, report in reports.items()]
    gains = [
        (kind, count, report, row)
        for kind, count, report in every
        for row in report.against_controls()
        if row["representation"] in tasks and row["reference"].endswith("(untrained)")
    ]
    corrected = holm([row["p"] for *_, row in gains])
    best, *others = tasks
    compared = [
        (kind, count, report, report.difference(best, other)) for kind, count, report in every for other in others
    ]
    of_others = holm([row["p"] for *_, row in compared])
    parts = [
        "Points of accuracy that pretraining adds to the same network untrained (95% intervals; significance after the "
        f"correction of Holm for these {len(gains)} comparisons):"
    ]
    for kind in kinds:
        lines = [f"- **{name}**: {_by_count(kind, gains, corrected, 'representation', name)}" for name in tasks]
        parts += [f"**{kind}**"] if kind else []
        parts.append("\n".join(lines))
        if others:
            versus = [f"- *{other}*: {_by_count(kind, compared, of_others, 'reference', other)}" for other in others]
            parts += [f"Points of **{best}** above the others, corrected in the same way:", "\n".join(versus)]
    return "\n\n".join(parts)


def _by_count(kind: str, found: Sequence[Difference], corrected: Sequence[float], key: str, name: str) -> str:
    """The differences of one row, or from one row, for all numbers of labels."""
    cells = [
        f"{_points(report, row, p)} with {count}"
        for (one, count, report, row), p in zip(found, corrected, strict=True)
        if one == kind and row[key] == name
    ]
    return f"{', '.join(cells)} labels per class"


def _points(report: ProbeReport, row: Results, p: float) -> str:
    """A difference with its interval in points, and whether it is significant after the correction."""
    return f"{_difference(report, row)}{'' if p < 0.05 else ' (not significant)'}"


def _difference(report: ProbeReport, row: Results) -> str:
    return report.metric().text(row["mean"], row["ci95"], sign=True)


def _tried(tried: Results) -> str:
    base = next(iter(tried["epochs"]))
    return (
        "Everything on this page was chosen without the test images: each row was pretrained once on "
        f"{tried['counts']['pretraining']:,} of the training images, and probed on the other "
        f"{tried['counts']['test']:,}. The first row, *{base}*, is trained for {tried['epochs'][base]} epochs; each "
        "other row differs from it in one thing. Accuracy in %, and points above the first row with 95% intervals, "
        "which cover the labeled and the validation images, but not the luck of a pretraining, and are not corrected "
        "for the number of rows."
    )


def _effects(tried: Results) -> list[dict[str, object]]:
    """The accuracy of all rows that were tried, and their differences from the first one."""
    (reports,) = _reports(tried).values()
    base = next(iter(tried["epochs"]))
    rows: list[dict[str, object]] = []
    for name in next(iter(reports.values())).names:
        row: dict[str, object] = {"what": name, "epochs": tried["epochs"].get(name, "")}
        row["CPU seconds"] = f"{fmean(tried['cpu_seconds'][name]):.0f}" if name in tried["cpu_seconds"] else ""
        for count, report in reports.items():
            cell = f"{100 * report.interval(name).mean:.1f}"
            if name != base:
                cell += f" ({_difference(report, report.difference(name, base))})"
            row[f"{count} labels per class"] = cell
        rows.append(row)
    return rows


def _finetuned(found: Results) -> list[str]:
    """What is left of the gain if not only a classifier, but the whole network is trained on the labels."""
    curve = LabelEfficiency(_by_labels(found["finetuned"]))
    sentences = [
        f"- With {count} labels per class, {sentence}"
        for count, report in curve.reports.items()
        for sentence in report.sentences()[:1]
    ]
    return [
        curve.table(),
        f"{FINETUNING_EPOCHS} epochs on the labeled images, from pretrained and from random weights.",
        "\n".join(sentences),
    ]


def _predicted(correlations: Mapping[str, list[float]]) -> str:
    rows = []
    for name, values in correlations.items():
        mean, half = mean_interval(values)
        rows.append({"cells of": name, "r": f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}")})
    return (
        f"{markdown_table(rows)}\n\n"
        "Pearson's correlation of the predicted with the true total of the stain, over the test images; the interval "
        "covers the pretrainings. Blasi et al. 2016 (figure 2a) reach 0.896 ± 0.007 from hand-made features of the "
        "same two channels, over cells as they came. Here G1, S and G2 are in equal numbers, which changes the spread "
        "of the totals and so the correlation: the two figures do not measure the same."
    )


def _costs(found: Results) -> list[dict[str, object]]:
    return [
        {"task": name, "epochs": found["epochs"][name], "CPU seconds": f"{fmean(seconds):.0f}"}
        for name, seconds in found["cpu_seconds"].items()
    ]
