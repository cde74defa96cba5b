"""Timing of several ways to compute the same result, which take turns, and checks that their results agree."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["OURS", "Measurement", "RunOptions", "check_equal", "time_in_turn"]

OURS = "ssl_pretext"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run of the benchmarks.

    Attributes:
        small: Whether to use tiny inputs, which show that everything runs but give meaningless times.
        rounds: Number of times that each variant is timed.
        data: Folders with `food-101/` in them, by the height and width of their images in pixels. Parts that need a
            folder that is not given are skipped.
    """

    small: bool = False
    rounds: int = 9
    data: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A piece of work that was measured in several variants.

    Attributes:
        work: Description of the work, with its sizes.
        variants: The measured values of each variant, one per round; ssl_pretext is the first variant.
        goals: The ratio to ssl_pretext that a variant should have at least, by variant.
        unit: Unit of the values; smaller values are better.
        agreement: Sentence about how far the results of the variants differ, without its period.
        seconds_at_peak: Seconds that the work would take if the machine did nothing but multiply matrices, or nothing
            but copy memory; for all variants, or by variant. 0 if that is unknown. See `benchmarks.speed.peaks`.
    """

    work: str
    variants: Mapping[str, list[float]]
    goals: Mapping[str, float] = field(default_factory=dict)
    unit: str = "s"
    agreement: str = ""
    seconds_at_peak: float | Mapping[str, float] = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """One row per variant: its median and range, the ratio of its median to ours, and the goal for that ratio."""
        ours = statistics.median(self.variants[OURS])
        rows = []
        for variant, values in self.variants.items():
            median = statistics.median(values)
            ratio = median / ours
            row = {"work": self.work, "side": variant, "unit": self.unit, "median": median}
            row |= {"least": min(values), "most": max(values), "rounds": len(values), "times_ours": ratio}
            row["agreement"] = self.agreement
            peak = self.seconds_at_peak
            if seconds := peak if isinstance(peak, float) else peak[variant]:
                row["share_of_peak"] = seconds / median
            if variant in self.goals:
                row |= {"goal": self.goals[variant], "met": ratio >= self.goals[variant]}
            rows.append(row)
        return rows


def time_in_turn(
    variants: Mapping[str, Callable[[], Any]], *, rounds: int, least_seconds: float = 0.02, warm_up: bool = True
) -> dict[str, list[float]]:
    """Times each variant once per round.

    Args:
        variants: Functions to time, by name.
        rounds: Number of rounds.
        least_seconds: Time that a variant should take in each round. A faster one is run several times in a row, so
            that the resolution of the clock does not matter.
        warm_up: Whether each variant runs twice beforehand. False is for variants that take seconds and have run.

    Returns:
        Seconds per run, one value per round, by name.
    """
    repeats = dict.fromkeys(variants, 1)
    for name, run in variants.items() if warm_up else ():
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, round(least_seconds / max(time.perf_counter() - start, 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            taken[name].append((time.perf_counter() - start) / repeats[name])
    return taken


def check_equal(name: str, ours: Tensor, theirs: Tensor, *, within: float, except_fraction: float = 0.0) -> float:
    """Checks that two results agree.

    Args:
        name: Name of the other variant.
        ours: The result of ssl_pretext.
        theirs: The result of the other variant.
        within: The largest difference that is allowed.
        except_fraction: Fraction of the values, those with the largest differences, that is not checked.

    Returns:
        The largest difference of the values that are checked.

    Raises:
        ArgumentError: The shapes differ, or the largest difference is above `within`. What gives different results is
            not compared.
    """
    if ours.shape != theirs.shape:
        raise ArgumentError(
            f"{name} gives a result of shape {tuple(theirs.shape)}, and ssl_pretext one of shape {tuple(ours.shape)}; "
            "only equal results are compared"
        )
    differences = (ours.double() - theirs.double()).abs().flatten()
    difference = float(differences.topk(1 + int(except_fraction * len(differences))).values[-1])
    if not difference <= within:
        raise ArgumentError(
            f"the result of {name} differs from that of ssl_pretext by {difference:.3g}, more than {within:g}; only "
            "equal results are compared"
        )
    return difference
