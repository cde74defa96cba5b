"""Patches of freely licensed photos, as sample data for tests, tutorials and machines without a data set."""

import importlib.resources
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import as_rgb, open_photo
from ssl_pretext.data.store import ImageStore
from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = ["EXCLUDED_PHOTOS", "load_photo", "sample_photos"]

# All photos ship with scikit-image or scikit-learn and are in the public domain, CC0 or CC BY 2.0.
PHOTOS = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "chelsea": ("skimage.data", "chelsea.png"),
    "china": ("sklearn.datasets.images", "china.jpg"),
    "coffee": ("skimage.data", "coffee.png"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
    "hubble_deep_field": ("skimage.data", "hubble_deep_field.jpg"),
    "immunohistochemistry": ("skimage.data", "ihc.png"),
    "retina": ("skimage.data", "retina.jpg"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "stereo_motorcycle": ("skimage.data", "motorcycle_left.png"),
}
EXCLUDED_PHOTOS = ("coffee", "flower", "rocket")

PATCH = 64  # height and width of a patch in pixels of the photo
STRIDE = 16
TEST_FRACTION = 0.25  # of the width of each photo, at its right-hand side
MAX_PATCHES = {"train": 150, "test": 40}  # per photo


def sample_photos(split: str, *, image_size: int = 64) -> ImageStore:
    """Returns patches of ten photos, with each photo as a class: a small data set that works offline.

    Patches of 64×64 pixels are resized to `image_size`. The `"test"` patches come from the right-hand quarter of each
    photo and the `"train"` patches from the rest; no patch crosses the border.

    Args:
        split: `"train"` (up to 150 patches per photo) or `"test"` (up to 40).
        image_size: Height and width of the returned patches in pixels.

    Raises:
        ArgumentError: There is no such split, or the size is not positive.
        MissingDependencyError: scikit-image or scikit-learn is not installed.

    Examples:
        >>> store = sample_photos("test", image_size=32)
        >>> store.images([0]).shape, len(store.classes)
        (torch.Size([1, 3, 32, 32]), 10)
    """
    if split not in MAX_PATCHES:
        raise ArgumentError(f"sample_photos has the splits {' and '.join(MAX_PATCHES)}, got {split!r}")
    if image_size < 1:
        raise ArgumentError(f"image_size of sample_photos must be positive, got {image_size}")
    patches, labels, names = [], [], []
    for label, photo in enumerate(PHOTOS):
        for name, patch in _patches(photo, split):
            patches.append(_resized(patch, image_size))
            labels.append(label)
            names.append(name)
    store = ImageStore.from_arrays(np.stack(patches), labels, classes=list(PHOTOS), names=names)
    store.resize = f"{PATCH} px patches to {image_size} px (bilinear, antialiased)"
    return store


def _patches(photo: str, split: str) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    pixels = load_photo(photo)
    height, width = pixels.shape[:2]
    border = round((1 - TEST_FRACTION) * width)
    first, end = (0, border) if split == "train" else (border, width)
    corners = [
        (top, left) for top in range(0, height - PATCH + 1, STRIDE) for left in range(first, end - PATCH + 1, STRIDE)
    ]
    count = min(MAX_PATCHES[split], len(corners))
    chosen = [corners[i * len(corners) // count] for i in range(count)]
    return [(f"{photo}/{top}-{left}", pixels[top : top + PATCH, left : left + PATCH]) for top, left in chosen]


@lru_cache
def load_photo(photo: str) -> npt.NDArray[np.uint8]:
    """Reads one of `PHOTOS` at its full size, sRGB `(H, W, 3)`."""
    package, file = PHOTOS[photo]
    try:
        path = Path(str(importlib.resources.files(package))) / file
    except ImportError as error:
        raise MissingDependencyError(
            "the sample photos ship with scikit-image and scikit-learn: pip install 'ssl-pretext[benchmarks]'"
        ) from error
    with open_photo(path) as image:
        return np.asarray(as_rgb(image))


def _resized(patch: npt.NDArray[np.uint8], image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    image = Image.fromarray(patch).resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels: npt.NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)
    return pixels
