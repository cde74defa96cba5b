"""The report of `evaluate`: all runs, the card with the settings that determined them, tables, plots and sentences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError, UnknownNameError
from ssl_pretext.probes.controls import before_name, untrained_name
from ssl_pretext.probes.metrics import ACCURACY, Metric, find_metrics
from ssl_pretext.probes.outcome import unpack_scores
from ssl_pretext.probes.statistics import (
    Interval,
    Scores,
    Spread,
    describe_difference,
    holm,
    interval,
    mean_interval,
    moderated,
)
from ssl_pretext.probes.verdict import (
    basis,
    describe_correction,
    is_prediction,
    share_networks,
    verdict,
    warnings,
)
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import curves, forest, lines, to_png
from ssl_pretext.representations.collapse import health_rows
from ssl_pretext.system.files import read_json, write_bytes, write_json
from ssl_pretext.system.notebook import html_paragraphs, html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["ProbeReport", "difference_plot"]

# Entries of the card that two comparable reports may differ in: they describe what is compared, and not how, or follow
# from the images, whose hashes are compared.
NOT_COMPARED = (
    "controls",
    "against",
    "without_twin",
    "health",
    "representations",
    "code",
    "guessed",
    "seen",
    "repeats",
)
PAIRED = ("seeds", "train", "test", "targets", "label_fraction", "per_class", "classes_without_training_images")
ROUNDED = 0.005  # half a percentage point
ENOUGH_SEEDS = 4  # with fewer, the spreads between seeds of the rows of a table are moderated


@dataclass(frozen=True, repr=False)
class ProbeReport:
    """The result of `evaluate`.

    Attributes:
        runs: A dict for each representation and seed, with the keys `"representation"`, `"probe"`, `"seed"`,
            `"labels"`, `"history"`, `"scores"` and the settings that were selected. The history has a row per epoch
            with `epoch`, `train_loss` and `test_loss`, and for classes `train_accuracy` and `test_accuracy`. The scores
            hold, by metric, a score of each test image, whose mean is the metric; `image_scores()` unpacks them.
            `"part_scores"` are those of the same probe trained on a part of the labels, from which the uncertainty due
            to the choice of the labels is computed.
        card: All settings that determine the results, and statistics of the features.
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    def __repr__(self) -> str:
        # A notebook shows this text; the text that dataclasses generate would be pages of runs.
        return f"<ProbeReport: {self.card.get('probe')} probe of {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        return html_table(self.rows()) + html_paragraphs(self.sentences())

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *self.sentences()])

    @property
    def names(self) -> list[str]:
        """Names of the representations, including the controls, in the order of the runs."""
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def metric(self, name: str | None = None) -> Metric:
        """Returns a metric of the report by name; by default the main one.

        Raises:
            UnknownNameError: The report has no such metric.
        """
        known = self.card["metrics"]
        if name is not None and name not in known:
            raise UnknownNameError(
                f"the report has no metric {name!r}; it has {', '.join(known)}. Name the metrics in "
                "evaluate(metrics=[...])"
            )
        return find_metrics(self.card["target"], [name or known[0]])[0]

    def values(self, name: str, metric: str | None = None) -> list[float]:
        """Returns a metric of a representation, such as its test accuracy, for each seed.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return [float(value) for value in self.image_scores(name, metric).mean(axis=1)]

    def summary(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Returns a row per representation with the mean of a metric and of the loss.

        The keys name the metric: `test_accuracy_mean`, and `test_accuracy_ci95`, which is half the width of the 95%
        interval.
        """
        rows, key = [], f"test_{self.metric(metric).name}"
        for name in self.names:
            found = self.interval(name, metric)
            loss, _ = mean_interval(self._final(name, "test_loss"))
            rows.append(
                {
                    "representation": name,
                    "probe": self.card["probe"],
                    f"{key}_mean": found.mean,
                    f"{key}_ci95": found.half,
                    "test_loss_mean": loss,
                    "seeds": len(self.card["seeds"]),
                }
            )
        return rows

    def differences(self, reference: str, metric: str | None = None) -> list[dict[str, Any]]:
        """Returns `difference` for each representation except the reference."""
        return [self.difference(name, reference, metric=metric) for name in self.names if name != reference]

    def difference(
        self, name: str, reference: str, *, of: "ProbeReport | None" = None, metric: str | None = None
    ) -> dict[str, Any]:
        """Computes a metric of a representation minus that of another, paired by seed and test image.

        Args:
            name: Name of the representation.
            reference: Name of the representation whose value is subtracted.
            of: The report that holds the reference, by default this one. It must have the same seeds, labeled images
                and test images, such as a report of another probe.
            metric: Name of the metric, by default the main one of the report.

        Returns:
            A row with the `mean` difference, half the width of its 95% interval as `ci95`, the `p`-value, whether the
            difference is `significant`, and a description in `words`, which says what the interval covers. For a
            control of the representation it is its row of `against_controls`.

        Raises:
            UnknownNameError: The report has no such representation or metric.
            ArgumentError: The reports do not have the same seeds and images.
        """
        other = of or self
        if of is not None and any(self.card[key] != of.card[key] for key in PAIRED):
            raise ArgumentError(
                "difference() needs two reports with the same seeds, labeled images and test images; they differ in "
                + ", ".join(key for key in PAIRED if self.card[key] != of.card[key])
            )
        if of is None and reference in self.card["against"].get(name, {}).values():
            rows = self.against_controls(metric)
            return next(row for row in rows if (row["representation"], row["reference"]) == (name, reference))
        chosen = self.metric(metric)
        found = interval(self._scores(name, chosen, reference, other))
        if of is None:
            return self._row(name, reference, found, verdict(self.card, name, reference, found, chosen))
        label = f"{reference} {self._settings_of(of)}"
        words = describe_difference(found, label, basis(self.card, name), metric=chosen)
        return self._row(name, label, found, words)

    def _settings_of(self, other: "ProbeReport") -> str:
        """Says how another report differs from this one, as the end of the name of a representation in it."""
        if other.card["probe"] != self.card["probe"]:
            return f"with the {other.card['probe']} probe"
        settings = [f"{key}={theirs!r}"[:80] for key, (_, theirs) in self.card_differences(other).items()]
        return f"with {', '.join(settings)}" if settings else "of the other report"

    def against_controls(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Returns a row as of `difference` for each representation and each of its controls.

        Each row has the p-value after the correction of Holm for all rows as `p_holm`. With two or three seeds, the
        spreads of different networks compared with one kind of control are `moderated`.
        """
        chosen = self.metric(metric)
        pairs = [
            (label, name, control)
            for name, controls in self.card["against"].items()
            for label, control in controls.items()
        ]
        scores = [self._scores(name, chosen, control) for _, name, control in pairs]
        spreads = [Spread.of(one) for one in scores]
        if 1 < len(self.card["seeds"]) < ENOUGH_SEEDS:
            for kind in {label for label, *_ in pairs}:
                rows = [i for i, (label, *_) in enumerate(pairs) if label == kind]
                # Layers of one network vary together, so that several of them show no more than one.
                if not share_networks(self.card, [pairs[i][1] for i in rows]):
                    for i, spread in zip(rows, moderated([spreads[i] for i in rows]), strict=True):
                        spreads[i] = spread
        found = [interval(one, spread=spread) for one, spread in zip(scores, spreads, strict=True)]
        corrected = holm([one.p for one in found])
        return [
            self._row(name, control, one, verdict(self.card, name, control, one, chosen)) | {"p_holm": p}
            for (_, name, control), one, p in zip(pairs, found, corrected, strict=True)
        ]

    def sentences(self, metric: str | None = None) -> list[str]:
        """Returns a sentence per comparison with a control, then one about guessing, and warnings if there are any."""
        rows = self.against_controls(metric)
        return [
            *(f"{row['representation']}: {row['words']}." for row in rows),
            *describe_correction(rows),
            *self._describe_bounds(self.metric(metric)),
            *warnings(self.card, self.runs),
        ]

    def _describe_bounds(self, metric: Metric) -> list[str]:
        found = [self.interval(name, metric.name) for name in self.names] if metric.percent else []
        if not any(one.mean - one.half < -ROUNDED or one.mean + one.half > 1 + ROUNDED for one in found):
            return []
        return [
            "Intervals that reach below 0% or above 100% end there; with so few test images or seeds, the "
            f"{metric.label} is hardly known."
        ]

    def image_scores(self, name: str, metric: str | None = None) -> NDArray[Any]:
        """Returns a score of each test image for each seed, `(seeds, images)`, whose mean is the metric.

        The scores of accuracy are the hits: whether each image is classified correctly. Those of other metrics are the
        metric plus the influence of the image on it.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return self._unpacked(name, self.metric(metric), "scores")

    def interval(self, name: str, metric: str | None = None) -> Interval:
        """Returns the mean of a metric over the seeds, with its 95% interval.

        The interval covers the seeds and the choice of the labeled images and of the test images, as far as the report
        shows their variation; `difference(...)["words"]` says which.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return interval(self._scores(name, self.metric(metric)))

    def _scores(
        self, name: str, metric: Metric, reference: str | None = None, other: "ProbeReport | None" = None
    ) -> Scores:
        full, parts = self._unpacked(name, metric, "scores"), self._part_scores(name, metric)
        if reference is None:
            return Scores(full, parts, step=metric.step)
        other = other or self
        other_parts = other._part_scores(reference, metric)
        return Scores(
            full - other._unpacked(reference, metric, "scores"),
            None if parts is None or other_parts is None else parts - other_parts,
            other is self and is_prediction(self.card, name, reference),
            metric.step,
        )

    def _part_scores(self, name: str, metric: Metric) -> NDArray[Any] | None:
        return self._unpacked(name, metric, "part_scores") if "part_scores" in self._runs(name)[0] else None

    def _unpacked(self, name: str, metric: Metric, key: str) -> NDArray[Any]:
        images = self.card["test"]["images"]
        found = [unpack_scores(run[key][metric.name], images) for run in self._runs(name) if key in run]
        # Differences of hits need a sign, and one byte each.
        return np.stack([one.astype(np.int8) if one.dtype == bool else one for one in found])

    @staticmethod
    def _row(name: str, reference: str, found: Interval, words: str) -> dict[str, Any]:
        return {
            "representation": name,
            "reference": reference,
            "mean": found.mean,
            "ci95": found.half,
            "p": found.p,
            "significant": found.significant,
            "words": words,
        }

    def best(self, names: Sequence[str] | None = None) -> str:
        """Returns the representation that predicts held-out *training* images best, averaged over the seeds.

        That is the one with the highest accuracy, or with the lowest loss if the targets are no classes.

        Args:
            names: Names of the representations to choose from, such as the layers of a network; by default all except
                the controls.

        Raises:
            ArgumentError: The probe has no results on held-out training images (only the linear and knn probes have,
                and only if a class has two labeled images), or there are only controls.
            UnknownNameError: The report has no such representation.
        """
        held_out: dict[str, float] = {}
        candidates = list(names or self.card["against"])
        if not candidates:
            raise ArgumentError(
                "best() has no representations to choose from: the report holds only controls; pass names"
            )
        for name in candidates:
            values = [
                sign * run[key]
                for run in self._runs(name)
                for key, sign in (("validation_accuracy", 1), ("validation_loss", -1))
                if key in run
            ]
            if not values:
                probe = self.card["probe"]
                reason = (
                    "cannot be computed from one labeled image per class; evaluate with more labels"
                    if probe in ("linear", "knn")
                    else f"the {probe} probe of {name!r} does not have; use the linear or knn probe"
                )
                raise ArgumentError(f"best() needs results on held-out training images, which {reason}")
            held_out[name] = statistics.fmean(values)
        return max(held_out, key=lambda name: held_out[name])

    def table(self, metric: str | None = None) -> str:
        """Returns `rows` as a Markdown table."""
        rows = self.rows(metric)
        return markdown_table(rows, list(rows[0]))

    def rows(self, metric: str | None = None) -> list[dict[str, object]]:
        """Returns a row per representation with a metric and its differences from the controls.

        Each network is compared with its own untrained twin and its own source channels, and with the controls that all
        representations share.

        Args:
            metric: Name of the metric, by default the main one of the report.
        """
        chosen = self.metric(metric)
        labels = list(dict.fromkeys(label for controls in self.card["against"].values() for label in controls))
        compared = {(row["representation"], row["reference"]): row for row in self.against_controls(metric)}
        rows = []
        for name in self.names:
            shown: dict[str, object] = {"representation": name, chosen.heading: self.text(name, metric)}
            controls = self.card["against"].get(name, {})
            for label in labels:
                found = compared[name, controls[label]] if label in controls else None
                shown[f"minus {label}"] = "" if found is None else chosen.text(found["mean"], found["ci95"], sign=True)
            rows.append(shown)
        return rows

    def health_table(self) -> str:
        """Returns the statistics of `feature_health`, which show collapsed features, as a Markdown table."""
        rows = health_rows(self.card["health"])
        return markdown_table(rows, list(rows[0]))

    def to_frame(self) -> "pandas.DataFrame":
        """Returns a row for each representation and seed as a pandas DataFrame.

        The columns are `representation`, `control` (whether it only serves as a baseline), `probe`, `seed`, `labels`,
        each metric by its name, `test_loss`, and the settings that were selected.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("to_frame() needs pandas: pip install pandas") from error
        left_out = {"history", "scores", "part_scores", "part_labels"}
        images, controls = self.card["test"]["images"], {*self.names} - {*self.card["against"]}
        return pandas.DataFrame(
            {
                "representation": run["representation"],
                "control": run["representation"] in controls,
                **{metric: float(unpack_scores(text, images).mean()) for metric, text in run["scores"].items()},
                "test_loss": run["history"][-1]["test_loss"],
                **{key: value for key, value in run.items() if key not in left_out},
            }
            for run in self.runs
        )

    def to_json(self, path: str | Path) -> None:
        """Writes card, summary and runs to a JSON file."""
        write_json(Path(path), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns card, summary and runs as values that JSON can hold."""
        return {"card": self.card, "summary": self.summary(), "runs": self.runs}

    @classmethod
    def from_json(cls, path: str | Path) -> "ProbeReport":
        """Reads a file that `to_json` wrote.

        Raises:
            MissingFileError: The file does not exist.
            CheckpointError: The file holds something else.
        """
        return cls.from_dict(read_json(Path(path)), path)

    @classmethod
    def from_dict(cls, content: Any, source: str | Path = "the mapping") -> "ProbeReport":
        """Returns the report that `to_dict` made a mapping of.

        Args:
            content: The mapping.
            source: Where it comes from, for the message of an error.

        Raises:
            CheckpointError: The mapping does not hold a report.
        """
        try:
            _ = [(run["representation"], run["scores"]) for run in content["runs"]]
            return cls(content["runs"], content["card"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{source} does not hold a probe report") from error

    def card_differences(self, other: "ProbeReport") -> dict[str, tuple[Any, Any]]:
        """Returns the settings that differ, by name, with the value of this report and that of the other."""
        keys = sorted(({*self.card} | {*other.card}) - {*NOT_COMPARED})
        pairs = {key: (self.card.get(key), other.card.get(key)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def compare(self, other: "ProbeReport") -> str:
        """Compares the accuracies of two reports in a Markdown table, and lists the settings that differ between them.

        Differences are shown only if the settings agree; otherwise the reports answer different questions.
        """
        differing = self.card_differences(other)
        rows = []
        for name in dict.fromkeys([*self.names, *other.names]):
            shown: dict[str, object] = {"representation": name}
            for heading, report in (("this report, %", self), ("the other, %", other)):
                shown[heading] = report.text(name) if name in report.names else ""
            if not differing and name in self.names and name in other.names:
                row = self.difference(name, name, of=other)
                shown["difference"] = self.metric().text(row["mean"], row["ci95"], sign=True)
            rows.append(shown)
        settings = [f"- {key}: {mine!r} here, {theirs!r} there" for key, (mine, theirs) in differing.items()]
        lead = "Not comparable: the probe cards differ." if differing else "The probe cards agree."
        columns = ["representation", "this report, %", "the other, %", *([] if differing else ["difference"])]
        return "\n".join([lead, *settings, "", markdown_table(rows, columns)])

    def merge(self, other: "ProbeReport") -> "ProbeReport":
        """Returns a report with the runs of both reports; runs of a control that both hold are taken from this one.

        Args:
            other: A report with the same settings.

        Raises:
            ArgumentError: Settings of the reports differ, or they hold different representations of the same name.
        """
        if differing := self.card_differences(other):
            raise ArgumentError(
                f"only reports with the same settings can be merged; these differ in {', '.join(differing)}"
            )
        both = set(self.names) & set(other.names)
        mine, theirs = self.card["representations"], other.card["representations"]
        if clash := sorted(name for name in both if mine[name] != theirs[name] or not self._same(name, other)):
            raise ArgumentError(
                f"both reports hold {', '.join(clash)}, but not the same representation; give one of them another name "
                "and evaluate it again"
            )
        without_twin = {**other.card.get("without_twin", {}), **self.card.get("without_twin", {})}
        card = self.card | {
            "without_twin": without_twin,
            "controls": list(dict.fromkeys([*self.card["controls"], *other.card["controls"]])),
            **{key: other.card[key] | self.card[key] for key in ("health", "representations")},
            "against": {
                name: other.card["against"].get(name, {}) | self.card["against"].get(name, {})
                for name in dict.fromkeys([*self.card["against"], *other.card["against"]])
            },
        }
        return ProbeReport([*self.runs, *(run for run in other.runs if run["representation"] not in both)], card)

    def _same(self, name: str, other: "ProbeReport") -> bool:
        """Whether a representation that both reports describe equally is the same one.

        The description of a function does not say what it computes, but one function has the same results twice.
        """
        is_function = any(one.get("kind") == "function" for one in self.card["representations"][name])
        return not is_function or self._runs(name) == other._runs(name)

    def plot(self, path: str | Path | None = None, *, loss: bool = False, title: str | None = None) -> Any:
        """Draws the mean and the range over the seeds of the test accuracy or loss per epoch.

        Args:
            path: Path of a PNG file to write; None writes no file.
            loss: Whether to draw the test loss in place of the accuracy; targets that are no classes have only a loss.
            title: Title of the plot, by default the name of the probe.

        Returns:
            The plot as a `matplotlib.figure.Figure`.
        """
        key, label, factor = ("test_accuracy", ACCURACY.heading, 100)
        if loss or self.card["target"] != "class":
            key, label, factor = ("test_loss", "test loss", 1)
        # Fine-tuning is tested only after the last epoch, whose number can differ, and JSON has no NaN.
        epochs = max(len(run["history"]) for run in self.runs)
        series = {
            name: [
                [math.nan if row.get(key) is None else factor * row[key] for row in run["history"]]
                + [math.nan] * (epochs - len(run["history"]))
                for run in self._runs(name)
            ]
            for name in self.names
        }
        figure = curves(series, title=title or f"{self.card['probe']} probe", x_label="epoch", y_label=label)
        return _written(figure, path)

    def plot_differences(
        self, path: str | Path | None = None, names: Sequence[str] | None = None, *, title: str | None = None
    ) -> Any:
        """Draws the paired differences from the controls with their intervals.

        Args:
            path: Path of a PNG file to write; None writes no file.
            names: Names of the representations to show, by default all except the controls.
            title: Title of the plot, by default the name of the probe.

        Returns:
            The plot as a `matplotlib.figure.Figure`.
        """
        rows = [row for row in self.against_controls() if names is None or row["representation"] in names]
        figure = difference_plot(rows, title=title or f"{self.card['probe']} probe", metric=self.metric())
        return _written(figure, path)

    def plot_layers(self, layers: Sequence[str], path: str | Path | None = None, *, title: str | None = None) -> Any:
        """Draws the accuracy of the layers of a network and of their untrained twins.

        Args:
            layers: Names of the representations of the layers, in running order.
            path: Path of a PNG file to write; None writes no file.
            title: Title of the plot, by default the name of the probe.

        Returns:
            The plot as a `matplotlib.figure.Figure`.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        places = list(enumerate(layers))
        series = {"trained": [(i, *self.shown(name)) for i, name in places]}
        twins = [(i, *self.shown(untrained_name(name))) for i, name in places if untrained_name(name) in self.names]
        shared = [name for name in self.card["controls"] if not name.endswith((untrained_name(""), before_name("")))]
        figure = lines(
            series | ({"untrained": twins} if twins else {}),
            title=title or f"{self.card['probe']} probe by layer",
            x_label="layer",
            y_label=self.metric().heading,
            x_names=list(layers),
            reference={name: self.shown(name)[0] for name in shared},
        )
        return _written(figure, path)

    def shown(self, name: str, metric: str | None = None) -> tuple[float, float]:
        """Returns the mean of a metric and half the width of its interval as they are shown, in percent if it is so."""
        found, factor = self.interval(name, metric), self.metric(metric).factor
        return factor * found.mean, factor * found.half

    def text(self, name: str, metric: str | None = None) -> str:
        """Returns the mean of a metric with half the width of its interval, such as `"12.3 ± 0.4"`."""
        found = self.interval(name, metric)
        return self.metric(metric).text(found.mean, found.half)

    def _runs(self, name: str) -> list[dict[str, Any]]:
        if name not in self.names:
            raise UnknownNameError(f"the report has no representation {name!r}; it has {', '.join(self.names)}")
        return [run for run in self.runs if run["representation"] == name]

    def _final(self, name: str, key: str) -> list[float]:
        # JSON has no NaN, so the loss of a probe that diverged is read back as None.
        values = [run["history"][-1][key] for run in self._runs(name)]
        return [math.nan if value is None else value for value in values]


def _written(figure: Any, path: str | Path | None) -> Any:
    """Writes a figure to a PNG file if there is a path, and returns it."""
    if path is not None:
        write_bytes(Path(path), to_png(figure))
    return figure


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
