"""The report of `evaluate`: runs and card, and the intervals, tables and curves made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_pretext.config import read_json, write_json
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError, UnknownNameError
from ssl_pretext.probes.statistics import mean_interval, paired_difference

__all__ = ["ProbeReport"]

# Okabe & Ito 2008, told apart with every common form of colour blindness; black stays with the axes.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class ProbeReport:
    """What `evaluate` found.

    Attributes:
        runs: A `{"representation", "probe", "seed", "history"}` per representation and seed; history has a row
            `{"epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"}` per epoch.
        card: All that decides the numbers: probe, optimiser, seeds, the data's counts and hashes, versions, and under
            `"representations"` what each is and whether it is a control.

    Examples:
        >>> runs = [
        ...     {"representation": "pixels", "probe": "conv", "seed": seed,
        ...      "history": [{"epoch": 1, "test_accuracy": 0.5, "test_loss": 1.0}]} for seed in (0, 1)]
        >>> ProbeReport(runs, {"representations": {"pixels": {"control": True}}}).summary()[0]["test_accuracy_mean"]
        0.5
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """A row per representation: means over the seeds after the last epoch.

        Returns:
            Dicts `{"representation", "probe", "test_accuracy_mean", "test_accuracy_ci95", "test_loss_mean", "seeds"}`;
            `test_accuracy_ci95` is the half width of the 95% interval (None for a single seed) and `seeds` how many.
        """
        rows = []
        for name in self._names():
            accuracy, half_width = mean_interval(self._final(name, "test_accuracy"))
            rows.append(
                {
                    "representation": name,
                    "probe": self._runs_of(name)[0]["probe"],
                    "test_accuracy_mean": accuracy,
                    "test_accuracy_ci95": _json_number(half_width),
                    "test_loss_mean": mean_interval(self._final(name, "test_loss"))[0],
                    "seeds": len(self._runs_of(name)),
                }
            )
        return rows

    def differences(self, reference: str) -> list[dict[str, Any]]:
        """How much more accurate the others are than one representation, paired over the seeds.

        Args:
            reference: The name that is subtracted.

        Returns:
            Dicts `{"representation", "reference", "mean", "ci95", "significant"}`; significant means that the 95%
            interval leaves out 0, which a single seed can never show.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        if reference not in self._names():
            raise UnknownNameError(f"the report has no representation {reference!r}; it has {', '.join(self._names())}")
        return [self._difference(name, reference) for name in self._names() if name != reference]

    def table(self) -> str:
        """A Markdown table: accuracy, and what each trained representation gains over the controls, in %."""
        pixels = [name for name in self._names() if self._is_control(name) and self._control_of(name) is None]
        untrained = {self._control_of(name): name for name in self._names() if self._control_of(name) is not None}
        heads = ["representation", "test accuracy %", "test loss", *(f"vs {name}" for name in pixels)]
        if untrained:
            heads.append("vs untrained")
        lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        for row in self.summary():
            name = row["representation"]
            accuracy = f"{100 * row['test_accuracy_mean']:.1f}{_spread(row['test_accuracy_ci95'])}"
            references = [*pixels, *([untrained.get(name)] if untrained else [])]
            gains = ["" if self._is_control(name) or other is None else self._gain(name, other) for other in references]
            lines.append(_line([name, accuracy, f"{row['test_loss_mean']:.3f}", *gains]))
        seeds = len(self._runs_of(self._names()[0]))
        note = f"± is the half width of the 95% interval over {seeds} seeds" if seeds > 1 else "One seed: no intervals"
        lines += ["", f"{note}; differences are in points and paired by seed, * where the interval leaves out 0."]
        return "\n".join(lines) + "\n"

    def merge(self, other: "ProbeReport") -> "ProbeReport":
        """One report of the runs of two, which must have been measured alike.

        A representation that both hold is kept once, if its runs are the same.

        Raises:
            ArgumentError: The cards differ in more than the representations, or runs of the same name differ.
        """
        keys = sorted((set(self.card) | set(other.card)) - {"representations"})
        missing = object()
        if differing := [key for key in keys if self.card.get(key, missing) != other.card.get(key, missing)]:
            raise ArgumentError(f"these reports cannot be merged, their cards differ in: {', '.join(differing)}")
        mine, theirs = self.card["representations"], other.card["representations"]
        for name in sorted(set(mine) & set(theirs)):
            if mine[name] != theirs[name] or self._runs_of(name) != other._runs_of(name):
                raise ArgumentError(f"both reports hold {name!r}, with other results; rename one of them")
        added = [run for run in other.runs if run["representation"] not in mine]
        return ProbeReport([*self.runs, *added], {**self.card, "representations": {**mine, **theirs}})

    def to_json(self, path: str | Path) -> None:
        """Writes card, summary and runs, atomically."""
        write_json(Path(path), {"card": self.card, "summary": self.summary(), "runs": self.runs})

    @classmethod
    def from_json(cls, path: str | Path) -> "ProbeReport":
        """Reads what `to_json` wrote.

        Raises:
            MissingFileError: The file does not exist.
            CheckpointError: It is no probe report.
        """
        values = read_json(Path(path))
        if not isinstance(values, dict) or not {"card", "runs"} <= set(values):
            raise CheckpointError(f"{path} is not a probe report: it must hold 'card' and 'runs'")
        return cls(runs=values["runs"], card=values["card"])

    def plot(self, path: str | Path) -> None:
        """Draws test accuracy by epoch, a curve per representation with its 95% band over seeds, to a file.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependencyError("plots need matplotlib: pip install 'ssl-pretext[benchmarks]'") from error
        # Not pyplot, which would open a window's backend and keep the figure alive.
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(self._names()):
            color = PALETTE[index % len(PALETTE)]
            dash = DASHES[index // len(PALETTE) % len(DASHES)]
            epochs = [row["epoch"] for row in self._runs_of(name)[0]["history"]]
            curves = zip(
                *([row["test_accuracy"] for row in run["history"]] for run in self._runs_of(name)), strict=True
            )
            means, widths = zip(*(mean_interval(values) for values in curves), strict=True)
            low, high = ([100 * (m + sign * w) for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
            axes.plot(epochs, [100 * mean for mean in means], dash, color=color, label=name, marker="o", markersize=3)
            if not math.isnan(widths[0]):
                axes.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(path), dpi=150)

    def _names(self) -> list[str]:
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def _runs_of(self, name: str) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["representation"] == name]

    def _final(self, name: str, key: str) -> list[float]:
        """A number after the last epoch, by seed in a fixed order."""
        return [run["history"][-1][key] for run in sorted(self._runs_of(name), key=lambda run: run["seed"])]

    def _is_control(self, name: str) -> bool:
        return bool(self.card["representations"][name]["control"])

    def _control_of(self, name: str) -> str | None:
        of: str | None = self.card["representations"][name].get("control_of")
        return of

    def _difference(self, name: str, reference: str) -> dict[str, Any]:
        mean, half_width = paired_difference(
            self._final(name, "test_accuracy"), self._final(reference, "test_accuracy")
        )
        return {
            "representation": name,
            "reference": reference,
            "mean": mean,
            "ci95": _json_number(half_width),
            "significant": abs(mean) > half_width,  # false for NaN
        }

    def _gain(self, name: str, reference: str) -> str:
        row = self._difference(name, reference)
        return f"{100 * row['mean']:+.1f}{_spread(row['ci95'])}{' *' if row['significant'] else ''}"


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _spread(half_width: float | None) -> str:
    return "" if half_width is None else f" ± {100 * half_width:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
