"""`fit` trains, logs, saves and resumes a run, and checks its arguments."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from training_runs import noise_store, small_encoder, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, NotFiniteError


def test_fit_trains_logs_and_saves(tmp_path):
    task = small_task()
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, learning_rate=3e-3, device="cpu")
    history = sp.fit(task, noise_store(), config, validation=noise_store(8))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(row["val_loss"] > 0 and set(row["terms"]) == {"smooth_l1"} for row in history)
    assert json.loads((tmp_path / "history.json").read_text()) == history
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert list((tmp_path / "logs").rglob("metrics.csv"))
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))
    again = sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": small_encoder()})
    assert again.trained_on.image_size == 16
    for key, value in task.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_statistics_that_losses_need_are_measured_before_the_first_step(tmp_path):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
    task = sp.Colorization(encoder, losses={"color_classification": 1.0})
    sp.fit(task, noise_store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))
    assert task.losses.logits.quantizer.prior.sum().item() == pytest.approx(1.0)


def test_validation_hides_the_same_parts_in_every_epoch(tmp_path):
    torch.manual_seed(0)
    task = sp.tasks.Denoising(nn.Conv2d(3, 4, 2, stride=2), noise="masking")
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, learning_rate=1e-30, weight_decay=0.0, device="cpu")
    history = sp.fit(task, noise_store(), config, validation=noise_store(20))
    assert len({row["val_loss"] for row in history}) == 1
    assert len({row["train_loss"] for row in history}) == 3


def test_resuming_keeps_the_earlier_logs(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, device="cpu", resume=True)
    sp.fit(small_task(), noise_store(), config)
    first = (tmp_path / "logs" / "csv" / "metrics.csv").read_text()
    assert len(first.splitlines()) == 1 + 9 + 3  # the header, and a row for each step and each epoch
    for _ in range(2):
        sp.fit(small_task(), noise_store(), config)
    assert (tmp_path / "logs" / "csv" / "metrics.csv").read_text() == first
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"csv", "csv-2", "csv-3", "tensorboard"}


def test_a_run_with_a_large_seed_resumes_with_fewer_processes(tmp_path, caplog):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, seed=20301231, device="cpu", resume=True)
    history = sp.fit(small_task(), noise_store(), config)
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["pretext"]["processes"] *= 2
    torch.save(checkpoint, last)
    assert sp.fit(small_task(), noise_store(), config) == history
    assert "the number of processes changed from 2 to 1" in caplog.text


def test_a_run_on_images_that_are_not_square_resumes(tmp_path):
    images = sp.ImageStore.from_arrays(torch.rand(8, 3, 16, 12), [0] * 8)
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True)
    for _ in range(2):
        sp.fit(small_task(), images, config)
    again = sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": small_task().encoder})
    assert again.trained_on.image_size == (16, 12)


def test_the_folder_of_another_run_is_refused(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    sp.fit(small_task(), noise_store(), config)
    with pytest.raises(CheckpointError, match="holds another pretraining run"):
        sp.fit(small_task(), noise_store(), config)
    with pytest.raises(CheckpointError, match=r"other settings \(batch_size\)"):
        sp.fit(
            small_task(), noise_store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True)
        )
    other = sp.Colorization(small_task().encoder, losses={"l2": 1.0})
    with pytest.raises(CheckpointError, match=r"other settings \(task\)"):
        sp.fit(other, noise_store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu", resume=True))


@pytest.mark.parametrize("resume", [False, True])
def test_a_checkpoint_without_its_settings_is_refused(resume, tmp_path):
    """Even if it would fit, nothing says that it belongs to these images and settings."""
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    sp.fit(small_task(), noise_store(), config)
    (tmp_path / "fit.json").unlink()
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"has a checkpoint, checkpoints/last\.ckpt, but no fit\.json"):
        sp.fit(small_task(), noise_store(), replace(config, resume=resume))
    assert not (tmp_path / "fit.json").exists()
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


def test_lightning_does_not_log_during_training(tmp_path, caplog):
    logger = logging.getLogger("lightning.pytorch")
    logger.setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        sp.fit(small_task(), noise_store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))
    assert not [record for record in caplog.records if record.name.startswith("lightning")]
    assert logger.level == logging.INFO


def test_the_last_batch_is_large_enough_for_batchnorm(tmp_path):
    encoder = nn.Sequential(nn.Conv2d(1, 4, 16), nn.BatchNorm2d(4), nn.ReLU())  # maps of one pixel
    sp.fit(sp.Colorization(encoder), noise_store(17), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))


def test_a_batch_that_batchnorm_cannot_normalize_is_explained(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=1, device="cpu")
    one_pixel = nn.Sequential(nn.Conv2d(1, 4, 16), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(ArgumentError, match="single value per channel from 1 images of 16×16 pixels.* a batch_size of"):
        sp.fit(sp.Colorization(one_pixel), noise_store(4), config)
    with pytest.raises(ArgumentError, match="single value per channel from 1 images"):  # a single image in all
        sp.fit(sp.Colorization(one_pixel), noise_store(1), replace(config, batch_size=8))
    instances = nn.Sequential(nn.Conv2d(1, 4, 16), nn.InstanceNorm2d(4), nn.ReLU())
    with pytest.raises(ArgumentError, match="single value per channel from 8 images.*Choose .* larger images"):
        sp.fit(sp.Colorization(instances), noise_store(8), replace(config, batch_size=8))
    sp.fit(small_task(), noise_store(4), config)  # maps of more pixels can be normalized


def test_a_run_that_failed_before_its_first_checkpoint_can_be_replaced(tmp_path):
    tiny = sp.ImageStore.from_arrays(torch.arange(12, dtype=torch.uint8).view(4, 3, 1, 1) * 20, [0] * 4)
    first = sp.FitConfig(out=tmp_path, epochs=1, batch_size=4, device="cpu")
    with pytest.raises(ArgumentError, match="choose a larger image size"):
        sp.fit(small_task(), tiny, first)
    second = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    assert len(sp.fit(small_task(), noise_store(), second)) == 1
    assert len(json.loads((tmp_path / "images.json").read_text())) == 40, "the manifest is that of the second run"
    with pytest.raises(CheckpointError, match="holds another pretraining run"):
        sp.fit(small_task(), noise_store(), second)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"FitConfig\.epochs must be a whole number of at least 1, got 0"):
        sp.FitConfig(out=tmp_path, epochs=0)
    for name, value, needed in (
        ("weight_decay", -1, "a number of at least 0"),
        ("weight_decay", 1e300, "a number of at least 0, at most 3.4e\\+42"),
        ("learning_rate", 0, "a positive number"),
        (
            "learning_rate",
            1e38,
            "a positive number, at most 3.4e\\+37",
        ),  # the first step of AdamW is ten times as large
        ("learning_rate", float("nan"), "a positive number"),
        ("checkpoint_minutes", float("inf"), "a positive number"),
        ("checkpoint_minutes", 1e300, "a positive number, at most 1.4e\\+12"),  # more than a timedelta can hold
    ):
        with pytest.raises(ArgumentError, match=rf"FitConfig\.{name} must be {needed}"):
            sp.FitConfig(out=tmp_path, **{name: value})
    with pytest.raises(ArgumentError, match=r"FitConfig\.seed must be a whole number of 64 bits, got 92233"):
        sp.FitConfig(out=tmp_path, seed=2**63)
    with pytest.raises(ArgumentError, match=r"FitConfig\.batch_size must be a whole number of at least 1, got 0"):
        sp.FitConfig(out=tmp_path, batch_size=0)
    assert type(sp.FitConfig(out=tmp_path, learning_rate=np.float32(0.5)).learning_rate) is float
    with pytest.raises(ArgumentError, match=r"FitConfig\.precision must be one of 32-true, tf32, .*, got 'fp16'"):
        sp.FitConfig(out=tmp_path, precision="fp16")
    for name in ("epochs", "batch_size", "seed"):
        with pytest.raises(ArgumentError, match=rf"FitConfig\.{name} must be a whole number, got 1\.5"):
            sp.FitConfig(out=tmp_path, **{name: 1.5})
        assert (
            type(getattr(sp.FitConfig(out=tmp_path, **{name: np.int64(3)}), name)) is int
        )  # JSON cannot hold a number of NumPy
    with pytest.raises(ArgumentError, match="must be one of auto, cpu, cuda, mps, .*; got 'tpu'"):
        sp.FitConfig(out=tmp_path, device="tpu")
    config = sp.FitConfig(out=tmp_path)
    with pytest.raises(ArgumentError, match="needs at least one image, got an empty ImageStore"):
        sp.fit(small_task(), noise_store().subset([]), config)
    with pytest.raises(ArgumentError, match=r"needs a pretext task, such as create_task\(\) returns, got str"):
        sp.fit("colorization", noise_store(), config)
    with pytest.raises(
        ArgumentError,
        match=r"an ImageStream, a dataset or a loader as images, got Tensor; use .*from_arrays\(\) for",
    ):
        sp.fit(small_task(), noise_store().images(), config)
    with pytest.raises(
        ArgumentError, match=r"needs a FitConfig as config, such as FitConfig\(out='runs/first'\), got dict"
    ):
        sp.fit(small_task(), noise_store(), {"out": tmp_path})
    assert not list(tmp_path.iterdir()), "nothing was written"


@pytest.mark.parametrize("labels", [False, True])
def test_the_module_trains_with_a_trainer_and_a_loader_of_ones_own(labels, tmp_path):
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    from ssl_pretext.training import PretextModule

    photos = noise_store(20).images()
    data = TensorDataset(photos, torch.zeros(20)) if labels else photos
    torch.manual_seed(0)
    task, again = sp.Colorization(nn.Conv2d(1, 4, 2, stride=2)), sp.Colorization(nn.Conv2d(1, 4, 2, stride=2))
    again.load_state_dict(task.state_dict())
    config = sp.FitConfig(out=tmp_path, optimizer="sgd", learning_rate=0.01, schedule="constant", warmup=0)
    module = PretextModule(task, config)
    trainer = pl.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4))
    optimizer = torch.optim.SGD(again.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)
    for _ in range(2):
        for batch in photos.split(8):  # a plain loop, with batches of twice the size
            optimizer.zero_grad()
            again(batch).loss.backward()
            optimizer.step()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(task.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert [row["epoch"] for row in module.history] == [1, 2]
    assert module.history[1]["val_loss"] < module.history[0]["train_loss"]
    assert task.trained_on.image_size == again.trained_on.image_size == 16


def test_a_task_records_the_size_of_images_in_training_only():
    task, photos = small_task(), noise_store(4).images()
    task.features(photos)
    with torch.no_grad():
        task(photos)
    assert task.trained_on.image_size is None
    task(photos[..., :12])
    assert task.trained_on.image_size == (16, 12)
    task.eval()(photos)
    assert task.trained_on.image_size == (16, 12)


def test_a_missing_cuda_device_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ArgumentError, match="'cuda', but PyTorch finds no CUDA device on this machine; use 'auto'"):
        sp.fit(small_task(), noise_store(), sp.FitConfig(out=tmp_path, device="cuda"))
    assert not list(tmp_path.iterdir())


def test_the_largest_settings_end_in_a_clear_error(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, learning_rate=3e37, seed=2**63 - 1, device="cpu")
    with pytest.raises(NotFiniteError, match="lower learning_rate"):
        sp.fit(small_task(), noise_store(), config)


def test_a_transform_of_torchvision_augments_a_run(tmp_path):
    transform = v2.Compose([v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip()])
    config = sp.FitConfig(out=tmp_path, epochs=2, batch_size=8, device="cpu")
    images = sp.ImageStore.from_arrays(torch.rand(16, 3, 16, 16), [0] * 16)
    task = sp.create_task("colorization", encoder="autoencoder")
    sp.fit(task, images, config, augment=transform)
    assert "RandomResizedCrop" in task.trained_on.settings["augment"]
    with pytest.raises(CheckpointError, match=r"other settings \(augment\)"):
        sp.fit(task, images, replace(config, resume=True), augment=v2.RandomVerticalFlip())
    with pytest.raises(ArgumentError, match="two augmentations"):
        sp.fit(task, images, replace(config, augment="shift"), augment=transform)
    with pytest.raises(ArgumentError, match="must return an image tensor"):
        sp.fit(task, images, replace(config, out=tmp_path / "other"), augment=v2.Resize(8))


def test_the_augmentation_must_fit_the_images(tmp_path):
    bands = sp.ChannelSpace.bands("augmented", ["a", "b"], center=0.5, scale=0.5)
    task = sp.create_task("cross_channel[source=a;target=b]", encoder="autoencoder", spaces=[bands])
    images = sp.ImageStore.from_arrays(torch.rand(16, 2, 16, 16), [0] * 16)
    with pytest.raises(ArgumentError, match="photos only"):
        sp.fit(task, images, sp.FitConfig(out=tmp_path / "run", augment="color_jitter"))
    assert not (tmp_path / "run").exists()
