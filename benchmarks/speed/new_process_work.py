"""The functions that `measure_in_new_process` runs: `python -m benchmarks.speed.new_process_work NAME ARGUMENTS`."""

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

# Neither torch nor ssl_pretext may be imported at the top of this file, because the time of their imports is measured.

MIB = 2**20
SAMPLING_INTERVAL = 0.002  # seconds between two looks at the memory
IMAGE_SIZE = 32
BATCH_SIZE = 64
STORE_RATIO = 4  # size of the store in `limited_memory`, in terms of the memory that is allowed


def importing(module: str) -> dict[str, float]:
    """Imports a module; returns the seconds that it takes and the MiB of the process after it."""
    start = time.perf_counter()
    importlib.import_module(module)
    return {"seconds": time.perf_counter() - start, "mib": _private_memory() / MIB}


def color_loss(method: str, *, small: bool) -> dict[str, float]:
    """Returns the MiB that a step of the color loss takes in addition to its inputs."""
    from benchmarks.speed.color import ColorLossWork

    work = ColorLossWork(small=small)
    with _peak_memory() as peak:
        before = _private_memory()
        getattr(work, method)()
    return {"mib": (peak["bytes"] - before) / MIB}


def conv_probe(method: str, *, small: bool) -> dict[str, float]:
    """Returns the seconds of training a conv probe, after one training that is not timed."""
    from benchmarks.speed.probes import ConvProbeWork

    work = ConvProbeWork(small=small)
    getattr(work, method)()
    start = time.perf_counter()
    getattr(work, method)()
    return {"seconds": time.perf_counter() - start}


def lpips(steps: int) -> dict[str, float]:
    """Returns the MiB of the process after a tenth of the steps with LPIPS, and after all of them."""
    import torch

    from ssl_pretext.losses import create_loss

    loss, found = create_loss("lpips", net="squeeze"), {}
    prediction, target = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    prediction.requires_grad_()
    for step in range(1, steps + 1):
        loss(prediction, target).backward()
        prediction.grad = None
        if step == steps // 10:
            found["early"] = _private_memory() / MIB
    return found | {"late": _private_memory() / MIB}


def pretraining(images: int) -> dict[str, float]:
    """Returns the peak memory, in MiB, of an epoch of pretraining on so many images."""
    import ssl_pretext as sp

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "images.u8", images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak_memory() as peak:
            sp.fit(task, store, sp.FitConfig(out=Path(folder) / "run", epochs=1, batch_size=BATCH_SIZE))
    return {"mib": peak["bytes"] / MIB}


def extraction(images: int) -> dict[str, float]:
    """Returns the peak memory, in MiB, of extracting the features of so many images for the linear probe."""
    import ssl_pretext as sp
    from ssl_pretext.probes.linear import pool
    from ssl_pretext.representations import extract_features

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "images.u8", images)
        task = sp.create_task("colorization", encoder=_network(), losses={"smooth_l1": 1.0})
        with _peak_memory() as peak:
            extract_features([task.representation()], store, reduce=pool)
    return {"mib": peak["bytes"] / MIB}


def limited_memory(spare: int, image_size: int, count_libraries: bool) -> dict[str, float]:
    """Pretrains on a store, and extracts its features, with less memory than the store has bytes.

    The limit is `RLIMIT_DATA`, which counts the private writable memory of the process, whether used or only reserved.
    It does not count the file of a store, which is mapped read-only, since the system can drop its pages at any time.
    `RLIMIT_AS` would count them, so that such a store could not even be opened.

    Args:
        spare: MiB that are allowed in addition to what Python, the libraries and a first run have taken.
        image_size: Height and width of the images, in pixels.
        count_libraries: Whether the allowed memory that the size of the store is a multiple of includes what Python
            and the libraries take.

    Returns:
        MiB of the store, MiB allowed (a quarter of it), and the peak MiB of the work.

    Raises:
        RuntimeError: The limit has no effect: all images could be loaded at once.
    """
    import torch
    from torch import nn

    import ssl_pretext as sp
    from ssl_pretext.probes.linear import pool
    from ssl_pretext.representations import extract_features

    def work(store: sp.ImageStore, out: Path) -> None:
        some = store.subset(torch.linspace(0, len(store) - 1, steps=32).long())
        sp.fit(task, some, sp.FitConfig(out=out, epochs=1, batch_size=8, device="cpu"))
        extract_features([task.representation()], store, reduce=pool)

    # The features of this encoder have a third of the bytes of the images, which is also more than is allowed.
    encoder = nn.Conv2d(1, 16, kernel_size=8, stride=8)
    task = sp.CrossChannelPrediction("rgb:R", "rgb:G,B", encoder, losses={"smooth_l1": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        work(_store(Path(folder) / "few.u8", 256, image_size), Path(folder) / "first")
        taken = _process_status("VmData")
        allowed = spare * MIB + count_libraries * taken
        store = _store(Path(folder) / "many.u8", STORE_RATIO * allowed // (3 * image_size**2), image_size)
        limit = taken + spare * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            store.images()
        except MemoryError:
            pass
        else:
            raise RuntimeError(
                f"a store of {STORE_RATIO} times the allowed memory could be loaded at once; the limit has no effect"
            )
        before = 0 if count_libraries else _private_memory()
        with _peak_memory() as peak:
            work(store, Path(folder) / "run")
    return {"store": STORE_RATIO * allowed / MIB, "allowed": allowed / MIB, "mib": (peak["bytes"] - before) / MIB}


def _store(file: Path, count: int, image_size: int = IMAGE_SIZE) -> Any:
    """A store of random images, which are mapped into memory from a file as those of a decoded folder are."""
    import numpy as np

    import ssl_pretext as sp

    shape = (count, 3, image_size, image_size)
    generator = np.random.default_rng(0)
    with file.open("wb") as written:  # not through a memory map, because a full disk would end the process
        for start in range(0, count, 1_000):
            part = (min(1_000, count - start), *shape[1:])
            written.write(generator.integers(0, 256, size=part, dtype=np.uint8).data)
    return sp.ImageStore.from_arrays(np.memmap(file, dtype=np.uint8, mode="r", shape=shape), [0] * count)


def _network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
    )


def _private_memory() -> int:
    """The bytes that belong to this process alone, without mapped files, whose pages the system can drop."""
    return _process_status("RssAnon")


def _process_status(key: str) -> int:
    """The bytes in one line of `/proc/self/status`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no line {key}; memory can only be measured on Linux")


@contextmanager
def _peak_memory() -> Iterator[dict[str, int]]:
    """Measures the highest private memory within the block, as `bytes` of the mapping that it yields."""
    peak, done = {"bytes": _private_memory()}, threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLING_INTERVAL):
            peak["bytes"] = max(peak["bytes"], _private_memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()


WORK: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function
    for function in (importing, color_loss, conv_probe, lpips, pretraining, extraction, limited_memory)
}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](**json.loads(sys.argv[2]))))
