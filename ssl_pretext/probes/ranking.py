"""The answer of a comparison of several representations: which one is best, by how much, and how surely."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.statistics import Interval, describe_difference, describe_interval, holm
from ssl_pretext.probes.verdict import basis
from ssl_pretext.registry import joined

__all__ = ["Ranking", "answer", "rank"]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Ranking:
    """The representations of one report from the best to the worst, with the differences of the best from the others.

    Attributes:
        report: The report.
        names: Names of the representations, the best one first.
        rows: A row of `ProbeReport.difference` of the best from each other one, in the order of `names`, with the
            p-value after the correction of Holm as `p_holm`.
    """

    report: ProbeReport
    names: list[str]
    rows: list[dict[str, Any]]

    @property
    def best(self) -> str:
        """The representation with the best score, whether or not the next one is shown to be worse."""
        return self.names[0]

    @property
    def ties(self) -> list[str]:
        """The representations that are not shown to be worse than the best one."""
        return [row["reference"] for row in self.rows if row["p_holm"] >= SIGNIFICANT]

    @property
    def is_clear(self) -> bool:
        """Whether all others are shown to be worse than the best one."""
        return not self.ties

    def describe(self, row: Mapping[str, Any]) -> str:
        """Describes the difference of the best from another representation with its interval."""
        metric, reference = self.report.metric(), str(row["reference"])
        found = Interval(row["mean"], row["ci95"], row["p"])
        words = basis(self.report.card, self.best, reference)
        if row["p_holm"] < SIGNIFICANT:
            return describe_difference(found, reference, words, metric=metric)
        lead = f"{metric.text(found.mean, sign=True)}{' points' * metric.percent} from {reference}"
        return f"{lead}, which may be chance ({describe_interval(found, words, metric=metric)})"


def rank(reports: Mapping[str, ProbeReport]) -> dict[str, Ranking]:
    """Ranks the representations of each of several reports, such as those of several numbers of labels.

    Which one is best is only known from the same test images, so that its lead is partly chance. All pairs of all
    reports are therefore corrected together (Holm 1979): all claims about them are right with 95%, whichever is picked.

    Args:
        reports: The reports by what tells them apart, such as `"10 labels per class"`.

    Raises:
        ArgumentError: A report has only one representation.
    """
    if any(len(report.names) < 2 for report in reports.values()):
        raise ArgumentError("a ranking needs reports of at least two representations; add a network or a control")
    pairs = [(key, *pair) for key, report in reports.items() for pair in combinations(report.names, 2)]
    corrected = holm([reports[key].difference(name, other)["p"] for key, name, other in pairs])
    p_holm = {(key, frozenset(pair)): p for (key, *pair), p in zip(pairs, corrected, strict=True)}
    found = {}
    for key, report in reports.items():
        sign = -1 if report.metric().higher_is_better else 1
        means = {name: sign * report.interval(name).mean for name in report.names}
        best, *others = sorted(report.names, key=lambda name: means[name])
        rows = [report.difference(best, other) | {"p_holm": p_holm[key, frozenset((best, other))]} for other in others]
        found[key] = Ranking(report, [best, *others], rows)
    return found


def answer(rankings: Mapping[str, Ranking]) -> list[str]:
    """Returns the answer of a comparison: a sentence for the last report, one for each other, and what they rest on.

    Args:
        rankings: The rankings by what tells the reports apart, such as `"10 labels per class"`; the last one counts
            most.
    """
    sentences = [_sentence(ranking, key) for key, ranking in reversed([*rankings.items()])]
    pairs = sum(len(one.names) * (len(one.names) - 1) // 2 for one in rankings.values())
    if pairs > 1:
        sentences.append(f"These claims are corrected for all {pairs} pairs that were compared (Holm 1979).")
    return sentences


def _sentence(ranking: Ranking, key: str) -> str:
    best, ties = ranking.best, ranking.ties
    lead = ranking.describe(ranking.rows[0])
    if ranking.is_clear:
        others = ", the next one, and better than all others" if len(ranking.rows) > 1 else ""
        return f"With {key}, {best} is best: {lead}{others}."
    if len(ties) == len(ranking.rows):
        which = f"the {len(ranking.names)} compared" if len(ties) > 1 else "the two"
        return f"With {key}, no difference is shown between {which}: {best} scores best, {lead}."
    worse = [row for row in ranking.rows if row["reference"] not in ties]
    rest = " and better than the rest" if len(worse) > 1 else ""
    return (
        f"With {key}, no difference is shown between {joined([best, *ties])}: {best} scores best, {lead}. It is "
        f"{ranking.describe(worse[0])}{rest}."
    )
