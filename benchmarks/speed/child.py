"""Work whose memory or whose imports are measured, each in an interpreter of its own."""

import importlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Nothing of ours or of torch's here: how long their imports take is measured.

__all__ = ["measure"]

MIB = 2**20
SAMPLED_EVERY = 0.002  # seconds
IMAGE_SIZE = 32
BATCH_SIZE = 64


def measure(work: str, **options: Any) -> dict[str, float]:
    """Runs a function of this module in a fresh interpreter and returns what it measured.

    Raises:
        RuntimeError: It failed.
    """
    command = [sys.executable, "-m", "benchmarks.speed.child", work, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"benchmarks.speed.child {work} failed:\n{done.stderr[-2_000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def importing(module: str) -> dict[str, float]:
    """Seconds and MiB of an import."""
    start = time.perf_counter()
    importlib.import_module(module)
    return {"seconds": time.perf_counter() - start, "mib": _private() / MIB}


def color_loss(side: str, *, small: bool) -> dict[str, float]:
    """MiB that a step of the colour loss takes beyond its inputs."""
    from benchmarks.speed.color import ColorLoss

    work = ColorLoss(small=small)
    with _peak() as found:
        before = _private()
        getattr(work, side)()
    return {"mib": (found["bytes"] - before) / MIB}


def lpips(steps: int) -> dict[str, float]:
    """MiB after a tenth of the steps, and after all."""
    import torch

    from ssl_pretext.losses import create_loss

    loss, found = create_loss("lpips", net="squeeze"), {}
    prediction, target = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    prediction.requires_grad_()
    for step in range(1, steps + 1):
        loss(prediction, target).backward()
        prediction.grad = None
        if step == steps // 10:
            found["early"] = _private() / MIB
    return found | {"late": _private() / MIB}


def pretraining(images: int) -> dict[str, float]:
    """Peak MiB of an epoch of pretraining on as many images."""
    import ssl_pretext as sp

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak() as found:
            sp.fit(task, store, sp.FitConfig(out=Path(folder) / "run", epochs=1, batch_size=BATCH_SIZE))
    return {"mib": found["bytes"] / MIB}


def extraction(images: int) -> dict[str, float]:
    """Peak MiB of the features of as many images, as the linear probe takes them."""
    import ssl_pretext as sp
    from ssl_pretext.probes.features import extract
    from ssl_pretext.probes.linear import pool

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak() as found:
            extract([task.representation()], store, reduce=pool)
    return {"mib": found["bytes"] / MIB}


def _store(folder: Path, count: int) -> Any:
    """Images on disk, mapped into memory as a decoded folder is."""
    import numpy as np

    import ssl_pretext as sp

    shape = (count, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="w+", shape=shape)
    generator = np.random.default_rng(0)
    for start in range(0, count, 1_000):
        part = images[start : start + 1_000]
        part[:] = generator.integers(0, 256, size=part.shape, dtype=np.uint8)
    images.flush()
    del images
    return sp.ImageStore.from_arrays(
        np.memmap(folder / "images.u8", dtype=np.uint8, mode="r", shape=shape), [0] * count
    )


def _network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
    )


def _private() -> int:
    """Bytes that belong to this process alone; of files that are mapped, the system can drop its copies."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("memory is measured through /proc, as Linux has it")


@contextmanager
def _peak() -> Iterator[dict[str, int]]:
    """The most private memory within the block."""
    found, done = {"bytes": _private()}, threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLED_EVERY):
            found["bytes"] = max(found["bytes"], _private())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield found
    finally:
        done.set()
        sampler.join()


WORK: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function for function in (importing, color_loss, lpips, pretraining, extraction)
}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](**json.loads(sys.argv[2]))))
