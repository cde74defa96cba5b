"""The work that `measure` runs in an interpreter of its own: `python -m benchmarks.speed.child WORK OPTIONS`."""

import importlib
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Nothing of ours or of torch's here: how long their imports take is measured.

MIB = 2**20
SAMPLED_EVERY = 0.002  # seconds
IMAGE_SIZE = 32
BATCH_SIZE = 64
LARGER = 4  # times the memory that is allowed: a store that is to be worked on all the same


def importing(module: str) -> dict[str, float]:
    """Seconds and MiB of an import."""
    start = time.perf_counter()
    importlib.import_module(module)
    return {"seconds": time.perf_counter() - start, "mib": _private() / MIB}


def color_loss(side: str, *, small: bool) -> dict[str, float]:
    """MiB that a step of the color loss takes beyond its inputs."""
    from benchmarks.speed.color import ColorLoss

    work = ColorLoss(small=small)
    with _peak() as found:
        before = _private()
        getattr(work, side)()
    return {"mib": (found["bytes"] - before) / MIB}


def conv_probe(side: str, *, small: bool) -> dict[str, float]:
    """Seconds of training a conv probe, after one that does not count."""
    from benchmarks.speed.probes import ConvProbing

    work = ConvProbing(small=small)
    getattr(work, side)()
    start = time.perf_counter()
    getattr(work, side)()
    return {"seconds": time.perf_counter() - start}


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
        store = _store(Path(folder) / "images.u8", images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak() as found:
            sp.fit(task, store, sp.FitConfig(out=Path(folder) / "run", epochs=1, batch_size=BATCH_SIZE))
    return {"mib": found["bytes"] / MIB}


def extraction(images: int) -> dict[str, float]:
    """Peak MiB of the features of as many images, as the linear probe takes them."""
    import ssl_pretext as sp
    from ssl_pretext.probes.linear import pool
    from ssl_pretext.representations.extraction import extract_features

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "images.u8", images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak() as found:
            extract_features([task.representation()], store, reduce=pool)
    return {"mib": found["bytes"] / MIB}


def limited(spare: int, side: int, whole: bool) -> dict[str, float]:
    """MiB of a store, the fourth of it that is allowed, and the peak of pretraining on it and of all its features.

    What is limited is `RLIMIT_DATA`: memory that is private and can be written, reserved or used. A store's file is
    mapped to be read, and is not in it, as the system can drop its pages; under `RLIMIT_AS`, which counts them, no
    such store could even be opened.

    Args:
        spare: MiB allowed beyond what Python, the libraries and a first run have taken.
        side: Of the images, in pixels.
        whole: What they have taken is part of what is allowed, so that the store is larger for it.

    Raises:
        RuntimeError: The limit does not hold: all images fit into memory at once.
    """
    import torch
    from torch import nn

    import ssl_pretext as sp
    from ssl_pretext.probes.linear import pool
    from ssl_pretext.representations.extraction import extract_features

    def work(store: sp.ImageStore, out: Path) -> None:
        some = store.subset(torch.linspace(0, len(store) - 1, steps=32).long())
        sp.fit(task, some, sp.FitConfig(out=out, epochs=1, batch_size=8, device="cpu"))
        extract_features([task.representation()], store, reduce=pool)

    # Its features take a third of the bytes of the images: more, too, than is allowed.
    encoder = nn.Conv2d(1, 16, kernel_size=8, stride=8)
    task = sp.CrossChannelPrediction("rgb:R", "rgb:G,B", encoder, losses={"smooth_l1": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        work(_store(Path(folder) / "few.u8", 256, side), Path(folder) / "first")
        taken = _status("VmData")
        allowed = spare * MIB + whole * taken
        store = _store(Path(folder) / "many.u8", LARGER * allowed // (3 * side**2), side)
        limit = taken + spare * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            store.images()
        except MemoryError:
            pass
        else:
            raise RuntimeError(f"{LARGER} times the memory that is allowed could be taken; the limit does not hold")
        before = 0 if whole else _private()
        with _peak() as found:
            work(store, Path(folder) / "run")
    return {"store": LARGER * allowed / MIB, "allowed": allowed / MIB, "mib": (found["bytes"] - before) / MIB}


def _store(file: Path, count: int, side: int = IMAGE_SIZE) -> Any:
    """Images on disk, mapped into memory as a decoded folder is."""
    import numpy as np

    import ssl_pretext as sp

    shape = (count, 3, side, side)
    images = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    generator = np.random.default_rng(0)
    for start in range(0, count, 1_000):
        part = images[start : start + 1_000]
        part[:] = generator.integers(0, 256, size=part.shape, dtype=np.uint8)
    images.flush()
    del images
    return sp.ImageStore.from_arrays(np.memmap(file, dtype=np.uint8, mode="r", shape=shape), [0] * count)


def _network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
    )


def _private() -> int:
    """Bytes that belong to this process alone; of files that are mapped, the system can drop its copies."""
    return _status("RssAnon")


def _status(key: str) -> int:
    """Bytes of one line of what Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
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
    function.__name__: function
    for function in (importing, color_loss, conv_probe, lpips, pretraining, extraction, limited)
}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](**json.loads(sys.argv[2]))))
