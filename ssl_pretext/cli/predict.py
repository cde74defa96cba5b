"""The command `ssl-pretext predict`, which predicts channels of images of any size from their other channels."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.channels import Channels
from ssl_pretext.cli.colorize import write_photo
from ssl_pretext.cli.files import write_skipped
from ssl_pretext.cli.jobs import Job, check_apart, folder_jobs, run_jobs
from ssl_pretext.cli.options import Predict, read_missing
from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.listing import Listing, list_folder
from ssl_pretext.data.patterns import list_pattern
from ssl_pretext.data.readers.base import needed
from ssl_pretext.data.resizing import resize_array
from ssl_pretext.data.sources import RESIZE_RULE, Reading, Source
from ssl_pretext.data.tags import tiff_content
from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import atomic_write
from ssl_pretext.tasks import Colorization, CrossChannelPrediction

__all__ = ["predict_image", "run"]

log = logging.getLogger(__name__)

TILES_AT_ONCE = 64
INTEGERS = {"uint8": (np.uint8, 255), "uint16": (np.uint16, 65535)}  # kinds of images that a PNG file can hold


def run(options: Predict) -> None:
    """Predicts the channels of an image, or of every image in a folder.

    Raises:
        MissingFileError: The image or the folder does not exist.
        ArgumentError: The output cannot be written there, or the task or an option does not fit.
        CheckpointError: The task predicts no channels.
        DataError: None of the images can be read, or none has the channels that the task takes.
    """
    if not options.images.exists():
        raise MissingFileError(f"there is no image or folder {options.images}")
    is_folder = options.images.is_dir()
    check_apart(options.images if is_folder else options.images / "file", options.out)
    task = CrossChannelPrediction.from_pretrained(options.run)
    _check_task(task, options)
    listing = _listing(options)
    jobs, ignored = folder_jobs(listing, options.out, partial(_suffix, task, options.format))
    task.to(resolve_device(options.device))
    reading = Reading(missing=read_missing(options.missing), reader=options.reader, files=listing.file_channels or ())
    skipped = run_jobs(jobs, partial(_predict, task), reading=reading, what="image", doing="predicting")
    note = write_skipped(options.out, [*ignored, *skipped]) if is_folder else ""
    log.info("predicted %s of %s images: %s%s", task.target, f"{len(jobs) - len(skipped):,}", options.out, note)


def predict_image(task: CrossChannelPrediction, image: Tensor) -> Tensor:
    """Predicts the target channels of an image of any size.

    The image is predicted in tiles of the size of the training images, which overlap by half and are blended, so that
    no edges of tiles show. If the training images were resized, the image is resized first in the same way, and the
    prediction is resized to the size of the image.

    Args:
        task: The pretrained task.
        image: The image as the task takes it, `(C, H, W)`.

    Returns:
        The prediction `(m, H, W)` in the units of the image; see `CrossChannelPrediction.predict`.
    """
    size = image.shape[-2:]
    tile = _trained_size(task)
    if task.trained_on.resize == RESIZE_RULE.format(min(tile)):
        image = torch.from_numpy(resize_array(image.numpy(), min(tile), crop=False))
    prediction = _predict_tiles(task, image, tile)
    if prediction.shape[-2:] == size:
        return prediction
    return F.interpolate(prediction[None], size, mode="bilinear", antialias=True)[0]


def _predict_tiles(task: CrossChannelPrediction, image: Tensor, tile: tuple[int, int]) -> Tensor:
    """Predicts tiles of an image, and averages them with weights that fall off toward the edges of a tile."""
    size = image.shape[-2:]
    missing = [max(0, wanted - have) for wanted, have in zip(tile, size, strict=True)]
    padded = F.pad(image[None].float(), (0, missing[1], 0, missing[0]), mode="replicate")[0]
    rows, columns = (_starts(length, step) for length, step in zip(padded.shape[-2:], tile, strict=True))
    corners = [(top, left) for top in rows for left in columns]
    weight = _triangle(tile[0])[:, None] * _triangle(tile[1])
    total, weights = torch.zeros(0), torch.zeros(padded.shape[-2:])
    device = next(task.parameters()).device
    for start in range(0, len(corners), TILES_AT_ONCE):
        chosen = corners[start : start + TILES_AT_ONCE]
        tiles = torch.stack([padded[:, top : top + tile[0], left : left + tile[1]] for top, left in chosen])
        predicted = task.predict(tiles.to(device)).cpu()
        if not total.numel():
            total = torch.zeros(predicted.shape[1], *padded.shape[-2:])
        for (top, left), values in zip(chosen, predicted, strict=True):
            total[:, top : top + tile[0], left : left + tile[1]] += values * weight
            weights[top : top + tile[0], left : left + tile[1]] += weight
    return (total / weights)[:, : size[0], : size[1]]


def _starts(length: int, tile: int) -> list[int]:
    return [*range(0, length - tile, max(1, tile // 2)), length - tile]


def _triangle(length: int) -> Tensor:
    return 1 - ((2 * torch.arange(length) + 1) / length - 1).abs()


def _trained_size(task: CrossChannelPrediction) -> tuple[int, int]:
    size = task.trained_on.image_size
    if size is None:
        raise ArgumentError("the task has no record of the image size that it was trained at; pretrain it with fit()")
    return (size, size) if isinstance(size, int) else size


def _check_task(task: CrossChannelPrediction, options: Predict) -> None:
    """Checks all that does not depend on the images."""
    if isinstance(task, Colorization):
        raise ArgumentError(
            f"{options.run} holds a colorization; use ssl-pretext colorize, which keeps the lightness of photos at "
            "full resolution"
        )
    if "; " in (task.trained_on.resize or ""):
        raise ArgumentError(
            f"the task in {options.run} was trained on tiles that were resized ({task.trained_on.resize}), and the "
            "scale of the images here is not known; resize them by the same factor and call task.predict() in Python"
        )
    _trained_size(task)
    if options.format == "png" and not task.target.space.is_color and task.target.num_channels != 1:
        raise ArgumentError(f"a PNG file cannot hold {task.target}; choose --format tif or npy")
    if options.format == "tif" and not task.target.space.is_color:
        needed("tifffile", "TIFF files", "microscopy")


def _listing(options: Predict) -> Listing:
    if options.images.is_dir():
        if options.pattern is not None:
            return list_pattern(options.images, options.pattern, labeled=False)
        return list_folder(options.images, labeled=False)
    if options.pattern is not None:
        raise ArgumentError(f"--pattern is for folders only, and {options.images} is a file; leave the option out")
    path = options.images
    return Listing(path.parent, [path.name], [Source((path,))], [0], ["unlabeled"])


def _suffix(task: CrossChannelPrediction, chosen: str | None, source: Source) -> str:
    """The suffix of the output: as chosen, PNG for photos, TIFF for TIFF files, and .npy for all others."""
    if chosen is not None:
        return f".{chosen}"
    if task.target.space.is_color:
        return ".png"
    return ".tif" if tiff_content(source.files[0]) else ".npy"


def _predict(task: CrossChannelPrediction, job: Job, image: Decoded) -> str | None:
    """Writes the prediction of an image, or returns the reason why the image does not fit."""
    space = task.image_space
    pixels = torch.from_numpy(np.array(image.pixels))
    is_png = job.target.suffix == ".png"
    if not space.is_color:
        if is_png and image.kind not in INTEGERS:
            return f"its values are {image.kind}, which a PNG file cannot hold; choose --format tif or npy"
        values = pixels.float() / 255 if image.kind == "uint8" else pixels.float()
        completed = _completed(values, image.channel_names, task.source)
        if isinstance(completed, str):
            return completed
        pixels = completed
    elif (image.kind, len(pixels)) != ("uint8", 3):
        return f"it is not a photo, but {len(pixels)} channels of {image.kind}"
    try:
        predicted = predict_image(task, pixels)
    except ArgumentError as error:  # such as an aspect ratio that is too extreme
        return str(error)
    if task.target.space.is_color:
        _write(job, (predicted * 255).round().to(torch.uint8), task.target)
        return None
    # Nothing is predicted where no channel was seen.
    predicted[:, pixels[task.source.indices].isnan().all(dim=0)] = torch.nan
    if image.kind == "uint8":
        predicted *= 255  # the units of the file
    if is_png:
        dtype, most = INTEGERS[image.kind]
        whole = predicted.nan_to_num(nan=0.0).round().clamp(0, most)
        _write_gray(job.target, whole[0].numpy().astype(dtype))
    else:
        _write(job, predicted, task.target)
    return None


def _completed(pixels: Tensor, names: tuple[str, ...] | None, source: Channels) -> Tensor | str:
    """Returns all channels of a space, of which an image may have only the source; the others are missing.

    Args:
        pixels: The channels of the image, `(c, H, W)`.
        names: Their names, if the file has them.
        source: The channels that the task sees.

    Returns:
        The channels `(C, H, W)`, or the reason why the image does not have those that the task sees.
    """
    space = source.space
    if names is not None and {*source.names} <= {*names}:
        given = {space.channels.index(name): i for i, name in enumerate(names) if name in space.channels}
    elif len(pixels) == len(space.channels):
        given = {i: i for i in range(len(pixels))}
    elif len(pixels) == source.num_channels:
        given = {channel: i for i, channel in enumerate(source.indices)}
    else:
        every, seen = ", ".join(space.channels), ", ".join(source.names)
        return f"it has {len(pixels)} channels; the task takes {every}, or only those that it predicts from, {seen}"
    completed = pixels.new_full((len(space.channels), *pixels.shape[1:]), torch.nan)
    completed[list(given)] = pixels[list(given.values())]
    return completed


def _write(job: Job, values: Tensor, target: Channels) -> None:
    """Writes a photo, or channels with their names and the georeference of the file that they were predicted from."""
    if job.target.suffix == ".npy":
        with atomic_write(job.target) as part, part.open("wb") as file:
            np.save(file, values.numpy())
    elif target.space.is_color:
        write_photo(values, job.target)
    elif georeference := _georeference(job.source.files[0]):
        import rasterio

        count, height, width = values.shape
        about = {"count": count, "height": height, "width": width, "dtype": "float32", "nodata": np.nan}
        with (
            atomic_write(job.target) as part,
            rasterio.open(part, "w", driver="GTiff", **about, **georeference) as file,
        ):
            file.write(values.numpy())
            file.descriptions = target.names
    else:
        tifffile = needed("tifffile", job.target, "microscopy")
        with atomic_write(job.target) as part:
            tifffile.imwrite(part, values.numpy(), photometric="minisblack", metadata={"axes": "CYX"})


def _write_gray(target: Path, values: Any) -> None:
    from PIL import Image

    with atomic_write(target) as part:
        Image.fromarray(values).save(part, format="PNG")


def _georeference(path: Path) -> dict[str, Any]:
    """Returns the coordinate system and the transform of a GeoTIFF file; empty without them, or without rasterio."""
    if tiff_content(path) is None:
        return {}
    try:
        import rasterio
    except ImportError:
        return {}
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, driver="GTiff") as file:
            return {"crs": file.crs, "transform": file.transform} if file.crs is not None else {}
