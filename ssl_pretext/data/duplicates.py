"""Images that repeat others: with the same pixels, or nearly so, as after resizing, compression or a small crop."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.data.store import ImageStore

__all__ = ["Repeats", "difference_vectors", "find_repeats"]

GRID = 8  # the images are compared at this height and width
# Measured on EuroSAT and Food-101 at 64 px: of 1,000 images each, none is similar to one of 6,000 or 24,240 images of
# other classes, and of test images 0.1% to 0.3% are similar to a training image although they show something else, such
# as another round plate. Of copies, 97% and 100% are found after JPEG at quality 75, all after resizing to half the
# size and back, and 85% and 83% after a crop of 2 pixels on each side.
SIMILAR = 0.9
# Of other images, measured on cells with three channels, which all lie in the middle of a plain background: of 400 test
# images none is similar to one of 1,253 others (99% with the mean channel as it is), 98% of copies at half the size are
# found, and 40% after a crop of one pixel. On chips of 13 bands all of these are found.
SIMILAR_BANDS = 0.95
LEAST_CONTRAST = 0.02  # of an image in relation to that of all pixels; below it, noise decides what is similar
LEAST_CENTERED = 10  # images of which the mean shows what they have in common
CHUNK = 1024
EXAMPLES = 2


@dataclass(frozen=True)
class Repeats:
    """How many images repeat others.

    Attributes:
        identical: Number of images whose pixels are those of another image.
        similar: Number of the other images that are nearly equal to another one.
        examples: A few of them, each with the name of the image that it repeats.
    """

    identical: int
    similar: int
    examples: list[tuple[str, str]]


def find_repeats(images: ImageStore, known: ImageStore | Mapping[str, str] | None = None) -> Repeats:
    """Finds the images that repeat known images, exactly or nearly.

    Two images are nearly equal if the cosine of their `difference_vectors` is at least 0.9, or 0.95 if they are no
    photos.

    Args:
        images: The images to look for.
        known: The images to compare them with, or only their names by their digests, with which nearly equal images
            are not found. By default, the earlier ones of `images`.

    Examples:
        >>> scene = torch.rand(2, 3, 32, 32)
        >>> found = find_repeats(ImageStore.from_arrays(scene.flip(0)), ImageStore.from_arrays(scene[1:] + 0.01))
        >>> found.identical, found.similar, found.examples
        (0, 1, [('0', '0')])
    """
    if isinstance(known, Mapping):
        named = zip(images.names, images.digests(), strict=True)
        same = [(name, known[digest]) for name, digest in named if digest in known]
        return Repeats(len(same), 0, same[:EXAMPLES])
    among_themselves, others = known is None, known or images
    are_photos = images.are_photos and others.are_photos
    small = _small(images, are_photos)
    known_small = small if among_themselves else _small(others, are_photos)
    vectors = _vectors(small, known_small, are_photos)
    known_vectors = vectors if among_themselves else _vectors(known_small, known_small, are_photos)
    nearest = _nearest(vectors, known_vectors, earlier=among_themselves)
    similar_from = SIMILAR if are_photos else SIMILAR_BANDS
    first: dict[str, str] = (
        {} if among_themselves else dict(zip(others.digests()[::-1], others.names[::-1], strict=True))
    )
    identical, similar = [], []
    for name, digest, (cosine, other) in zip(images.names, images.digests(), nearest, strict=True):
        if digest in first:
            identical.append((name, first[digest]))
        elif cosine >= similar_from:
            similar.append((name, others.names[other]))
        if among_themselves:
            first.setdefault(digest, name)
    return Repeats(len(identical), len(similar), (identical + similar)[:EXAMPLES])


def difference_vectors(images: ImageStore) -> Tensor:
    """Computes the differences of neighboring pixels of images at 8×8 pixels, as vectors of length 1.

    These are the differences whose signs are the bits of the perceptual hash dHash. Their sizes tell more images apart:
    at the same rate of false alarms, more copies are found. For photos they are those of the mean channel. Other images
    often have one thing in the middle, such as a cell, and channels of other units: there all channels are used, each
    divided by its standard deviation, and the mean of the differences over all images is subtracted if there are ten or
    more. Vectors of images with hardly any contrast are zero, so that they are similar to no image.

    Args:
        images: The images.

    Returns:
        Vectors `(N, 112)` for photos, else `(N, 112 C)`, float32.
    """
    small = _small(images, images.are_photos)
    return _vectors(small, small, images.are_photos)


def _vectors(small: Tensor, known: Tensor, are_photos: bool) -> Tensor:
    """The difference vectors of images `(N, C, 8, 8)`, by the statistics of known images `(M, C, 8, 8)`."""
    scale = known.transpose(0, 1).flatten(1).std(dim=1)[:, None, None].clamp(min=torch.finfo(known.dtype).tiny)
    differences = _differences(small / scale)
    if not are_photos and len(known) >= LEAST_CENTERED:
        differences = differences - _differences(known / scale).mean(dim=0)
    contrast = (small / scale).flatten(1).std(dim=1)
    return F.normalize(differences, dim=1) * (contrast > LEAST_CONTRAST)[:, None]


def _differences(small: Tensor) -> Tensor:
    return torch.cat([small.diff(dim=2).flatten(1), small.diff(dim=3).flatten(1)], dim=1)


def _small(images: ImageStore, are_photos: bool) -> Tensor:
    """The images `(N, C, 8, 8)`, or their mean channel `(N, 1, 8, 8)` for photos; missing values are left out."""
    found = []
    for rows in torch.arange(len(images)).split(CHUNK):
        given = images.images(rows)
        pixels = given / 255 if given.dtype == torch.uint8 else given  # so that both kinds have the same units
        if are_photos:
            pixels = pixels.mean(dim=1, keepdim=True)
        means = pixels.flatten(2).nanmean(dim=2).nan_to_num(0)[:, :, None, None]
        found.append(F.adaptive_avg_pool2d(torch.where(pixels.isnan(), means, pixels), GRID))
    return torch.cat(found)


def _nearest(vectors: Tensor, others: Tensor, *, earlier: bool) -> list[tuple[float, int]]:
    """The largest cosine of each vector with the others, or with those before it, and the position of that one."""
    found: list[tuple[float, int]] = []
    for start in range(0, len(vectors), CHUNK):
        chunk = vectors[start : start + CHUNK]
        best, where = torch.full((len(chunk),), -1.0), torch.zeros(len(chunk), dtype=torch.int64)
        for begin in range(0, start + len(chunk) if earlier else len(others), CHUNK):
            cosines = chunk @ others[begin : begin + CHUNK].T
            if earlier and begin == start:
                cosines = cosines.masked_fill(torch.ones_like(cosines, dtype=torch.bool).triu(), -1.0)
            values, places = cosines.max(dim=1)
            closer = values > best
            best, where = torch.where(closer, values, best), torch.where(closer, places + begin, where)
        found += zip(best.tolist(), where.tolist(), strict=True)
    return found
