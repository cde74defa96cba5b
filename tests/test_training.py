import json
import logging
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.training.checkpoints import AtomicCheckpointIO


def store(count: int = 40) -> sp.ImageStore:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return sp.ImageStore.from_arrays(images, [index % 4 for index in range(count)])


def small_task() -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.Colorization(nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()))


def test_fit_trains_logs_and_saves(tmp_path):
    task = small_task()
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, learning_rate=3e-3, device="cpu")
    history = sp.fit(task, store(), config, validation=store(8))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(row["val_loss"] > 0 and set(row["terms"]) == {"smooth_l1"} for row in history)
    assert json.loads((tmp_path / "history.json").read_text()) == history
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert list((tmp_path / "logs").rglob("metrics.csv"))
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))
    again = sp.PretextTask.from_pretrained(
        tmp_path / "task",
        parts={"encoder": nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())},
    )
    assert again.trained_on.image_size == 16
    for key, value in task.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def fitted(out, **options):
    torch.manual_seed(0)
    losses = {"l2": 1.0, "adversarial[width=4]": 0.01}
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", encoder, losses=losses, input_noise=0.1)
    config = sp.FitConfig(out=out, epochs=3, batch_size=8, device="cpu", checkpoint_minutes=1e-9, **options)
    history = sp.fit(task, store(32), config, validation=store(8))
    return history, task.state_dict()


def same(one, other):
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def test_a_run_goes_on_from_every_checkpoint_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    save, last = AtomicCheckpointIO.save_checkpoint, tmp_path / "whole" / "checkpoints" / "last.ckpt"
    stops = []

    def keep(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path)
        stops.append(shutil.copytree(tmp_path / "whole", tmp_path / str(len(stops))))

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", keep)
        whole = fitted(tmp_path / "whole")
    # Each step has one, and each epoch.
    assert [
        torch.load(stop / last.relative_to(tmp_path / "whole"), weights_only=True)["global_step"] for stop in stops
    ] == [*range(1, 13)]
    for stop in stops:
        assert same(fitted(stop, resume=True), whole), f"going on from {stop}"


@pytest.mark.parametrize("step", [2, 4, 5, 12])
def test_ctrl_c_in_any_step_loses_nothing(step, tmp_path, monkeypatch):
    forward, steps = sp.CrossChannelPrediction.forward, []

    def interrupt(task, images):
        steps.extend([1] * task.training)
        if task.training and len(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return forward(task, images)

    with monkeypatch.context() as patch:
        patch.setattr(sp.CrossChannelPrediction, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    kept = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert kept == (step - 1 if step % 4 == 0 else step)  # validation, which ends an epoch, is not waited for
    assert same(fitted(tmp_path / "stopped", resume=True), fitted(tmp_path / "whole"))


def test_what_losses_need_of_the_images_is_measured_before_the_first_step(tmp_path):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
    task = sp.Colorization(encoder, losses={"color_classification": 1.0})
    sp.fit(task, store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))
    assert task.losses.logits.quantizer.prior.sum().item() == pytest.approx(1.0)


def test_the_same_is_hidden_of_the_validation_images_in_every_epoch(tmp_path):
    torch.manual_seed(0)
    task = sp.tasks.Denoising(nn.Conv2d(3, 4, 2, stride=2), noise="masking")
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, learning_rate=1e-30, weight_decay=0.0, device="cpu")
    history = sp.fit(task, store(), config, validation=store(20))
    assert len({row["val_loss"] for row in history}) == 1
    assert len({row["train_loss"] for row in history}) == 3


def test_the_logs_of_a_run_that_is_resumed_stay(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, device="cpu", resume=True)
    sp.fit(small_task(), store(), config)
    first = (tmp_path / "logs" / "csv" / "metrics.csv").read_text()
    assert len(first.splitlines()) == 1 + 9 + 3  # the columns, and a row for each step and epoch
    for _ in range(2):
        sp.fit(small_task(), store(), config)
    assert (tmp_path / "logs" / "csv" / "metrics.csv").read_text() == first
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"csv", "csv-2", "csv-3", "tensorboard"}


def test_a_run_whose_seed_is_a_date_goes_on_in_fewer_processes(tmp_path, caplog):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, seed=20301231, device="cpu", resume=True)
    history = sp.fit(small_task(), store(), config)
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["pretext"]["processes"] *= 2
    torch.save(checkpoint, last)
    assert sp.fit(small_task(), store(), config) == history
    assert "1 processes go on for 2" in caplog.text


def test_images_that_are_not_square_resume_too(tmp_path):
    images = sp.ImageStore.from_arrays(torch.rand(8, 3, 16, 12), [0] * 8)
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True)
    for _ in range(2):
        sp.fit(small_task(), images, config)
    again = sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": small_task().encoder})
    assert again.trained_on.image_size == (16, 12)


def test_a_folder_with_another_run_is_refused(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    sp.fit(small_task(), store(), config)
    with pytest.raises(CheckpointError, match="holds another pretraining run"):
        sp.fit(small_task(), store(), config)
    with pytest.raises(CheckpointError, match=r"other settings \(batch_size\)"):
        sp.fit(small_task(), store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True))
    other = sp.Colorization(small_task().encoder, losses={"l2": 1.0})
    with pytest.raises(CheckpointError, match=r"other settings \(task\)"):
        sp.fit(other, store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu", resume=True))


def test_lightning_is_silent_while_it_trains_and_as_before_afterward(tmp_path, caplog):
    talker = logging.getLogger("lightning.pytorch")
    talker.setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        sp.fit(small_task(), store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))
    assert not [record for record in caplog.records if record.name.startswith("lightning")]
    assert talker.level == logging.INFO


def test_batchnorm_finds_a_variance_in_the_last_batch(tmp_path):
    encoder = nn.Sequential(nn.Conv2d(1, 4, 16), nn.BatchNorm2d(4), nn.ReLU())  # maps of one pixel
    sp.fit(sp.Colorization(encoder), store(17), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))


def test_a_run_that_failed_before_its_first_checkpoint_does_not_hold_its_folder(tmp_path):
    tiny = sp.ImageStore.from_arrays(torch.zeros(4, 3, 1, 1, dtype=torch.uint8), [0] * 4)
    first = sp.FitConfig(out=tmp_path, epochs=1, batch_size=4, device="cpu")
    with pytest.raises(ArgumentError, match="choose a larger image size"):
        sp.fit(small_task(), tiny, first)
    second = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    assert len(sp.fit(small_task(), store(), second)) == 1
    assert len(json.loads((tmp_path / "images.json").read_text())) == 40, "the images are those of the second"
    with pytest.raises(CheckpointError, match="holds another pretraining run"):
        sp.fit(small_task(), store(), second)


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ArgumentError, match=r"FitConfig\.epochs is a whole number of at least 1, got 0"):
        sp.FitConfig(out=tmp_path, epochs=0)
    with pytest.raises(ArgumentError, match=r"FitConfig\.weight_decay is a number, 0 or more, got -1"):
        sp.FitConfig(out=tmp_path, weight_decay=-1)
    for name, value in (("learning_rate", 0), ("learning_rate", "1"), ("checkpoint_minutes", float("inf"))):
        with pytest.raises(ArgumentError, match=rf"FitConfig\.{name} is a number, positive, got '?{value}"):
            sp.FitConfig(out=tmp_path, **{name: value})
    assert type(sp.FitConfig(out=tmp_path, learning_rate=np.float32(0.5)).learning_rate) is float
    with pytest.raises(ArgumentError, match=r"FitConfig\.precision is one of 32-true, tf32, .*, got 'fp16'"):
        sp.FitConfig(out=tmp_path, precision="fp16")
    for name in ("epochs", "batch_size", "seed"):
        with pytest.raises(ArgumentError, match=rf"FitConfig\.{name} is a whole number of at least .*, got 1\.5"):
            sp.FitConfig(out=tmp_path, **{name: 1.5})
        assert type(getattr(sp.FitConfig(out=tmp_path, **{name: np.int64(3)}), name)) is int  # as JSON takes it
    with pytest.raises(ArgumentError, match="is one of auto, cpu, cuda, got 'tpu'"):
        sp.FitConfig(out=tmp_path, device="tpu")
    config = sp.FitConfig(out=tmp_path)
    with pytest.raises(ArgumentError, match="without images"):
        sp.fit(small_task(), store().subset([]), config)
    with pytest.raises(ArgumentError, match=r"trains a task, such as create_task\(\) makes, got str"):
        sp.fit("colorization", store(), config)
    with pytest.raises(ArgumentError, match=r"on an ImageStore or an ImageStream, got Tensor; .*from_arrays\(\) takes"):
        sp.fit(small_task(), store().images(), config)
    with pytest.raises(ArgumentError, match=r"takes a FitConfig, such as FitConfig\(out='runs/first'\), got dict"):
        sp.fit(small_task(), store(), {"out": tmp_path})
    assert not list(tmp_path.iterdir()), "refused before anything is written"


def test_a_device_that_is_not_there_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ArgumentError, match="'cuda', and PyTorch finds no CUDA device on this machine; 'auto' takes"):
        sp.fit(small_task(), store(), sp.FitConfig(out=tmp_path, device="cuda"))
    assert not list(tmp_path.iterdir())
