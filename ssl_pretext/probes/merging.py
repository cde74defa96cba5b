"""The merging of two probe reports with the same settings."""

from typing import Any

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.results import ProbeResults

__all__ = ["merge"]


def merge(first: ProbeResults, second: ProbeResults) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the runs and the card of two reports together; runs of a control in both are those of the first.

    Raises:
        ArgumentError: Settings of the reports differ, or they hold different representations of the same name.
    """
    if differing := first.card_differences(second):
        raise ArgumentError(
            f"only reports with the same settings can be merged; these differ in {', '.join(differing)}"
        )
    both = set(first.names) & set(second.names)
    mine, theirs = first.card["representations"], second.card["representations"]
    if clash := sorted(name for name in both if mine[name] != theirs[name] or not _is_same(name, first, second)):
        raise ArgumentError(
            f"both reports hold {', '.join(clash)}, but not the same representation; give one of them another name "
            "and evaluate it again"
        )
    against, others = first.card["against"], second.card["against"]
    card = first.card | {
        "without_twin": {**second.card.get("without_twin", {}), **first.card.get("without_twin", {})},
        "controls": list(dict.fromkeys([*first.card["controls"], *second.card["controls"]])),
        **{key: second.card[key] | first.card[key] for key in ("health", "representations")},
        "against": {name: others.get(name, {}) | against.get(name, {}) for name in dict.fromkeys([*against, *others])},
    }
    return [*first.runs, *(run for run in second.runs if run["representation"] not in both)], card


def _is_same(name: str, first: ProbeResults, second: ProbeResults) -> bool:
    """Whether a representation that both reports describe equally is the same one.

    The description of a function does not say what it computes, but one function has the same results twice.
    """
    is_function = any(one.get("kind") == "function" for one in first.card["representations"][name])
    runs = ([run for run in one.runs if run["representation"] == name] for one in (first, second))
    return not is_function or next(runs) == next(runs)
