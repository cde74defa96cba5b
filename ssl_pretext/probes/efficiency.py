"""The report of `label_efficiency`: what few labels are worth, and more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_pretext.errors import CheckpointError
from ssl_pretext.probes.report import ProbeReport, percent
from ssl_pretext.probes.statistics import mean_interval
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import lines
from ssl_pretext.system.files import read_json, write_bytes, write_json

__all__ = ["LabelEfficiency"]


@dataclass(frozen=True)
class LabelEfficiency:
    """What `label_efficiency` found.

    Attributes:
        reports: By the number of labeled images per class.
    """

    reports: dict[int, ProbeReport]

    def table(self) -> str:
        """Accuracy by labels per class, in percent, as a Markdown table."""
        names = next(iter(self.reports.values())).names
        rows = [
            {"representation": name}
            | {str(count): percent(*mean_interval(report.accuracies(name))) for count, report in self.reports.items()}
            for name in names
        ]
        return markdown_table(rows, list(rows[0]))

    def to_json(self, path: str | Path) -> None:
        """Writes the reports, each with its card."""
        write_json(Path(path), {"per_class": {str(count): report.to_dict() for count, report in self.reports.items()}})

    @classmethod
    def from_json(cls, path: str | Path) -> "LabelEfficiency":
        """Reads what `to_json` wrote."""
        content = read_json(Path(path))
        try:
            return cls({int(n): ProbeReport(one["runs"], one["card"]) for n, one in content["per_class"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} holds no reports by label count") from error

    def plot(self, path: str | Path, names: Sequence[str] | None = None, *, title: str | None = None) -> None:
        """Draws accuracy against labels per class with 95% intervals, as a PNG file.

        Args:
            path: Of the file.
            names: Of the representations to show; all by default.
            title: Of the picture.
        """
        first = next(iter(self.reports.values()))
        series = {
            name: [(count, *report.in_percent(name)) for count, report in self.reports.items()]
            for name in names or first.names
        }
        picture = lines(
            series,
            title=title or f"{first.card['probe']} probe",
            x_label="labeled images per class",
            y_label="test accuracy, %",
            log=True,
        )
        write_bytes(Path(path), picture)
