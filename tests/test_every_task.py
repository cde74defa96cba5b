"""Tests that all tasks pass: any channels and encoders, saving, untrained controls, and exact resuming."""

import json
import math
import multiprocessing
import os
import pickle
import signal

import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.saving.contract import TrainedOn

BANDS = sp.ChannelSpace.bands("every13", [f"b{i}" for i in range(13)], center=0.5, scale=0.5)
CHANNELS = {1: sp.Channels("gray"), 3: sp.Channels("rgb"), 13: sp.Channels(BANDS)}
ENCODERS = {
    "autoencoder": "autoencoder",
    "timm CNN": "timm/resnet10t[layer=layer2]",
    "torchvision CNN": "torchvision/squeezenet1_1",
    "timm ViT": "timm/vit_tiny_patch16_224[img_size=32;patch_size=8;embed_dim=48;depth=2]",
    "module": None,
}
JOINT = ("barlow_twins", "instance_contrast", "simsiam", "vicreg")
TASKS = (
    *("cross_channel_contrast", "denoising", "inpainting", "jigsaw", "masked_patches", "multi_task", "relative_patch"),
    *("rotation", *JOINT),
)
TWO_ENCODERS = ("cross_channel_contrast",)
TRANSFORMERS_ONLY = ("masked_patches",)


def net(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    )


def module(task: str, channels: int = 3) -> "nn.Module | list[nn.Module]":
    if task in TRANSFORMERS_ONLY:
        return sp.create_encoder(ENCODERS["timm ViT"], in_channels=channels)
    return [net(1), net(channels - 1)] if task in TWO_ENCODERS else net(channels)


def named(task: str) -> str:
    return ENCODERS["timm ViT" if task in TRANSFORMERS_ONLY else "autoencoder"]


def build(task: str, encoder: object = None, channels: int = 3) -> sp.PretextTask:
    torch.manual_seed(0)
    seen: dict[str, object] = {"channels": CHANNELS[channels]}
    if task in TWO_ENCODERS:
        space, names = CHANNELS[channels].space, CHANNELS[channels].names
        seen = {"first": space[names[:1]], "second": space[names[1:]]}
    if task == "multi_task":
        seen["tasks"] = {"rotation": 1.0, "denoising": 0.5, "simsiam[embed_dim=16]": 0.1}
    elif task in JOINT:
        seen["embed_dim"] = 16
    return sp.create_task(task, encoder=encoder or module(task, channels), **seen)


def batch_of(task: sp.PretextTask, batch: Tensor) -> Tensor:
    """The views of images that a task compares."""
    return batch if task.num_views == 1 else torch.stack([batch, batch.flip(-1)], dim=1)


def images(channels: int = 3, count: int = 4, size: int = 32) -> Tensor:
    smooth = torch.rand(count, max(3, channels), 5, 5, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(smooth, size=(size, size), mode="bilinear")


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def check_output(output: sp.TaskOutput) -> None:
    assert output.loss.item() == pytest.approx(sum(term.item() for term in output.terms.values()), rel=1e-5)
    assert math.isfinite(output.loss.item())
    if output.target.dtype == torch.int64:
        assert output.target.shape == output.prediction.shape[:1]
        assert 0 <= output.target.min() <= output.target.max() < output.prediction.shape[1]
    else:
        assert output.target.shape == output.prediction.shape


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_every_encoder(task, encoder):
    if task in TRANSFORMERS_ONLY and encoder != "timm ViT":
        with pytest.raises(ArgumentError, match="needs a plain vision transformer of timm"):
            build(task, ENCODERS[encoder] or net(3))
        return
    one = build(task, ENCODERS[encoder])
    output = one(batch_of(one, images()))
    check_output(output)
    output.loss.backward()
    # A parameter without a gradient would stop training on several devices.
    without_gradient = [name for name, p in one.named_parameters() if p.requires_grad and p.grad is None]
    assert not without_gradient
    assert all(parameter.grad.isfinite().all() for parameter in one.parameters() if parameter.grad is not None)
    for layer in (None, one.layers()[-1]):
        assert one.eval().features(images(), layer).shape[0] == 4


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_any_number_of_channels(task, channels, tmp_path):
    if channels == 1 and task in TWO_ENCODERS:
        pytest.skip("the task needs at least two channels")
    one = build(task, named(task) if task in TRANSFORMERS_ONLY else None, channels)
    batch = images(channels)
    check_output(one(batch_of(one, batch)))
    assert one.encoder_channels.num_channels == channels
    assert one.untrained(1).eval().features(batch).shape == one.eval().features(batch).shape
    if channels == 13:
        batch[:, :4, :9] = math.nan  # missing values
        check_output(one(batch_of(one, batch)))
        assert one.features(batch).isfinite().all()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_saved_and_loaded(task, tmp_path):
    one = build(task, named(task), channels=13)
    one.trained_on = TrainedOn(image_size=32, resize="center crop")
    one.save_pretrained(tmp_path / "named")
    again = sp.PretextTask.from_pretrained(tmp_path / "named")
    assert type(again) is type(one)
    assert same(one, again)
    assert again.options() == one.options()
    outputs = []
    for task_ in (one.eval(), again):
        torch.manual_seed(3)
        outputs.append(task_(batch_of(task_, images(13))).loss)
    assert torch.equal(*outputs)
    given = build(task)
    given.save_pretrained(tmp_path / "given")
    assert same(given, sp.PretextTask.from_pretrained(tmp_path / "given", parts={"encoder": module(task)}))
    with pytest.raises(CheckpointError, match="given as a module"):
        sp.PretextTask.from_pretrained(tmp_path / "given")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_and_its_layers_are_pickled(task):
    one, batch = build(task, named(task)).eval(), images()
    assert same(one, pickle.loads(pickle.dumps(one)))
    again = pickle.loads(pickle.dumps(one.representation()))
    with torch.no_grad():
        assert torch.equal(again.features(batch), one.features(batch))
        assert same(again.untrained(1).backbone.module, one.untrained(1))


def losses_in_another_process(task: sp.PretextTask, store: sp.ImageStore) -> list[float]:
    return [task(store.images([0, 1])).loss.item(), sp.Pixels("rgb", size=2).features(store.images()).sum().item()]


def test_a_new_process_gets_a_task_and_images():
    """A process that is started and not forked, as on Windows and macOS; it takes seconds to import torch."""
    torch.manual_seed(0)
    task = sp.Colorization(net(1), regularizers={"nuclear_norm": 0.1}).eval()
    store = sp.ImageStore.from_arrays(images(), [0, 1, 0, 1]).subset([1, 3])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(losses_in_another_process, (task, store))
    assert found == pytest.approx(losses_in_another_process(task, store), rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_offers_its_layers_as_representations(task):
    one, batch = build(task), images()
    found = one.representations()
    assert list(found) == one.layers()
    json.dumps(one.representation().describe)
    last = one.layers()[-1]
    with torch.no_grad():
        assert torch.equal(one.eval().representation(last).features(batch), one.features(batch, last))
        assert torch.equal(one.representation().features(batch), one.features(batch))
    with pytest.raises(UnknownNameError, match=f"{task} has no layer 'nowhere'; its layers: "):
        one.representation("nowhere")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_in_bfloat16(task):
    one = build(task)
    with torch.autocast("cpu", torch.bfloat16):
        output = one(batch_of(one, images()))
    check_output(output)
    output.loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_when_it_is_cast(task, dtype):
    one = build(task).to(dtype)
    output = one(batch_of(one, images().to(dtype)))
    assert output.loss.isfinite()
    output.loss.backward()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_an_untrained_control(task):
    one = build(task, named(task))
    random = torch.get_rng_state()
    first, again, other = one.untrained(1), one.untrained(1), one.untrained(2)
    assert torch.equal(random, torch.get_rng_state())
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, one)
    assert first.options() == one.options()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_deterministic_for_a_seed_in_both_modes(task):
    one, batch = build(task), images()
    for mode in (True, False):
        one.train(mode)
        losses = []
        for seed in (1, 1):
            torch.manual_seed(seed)
            losses.append(one(batch_of(one, batch)).loss)
        assert torch.equal(*losses)
    with torch.no_grad():
        before = torch.get_rng_state()
        assert torch.equal(one.features(batch), one.features(batch))
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_raises_for_images_that_do_not_fit(task):
    one = build(task)
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
        one(batch_of(one, images() * 255))
    with pytest.raises(ArgumentError, match=r"shape \(B, 3, H, W\), got \([48], 1, 32, 32\)"):
        one(batch_of(one, images()[:, :1]))
    with pytest.raises(ArgumentError, match="needs at least one channel, got"):
        build(task).set_encoder(net(3), sp.Channels("rgb", ()))
    with pytest.raises(ArgumentError, match="does not run on images of shape"):
        build(task, module(task, 13))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_resumes_to_the_same_weights(task, tmp_path):
    """A run that is interrupted within an epoch and resumed has the same result as a run without interruption.

    Validation does not change the result either.
    """
    store = sp.ImageStore.from_arrays(torch.rand(24, 3, 32, 32), [0] * 24)

    def run(folder: str, *, stop_at: int | None = None, validation: "sp.ImageStore | None" = None):
        config = sp.FitConfig(out=tmp_path / folder, epochs=2, batch_size=8, device="cpu", resume=True)
        one, steps = build(task), 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += one.training
            if steps == stop_at:
                os.kill(os.getpid(), signal.SIGINT)

        one.register_forward_hook(count)
        return one, sp.fit(one, store, config, validation=validation)

    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run("stopped", stop_at=2)
    finally:
        signal.signal(signal.SIGINT, handler)
    uninterrupted, history = run("uninterrupted")
    resumed, again = run("stopped")
    assert same(uninterrupted, resumed)
    assert history == again
    validated, rows = run("validated", validation=store)
    assert same(uninterrupted, validated)
    assert all(math.isfinite(row["val_loss"]) for row in rows)
