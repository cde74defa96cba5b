"""The report of `evaluate`: all runs, the card with the settings that determined them, tables, plots and sentences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.probes.controls import before_name, untrained_name
from ssl_pretext.probes.outcome import unpack_hits
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
from ssl_pretext.reporting.plots import curves, forest, lines
from ssl_pretext.representations.collapse import health_rows
from ssl_pretext.system.files import read_json, write_bytes, write_json

__all__ = ["ProbeReport", "difference_plot", "percent"]

# Entries of the card that two comparable reports may differ in: they describe what is compared, and not how, or follow
# from the images, whose hashes are compared.
NOT_COMPARED = ("controls", "against", "without_twin", "health", "representations", "code", "guessed", "seen")
PAIRED = ("seeds", "train", "test", "label_fraction", "per_class", "classes_without_training_images")
ROUNDED = 0.005  # half a percentage point
ENOUGH_SEEDS = 4  # with fewer, the spreads between seeds of the rows of a table are moderated


@dataclass(frozen=True, repr=False)
class ProbeReport:
    """The result of `evaluate`.

    Attributes:
        runs: A dict for each representation and seed, with the keys `"representation"`, `"probe"`, `"seed"`,
            `"labels"`, `"history"`, `"hits"` and the settings that were selected. The history has a row per epoch with
            `epoch`, `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy`. The hits say which test images are
            classified correctly; `hits()` unpacks them. `"part_hits"` are those of the same probe trained on a part of
            the labels, from which the uncertainty due to the choice of the labels is computed.
        card: All settings that determine the results, and statistics of the features.
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    def __repr__(self) -> str:
        # A notebook shows this text; the text that dataclasses generate would be pages of runs.
        return f"<ProbeReport: {self.card.get('probe')} probe of {', '.join(self.names)}>"

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *self.sentences()])

    @property
    def names(self) -> list[str]:
        """Names of the representations, including the controls, in the order of the runs."""
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def accuracies(self, name: str) -> list[float]:
        """Returns the final test accuracies of a representation, one per seed.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        return self._final(name, "test_accuracy")

    def summary(self) -> list[dict[str, Any]]:
        """Returns a row per representation with its mean accuracy and loss.

        `test_accuracy_ci95` is half the width of the 95% interval.
        """
        rows = []
        for name in self.names:
            accuracy = self.interval(name)
            loss, _ = mean_interval(self._final(name, "test_loss"))
            rows.append(
                {
                    "representation": name,
                    "probe": self.card["probe"],
                    "test_accuracy_mean": accuracy.mean,
                    "test_accuracy_ci95": accuracy.half,
                    "test_loss_mean": loss,
                    "seeds": len(self.card["seeds"]),
                }
            )
        return rows

    def differences(self, reference: str) -> list[dict[str, Any]]:
        """Returns `difference` for each representation except the reference."""
        return [self.difference(name, reference) for name in self.names if name != reference]

    def difference(self, name: str, reference: str, *, of: "ProbeReport | None" = None) -> dict[str, Any]:
        """Computes the test accuracy of a representation minus that of another, paired by seed and test image.

        Args:
            name: Name of the representation.
            reference: Name of the representation whose accuracy is subtracted.
            of: The report that holds the reference, by default this one. It must have the same seeds, labeled images
                and test images, such as a report of another probe.

        Returns:
            A row with the `mean` difference, half the width of its 95% interval as `ci95`, the `p`-value, whether the
            difference is `significant`, and a description in `words`, which says what the interval covers. For a
            control of the representation it is its row of `against_controls`.

        Raises:
            UnknownNameError: The report has no such representation.
            ArgumentError: The reports do not have the same seeds and images.
        """
        other = of or self
        if of is not None and any(self.card[key] != of.card[key] for key in PAIRED):
            raise ArgumentError(
                "difference() needs two reports with the same seeds, labeled images and test images; they differ in "
                + ", ".join(key for key in PAIRED if self.card[key] != of.card[key])
            )
        if of is None and reference in self.card["against"].get(name, {}).values():
            rows = self.against_controls()
            return next(row for row in rows if (row["representation"], row["reference"]) == (name, reference))
        found = interval(self._scores(name, reference, other))
        if of is None:
            return self._row(name, reference, found, verdict(self.card, name, reference, found))
        label = f"{reference} {self._settings_of(of)}"
        return self._row(name, label, found, describe_difference(found, label, basis(self.card, name)))

    def _settings_of(self, other: "ProbeReport") -> str:
        """Says how another report differs from this one, as the end of the name of a representation in it."""
        if other.card["probe"] != self.card["probe"]:
            return f"with the {other.card['probe']} probe"
        settings = [f"{key}={theirs!r}"[:80] for key, (_, theirs) in self.card_differences(other).items()]
        return f"with {', '.join(settings)}" if settings else "of the other report"

    def against_controls(self) -> list[dict[str, Any]]:
        """Returns a row as of `difference` for each representation and each of its controls.

        Each row has the p-value after the correction of Holm for all rows as `p_holm`. With two or three seeds, the
        spreads of different networks compared with one kind of control are `moderated`.
        """
        pairs = [
            (label, name, control)
            for name, controls in self.card["against"].items()
            for label, control in controls.items()
        ]
        scores = [self._scores(name, control) for _, name, control in pairs]
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
            self._row(name, control, one, verdict(self.card, name, control, one)) | {"p_holm": p}
            for (_, name, control), one, p in zip(pairs, found, corrected, strict=True)
        ]

    def sentences(self) -> list[str]:
        """Returns a sentence per comparison with a control, then one about guessing, and warnings if there are any."""
        rows = self.against_controls()
        return [
            *(f"{row['representation']}: {row['words']}." for row in rows),
            *describe_correction(rows),
            *self._describe_bounds(),
            *warnings(self.card, self.runs),
        ]

    def _describe_bounds(self) -> list[str]:
        found = [self.interval(name) for name in self.names]
        if not any(one.mean - one.half < -ROUNDED or one.mean + one.half > 1 + ROUNDED for one in found):
            return []
        return [
            "Intervals that reach below 0% or above 100% end there; with so few test images or seeds, the accuracy is "
            "hardly known."
        ]

    def hits(self, name: str) -> NDArray[np.bool_]:
        """Returns whether the probe of each seed classifies each test image correctly, `(seeds, images)`.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        images = self.card["test"]["images"]
        return np.stack([unpack_hits(run["hits"], images) for run in self._runs(name)])

    def interval(self, name: str) -> Interval:
        """Returns the mean accuracy of a representation with its 95% interval.

        The interval covers the seeds and the choice of the labeled images and of the test images, as far as the report
        shows their variation; `difference(...)["words"]` says which.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        return interval(self._scores(name))

    def _scores(self, name: str, reference: str | None = None, other: "ProbeReport | None" = None) -> Scores:
        full, parts = self.hits(name).astype(np.int8), self._part_hits(name)
        if reference is None:
            return Scores(full, parts)
        other = other or self
        other_parts = other._part_hits(reference)
        return Scores(
            full - other.hits(reference),
            None if parts is None or other_parts is None else parts - other_parts,
            other is self and is_prediction(self.card, name, reference),
        )

    def _part_hits(self, name: str) -> NDArray[np.int8] | None:
        images = self.card["test"]["images"]
        packed = [run["part_hits"] for run in self._runs(name) if "part_hits" in run]
        return np.stack([unpack_hits(hits, images) for hits in packed]).astype(np.int8) if packed else None

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
        """Returns the representation with the best accuracy on held-out *training* images, averaged over the seeds.

        Args:
            names: Names of the representations to choose from, such as the layers of a network; by default all except
                the controls.

        Raises:
            ArgumentError: The probe has no accuracy on held-out training images (only the linear and knn probes have,
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
            values = [run["validation_accuracy"] for run in self._runs(name) if "validation_accuracy" in run]
            if not values:
                probe = self.card["probe"]
                reason = (
                    "cannot be computed from one labeled image per class; evaluate with more labels"
                    if probe in ("linear", "knn")
                    else f"the {probe} probe of {name!r} does not have; use the linear or knn probe"
                )
                raise ArgumentError(f"best() needs accuracies on held-out training images, which {reason}")
            held_out[name] = statistics.fmean(values)
        return max(held_out, key=lambda name: held_out[name])

    def table(self) -> str:
        """Returns `rows` as a Markdown table."""
        rows = self.rows()
        return markdown_table(rows, list(rows[0]))

    def rows(self) -> list[dict[str, object]]:
        """Returns a row per representation with its accuracy and its differences from the controls, in percent.

        Each network is compared with its own untrained twin and its own source channels, and with the controls that all
        representations share.
        """
        labels = list(dict.fromkeys(label for controls in self.card["against"].values() for label in controls))
        compared = {(row["representation"], row["reference"]): row for row in self.against_controls()}
        rows = []
        for row in self.summary():
            name = row["representation"]
            shown: dict[str, object] = {
                "representation": name,
                "test accuracy, %": percent(row["test_accuracy_mean"], row["test_accuracy_ci95"]),
            }
            controls = self.card["against"].get(name, {})
            for label in labels:
                found = compared[name, controls[label]] if label in controls else None
                shown[f"minus {label}"] = "" if found is None else percent(found["mean"], found["ci95"], sign=True)
            rows.append(shown)
        return rows

    def health_table(self) -> str:
        """Returns the statistics of `feature_health`, which show collapsed features, as a Markdown table."""
        rows = health_rows(self.card["health"])
        return markdown_table(rows, list(rows[0]))

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
            _ = [(run["representation"], run["hits"]) for run in content["runs"]]
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
                shown[heading] = report.percent(name) if name in report.names else ""
            if not differing and name in self.names and name in other.names:
                row = self.difference(name, name, of=other)
                shown["difference"] = percent(row["mean"], row["ci95"], sign=True)
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

    def plot(self, path: str | Path, *, loss: bool = False, title: str | None = None) -> None:
        """Draws the mean and the range over the seeds of the test accuracy per epoch, as a PNG file.

        Args:
            path: Path of the file to write.
            loss: Whether to draw the test loss in place of the accuracy.
            title: Title of the plot, by default the name of the probe.
        """
        key, label, factor = ("test_loss", "test loss", 1) if loss else ("test_accuracy", "test accuracy, %", 100)
        series = {
            name: [
                [math.nan if row[key] is None else factor * row[key] for row in run["history"]]
                for run in self._runs(name)
            ]
            for name in self.names
        }
        picture = curves(series, title=title or f"{self.card['probe']} probe", x_label="epoch", y_label=label)
        write_bytes(Path(path), picture)

    def plot_differences(
        self, path: str | Path, names: Sequence[str] | None = None, *, title: str | None = None
    ) -> None:
        """Draws the paired differences from the controls with their intervals, as a PNG file.

        Args:
            path: Path of the file to write.
            names: Names of the representations to show, by default all except the controls.
            title: Title of the plot, by default the name of the probe.
        """
        rows = [row for row in self.against_controls() if names is None or row["representation"] in names]
        write_bytes(Path(path), difference_plot(rows, title=title or f"{self.card['probe']} probe"))

    def plot_layers(self, path: str | Path, layers: Sequence[str], *, title: str | None = None) -> None:
        """Draws the accuracy of the layers of a network and of their untrained twins, as a PNG file.

        Args:
            path: Path of the file to write.
            layers: Names of the representations of the layers, in running order.
            title: Title of the plot, by default the name of the probe.

        Raises:
            UnknownNameError: The report has no such representation.
        """
        places = list(enumerate(layers))
        series = {"trained": [(i, *self.in_percent(name)) for i, name in places]}
        twins = [
            (i, *self.in_percent(untrained_name(name))) for i, name in places if untrained_name(name) in self.names
        ]
        shared = [name for name in self.card["controls"] if not name.endswith((untrained_name(""), before_name("")))]
        picture = lines(
            series | ({"untrained": twins} if twins else {}),
            title=title or f"{self.card['probe']} probe by layer",
            x_label="layer",
            y_label="test accuracy, %",
            x_names=list(layers),
            reference={name: self.in_percent(name)[0] for name in shared},
        )
        write_bytes(Path(path), picture)

    def in_percent(self, name: str) -> tuple[float, float]:
        """Returns the mean accuracy of a representation and half the width of its interval, in percent."""
        found = self.interval(name)
        return 100 * found.mean, 100 * found.half

    def percent(self, name: str) -> str:
        """Returns the mean accuracy of a representation with half the width of its interval, such as `"12.3 ± 0.4"`."""
        found = self.interval(name)
        return percent(found.mean, found.half)

    def _runs(self, name: str) -> list[dict[str, Any]]:
        if name not in self.names:
            raise UnknownNameError(f"the report has no representation {name!r}; it has {', '.join(self.names)}")
        return [run for run in self.runs if run["representation"] == name]

    def _final(self, name: str, key: str) -> list[float]:
        # JSON has no NaN, so the loss of a probe that diverged is read back as None.
        values = [run["history"][-1][key] for run in self._runs(name)]
        return [math.nan if value is None else value for value in values]


def difference_plot(rows: Sequence[Mapping[str, Any]], *, title: str) -> bytes:
    """Draws rows of `difference_row` in percentage points, grouped by representation; returns a PNG."""
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
    """Formats a fraction and half the width of its interval in percent, without an interval if `half` is None.

    Examples:
        >>> percent(0.123, 0.004)
        '12.3 ± 0.4'
        >>> percent(0.02, None, sign=True)
        '+2.0'
    """
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if half is None else f"{text} ± {100 * half:.1f}"
