"""Kills work at random moments, restarts it until it ends, and compares its files with those of uninterrupted work.

    python tests/killing.py FOLDER ROUNDS SEED
    python tests/killing.py FOLDER interrupt

Prints one line of JSON per round: about kills, or in the second form about signals in several kinds of steps. The work
runs in forks of this process, which has imported all libraries and computed nothing, because importing torch after
each kill would take longer than everything else.
"""

import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numpy as np
import pytest
import tensorboard.summary  # noqa: F401
import torch
from helpers import shrink_autoencoder
from PIL import Image
from torch import Tensor, nn

import ssl_pretext as sp
import ssl_pretext.cli.parsing
import ssl_pretext.cli.pretrain
import ssl_pretext.cli.probe
from ssl_pretext.cli import main
from ssl_pretext.system.files import read_json
from ssl_pretext.system.locks import LOCK_FILE

TIMEOUT = 300.0  # seconds after which the work must have ended


@sp.register_encoder("killed")
def tiny(in_channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def build() -> None:
    sp.ImageStore.from_folder("photos", image_size=24, cache="cache")


def fit() -> None:
    """Trains with everything that a checkpoint must restore: validation, noise, augmentation, losses with a state."""
    torch.manual_seed(0)
    images = sp.ImageStore.from_arrays(torch.randint(0, 256, (48, 3, 16, 16), dtype=torch.uint8), [0] * 48)
    losses = {"l2": 1.0, "adversarial[width=4]": 0.01, "color_classification": 0.1}
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", tiny(), losses=losses, input_noise=0.1, output_stride=2)
    config = sp.FitConfig(
        out="run",
        epochs=2,
        batch_size=4,
        augment="rotation,noise",
        device="cpu",
        resume=True,
        checkpoint_minutes=0.0005,
    )
    sp.fit(task, images.subset(range(40)), config, validation=images.subset(range(40, 48)))


def pretrain() -> None:
    command = "pretrain --data photos --task colorization --encoder killed --out run --resume"
    command += " --losses smooth_l1=1,adversarial[width=4]=0.1 --image-size 16 --epochs 2 --batch-size 4 --device cpu"
    command += " --precision 32-true --memory-format contiguous --checkpoint-minutes 0.0005 --cache cache"
    assert main(command.split()) == 0


def probe() -> None:
    command = "probe run --data photos --probe linear,knn --per-class 4 --seeds 2 --device cpu --cache cache"
    assert main(command.split()) == 0


KINDS: dict[str, Callable[[], None]] = {"build": build, "fit": fit, "pretrain": pretrain, "probe": probe}


def start(work: Callable[[], None], folder: Path) -> int:
    """Starts work in a folder, and returns the id of its process."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.chdir(folder)
        output = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(child: int, *, kill_at: float = math.inf) -> tuple[bool, float]:
    """Waits until work ends, or kills it after some seconds; returns whether it ended by itself, and the seconds."""
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - began
        if ended:
            assert status == 0, f"work ended with status {status}"
            return True, passed
        if passed >= min(TIMEOUT, kill_at):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert passed < TIMEOUT, "the work hangs"
            return False, passed
        time.sleep(0.001)


def results(place: Path) -> dict[str, str]:
    """Hashes of the files that the work wrote: weights, histories, stores, reports, and forgotten temporary files."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and "logs" not in path.parts)
    # Checkpoints contain the time, and the lock file of a killed process no longer locks anything.
    compared = [path for path in files if path.suffix != ".ckpt" and path.name != LOCK_FILE]
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in compared}


def check_readable(place: Path) -> None:
    """Checks that every file with a final name can be read."""
    for path in place.rglob("*.json"):
        if not any(".part" in part for part in path.parts):
            read_json(path)
    for path in place.rglob("*.ckpt"):
        torch.load(path, weights_only=True)
    for path in place.rglob("cache/*/index.json"):
        if ".part" not in path.parent.name:
            count = len(read_json(path)["labels"])
            assert (path.parent / "images.u8").stat().st_size % count == 0


def prepare(folder: Path, kind: str, name: str) -> Path:
    """Creates a folder for one round, with the input of the work."""
    place = folder / f"{kind}-{name}"
    place.mkdir()
    (place / "photos").symlink_to(folder / "photos")
    if kind == "probe":
        (place / "run").mkdir()
        (place / "run" / "task").symlink_to(folder / "pretrain-complete" / "run" / "task")
    return place


def rounds(folder: Path, kind: str, count: int, draw: random.Random) -> None:
    """Kills one kind of work at moments that are spread over its duration."""
    complete = prepare(folder, kind, "complete")
    _, length = end(start(KINDS[kind], complete))
    expected = results(complete)
    for number in range(count):
        place = prepare(folder, kind, str(number))
        moments: list[float] = []
        moment = (number + draw.random()) / count
        while True:
            ended, passed = end(start(KINDS[kind], place), kill_at=moment * length)
            if ended and moments:
                break
            if ended:  # the work was faster this time and ended before the kill
                shutil.rmtree(place)
                place = prepare(folder, kind, str(number))
                moment /= 2
                continue
            moments.append(passed)
            check_readable(place)
            moment = draw.choice([draw.random(), math.inf])  # sometimes there is another kill
        found = results(place)
        names = {*expected, *found}
        differing = sorted(name for name in names if expected.get(name) != found.get(name))
        print(json.dumps({"kind": kind, "length": length, "moments": moments, "differing": differing}), flush=True)


def write_photos(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for number in range(32):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (120, 150, 3), dtype=np.uint8)).save(path)


class Slow(nn.Module):
    """A network that creates the file `begun` in its second step, and makes that step slow, in Python or in C."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.steps, self.conv = kind, 0, nn.Conv2d(1, 4, 2, stride=2)

    def forward(self, lightness: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == 2:
            Path("begun").touch()
            began = time.monotonic()
            while time.monotonic() < began + LENGTHS[self.kind]:
                time.sleep(0.01)
            if self.kind == "c":
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # half a minute in which Python handles no signals
        return self.conv(lightness)


LENGTHS = {"short": 0.5, "python": 60.0, "c": 0.0}  # seconds that the step spends in Python


@sp.register_encoder("slow")
def slow(in_channels: int = 1, kind: str = "short") -> nn.Module:
    return Slow(kind)


def interrupted(folder: Path, kind: str, number: signal.Signals) -> None:
    """Sends a signal in the middle of a step, and prints how and when the command ended, and its checkpoint's step."""
    place = prepare(folder, "interrupt", f"{kind}-{number.name}")
    command = f"pretrain --data photos --encoder slow[kind={kind}] --out run --image-size 16 --epochs 2 --batch-size 4"
    command += " --device cpu --cache cache --checkpoint-minutes 1e-9 --task colorization --precision 32-true"
    command += " --memory-format contiguous"
    child = start(lambda: os._exit(main(command.split())), place)
    while not (place / "begun").exists():
        assert not os.waitpid(child, os.WNOHANG)[0], place.with_suffix(".log").read_text()
        time.sleep(0.01)
    os.kill(child, number)
    began = time.monotonic()
    _, status = os.waitpid(child, 0)
    seconds, output = time.monotonic() - began, place.with_suffix(".log").read_text()
    step = torch.load(place / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"kind": kind, "seconds": seconds, "code": code, "step": step, "output": output}), flush=True)


if __name__ == "__main__":
    shrink_autoencoder(pytest.MonkeyPatch())
    folder = Path(sys.argv[1])
    write_photos(folder)
    if sys.argv[2] == "interrupt":
        for kind in LENGTHS:
            interrupted(folder, kind, signal.SIGINT)
        interrupted(folder, "short", signal.SIGTERM)
    else:
        for kind in KINDS:
            rounds(folder, kind, int(sys.argv[2]), random.Random(int(sys.argv[3])))
