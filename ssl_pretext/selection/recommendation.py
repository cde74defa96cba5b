"""What a search recommends: the pretrained network only if it is shown to be better than everything that is cheaper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_pretext.probes import ProbeReport, describe_difference
from ssl_pretext.probes.statistics import Interval, Scores, interval
from ssl_pretext.selection.judge import Hits

__all__ = ["Contrast", "Recommendation", "held_out_contrasts", "held_out_interval", "recommend", "tested_contrasts"]


@dataclass(frozen=True)
class Contrast:
    """The accuracy of the pretrained network minus that of something cheaper.

    Attributes:
        reference: Name of what it is compared with.
        found: The difference with its interval.
        words: The difference in words.
    """

    reference: str
    found: Interval
    words: str


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        use: Name of the task, of the control or of the network that is recommended.
        shown: Whether a difference with its interval supports it. If not, it is what is cheapest.
        sentence: The recommendation in words.
    """

    use: str
    shown: bool
    sentence: str


def held_out_interval(
    hits: Hits, reference: Hits | None = None, *, folds: int, choices: int = 1, draws: Sequence[Hits] = ()
) -> Interval:
    """Computes an accuracy on held-out folds, or a difference of two, with an interval for small labeled sets.

    Probes of different folds share most of their labels, so that the spread over the images alone is too small. The
    variance is increased as Nadeau and Bengio (2003, section 3) propose: by the factor 1 + k / (k - 1) for k folds.

    If the reference is another untrained network in each repetition, the interval is also that of one more draw. The
    variance of draws is pooled over all such networks, because three draws of one hardly show it.

    Args:
        hits: Whether each image is classified correctly in each repetition, `(R, N)`.
        reference: The same of what is subtracted.
        folds: Number k of folds.
        choices: Number of tasks of which this one was chosen. The interval is a simultaneous one for all of them
            (Bonferroni), so that it holds for the best one, too.
        draws: The hits of all networks that are drawn in each repetition, if the reference is one of them.
    """
    values = hits.astype(float) if reference is None else hits.astype(float) - reference
    confidence = 1 - 0.05 / choices
    found = interval(Scores(values.mean(axis=0, keepdims=True)), confidence=confidence)
    half = found.half * math.sqrt(1 + folds / (folds - 1))
    if draws:
        from scipy.stats import t

        count = len(hits)
        variance = float(np.mean([one.mean(axis=1).var(ddof=1) for one in draws]))
        quantile = float(t.ppf((1 + confidence) / 2, len(draws) * (count - 1)))
        half = math.hypot(half, quantile * math.sqrt((1 + 1 / count) * variance))
    return Interval(found.mean, half, math.nan)


def held_out_contrasts(
    hits: Hits, references: Mapping[str, Hits], twin: str, *, folds: int, draws: Sequence[Hits]
) -> list[Contrast]:
    """Compares the chosen task with each reference on the held-out labels that it was chosen by.

    Args:
        hits: The hits of the chosen task.
        references: The hits of the controls and of published networks by name.
        twin: Name of the untrained twin among them.
        folds: Number of folds.
        draws: The hits of the untrained twins of all tasks that were tried.
    """
    basis = f"for the best of {len(draws)} tasks, over {hits.shape[1]} held-out labels"
    found = []
    for name, reference in references.items():
        one = held_out_interval(hits, reference, folds=folds, choices=len(draws), draws=draws if name == twin else ())
        words = describe_difference(one, name, basis, kind="simultaneous 95% interval")
        found.append(Contrast(name, one, words))
    return found


def tested_contrasts(report: ProbeReport, name: str, references: Sequence[str]) -> list[Contrast]:
    """Reads the differences of the chosen task from its report on test images."""
    found = []
    for reference in references:
        row = report.difference(name, reference)
        words = str(row["words"]).removeprefix("this network is ")
        found.append(Contrast(reference, Interval(row["mean"], row["ci95"], row["p"]), words))
    return found


def recommend(name: str, contrasts: Sequence[Contrast], accuracies: Mapping[str, float]) -> Recommendation:
    """Recommends the chosen task, or something cheaper.

    The task is recommended only if it is above every reference. This claim needs no correction for several
    comparisons, because all of them must be significant (Berger 1982).

    Args:
        name: Name of the chosen task.
        contrasts: Its differences from each reference.
        accuracies: Accuracies of the references on held-out labels, by which one of several is recommended.

    Examples:
        >>> better = Contrast("pixels rgb", Interval(0.2, 0.1, 0.01), "20.0 points above pixels rgb")
        >>> level = Contrast("color histogram", Interval(0.0, 0.1, 1.0), "no significant difference")
        >>> recommend("rotation", [better], {"pixels rgb": 0.3}).use
        'rotation'
        >>> recommend("rotation", [better, level], {"pixels rgb": 0.3, "color histogram": 0.5}).use
        'color histogram'
    """
    above = [one for one in contrasts if one.found.significant and one.found.mean > 0]
    below = [one for one in contrasts if one.found.significant and one.found.mean < 0]
    if len(above) == len(contrasts):
        nearest = min(above, key=lambda one: one.found.mean - one.found.half)
        others = f", and above the {len(above) - 1} others that it was compared with" if len(above) > 1 else ""
        return Recommendation(name, True, f"Pretrain with {name}: it is {nearest.words}{others}.")
    rivals = below or [one for one in contrasts if one not in above]
    best = max(rivals, key=lambda one: accuracies[one.reference])
    if below:
        return Recommendation(best.reference, True, f"Use {best.reference}: {name} is {best.words}.")
    return Recommendation(
        best.reference,
        False,
        f"It is not shown that pretraining helps: {name} has {best.words}. {best.reference} needs no pretraining, so "
        "use that; more labels, test images or minutes may show a difference.",
    )
