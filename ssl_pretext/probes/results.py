"""The report of `evaluate`: every run, the card of what decided them, and what follows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_pretext.config import read_json, write_json
from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.probes.statistics import mean_interval, paired_difference
from ssl_pretext.report import curves, markdown_table

__all__ = ["ProbeReport"]

# What may differ between two reports that are still about the same question.
_OWN = ("controls", "representations")


@dataclass(frozen=True)
class ProbeReport:
    """What `evaluate` found.

    Attributes:
        runs: `{"representation", "probe", "seed", "history"}` each; a history row per epoch holds `epoch`,
            `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy`.
        card: Everything that decided the figures.
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The representations, controls included, in the order of their runs."""
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def accuracies(self, name: str) -> list[float]:
        """Final test accuracies of one representation, a figure per seed."""
        if name not in self.names:
            raise UnknownNameError(f"the report has no representation {name!r}; it has {', '.join(self.names)}")
        return self._final(name, "test_accuracy")

    def summary(self) -> list[dict[str, Any]]:
        """A row per representation; `test_accuracy_ci95` is the half width of the interval, None for one seed."""
        rows = []
        for name in self.names:
            mean, half = mean_interval(self.accuracies(name))
            loss, _ = mean_interval(self._final(name, "test_loss"))
            rows.append(
                {
                    "representation": name,
                    "probe": self.card["probe"],
                    "test_accuracy_mean": mean,
                    "test_accuracy_ci95": half,
                    "test_loss_mean": loss,
                    "seeds": len(self.card["seeds"]),
                }
            )
        return rows

    def differences(self, reference: str) -> list[dict[str, Any]]:
        """Test accuracy of each other representation minus the reference's, seed by seed."""
        against = self.accuracies(reference)
        rows = []
        for name in self.names:
            if name != reference:
                mean, half = paired_difference(self.accuracies(name), against)
                significant = half is not None and abs(mean) > half
                row = {"representation": name, "reference": reference, "mean": mean, "ci95": half}
                rows.append(row | {"significant": significant})
        return rows

    def table(self) -> str:
        """Accuracy and paired differences against the controls, in percent, as a Markdown table.

        Each network is compared with its own untrained twin, and with every other control.
        """
        controls = [name for name in self.names if name in self.card["controls"]]
        twins = {name: untrained_name(name) for name in self.names if untrained_name(name) in controls}
        shared = [control for control in controls if control not in twins.values()]
        rows = []
        for row in self.summary():
            name = row["representation"]
            shown: dict[str, object] = {
                "representation": name,
                "test accuracy, %": percent(row["test_accuracy_mean"], row["test_accuracy_ci95"]),
            }
            columns = {"minus untrained": twins.get(name)} if twins else {}
            for column, control in (columns | {f"minus {control}": control for control in shared}).items():
                shown[column] = "" if control is None or name in controls else self._difference(name, control)
            rows.append(shown)
        return markdown_table(rows, list(rows[0]))

    def to_json(self, path: str | Path) -> None:
        """Writes runs, card and summary."""
        write_json(Path(path), {"card": self.card, "summary": self.summary(), "runs": self.runs})

    @classmethod
    def from_json(cls, path: str | Path) -> "ProbeReport":
        """Reads what `to_json` wrote."""
        content = read_json(Path(path))
        try:
            return cls(content["runs"], content["card"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no probe report") from error

    def merge(self, other: "ProbeReport") -> "ProbeReport":
        """The runs of both, which must have been probed alike.

        Raises:
            ArgumentError: The cards differ, or both have a representation of one name.
        """
        keys = sorted(({*self.card} | {*other.card}) - {*_OWN})
        if differing := [key for key in keys if self.card.get(key) != other.card.get(key)]:
            raise ArgumentError(f"reports that were probed differently cannot be merged: {', '.join(differing)} differ")
        if both := set(self.names) & set(other.names):
            raise ArgumentError(f"both reports hold {', '.join(sorted(both))}")
        card = self.card | {
            "controls": [*self.card["controls"], *other.card["controls"]],
            "representations": self.card["representations"] | other.card["representations"],
        }
        return ProbeReport([*self.runs, *other.runs], card)

    def plot(self, path: str | Path) -> None:
        """Draws test accuracy per epoch, means and range over the seeds, as a PNG file."""
        series = {
            name: [
                [100 * row["test_accuracy"] for row in run["history"]]
                for run in self.runs
                if run["representation"] == name
            ]
            for name in self.names
        }
        picture = curves(series, title=f"{self.card['probe']} probe", x_label="epoch", y_label="test accuracy, %")
        Path(path).write_bytes(picture)

    def _difference(self, name: str, control: str) -> str:
        mean, half = paired_difference(self.accuracies(name), self.accuracies(control))
        return percent(mean, half, sign=True)

    def _final(self, name: str, figure: str) -> list[float]:
        return [run["history"][-1][figure] for run in self.runs if run["representation"] == name]


def untrained_name(name: str) -> str:
    """What the untrained control of a representation is called."""
    return f"{name} (untrained)"


def percent(mean: float, half: float | None, *, sign: bool = False) -> str:
    """`12.3 ± 0.4`, in percent; without an interval where there is none."""
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if half is None else f"{text} ± {100 * half:.1f}"
