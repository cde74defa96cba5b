"""The result of a search: its table, its recommendation, and how to repeat the run that it chose."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pretext.errors import MissingDependencyError
from ssl_pretext.probes import ProbeReport
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.selection.recommendation import Recommendation
from ssl_pretext.training.config import FitConfig

if TYPE_CHECKING:
    import pandas

__all__ = ["SearchResult", "SearchRow"]


@dataclass(frozen=True)
class SearchRow:
    """A task or a control in the table of a search.

    Attributes:
        name: Name of the task, the control or the published network.
        kind: `"task"`, `"control"`, `"network"`, or `"left out"` for a task that could not be tried.
        rounds: Number of rounds of a task, the last of which trained it longest.
        minutes: Minutes of its longest run.
        steps: Steps of its longest run.
        accuracy: Accuracy on held-out labeled images after this run.
        ci95: Half the width of its 95% interval.
        over_untrained: Difference from its untrained twin.
        over_untrained_ci95: Half the width of the 95% interval of the difference.
        note: Why the task was left out or has no result.
    """

    name: str
    kind: str
    rounds: int = 0
    minutes: float | None = None
    steps: int | None = None
    accuracy: float | None = None
    ci95: float | None = None
    over_untrained: float | None = None
    over_untrained_ci95: float | None = None
    note: str = ""

    def shown(self) -> dict[str, object]:
        """Returns the row as text."""
        return {
            "task or control": self.name,
            "round": self.rounds or "",
            "minutes": "" if self.minutes is None else f"{self.minutes:.1f}",
            "held-out labels, %": _percent(self.accuracy, self.ci95),
            "minus untrained": _percent(self.over_untrained, self.over_untrained_ci95, sign="+"),
            "note": self.note or (self.kind if self.kind != "task" else ""),
        }


@dataclass(frozen=True)
class SearchResult:
    """The result of `search`.

    Attributes:
        rows: A row per task, best first, and then a row per control.
        recommendation: What to use, and why.
        remarks: What the figures do not show.
        task: Spec of the task that was best, whether or not it is recommended.
        encoder: Name of its encoder.
        run: Folder of its run, for `PretextTask.from_pretrained(run / "task")`.
        fit: Configuration of this run, with which `fit` repeats it.
        report: Report on test images; None if there were none.
        minutes: Minutes that the search took.
    """

    rows: tuple[SearchRow, ...]
    recommendation: Recommendation
    remarks: tuple[str, ...]
    task: str
    encoder: str
    run: Path
    fit: FitConfig
    report: ProbeReport | None
    minutes: float

    def __str__(self) -> str:
        tested = "" if self.report is None else f"\n\nOn the test images:\n\n{self.report.table()}"
        remarks = "".join(f"\n{remark}" for remark in self.remarks)
        return f"{self.table()}{tested}\n\n{self.recommendation.sentence}{remarks}"

    def table(self) -> str:
        """Returns the rows as a Markdown table."""
        shown = [row.shown() for row in self.rows]
        return markdown_table(shown, list(shown[0]))

    def to_frame(self) -> "pandas.DataFrame":
        """Returns the rows as a pandas DataFrame; its columns are the attributes of `SearchRow`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("to_frame() needs pandas: pip install pandas") from error
        return pandas.DataFrame([vars(row) for row in self.rows])

    def to_dict(self) -> Mapping[str, Any]:
        """Returns the result as values that JSON can hold."""
        return {
            "recommendation": vars(self.recommendation),
            "remarks": list(self.remarks),
            "task": self.task,
            "encoder": self.encoder,
            "run": str(self.run),
            "fit": self.fit.to_dict(),
            "minutes": self.minutes,
            "rows": [vars(row) for row in self.rows],
            "report": None if self.report is None else self.report.to_dict(),
        }


def _percent(value: float | None, half: float | None, sign: str = "") -> str:
    return "" if value is None or half is None else f"{100 * value:{sign}.1f} ± {100 * half:.1f}"
