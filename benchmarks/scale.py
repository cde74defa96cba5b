"""Plan of large runs from the costs of one image: `python -m benchmarks.scale` writes `docs/scale.md`.

With `--measure`, the costs of one image are first measured on this machine and written to `docs/results/scale.json`.
The images are JPEG files as large as those of ImageNet, cropped from freely licensed photographs. They are streamed
from shards, and built into a store. Times are CPU times over all threads, so that other processes do not affect them.
The time of a training step comes from `docs/results/speed.json`.
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
from ssl_pretext.data import load_photo
from ssl_pretext.reporting import markdown_table
from ssl_pretext.system.files import read_json, write_json, write_text

__all__ = ["ImageCosts", "costs_from", "page", "plan"]

MEASURED, SPEED, PAGE = Path("docs/results/scale.json"), Path("docs/results/speed.json"), Path("docs/scale.md")
WIDTH, HEIGHT, QUALITY = 500, 375, 90  # of the JPEG files, about as in ImageNet
SIZE = 224  # height and width at which they are read
COUNT, SHARDS = 400, 4
PHOTOS = ("astronaut", "china", "coffee", "flower", "chelsea", "stereo_motorcycle")
SHARD_BYTES = 1e9
GPU_RATE = 1_000  # images per second and GPU; an assumption
RUNS = {"ImageNet's size": (1_281_167, 100, 8), "a billion images": (1_000_000_000, 1, 64)}  # images, epochs, GPUs


@dataclass(frozen=True)
class ImageCosts:
    """The costs of one image.

    Attributes:
        file_bytes: Bytes of its JPEG file.
        store_bytes: Bytes of its pixels in a store.
        index_bytes: Bytes of its entry in the index of a store.
        stream_seconds: CPU seconds to read, decode and resize it from a shard.
        build_seconds: CPU seconds to add it to a store.
        cpu_step_seconds: CPU seconds of a training step of the documented autoencoder.
        cpu_step_pixels: Number of pixels of an image in that training step.
    """

    file_bytes: float
    store_bytes: float
    index_bytes: float
    stream_seconds: float
    build_seconds: float
    cpu_step_seconds: float
    cpu_step_pixels: int


def plan(costs: ImageCosts, *, images: int, epochs: int, gpus: int, rate: float) -> dict[str, float]:
    """Computes the costs of a run, for both ways to read its images.

    Args:
        costs: The costs of one image.
        images: Number of images.
        epochs: Number of epochs.
        gpus: Number of GPUs.
        rate: Images per second and GPU.

    Returns:
        Bytes on disk of the shards and of the store; bytes per second that all GPUs together read from each; cores per
        GPU to decode shards; core hours to build the store; GPU hours and hours of the run; and the core hours of the
        documented autoencoder without GPUs.
    """
    steps = images * epochs
    return {
        "shards": images * costs.file_bytes,
        "store": images * (costs.store_bytes + costs.index_bytes),
        "shards per second": gpus * rate * costs.file_bytes,
        "store per second": gpus * rate * costs.store_bytes,
        "cores per GPU": rate * costs.stream_seconds,
        "core hours to build": images * costs.build_seconds / 3600,
        "GPU hours": steps / rate / 3600,
        "hours": steps / rate / gpus / 3600,
        "core hours instead": steps * costs.cpu_step_seconds * SIZE**2 / costs.cpu_step_pixels / 3600,
    }


def costs_from(measured: Mapping[str, Any], speed: Mapping[str, Any]) -> ImageCosts:
    """Reads the costs of one image from the two JSON files.

    Args:
        measured: What `docs/results/scale.json` holds.
        speed: What `docs/results/speed.json` holds, with the step of the documented autoencoder at 32 px on one thread.
    """
    (step,) = [
        row["median"]
        for row in speed["parts"]["settings"]["rows"]
        if row["side"] == "one thread" and "a training step with smooth L1" in row["work"]
    ]
    return ImageCosts(**measured["per_image"], cpu_step_seconds=step, cpu_step_pixels=32**2)


def page(measured: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """Returns the page in Markdown, from what the two JSON files hold."""
    costs, env = costs_from(measured, speed), measured["environment"]
    plans = {
        name: plan(costs, images=images, epochs=epochs, gpus=gpus, rate=GPU_RATE)
        for name, (images, epochs, gpus) in RUNS.items()
    }
    rows: dict[str, Callable[[dict[str, float]], str]] = {
        "shards on disk": lambda run: _bytes(run["shards"]),
        f"store on disk, at {SIZE} px": lambda run: _bytes(run["store"]),
        "core hours to build the store": lambda run: f"{run['core hours to build']:,.0f}",
        "read from shards, all GPUs together": lambda run: f"{_bytes(run['shards per second'])}/s",
        "read from the store, all GPUs together": lambda run: f"{_bytes(run['store per second'])}/s",
        "cores that decode shards, per GPU": lambda run: f"{run['cores per GPU']:.1f}",
        "GPU hours": lambda run: f"{run['GPU hours']:,.0f}",
        "hours of the run": lambda run: f"{run['hours']:,.1f}",
        "core hours of the documented autoencoder without GPUs": lambda run: f"{run['core hours instead']:,.0f}",
    }
    headings = {
        name: f"{name}: {images:,} images, {epochs} epoch{'s' * (epochs > 1)}, {gpus} GPUs"
        for name, (images, epochs, gpus) in RUNS.items()
    }
    table = [{"": label, **{headings[name]: text(plans[name]) for name in RUNS}} for label, text in rows.items()]
    per_image = [
        {"per image": "JPEG file", "": _bytes(costs.file_bytes), "from": f"measured: {WIDTH}×{HEIGHT} px"},
        {"per image": "in the store", "": _bytes(costs.store_bytes), "from": f"measured: 3 · {SIZE}² bytes, uint8"},
        {"per image": "in its index", "": _bytes(costs.index_bytes), "from": "measured"},
        {
            "per image": "streamed: read, decoded, resized",
            "": _ms(costs.stream_seconds),
            "from": "measured, one core",
        },
        {"per image": "built into the store", "": _ms(costs.build_seconds), "from": "measured, one core"},
        {
            "per image": "a training step of the documented autoencoder at 32 px",
            "": _ms(costs.cpu_step_seconds),
            "from": "measured, one core; see [speed](results/speed.md)",
        },
        {"per image": "a training step on a GPU", "": _ms(1 / GPU_RATE), "from": "**assumed**; measure your own"},
    ]
    return TEMPLATE.format(
        per_image=markdown_table(per_image, ["per image", "", "from"]),
        plans=markdown_table(table, ["", *headings.values()]),
        rate=f"{GPU_RATE:,}",
        size=SIZE,
        per_shard=SHARD_BYTES / costs.file_bytes,
        shards=1e9 * costs.file_bytes / SHARD_BYTES,
        smaller=SIZE**2 / 64**2,
        machine=f"{env['processor']}, torch {env['torch']}, Pillow {env['pillow']}, commit `{env['commit']}`",
    )


TEMPLATE = """\
# Plan a large run

The storage, bandwidth and time of a large run follow from the costs of one image. `benchmarks/scale.py` computes the
numbers on this page from measured costs.

{per_image}

Measured on {machine}, with `python -m benchmarks.scale --measure`.

## Two examples

{plans}

The machine on which this page was made has no GPU, so GPU hours could not be measured. They are computed as

> images × epochs / (images per second and GPU) / 3600

The table **assumes {rate} images per second and GPU** at {size} px. This number is a placeholder, not a promise.
`python -m benchmarks.speed.gpu --out gpu.json` measures the training step of the documented autoencoder on your GPU;
see [Train on a GPU](gpu.md). The core hours without GPUs are scaled from 32 px by the number of pixels.

The numbers of epochs and GPUs are assumptions, too. So is the size of the files: measure yours, since the storage and
the bandwidth of shards are proportional to it.

## Recommendations

- **For the size of ImageNet, use a store.** It fits on the disk of one machine, and building it takes little time
  compared with the run. No later epoch decodes an image, and any image can be read at any time. So a run resumes at
  once, and its batches do not depend on the number of processes. Put the store on a local disk of each machine.
- **For a billion images, use shards.** A run of a single epoch gains nothing from decoding its images beforehand, and
  the store would take more space. Streaming needs the number of cores per GPU that the table shows. If there are not
  enough, reduce the size of the images when you write the shards.
- **Shards of 1 GB** hold {per_shard:,.0f} such images each; a billion images make {shards:,.0f} shards. With
  `epoch_images`, the images need not be counted, and you choose the length of an epoch; at its end, a checkpoint is
  written.
- **An interruption costs** at most `checkpoint_minutes` of computing. With shards, the part of the epoch before the
  checkpoint is also read again, which short epochs keep short.
- **Without many GPUs**, smaller images help most: at 64 px, the store and the training steps take {smaller:.0f} times
  less.

[Train on many machines](howto/many-machines.md) explains how to start such a run.
"""


def measure(folder: Path) -> dict[str, Any]:
    """Measures the costs of one image, with temporary files in `folder`; returns them with the machine."""
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
    next(read)  # starts its threads, which is not measured
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
    """Yields random crops of freely licensed photographs, about as sharp as photographs of this size are."""
    draw = np.random.default_rng(0)
    while True:
        for name in PHOTOS:
            photo = Image.fromarray(load_photo(name))
            fraction = draw.uniform(0.7, 1)
            width = fraction * min(photo.width, photo.height * WIDTH / HEIGHT)
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
    """Measures the costs of one image if asked to, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the costs of one image first")
    if parser.parse_args().measure:
        with tempfile.TemporaryDirectory() as folder:
            write_json(MEASURED, measure(Path(folder)))
    write_text(PAGE, page(read_json(MEASURED), read_json(SPEED)))


if __name__ == "__main__":
    main()
