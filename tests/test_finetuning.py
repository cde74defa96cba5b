"""Fine-tuning as a probe: what is trained, what is restored, and its controls."""

import copy

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import FinetuneConfig, ProbeConfig
from ssl_pretext.probes.finetuning import _warm_up_and_cosine, finetune, finetuned
from ssl_pretext.representations import Concatenated, Pixels


def stripes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of stripes; the class is whether they are horizontal, which no mean of pixels tells."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    waves = (torch.rand(count, 1, 8, generator=generator) < 0.5).float().repeat(1, 8, 1)
    pixels = torch.where(labels[:, None, None] == 1, waves, waves.transpose(1, 2))
    return (pixels[:, None].repeat(1, 3, 1, 1) * 200).to(torch.uint8), labels


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )


def test_a_network_learns_what_no_linear_classifier_of_pixels_shows_and_is_restored() -> None:
    module = network()
    module[0].requires_grad_(False)
    module[1].train()
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    found = sp.evaluate({"net": module}, stripes(64), stripes(64, 1), probe="finetune", seeds=2, controls=["untrained"])
    pixels = sp.evaluate({"pixels": Pixels("rgb")}, stripes(64), stripes(64, 1), seeds=2)
    assert min(found.values("net")) > 0.9 > max(pixels.values("pixels"))
    assert min(found.values("net (untrained)")) > 0.9, "the control is trained from scratch"
    torch.testing.assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)
    assert [part.training for part in module.modules()] == modes
    assert [parameter.requires_grad for parameter in module.parameters()] == [False] * 2 + [True] * 4
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_frozen_network_is_trained_and_a_partly_frozen_one_keeps_what_is_frozen() -> None:
    seen: list[Tensor] = []
    for frozen in (slice(0, 5), slice(0, 1)):
        module = network()
        module[frozen].requires_grad_(False)
        handle = module[0].register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.detach().clone()))
        finetune(sp.FrozenNetwork(module).representation(), _store(16), _store(16), num_outputs=2, epochs=2, seed=0)
        handle.remove()
        assert torch.equal(seen[0], seen[-1]) is (frozen == slice(0, 1))
        seen.clear()


def _store(count: int) -> tuple[sp.ImageStore, Tensor]:
    images, labels = stripes(count)
    return sp.ImageStore.from_arrays(images, labels), labels


def test_features_of_all_images_are_not_computed_beforehand() -> None:
    module, encoded = network(), []
    module.register_forward_hook(lambda _, inputs, output: encoded.append(len(output)))
    sp.evaluate(
        {"net": module}, stripes(600), stripes(8, 1), probe="finetune", per_class=8, epochs=1, seeds=1, controls=False
    )
    # The health of 512 images, one image for the number of channels, and the training and test images.
    assert sum(encoded) == 512 + 1 + 16 + 8


def test_test_images_choose_nothing() -> None:
    images, labels = stripes(40, 1)
    first, second = (
        sp.evaluate({"net": network()}, stripes(32), (images, truth), probe="finetune", epochs=2, seeds=1)
        for truth in (labels, 1 - labels)
    )
    for run, other in zip(first.runs, second.runs, strict=True):
        assert run["scores"] != other["scores"]
        assert [row["train_loss"] for row in run["history"]] == [row["train_loss"] for row in other["history"]]
        assert run["history"][-1]["test_accuracy"] == pytest.approx(1 - other["history"][-1]["test_accuracy"])


def test_cached_results_equal_fresh_ones_and_the_card_is_complete(tmp_path) -> None:
    options = {"probe": "finetune", "epochs": 2, "seeds": [3], "per_class": 4}
    fresh, stored, cached = (
        sp.evaluate({"net": network()}, stripes(32), stripes(16, 1), cache=cache, **options)
        for cache in (None, tmp_path, tmp_path)
    )
    assert fresh.runs == stored.runs == cached.runs
    assert fresh.runs[0]["labels"] == 8
    assert {"optimizer", "learning_rate", "weight_decay", "batch_size", "schedule", "augmentation"} <= {*fresh.card}
    fresh.plot(tmp_path / "plot.png")


def test_targets_of_other_kinds_are_learned() -> None:
    images, labels = stripes(32)
    numbers = images.double().mean(dim=(1, 2, 3)) * 1e4
    masks = (images[:, 0] > 100).long()
    for kind, targets in (("labels", torch.stack([labels, 1 - labels], 1)), ("numbers", numbers), ("mask", masks)):
        found = sp.evaluate(
            {"net": network()}, (images, targets), (images, targets), target=kind, probe="finetune", seeds=1,
            controls=False, training=FinetuneConfig(learning_rate=3e-3, batch_size=8),
        )  # fmt: skip
        assert found.values("net")[0] > 0.8, kind


def test_the_rate_rises_linearly_and_falls_to_zero() -> None:
    factor = _warm_up_and_cosine(100)
    assert [factor(step) for step in (0, 9, 10, 55, 100)] == pytest.approx([0.1, 1, 1, 0.5, 0])


def test_options_without_meaning_are_refused() -> None:
    with pytest.raises(ArgumentError, match="training of the finetune probe must be a FinetuneConfig, got ProbeConfig"):
        sp.evaluate(
            {"net": network()}, stripes(8), stripes(8), probe="finetune",
            training=ProbeConfig(regularizers={"nuclear_norm": 0.1}),
        )  # fmt: skip


def test_tasks_networks_modules_and_names_are_compared_in_one_call() -> None:
    task = sp.create_task("rotation", encoder="timm/resnet10t")
    images, labels = stripes(16)
    images = images.repeat(1, 1, 4, 4)
    given = {
        "task": task,
        "network": sp.FrozenNetwork("timm/resnet10t"),
        "module": network(),
        "name": "timm/resnet10t[layer=layer2]",
        "layer": task.representation("layer1"),
        "per seed": [network(), nn.Conv2d(3, 4, 3)],
    }
    found = sp.evaluate(given, (images, labels), (images, labels), probe="knn", seeds=2)
    assert {*given} == {*found.card["against"]}
    assert all(f"{name} (untrained)" in found.names for name in given)
    frame = found.to_frame()
    assert len(frame) == len(found.runs)
    assert frame.groupby("representation")["accuracy"].mean()["task"] == pytest.approx(found.interval("task").mean)
    assert set(frame.loc[~frame["control"], "representation"]) == {*given}
    with pytest.raises(ArgumentError, match="'x' must be a task, a network"):
        sp.evaluate({"x": 3}, (images, labels), (images, labels))
    bands = (torch.rand(4, 5, 8, 8), [0, 1, 0, 1])
    with pytest.raises(ArgumentError, match="which of the 5 channels it sees is unknown"):
        sp.evaluate({"x": network()}, bands, bands)


def test_what_has_no_network_gets_the_linear_probe_and_the_report_says_so() -> None:
    train, test = stripes(32), stripes(16, 1)
    given = {"net": network(), "pixels rgb": Pixels("rgb")}
    found = sp.evaluate(given, train, test, probe="finetune", epochs=1, seeds=1, controls=False)
    linear = sp.evaluate({"pixels rgb": Pixels("rgb")}, train, test, seeds=1, controls=False)
    assert found.values("pixels rgb") == linear.values("pixels rgb")
    assert "pixels rgb: there is no network to train, so a linear probe was trained" in str(found)


def test_the_same_network_is_trained_alike_alone_and_concatenated() -> None:
    net = sp.FrozenNetwork(network()).representation()
    given = {"alone": net, "concatenated": Concatenated([net])}
    found = sp.evaluate(given, stripes(32), stripes(16, 1), probe="finetune", epochs=2, seeds=1, controls=False)
    first, second = ([row["train_loss"] for row in run["history"]] for run in found.runs)
    assert first == pytest.approx(second, rel=1e-5)


def test_networks_with_pooled_outputs_are_compared() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = sp.evaluate({"pooled": pooled}, stripes(16), stripes(16, 1), probe="knn", seeds=1)
    assert found.card["health"]["pooled"]["channels"] == 4


def test_finetune_takes_no_options_in_brackets() -> None:
    with pytest.raises(ArgumentError, match="pass epochs= and training= to evaluate"):
        sp.evaluate({"net": network()}, stripes(8), stripes(8), probe="finetune[epochs=1]")


def test_the_benchmark_runs_and_writes_its_page(tmp_path, monkeypatch) -> None:
    from benchmarks.finetuning import __main__ as benchmark
    from benchmarks.finetuning import page

    for label, color in enumerate(("red", "green")):
        (tmp_path / "photos" / color).mkdir(parents=True)
        for number in range(8):
            tint = [90 + 10 * number] * 3
            tint[label] += 60
            Image.new("RGB", (64, 64), tuple(tint)).save(tmp_path / "photos" / color / f"{number}.png")
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "ENCODER": "timm/resnet10t[layer=layer1]",
        "EPOCHS": 1,
        "FINETUNING_EPOCHS": 3,
        "PER_CLASS": 2,
    }.items():
        monkeypatch.setattr(benchmark, name, value)
    out = tmp_path / "run"
    request = ["finetuning", "--data", str(tmp_path / "photos"), "--out", str(out), "--images", "8", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", [*request, "--device", "cpu"])
    assert benchmark.main() == 0
    text = (out / "page.md").read_text()
    assert all(heading in text for heading in page.HEADINGS.values())
    assert "L–ab contrast (untrained)" in text
    before = (out / "results.json").stat().st_mtime_ns
    assert benchmark.main() == 0, "a run that is repeated computes nothing again"
    assert (out / "results.json").stat().st_mtime_ns > before


def test_the_number_of_epochs_is_selected_on_training_images() -> None:
    """The selected training repeats the first epochs of one with a fixed number of epochs."""
    options = {"probe": "finetune", "epochs": 6, "seeds": 2, "controls": False}
    fixed, selected = (
        sp.evaluate(
            {"net": network()}, stripes(40), stripes(16, 1), training=FinetuneConfig(patience=patience), **options
        )
        for patience in (None, 2)
    )
    for run, whole in zip(selected.runs, fixed.runs, strict=True):
        losses = [row["train_loss"] for row in run["history"]]
        assert 1 <= len(losses) == run["trained_epochs"] <= 6
        assert losses == [row["train_loss"] for row in whole["history"]][: len(losses)]
        assert 0 <= run["validation_accuracy"] <= 1
        assert "trained_epochs" not in whole
    assert selected.best() == "net"
    assert selected.card["selection"] == "epochs on 20% of the training images, then again on all of them"


def test_training_stops_after_the_epochs_without_improvement() -> None:
    encoded = []
    for patience in (1, 30):
        module, seen = network(), []
        module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(output)))
        config = FinetuneConfig(patience=patience, learning_rate=1e-9)
        representation = sp.FrozenNetwork(module).representation()
        found = finetune(representation, _store(20), _store(4), num_outputs=2, epochs=30, seed=0, training=config)
        encoded.append((sum(seen), found.settings["trained_epochs"]))
    (stopped, first), (whole, best) = encoded
    assert stopped < whole
    assert 1 <= first <= best <= 30


def test_one_label_per_class_leaves_nothing_to_select_on() -> None:
    found = sp.evaluate(
        {"net": network()}, stripes(2), stripes(4, 1), probe="finetune", epochs=3, seeds=1, controls=False,
        training=FinetuneConfig(patience=1),
    )  # fmt: skip
    assert [len(run["history"]) for run in found.runs] == [3]


def test_layer_decay_slows_lower_layers_but_not_those_of_a_network_with_random_weights() -> None:
    representation = sp.FrozenNetwork("timm/resnet10t[layer=layer1]").representation()
    body = representation.backbone.module.body
    start = body.conv1[0].weight.detach().clone(), body.layer1[0].conv1.weight.detach().clone()
    images, labels = stripes(16)
    train = sp.ImageStore.from_arrays(images.repeat(1, 1, 4, 4), labels), labels
    changes, losses = {}, {}
    for decay in (1.0, 1e-4):
        for name, twin in (("trained", representation), ("drawn", copy.copy(representation))):
            twin.initialization = "random weights" if name == "drawn" else None
            options = {"num_outputs": 2, "epochs": 2, "seed": 0, "training": FinetuneConfig(layer_decay=decay)}
            with finetuned(twin, train, **options) as found:
                now = body.conv1[0].weight.detach(), body.layer1[0].conv1.weight.detach()
                changes[name, decay] = [float((a - b).abs().mean()) for a, b in zip(now, start, strict=True)]
                losses[name, decay] = [row["train_loss"] for row in found.history]
    assert changes["trained", 1e-4][0] < 1e-2 * changes["trained", 1.0][0]
    assert changes["trained", 1e-4][1] == pytest.approx(changes["trained", 1.0][1], rel=0.5)
    assert losses["drawn", 1e-4] == losses["drawn", 1.0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layer_decay": 1.5}, "FinetuneConfig.layer_decay must be above 0 and at most 1, got 1.5"),
        ({"patience": 0}, "FinetuneConfig.patience must be a whole number of at least 1, got 0"),
        ({"batch_size": 1}, "of at least 2, got 1"),
        ({"learning_rate": 0.0}, "FinetuneConfig.learning_rate must be a positive number, got 0.0"),
    ],
)
def test_wrong_settings_are_refused(option, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        FinetuneConfig(**option)
