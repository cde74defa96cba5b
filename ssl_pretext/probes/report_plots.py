"""Plots of a probe report: results per epoch, differences from the controls, and results by layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_pretext.probes.controls import before_name, untrained_name
from ssl_pretext.probes.metrics import ACCURACY, Metric
from ssl_pretext.probes.results import ProbeResults
from ssl_pretext.reporting.plots import curves, forest, lines

__all__ = ["difference_plot", "epoch_plot", "layer_plot"]


def epoch_plot(results: ProbeResults, *, loss: bool, title: str) -> Any:
    """Draws the mean and the range over the seeds of the test accuracy or loss per epoch, as a figure of matplotlib."""
    key, label, factor = ("test_accuracy", ACCURACY.heading, 100)
    if loss or results.card["target"] != "class":
        key, label, factor = ("test_loss", "test loss", 1)
    # Fine-tuning is tested only after the last epoch, whose number can differ, and JSON has no NaN.
    epochs = max(len(run["history"]) for run in results.runs)
    series: dict[str, list[list[float]]] = {name: [] for name in results.names}
    for run in results.runs:
        values = [row.get(key) for row in run["history"]] + [None] * (epochs - len(run["history"]))
        series[run["representation"]].append([math.nan if value is None else factor * value for value in values])
    return curves(series, title=title, x_label="epoch", y_label=label)


def layer_plot(results: ProbeResults, layers: Sequence[str], *, title: str) -> Any:
    """Draws the main metric of the layers of a network and of their untrained twins, as a figure of matplotlib."""
    places = list(enumerate(layers))
    series = {"trained": [(i, *results.shown(name)) for i, name in places]}
    twins = [(i, *results.shown(untrained_name(name))) for i, name in places if untrained_name(name) in results.names]
    shared = [name for name in results.card["controls"] if not name.endswith((untrained_name(""), before_name("")))]
    return lines(
        series | ({"untrained": twins} if twins else {}),
        title=title,
        x_label="layer",
        y_label=results.metric().heading,
        x_names=list(layers),
        reference={name: results.shown(name)[0] for name in shared},
    )


def difference_plot(rows: Sequence[Mapping[str, Any]], *, title: str, metric: Metric = ACCURACY) -> Any:
    """Draws rows of `ProbeReport.against_controls`, grouped by representation, as a `matplotlib.figure.Figure`."""
    bars = [
        {
            "label": f"minus {row['reference']}",
            "mean": metric.factor * row["mean"],
            "half": metric.factor * row["ci95"] if row["ci95"] else None,
            "group": row["representation"],
        }
        for row in rows
    ]
    return forest(bars, title=title, x_label=f"difference of test {metric.label}" + ", points" * metric.percent)
