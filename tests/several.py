"""The program that `test_processes.py` runs in two processes under `torchrun`: `python several.py PART FOLDER`."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers import shrink_autoencoder
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.data import build
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.probes.comparison import Comparison
from ssl_pretext.representations import embedding
from ssl_pretext.system.processes import on_rank_zero, rank_info
from ssl_pretext.system.signals import Stopped


def store(count: int) -> sp.ImageStore:
    images = torch.randint(
        0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    return sp.ImageStore.from_arrays(images, [index % 2 for index in range(count)])


class Breaking(nn.Module):
    """A network that raises InterruptedError in one of its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left = nn.Conv2d(1, 8, 3, stride=2, padding=1), -1

    def forward(self, maps: Tensor) -> Tensor:
        if self.left == 0:
            raise InterruptedError
        self.left -= self.training
        return torch.relu(self.conv(maps))


def task(**options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.CrossChannelPrediction("lab:L", "lab:ab", Breaking(), losses={"l2": 1.0}, **options)


def config(out: Path, **options: object) -> sp.FitConfig:
    return sp.FitConfig(out=out, batch_size=8, learning_rate=3e-3, device="cpu", resume=True, **options)


def pretrain_plainly(out: Path) -> "list[dict[str, object]]":
    """Trains on 41 images in batches of 8. The last batch has 9 images, which two processes divide unequally."""
    return sp.fit(task(), store(41), config(out, epochs=3), validation=store(9))


def pretrain_accumulated(out: Path) -> "list[dict[str, object]]":
    """Trains with two or three batches per step, of which the last has another size, and with clipped gradients."""
    options = {"accumulate": 3, "clip_norm": 0.01, "ema_decay": 0.5, "optimizer": "sgd"}
    return sp.fit(task(), store(41), config(out, epochs=3, **options), loggers=[])


def fit_and_stop(out: Path, checkpoint_minutes: float) -> None:
    broken = task(input_noise=0.1, input_drop=0.2)
    broken.encoder.left = 9  # in the second of three epochs
    try:
        sp.fit(broken, store(41), config(out, epochs=3, checkpoint_minutes=checkpoint_minutes))
    except InterruptedError:
        return
    raise AssertionError("the training was not interrupted")


class Headed(nn.Module):
    """A network with a head that nothing uses, and with feature maps of one pixel, which are normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 16), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, maps: Tensor) -> Tensor:
        return self.body(maps)


def pretrain_headed(out: Path) -> "list[dict[str, object]]":
    """Trains on 66 images in batches of 64: the last batch has one image for each of two processes."""
    torch.manual_seed(0)
    model = sp.CrossChannelPrediction("lab:L", "lab:ab", Headed(), losses={"l2": 1.0})
    return sp.fit(model, store(66), sp.FitConfig(out=out, epochs=2, batch_size=64, device="cpu"))


def stop_by_signal(out: Path, number: int) -> int:
    """Sends a signal to the second of two processes in the middle of the second epoch; returns the exit code."""
    stopped = task(input_noise=0.1, input_drop=0.2)
    steps: list[int] = []

    def count(*_: object) -> None:
        steps.append(1)
        if len(steps) == 9 and rank_info().rank == 1:
            signal.raise_signal(number)

    stopped.encoder.register_forward_hook(count)
    try:
        sp.fit(stopped, store(41), config(out, epochs=3))
    except Stopped as error:
        return int(error.code)
    except KeyboardInterrupt:
        return 130
    raise AssertionError("the training was not stopped")


class Wrong(sp.Representation):
    """Features of which the second batch is not finite."""

    def __init__(self) -> None:
        first = store(130).images([64])[0, 0, 0, 0]
        super().__init__("wrong", lambda batch: batch.float() * (torch.nan if batch[0, 0, 0, 0] == first else 1.0))


def judged(count: int, cache: Path, **others: sp.Representation) -> "tuple[list[list[float]], int]":
    """Evaluates a task with its controls; returns its test accuracies, and the images that this process encoded."""
    model, encoded = task(), []
    model.encoder.register_forward_hook(lambda _, inputs, output: encoded.append(len(output)))
    report = sp.evaluate({"task": model, **others}, store(count), store(70), probe="knn", seeds=2, cache=cache)
    return [report.values(name) for name in report.names], sum(encoded)


def share_extraction(cache: Path) -> "list[object]":
    """Evaluates twice, with an error between."""
    found: list[object] = [judged(200, cache)]
    try:
        judged(130, cache, wrong=Wrong())
    except ArgumentError as error:
        found.append(str(error))
    return [*found, judged(200, cache)]


def in_two_processes(folder: Path) -> None:
    rank = rank_info().rank
    assert rank_info() == (rank, 2, 2)
    results: dict[str, object] = {"plain": pretrain_plainly(folder / "plain")}

    results["accumulated"] = pretrain_accumulated(folder / "accumulated")

    shards = sp.ImageStream(str(folder / "shards/*.tar"), image_size=16, cache=folder / "cache")
    results["stream"] = sp.fit(task(), shards, config(folder / "stream", epochs=2))

    for name in ("uninterrupted", "stopped"):
        if name == "stopped":
            fit_and_stop(folder / name, checkpoint_minutes=1e-5)
        sp.fit(task(input_noise=0.1, input_drop=0.2), store(41), config(folder / name, epochs=3))
    fit_and_stop(folder / "alone", checkpoint_minutes=1e-5)
    results["headed"] = pretrain_headed(folder / "headed")
    results["signals"] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        out = folder / f"signal-{int(number)}"
        code = stop_by_signal(out, number)
        step = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["global_step"]
        results["signals"].append([code, step])
        sp.fit(task(input_noise=0.1, input_drop=0.2), store(41), config(out, epochs=3))

    def fail() -> None:
        raise ArgumentError(f"raised on rank {rank}")

    try:
        on_rank_zero("refusal", fail)
    except ArgumentError as error:
        results["refused"] = str(error)
    try:
        sp.fit(task(), store(8), sp.FitConfig(out=folder / "small", batch_size=1, device="cpu"))
    except ArgumentError as error:
        results["too small"] = str(error)
    try:
        sp.fit(task(), store(8), sp.FitConfig(out=folder / "plain", device="cpu"))
    except CheckpointError as error:
        results["folder in use"] = str(error)

    calls: list[str] = []
    for owner, name in ((Comparison, "_reports"), (build, "_build")):
        work = getattr(owner, name)
        setattr(owner, name, lambda *args, work=work, name=name: (calls.append(name), work(*args))[1])
    pixels = {"pixels": sp.Pixels("rgb")}
    results["table"] = sp.evaluate(pixels, store(12), store(8), probe="knn", seeds=2, controls=False).table()
    results["budgets"] = list(sp.label_efficiency(pixels, store(12), store(8), per_class=[1, 4], probe="knn").reports)
    results["shared"] = share_extraction(folder / "features")
    cli = str(folder / "cli")
    small = ["--encoder", "autoencoder", "--image-size", "16", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    results["codes"] = [
        main(["pretrain", "--data", str(folder / "photos"), "--out", cli, "--cache", str(folder / "cache"), *small]),
        main(["probe", cli, "--data", str(folder / "photos"), "--probe", "knn", "--cache", str(folder / "cache")]),
        embed(folder),
    ]
    results["calls"] = calls
    (folder / f"results-{rank}.json").write_text(json.dumps(results))


def embed(folder: Path) -> int:
    """Embeds the photos in blocks of three with the run that `main` trained."""
    embedding.BLOCK = 3
    out = ["--out", str(folder / "features.npy"), "--cache", str(folder / "cache"), "--device", "cpu"]
    return main(["embed", str(folder / "cli"), "--data", str(folder / "photos"), *out])


def every_task(folder: Path) -> None:
    """Trains every task for one epoch; parameters without a gradient would stop the processes."""
    sys.path.insert(0, str(Path(__file__).parent))
    from test_every_task import TASKS, build

    images = sp.ImageStore.from_arrays(torch.rand(7, 3, 32, 32), [0] * 7)
    for name in TASKS:
        sp.fit(build(name), images, config(folder / name, epochs=1))
    for losses in ({"l2": 1.0, "adversarial[width=4]": 0.01, "color_classification": 0.1}, {"smooth_l1": 1.0}):
        split_brain = sp.SplitBrain("lab:L", "lab:ab", [nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(2, 4, 2, stride=2)])
        cross_channel = sp.CrossChannelPrediction("lab:L", "lab:ab", "autoencoder", losses=losses, output_stride=4)
        for model in (split_brain, cross_channel):
            sp.fit(model, images, config(folder / f"{type(model).__name__}{len(losses)}", epochs=1))
    # The default size, at which PyTorch lays out gradients in another way.
    images = sp.ImageStore.from_arrays(torch.rand(64, 3, 32, 32), [0] * 64)
    sp.fit(sp.Colorization("autoencoder"), images, sp.FitConfig(out=folder / "large", epochs=1, device="cpu"))
    (folder / f"results-{rank_info().rank}.json").write_text("{}")


if __name__ == "__main__":
    shrink_autoencoder(pytest.MonkeyPatch())
    {"two": in_two_processes, "tasks": every_task}[sys.argv[1]](Path(sys.argv[2]))
