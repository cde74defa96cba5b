"""The report of `evaluate`: every run, the card of what decided them, and what follows."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.probes.controls import untrained_name
from ssl_pretext.probes.statistics import describe_difference, mean_interval, paired_difference, significant
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import curves, forest, lines
from ssl_pretext.representations.collapse import health_rows
from ssl_pretext.system.files import read_json, write_bytes, write_json

__all__ = ["ProbeReport", "difference_plot", "difference_row", "percent"]

# What may differ between two reports that are still about the same question.
_OWN = ("controls", "against", "health", "representations", "code", "guessed", "seen")
FEW_STEPS = 100  # after which a network that began at random is hardly trained


@dataclass(frozen=True, repr=False)
class ProbeReport:
    """What `evaluate` found.

    Attributes:
        runs: `{"representation", "probe", "seed", "history"}` each; a history row per epoch holds `epoch`,
            `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy`.
        card: Everything that decided the figures.
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    def __repr__(self) -> str:
        # Not all runs and the card, which are pages long: a notebook shows this.
        return f"<ProbeReport: {self.card.get('probe')} probe of {', '.join(self.names)}>"

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *self.sentences()])

    @property
    def names(self) -> list[str]:
        """The representations, controls included, in the order of their runs."""
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def accuracies(self, name: str) -> list[float]:
        """Final test accuracies of one representation, a figure per seed."""
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
        return [self.difference(name, reference) for name in self.names if name != reference]

    def difference(self, name: str, reference: str) -> dict[str, Any]:
        """Test accuracy of one representation minus another's, seed by seed, with what follows from the interval."""
        return difference_row(name, self.accuracies(name), reference, self.accuracies(reference))

    def against_controls(self) -> list[dict[str, Any]]:
        """`difference` of each representation and each of its controls."""
        pairs = [(name, control) for name, controls in self.card["against"].items() for control in controls.values()]
        return [self.difference(name, control) for name, control in pairs]

    def sentences(self) -> list[str]:
        """What follows from each comparison with a control, what guessing gets, and what to be wary of."""
        found = [f"{row['representation']}: {row['words']}." for row in self.against_controls()]
        chance, guessed = 1 / self.card["classes"], self.card.get("guessed")  # which older reports do not hold
        frequent = "" if guessed is None or guessed <= chance else f"; naming the most frequent class, {guessed:.1%}"
        found.append(f"Guessing one of {self.card['classes']} classes gets {chance:.1%}{frequent}.")
        if seen := self.card.get("seen"):
            found.append(
                f"Be wary: {seen:,} of {self.card['test']['images']:,} test images are training images, pixel by pixel."
            )
        images = self.runs[0].get("labels", self.card["train"]["images"])
        if self.card.get("optimizer") == "AdamW":
            steps = self.card["epochs"] * max(1, images // self.card["batch_size"])
            if steps < FEW_STEPS:
                found.append(
                    f"Be wary: {images} labels make too few steps ({steps}) to train the {self.card['probe']} probe. "
                    "The linear one and kNN make more of few labels; more epochs make more steps."
                )
        return found

    def best(self, names: Sequence[str] | None = None) -> str:
        """The representation with the best accuracy on held-out *training* images, averaged over the seeds.

        Args:
            names: To choose from, such as the layers of a network; all that are no controls by default.

        Raises:
            ArgumentError: The probe holds no training images out (only the linear one and kNN do), or there are only
                controls.
            UnknownNameError: The report has no such representation.
        """
        held_out: dict[str, float] = {}
        candidates = list(names or self.card["against"])
        if not candidates:
            raise ArgumentError("the report holds nothing but controls to choose from")
        for name in candidates:
            values = [run["validation_accuracy"] for run in self._runs(name) if "validation_accuracy" in run]
            if not values:
                raise ArgumentError(f"the {self.card['probe']} probe of {name!r} has no accuracy but on test images")
            held_out[name] = statistics.fmean(values)
        return max(held_out, key=lambda name: held_out[name])

    def table(self) -> str:
        """`rows` as a Markdown table."""
        rows = self.rows()
        return markdown_table(rows, list(rows[0]))

    def rows(self) -> list[dict[str, object]]:
        """Accuracy and paired differences against the controls, in percent, a row per representation.

        Each network is compared with its own untrained twin and its own source channels, and with what all share.
        """
        labels = list(dict.fromkeys(label for controls in self.card["against"].values() for label in controls))
        rows = []
        for row in self.summary():
            name = row["representation"]
            shown: dict[str, object] = {
                "representation": name,
                "test accuracy, %": percent(row["test_accuracy_mean"], row["test_accuracy_ci95"]),
            }
            controls = self.card["against"].get(name, {})
            for label in labels:
                found = self.difference(name, controls[label]) if label in controls else None
                shown[f"minus {label}"] = "" if found is None else percent(found["mean"], found["ci95"], sign=True)
            rows.append(shown)
        return rows

    def health_table(self) -> str:
        """Whether features have collapsed, as a Markdown table; see `feature_health`."""
        rows = health_rows(self.card["health"])
        return markdown_table(rows, list(rows[0]))

    def to_json(self, path: str | Path) -> None:
        """Writes runs, card and summary."""
        write_json(Path(path), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Card, summary and runs, JSON-ready."""
        return {"card": self.card, "summary": self.summary(), "runs": self.runs}

    @classmethod
    def from_json(cls, path: str | Path) -> "ProbeReport":
        """Reads what `to_json` wrote.

        Raises:
            MissingFileError: There is no such file.
            CheckpointError: It holds something else.
        """
        content = read_json(Path(path))
        try:
            return cls(content["runs"], content["card"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no probe report") from error

    def card_differences(self, other: "ProbeReport") -> dict[str, tuple[Any, Any]]:
        """What decides the figures of one report and not the other's, by name: both values."""
        keys = sorted(({*self.card} | {*other.card}) - {*_OWN})
        pairs = {key: (self.card.get(key), other.card.get(key)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def compare(self, other: "ProbeReport") -> str:
        """Both reports' accuracies side by side as Markdown, and what differs between their probe cards.

        Paired differences are shown only where the cards agree: else the figures answer different questions.
        """
        differing = self.card_differences(other)
        rows = []
        for name in dict.fromkeys([*self.names, *other.names]):
            shown: dict[str, object] = {"representation": name}
            for heading, report in (("this report, %", self), ("the other, %", other)):
                found = percent(*mean_interval(report.accuracies(name))) if name in report.names else ""
                shown[heading] = found
            if not differing and name in self.names and name in other.names:
                mean, half = paired_difference(self.accuracies(name), other.accuracies(name))
                shown["difference"] = percent(mean, half, sign=True)
            rows.append(shown)
        verdict = [f"- {key}: {mine!r} here, {theirs!r} there" for key, (mine, theirs) in differing.items()]
        lead = "Not comparable: the probe cards differ." if differing else "The probe cards agree."
        columns = ["representation", "this report, %", "the other, %", *([] if differing else ["difference"])]
        return "\n".join([lead, *verdict, "", markdown_table(rows, columns)])

    def merge(self, other: "ProbeReport") -> "ProbeReport":
        """The runs of both, which must have been probed alike; controls that both have are taken from the first.

        Raises:
            ArgumentError: The cards differ, or both have another representation of one name.
        """
        if differing := self.card_differences(other):
            raise ArgumentError(f"reports that were probed differently cannot be merged: {', '.join(differing)} differ")
        both = set(self.names) & set(other.names)
        mine, theirs = self.card["representations"], other.card["representations"]
        if clash := sorted(name for name in both if mine[name] != theirs[name]):
            raise ArgumentError(f"both reports hold {', '.join(clash)}, and they are not the same")
        card = self.card | {
            "controls": list(dict.fromkeys([*self.card["controls"], *other.card["controls"]])),
            **{key: other.card[key] | self.card[key] for key in ("health", "representations")},
            "against": {
                name: other.card["against"].get(name, {}) | self.card["against"].get(name, {})
                for name in dict.fromkeys([*self.card["against"], *other.card["against"]])
            },
        }
        return ProbeReport([*self.runs, *(run for run in other.runs if run["representation"] not in both)], card)

    def plot(self, path: str | Path, *, loss: bool = False, title: str | None = None) -> None:
        """Draws test accuracy, or test loss, per epoch: means and range over the seeds, as a PNG file."""
        figure, label, factor = ("test_loss", "test loss", 1) if loss else ("test_accuracy", "test accuracy, %", 100)
        series = {
            name: [
                [math.nan if row[figure] is None else factor * row[figure] for row in run["history"]]
                for run in self._runs(name)
            ]
            for name in self.names
        }
        picture = curves(series, title=title or f"{self.card['probe']} probe", x_label="epoch", y_label=label)
        write_bytes(Path(path), picture)

    def plot_differences(
        self, path: str | Path, names: Sequence[str] | None = None, *, title: str | None = None
    ) -> None:
        """Draws the paired differences against the controls with their intervals, as a PNG file.

        Args:
            path: Of the file.
            names: Of the representations to show; all that are no controls by default.
            title: Of the picture.
        """
        rows = [row for row in self.against_controls() if names is None or row["representation"] in names]
        write_bytes(Path(path), difference_plot(rows, title=title or f"{self.card['probe']} probe"))

    def plot_layers(self, path: str | Path, layers: Sequence[str], *, title: str | None = None) -> None:
        """Draws the accuracy of the layers of a network, and of their untrained twins, as a PNG file."""
        places = list(enumerate(layers))
        series = {"trained": [(i, *self.in_percent(name)) for i, name in places]}
        twins = [
            (i, *self.in_percent(untrained_name(name))) for i, name in places if untrained_name(name) in self.names
        ]
        shared = [name for name in self.card["controls"] if not name.endswith(untrained_name(""))]
        picture = lines(
            series | ({"untrained": twins} if twins else {}),
            title=title or f"{self.card['probe']} probe by layer",
            x_label="layer",
            y_label="test accuracy, %",
            x_names=list(layers),
            reference={name: self.in_percent(name)[0] for name in shared},
        )
        write_bytes(Path(path), picture)

    def in_percent(self, name: str) -> tuple[float, float | None]:
        """Mean accuracy of a representation and half its interval, in percent."""
        mean, half = mean_interval(self.accuracies(name))
        return 100 * mean, None if half is None else 100 * half

    def _runs(self, name: str) -> list[dict[str, Any]]:
        if name not in self.names:
            raise UnknownNameError(f"the report has no representation {name!r}; it has {', '.join(self.names)}")
        return [run for run in self.runs if run["representation"] == name]

    def _final(self, name: str, figure: str) -> list[float]:
        # JSON knows no NaN: what diverged comes back as null.
        values = [run["history"][-1][figure] for run in self._runs(name)]
        return [math.nan if value is None else value for value in values]


def difference_row(name: str, values: Sequence[float], reference: str, against: Sequence[float]) -> dict[str, Any]:
    """Accuracies minus others, seed by seed, with what follows from the interval."""
    mean, half = paired_difference(values, against)
    return {
        "representation": name,
        "reference": reference,
        "mean": mean,
        "ci95": half,
        "significant": significant(mean, half),
        "words": describe_difference(mean, half, reference),
    }


def difference_plot(rows: Sequence[Mapping[str, Any]], *, title: str) -> bytes:
    """A PNG of rows of `difference_row`, in points, by representation."""
    bars = [
        {
            "label": f"minus {row['reference']}",
            "mean": 100 * row["mean"],
            "half": 100 * row["ci95"] if row["ci95"] else None,
            "group": row["representation"],
        }
        for row in rows
    ]
    return forest(bars, title=title, x_label="difference of test accuracy, points")


def percent(mean: float, half: float | None, *, sign: bool = False) -> str:
    """`12.3 ± 0.4`, in percent; without an interval where there is none."""
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if half is None else f"{text} ± {100 * half:.1f}"
