"""What the commands that write an image for each image share: the names of the files, and the loop over the images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.listing import Listing
from ssl_pretext.data.sources import Reading, Source
from ssl_pretext.errors import ArgumentError, DataError, MissingDependencyError, ReadError

__all__ = ["Job", "check_apart", "folder_jobs", "run_jobs"]


class Job(NamedTuple):
    """An image and the file that is written for it."""

    source: Source
    target: Path


def check_apart(folder: Path, out: Path) -> None:
    """Raises an error if an output folder is a file, or if it and the folder of the images contain one another."""
    inside, outside = sorted((folder.resolve(), out.resolve()), key=lambda path: -len(path.parts))
    if inside.is_relative_to(outside):
        raise ArgumentError(
            f"one of the folders -o {out} and {folder} contains the other; choose an output folder elsewhere"
        )
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"-o {out} is a file; for a folder of images, name an output folder")


def folder_jobs(listing: Listing, out: Path, suffix: Callable[[Source], str]) -> tuple[list[Job], list[dict[str, str]]]:
    """Returns each image of a folder with the file to write for it, and the files that are ignored.

    Args:
        listing: The images.
        out: Output folder.
        suffix: Function that returns the suffix of the output for an image, such as `".png"`.
    """
    endings = [suffix(source) for source in listing.sources]
    # The names of images that consist of several files have no suffix.
    shortened = [Path(name).with_suffix("") if listing.file_channels is None else Path(name) for name in listing.names]
    targets = [Path(f"{name}{ending}") for name, ending in zip(shortened, endings, strict=True)]
    if len(set(targets)) < len(targets):  # such as for a.jpg and a.webp in one folder
        targets = [Path(f"{name}{ending}") for name, ending in zip(listing.names, endings, strict=True)]
    ignored = [{**item, "name": str(listing.folder / item["name"])} for item in listing.skipped]
    return [Job(source, out / target) for source, target in zip(listing.sources, targets, strict=True)], ignored


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job, Decoded], str | None], *, reading: Reading, what: str, doing: str
) -> list[dict[str, str]]:
    """Decodes the images one by one and does the work on each; returns those that were skipped, with the reasons.

    Args:
        jobs: The images.
        work: Function that writes the file of a job, or returns the reason why the image does not fit.
        reading: How the images are read.
        what: What an image is called in messages.
        doing: What is done, for the progress bar.

    Raises:
        DataError: All images were skipped.
    """
    from tqdm.auto import tqdm

    skipped = []
    decode = decoder(reading)
    for job in tqdm(jobs, desc=doing, unit=what, disable=True if len(jobs) == 1 else None):
        try:
            decoded = decode(job.source)
        except (MissingDependencyError, ReadError) as error:  # the other images are done
            decoded = str(error)
        reason = decoded if isinstance(decoded, str) else work(job, decoded)
        if reason is not None:
            skipped.append({"name": str(job.source.files[0]), "reason": str(reason)})
    if len(skipped) == len(jobs):
        raise DataError(f"no {what} could be read; {skipped[0]['name']}: {skipped[0]['reason']}")
    return skipped
