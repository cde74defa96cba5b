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
        "net: this network is 30.3 points above net (untrained) (95% prediction interval +27.4 to +33.3 over 3 "
        "untrained networks, labeled images and test images; one pretraining)."
    )


def test_two_pretrainings_are_not_said_to_help() -> None:
    found = report([0.80, 0.81], [0.50, 0.50])
    assert words(found).startswith("net: this network is 30.5 points above")
    assert "Warning: two seeds show little of the variation" in found.sentences()[-1]


def test_a_loss_is_said_to_make_it_worse() -> None:
    assert words(report([0.50, 0.51, 0.50], [0.80] * 3)).startswith(
        "net: pretraining makes it worse: 29.7 points below"
    )


def test_labeled_images_that_are_held_fixed_are_named() -> None:
    said = words(report([0.50, 0.51, 0.50], [0.50] * 3, pretrainings=1, sets="fixed"))
    assert said.startswith("net: no significant difference from net (untrained)")
    assert said.endswith("over 3 untrained networks and test images; one pretraining, always the same labeled images).")


def compared(steps: list[float]) -> ProbeReport:
    """A report of several networks that are better than their twins by some accuracy, each with three seeds."""
    accuracies = {f"net {i}": [0.5 + step] * 3 for i, step in enumerate(steps)}
    twins = {f"{name} (untrained)": [0.5] * 3 for name in accuracies}
    return made_up_report(accuracies | twins, {name: [f"{name} (untrained)"] for name in accuracies})


def test_many_comparisons_are_corrected() -> None:
    found = compared([0.0, 0.010, 0.012, 0.1])
    rows = found.against_controls()
    assert [row["significant"] for row in rows] == [False, True, True, True]
    assert [row["p_holm"] < 0.05 for row in rows] == [False, True, True, True]
    assert "The significant ones of these 4 differences remain so after the correction of Holm." in found.sentences()
    found = compared([0.007, 0.0, 0.0, 0.1])
    assert [row["significant"] for row in found.against_controls()] == [True, False, False, True]
    assert (
        "With 4 comparisons, some are significant by chance. After the correction of Holm, only the difference of "
        "net 3 from net 3 (untrained) remains significant." in found.sentences()
    )
    assert "None of the 4 differences is significant." in compared([0.0] * 4).sentences()
    assert not any("Holm" in said or "None of" in said for said in report([0.8] * 3, [0.5] * 3).sentences())


def test_a_reference_that_is_one_network_is_named() -> None:
    found = report([0.8, 0.81, 0.8], [0.5] * 3)
    found.card["representations"][TWIN] = [{"networks": [9]}]
    found.card["against"]["net"] = {"imagenet": TWIN}
    assert words(found).endswith(
        "over 3 pretrainings, labeled images and test images; one network as net (untrained))."
    )


def test_layers_of_one_network_are_one_pretraining() -> None:
    found = report([0.8, 0.81, 0.8], [0.5] * 3)
    found.card["representations"]["net"] = [{"networks": [1], "layer": layer} for layer in "abc"]
    assert words(found).startswith("net: this network is")


def test_repeated_test_images_and_diverged_probes_raise_a_warning() -> None:
    found = report([0.8] * 3, [0.5] * 3)
    found.card["repeated"] = 12
    found.runs[0]["history"][-1]["test_loss"] = None
    said = found.sentences()
    assert (
        "Warning: 12 of 1,000 test images are identical to other test images, so that the intervals are too narrow."
        in said
    )
    assert "Warning: 1 of 6 probes diverged; their accuracies mean nothing." in said


def test_classes_without_training_images_lower_the_chance() -> None:
    found = report([0.8] * 3, [0.5] * 3)
    found.card["predictable"] = 0.5
    assert (
        "Guessing one of 10 classes gets 5.0%; always naming the most frequent class gets 10.0%." in found.sentences()
    )


def test_few_training_steps_raise_a_warning_for_probes_that_take_steps() -> None:
    card = {"optimizer": "AdamW", "epochs": 10, "batch_size": 64, "probe": "conv"}
    assert few_steps_warning(card, 432) == (
        "Warning: 432 labels give only 60 training steps, too few for the conv probe. Use the linear or knn probe with "
        "so few labels, or more epochs."
    )
    assert few_steps_warning(card, 640) is None
    assert few_steps_warning(card | {"optimizer": "L-BFGS"}, 5) is None
