"""What two processes of `torchrun` do in `test_processes.py`: `python several.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.data import build
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.probes.comparison import Comparison
from ssl_pretext.system.processes import on_rank_zero, rank_info


def store(count: int) -> sp.ImageStore:
    images = torch.randint(
        0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    return sp.ImageStore.from_arrays(images, [index % 2 for index in range(count)])


class Breaking(nn.Module):
    """A network that stops at one of its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left = nn.Conv2d(1, 8, 3, stride=2, padding=1), -1

    def forward(self, maps: Tensor) -> Tensor:
        if self.left == 0:
            raise InterruptedError
        self.left -= 1
        return torch.relu(self.conv(maps))


def task(**options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.CrossChannelPrediction("lab:L", "lab:ab", Breaking(), losses={"l2": 1.0}, **options)


def config(out: Path, **options: object) -> sp.FitConfig:
    return sp.FitConfig(out=out, batch_size=8, learning_rate=3e-3, device="cpu", resume=True, **options)


def pretrain_plainly(out: Path) -> "list[dict[str, object]]":
    """41 images in batches of 8: the last one has not enough for two processes."""
    return sp.fit(task(), store(41), config(out, epochs=3), validation=store(9))


def stop_and_go_on(out: Path, checkpoint_minutes: float) -> None:
    broken = task(input_noise=0.1, input_drop=0.2)
    broken.encoder.left = 9  # in the second of three epochs
    try:
        sp.fit(broken, store(41), config(out, epochs=3, checkpoint_minutes=checkpoint_minutes))
    except InterruptedError:
        return
    raise AssertionError("it was to be stopped")


def in_two_processes(folder: Path) -> None:
    rank = rank_info().rank
    assert rank_info() == (rank, 2, 2)
    found: dict[str, object] = {"plain": pretrain_plainly(folder / "plain")}

    shards = sp.ImageStream(str(folder / "shards/*.tar"), image_size=16, cache=folder / "cache")
    found["stream"] = sp.fit(task(), shards, config(folder / "stream", epochs=2))

    for name in ("whole", "stopped"):
        if name == "stopped":
            stop_and_go_on(folder / name, checkpoint_minutes=1e-5)
        sp.fit(task(input_noise=0.1, input_drop=0.2), store(41), config(folder / name, epochs=3))
    stop_and_go_on(folder / "alone", checkpoint_minutes=1e-5)

    def refuse() -> None:
        raise ArgumentError(f"said by {rank}")

    try:
        on_rank_zero("refusal", refuse)
    except ArgumentError as error:
        found["refused"] = str(error)
    try:
        sp.fit(task(), store(8), sp.FitConfig(out=folder / "small", batch_size=1, device="cpu"))
    except ArgumentError as error:
        found["too small"] = str(error)
    try:
        sp.fit(task(), store(8), sp.FitConfig(out=folder / "plain", device="cpu"))
    except CheckpointError as error:
        found["taken"] = str(error)

    asked: list[str] = []
    for owner, name in ((Comparison, "reports"), (build, "_build")):
        work = getattr(owner, name)
        setattr(owner, name, lambda *args, work=work, name=name: (asked.append(name), work(*args))[1])
    pixels = {"pixels": sp.Pixels("rgb")}
    found["table"] = sp.evaluate(pixels, store(12), store(8), probe="knn", seeds=2, controls=False).table()
    found["budgets"] = list(sp.label_efficiency(pixels, store(12), store(8), per_class=[1, 4], probe="knn").reports)
    cli = str(folder / "cli")
    small = ["--image-size", "16", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    found["codes"] = [
        main(["pretrain", "--data", str(folder / "photos"), "--out", cli, "--cache", str(folder / "cache"), *small]),
        main(["probe", cli, "--data", str(folder / "photos"), "--probe", "knn", "--cache", str(folder / "cache")]),
    ]
    found["asked"] = asked
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


def every_task(folder: Path) -> None:
    """One epoch of each: parameters without a gradient would stop the processes."""
    sys.path.insert(0, str(Path(__file__).parent))
    from test_every_task import TASKS, build

    images = sp.ImageStore.from_arrays(torch.rand(7, 3, 32, 32), [0] * 7)
    for name in TASKS:
        sp.fit(build(name), images, config(folder / name, epochs=1))
    for losses in ({"l2": 1.0, "adversarial[width=4]": 0.01, "color_classification": 0.1}, {"smooth_l1": 1.0}):
        halves = sp.SplitBrain("lab:L", "lab:ab", [nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(2, 4, 2, stride=2)])
        both = sp.CrossChannelPrediction("lab:L", "lab:ab", "autoencoder", losses=losses, output_stride=4)
        for made in (halves, both):
            sp.fit(made, images, config(folder / f"{type(made).__name__}{len(losses)}", epochs=1))
    # As large as they are by default, where PyTorch lays out gradients in another way.
    images = sp.ImageStore.from_arrays(torch.rand(64, 3, 32, 32), [0] * 64)
    sp.fit(sp.Colorization("autoencoder"), images, sp.FitConfig(out=folder / "large", epochs=1, device="cpu"))
    (folder / f"found-{rank_info().rank}.json").write_text("{}")


if __name__ == "__main__":
    {"two": in_two_processes, "tasks": every_task}[sys.argv[1]](Path(sys.argv[2]))
