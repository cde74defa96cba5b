"""What a large run takes, from figures per image: `python -m benchmarks.scale` writes `docs/scale.md`.

`--measure` first measures them on this machine, into `docs/results/scale.json`: JPEG files of the size that photographs
have in ImageNet, cut out of freely licensed ones, streamed from shards and built into a store. Times are those of the
processor, over all threads, so that what else runs does not count. `docs/results/speed.json` has the rest.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ssl_pretext as sp
from benchmarks.food101.experiment import environment
from ssl_pretext.data.samples import load_photo
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.system.files import read_json, write_json, write_text

__all__ = ["Figures", "page", "plan"]

MEASURED, SPEED, PAGE = Path("docs/results/scale.json"), Path("docs/results/speed.json"), Path("docs/scale.md")
WIDTH, HEIGHT, QUALITY = 500, 375, 90  # of the photographs; ImageNet's are about so large
SIZE = 224  # that they are read at
COUNT, SHARDS = 400, 4
PHOTOS = ("astronaut", "china", "coffee", "flower", "chelsea", "stereo_motorcycle")
SHARD_BYTES = 1e9
GPU_RATE = 1_000  # images per second and GPU: assumed
RUNS = {"ImageNet's size": (1_281_167, 100, 8), "a billion images": (1_000_000_000, 1, 64)}  # images, epochs, GPUs


@dataclass(frozen=True)
class Figures:
    """What an image takes; seconds are those of one core."""

    file_bytes: float
    store_bytes: float
    index_bytes: float
    stream_seconds: float
    build_seconds: float
    cpu_step_seconds: float
    cpu_step_pixels: int


def plan(figures: Figures, *, images: int, epochs: int, gpus: int, rate: float) -> dict[str, float]:
    """What a run takes at `rate` images per second and GPU, whichever way its images come.

    Returns:
        Bytes on disk of shards and store; bytes per second that all GPUs together ask of them, and cores that decode
        for one; core hours until the store is built; GPU hours and hours of the run; hours of one core instead.
    """
    seen = images * epochs
    return {
        "shards": images * figures.file_bytes,
        "store": images * (figures.store_bytes + figures.index_bytes),
        "shards per second": gpus * rate * figures.file_bytes,
        "store per second": gpus * rate * figures.store_bytes,
        "cores per GPU": rate * figures.stream_seconds,
        "core hours to build": images * figures.build_seconds / 3600,
        "GPU hours": seen / rate / 3600,
        "hours": seen / rate / gpus / 3600,
        "core hours instead": seen * figures.cpu_step_seconds * SIZE**2 / figures.cpu_step_pixels / 3600,
    }


def figures_of(measured: Mapping[str, Any], speed: Mapping[str, Any]) -> Figures:
    """Out of what was measured here, and of the step of the documented autoencoder at 32 px on one thread."""
    (step,) = [
        row["median"]
        for row in speed["parts"]["settings"]["rows"]
        if row["side"] == "one thread" and "a training step with smooth L1" in row["work"]
    ]
    return Figures(**measured["per_image"], cpu_step_seconds=step, cpu_step_pixels=32**2)


def page(measured: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    figures, env = figures_of(measured, speed), measured["environment"]
    plans = {
        name: plan(figures, images=images, epochs=epochs, gpus=gpus, rate=GPU_RATE)
        for name, (images, epochs, gpus) in RUNS.items()
    }
    shown: dict[str, Callable[[dict[str, float]], str]] = {
        "shards on disk": lambda one: _bytes(one["shards"]),
        f"store on disk, at {SIZE} px": lambda one: _bytes(one["store"]),
        "core hours to build the store": lambda one: f"{one['core hours to build']:,.0f}",
        "read from shards, all GPUs together": lambda one: f"{_bytes(one['shards per second'])}/s",
        "read from the store, all GPUs together": lambda one: f"{_bytes(one['store per second'])}/s",
        "cores that decode shards, per GPU": lambda one: f"{one['cores per GPU']:.1f}",
        "GPU hours": lambda one: f"{one['GPU hours']:,.0f}",
        "hours of the run": lambda one: f"{one['hours']:,.1f}",
        "core hours of the documented autoencoder without GPUs": lambda one: f"{one['core hours instead']:,.0f}",
    }
    heads = {
        name: f"{name}: {images:,} images, {epochs} epoch{'s' * (epochs > 1)}, {gpus} GPUs"
        for name, (images, epochs, gpus) in RUNS.items()
    }
    rows = [{"": what, **{heads[name]: show(plans[name]) for name in RUNS}} for what, show in shown.items()]
    per_image = [
        {"per image": "JPEG file", "": _bytes(figures.file_bytes), "from": f"measured: {WIDTH}×{HEIGHT} px"},
        {"per image": "in the store", "": _bytes(figures.store_bytes), "from": f"3 · {SIZE}², uint8; the file says so"},
        {"per image": "in its index", "": _bytes(figures.index_bytes), "from": "measured"},
        {
            "per image": "streamed: read, decoded, resized",
            "": _ms(figures.stream_seconds),
            "from": "measured, one core",
        },
        {"per image": "built into the store", "": _ms(figures.build_seconds), "from": "measured, one core"},
        {
            "per image": "a step of the documented autoencoder at 32 px",
            "": _ms(figures.cpu_step_seconds),
            "from": "measured, one core: [speed](results/speed.md)",
        },
        {"per image": "a step on a GPU", "": _ms(1 / GPU_RATE), "from": "**assumed**; measure yours"},
    ]
    return TEMPLATE.format(
        per_image=markdown_table(per_image, ["per image", "", "from"]),
        plans=markdown_table(rows, ["", *heads.values()]),
        rate=f"{GPU_RATE:,}",
        size=SIZE,
        per_shard=SHARD_BYTES / figures.file_bytes,
        shards=1e9 * figures.file_bytes / SHARD_BYTES,
        smaller=SIZE**2 / 64**2,
        machine=f"{env['processor']}, torch {env['torch']}, Pillow {env['pillow']}, commit `{env['commit']}`",
    )


TEMPLATE = """\
# What a large run takes

Storage, bandwidth and hours follow from what one image takes. `benchmarks/scale.py` writes this page out of what was
measured.

{per_image}

Measured on {machine}, with `python -m benchmarks.scale --measure`.

## Two runs

{plans}

GPU hours cannot be measured on the machine that this page comes from. They are

> images × epochs / (images per second and GPU) / 3600

and the table **assumes {rate} images per second and GPU** at {size} px, which is a placeholder and no promise.
`python -m benchmarks.speed.gpu --out gpu.json` measures the documented step on yours,
and the [page about GPUs](gpu.md) says how. The core hours without GPUs go with the number of pixels from 32 px.

The numbers of epochs and GPUs are assumptions too, and so is that files are as large as those measured here: weigh your
own, since room and bandwidth of shards go with them.

## What follows

- **ImageNet's size: a store.** It fits on the disk of one machine. Building it takes little beside the run, each
  further epoch decodes nothing, and any image can be read at any time: a run goes on at once, and batches are the same
  whatever the number of processes. Put it on a local disk of each machine.
- **A billion images: shards.** A run that passes once over its images gains nothing from decoding them beforehand, and
  the store would take more room. Streaming asks for the cores above beside each GPU: if they are not there, shrink the
  images once, when the shards are written.
- **Shards of 1 GB** hold {per_shard:,.0f} such images; a billion are {shards:,.0f} shards. With `epoch_images` nobody
  counts them, and an epoch is as long as you like to wait for the checkpoint at its end.
- **A stop costs** up to `checkpoint_minutes` of computing; with shards also the time to read the epoch again up to
  there. Short epochs make that short.
- **Without many GPUs**, fewer pixels help most: at 64 px the store takes {smaller:.0f} times less, and so do the steps.

[How to start it](howto/many-machines.md).
"""


def measure(folder: Path) -> dict[str, Any]:
    """Figures per image, and the machine."""
    contents = [_jpeg(image) for image in islice(_photographs(), COUNT)]
    (folder / "photos").mkdir()
    for number, content in enumerate(contents):
        (folder / f"photos/{number:06}.jpg").write_bytes(content)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(shard, COUNT, SHARDS):
                archive.add(folder / f"photos/{number:06}.jpg", f"{number:06}.jpg")
    stream = sp.ImageStream(str(folder / "*.tar"), image_size=SIZE, cache=folder)
    read = stream.read(seed=0, epoch=0, rank=0, world=1)
    next(read)  # whose threads have begun
    began = time.process_time()
    for _ in islice(read, 2 * COUNT):
        pass
    streamed = (time.process_time() - began) / (2 * COUNT)
    began = time.process_time()
    sp.ImageStore.from_folder(folder / "photos", image_size=SIZE, labeled=False, cache=folder / "stores")
    built = (time.process_time() - began) / COUNT
    (store,) = (folder / "stores").iterdir()
    return {
        "per_image": {
            "file_bytes": float(np.mean([len(content) for content in contents])),
            "store_bytes": (store / "images.u8").stat().st_size / COUNT,
            "index_bytes": (store / "index.json").stat().st_size / COUNT,
            "stream_seconds": streamed,
            "build_seconds": built,
        },
        "environment": environment("cpu"),
    }


def _photographs() -> Iterator[Image.Image]:
    """Other and other parts of free photographs, at about the sharpness of a photograph of this size."""
    draw = np.random.default_rng(0)
    while True:
        for name in PHOTOS:
            photo = Image.fromarray(load_photo(name))
            share = draw.uniform(0.7, 1)
            width = share * min(photo.width, photo.height * WIDTH / HEIGHT)
            height = width * HEIGHT / WIDTH
            left, top = draw.uniform(0, photo.width - width), draw.uniform(0, photo.height - height)
            yield photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _bytes(count: float) -> str:
    units = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
    return next(f"{count / factor:.3g} {unit}" for factor, unit in units if count >= factor)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the figures per image first")
    if parser.parse_args().measure:
        with tempfile.TemporaryDirectory() as folder:
            write_json(MEASURED, measure(Path(folder)))
    write_text(PAGE, page(read_json(MEASURED), read_json(SPEED)))


if __name__ == "__main__":
    main()
