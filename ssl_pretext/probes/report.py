"""The report of `evaluate`: all runs, the card with the settings that determined them, tables, plots and sentences."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssl_pretext.probes.merging import merge
from ssl_pretext.probes.metrics import Metric
from ssl_pretext.probes.outcome import unpack_scores
from ssl_pretext.probes.report_page import card_sections, confusion_section, interval_drawing, verdict_card
from ssl_pretext.probes.report_plots import difference_plot, epoch_plot, layer_plot
from ssl_pretext.probes.results import ProbeResults
from ssl_pretext.probes.statistics import mean_interval
from ssl_pretext.probes.verdict import describe_correction, warnings
from ssl_pretext.reporting.page import Section, Verdict, html_page, markdown_table
from ssl_pretext.reporting.plots import to_png
from ssl_pretext.representations.collapse import health_rows
from ssl_pretext.system.files import read_json, write_bytes, write_json, write_text
from ssl_pretext.system.notebook import html_paragraphs, html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["ProbeReport"]

ROUNDED = 0.005  # half a percentage point


class ProbeReport(ProbeResults):
    """The result of `evaluate`, with tables, sentences and plots."""

    def __repr__(self) -> str:
        # A notebook shows this text; the text that dataclasses generate would be pages of runs.
        return f"<ProbeReport: {self.card.get('probe')} probe of {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        return html_table(self.rows()) + html_paragraphs(self.sentences())

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *self.sentences()])

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
        return markdown_table(self.rows(metric))

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

    def class_table(self, metric: str | None = None) -> str:
        """Returns `class_rows` as a Markdown table."""
        return markdown_table(self.class_rows(metric))

    def class_rows(self, metric: str | None = None) -> list[dict[str, object]]:
        """Returns the values of `per_class` as text, in a row per class, label, number or map; undefined are empty.

        Args:
            metric: Name of a metric that is a mean over classes, by default the first one of the report.
        """
        chosen = self.metric_per_class(metric).name
        rows: dict[str, dict[str, object]] = {}
        for found in self.per_class(chosen):
            name, mean = found[self.each], found["mean"]
            row = rows.setdefault(name, {self.each: name, "test images": found["test_images"]})
            text = self.metric(f"{chosen}[{name}]").text(mean, found["ci95"])
            row[found["representation"]] = "" if math.isnan(mean) else text
        return list(rows.values())

    def health_table(self) -> str:
        """Returns the statistics of `feature_health`, which show collapsed features, as a Markdown table."""
        return markdown_table(health_rows(self.card["health"]))

    def to_frame(self) -> "pandas.DataFrame":
        """Returns a row for each representation and seed as a pandas DataFrame.

        The columns are `representation`, `control` (whether it only serves as a baseline), `probe`, `seed`, `labels`,
        each metric by its name (if numbers have units of their own, a column for each, such as `rmse[depth]`),
        `test_loss`, and the settings that were selected. `pandas.DataFrame(report.per_class())` has a row per class.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("to_frame() needs pandas: pip install pandas") from error
        left_out = {"history", "scores", "class_scores", "confusions"}
        left_out |= {"part_labels", "part_scores", "part_class_scores"}
        images, controls = self.card["test"]["images"], {*self.names} - {*self.card["against"]}

        def mean(text: str) -> float:
            return float(unpack_scores(text, images).mean())

        return pandas.DataFrame(
            {
                "representation": run["representation"],
                "control": run["representation"] in controls,
                **{metric: mean(text) for metric, text in run["scores"].items()},
                **{
                    f"{metric}[{name}]": mean(text)
                    for metric, texts in run["class_scores"].items()
                    if metric not in run["scores"]
                    for name, text in zip(self.card["names"], texts, strict=True)
                },
                "test_loss": run["history"][-1]["test_loss"],
                **{key: value for key, value in run.items() if key not in left_out},
            }
            for run in self.runs
        )

    def to_json(self, path: str | Path) -> None:
        """Writes card, summary and runs to a JSON file."""
        write_json(Path(path), self.to_dict())

    def verdict(self, name: str | None = None) -> Verdict:
        """Returns the card of the report page, which answers whether a representation is better than its controls.

        The answer is *Yes* if it is significantly better than every control, *No* if a control is significantly better,
        and *Not shown* otherwise. With more than three comparisons, significant is what remains so after the correction
        of Holm.

        Args:
            name: Name of the representation, by default the first one that is no control.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        return verdict_card(self, name)

    def section(self, heading: str | None = None) -> Section:
        """Returns sentences, picture and tables as a part of a page, folded away.

        Args:
            heading: Heading of the section, by default the name of the probe.
        """
        picture = interval_drawing(self)
        return Section(
            heading or f"{self.card['probe']} probe",
            ["\n".join(f"- {sentence}" for sentence in self.sentences())],
            self.rows(),
            folded={
                f"For each {self.each}: {one.label_per_class}": self.class_rows(one.name)
                for one in self.metrics_per_class()
            },
            drawings=[] if picture is None else [picture],
            collapsed=True,
        )

    def to_html(self, path: str | Path, *, title: str = "Does it help?", lead: str = "") -> None:
        """Writes a page that needs no other file: the answer, a picture of all rows, confusions and the tables.

        Args:
            path: Path of the file to write.
            title: Title of the page.
            lead: One line below the title, such as what was trained on what.

        Raises:
            MissingDependencyError: jinja2 is not installed.
        """
        sections = [*confusion_section(self), self.section(), *card_sections({self.card["probe"]: self})]
        write_text(Path(path), html_page(title, sections, verdict=self.verdict(), lead=lead))

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
        return ProbeReport(*merge(self, other))

    def plot(self, path: str | Path | None = None, *, loss: bool = False, title: str | None = None) -> Any:
        """Draws the mean and the range over the seeds of the test accuracy or loss per epoch.

        Args:
            path: Path of a PNG file to write; None writes no file.
            loss: Whether to draw the test loss in place of the accuracy; targets that are no classes have only a loss.
            title: Title of the plot, by default the name of the probe.

        Returns:
            The plot as a `matplotlib.figure.Figure`.
        """
        return _written(epoch_plot(self, loss=loss, title=title or f"{self.card['probe']} probe"), path)

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
        return _written(layer_plot(self, layers, title=title or f"{self.card['probe']} probe by layer"), path)


def _written(figure: Any, path: str | Path | None) -> Any:
    """Writes a figure to a PNG file if there is a path, and returns it."""
    if path is not None:
        write_bytes(Path(path), to_png(figure))
    return figure
