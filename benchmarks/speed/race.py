"""Ways to the same result, timed in turn, and what that says."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["OURS", "Finding", "Size", "check_equal", "race"]

OURS = "ssl_pretext"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        small: Tiny inputs, which show that everything runs; their figures mean nothing.
        rounds: How many times each side is timed.
        data: Folders that hold `food-101/`, by the side of their images in pixels; parts that need one say so.
    """

    small: bool = False
    rounds: int = 9
    data: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the table: the same work done in several ways, ours first.

    Attributes:
        work: What was done, with its sizes.
        sides: What each round took, by side.
        goals: How many times less ours is to take than a side, at least.
        unit: Of the figures; less is better.
        agreement: By how much the results differ, in words.
    """

    work: str
    sides: Mapping[str, list[float]]
    goals: Mapping[str, float] = field(default_factory=dict)
    unit: str = "s"
    agreement: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """A row per side: the median with its spread, how many times ours it is, and what was to be reached."""
        ours = statistics.median(self.sides[OURS])
        rows = []
        for side, values in self.sides.items():
            ratio = statistics.median(values) / ours
            row = {"work": self.work, "side": side, "unit": self.unit, "median": statistics.median(values)}
            row |= {"least": min(values), "most": max(values), "rounds": len(values), "times_ours": ratio}
            row["agreement"] = self.agreement
            if side in self.goals:
                row |= {"goal": self.goals[side], "met": ratio >= self.goals[side]}
            rows.append(row)
        return rows


def race(sides: Mapping[str, Callable[[], Any]], *, rounds: int, least_seconds: float = 0.02) -> dict[str, list[float]]:
    """Seconds that each side took, once per round, in turn, after a warm-up of each.

    Short work is done several times in each round, so that the clock's own steps do not count.
    """
    repeats = {}
    for name, run in sides.items():
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, round(least_seconds / max(time.perf_counter() - start, 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            taken[name].append((time.perf_counter() - start) / repeats[name])
    return taken


def check_equal(name: str, ours: Tensor, theirs: Tensor, *, within: float, apart_from: float = 0.0) -> float:
    """The largest difference, apart from a share of the values: those that differ most.

    Raises:
        ArgumentError: It is larger than `within`: what differs is not compared.
    """
    if ours.shape != theirs.shape:
        raise ArgumentError(f"{name} has the shape {tuple(theirs.shape)}, ssl_pretext {tuple(ours.shape)}")
    differences = (ours.double() - theirs.double()).abs().flatten()
    difference = float(differences.topk(1 + int(apart_from * len(differences))).values[-1])
    if not difference <= within:
        raise ArgumentError(f"{name} differs from ssl_pretext by {difference:.3g}, more than {within:g}; not compared")
    return difference
