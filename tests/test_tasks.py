"""Tasks that predict channels: outputs, learning, leaks, saving and loading, untrained controls, error messages."""

import json

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, UnknownNameError
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.system.files import file_sha256, with_checksum
from ssl_pretext.tasks import Colorization, CrossChannelPrediction, PretextTask, SplitBrain


def net(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", ["lab:ab", "rgb"])
def test_colorization_is_cross_channel_prediction(target, images):
    torch.manual_seed(0)
    task = sp.create_task("colorization", encoder="autoencoder", target=target, losses={"smooth_l1": 1.0, "l1": 0.5})
    output = task(images)
    assert isinstance(task, CrossChannelPrediction)
    assert output.prediction.shape == output.target.shape == (4, task.target.num_channels, 32, 32)
    assert output.prediction.abs().max() <= 1
    assert torch.allclose(output.loss, sum(output.terms.values()))
    assert set(output.terms) == {"smooth_l1", "l1"}
    colored = task.predict(images)
    assert colored.shape == images.shape
    assert colored.min() >= -1e-6
    assert colored.max() <= 1 + 1e-6


def test_colorize_restores_the_mode_of_each_module(images):
    task = Colorization(net(), target="rgb").train()
    task.encoder.eval()  # as for a frozen encoder
    before = {name: part.training for name, part in task.named_modules()}
    task.predict(images)
    assert {name: part.training for name, part in task.named_modules()} == before


def test_uint8_and_float_images_give_the_same_loss(images):
    task = Colorization("autoencoder", target="rgb").eval()
    levels = (images * 255).round().to(torch.uint8)
    assert torch.equal(task(levels).loss, task(levels.float() / 255).loss)


def test_the_target_never_reaches_the_encoder(images):
    """Images with the same lightness and different colors give the same input and features."""
    seen = []
    task = Colorization(net(), target="lab:ab").eval()
    task.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    light, color = sp.Channels("lab", "L"), sp.Channels("lab", "ab")
    muted = {light: 0.2 * light.extract(images), color: 0.05 * color.extract(images)}
    first = sp.channels.join(muted)
    second = sp.channels.join(
        {**muted, color: 0.2 * torch.rand(4, 2, 32, 32, generator=torch.Generator().manual_seed(1)) - 0.1}
    )
    assert not torch.allclose(first, second, atol=0.01)
    assert torch.allclose(task.features(first.clamp(0, 1)), task.features(second.clamp(0, 1)), atol=1e-3)
    task(first.clamp(0, 1))
    assert torch.equal(seen[0], seen[2])
    # Negative control: the features of a task that sees the target differ.
    leaky = CrossChannelPrediction("lab", "lab:ab", net(3)).eval()
    assert not torch.allclose(leaky.features(first.clamp(0, 1)), leaky.features(second.clamp(0, 1)), atol=1e-3)


def test_learning_beats_the_mean_color(images):
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(images, scale_factor=0.25).repeat_interleave(4, 2).repeat_interleave(4, 3)
    task = Colorization(net(), target="lab:ab", losses={"l2": 1.0})
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for _ in range(150):
        loss = task(smooth).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    target = task(smooth).target
    assert loss < 0.7 * (target - target.mean(dim=(0, 2, 3), keepdim=True)).square().mean()


def test_a_loaded_task_is_bit_for_bit_the_saved_one(tmp_path, images):
    task = sp.create_task("colorization", encoder="autoencoder", target="rgb", losses={"smooth_l1[beta=0.5]": 2.0})
    task.trained_on = TrainedOn(image_size=32, resize="center crop")
    task.save_pretrained(tmp_path / "task")
    assert {path.suffix for path in (tmp_path / "task").iterdir()} == {".json", ".safetensors", ".md"}
    again = sp.PretextTask.from_pretrained(tmp_path / "task")
    assert type(again) is Colorization
    assert same(task, again)
    assert again.trained_on == task.trained_on
    assert again.options() == task.options()
    assert torch.equal(task.eval()(images).loss, again(images).loss)


def test_a_task_on_bands_is_saved_with_its_channel_space(tmp_path):
    space = sp.ChannelSpace.bands("tasks-test", ["B1", "B2", "B3"], center=0.5, scale=[1, 2, 3])
    task = CrossChannelPrediction(space["B1", "B2"], space["B3"], net(2))
    task.save_pretrained(tmp_path)
    contract = json.loads((tmp_path / "config.json").read_text())
    assert contract["channel_spaces"][0]["scale"] == [1, 2, 3]
    again = sp.PretextTask.from_pretrained(tmp_path, parts={"encoder": net(2)})
    assert same(task, again)
    with pytest.raises(CheckpointError, match="given as a module.*pass parts="):
        sp.PretextTask.from_pretrained(tmp_path)


def od(images):
    return -(images + 1 / 255).log()


def from_od(density):
    return (-density).exp() - 1 / 255


def test_a_task_whose_space_converts_images_is_loaded_with_that_space(tmp_path, images):
    space = sp.ChannelSpace(
        "density", ("R", "G", "B"), (1.0,) * 3, (1.0,) * 3, is_color=True, convert=od, convert_back=from_od
    )
    task = CrossChannelPrediction(space["R"], space["G", "B"], "autoencoder")
    task.save_pretrained(tmp_path / "task")
    with pytest.raises(CheckpointError, match=r"'density' converts images with functions.*pass spaces=\["):
        sp.PretextTask.from_pretrained(tmp_path / "task")
    again = sp.PretextTask.from_pretrained(tmp_path / "task", spaces=[space])
    assert again.target == space["G", "B"]
    assert torch.equal(again.features(images), task.features(images))
    assert task.untrained(0).features(images).shape == task.features(images).shape
    sp.save_representation(task.representation(), tmp_path / "representation")
    saved = sp.load_representation(tmp_path / "representation", spaces=[space])
    assert torch.equal(saved.features(images), task.features(images))
    sp.save_representation(sp.Pixels(space["R"]), tmp_path / "pixels")
    assert sp.load_representation(tmp_path / "pixels", spaces=[space]).describe == sp.Pixels(space["R"]).describe
    with pytest.raises(CheckpointError, match="converts images with functions"):
        sp.load_representation(tmp_path / "pixels")


def test_bands_with_odd_names_are_saved_with_a_task(tmp_path):
    space = sp.ChannelSpace.bands("my cells: 2021", ["DNA stain", "a,b", "CD4+"], scale=2)
    task = CrossChannelPrediction(space["DNA stain", "a,b"], space["CD4+"], "autoencoder[width=0.25]")
    task.save_pretrained(tmp_path)
    again = sp.PretextTask.from_pretrained(tmp_path)  # nothing else than the contract tells the space
    assert (again.source, again.target) == (task.source, task.target)
    other = sp.ChannelSpace.bands(space.name, space.channels, scale=3)
    mixed = CrossChannelPrediction(space["DNA stain"], other["CD4+"], net())
    with pytest.raises(ArgumentError, match="two different channel spaces have the name 'my cells: 2021'"):
        mixed.save_pretrained(tmp_path / "mixed")


def test_loading_is_strict(tmp_path):
    task = Colorization("autoencoder")
    task.save_pretrained(tmp_path)
    with pytest.raises(MissingFileError, match="no folder .* with a saved task"):
        PretextTask.from_pretrained(tmp_path / "nowhere")
    task.save_pretrained(tmp_path / "run/task")
    assert same(task, PretextTask.from_pretrained(tmp_path / "run"))
    (tmp_path / "unfinished/task").mkdir(parents=True)
    with pytest.raises(MissingFileError, match="unfinished/config.json does not exist"):
        PretextTask.from_pretrained(tmp_path / "unfinished")
    (tmp_path / "unfinished/fit.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"unfinished has not finished; finish it first: fit\(\) with"):
        PretextTask.from_pretrained(str(tmp_path / "unfinished"))
    contract = json.loads((tmp_path / "config.json").read_text())

    def write(**changes):
        """Writes a changed contract with valid checksums."""
        edited = {key: value for key, value in contract.items() if key != "contract_sha256"} | changes
        edited["weights_sha256"] = file_sha256(tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(with_checksum(edited, "contract_sha256")))

    write(options={**contract["options"], "target": "rgb"})
    with pytest.raises(CheckpointError, match="do not fit the task"):
        PretextTask.from_pretrained(tmp_path)
    write(options={**contract["options"], "color": "red"})
    with pytest.raises(CheckpointError, match="cannot create a task from the contract [^.]*[.]json: .*"):
        PretextTask.from_pretrained(tmp_path)
    write(options={**contract["options"], "color": "red"}, library_version="99.1")
    with pytest.raises(CheckpointError, match=rf"saved by ssl_pretext 99.1, and this is {sp.__version__}"):
        PretextTask.from_pretrained(tmp_path)
    write(format=99)
    with pytest.raises(CheckpointError, match="has format 99, but this version of ssl_pretext reads only"):
        PretextTask.from_pretrained(tmp_path)
    write(task="cross_channel", options={"source": "lab:L", "target": "lab:ab", "encoder": "autoencoder"})
    with pytest.raises(CheckpointError, match="which is not a Colorization"):
        Colorization.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    write()
    with pytest.raises(CheckpointError, match="do not fit"):
        PretextTask.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no model\.safetensors"):
        PretextTask.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        PretextTask.from_pretrained(tmp_path)


@pytest.mark.parametrize("encoder", ["autoencoder", net()])
def test_untrained_has_the_same_architecture_and_new_weights(encoder):
    task = Colorization(encoder)
    random = torch.get_rng_state()
    first, again, other = task.untrained(1), task.untrained(1), task.untrained(2)
    assert torch.equal(random, torch.get_rng_state())
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, task)
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in task.state_dict().items()}


def test_features_of_each_layer(images):
    task = Colorization("autoencoder").eval()
    assert task.features(images).shape == (4, 4, 8, 8)
    assert task.features(images, "body.mid_block").shape == (4, 16, 8, 8)
    assert "body.mid_block" in task.layers()
    with pytest.raises(UnknownNameError, match="has no layer 'mid'"):
        task.representation("mid")


def test_a_denoising_autoencoder_corrupts_only_while_training(images):
    task = CrossChannelPrediction("rgb", "rgb", net(3), input_noise=0.5, input_drop=0.3)
    assert not torch.equal(task(images).prediction, task(images).prediction)
    task.eval()
    assert torch.equal(task(images).prediction, task(images).prediction)


def test_error_messages(images):
    channels = ["colorization", "cross_channel", "cross_channel_contrast", "split_brain"]
    parts = ["denoising", "inpainting", "jigsaw", "masked_patches", "relative_patch", "rotation"]
    views = ["barlow_twins", "instance_contrast", "simsiam", "vicreg"]
    assert sp.list_tasks() == sorted([*channels, *parts, *views, "multi_task"])
    with pytest.raises(UnknownNameError, match="no task named 'colorizatoin'. Did you mean 'colorization'"):
        sp.create_task("colorizatoin", encoder="autoencoder")
    with pytest.raises(ArgumentError, match="'colorization' does not take these options"):
        sp.create_task("colorization", encoder="autoencoder", color=1)
    with pytest.raises(ArgumentError, match="must be 'lab:ab' or 'rgb', got 'gray'"):
        Colorization("autoencoder", target="gray")
    with pytest.raises(ArgumentError, match="read from different images"):
        CrossChannelPrediction("lab:L", sp.Channels(sp.ChannelSpace.bands("tasks-two", ["x", "y"])), net())
    with pytest.raises(
        ArgumentError, match="cross_channel needs input_noise >= 0 and 0 <= input_drop < 1, got 0.0 and 1.0"
    ):
        CrossChannelPrediction("rgb", "rgb", net(3), input_drop=1.0)
    task = Colorization("autoencoder")
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
        task(images * 255)
    with pytest.raises(ArgumentError, match=r"shape \(B, 3, H, W\), got \(4, 1, 32, 32\)"):
        task(images[:, :1])
    with pytest.raises(ArgumentError, match="reduces images by a factor of 4 and needs at least 4×4 pixels, got 3×3"):
        task(images[..., :3, :3])
    with pytest.raises(
        ArgumentError, match=r"decoder of colorization returned 3 channels, but predicting Channels\('lab:ab'\) needs 2"
    ):
        Colorization(net(), decoder=nn.Conv2d(8, 3, 1))(images)


def test_split_brain_predicts_each_group_from_the_other(images):
    torch.manual_seed(0)
    losses = [{"l2": 1.0}, {"channel_classification": 0.5}]
    task = sp.create_task("split_brain", first="lab:L", second="lab:ab", encoder=[net(1), net(2)], losses=losses).eval()
    output = task(images)
    assert set(output.terms) == {"lab:ab l2", "lab:L channel_classification"}
    assert output.prediction.shape == output.target.shape == (4, 3, 32, 32)
    assert torch.allclose(output.target, sp.Channels("lab").extract(images), atol=1e-6)
    light, color = task.branches
    assert torch.equal(output.prediction[:, :1], color(images).prediction)
    assert torch.equal(output.prediction[:, 1:], light(images).prediction)
    assert not {id(p) for p in light.parameters()} & {id(p) for p in color.parameters()}
    for layer in (None, "0", "2"):
        assert layer is None or layer in task.layers()
        parts = [light.features(images, layer), color.features(images, layer)]
        assert torch.equal(task.features(images, layer), torch.cat(parts, dim=1))
    assert {id(p) for p in task.encoder.parameters()} < {id(p) for p in task.parameters()}


def test_the_branches_of_a_split_brain_do_not_see_each_others_channels(images):
    task = SplitBrain("lab:L", "lab:ab", "autoencoder").eval()
    light, color = sp.Channels("lab", "L"), sp.Channels("lab", "ab")
    muted = {light: 0.2 * light.extract(images), color: 0.05 * color.extract(images)}
    first, second = sp.channels.join(muted), sp.channels.join({**muted, color: -muted[color]})
    seen, other = task.features(first.clamp(0, 1)), task.features(second.clamp(0, 1))
    assert torch.allclose(seen[:, :4], other[:, :4], atol=1e-3)
    assert not torch.allclose(seen[:, 4:], other[:, 4:], atol=1e-3)


@pytest.mark.parametrize(
    "first",
    [
        sp.ChannelSpace.bands("leak4", ["b0", "b1", "b2", "b3"], scale=1)["b0", "b1"],
        sp.Channels("rgb", "R"),
        sp.Channels("ycbcr", "Y"),
    ],
    ids=str,
)
def test_the_target_channels_never_change_the_features(first):
    second = first.complement()
    task = CrossChannelPrediction(first, second, net(first.num_channels)).eval()
    seen = []
    task.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    values = {first: 0.1 * torch.rand(2, first.num_channels, 8, 8)}
    images = [
        sp.channels.join({**values, second: amount * torch.ones(2, second.num_channels, 8, 8)})
        for amount in (0.1, -0.1)
    ]
    for image in images:
        task(image)
    assert not torch.allclose(*images, atol=1e-2)
    assert torch.allclose(*seen, atol=1e-5)
    assert torch.allclose(*(task.features(image) for image in images), atol=1e-5)
    assert torch.allclose(*(task.features(image, "0") for image in images), atol=1e-5)


def test_split_brain_is_saved_and_has_an_untrained_control(tmp_path, images):
    named = SplitBrain("lab:L", "lab:ab", "autoencoder", losses={"smooth_l1": 1.0}, output_stride=2)
    named.save_pretrained(tmp_path / "named")
    again = sp.PretextTask.from_pretrained(tmp_path / "named")
    assert type(again) is SplitBrain
    assert same(named, again)
    assert again.options() == named.options()
    assert named.options()["encoder"] == ["autoencoder[width=0.5]"] * 2
    given = SplitBrain("lab:L", "lab:ab", [net(1), net(2)])
    given.save_pretrained(tmp_path / "given")
    assert same(given, SplitBrain.from_pretrained(tmp_path / "given", parts={"encoder": [net(1), net(2)]}))
    for task in (named, given):
        assert not same(task, task.untrained(0))
        assert same(task.untrained(0), task.untrained(0))
        assert task.untrained(0).features(images).shape == task.features(images).shape
    with pytest.raises(ArgumentError, match="must see different channels, got lab:La and lab:ab"):
        SplitBrain("lab:La", "lab:ab", "autoencoder")
    with pytest.raises(
        ArgumentError,
        match="two encoders with separate weights; give encoder as a name or as a pair of modules, got one Sequential",
    ):
        SplitBrain("lab:L", "rgb", net(1))
    for task in (SplitBrain, sp.tasks.CrossChannelContrast):
        with pytest.raises(
            ArgumentError,
            match="reduce images by the same factor, because their features are concatenated; got 4 and 32",
        ):
            task("lab:L", "lab:ab", ["autoencoder", "timm/resnet10t"])
    shared = net(1)
    with pytest.raises(
        ArgumentError, match="must be one value for both branches or one for each, got the same module twice"
    ):
        SplitBrain("rgb:R", "rgb:G", [shared, shared])


def test_missing_values_are_not_inputs_and_not_in_the_loss():
    space = sp.ChannelSpace.bands("missing-test", ["x", "y"], scale=1)
    torch.manual_seed(0)
    task = CrossChannelPrediction(space["x"], space["y"], net(), losses={"l1": 1.0, "l2": 1.0})
    task.eval()
    images = torch.rand(2, 2, 16, 16)
    complete = task(images)
    assert torch.allclose(complete.loss, sum(complete.terms.values()))
    hidden = images.clone()
    hidden[:, 1, :, 5:] = float("nan")
    output = task(hidden)
    difference = (complete.prediction - complete.target)[..., :5]
    assert output.terms["l1"].item() == pytest.approx(difference.abs().mean().item(), rel=1e-5)
    assert output.terms["l2"].item() == pytest.approx(difference.square().mean().item(), rel=1e-5)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters() if parameter.requires_grad)
    blind = images.clone()
    blind[:, 0, :, :8] = float("nan")
    centered = torch.where(blind.isnan(), 0.0, blind)
    assert torch.equal(task.features(blind), task.features(centered))
    hidden[:, 1] = float("nan")
    assert task(hidden).loss == 0  # all target values are missing
    assert sp.Pixels(space["x"]).features(blind).isfinite().all()


def test_output_stride(images):
    task = CrossChannelPrediction(
        "lab:L", "lab:ab", "autoencoder", losses={"color_classification": 1.0}, output_stride=4
    )
    source = sp.Channels("lab", "L").extract(images)
    assert task.decoder(task.encoder(source)).shape == (4, 313, 8, 8)
    assert task(images).prediction.shape == (4, 2, 32, 32)
    with pytest.raises(
        ArgumentError, match="at least 1 and at most the factor by which the encoder reduces images, 4; got 8"
    ):
        CrossChannelPrediction("lab:L", "lab:ab", "autoencoder", output_stride=8)
