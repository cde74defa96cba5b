"""Images that repeat others: with the same pixels, or nearly so, as after resizing, compression or a small crop."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.data.store import ImageStore
from ssl_pretext.spacing import evenly_spaced

__all__ = ["KnownImages", "Repeats", "difference_vectors", "find_repeats"]

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
# Hashes of other images differ in 32 of 64 bits on average. Measured as above: of 1,000 test images of Food-101, 0.2%
# differ in at most 4 bits from one of 24,000 others, of EuroSAT none (of 5,000), and of 413 cells 0.5% (of 1,240). Of
# copies at half the size, 98%, 91% and 92% are found, of JPEG files 100% and 82%, and after a crop of 2 pixels 14% to
# 20%. With 6 bits, 0.8% and 4.8% of other photos and cells would count.
HASH_BITS, DIFFERING_BITS = 64, 4
MEASURED = 10_000  # evenly spaced images that the scale and the mean are measured on; more hardly change them
CHUNK = 1024
MOST_VALUES = 2**22  # of the pixels that are in memory at a time
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


@dataclass(frozen=True)
class KnownImages:
    """What is kept of images to find others that repeat them: their names, and 16 bytes of hashes for each.

    The perceptual hash of an image is the signs of 64 random projections of its difference vector (Charikar 2002), of
    which those of similar vectors agree. It is 0 for an image with hardly any contrast.

    Attributes:
        names: Names of the images.
        digests: Hash of the pixels of each image.
        hashes: Perceptual hash of each image, uint8 `(N, 8)`.
        scale: Standard deviation of each channel, `(C,)`, or of the mean channel for photos, `(1,)`.
        mean: What is subtracted from the differences of each image, `(112 C,)` or `(112,)`.
        are_photos: Whether the images are photos.

    Examples:
        >>> images = ImageStore.from_arrays(torch.rand(3, 3, 32, 32), names=["a", "b", "c"])
        >>> find_repeats(images.subset([2]), [KnownImages.of(images)]).examples
        [('c', 'c')]
    """

    names: Sequence[str]
    digests: Sequence[str]
    hashes: Tensor
    scale: Tensor
    mean: Tensor
    are_photos: bool

    @classmethod
    def of(cls, images: ImageStore) -> "KnownImages":
        """Computes the hashes of images."""
        measured = _small(images.subset(evenly_spaced(len(images), MEASURED)), images.are_photos)
        scale, mean = _statistics(measured, images.are_photos)
        parts = [measured] if len(measured) == len(images) else _parts(images, images.are_photos)
        hashes = _hashes(parts, scale, mean)
        return cls(images.names, images.digests(), hashes, scale, mean, images.are_photos)

    def fits(self, images: ImageStore) -> bool:
        """Whether the perceptual hashes of images can be compared with these: they have as many channels."""
        return images.num_channels == (3 if self.are_photos else len(self.scale))

    def nearest(self, images: ImageStore) -> list[str | None]:
        """Returns the name of the known image that each image nearly equals, or None."""
        hashes = _hashes(_parts(images, self.are_photos), self.scale, self.mean)
        found = _nearest(_signs(hashes), _signs(self.hashes), earlier=False)
        least = 1 - (2 * DIFFERING_BITS + 1) / HASH_BITS  # each sign that differs takes 2 / 64 from the product
        return [self.names[at] if product > least else None for product, at in found]


def find_repeats(images: ImageStore, known: ImageStore | Sequence[KnownImages] | None = None) -> Repeats:
    """Finds the images that repeat known images, exactly or nearly.

    Two images are nearly equal if the cosine of their `difference_vectors` is at least 0.9, or 0.95 if they are no
    photos. Of images that are only known by their hashes, more of those that differ are missed, as after a crop.

    Args:
        images: The images to look for.
        known: The images to compare them with, or what is kept of them. By default, the earlier ones of `images`.

    Examples:
        >>> scene = torch.rand(2, 3, 32, 32)
        >>> found = find_repeats(ImageStore.from_arrays(scene.flip(0)), ImageStore.from_arrays(scene[1:] + 0.01))
        >>> found.identical, found.similar, found.examples
        (0, 1, [('0', '0')])
    """
    if known is not None and not isinstance(known, ImageStore):
        return _find_by_hashes(images, known)
    among_themselves, others = known is None, known or images
    are_photos = images.are_photos and others.are_photos
    small = _small(images, are_photos)
    known_small = small if among_themselves else _small(others, are_photos)
    statistics = _statistics(known_small, are_photos)
    vectors = _vectors(small, *statistics)
    known_vectors = vectors if among_themselves else _vectors(known_small, *statistics)
    nearest = _nearest(vectors, known_vectors, earlier=among_themselves)
    similar_from = SIMILAR if are_photos else SIMILAR_BANDS
    first: dict[str, str] = (
        {} if among_themselves else dict(zip(others.digests()[::-1], others.names[::-1], strict=True))
    )
    similar = [others.names[other] if cosine >= similar_from else None for cosine, other in nearest]
    return _repeats(images, similar, first, among_themselves=among_themselves)


def _find_by_hashes(images: ImageStore, known: Sequence[KnownImages]) -> Repeats:
    first = {digest: name for one in reversed(known) for digest, name in zip(one.digests, one.names, strict=True)}
    nearest = [one.nearest(images) for one in known if one.fits(images)]
    similar = [next((name for name in names if name is not None), None) for names in zip(*nearest, strict=True)]
    return _repeats(images, similar or [None] * len(images), first)


def _repeats(
    images: ImageStore, similar: Sequence[str | None], first: dict[str, str], *, among_themselves: bool = False
) -> Repeats:
    """Counts repeats.

    Args:
        images: The images to look for.
        similar: Name of the image that each of them nearly equals, or None.
        first: Name of a known image by the hash of its pixels.
        among_themselves: Whether each image becomes known to those after it.
    """
    equal, near = [], []
    for name, digest, other in zip(images.names, images.digests(), similar, strict=True):
        if digest in first:
            equal.append((name, first[digest]))
        elif other is not None:
            near.append((name, other))
        if among_themselves:
            first.setdefault(digest, name)
    return Repeats(len(equal), len(near), (equal + near)[:EXAMPLES])


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
    return _vectors(small, *_statistics(small, images.are_photos))


def _statistics(small: Tensor, are_photos: bool) -> tuple[Tensor, Tensor]:
    """The standard deviation of each channel of images `(N, C, 8, 8)`, and the differences that they have in common."""
    scale = small.transpose(0, 1).flatten(1).std(dim=1).clamp(min=torch.finfo(small.dtype).tiny)
    differences = _differences(small / scale[:, None, None])
    centered = not are_photos and len(small) >= LEAST_CENTERED
    return scale, differences.mean(dim=0) if centered else differences.new_zeros(differences.shape[1])


def _vectors(small: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
    """The difference vectors of images `(N, C, 8, 8)`, by the statistics of known images."""
    scaled = small / scale[:, None, None]
    contrast = scaled.flatten(1).std(dim=1)
    return F.normalize(_differences(scaled) - mean, dim=1) * (contrast > LEAST_CONTRAST)[:, None]


def _hashes(parts: Iterable[Tensor], scale: Tensor, mean: Tensor) -> Tensor:
    """The perceptual hashes of images `(N, C, 8, 8)`, which come in parts: only 8 bytes are kept of each image."""
    # NumPy promises that this old generator draws the same numbers in all versions.
    directions = np.random.RandomState(0).standard_normal((len(mean), HASH_BITS)).astype(np.float32)
    products = (_vectors(part, scale, mean) @ torch.from_numpy(directions) for part in parts)
    return torch.cat([torch.from_numpy(np.packbits((part > 0).numpy(), axis=1)) for part in products])


def _signs(hashes: Tensor) -> Tensor:
    """The signs of hashes as vectors of length 1, `(N, 64)`; zeros for images without contrast."""
    bits = torch.from_numpy(np.unpackbits(hashes.numpy(), axis=1)).float()
    signs: Tensor = (2 * bits - 1) / HASH_BITS**0.5
    return signs * bits.amax(dim=1, keepdim=True)


def _differences(small: Tensor) -> Tensor:
    return torch.cat([small.diff(dim=2).flatten(1), small.diff(dim=3).flatten(1)], dim=1)


def _small(images: ImageStore, are_photos: bool) -> Tensor:
    """The images `(N, C, 8, 8)`, or their mean channel `(N, 1, 8, 8)` for photos; missing values are left out."""
    return torch.cat(list(_parts(images, are_photos)))


def _parts(images: ImageStore, are_photos: bool) -> Iterator[Tensor]:
    """Yields what `_small` returns in parts of a few megabytes of pixels."""
    values = images.images([]).shape[1:].numel()
    for rows in torch.arange(len(images)).split(max(1, MOST_VALUES // values)):
        pixels = images.images(rows)
        if pixels.dtype == torch.uint8:
            pixels = pixels / 255  # so that both kinds have the same units
        else:
            means = pixels.flatten(2).nanmean(dim=2).nan_to_num(0)[:, :, None, None]
            pixels = torch.where(pixels.isnan(), means, pixels)
        small = F.adaptive_avg_pool2d(pixels, GRID)
        yield small.mean(dim=1, keepdim=True) if are_photos else small


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
