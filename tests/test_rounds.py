"""The plan of a search: its rounds, and equal times of the runs of one round."""

from itertools import pairwise

import pytest

from ssl_pretext.errors import ArgumentError
from ssl_pretext.selection.rounds import LEAST_STEPS, plan_steps, round_sizes


@pytest.mark.parametrize("count", range(1, 30))
def test_rounds_end_with_one_task_and_keep_a_third(count):
    sizes = round_sizes(count)
    assert sizes[0] == count
    assert sizes[-1] == 1
    assert all(3 * after - 3 < before <= 3 * after for before, after in pairwise(sizes))


def test_all_runs_of_a_round_take_the_same_time_and_all_rounds_together_the_time_that_is_left():
    step, overhead, left = {"a": 0.01, "b": 0.02, "c": 0.04, "d": 0.01}, 2.0, 600.0
    sizes, used = round_sizes(4), 0.0
    for number, size in enumerate(sizes):
        names = list(step)[:size]
        steps = plan_steps({name: step[name] for name in names}, sizes[number:], left - used, overhead)
        seconds = [steps[name] * step[name] for name in names]
        assert max(seconds) - min(seconds) <= 0.04
        used += sum(seconds) + overhead * size
    assert used == pytest.approx(left, abs=0.3)
    assert seconds[0] > 150, "the last run has a large part of the time"


def test_a_time_that_is_too_short_says_how_much_is_missing():
    with pytest.raises(
        ArgumentError, match=r"10 steps of slow alone take 10 s. Search for at least (\d\.\d) minutes"
    ) as found:
        plan_steps({"slow": 1.0, "fast": 0.1}, [2, 1], left=10.0, overhead=1.0)
    missing = 60 * float(str(found.value).split("at least ")[1].split()[0])
    steps = plan_steps({"slow": 1.0, "fast": 0.1}, [2, 1], left=10.0 + missing, overhead=1.0)
    assert steps["slow"] in (LEAST_STEPS, LEAST_STEPS + 1)
