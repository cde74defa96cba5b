"""Failures such as a full disk raise an error that says what to do, and the last complete state is kept."""

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import noise_store, write_photos

import ssl_pretext as sp
from ssl_pretext.data import build
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import (
    FolderInUseError,
    MissingFileError,
    StorageError,
)
from ssl_pretext.saving.weights import save_weights
from ssl_pretext.system.files import check_free_space, storage_errors, write_json
from ssl_pretext.system.locks import exclusive_lock


class ConstantEncoder(nn.Module):
    """An encoder that gives the same feature map for every image, with values that differ between positions."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, lightness):
        height, width = lightness.shape[-2] // 2, lightness.shape[-1] // 2
        return self.map[..., :height, :width] + 0 * lightness.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("collapsed", [True, False])
def test_collapsed_features_are_reported_at_the_end(collapsed, tmp_path, caplog):
    torch.manual_seed(0)
    encoder = ConstantEncoder() if collapsed else nn.Conv2d(1, 4, 2, stride=2)
    with caplog.at_level(logging.INFO, logger="ssl_pretext"):
        sp.fit(sp.Colorization(encoder), noise_store(), sp.FitConfig(out=tmp_path, epochs=1, device="cpu"))
    health = json.loads((tmp_path / "health.json").read_text())
    assert (health["between_images"] < 0.01) == collapsed
    assert health["collapsed_channels"] == 0  # because the values differ between positions
    assert any(record.message.startswith("features: 4 channels") for record in caplog.records)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert ["colorization has collapsed: its features differ between images by 0.00%" in line for line in warnings] == (
        [True] if collapsed else []
    )


@contextmanager
def max_file_size(size):
    """Limits the size of files in bytes, which fails like a full disk and needs no permissions."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs permission to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def wide_task():
    torch.manual_seed(0)
    return sp.Colorization(nn.Sequential(nn.Conv2d(1, 64, 3, stride=2, padding=1), nn.ReLU()))


def writers(folder, data):
    """Functions that each write one kind of file, or replace it."""
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, data, data, probe="knn", seeds=2, controls=False)
    options = {"probe": "knn", "seeds": 2, "controls": False, "cache": folder / "cache"}
    return {
        "json": lambda: write_json(folder / "a.json", list(range(5000))),
        "weights": lambda: save_weights(wide_task(), folder / "model.safetensors"),
        "plot": lambda: report.plot(folder / "plot.png"),
        "report": lambda: report.to_json(folder / "report.json"),
        "features": lambda: sp.evaluate({"pixels": sp.Pixels("rgb")}, data, data, **options),
        "store": lambda: sp.ImageStore.from_folder(folder / "photos", image_size=32, cache=folder / "cache"),
    }


@pytest.mark.parametrize("kind", ["json", "weights", "plot", "report", "features", "store"])
def test_a_full_disk_raises_and_keeps_the_existing_files(kind, tmp_path):
    write_photos(tmp_path / "photos")
    write = writers(tmp_path, (noise_store(20).images(), [0, 1] * 10))[kind]
    if kind not in ("features", "store"):  # these would be found in the cache and not be written again
        write()
    before = files(tmp_path)
    # More than the lock file needs, which contains the command.
    with max_file_size(500), pytest.raises(StorageError, match=r"cannot write .*File too large.* are free") as caught:
        write()
    assert isinstance(caught.value, OSError)
    assert files(tmp_path) == before
    write()


def test_free_space_is_checked_before_images_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3000))
    with pytest.raises(
        StorageError, match=r"not enough disk space in .*cache: 36\.0 KiB are needed, and 2\.9 KiB are free"
    ):
        sp.ImageStore.from_folder(write_photos(tmp_path / "photos"), image_size=32, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    check_free_space(tmp_path, 3000)


def test_a_saved_task_is_kept_if_there_is_no_space_for_a_new_one(tmp_path, monkeypatch):
    wide_task().save_pretrained(tmp_path / "task")
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3000))
        with pytest.raises(StorageError, match="not enough disk space"):
            wide_task().save_pretrained(tmp_path / "task")
    assert files(tmp_path) == before
    sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": wide_task().encoder})


def test_training_on_a_full_disk_keeps_the_last_checkpoint_and_can_be_resumed(small_disk, tmp_path, monkeypatch):
    config = {"epochs": 3, "batch_size": 16, "device": "cpu"}
    complete = wide_task()
    sp.fit(complete, noise_store(), sp.FitConfig(out=tmp_path / "complete", **config))
    filler = small_disk / "filler"

    def fill(module):
        if module.current_epoch == 1:
            filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 4096))

    with monkeypatch.context() as patch:
        patch.setattr("ssl_pretext.training.lightning_module.PretextModule.on_train_epoch_start", fill)
        with pytest.raises(StorageError, match=r"cannot write .*: No space left on device.* are free") as caught:
            sp.fit(wide_task(), noise_store(), sp.FitConfig(out=small_disk / "run", **config))
    assert caught.value.errno == errno.ENOSPC
    last = small_disk / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not list(small_disk.rglob("*.part"))
    filler.unlink()
    again = wide_task()
    sp.fit(again, noise_store(), sp.FitConfig(out=small_disk / "run", resume=True, **config))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in complete.state_dict().items())


def test_a_read_only_folder_raises_and_can_still_be_read(small_disk):
    run = small_disk / "run"
    config = {"epochs": 1, "batch_size": 16, "device": "cpu"}
    sp.fit(wide_task(), noise_store(), sp.FitConfig(out=run, **config))
    write_photos(small_disk / "photos")
    cache = small_disk / "cache"
    sha256 = sp.ImageStore.from_folder(small_disk / "photos", image_size=16, cache=cache).sha256
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match=r"cannot write .*run/\.lock: Read-only file system"):
        sp.fit(wide_task(), noise_store(), sp.FitConfig(out=run, resume=True, **config))
    with pytest.raises(StorageError, match=r"cannot write .*new/\.lock: Read-only file system"):
        sp.fit(wide_task(), noise_store(), sp.FitConfig(out=small_disk / "new", **config))
    with pytest.raises(StorageError, match=r"cannot write .*: Read-only file system"):
        sp.ImageStore.from_folder(small_disk / "photos", image_size=24, cache=cache)
    # The existing files can still be read.
    assert sp.ImageStore.from_folder(small_disk / "photos", image_size=16, cache=cache).sha256 == sha256
    assert sp.PretextTask.from_pretrained(run / "task", parts={"encoder": wide_task().encoder})


def test_the_first_error_is_reported(tmp_path):
    def fail_twice():
        try:
            with storage_errors(tmp_path / "first"):
                raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError, match="first: No space left"), storage_errors(tmp_path / "second"):
        fail_twice()
    with pytest.raises(MissingFileError, match="other"), storage_errors(tmp_path / "second"):
        raise MissingFileError("other")


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    child = os.fork()
    if child == 0:
        with exclusive_lock(tmp_path / "run"):
            (tmp_path / "locked").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (tmp_path / "locked").exists():
            time.sleep(0.01)
        config = sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu", resume=True)
        with pytest.raises(FolderInUseError, match=f"run is in use by process {child} on "):
            sp.fit(wide_task(), noise_store(), config)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    left = tmp_path / "run" / "checkpoints" / "last.ckpt.99.part"  # as left by a killed process
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert len(sp.fit(wide_task(), noise_store(), config)) == 1
    assert not left.exists()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    real = time.time
    config = {"epochs": 2, "batch_size": 8, "device": "cpu", "checkpoint_minutes": 1e-9}
    complete = wide_task()
    sp.fit(complete, noise_store(), sp.FitConfig(out=tmp_path / "complete", **config))
    calls = iter(range(10**9))
    monkeypatch.setattr("time.time", lambda: real() - 3600.0 * next(calls))
    jumping = wide_task()
    sp.fit(jumping, noise_store(), sp.FitConfig(out=tmp_path / "run", **config))
    assert all(torch.equal(value, jumping.state_dict()[name]) for name, value in complete.state_dict().items())
    folder = write_photos(tmp_path / "photos")
    first = sp.ImageStore.from_folder(folder, image_size=16, cache=tmp_path / "cache")
    again = sp.ImageStore.from_folder(folder, image_size=16, cache=tmp_path / "cache")
    assert first.sha256 == again.sha256


def test_ctrl_c_waits_only_for_images_that_threads_are_decoding(tmp_path, monkeypatch):
    started, checked = [], []
    decode = build.decoder(Reading(image_size=8))

    def slow(path):
        started.append(path)
        time.sleep(0.02)
        return decode(path)

    def interrupt(*_):
        checked.append(len(started))
        if len(checked) == 30:  # now the threads are in the middle of chunks of images
            raise KeyboardInterrupt

    monkeypatch.setattr(build, "decoder", lambda *_: slow)
    monkeypatch.setattr(build.Staging, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sp.ImageStore.from_folder(
            write_photos(tmp_path / "photos", 150, size=8), image_size=8, cache=tmp_path / "cache"
        )
    assert len(started) - checked[-1] <= os.cpu_count()
