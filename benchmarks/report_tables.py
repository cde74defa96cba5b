"""Tables of comparisons, made from the stored reports of several readouts."""

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracies_only import AccuraciesOnly
from ssl_pretext.probes import ACCURACY, ProbeReport, holm
from ssl_pretext.reporting import markdown_table

__all__ = [
    "EXPLANATION",
    "Reports",
    "accuracy_table",
    "baseline_gains",
    "gain_table",
    "machine",
    "report_in",
    "reports_in",
    "twin_gains",
]

Reports = Mapping[str, ProbeReport | AccuraciesOnly]  # by the name of the readout, which is a column of the tables
EXPLANATION = (
    "Bold: significant after the correction of Holm for the {count} comparisons of this table. Italic: significant "
    "only by itself, which is expected for one comparison in twenty where there is no difference."
)


def machine(env: Mapping[str, Any]) -> str:
    """States the commit and the machine of a run, as `environment` describes them."""
    return f"Commit `{env['commit']}`; {env['device']}, {env['processor']}, {env['cores']} cores, torch {env['torch']}."


def reports_in(results: Mapping[str, Any], domain: str) -> dict[str, ProbeReport | AccuraciesOnly]:
    """The reports of a domain, by the name of their column."""
    if "reports" in results:
        return {column: ProbeReport.from_dict(domains[domain]) for column, domains in results["reports"].items()}
    rows = results["rows"]
    controls = {run["row"]: run["control"] for run in rows if run["control"]}
    images = results["data"]["counts"][f"test, {domain}"]
    found: dict[str, ProbeReport | AccuraciesOnly] = {}
    for i, column in enumerate(rows[0]["accuracy"][domain]):
        accuracies: dict[str, list[float]] = {}
        for run in rows:
            accuracies.setdefault(run["row"], []).append(run["accuracy"][domain][column])
        for name, by_domain in results["pixels"].items():
            values = by_domain[domain]
            if isinstance(values, dict):  # by column
                accuracies |= {name: values[column]} if column in values else {}
            elif not i:  # pixels have no layers; they are shown in the first column
                accuracies[name] = values
        found[column] = AccuraciesOnly(accuracies, controls, images)
    return found


def report_in(results: Mapping[str, Any], domain: str) -> ProbeReport:
    """The report of a domain, of results with a single column."""
    ((_, domains),) = results["reports"].items()
    return ProbeReport.from_dict(domains[domain])


def accuracy_table(reports: Reports) -> str:
    """The accuracy of each representation in percent with its interval, with a column for each readout."""
    names = dict.fromkeys(name for report in reports.values() for name in report.names)
    rows = [
        {"row": name}
        | {column: report.text(name) if name in report.names else "" for column, report in reports.items()}
        for name in names
    ]
    return markdown_table(rows)


def twin_gains(reports: Reports) -> list[dict[str, Any]]:
    """The differences of each task from its untrained encoder, as `ProbeReport.against_controls` returns them.

    The p-values are corrected for all of them.
    """
    rows = [
        {"column": column} | row
        for column, report in reports.items()
        for row in report.against_controls()
        if row["reference"] == report.card["against"][row["representation"]].get("untrained")
    ]
    return _corrected(rows)


def baseline_gains(reports: Reports, baseline: str) -> list[dict[str, Any]]:
    """The differences of each task from one of them."""
    rows = [
        {"column": column} | report.difference(name, baseline)
        for column, report in reports.items()
        for name in report.card["against"]
        if name != baseline
    ]
    return _corrected(rows)


def gain_table(gains: list[dict[str, Any]]) -> str:
    """Differences in percentage points, with a row for each task and a column for each readout."""
    rows: dict[str, dict[str, str]] = {}
    for gain in gains:
        text = ACCURACY.text(gain["mean"], gain["ci95"], sign=True)
        mark = "**" if gain["p_holm"] < 0.05 else "*" if gain["significant"] else ""
        rows.setdefault(gain["representation"], {"row": gain["representation"]})[gain["column"]] = f"{mark}{text}{mark}"
    return markdown_table(list(rows.values()), list(next(iter(rows.values()))))


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"p_holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]
