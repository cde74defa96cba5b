"""The plan of a search: how many tasks each round of successive halving trains, and for how many steps."""

import math
from collections.abc import Mapping, Sequence

from ssl_pretext.errors import ArgumentError

__all__ = ["plan_steps", "round_sizes"]

KEPT = 3  # one of so many tasks is trained again in the next round, for about as many times longer
LEAST_STEPS = 10  # of a run; fewer say nothing about a task


def round_sizes(count: int) -> list[int]:
    """Returns the number of tasks in each round of successive halving (Jamieson and Talwalkar 2016, 1502.07943).

    Each round gets the same time, so that the last one, which trains a single task, has a long run.

    Examples:
        >>> round_sizes(7), round_sizes(2), round_sizes(1)
        ([7, 3, 1], [2, 1], [1])
    """
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / KEPT))
    return sizes


def plan_steps(step_seconds: Mapping[str, float], sizes: Sequence[int], left: float, overhead: float) -> dict[str, int]:
    """Returns the number of steps of each run of the next round, so that all of its runs take the same time.

    Args:
        step_seconds: Seconds per step of each task of the round.
        sizes: Number of tasks in this round and in each one after it.
        left: Seconds that are left for all of these rounds.
        overhead: Seconds that a run takes beside its steps: to begin, to end, and to be scored.

    Raises:
        ArgumentError: The time is too short for the slowest task.

    Examples:
        >>> plan_steps({"colorization": 0.5, "split_brain": 1.0}, [2, 1], left=202.0, overhead=1.0)
        {'colorization': 99, 'split_brain': 49}
    """
    seconds = (left - overhead * sum(sizes)) / len(sizes) / sizes[0]
    slowest = max(step_seconds, key=lambda name: step_seconds[name])
    if seconds < LEAST_STEPS * step_seconds[slowest]:
        missing = (LEAST_STEPS * step_seconds[slowest] - seconds) * len(sizes) * sizes[0]
        raise ArgumentError(
            f"the time is too short: {LEAST_STEPS} steps of {slowest} alone take "
            f"{LEAST_STEPS * step_seconds[slowest]:.0f} s. Search for at least {math.ceil(missing / 6) / 10} minutes "
            "longer, or try fewer tasks, smaller images or a smaller encoder"
        )
    return {name: math.floor(seconds / one) for name, one in step_seconds.items()}
