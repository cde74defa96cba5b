"""Optimizers, schedules, accumulated gradients and the moving average do what their formulas say, also when resumed."""

import copy
import csv
import math
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset
from training_runs import fit_noisy_task, noise_store, same_run, small_encoder, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.training.checkpoints import AtomicCheckpointIO
from ssl_pretext.training.optimization import create_optimizer, create_schedule, gradient_checkpointing

PLAIN = {"device": "cpu", "schedule": "constant", "warmup": 0, "weight_decay": 0}


class Weights(Callback):
    """Keeps the weights after each batch, and the learning rate of the next one."""

    def __init__(self):
        self.found, self.rates = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.found.append(copy.deepcopy(module.task.state_dict()))


def conv_task():
    """A task without BatchNorm, whose loss is a mean over images of one size."""
    torch.manual_seed(0)
    return sp.Colorization(nn.Conv2d(1, 4, 2, stride=2))


def rates(out):
    with (out / "logs/csv/metrics.csv").open() as file:
        return [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, lambda done: 0.5 * (1 + math.cos(math.pi * done))),
        ({"schedule": "linear"}, lambda done: 1 - done),
        ({"schedule": "constant"}, lambda done: 1),
        (
            {"schedule": "cosine_with_restarts[num_cycles=2]"},
            lambda done: 0.5 * (1 + math.cos(math.pi * (2 * done % 1))),
        ),
        ({"schedule": "polynomial[power=2]"}, lambda done: (1 - done) ** 2),
    ],
)
def test_the_learning_rate_rises_and_follows_its_schedule(options, factor, tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=4, batch_size=8, learning_rate=0.01, warmup=0.2, device="cpu", **options)
    sp.fit(conv_task(), noise_store(), config)  # 20 steps, of which 4 are the warm-up
    expected = [0.01 * step / 4 for step in range(4)] + [0.01 * factor(step / 16) for step in range(16)]
    assert rates(tmp_path) == pytest.approx(expected, abs=2e-7)


def test_the_steps_count_batches_and_their_limit(tmp_path):
    options = {"batch_size": 8, "device": "cpu", "warmup": 0, "schedule": "linear", "learning_rate": 0.01}
    sp.fit(conv_task(), noise_store(), sp.FitConfig(out=tmp_path / "a", epochs=2, accumulate=2, **options))
    assert len(set(rates(tmp_path / "a"))) == 6  # 5 batches per epoch make 3 steps
    weights = Weights()
    config = sp.FitConfig(out=tmp_path / "b", epochs=9, max_steps=7, **options)
    history = sp.fit(conv_task(), noise_store(), config, callbacks=[weights], validation=noise_store(8))
    assert rates(tmp_path / "b") == pytest.approx([0.01 * (1 - step / 7) for step in range(7)])
    assert len(weights.found) == 7
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(row["val_loss"] > 0 for row in history)


def test_images_of_unknown_number_get_a_constant_rate_or_an_error(tmp_path, caplog):
    class Images(IterableDataset):
        def __iter__(self):
            return iter(noise_store(12).images().float().div(255))

    config = {"epochs": 1, "batch_size": 4, "device": "cpu"}
    weights = Weights()
    with caplog.at_level("INFO"):
        sp.fit(conv_task(), Images(), sp.FitConfig(out=tmp_path / "a", **config), callbacks=[weights])
    assert weights.rates == [1e-4] * 3
    assert "the number of steps is unknown, so the learning rate is constant" in caplog.text
    with pytest.raises(ArgumentError, match="'cosine' with warmup=0.05 needs to know the number of steps.*max_steps"):
        sp.fit(conv_task(), Images(), sp.FitConfig(out=tmp_path / "b", schedule="cosine", **config))
    assert not (tmp_path / "b").exists()
    weights = Weights()
    limited = sp.FitConfig(out=tmp_path / "c", schedule="cosine", max_steps=2, warmup=0, **config)
    sp.fit(conv_task(), Images(), limited, callbacks=[weights])
    assert weights.rates == pytest.approx([0.5e-4, 0])


def test_accumulated_batches_train_like_large_ones(tmp_path):
    weights = {}
    for name, batch_size, accumulate in (("large", 8, 1), ("parts", 2, 4), ("other", 2, 1)):
        task = conv_task()
        config = sp.FitConfig(
            out=tmp_path / name, epochs=2, batch_size=batch_size, accumulate=accumulate, learning_rate=0.1,
            optimizer="sgd[momentum=0.5;nesterov=false]", clip_norm=0.1, **PLAIN,
        )  # fmt: skip
        sp.fit(task, noise_store(20), config)  # the last step has 4 images
        weights[name] = task.state_dict()
    for name, value in weights["large"].items():
        torch.testing.assert_close(weights["parts"][name], value, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(weights["other"]["encoder.weight"], weights["large"]["encoder.weight"], rtol=1e-3)


@pytest.mark.parametrize("clip_norm", [1e-3, 0.0])
def test_gradients_are_clipped_to_their_norm(clip_norm, tmp_path):
    task = conv_task()
    before = copy.deepcopy(task)
    config = sp.FitConfig(
        out=tmp_path, max_steps=1, batch_size=20, learning_rate=0.5, clip_norm=clip_norm,
        optimizer="sgd[momentum=0;nesterov=false]", **PLAIN,
    )  # fmt: skip
    sp.fit(task, noise_store(20), config)
    before.train()(noise_store(20).images()).loss.backward()
    norm = torch.stack([p.grad.norm() for p in before.parameters()]).norm().item()
    moved = torch.stack([(p - q).norm() for p, q in zip(task.parameters(), before.parameters(), strict=True)]).norm()
    assert norm > 1e-3
    assert moved.item() == pytest.approx(0.5 * (clip_norm or norm), rel=1e-3)


def test_the_moving_average_is_saved_as_a_task(tmp_path):
    weights, out = Weights(), tmp_path / "run"
    config = sp.FitConfig(out=out, epochs=2, batch_size=8, learning_rate=0.01, ema_decay=0.8, device="cpu")
    task = small_task()
    sp.fit(task, noise_store(), config, callbacks=[weights])
    averaged = sp.PretextTask.from_pretrained(out / "task-ema", parts={"encoder": small_encoder()})
    assert averaged.trained_on == task.trained_on
    assert averaged.trained_on.settings["ema_decay"] == 0.8
    for name in ("encoder.0.weight", "encoder.1.running_var"):
        expected = weights.found[0][name].double()
        for found in weights.found[1:]:
            expected = 0.8 * expected + 0.2 * found[name].double()
        torch.testing.assert_close(averaged.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(averaged.state_dict()[name], task.state_dict()[name], rtol=1e-4)


EXACT = {
    "cosine": {"warmup": 0.3},
    "linear-sgd": {"schedule": "linear", "optimizer": "sgd[momentum=0.9;nesterov=true]"},
    "polynomial-lamb": {"schedule": "polynomial", "optimizer": "lamb", "clip_norm": 0.01},
    "constant": {"schedule": "constant", "max_steps": 10},
    "restarts": {"schedule": "cosine_with_restarts[num_cycles=2]", "ema_decay": 0.6},
    "accumulated": {"accumulate": 3, "clip_norm": 0.01, "ema_decay": 0.6, "max_steps": 5},
}


@pytest.mark.parametrize("options", EXACT.values(), ids=EXACT)
def test_runs_resumed_from_any_step_equal_the_uninterrupted_run(options, tmp_path, monkeypatch):
    save, complete, copies = AtomicCheckpointIO.save_checkpoint, tmp_path / "complete", []

    def save_and_copy(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path)
        copies.append(shutil.copytree(complete, tmp_path / str(len(copies))))

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_copy)
        expected = fit_noisy_task(complete, **options)
    steps = [torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] for copy in copies]
    assert steps == [*range(1, steps[-1] + 1)]
    assert steps[-1] == options.get("max_steps", 12)
    for found in (copies[1], copies[3 if "accumulate" in options else -3]):
        assert same_run(fit_noisy_task(found, resume=True, **options), expected), f"resumed from {found}"
        for name in ["task", *(["task-ema"] if "ema_decay" in options else [])]:
            one, other = (load_file(folder / name / "model.safetensors") for folder in (complete, found))
            assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_constant_run_is_given_more_epochs(tmp_path):
    def trained(out, epochs, **options):
        task = small_task()
        config = {"batch_size": 16, "device": "cpu", "schedule": "constant", "warmup": 0, **options}
        history = sp.fit(task, noise_store(), sp.FitConfig(out=tmp_path / out, epochs=epochs, **config))
        return history, task.state_dict()

    whole = trained("whole", 3)
    trained("raised", 1)
    assert same_run(trained("raised", 3, resume=True), whole)
    with pytest.raises(CheckpointError, match=r"other settings \(epochs\)"):
        trained("raised", 2, resume=True)
    trained("falling", 1, schedule="cosine")
    with pytest.raises(CheckpointError, match="Only a run with schedule='constant', warmup=0 and no max_steps can be"):
        trained("falling", 2, schedule="cosine", resume=True)


def test_a_callback_ends_a_run(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=5, batch_size=16, learning_rate=1e-30, device="cpu")
    stopping = EarlyStopping("val/loss", patience=1, min_delta=1e9)
    history = sp.fit(small_task(), noise_store(), config, validation=noise_store(8), callbacks=[stopping])
    assert len(history) == 2
    assert (tmp_path / "task").exists()


def test_the_learning_rate_falls_by_layers():
    config = sp.FitConfig(out="x", learning_rate=0.1, layer_decay=0.5)
    task = sp.Colorization("timm/resnet10t")
    groups = create_optimizer(task, config).param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    assert sorted(rate_of) == sorted(map(id, trained))
    assert all(group["weight_decay"] == config.weight_decay for group in groups)
    body = task.encoder.body
    layers = [body.conv1[0], body.layer1[0], body.layer2[0], body.layer3[0], body.layer4[0]]
    found = [rate_of[id(next(layer.parameters()))] for layer in layers]
    assert found == pytest.approx([0.1 * 0.5**power for power in (4, 3, 2, 1, 0)])
    assert {rate_of[id(parameter)] for parameter in task.decoder.parameters()} == {0.1}
    both = sp.SplitBrain("lab:L", "lab:ab", "timm/resnet10t")
    lowest = min(group["lr"] for group in create_optimizer(both, config).param_groups)
    assert lowest == pytest.approx(0.1 * 0.5**4)


@pytest.mark.parametrize("encoder", ["timm/resnet10t", "autoencoder", "timm/vit_tiny_patch16_224[img_size=32;depth=2]"])
def test_activations_are_computed_again(encoder, tmp_path):
    weights, calls = {}, {}
    for recompute in (False, True):
        torch.manual_seed(0)
        task = sp.Colorization(encoder)
        inner = [module for module in task.encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear)][6]
        count = calls[recompute] = []
        inner.register_forward_hook(lambda module, _, output, count=count: count.append(1))
        config = sp.FitConfig(
            out=tmp_path / str(recompute), epochs=1, max_steps=1, batch_size=4, learning_rate=1e-3,
            optimizer="sgd", gradient_checkpointing=recompute, **PLAIN,
        )  # fmt: skip
        sp.fit(task, sp.ImageStore.from_arrays(torch.rand(4, 3, 32, 32), [0] * 4), config)
        weights[recompute] = dict(task.named_parameters())
    assert len(calls[True]) == len(calls[False]) + 1
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "adamx"}, UnknownNameError, "no optimizer named 'adamx'. Did you mean 'adamax' or "),
        ({"optimizer": "sgd[eps=3]"}, ArgumentError, "the optimizer 'sgd' takes no eps; remove it"),
        ({"optimizer": "sgd[width=3]"}, ArgumentError, "'sgd\\[width=3\\]' cannot be created.*width"),
        ({"optimizer": "adamw[betas=0.9+x]"}, ArgumentError, "betas must be numbers such as 0.9\\+0.95, got '0.9\\+x'"),
        ({"optimizer": "sgd[momentum=-1]"}, ArgumentError, "cannot be created.*[mM]omentum"),
        ({"optimizer": "sgd[lr=1]"}, ArgumentError, "lr cannot be an option.*use learning_rate and weight_decay"),
        ({"optimizer": "adahessian"}, ArgumentError, "'adahessian' needs second derivatives"),
        ({"layer_decay": 0.5}, ArgumentError, "layer_decay=0.5 needs a network whose layers.*got Sequential"),
        (
            {"gradient_checkpointing": True},
            ArgumentError,
            "gradient_checkpointing needs an encoder of timm.*Sequential",
        ),
        ({"schedule": "polynomial", "learning_rate": 1e-8}, ArgumentError, "'polynomial' cannot start from 1e-08"),
    ],
)
def test_what_cannot_be_optimized_is_refused_before_anything_is_written(options, error, message, tmp_path):
    config = sp.FitConfig(out=tmp_path / "run", device="cpu", **options)
    with pytest.raises(error, match=message):
        sp.fit(small_task(), noise_store(), config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"schedule": "cosin"}, UnknownNameError, "must be one of constant, .*, got 'cosin'. Did you mean 'cosine'"),
        ({"schedule": "cosine[power=2]"}, ArgumentError, "'cosine' has no option 'power'; it takes no options"),
        (
            {"schedule": "cosine_with_restarts[num_cycles=0.5]"},
            ArgumentError,
            "num_cycles .* a whole number of at least",
        ),
        ({"schedule": "polynomial[power=-1]"}, ArgumentError, "power .* must be a positive number, got -1"),
        ({"warmup": 1.5}, ArgumentError, "warmup must be a number of at least 0, at most 1, got 1.5"),
        ({"layer_decay": 0}, ArgumentError, "layer_decay must be a positive number, at most 1, got 0"),
        ({"clip_norm": -1}, ArgumentError, "clip_norm must be a number of at least 0"),
        ({"accumulate": 0}, ArgumentError, "accumulate must be a whole number of at least 1, got 0"),
        ({"max_steps": 0}, ArgumentError, "max_steps must be a whole number of at least 1, got 0"),
        ({"ema_decay": 1}, ArgumentError, "ema_decay must be at least 0 and less than 1, got 1.0"),
        ({"strategy": "fsdp"}, ArgumentError, "strategy must be one of auto, ddp, .*, got 'fsdp'"),
    ],
)
def test_wrong_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        sp.FitConfig(out="x", **options)


def test_networks_are_left_as_they_were():
    task = sp.Colorization("timm/resnet10t")
    with gradient_checkpointing(task):
        assert task.encoder.body.grad_checkpointing
    assert not task.encoder.body.grad_checkpointing
    optimizer = create_optimizer(task, sp.FitConfig(out="x", optimizer="AdamW[betas=0.8+0.95]"))
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert type(optimizer) is torch.optim.AdamW
    assert create_schedule(optimizer, sp.FitConfig(out="x"), math.inf).get_last_lr() == [1e-4]
