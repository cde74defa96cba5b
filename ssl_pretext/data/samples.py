"""Patches of freely licensed photos, for a machine without data."""

import importlib.resources
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.store import ImageStore
from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = ["EXCLUDED_PHOTOS", "sample_photos"]

# All ship inside scikit-image and scikit-learn; public domain, CC0 or CC BY 2.0.
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

PATCH = 64  # side in pixels of the photo
STRIDE = 16
TEST_SHARE = 0.25  # of a photo's width, at its right-hand side
MOST = {"train": 150, "test": 40}


def sample_photos(split: str, *, image_size: int = 64) -> ImageStore:
    """Patches of ten photos, where a class is a photo: a stand-in that works offline.

    Patches of 64×64 pixels, resized to `image_size`; `"test"` ones come from the right-hand quarter of each photo,
    `"train"` ones from the rest, and no patch crosses the border.

    Args:
        split: `"train"` (up to 150 patches per photo) or `"test"` (up to 40).
        image_size: Side of the patches returned.

    Raises:
        ArgumentError: There is no such split.
        MissingDependencyError: scikit-image or scikit-learn is not installed.

    Examples:
        >>> store = sample_photos("test", image_size=32)
        >>> store.images([0]).shape, len(store.classes)
        (torch.Size([1, 3, 32, 32]), 10)
    """
    if split not in MOST:
        raise ArgumentError(f"sample_photos has the splits {' and '.join(MOST)}, got {split!r}")
    if image_size < 1:
        raise ArgumentError(f"image_size must be positive, got {image_size}")
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
    border = round((1 - TEST_SHARE) * width)
    first, end = (0, border) if split == "train" else (border, width)
    corners = [
        (top, left) for top in range(0, height - PATCH + 1, STRIDE) for left in range(first, end - PATCH + 1, STRIDE)
    ]
    count = min(MOST[split], len(corners))
    chosen = [corners[i * len(corners) // count] for i in range(count)]
    return [(f"{photo}/{top}-{left}", pixels[top : top + PATCH, left : left + PATCH]) for top, left in chosen]


@lru_cache
def load_photo(photo: str) -> npt.NDArray[np.uint8]:
    """One of `PHOTOS` as it is, RGB `(H, W, 3)`."""
    from PIL import Image

    package, file = PHOTOS[photo]
    try:
        path = Path(str(importlib.resources.files(package))) / file
    except ImportError as error:
        raise MissingDependencyError(
            "the sample photos ship with scikit-image and scikit-learn: pip install 'ssl-pretext[benchmarks]'"
        ) from error
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _resized(patch: npt.NDArray[np.uint8], image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    image = Image.fromarray(patch).resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels: npt.NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)
    return pixels
