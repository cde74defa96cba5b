"""Untrained twins in their strongest version, and the published weights that training started from."""

from functools import partial

import pytest
import torch
from probing import backbone_of, photo_patches, random_store, small_task, two_classes
from torch import nn

import ssl_pretext as sp
from ssl_pretext.encoders.untrained import batch_norms, closed_branches
from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.probes import evaluate, twins
from ssl_pretext.probes.controls import CONTROLS
from ssl_pretext.probes.targets import KINDS, as_images_with_targets
from ssl_pretext.probes.twins import UntrainedTwins, starting_points
from ssl_pretext.representations.base import Backbone, Concatenated, Pixels
from ssl_pretext.tasks import Colorization, SplitBrain

DRAWN, OPEN = "random weights", "random weights, residual branches at full scale"
MEASURED = ", BatchNorm statistics of 96 training images"
UNTRAINED_ONLY = {"probe": "knn", "controls": ["untrained"]}


def twins_of(given, seed, train):
    _, targets = as_images_with_targets(train, KINDS["class"])
    return UntrainedTwins(train, targets, device="cpu").draw(given, seed)


@pytest.fixture
def votes(monkeypatch) -> list[float]:
    """Makes the leave-one-out accuracies of the versions a given list, from which they are taken in order."""
    given: list[float] = []
    monkeypatch.setattr(twins, "_leave_one_out", lambda *_: given.pop(0))
    return given


@pytest.mark.parametrize(("strongest", "expected"), list(enumerate([DRAWN, DRAWN + MEASURED, OPEN, OPEN + MEASURED])))
def test_a_resnet_has_four_versions_and_the_strongest_is_the_control(strongest, expected, votes) -> None:
    votes += [float(i == strongest) for i in range(4)]
    train = photo_patches("train")
    given = {"net": small_task().representation("layer1")}
    twin = twins_of(given, 3, train)["net (untrained)"]
    assert twin.initialization == expected
    task = twin.backbone.module
    assert isinstance(task, sp.PretextTask)
    assert bool(closed_branches(task.encoder)) == (not expected.startswith(OPEN))
    drawn = small_task().untrained(3)
    assert torch.equal(task.encoder.body.conv1[0].weight, drawn.encoder.body.conv1[0].weight), "the same random weights"
    measured = [norm for norm in batch_norms(task.encoder) if norm.running_mean.any()]
    assert bool(measured) == expected.endswith(MEASURED)
    block = task.encoder.body.layer1[0]
    shortcut = torch.rand(2, 64, 8, 8)
    with torch.no_grad():
        returns_input = torch.equal(block.eval()(shortcut), shortcut)
    assert returns_input == (not expected.startswith(OPEN)), "with closed branches, a block returns its input"


def test_the_strongest_version_has_the_most_accurate_nearest_neighbors() -> None:
    """The same choice as by the knn probe of `evaluate`, tested and trained on the training images."""
    train, found = photo_patches("train"), {}
    given = {"net": small_task().representation()}
    chosen = twins_of(given, 0, train)["net (untrained)"]
    for version in range(4):
        order = [float(i == version) for i in range(4)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(twins, "_leave_one_out", lambda *_, order=order: order.pop(0))
            twin = twins_of(given, 0, train)["net (untrained)"]
        report = evaluate({"it": twin}, train, photo_patches("test"), probe="knn", seeds=1, controls=False)
        found[twin.initialization] = report.runs[0]["validation_accuracy"]
    assert len(found) == 4
    assert found[chosen.initialization] == max(found.values()) > min(found.values())


def test_test_images_choose_nothing() -> None:
    train, test = photo_patches("train"), photo_patches("test")
    shuffled = sp.ImageStore.from_arrays(test.images(range(len(test))).flip(0), test.labels)
    noise = random_store(20)
    given = {"first": small_task().representation("layer1"), "last": small_task().representation()}
    cards = [evaluate(given, train, images, seeds=2, **UNTRAINED_ONLY).card for images in (test, shuffled, noise)]
    chosen = [[each["initialization"] for each in card["representations"]["last (untrained)"]] for card in cards]
    assert chosen[0] == chosen[1] == chosen[2]
    assert cards[0]["representations"] == cards[1]["representations"] == cards[2]["representations"]
    assert all(text.startswith(DRAWN) for text in chosen[0])
    assert "initialization" not in cards[0]["representations"]["last"][0], "a trained network is not described so"


def test_versions_change_no_global_state_and_are_the_same_again(tmp_path) -> None:
    train, test = photo_patches("train"), photo_patches("test")
    task = small_task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = torch.get_rng_state()
    options = {**UNTRAINED_ONLY, "seeds": [4, 9]}
    reports = [evaluate({"net": task.representation()}, train, test, **options, **each)
               for each in ({}, {"cache": tmp_path}, {"cache": tmp_path})]  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert reports[0] == reports[1] == reports[2]
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_a_network_without_batchnorm_has_one_version_and_no_other_pass(monkeypatch) -> None:
    drawn, passes = [], []

    def draw(seed: int):
        torch.manual_seed(seed)
        drawn.append(seed)
        backbone = backbone_of(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU()))
        run = backbone.feature_maps
        backbone.feature_maps = lambda images, layers: passes.append(len(images)) or run(images, layers)
        return backbone

    monkeypatch.setattr(twins, "_leave_one_out", lambda *_: pytest.fail("there is nothing to choose"))
    given = {"net": backbone_of(nn.Conv2d(3, 4, 2, stride=2), draw).representation()}
    report = evaluate(given, two_classes(20), two_classes(12), seeds=[7], **UNTRAINED_ONLY)
    assert (drawn, passes) == ([7], [20, 12])
    assert report.card["representations"]["net (untrained)"][0]["initialization"] == DRAWN


def test_a_twin_that_is_always_the_same_network_is_not_changed() -> None:
    twin = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.BatchNorm2d(4)).eval()
    nn.init.zeros_(twin[1].weight)
    given = {"net": backbone_of(nn.Conv2d(3, 4, 2, stride=2), lambda _: backbone_of(twin)).representation()}
    found = twins_of(given, 0, random_store())["net (untrained)"]
    assert (found.initialization, found.backbone.module) == (DRAWN, twin)
    assert not twin[1].weight.any()
    assert not twin[1].running_mean.any()


def test_the_batchnorm_of_a_decoder_is_no_version(votes) -> None:
    decoder = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Upsample(scale_factor=2))
    task = Colorization(nn.Conv2d(1, 4, 2, stride=2), decoder=decoder, losses={"l1": 1.0})
    found = twins_of({"net": task.representation()}, 0, random_store())
    assert found["net (untrained)"].initialization == DRAWN


def test_layers_share_a_twin_and_choose_alone(votes) -> None:
    votes += [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    backbone = small_task().backbone()
    given = backbone.representations(["layer1", "layer2"]) | {"output": backbone.representation()}
    first, second, third = twins_of(given, 0, photo_patches("train")).values()
    assert first.backbone == third.backbone
    assert first.backbone != second.backbone
    assert [twin.initialization for twin in (first, second)] == [DRAWN + MEASURED, OPEN + MEASURED]


def test_two_encoders_and_concatenations_have_versions() -> None:
    with torch.random.fork_rng():
        task = SplitBrain("lab:L", "lab:ab", "timm/resnet10t[layer=layer1]", losses={"l1": 1.0}).eval()
    both = Concatenated([task.representation(), Pixels("rgb", size=2)], size=2)
    train = photo_patches("train")
    report = evaluate({"both": both, "split": task.representation()}, train, photo_patches("test"), seeds=2,
                      **UNTRAINED_ONLY)  # fmt: skip
    for name in ("both", "split"):
        described = report.card["representations"][f"{name} (untrained)"]
        assert len(described) == 2
        assert all(each["initialization"].startswith(DRAWN) for each in described)


def test_the_card_names_fixed_filters() -> None:
    data = random_store(12, size=8)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.Conv2d(3, 4, 2, stride=2))
    network[0].requires_grad_(False)
    report = evaluate({"net": sp.FrozenNetwork(network).representation()}, data, data, seeds=1, **UNTRAINED_ONLY)
    described = report.card["representations"]["net (untrained)"]
    assert [each["initialization"] for each in described] == ["random weights, fixed: 0.weight"]


def test_a_network_that_is_possibly_still_trained_is_no_control() -> None:
    """A spectral norm is drawn anew; a codebook in a buffer is refused, and the control can be left out."""
    data = random_store(12, size=8)
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 2, stride=2)))
    given = {"net": sp.FrozenNetwork(network).representation()}
    only = {"probe": "knn", "seeds": 1, "controls": ["untrained"]}
    assert evaluate(given, data, data, **only).names == ["net", "net (untrained)"]
    network.register_buffer("codes", torch.rand(4))
    message = r"draws codes anew, .* controls=\['before', 'pixels', .*\], or --controls before,pixels,source,"
    with pytest.raises(ArgumentError, match=message):
        evaluate(given, data, data, **only)
    assert evaluate(given, data, data, **only | {"controls": ["before"]}).names == ["net"]


# The published weights that training started from


@pytest.fixture
def published(tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    """Puts weights of a small network where timm looks for those of `test_resnet`, and returns them."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    return model.state_dict()


def trained_further(encoder: str = "timm/test_resnet[pretrained=true]") -> sp.PretextTask:
    """A task that started from published weights, which then changed."""
    task = Colorization(encoder, losses={"l1": 1.0}).eval()
    with torch.no_grad():
        for parameter in task.encoder.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter))
    return task


BEFORE_ONLY = {"probe": "knn", "controls": ["before"]}


def test_published_weights_are_a_control_without_being_asked(published) -> None:
    task, data = trained_further(), random_store(16, size=32)
    report = evaluate({"net": task.representation(), "rgb": Pixels("rgb")}, data, data, probe="knn", seeds=2)
    assert report.names[:3] == ["net", "net (untrained)", "net (before)"]
    labels = report.card["against"]["net"]
    assert list(labels)[:2] == ["untrained", "before"]
    assert labels["before"] == "net (before)" in report.card["controls"]
    assert "minus before" in report.table().splitlines()[0]
    start = task.before()
    for name, value in start.encoder.body.state_dict().items():
        if "conv" in name and value.shape == published[name].shape:
            assert torch.equal(value, published[name]), name
    again = evaluate({"net": start.representation()}, data, data, probe="knn", seeds=2, controls=False)
    assert report.values("net (before)") == again.values("net")
    assert len(report.card["representations"]["net (before)"]) == 1, "the same for all seeds"


def test_a_saved_task_knows_what_it_started_from(published, tmp_path) -> None:
    task, data = trained_further(), random_store(12, size=32)
    task.save_pretrained(tmp_path / "task")
    loaded = sp.PretextTask.from_pretrained(tmp_path / "task")
    assert loaded.encoder_name == task.encoder_name == "timm/test_resnet[pretrained=true]"
    reports = [evaluate({"net": each.representation()}, data, data, seeds=1, **BEFORE_ONLY) for each in (task, loaded)]
    assert reports[0] == reports[1]
    assert reports[0].names == ["net", "net (before)"]


@pytest.mark.parametrize("pair", ["two names", "a name and a module"])
def test_two_encoders_start_from_published_weights(pair, published, tmp_path) -> None:
    name = "timm/test_resnet[pretrained=true;layer=layer1]"
    module = sp.create_encoder("timm/test_resnet[layer=layer1]", in_channels=2)
    encoders = [name, name] if pair == "two names" else [name, module]
    task = SplitBrain("lab:L", "lab:ab", encoders, losses={"l1": 1.0}).eval()
    if pair == "two names":
        task.save_pretrained(tmp_path / "task")
        task = sp.PretextTask.from_pretrained(tmp_path / "task")
    with torch.no_grad():
        for parameter in task.encoder.parameters():
            parameter.mul_(0.5)
    state = torch.get_rng_state()
    start = task.before()
    assert torch.equal(torch.get_rng_state(), state)
    key = "layer1.0.conv1.weight"
    assert torch.equal(start.branches[0].encoder.body.state_dict()[key], published[key])
    assert torch.equal(start.branches[1].encoder.body.state_dict()[key], published[key]) == (pair == "two names")
    data = random_store(12, size=32)
    report = evaluate({"net": task.representation()}, data, data, seeds=1, **BEFORE_ONLY)
    assert report.names == ["net", "net (before)"]


def test_networks_of_several_seeds_share_their_start(published) -> None:
    data = random_store(12, size=32)
    given = {"nets": [trained_further().representation() for _ in range(3)]}
    report = evaluate(given, data, data, seeds=3, **BEFORE_ONLY)
    assert len(report.card["representations"]["nets (before)"]) == 1
    layers = {layer: trained_further().representation(layer) for layer in ("layer1", "layer2")}
    assert evaluate(layers, data, data, seeds=1, **BEFORE_ONLY).names == [
        "layer1", "layer1 (before)", "layer2", "layer2 (before)"
    ]  # fmt: skip
    mixed = [trained_further().representation(), trained_further("timm/test_resnet").representation()]
    with pytest.raises(ArgumentError, match="'nets' started from published weights and some did not"):
        evaluate({"nets": mixed}, data, data, seeds=2, **BEFORE_ONLY)


def test_without_published_weights_there_is_no_such_control(published) -> None:
    data = random_store(12, size=32)
    scratch = trained_further("timm/test_resnet")
    frozen = sp.FrozenNetwork("timm/test_resnet[pretrained=true]")
    given = {"scratch": scratch.representation(), "frozen": frozen.representation()}
    assert evaluate(given, data, data, seeds=1, **BEFORE_ONLY).names == ["scratch", "frozen"]
    with pytest.raises(
        ArgumentError, match=r"did not start from published weights or from a file, as .*; use untrained\(seed\)"
    ):
        scratch.before()
    with pytest.raises(ArgumentError, match="'before' is the label of a control in tables"):
        evaluate({"before": Pixels("rgb")}, data, data)
    both = {"net": trained_further().representation(), "net (before)": Pixels("rgb")}
    with pytest.raises(ArgumentError, match=r"'net \(before\)' is the name of the before control of 'net'"):
        evaluate(both, data, data, seeds=1, **BEFORE_ONLY)


def test_missing_published_weights_are_an_error_that_says_how_to_go_on(published, tmp_path) -> None:
    task, data = trained_further(), random_store(12, size=32)
    (tmp_path / "weights.pth").unlink()
    message = (
        r"control 'net \(before\)' needs the published weights that 'net' started from: .*test_resnet.* "
        r"name the others: controls=\['untrained', 'pixels', .*\], or --controls untrained,pixels,.* on the command"
    )
    with pytest.raises(MissingFileError, match=message):
        evaluate({"net": task.representation()}, data, data, probe="knn", seeds=1)
    others = [control for control in CONTROLS if control != "before"]
    report = evaluate({"net": task.representation()}, data, data, probe="knn", seeds=1, controls=others)
    assert "net (before)" not in report.names


def test_functions_around_one_network_keep_their_own_starting_points() -> None:
    start = nn.Conv2d(3, 2, 1)

    def own(factor: float) -> sp.Representation:
        def maps(images: torch.Tensor, layers: list[str]) -> dict[str, torch.Tensor]:
            return {layer: factor * start(images.float()) for layer in layers}

        before = Backbone(maps, module=start)
        return Backbone(maps, module=nn.Conv2d(3, 2, 1), before=lambda: before).representation()

    given = {"once": [own(1.0)], "twice": [own(2.0)]}
    found = starting_points(given, {name: {"before": f"{name} (before)"} for name in given})
    images = torch.rand(1, 3, 2, 2)
    once, twice = (found[f"{name} (before)"][0].features(images) for name in given)
    assert torch.equal(2 * once, twice)
