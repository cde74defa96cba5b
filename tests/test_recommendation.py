"""What a search recommends, and how often it is wrong where there is nothing to find."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from ssl_pretext.probes.statistics import Interval
from ssl_pretext.selection.recommendation import Contrast, held_out_contrasts, held_out_interval, recommend

ACCURACIES = {"pixels": 0.3, "histogram": 0.5, "net": 0.4}


def contrast(reference, mean, half=0.1):
    return Contrast(reference, Interval(mean, half, 0.5), f"words about {reference}")


@pytest.mark.parametrize(
    ("differences", "use", "shown", "says"),
    [
        ({"pixels": 0.3, "histogram": 0.2}, "task", True, "Pretrain with task: it is words about histogram, and above"),
        ({"pixels": 0.3}, "task", True, "Pretrain with task: it is words about pixels."),
        ({"pixels": 0.3, "histogram": 0.05}, "histogram", False, "It is not shown that pretraining helps: task has"),
        ({"pixels": 0.05, "histogram": 0.05}, "histogram", False, "histogram needs no pretraining, so use that"),
        ({"pixels": 0.05, "histogram": 0.3}, "pixels", False, "words about pixels"),
        ({"pixels": 0.3, "histogram": 0.05, "net": -0.3}, "net", True, "Use net: task is words about net."),
        ({"pixels": -0.3, "net": -0.2}, "net", True, "Use net"),
    ],
)
def test_the_task_is_recommended_only_if_it_is_above_all_others(differences, use, shown, says):
    found = recommend("task", [contrast(name, mean) for name, mean in differences.items()], ACCURACIES)
    assert (found.use, found.shown) == (use, shown)
    assert says in found.sentence


def test_the_interval_is_that_of_the_images_widened_for_shared_labels_and_for_the_choice():
    generator = np.random.default_rng(0)
    first, second = (generator.random((3, 400)) < chance for chance in (0.7, 0.6))
    found = held_out_interval(first, second, folds=5, choices=7)
    of_images = (first.astype(int) - second).mean(axis=0)
    variance = (of_images.var() * 400 + 2) / 400**2  # plus two images that differ; see `probes/statistics.py`
    assert found.mean == pytest.approx(of_images.mean())
    assert found.half == pytest.approx(norm.ppf(1 - 0.025 / 7) * math.sqrt(variance * (1 + 5 / 4)), rel=1e-6)
    alone = held_out_interval(first, second, folds=5)
    assert alone.half == pytest.approx(found.half * norm.ppf(0.975) / norm.ppf(1 - 0.025 / 7), rel=1e-6)


def test_the_interval_also_covers_another_untrained_network():
    generator = np.random.default_rng(0)
    task = generator.random((3, 400)) < 0.7
    draws = [generator.random((3, 400)) < generator.uniform(0.4, 0.8, (3, 1)) for _ in range(5)]
    plain, drawn = (held_out_interval(task, draws[0], folds=5, draws=given).half for given in ((), draws))
    spread = np.mean([np.var(one.mean(axis=1), ddof=1) for one in draws]) ** 0.5
    assert drawn**2 - plain**2 == pytest.approx((2.2281388 * spread) ** 2 * (1 + 1 / 3), rel=1e-4)  # t of 10 degrees


def test_without_a_signal_the_best_of_several_tasks_is_hardly_ever_recommended():
    """Tasks, twins and controls classify equally well, and images differ in how hard they are."""
    generator, wrong, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(300):
        hard = generator.beta(2, 2, 60)
        tasks, twins = ([generator.random((3, 60)) < hard for _ in range(7)] for _ in range(2))
        hits = max(tasks, key=np.mean)
        references = {"twin": twins[0], "pixels": generator.random((3, 60)) < hard}
        contrasts = held_out_contrasts(hits, references, "twin", folds=5, draws=twins)
        wrong += recommend("task", contrasts, {"twin": 0.5, "pixels": 0.5}).use == "task"
        uncorrected += np.mean(hits) - np.mean(references["twin"]) > 0.08
    assert wrong <= 0.05 * 300
    assert uncorrected > 0.05 * 300, "there is something to correct"
