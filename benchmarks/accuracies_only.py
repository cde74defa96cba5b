"""Intervals for results that hold accuracies per seed without the hits per test image, as earlier runs stored them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from scipy.stats import t

from ssl_pretext.probes import ACCURACY, Spread, holm, moderated

__all__ = ["AccuraciesOnly"]

ENOUGH_SEEDS = 4  # with fewer, spreads are moderated, as by `ProbeReport`


@dataclass(frozen=True)
class AccuraciesOnly:
    """What the tables of a comparison need of a `ProbeReport`, from accuracies alone.

    An interval covers the seeds and the choice of the test images. Their variance is that of independent hits, which is
    more than the true one, because two classifiers tend to fail on the same images. The labeled images are held fixed.

    Attributes:
        by_seed: Accuracies per seed, by the name of the representation.
        controls: For each pretrained representation, the name of its untrained control.
        images: Number of test images.
    """

    by_seed: Mapping[str, Sequence[float]]
    controls: Mapping[str, str]
    images: int

    @property
    def names(self) -> list[str]:
        """Names of the representations, including the controls."""
        return list(self.by_seed)

    @property
    def card(self) -> dict[str, Any]:
        """The seeds, and the controls of each representation, in the form of a probe card."""
        return {
            "seeds": list(range(len(next(iter(self.by_seed.values()))))),
            "against": {name: {"untrained": control} for name, control in self.controls.items()},
        }

    def values(self, name: str) -> Sequence[float]:
        """Returns the accuracies of a representation, one per seed."""
        return self.by_seed[name]

    def text(self, name: str) -> str:
        """Returns the mean accuracy of a representation with half the width of its interval."""
        mean = fmean(self.by_seed[name])
        return ACCURACY.text(mean, self._half(_spread(self.by_seed[name]), mean)[0])

    def against_controls(self) -> list[dict[str, Any]]:
        """Returns the differences from the untrained controls, as `ProbeReport.against_controls` does."""
        pairs = list(self.controls.items())
        spreads = [_spread(self._differences(*pair)) for pair in pairs]
        if len(self.card["seeds"]) < ENOUGH_SEEDS:
            spreads = moderated(spreads)
        rows = [self._row(*pair, spread) for pair, spread in zip(pairs, spreads, strict=True)]
        return [row | {"p_holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]

    def difference(self, name: str, reference: str) -> dict[str, Any]:
        """Returns the difference between two representations, as `ProbeReport.difference` does."""
        return self._row(name, reference, _spread(self._differences(name, reference)))

    def _differences(self, name: str, reference: str) -> list[float]:
        return [a - b for a, b in zip(self.by_seed[name], self.by_seed[reference], strict=True)]

    def _row(self, name: str, reference: str, spread: Spread) -> dict[str, Any]:
        mean = fmean(self._differences(name, reference))
        half, p = self._half(spread, *(fmean(self.by_seed[one]) for one in (name, reference)), mean=mean)
        return {
            "representation": name,
            "reference": reference,
            "mean": mean,
            "ci95": half,
            "p": p,
            "significant": abs(mean) > half,
        }

    def _half(self, spread: Spread, *means: float, mean: float = 0.0) -> tuple[float, float]:
        """Half the width of a 95% interval, and the p-value of a mean of 0."""
        total = spread.total + sum(one * (1 - one) for one in means) / self.images
        freedom = max(spread.freedom, total**2 * spread.freedom / spread.total**2) if spread.total else math.inf
        error = math.sqrt(total)
        return float(t.ppf(0.975, freedom)) * error, float(2 * t.sf(abs(mean) / error, freedom))


def _spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(0.0, 0.0, math.inf)
    return Spread(variance(values) / len(values), 0.0, len(values) - 1)
