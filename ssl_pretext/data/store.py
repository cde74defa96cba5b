"""A decode-once image store: every image is decoded, resized and kept in one memory-mapped file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.data.build import StoreSpec, digest, open_or_build
from ssl_pretext.data.checksums import Checksums
from ssl_pretext.data.decode import stored_dtype
from ssl_pretext.data.integers import as_indices, as_labels
from ssl_pretext.data.listing import list_folder, list_food101
from ssl_pretext.errors import ArgumentError

__all__ = ["ImageStore"]


class ImageStore:
    """Images of one size with their labels, in memory or memory-mapped.

    Made by `from_folder`, `from_food101` or `from_arrays`. Pixels are `uint8` or `float32`; NaN marks missing values.

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
        digests: Sequence[str] | None = None,
        checksums: Checksums | None = None,
        resize: str = "none",
        skipped: Sequence[dict[str, str]] = (),
    ) -> None:
        self._pixels, self._digests, self._checksums = pixels, digests, checksums
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
        """A store of arrays in memory; `uint8` and `float32` ones are not copied, others become `float32`.

        Args:
            images: `uint8`, `uint16`, `int16` or floating, `(N, C, H, W)` with any number of channels.
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
        if pixels.ndim != 4 or 0 in pixels.shape[1:]:
            raise ArgumentError(f"from_arrays takes images (N, C, H, W), got shape {pixels.shape}")
        dtype = stored_dtype(pixels.dtype)
        if dtype is None:
            raise ArgumentError(f"from_arrays takes uint8, uint16, int16 or floating images, got {pixels.dtype}")
        pixels = pixels.astype(dtype, copy=False)
        chosen = as_labels(labels)
        highest = max(chosen, default=-1)
        classes = [str(i) for i in range(highest + 1)] if classes is None else list(classes)
        names = [str(i) for i in range(len(pixels))] if names is None else list(names)
        if not len(pixels) == len(chosen) == len(names):
            raise ArgumentError(f"from_arrays got {len(pixels)} images, {len(chosen)} labels and {len(names)} names")
        if highest >= len(classes) or min(chosen, default=0) < 0:
            known = f"below the {len(classes)} classes and not negative" if classes else "counted from 0"
            raise ArgumentError(f"labels must be {known}, got {min(chosen)} to {highest}")
        return cls(pixels, chosen, classes, names)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        image_size: int | None,
        channels: int | None = None,
        labeled: bool = True,
        cache: str | Path | None = None,
        max_unreadable: float = 0.9,
    ) -> "ImageStore":
        """A store of a folder of image files; decoded on the first call, reopened afterward.

        Photographs become RGB in `uint8`. `.npy` files and TIFF files with more than 8 bits per sample, or more bands
        than a photograph has, are arrays: `(C, H, W)`, or `(H, W)` for one channel; the bands or pages of a TIFF file
        are its channels. Arrays of `uint8` stay so; `uint16`, `int16` and floating ones become `float32` with their
        values unscaled. NaN, infinities and what a TIFF file declares as no data (unless it is `uint8`) are missing:
        NaN, left out when pixels are averaged, so that one is missing if more than half of what it is made of is.

        Args:
            folder: Holds `CLASS/NAME.jpg` and the like.
            image_size: The shortest side is resized to it, and the center cut out. None keeps the size, which must
                then be the same for all.
            channels: How many the images have; 8-bit TIFF files are then arrays too. If left out, most images
                decide, and 8-bit TIFF files that Pillow can read are photographs.
            labeled: False takes all images at any depth, as one class.
            cache: Where stores are kept; `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext` if left out.
            max_unreadable: Share of the images above which a folder is refused. Up to it, those that cannot be read
                are left out, and `skipped` says why.

        Raises:
            DataError: There are no images or no classes, too many cannot be read, or no more than half of them agree
                in channels and kind of number. The few others among many are left out too.
        """
        listing = list_folder(folder, labeled=labeled)
        return cls._open(
            StoreSpec(
                listing=listing, image_size=image_size, channels=channels, cache=cache, max_unreadable=max_unreadable
            )
        )

    @classmethod
    def from_food101(
        cls, root: str | Path, split: str, *, image_size: int, cache: str | Path | None = None, download: bool = False
    ) -> "ImageStore":
        """A store of Food-101's `"train"` or `"test"` split; see `from_folder` and `list_food101`.

        Raises:
            DataError: The folder is laid out otherwise, or more than 1% of the images cannot be read.
        """
        # Few, since figures of another set of images are not to be compared.
        listing = list_food101(root, split, download=download)
        return cls._open(StoreSpec(listing=listing, image_size=image_size, cache=cache, max_unreadable=0.01))

    @classmethod
    def _open(cls, spec: StoreSpec) -> "ImageStore":
        pixels, index, checksums = open_or_build(spec)
        kept = {key: index[key] for key in ("labels", "classes", "names", "digests", "resize", "skipped")}
        return cls(pixels, **kept, checksums=checksums)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self._pixels.shape[1:]))
        return f"<ImageStore: {len(self):,} images {shape} {self._pixels.dtype.name}, {len(self.classes)} classes>"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images([index])[0], int(self.labels[index])

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the images in pixels, or `(H, W)` if they are not square."""
        height, width = map(int, self._pixels.shape[2:])
        return height if height == width else (height, width)

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return int(self._pixels.shape[1])

    @property
    def sha256(self) -> str:
        """A hash of names, labels and pixels in order; of arrays in memory it is taken anew each time."""
        lines = [f"{self._pixels.dtype.name}\t{self._pixels.shape[1:]}"]
        lines += map("{}\t{}\t{}".format, self.names, self.labels.tolist(), self.digests())
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def digests(self) -> list[str]:
        """A hash of the pixels of each image; of arrays in memory they are taken anew each time."""
        return [digest(self._pixels[row]) if self._digests is None else self._digests[row] for row in self._rows]

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Images `(n, C, H, W)` as they are stored, copied out; all of them without `indices`.

        Raises:
            DataError: One of a store on disk has changed since it was written.
        """
        rows = self._rows if indices is None else self._rows[as_indices(indices)]
        if self._checksums is not None:
            self._checksums.check(self._pixels, rows)
        return torch.from_numpy(np.ascontiguousarray(self._pixels[rows]))

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageStore":
        """Some of the images, sharing the memory."""
        chosen = as_indices(indices)
        return ImageStore(
            self._pixels,
            self.labels[torch.from_numpy(chosen)].tolist(),
            self.classes,
            [self.names[i] for i in chosen],
            rows=self._rows[chosen],
            digests=self._digests,
            checksums=self._checksums,
            resize=self.resize,
            skipped=self.skipped,
        )
