"""`ssl-pretext colorize`: photos of any size, colored from their lightness."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.cli.files import write_skipped
from ssl_pretext.cli.loading import load_run
from ssl_pretext.cli.options import Colorize
from ssl_pretext.color import lab_to_rgb, rgb_to_lab
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.listing import list_folder
from ssl_pretext.errors import ArgumentError, DataError, MissingFileError
from ssl_pretext.system.files import atomic_write
from ssl_pretext.tasks import Colorization

__all__ = ["colorize_photo", "run"]

log = logging.getLogger(__name__)

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
PIXELS_AT_ONCE = 2**22  # of a large photo, so that the memory for its colors in float32 stays small


def run(options: Colorize) -> None:
    """Colors a photo, or every photo of a folder."""
    if not options.photos.exists():
        raise MissingFileError(f"there is no photo and no folder {options.photos}")
    folder = options.photos.is_dir()
    jobs, left_out = _folder_jobs(options.photos, options.out) if folder else ([(options.photos, options.out)], [])
    for photo, target in jobs:
        _check_target(photo, target)
    task = load_run(options.run, Colorization)
    skipped = _colorize_all(task, jobs)
    if len(skipped) == len(jobs):
        raise DataError(f"no photo could be read; {skipped[0]['name']}: {skipped[0]['reason']}")
    note = write_skipped(options.out, [*left_out, *skipped]) if folder else ""
    log.info("colored: %s%s", options.out, note)


def colorize_photo(task: Colorization, photo: Tensor) -> Tensor:
    """A photo with its own lightness and predicted colors.

    The photo is squeezed to the size that the task was trained at, as in Zhang et al. 2016's demonstration, and what
    is predicted there is stretched back: colors may be coarse where lightness is sharp. Colors that sRGB does not
    have at a pixel's lightness are brought into its gamut, which changes the lightness too.

    Args:
        task: As pretrained.
        photo: `uint8`, `(3, H, W)`.

    Returns:
        The same.

    Raises:
        ArgumentError: The task does not know the size that it was trained at.
    """
    size = task.trained_on.image_size
    if size is None:
        raise ArgumentError("the task does not say at which image size it was trained; pretrain it by fit()")
    small = F.interpolate(photo[None].float() / 255, size, mode="bilinear", antialias=True).clamp(0, 1)
    ab = F.interpolate(rgb_to_lab(task.colorize(small))[:, 1:], photo.shape[-2:], mode="bilinear")[0]
    colored = torch.empty_like(photo)
    rows = max(1, PIXELS_AT_ONCE // photo.shape[-1])
    for part, colors, target in zip(photo.split(rows, 1), ab.split(rows, 1), colored.split(rows, 1), strict=True):
        lightness = rgb_to_lab(part.float() / 255)[:1]
        target.copy_((lab_to_rgb(torch.cat([lightness, colors])).clamp(0, 1) * 255).round())
    return colored


def _colorize_all(task: Colorization, jobs: Sequence[tuple[Path, Path]]) -> list[dict[str, str]]:
    """Colors photo after photo; returns those that cannot be read, with the reason."""
    from tqdm import tqdm

    skipped = []
    decode = decoder(None, None)
    for photo, target in tqdm(jobs, desc="coloring", unit="photo", disable=True if len(jobs) == 1 else None):
        decoded = decode(photo)
        if not isinstance(decoded, str) and (decoded.kind, len(decoded.pixels)) != ("uint8", 3):
            decoded = f"it holds {len(decoded.pixels)} channels of {decoded.kind}, and is no photo"
        if isinstance(decoded, str):
            skipped.append({"name": str(photo), "reason": decoded})
        else:
            _write(colorize_photo(task, torch.tensor(decoded.pixels)), target)
    return skipped


def _write(pixels: Tensor, target: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    with atomic_write(target) as part:
        picture.save(part, **FORMATS[target.suffix.lower()])


def _folder_jobs(folder: Path, out: Path) -> tuple[list[tuple[Path, Path]], list[dict[str, str]]]:
    """Each photo of a folder with the PNG file to write, and what is left out."""
    inside, outside = sorted((folder.resolve(), out.resolve()), key=lambda path: -len(path.parts))
    if inside.is_relative_to(outside):
        raise ArgumentError(f"-o {out} and {folder} lie one in the other; choose a folder apart from the photos")
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"-o {out} is a file; for a folder of photos it is a folder")
    listing = list_folder(folder, labeled=False)
    targets = [Path(name).with_suffix(".png") for name in listing.names]
    if len(set(targets)) < len(targets):  # a.jpg beside a.webp
        targets = [Path(f"{name}.png") for name in listing.names]
    left_out = [{**item, "name": str(folder / item["name"])} for item in listing.skipped]
    return [(photo, out / target) for photo, target in zip(listing.paths, targets, strict=True)], left_out


def _check_target(photo: Path, target: Path) -> None:
    if target.suffix.lower() not in FORMATS:
        raise ArgumentError(f"-o {target} must end in one of {', '.join(FORMATS)}")
    if target.is_dir():
        raise ArgumentError(f"-o {target} is a folder; name the picture to write")
    if target.exists() and target.samefile(photo):
        raise ArgumentError(f"-o {target} is the photo itself, which is never overwritten; choose another name")
