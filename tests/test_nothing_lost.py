"""What goes wrong on the way ends in a clear message, and the last good state stays."""

import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ssl_pretext as sp
from ssl_pretext.data import build
from ssl_pretext.errors import (
    CheckpointError,
    FolderInUseError,
    MissingFileError,
    NotFiniteError,
    PretextError,
    StorageError,
)
from ssl_pretext.representations.collapse import collapse_warnings, feature_health
from ssl_pretext.saving.weights import save_weights
from ssl_pretext.system.files import check_free_space, storage_errors, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.tasks import TaskOutput
from ssl_pretext.training.finite import FiniteCheck

BRIGHT = 13  # the number of the one image that breaks the networks below


def store(count: int = 40) -> sp.ImageStore:
    """Noise, and one white image."""
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[BRIGHT] = 255
    return sp.ImageStore.from_arrays(images, [0] * count, names=[f"folder/{i}.jpg" for i in range(count)])


class Breaking(nn.Module):
    """A network that a white image makes give what is not finite, or have such gradients."""

    def __init__(self, value: float, *, backward: bool = False) -> None:
        super().__init__()
        self.conv, self.value, self.backward = nn.Conv2d(1, 4, 3, stride=2, padding=1), value, backward

    def forward(self, lightness):
        maps = self.conv(lightness)
        white = (lightness.mean(dim=(1, 2, 3)) > 0.99).view(-1, 1, 1, 1)
        if not self.training:
            return maps
        if self.backward:
            maps.register_hook(lambda gradient: gradient.where(~white, self.value))
            return maps
        return maps.where(~white, self.value)


def broken(tmp_path, encoder, **options):
    """The message of a run that stops, and what it wrote about it; and that run's configuration."""
    torch.manual_seed(0)
    config = sp.FitConfig(out=tmp_path, batch_size=8, device="cpu", **options)
    with pytest.raises(NotFiniteError) as caught:
        sp.fit(sp.Colorization(encoder), store(), config)
    assert isinstance(caught.value, PretextError)
    assert isinstance(caught.value, FloatingPointError)
    assert not (tmp_path / "task").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return str(caught.value), json.loads((tmp_path / "not_finite.json").read_text())


def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path):
    said, report = broken(tmp_path, Breaking(torch.nan), epochs=3)
    assert report["step"] <= 5  # in the first epoch
    assert f"the loss of step {report['step']} is not finite (loss nan, smooth_l1 nan)" in said
    assert "there is no checkpoint yet" in said
    assert f"folder/{BRIGHT}.jpg" in report["files"]
    assert len(report["files"]) == 8
    assert f"{', '.join(report['files'][:5])} and 3 more ({tmp_path / 'not_finite.json'} lists all)" in said
    assert "start in another folder with a lower learning_rate" in said
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert not (tmp_path / "history.json").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_terms_that_are_finite_are_not_blamed(value, tmp_path):
    watch, good = FiniteCheck(tmp_path, tmp_path / "last.ckpt"), torch.tensor(0.5)
    bad = torch.tensor(value)
    watch.see(6, TaskOutput(good, {"l1": good}, good, good), ["one.jpg"])
    with pytest.raises(NotFiniteError, match=rf"the loss of step 7 is not finite \(loss {value}, l2 {value}\)"):
        watch.see(7, TaskOutput(good + bad, {"l1": good, "l2": bad}, good, good), ["other.jpg"])


def test_the_last_good_checkpoint_is_named_and_good(tmp_path, monkeypatch):
    encoder = Breaking(torch.nan)
    monkeypatch.setattr(encoder, "value", 0.0)  # until the second epoch

    def second(module):
        if module.current_epoch == 1:
            encoder.value = torch.nan

    monkeypatch.setattr("ssl_pretext.training.lightning_module.PretextModule.on_train_epoch_start", second)
    said, report = broken(tmp_path, encoder, epochs=3)
    assert 6 <= report["step"] <= 10
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last.ckpt'}, after step 5" in said
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    again, _ = broken(tmp_path, encoder, epochs=3, resume=True)
    assert again == said


def test_gradients_that_are_not_finite_reach_no_checkpoint(tmp_path):
    # The white image is in the last step of the epoch or before; a checkpoint after each step meets its gradients.
    said, report = broken(tmp_path, Breaking(torch.nan, backward=True), epochs=1, checkpoint_minutes=1e-9)
    assert f"after step {report['step']} weights are not finite (" in said
    assert f"folder/{BRIGHT}.jpg" in report["files"]
    if (checkpoint := tmp_path / "checkpoints" / "last.ckpt").exists():
        assert f"{checkpoint}, after step {report['step'] - 1}" in said
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_finite_losses_stop_nothing(tmp_path):
    torch.manual_seed(0)
    config = sp.FitConfig(out=tmp_path, epochs=2, batch_size=8, device="cpu")
    assert len(sp.fit(sp.Colorization(Breaking(0.0)), store(), config)) == 2
    assert not (tmp_path / "not_finite.json").exists()


class Constant(nn.Module):
    """An encoder that gives every image the same map, which is not the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, lightness):
        height, width = lightness.shape[-2] // 2, lightness.shape[-1] // 2
        return self.map[..., :height, :width] + 0 * lightness.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("collapsed", [True, False])
def test_collapsed_features_are_reported_at_the_end(collapsed, tmp_path, caplog):
    torch.manual_seed(0)
    encoder = Constant() if collapsed else nn.Conv2d(1, 4, 2, stride=2)
    with caplog.at_level(logging.INFO, logger="ssl_pretext"):
        sp.fit(sp.Colorization(encoder), store(), sp.FitConfig(out=tmp_path, epochs=1, device="cpu"))
    health = json.loads((tmp_path / "health.json").read_text())
    assert (health["between_images"] < 0.01) == collapsed
    assert health["collapsed_channels"] == 0  # what varies over the image hides it
    assert any(record.message.startswith("features: 4 channels") for record in caplog.records)
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert ["colorization has collapsed: its features differ between images by 0.00%" in line for line in warned] == (
        [True] if collapsed else []
    )


def test_how_much_images_differ_is_what_it_says():
    maps = torch.randn(30, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 2
    values = maps.double().numpy()
    expected = values.var(axis=0).mean() ** 0.5 / (values**2).mean() ** 0.5
    health = feature_health(maps)
    assert health["between_images"] == pytest.approx(expected, rel=1e-5)
    assert not collapse_warnings({"mine": health})
    assert "mine has collapsed" in collapse_warnings({"mine": feature_health(maps * 0.01 + 2)})[0]


@contextmanager
def no_file_above(size):
    """A full disk, as far as a process without rights can have one: files grow to this many bytes and no further."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only who may mount has a disk to fill")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def photos(folder, count=12, side=40):
    noise = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def wide_task():
    torch.manual_seed(0)
    return sp.Colorization(nn.Sequential(nn.Conv2d(1, 64, 3, stride=2, padding=1), nn.ReLU()))


def write_everything(folder, data):
    """What can be written, by name; each replaces what is there."""
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, data, data, probe="knn", seeds=2, controls=False)
    probing = {"probe": "knn", "seeds": 2, "controls": False, "cache": folder / "cache"}
    return {
        "json": lambda: write_json(folder / "a.json", list(range(5000))),
        "weights": lambda: save_weights(wide_task(), folder / "model.safetensors"),
        "plot": lambda: report.plot(folder / "plot.png"),
        "report": lambda: report.to_json(folder / "report.json"),
        "features": lambda: sp.evaluate({"pixels": sp.Pixels("rgb")}, data, data, **probing),
        "store": lambda: sp.ImageStore.from_folder(folder / "photos", image_size=32, cache=folder / "cache"),
    }


@pytest.mark.parametrize("kind", ["json", "weights", "plot", "report", "features", "store"])
def test_a_full_disk_is_told_and_leaves_what_was_there(kind, tmp_path):
    photos(tmp_path / "photos")
    write = write_everything(tmp_path, (store(20).images(), [0, 1] * 10))[kind]
    if kind not in ("features", "store"):  # which would be found
        write()
    before = files(tmp_path)
    # Longer than a lock file, which names a command.
    with no_file_above(500), pytest.raises(StorageError, match=r"cannot write .*File too large.* are free") as caught:
        write()
    assert isinstance(caught.value, OSError)
    assert files(tmp_path) == before
    write()


def test_the_room_that_images_take_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3000))
    with pytest.raises(
        StorageError, match=r"cache has no room: 36\.0 KiB are needed, and 2\.9 KiB are free\. Make room"
    ):
        sp.ImageStore.from_folder(photos(tmp_path / "photos"), image_size=32, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    check_free_space(tmp_path, 3000)


def test_a_task_is_not_saved_over_another_for_which_there_was_room(tmp_path, monkeypatch):
    wide_task().save_pretrained(tmp_path / "task")
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3000))
        with pytest.raises(StorageError, match="has no room"):
            wide_task().save_pretrained(tmp_path / "task")
    assert files(tmp_path) == before
    sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": wide_task().encoder})


def test_training_on_a_full_disk_keeps_the_last_checkpoint_and_goes_on(small_disk, tmp_path, monkeypatch):
    config = {"epochs": 3, "batch_size": 16, "device": "cpu"}
    whole = wide_task()
    sp.fit(whole, store(), sp.FitConfig(out=tmp_path / "whole", **config))
    filler = small_disk / "filler"

    def fill(module):
        if module.current_epoch == 1:
            filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 4096))

    with monkeypatch.context() as patch:
        patch.setattr("ssl_pretext.training.lightning_module.PretextModule.on_train_epoch_start", fill)
        with pytest.raises(StorageError, match=r"cannot write .*: No space left on device.* are free") as caught:
            sp.fit(wide_task(), store(), sp.FitConfig(out=small_disk / "run", **config))
    assert caught.value.errno == errno.ENOSPC
    last = small_disk / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not list(small_disk.rglob("*.part"))
    filler.unlink()
    again = wide_task()
    sp.fit(again, store(), sp.FitConfig(out=small_disk / "run", resume=True, **config))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_folder_that_cannot_be_written_to_is_told(small_disk):
    run = small_disk / "run"
    config = {"epochs": 1, "batch_size": 16, "device": "cpu"}
    sp.fit(wide_task(), store(), sp.FitConfig(out=run, **config))
    photos(small_disk / "photos")
    cache = small_disk / "cache"
    kept = sp.ImageStore.from_folder(small_disk / "photos", image_size=16, cache=cache).sha256
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match=r"cannot write .*run/\.lock: Read-only file system"):
        sp.fit(wide_task(), store(), sp.FitConfig(out=run, resume=True, **config))
    with pytest.raises(StorageError, match=r"cannot write .*new/\.lock: Read-only file system"):
        sp.fit(wide_task(), store(), sp.FitConfig(out=small_disk / "new", **config))
    with pytest.raises(StorageError, match=r"cannot write .*: Read-only file system"):
        sp.ImageStore.from_folder(small_disk / "photos", image_size=24, cache=cache)
    # What is there can be used.
    assert sp.ImageStore.from_folder(small_disk / "photos", image_size=16, cache=cache).sha256 == kept
    assert sp.PretextTask.from_pretrained(run / "task", parts={"encoder": wide_task().encoder})


def test_what_goes_wrong_first_is_what_is_told(tmp_path):
    def tidying():
        try:
            with storage_errors(tmp_path / "first"):
                raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError, match="first: No space left"), storage_errors(tmp_path / "second"):
        tidying()
    with pytest.raises(MissingFileError, match="mine"), storage_errors(tmp_path / "second"):
        raise MissingFileError("mine")


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    child = os.fork()
    if child == 0:
        with exclusive_lock(tmp_path / "run"):
            (tmp_path / "exclusive_lock").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (tmp_path / "exclusive_lock").exists():
            time.sleep(0.01)
        config = sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu", resume=True)
        with pytest.raises(FolderInUseError, match=f"run is in use by process {child} on "):
            sp.fit(wide_task(), store(), config)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    left = tmp_path / "run" / "checkpoints" / "last.ckpt.99.part"  # by a killed process
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert len(sp.fit(wide_task(), store(), config)) == 1
    assert not left.exists()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_data_folder_that_changed_is_refused_with_what_changed(tmp_path):
    folder = photos(tmp_path / "photos")

    def fitted():
        images = sp.ImageStore.from_folder(folder, image_size=16, labeled=True, cache=tmp_path / "cache")
        config = sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=8, device="cpu", resume=True)
        return sp.fit(wide_task(), images, config)

    history = fitted()
    for path in folder.rglob("*.png"):
        os.utime(path, (0, 0))  # a clock that jumped back; the pictures are the same
    assert fitted() == history
    (folder / "a" / "0.png").unlink()
    shutil.copy(folder / "a" / "2.png", folder / "a" / "new.png")
    for number in (1, 3, 5, 7, 9):
        shutil.copy(folder / "b" / "11.png", folder / "b" / f"{number}.png")
    with pytest.raises(CheckpointError) as caught:
        fitted()
    assert (
        "was started with: 1 added (a/new.png); 1 removed (a/0.png); 5 altered (b/1.png, b/3.png, b/5.png and 2 more). "
        "Restore them to resume the run, or start in another folder"
    ) in str(caught.value)


def test_labels_and_order_that_changed_are_told(tmp_path):
    def fitted(images):
        sp.fit(wide_task(), images, sp.FitConfig(out=tmp_path, epochs=1, batch_size=20, device="cpu", resume=True))

    images = store(20)
    fitted(images)
    relabeled = sp.ImageStore.from_arrays(images.images(), [0] * 19 + [1], names=images.names)
    with pytest.raises(CheckpointError, match=r"was started with: 1 relabeled \(folder/19\.jpg\)"):
        fitted(relabeled)
    with pytest.raises(CheckpointError, match="was started with: their order, their size or the kind of their numbers"):
        fitted(images.subset(range(19, -1, -1)))


def test_a_clock_that_jumps_back_breaks_nothing(tmp_path, monkeypatch):
    real = time.time
    config = {"epochs": 2, "batch_size": 8, "device": "cpu", "checkpoint_minutes": 1e-9}
    whole = wide_task()
    sp.fit(whole, store(), sp.FitConfig(out=tmp_path / "whole", **config))
    calls = iter(range(10**9))
    monkeypatch.setattr("time.time", lambda: real() - 3600.0 * next(calls))
    jumping = wide_task()
    sp.fit(jumping, store(), sp.FitConfig(out=tmp_path / "run", **config))
    assert all(torch.equal(value, jumping.state_dict()[name]) for name, value in whole.state_dict().items())
    folder = photos(tmp_path / "photos")
    first = sp.ImageStore.from_folder(folder, image_size=16, cache=tmp_path / "cache")
    again = sp.ImageStore.from_folder(folder, image_size=16, cache=tmp_path / "cache")
    assert first.sha256 == again.sha256


def test_ctrl_c_waits_for_the_images_that_threads_are_at_and_for_no_more(tmp_path, monkeypatch):
    begun, checked = [], []
    decode = build.decoder(8, None)

    def slow(path):
        begun.append(path)
        time.sleep(0.02)
        return decode(path)

    def interrupt(*_):
        checked.append(len(begun))
        if len(checked) == 30:  # by now the threads are in the middle of groups of images
            raise KeyboardInterrupt

    monkeypatch.setattr(build, "decoder", lambda *_: slow)
    monkeypatch.setattr(build.Staging, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sp.ImageStore.from_folder(photos(tmp_path / "photos", 150, side=8), image_size=8, cache=tmp_path / "cache")
    assert len(begun) - checked[-1] <= os.cpu_count()
