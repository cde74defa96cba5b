"""What a report says: what its intervals cover, when it says that pretraining helps, and its warnings."""

from probing import made_up_report

from ssl_pretext.probes import ProbeReport
from ssl_pretext.probes.verdict import few_steps_warning

TWIN = "net (untrained)"


def report(
    values: list[float], twin: list[float], *, pretrainings: int | None = None, sets: str = "disjoint"
) -> ProbeReport:
    """A report of a network and its untrained twins, one per seed, with the given accuracies."""
    found = made_up_report({"net": values, TWIN: twin}, {"net": [TWIN]})
    networks = [{"networks": [i]} for i in range(pretrainings or len(values))]
    found.card["representations"]["net"] = networks
    found.card["label_sets"] = sets
    return found


def words(found: ProbeReport) -> str:
    return found.sentences()[0]


def test_only_several_pretrainings_show_that_pretraining_helps() -> None:
    values, twin = [0.80, 0.81, 0.80], [0.50, 0.50, 0.50]
    assert words(report(values, twin)) == (
        "net: pretraining helps: 30.3 points above net (untrained) (95% interval +27.4 to +33.3 over 3 pretrainings, 3 "
        "untrained networks, labeled images and test images)."
    )
    assert words(report(values, twin, pretrainings=1)) == (
        "net: this network is 30.3 points above net (untrained) (95% interval +27.2 to +33.5 over 3 untrained "
        "networks, labeled images and test images; one pretraining)."
    )


def test_two_pretrainings_are_not_said_to_help() -> None:
    found = report([0.80, 0.81], [0.50, 0.50])
    assert words(found).startswith("net: this network is 30.5 points above")
    assert "Warning: two seeds show little of the variation" in found.sentences()[-1]


def test_a_loss_is_said_to_do_harm() -> None:
    assert words(report([0.50, 0.51, 0.50], [0.80] * 3)).startswith("net: pretraining does harm: 29.7 points below")


def test_labeled_images_that_are_held_fixed_are_named() -> None:
    said = words(report([0.50, 0.51, 0.50], [0.50] * 3, pretrainings=1, sets="fixed"))
    assert said.startswith("net: no significant difference from net (untrained)")
    assert said.endswith("over 3 untrained networks and test images; one pretraining, one set of labeled images).")


def test_many_comparisons_are_corrected() -> None:
    names = [f"net {i}" for i in range(4)]
    accuracies = {name: [0.5 + 0.012 * i, 0.5 + 0.012 * i, 0.5 + 0.012 * i] for i, name in enumerate(names)}
    twins = {f"{name} (untrained)": [0.5] * 3 for name in names}
    found = made_up_report(accuracies | twins, {name: [f"{name} (untrained)"] for name in names})
    rows = found.against_controls()
    assert [row["significant"] for row in rows] == [False, True, True, True]
    assert all(row["p_holm"] >= row["p"] for row in rows)
    kept = [row["representation"] for row in rows if row["p_holm"] < 0.05]
    (said,) = [one for one in found.sentences() if one.startswith("There are")]
    assert said.startswith(
        f"There are 4 comparisons, so some may be significant by chance: 3 are significant each by itself, {len(kept)} "
        "after the correction of Holm"
    )
    assert all(name in said for name in kept)
    assert not any("correction" in one for one in report([0.8] * 3, [0.5] * 3).sentences())


def test_few_training_steps_raise_a_warning_for_probes_that_take_steps() -> None:
    card = {"optimizer": "AdamW", "epochs": 10, "batch_size": 64, "probe": "conv"}
    assert few_steps_warning(card, 432) == (
        "Warning: 432 labels give only 60 training steps, too few for the conv probe. Use the linear or knn probe with "
        "so few labels, or more epochs."
    )
    assert few_steps_warning(card, 640) is None
    assert few_steps_warning(card | {"optimizer": "L-BFGS"}, 5) is None
