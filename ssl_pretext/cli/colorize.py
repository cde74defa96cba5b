"""The command `ssl-pretext colorize`, which colors photos of any size from their lightness."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.cli.files import write_skipped
from ssl_pretext.cli.jobs import Job, check_apart, folder_jobs, run_jobs
from ssl_pretext.cli.options import Colorize
from ssl_pretext.color import lab_to_rgb, rgb_to_lab
from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.listing import list_folder
from ssl_pretext.data.sources import Reading, Source
from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.system.files import atomic_write
from ssl_pretext.tasks import Colorization

__all__ = ["colorize_photo", "run", "write_photo"]

log = logging.getLogger(__name__)

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
MAX_PIXELS = 2**22  # pixels converted at a time, which limits the memory for a large photo in float32


def run(options: Colorize) -> None:
    """Colors a photo, or every photo in a folder.

    Raises:
        MissingFileError: The photo or the folder does not exist.
        ArgumentError: The output cannot be written there, or would overwrite a photo.
        DataError: None of the photos can be read.
    """
    if not options.photos.exists():
        raise MissingFileError(f"there is no photo or folder {options.photos}")
    is_folder = options.photos.is_dir()
    if is_folder:
        check_apart(options.photos, options.out)
        jobs, ignored = folder_jobs(list_folder(options.photos, labeled=False), options.out, lambda _source: ".png")
    else:
        jobs, ignored = [Job(Source((options.photos,)), options.out)], []
    for job in jobs:
        _check_target(job.source.files[0], job.target)
    task = Colorization.from_pretrained(options.run)
    skipped = run_jobs(jobs, partial(_colorize, task), reading=Reading(), what="photo", doing="coloring")
    note = write_skipped(options.out, [*ignored, *skipped]) if is_folder else ""
    log.info("colored: %s%s", options.out, note)


def colorize_photo(task: Colorization, photo: Tensor) -> Tensor:
    """Predicts the colors of a photo and combines them with its lightness at full resolution.

    As in the demonstration of Zhang et al. 2016, the colors are predicted on a photo resized to the image size of the
    training, and are then resized to the size of the photo. They can therefore be coarse where the lightness is sharp.
    Colors outside the sRGB gamut are clamped to it, which also changes their lightness.

    Args:
        task: The pretrained task.
        photo: The photo as `uint8`, `(3, H, W)`.

    Returns:
        The colored photo as `uint8`, `(3, H, W)`.

    Raises:
        ArgumentError: The task has no record of the image size that it was trained at.
    """
    size = task.trained_on.image_size
    if size is None:
        raise ArgumentError("the task has no record of the image size that it was trained at; pretrain it with fit()")
    small = F.interpolate(photo[None].float() / 255, size, mode="bilinear", antialias=True).clamp(0, 1)
    ab = F.interpolate(rgb_to_lab(task.predict(small))[:, 1:], photo.shape[-2:], mode="bilinear")[0]
    colored = torch.empty_like(photo)
    rows = max(1, MAX_PIXELS // photo.shape[-1])
    for strip, colors, target in zip(photo.split(rows, 1), ab.split(rows, 1), colored.split(rows, 1), strict=True):
        lightness = rgb_to_lab(strip.float() / 255)[:1]
        target.copy_((lab_to_rgb(torch.cat([lightness, colors])).clamp(0, 1) * 255).round())
    return colored


def _colorize(task: Colorization, job: Job, photo: Decoded) -> str | None:
    """Writes the colored photo, or returns the reason why it is none."""
    if (photo.kind, len(photo.pixels)) != ("uint8", 3):
        return f"it is not a photo, but {len(photo.pixels)} channels of {photo.kind}"
    write_photo(colorize_photo(task, torch.tensor(photo.pixels)), job.target)
    return None


def write_photo(pixels: Tensor, target: Path) -> None:
    """Writes a photo `(3, H, W)` as `uint8`; the suffix of the file decides its format."""
    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    with atomic_write(target) as part:
        image.save(part, **FORMATS[target.suffix.lower()])


def _check_target(photo: Path, target: Path) -> None:
    if target.suffix.lower() not in FORMATS:
        raise ArgumentError(f"-o {target} must end in one of {', '.join(FORMATS)}")
    if target.is_dir():
        raise ArgumentError(f"-o {target} is a folder; for a single photo, name an output file")
    if target.exists() and target.samefile(photo):
        raise ArgumentError(f"-o {target} is the photo itself, which is never overwritten; choose another output file")
