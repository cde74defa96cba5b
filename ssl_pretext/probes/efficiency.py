"""The report of `label_efficiency`: accuracy, or another metric, as a function of the number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pretext.errors import CheckpointError
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import lines, to_png
from ssl_pretext.system.files import read_json, write_bytes, write_json
from ssl_pretext.system.notebook import html_picture, html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["LabelEfficiency", "score_rows"]


@dataclass(frozen=True)
class LabelEfficiency:
    """The result of `label_efficiency`: a report for each number of labels.

    Attributes:
        reports: The reports by number of labeled images per class, or in all if the targets are no classes.
    """

    reports: dict[int, ProbeReport]

    def _repr_html_(self) -> str:
        picture = html_picture(to_png(self.plot()), "the metric against the number of labels")
        return html_table(self.rows()) + picture

    def table(self) -> str:
        """Returns `rows` as a Markdown table."""
        return markdown_table(self.rows())

    def rows(self) -> list[dict[str, str]]:
        """Returns a row per representation with the main metric for each number of labels."""
        return score_rows({str(count): report for count, report in self.reports.items()})

    def to_frame(self) -> "pandas.DataFrame":
        """Returns a row for each number of labels, representation and seed as a pandas DataFrame.

        The first column is the number of labels, `per_class` or (if the targets are no classes) `num_labels`; the
        others are those of `ProbeReport.to_frame`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        frames = {count: report.to_frame() for count, report in self.reports.items()}
        import pandas

        target = next(iter(self.reports.values())).card["target"]
        name = "per_class" if target == "class" else "num_labels"
        return pandas.concat(frames, names=[name]).reset_index(level=name).reset_index(drop=True)

    def to_json(self, path: str | Path) -> None:
        """Writes all reports with their cards to a JSON file."""
        write_json(Path(path), {"per_class": {str(count): report.to_dict() for count, report in self.reports.items()}})

    @classmethod
    def from_json(cls, path: str | Path) -> "LabelEfficiency":
        """Reads a file that `to_json` wrote.

        Raises:
            MissingFileError: The file does not exist.
            CheckpointError: The file holds something else.
        """
        content = read_json(Path(path))
        try:
            return cls({int(n): ProbeReport.from_dict(one, path) for n, one in content["per_class"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} does not hold the reports of label_efficiency()") from error

    def plot(
        self, path: str | Path | None = None, names: Sequence[str] | None = None, *, title: str | None = None
    ) -> Any:
        """Draws the main metric against the number of labels with 95% intervals.

        Args:
            path: Path of a PNG file to write; None writes no file.
            names: Names of the representations to show, by default all.
            title: Title of the plot, by default the name of the probe.

        Returns:
            The plot as a `matplotlib.figure.Figure`.
        """
        first = next(iter(self.reports.values()))
        series = {
            name: [(count, *report.shown(name)) for count, report in self.reports.items()]
            for name in names or first.names
        }
        figure = lines(
            series,
            title=title or f"{first.card['probe']} probe",
            x_label="labeled images per class" if first.card["target"] == "class" else "labeled images",
            y_label=first.metric().heading,
            log=True,
        )
        if path is not None:
            write_bytes(Path(path), to_png(figure))
        return figure


def score_rows(reports: Mapping[str, ProbeReport]) -> list[dict[str, str]]:
    """Returns a row per representation with the main metric of each of several reports, by their keys."""
    return [
        {"representation": name} | {key: report.text(name) for key, report in reports.items()}
        for name in next(iter(reports.values())).names
    ]
