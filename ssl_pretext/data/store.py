"""A decode-once image store: every image is decoded, resized and kept as `uint8` in one memory-mapped file."""

import hashlib
import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.config import read_json, write_json
from ssl_pretext.data.scan import Listing, list_folder, list_food101
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError, MissingFileError, PretextError

__all__ = ["ImageStore", "as_store"]

FORMAT = 1
IMAGES_FILE, INDEX_FILE = "images.u8", "index.json"
CHUNK = 1024  # images in flight while building, so that memory does not grow with their number
TOLERATED = 0.01  # share of unreadable images above which a folder is refused


class ImageStore:
    """Images of one size with their labels, in memory or memory-mapped.

    Made by `from_folder`, `from_food101` or `from_arrays`.

    Attributes:
        labels: Classes, int64 `(N,)`.
        classes: Names of the classes.
        names: Names of the images.
        skipped: Unreadable files, `{"name", "reason"}` each.
        resize: How the images were resized.

    Examples:
        >>> store = ImageStore.from_arrays(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 0, 1, 1])
        >>> len(store.subset([0, 3])), store.image_size
        (2, 8)
    """

    def __init__(
        self,
        pixels: npt.NDArray[Any],
        labels: Sequence[int],
        classes: Sequence[str],
        names: Sequence[str],
        *,
        rows: npt.NDArray[np.int64] | None = None,
        resize: str = "none",
        skipped: Sequence[dict[str, str]] = (),
    ) -> None:
        self._pixels = pixels
        self._rows = np.arange(len(pixels)) if rows is None else rows
        self.labels = torch.as_tensor(list(labels), dtype=torch.int64)
        self.classes, self.names = list(classes), list(names)
        self.resize, self.skipped = resize, list(skipped)

    @classmethod
    def from_arrays(
        cls,
        images: Tensor | npt.NDArray[Any],
        labels: Tensor | npt.NDArray[Any] | Sequence[int],
        *,
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> "ImageStore":
        """A store of arrays in memory; `uint8` and `float32` ones are not copied, other floats become `float32`.

        Args:
            images: `uint8` or floating, `(N, C, H, W)` with any number of channels.
            labels: N classes, counted from 0.
            classes: Their names; numbers if left out.
            names: Of the images; numbers if left out.

        Raises:
            ArgumentError: Shapes, lengths or labels do not fit together.
        """
        if isinstance(images, Tensor):
            images = images.detach().cpu()
            # Before numpy, which has no bfloat16.
            images = (images.float() if images.is_floating_point() else images).numpy()
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
            raise ArgumentError(f"from_arrays takes square images (N, C, H, H), got shape {pixels.shape}")
        if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
            raise ArgumentError(f"from_arrays takes uint8 or floating images, got {pixels.dtype}")
        if pixels.dtype != np.uint8:
            pixels = pixels.astype(np.float32, copy=False)
        chosen = _as_labels(labels)
        highest = max(chosen, default=-1)
        classes = [str(i) for i in range(highest + 1)] if classes is None else list(classes)
        names = [str(i) for i in range(len(pixels))] if names is None else list(names)
        if not len(pixels) == len(chosen) == len(names):
            raise ArgumentError(f"from_arrays got {len(pixels)} images, {len(chosen)} labels and {len(names)} names")
        if highest >= len(classes) or min(chosen, default=0) < 0:
            raise ArgumentError(f"labels must lie in 0..{len(classes) - 1}, got {min(chosen)}..{highest}")
        return cls(pixels, chosen, classes, names)

    @classmethod
    def from_folder(cls, folder: str | Path, *, image_size: int, cache: str | Path | None = None) -> "ImageStore":
        """A store of a folder with one folder of images per class; decoded on the first call, reopened afterwards.

        Args:
            folder: Holds `CLASS/NAME.jpg` and the like.
            image_size: The shortest side is resized to it, and the centre cut out.
            cache: Where stores are kept; `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext` if left out.

        Raises:
            DataError: There are no images, or more than 1% of them cannot be read.
        """
        return _open_or_build(list_folder(folder), image_size, cache)

    @classmethod
    def from_food101(
        cls, root: str | Path, split: str, *, image_size: int, cache: str | Path | None = None, download: bool = False
    ) -> "ImageStore":
        """A store of Food-101's `"train"` or `"test"` split; see `from_folder` and `list_food101`."""
        return _open_or_build(list_food101(root, split, download=download), image_size, cache)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images([index])[0], int(self.labels[index])

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self._pixels.shape[-1])

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return int(self._pixels.shape[1])

    @property
    def sha256(self) -> str:
        """A hash of names and labels in order."""
        lines = (f"{name}\t{label}" for name, label in zip(self.names, self.labels.tolist(), strict=True))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Images `(n, C, H, W)` as they are stored, copied out; all of them without `indices`."""
        rows = self._rows if indices is None else self._rows[_as_indices(indices)]
        return torch.from_numpy(np.ascontiguousarray(self._pixels[rows]))

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageStore":
        """Some of the images, sharing the memory."""
        chosen = _as_indices(indices)
        names = [self.names[i] for i in chosen]
        labels = self.labels[torch.from_numpy(chosen)].tolist()
        rows = self._rows[chosen]
        return ImageStore(
            self._pixels, labels, self.classes, names, rows=rows, resize=self.resize, skipped=self.skipped
        )


def as_store(data: Any) -> ImageStore:
    """An image store of what `evaluate` accepts: a store, `(images, labels)`, or a Dataset of `(image, label)`.

    Raises:
        ArgumentError: It is none of the three.
    """
    if isinstance(data, ImageStore):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return ImageStore.from_arrays(*data)
    # Texts, mappings and bare arrays have a length and items too, but their items are no samples.
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if sized and not isinstance(data, str | bytes | Mapping | Tensor | np.ndarray) and len(data) > 0:
        samples = [data[index] for index in range(len(data))]
        if all(isinstance(sample, tuple | list) and len(sample) == 2 for sample in samples):
            return _collect(samples, getattr(data, "classes", None))
    raise ArgumentError(
        "images and labels come as an ImageStore, a non-empty Dataset of (image, label), or a pair (uint8 images "
        f"(N, C, H, W), labels (N,)); got {type(data).__name__}"
    )


def _collect(samples: Sequence[Any], classes: Sequence[str] | None) -> ImageStore:
    from PIL import Image

    tensors = []
    for image, _ in samples:
        if not isinstance(image, Tensor | Image.Image):
            raise ArgumentError(f"the images of a data set are PIL images or tensors, got {type(image).__name__}")
        tensors.append(image if isinstance(image, Tensor) else torch.from_numpy(_channels_first(image)))
    if len({(tensor.shape, tensor.dtype) for tensor in tensors}) > 1:
        raise ArgumentError("the images of the data set differ in size or dtype; bring them to one first")
    return ImageStore.from_arrays(torch.stack(tensors), [label for _, label in samples], classes=classes)


def _as_labels(labels: Tensor | npt.NDArray[Any] | Sequence[int]) -> list[int]:
    try:
        # `operator.index` refuses 0.5, where `int` would make it class 0.
        return [operator.index(x) for x in (labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels)]
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"labels are whole numbers, one per image; got others ({error})") from error


def _as_indices(indices: Sequence[int] | Tensor) -> npt.NDArray[np.int64]:
    chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        # A mask cast to integers would quietly choose images 0 and 1, over and over.
        raise ArgumentError(
            f"indices are a list of whole numbers, got {chosen.dtype} of shape {chosen.shape}; "
            "a mask becomes indices by mask.nonzero().flatten()"
        )
    return chosen.astype(np.int64)


def default_cache() -> Path:
    """Where decoded images are kept unless a call says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SSL_PRETEXT_CACHE") or Path(home) / "ssl_pretext")


def _open_or_build(listing: Listing, image_size: int, cache: str | Path | None) -> ImageStore:
    if image_size < 1:
        raise ArgumentError(f"image_size must be positive, got {image_size}")
    rule = f"shortest side to {image_size} px (bilinear, antialiased), centre crop"
    key = hashlib.sha256(f"{FORMAT} {rule} {listing.fingerprint()}".encode()).hexdigest()[:24]
    folder = Path(cache or default_cache()) / key
    if not folder.exists():  # it appears whole, by renaming
        _build(listing, image_size, rule, folder)
    return _open(folder, image_size)


def _open(folder: Path, image_size: int) -> ImageStore:
    damaged = f"the image store {folder} is damaged; delete that folder, and it will be built again"
    try:
        index, file = read_json(folder / INDEX_FILE), folder / IMAGES_FILE
        shape = (len(index["labels"]), 3, image_size, image_size)
    except (CheckpointError, MissingFileError, KeyError, TypeError) as error:
        raise DataError(f"{damaged} ({error})") from error
    if not file.exists() or file.stat().st_size != np.prod(shape):
        raise DataError(damaged)
    pixels = np.memmap(file, np.uint8, "r", shape=shape)
    return ImageStore(
        pixels, index["labels"], index["classes"], index["names"], resize=index["resize"], skipped=index["skipped"]
    )


def _build(listing: Listing, image_size: int, rule: str, folder: Path) -> None:
    """Decodes every image into a folder beside, and renames it when it is whole."""
    from tqdm import tqdm

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    decode = _decoder(image_size)
    skipped: list[dict[str, str]] = []
    kept: list[int] = []
    try:
        # Threads: Pillow decodes and resizes without Python's lock.
        with (
            (part / IMAGES_FILE).open("wb") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(total=len(listing.paths), desc="decoding images", unit="img", disable=None) as bar,
        ):
            for start in range(0, len(listing.paths), CHUNK):
                chunk = range(start, min(start + CHUNK, len(listing.paths)))
                for i, result in zip(chunk, pool.map(decode, (listing.paths[i] for i in chunk)), strict=True):
                    if isinstance(result, str):
                        skipped.append({"name": listing.names[i], "reason": result})
                    else:
                        kept.append(i)
                        file.write(result.tobytes())
                bar.update(len(chunk))
        if len(skipped) > TOLERATED * len(listing.paths):
            shown = "; ".join(f"{item['name']}: {item['reason']}" for item in skipped[:3])
            raise DataError(
                f"{len(skipped)} of {len(listing.paths)} images cannot be read, more than {TOLERATED:.0%}: {shown}. "
                "Mend or remove them."
            )
        index = {
            "format": FORMAT,
            "resize": rule,
            "classes": listing.classes,
            "labels": [listing.labels[i] for i in kept],
            "names": [listing.names[i] for i in kept],
            "skipped": skipped,
        }
        write_json(part / INDEX_FILE, index)
        try:
            part.replace(folder)
        except OSError:
            if not (folder / INDEX_FILE).exists():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _decoder(image_size: int) -> "Callable[[Path], npt.NDArray[np.uint8] | str]":
    """A function from a file to its pixels `(3, S, S)`, or to the reason why there are none."""
    from PIL import Image, ImageOps
    from torchvision.transforms import functional as F

    def decode(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
            return _channels_first(F.center_crop(F.resize(image, image_size), image_size))
        except PretextError:
            raise
        except Exception as error:  # Pillow raises nearly anything on a broken file
            return f"{type(error).__name__}: {error}"

    return decode


def _channels_first(image: Any) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(cast(Any, image).convert("RGB"), dtype=np.uint8).transpose(2, 0, 1))
