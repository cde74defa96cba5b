import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError


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
    assert again.image_size == 16
    for key, value in task.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


SCRIPT = """
import sys, torch, ssl_pretext as sp
from torch import nn
torch.manual_seed(0)
images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
torch.manual_seed(0)
encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
losses = {"l2": 1.0, "adversarial[width=4]": 0.01, "color_classification": 0.1}
task = sp.CrossChannelPrediction("lab:L", "lab:ab", encoder, losses=losses, input_noise=0.1, output_stride=2)
config = sp.FitConfig(out=sys.argv[1], epochs=4, batch_size=2, device="cpu", resume=True, checkpoint_minutes=0.002)
sp.fit(task, sp.ImageStore.from_arrays(images, [0] * 64), config)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(sp.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    checkpoint = killed / "checkpoints" / "last.ckpt"
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (killed / "task").exists(), "the run ended before it could be killed"
    for folder in (killed, whole):
        process = start(folder)
        assert process.wait(timeout=120) == 0
    weights = [(folder / "task" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    assert (whole / "history.json").read_text() == (killed / "history.json").read_text()


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(sp.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "run")], env=environment)
    logs = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not logs.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT  # as of any program
    assert subprocess.run([sys.executable, str(script), str(tmp_path / "run")], env=environment).returncode == 0
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 4


def test_what_losses_need_of_the_images_is_measured_before_the_first_step(tmp_path):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
    task = sp.Colorization(encoder, losses={"color_classification": 1.0})
    sp.fit(task, store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu"))
    assert task.losses.logits.quantizer.prior.sum().item() == pytest.approx(1.0)


def test_the_same_is_hidden_of_the_validation_images_in_every_epoch(tmp_path):
    torch.manual_seed(0)
    task = sp.Denoising(nn.Conv2d(3, 4, 2, stride=2), noise="masking")
    config = sp.FitConfig(out=tmp_path, epochs=3, batch_size=16, learning_rate=1e-30, weight_decay=0.0, device="cpu")
    history = sp.fit(task, store(), config, validation=store(20))
    assert len({row["val_loss"] for row in history}) == 1
    assert len({row["train_loss"] for row in history}) == 3


def test_images_that_are_not_square_resume_too(tmp_path):
    images = sp.ImageStore.from_arrays(torch.rand(8, 3, 16, 12), [0] * 8)
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True)
    for _ in range(2):
        sp.fit(small_task(), images, config)
    again = sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": small_task().encoder})
    assert again.image_size == (16, 12)


def test_a_folder_with_another_run_is_refused(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    sp.fit(small_task(), store(), config)
    with pytest.raises(CheckpointError, match="holds another pretraining run"):
        sp.fit(small_task(), store(), config)
    with pytest.raises(CheckpointError, match=r"other settings \(batch_size\)"):
        sp.fit(small_task(), store(), sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", resume=True))


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ArgumentError, match=r"FitConfig\.epochs must be positive, got 0"):
        sp.FitConfig(out=tmp_path, epochs=0)
    with pytest.raises(ArgumentError, match="is 'auto', 'cpu' or 'cuda', got 'tpu'"):
        sp.FitConfig(out=tmp_path, device="tpu")
    with pytest.raises(ArgumentError, match="without images"):
        sp.fit(small_task(), store().subset([]), sp.FitConfig(out=tmp_path))
