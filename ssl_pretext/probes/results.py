"""The runs of `evaluate` with their card: values of each metric, intervals, and differences between representations."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.probes.metrics import METRICS, Metric, find_metrics
from ssl_pretext.probes.outcome import unpack_confusions, unpack_scores
from ssl_pretext.probes.statistics import Interval, Scores, Spread, describe_difference, holm, interval, moderated
from ssl_pretext.probes.targets import find_kind
from ssl_pretext.probes.verdict import basis, is_prediction, share_networks, verdict
from ssl_pretext.registry import did_you_mean, joined

__all__ = ["ProbeResults"]

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
ENOUGH_SEEDS = 4  # with fewer, the spreads between seeds of the rows of a table are moderated


@dataclass(frozen=True, repr=False)
class ProbeResults:
    """The runs of `evaluate` with their card, and what is computed from them.

    Attributes:
        runs: A dict for each representation and seed, with the keys `"representation"`, `"probe"`, `"seed"`,
            `"labels"`, `"history"`, `"scores"` and the settings that were selected. The history has a row per epoch
            with `epoch`, `train_loss` and `test_loss`, and for classes `train_accuracy` and `test_accuracy`. The scores
            hold, by metric, a score of each test image, whose mean is the metric; `image_scores()` unpacks them.
            `"class_scores"` hold, by metric, such scores for each class, label, number or map, or None where the metric
            is undefined. `"confusions"` hold the number of test images by true and predicted class, if the targets are
            classes; `confusion()` unpacks them. `"part_scores"` and `"part_class_scores"` are scores of the same probe
            trained on a part of the labels, from which the uncertainty due to the choice of the labels is computed.
        card: All settings that determine the results, and statistics of the features.
    """

    runs: list[dict[str, Any]]
    card: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Names of the representations, including the controls, in the order of the runs."""
        return list(dict.fromkeys(run["representation"] for run in self.runs))

    def metric(self, name: str | None = None) -> Metric:
        """Returns a metric of the report by name; by default the main one.

        Args:
            name: Name of the metric, followed by the name of a class, label, number or map in brackets for that one
                alone, such as `"macro_f1[cat]"` or `"rmse[depth]"`.

        Raises:
            UnknownNameError: The report has no such metric or class.
            ArgumentError: The metric has no value for single classes, or no value for all numbers together.
        """
        main, bracket, rest = (name or self.card["metrics"][0]).partition("[")
        metric = self._known_metric(main)
        if bracket:
            return self._of_class(self.metric_per_class(main), rest.removesuffix("]"))
        if metric.has_units and len(names := self.card["names"]) > 1:
            raise ArgumentError(
                f"{main} has a unit of its own for each {self.each}, so there is no mean over them; name one, as in "
                f"{main}[{names[0]}], or use per_class({main!r})"
            )
        return metric

    def _known_metric(self, name: str) -> Metric:
        known = self.card["metrics"]
        if name not in known:
            raise UnknownNameError(
                f"the report has no metric {name!r}; it has {', '.join(known)}. Name the metrics in "
                "evaluate(metrics=[...])"
            )
        return find_metrics(self.card["target"], [name])[0]

    def _of_class(self, metric: Metric, name: str) -> Metric:
        names = self.card["names"]
        if name not in names:
            raise UnknownNameError(f"the report has no {self.each} {name!r}.{did_you_mean(name, names)}")
        images = self.card["test_images_per_class"][names.index(name)]
        # One of n images of a class moves the accuracy of the class by 1 / n, as m / n images move that of all m.
        return metric.for_class(name, metric.step * self.card["test"]["images"] / max(1, images))

    @property
    def each(self) -> str:
        """What each of the names of the targets names: `"class"`, `"label"`, `"number"` or `"map"`."""
        return find_kind(self.card["target"]).each

    def metric_per_class(self, name: str | None = None) -> Metric:
        """Returns a metric that has a value for each class, label, number or map; by default the first one.

        Raises:
            UnknownNameError: The report has no such metric.
            ArgumentError: The metric, or each metric of the report, has no value for single classes.
        """
        metrics = self.metrics_per_class() if name is None else [self._known_metric(name)]
        if metrics and metrics[0].per_class is not None:
            return metrics[0]
        every = [metric.name for metric in METRICS[self.card["target"]] if metric.per_class is not None]
        raise ArgumentError(
            f"{name or joined(self.card['metrics'])} has no value for a single {self.each}. These have one, if "
            f"evaluate(metrics=[...]) names them: {joined(every)}"
        )

    def metrics_per_class(self) -> list[Metric]:
        """Returns the metrics of the report that have a value for each class, label, number or map."""
        metrics = find_metrics(self.card["target"], self.card["metrics"])
        return [metric for metric in metrics if metric.per_class is not None]

    def per_class(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Returns a metric of each class, label, number or map, with its interval, for each representation.

        Args:
            metric: Name of a metric that is a mean over classes, such as `"balanced_accuracy"` (whose values are the
                accuracies on the images of each class), `"macro_f1"`, `"mean_average_precision"`, `"mean_iou"` or
                `"rmse"`; by default the first one of the report.

        Returns:
            Rows with the name of the `class` (or `label`, `number` or `map`), the number of its `test_images`, the
            `representation`, the `mean` over the seeds and half the width of its 95% interval as `ci95`. Both are NaN
            where the metric is undefined, such as for a class without test images.

        Raises:
            UnknownNameError: The report has no such metric.
            ArgumentError: The metric has no value for single classes.
        """
        chosen, rows = self.metric_per_class(metric).name, []
        for name, images in zip(self.card["names"], self.card["test_images_per_class"], strict=True):
            for representation in self.names:
                found = self.interval(representation, f"{chosen}[{name}]")
                about = {self.each: name, "test_images": images, "representation": representation}
                rows.append(about | {"mean": found.mean, "ci95": found.half})
        return rows

    def values(self, name: str, metric: str | None = None) -> list[float]:
        """Returns a metric of a representation, such as its test accuracy, for each seed.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return [float(value) for value in self.image_scores(name, metric).mean(axis=1)]

    def image_scores(self, name: str, metric: str | None = None) -> NDArray[Any]:
        """Returns a score of each test image for each seed, `(seeds, images)`, whose mean is the metric.

        The scores of accuracy are the hits: whether each image is classified correctly. Those of other metrics are the
        metric plus the influence of the image on it.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return self._unpacked(name, self.metric(metric))

    def confusion(self, name: str) -> NDArray[Any]:
        """Returns how many test images of each class are predicted to be of each class, as means over the seeds.

        Args:
            name: Name of the representation.

        Returns:
            Counts `(K, K)` by true and predicted class, in the order of `card["names"]`. Images of classes without
            training images are counted for the first class that the probe knows.

        Raises:
            UnknownNameError: The report has no such representation.
            ArgumentError: The targets are no classes.
        """
        if self.card["target"] != "class":
            raise ArgumentError(f"confusion() needs classes as targets; this report has {self.card['target']}")
        classes = len(self.card["names"])
        counts = [unpack_confusions(run["confusions"], classes) for run in self._runs(name)]
        return np.asarray(np.mean(counts, axis=0))

    def interval(self, name: str, metric: str | None = None) -> Interval:
        """Returns the mean of a metric over the seeds, with its 95% interval.

        The interval covers the seeds and the choice of the labeled images and of the test images, as far as the report
        shows their variation; `difference(...)["words"]` says which.

        Raises:
            UnknownNameError: The report has no such representation or metric.
        """
        return interval(self._scores(name, self.metric(metric)))

    def _scores(
        self, name: str, metric: Metric, reference: str | None = None, other: "ProbeResults | None" = None
    ) -> Scores:
        full, parts = self._unpacked(name, metric), self._part_scores(name, metric)
        if reference is None:
            return Scores(full, parts, step=metric.step)
        other = other or self
        other_parts = other._part_scores(reference, metric)
        return Scores(
            full - other._unpacked(reference, metric),
            None if parts is None or other_parts is None else parts - other_parts,
            other is self and is_prediction(self.card, name, reference),
            metric.step,
        )

    def _part_scores(self, name: str, metric: Metric) -> NDArray[Any] | None:
        return self._unpacked(name, metric, "part_") if "part_scores" in self._runs(name)[0] else None

    def _unpacked(self, name: str, metric: Metric, prefix: str = "") -> NDArray[Any]:
        images = self.card["test"]["images"]
        if metric.class_name is None:
            key, number = f"{prefix}scores", None
        else:
            key, number = f"{prefix}class_scores", self.card["names"].index(metric.class_name)
        found = []
        for run in self._runs(name):
            if key in run:
                text = run[key][metric.name] if number is None else run[key][metric.name][number]
                found.append(np.full(images, math.nan) if text is None else unpack_scores(text, images))
        # Differences of hits need a sign, and one byte each.
        return np.stack([one.astype(np.int8) if one.dtype == bool else one for one in found])

    def differences(self, reference: str, metric: str | None = None) -> list[dict[str, Any]]:
        """Returns `difference` for each representation except the reference."""
        return [self.difference(name, reference, metric=metric) for name in self.names if name != reference]

    def difference(
        self, name: str, reference: str, *, of: "ProbeResults | None" = None, metric: str | None = None
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

    def _settings_of(self, other: "ProbeResults") -> str:
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

    def card_differences(self, other: "ProbeResults") -> dict[str, tuple[Any, Any]]:
        """Returns the settings that differ, by name, with the value of this report and that of the other."""
        keys = sorted(({*self.card} | {*other.card}) - {*NOT_COMPARED})
        pairs = {key: (self.card.get(key), other.card.get(key)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

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
