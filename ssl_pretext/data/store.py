"""The image store: images of one size with labels, decoded once and memory-mapped from a single file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.data.build import StoreSpec, digest, open_or_build
from ssl_pretext.data.checksums import Checksums
from ssl_pretext.data.dataset_store import store_samples
from ssl_pretext.data.datasets import Key, Samples
from ssl_pretext.data.decode import stored_dtype
from ssl_pretext.data.integers import as_indices, as_labels
from ssl_pretext.data.listing import list_folder, list_food101
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import ArgumentError, DataError

__all__ = ["ImageStore", "store_of"]

MOST_CLASSES = 2**20  # larger whole numbers are not classes, such as the time of an image


class ImageStore:
    """Images of one size with their labels, in memory or memory-mapped.

    Stores are created by `from_folder`, `from_food101` or `from_arrays`. Pixels are `uint8` or `float32`; NaN marks
    missing values.

    Attributes:
        labels: Class of each image, int64 `(N,)`; -1 where it is unknown.
        classes: Names of the classes.
        names: Names of the images.
        skipped: Files that were skipped, as `{"name", "reason"}`.
        resize: Description of how the images were resized.
        targets: What else is known of the images, as `evaluate` takes it: a mapping from names to labels or numbers
            `(N,)`, or masks `(N, H, W)`; None if there is nothing.
        groups: Group of each image, such as its scene or patient, whose images belong on one side of a split.
        channel_names: Names of the channels, if the files have them.

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
        digests: Sequence[str] | Mapping[int, str] | None = None,
        checksums: Checksums | None = None,
        resize: str = "none",
        skipped: Sequence[dict[str, str]] = (),
        targets: Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        groups: Sequence[str] | None = None,
        channel_names: Sequence[str] | None = None,
    ) -> None:
        self._pixels, self._digests, self._checksums = pixels, digests, checksums
        self._rows = np.arange(len(pixels)) if rows is None else rows
        self.labels = torch.as_tensor(list(labels), dtype=torch.int64)
        self.classes, self.names = list(classes), list(names)
        self.resize, self.skipped, self.targets = resize, list(skipped), targets
        self.groups = None if groups is None else list(groups)
        self.channel_names = None if channel_names is None else list(channel_names)

    @classmethod
    def from_arrays(
        cls,
        images: Tensor | npt.NDArray[Any],
        labels: Tensor | npt.NDArray[Any] | Sequence[int] | None = None,
        *,
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> "ImageStore":
        """Creates a store from arrays in memory; `uint8` and `float32` are not copied, others become `float32`.

        Args:
            images: Images `(N, C, H, W)` with any number of channels, `uint8`, `int8`, `int16`, `uint16` or
                floating.
            labels: Class of each image, `(N,)`, counted from 0. By default, all images belong to the class
                `"unlabeled"`.
            classes: Names of the classes; by default their numbers.
            names: Names of the images; by default their numbers.

        Raises:
            ArgumentError: Shapes, lengths, dtypes or labels are invalid.
        """
        if isinstance(images, Tensor):
            images = images.detach().cpu()
            # Converted before numpy, which has no bfloat16.
            images = (images.float() if images.is_floating_point() else images).numpy()
        pixels = np.asarray(images)
        if pixels.ndim != 4 or 0 in pixels.shape[1:]:
            raise ArgumentError(f"from_arrays takes images (N, C, H, W), got shape {pixels.shape}")
        dtype = stored_dtype(pixels.dtype)
        if dtype is None:
            raise ArgumentError(f"from_arrays takes uint8, int8, int16, uint16 or floating images, got {pixels.dtype}")
        pixels = pixels.astype(dtype, copy=False)
        if labels is None:
            labels, classes = [0] * len(pixels), ["unlabeled"] if classes is None else classes
        chosen = as_labels(labels)
        highest = max(chosen, default=-1)
        classes = [str(i) for i in range(highest + 1)] if classes is None else list(classes)
        names = [str(i) for i in range(len(pixels))] if names is None else list(names)
        if not len(pixels) == len(chosen) == len(names):
            raise ArgumentError(f"from_arrays got {len(pixels)} images, {len(chosen)} labels and {len(names)} names")
        if highest >= len(classes) or min(chosen, default=0) < 0:
            allowed = f"from 0 to {len(classes) - 1}" if classes else "counted from 0"
            raise ArgumentError(f"labels must be {allowed}, got labels from {min(chosen)} to {highest}")
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
        """Opens the store of a folder of image files; the first call decodes the images, later calls reuse them.

        Photographs become sRGB in `uint8`, composited on white where they are transparent. `.npy` files, and TIFF and
        PNG files with more bits, bands or pages than a photograph, are read as arrays `(C, H, W)`, or `(H, W)` for one
        channel; the bands of a TIFF file, or its pages in gray, are its channels. `uint8` arrays remain `uint8`;
        `int8`, `int16`, `uint16` and floating arrays become `float32` with unscaled values. NaN, infinities and values
        that a TIFF file declares as no data (unless it is `uint8`) are missing and become NaN. Resizing excludes
        missing values from its averages; a resized pixel is missing if more than half of the pixels that are averaged
        in it, by weight, are missing.

        Args:
            folder: Folder of image files such as `CLASS/NAME.jpg`.
            image_size: The shortest side is resized to this number of pixels and the center is cropped. None keeps
                the size, which must then be the same for all images.
            channels: Number of channels of the images; 8-bit TIFF files are then read as arrays too. By default, the
                number is that of most images, and the tags of an 8-bit TIFF file say whether it is a photograph.
            labeled: Whether the subfolders are classes. False takes all images at any depth as one class.
            cache: Folder of the stores; by default `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext`.
            max_unreadable: Fraction of unreadable images above which an error is raised. Otherwise they are skipped,
                and `skipped` has the reasons.

        Raises:
            ArgumentError: A number is out of its range.
            DataError: There are no images or no classes, the subfolders are splits such as `train` and `test`, too many
                images cannot be read, or no format (channels, dtype and size) is shared by more than half of the
                images. If one is, other images are skipped.
            MissingDependencyError: A package that decodes an image is missing.
            ReadError: An image cannot be read for a reason that says nothing about it, such as a lack of memory. The
                next call continues with it.
        """
        listing = list_folder(folder, labeled=labeled)
        return cls._open(
            StoreSpec(
                listing=listing,
                reading=Reading(image_size=image_size, channels=channels),
                cache=cache,
                max_unreadable=max_unreadable,
            )
        )

    @classmethod
    def from_food101(
        cls, root: str | Path, split: str, *, image_size: int, cache: str | Path | None = None, download: bool = False
    ) -> "ImageStore":
        """Opens the store of Food-101's `"train"` or `"test"` split; see `from_folder` and `list_food101`.

        Args:
            root: The folder that contains `food-101/`, or the folder `food-101` itself.
            split: `"train"` or `"test"`.
            image_size: Height and width in pixels that images are resized and cropped to.
            cache: Folder of the stores; by default `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext`.
            download: Whether the data set (5 GB) is downloaded into `root` if it is missing.

        Raises:
            ArgumentError: There is no such split.
            DataError: The folder has another layout, or more than 1% of the images cannot be read.
        """
        # The limit is low because results on a different set of images are not comparable.
        listing = list_food101(root, split, download=download)
        reading = Reading(image_size=image_size)
        return cls._open(StoreSpec(listing=listing, reading=reading, cache=cache, max_unreadable=0.01))

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        image: Key | None = None,
        target: Key | None = None,
        image_size: int | None = None,
        labeled: bool = True,
        name: str | None = None,
        cache: str | Path | None = None,
    ) -> "ImageStore":
        """Reads the samples of a dataset or a loader once, one after another, and keeps them in a mapped file.

        Whole numbers as targets are classes, named after the dataset's `classes` or its ClassLabel; other targets
        (numbers, several numbers per image, masks) become `targets`. Random transforms of the dataset are applied
        once: each image is the same in every epoch.

        A dataset has no identity that is known here, so its store is deleted when this process no longer uses it,
        unless `name` is given. A Hugging Face dataset has one, its fingerprint. A named store is kept in the cache and
        opened by later calls, also of other processes, and a build that was killed continues at the image that it
        reached if the dataset is indexed. Under `torchrun`, each process stores a dataset without a name for itself.

        Args:
            dataset: The dataset or loader; see `Samples`.
            image: Key or position of the image in a sample; see `Samples`.
            target: Key or position of the target; see `Samples`.
            image_size: Number of pixels that images are resized and cropped to; see `Samples`.
            labeled: Whether the targets of the samples are stored, too.
            name: Name of the data set for which the store is kept. Data that has changed needs another name.
            cache: Folder of the stores; by default `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext`.

        Raises:
            ArgumentError: The samples have other keys, an image or a target has another form or size than that of the
                first sample, or there are none.
            StorageError: The disk has too little space for the store, or its folder is not writable.

        Examples:
            >>> dataset = [{"image": torch.zeros(3, 4, 4), "label": label} for label in (1, 0)]
            >>> ImageStore.from_dataset(dataset).labels
            tensor([1, 0])
        """
        samples = Samples(dataset, image, target, image_size)
        return store_of(samples, target="label" if labeled else None, name=name, cache=cache)

    @classmethod
    def _open(cls, spec: StoreSpec) -> "ImageStore":
        pixels, index, checksums = open_or_build(spec)
        fields = {key: index[key] for key in ("labels", "classes", "names", "digests", "resize", "skipped")}
        return cls(pixels, **fields, checksums=checksums)

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for pickle, without the images of other stores, and without pixels that a file has."""
        pixels, rows = self._pixels, self._rows
        if not isinstance(pixels, np.memmap) or pixels.filename is None:  # the file of a temporary store has no name
            in_memory = {"_pixels": pixels[rows], "_rows": np.arange(len(rows)), "_digests": None, "_checksums": None}
            return {**self.__dict__, **in_memory}
        mapped = {"filename": pixels.filename, "dtype": pixels.dtype, "offset": pixels.offset, "shape": pixels.shape}
        digests = self._digests and {row: self._digests[row] for row in rows.tolist()}
        return {**self.__dict__, "_pixels": mapped, "_digests": digests}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(mapped := state["_pixels"], dict):
            try:
                self._pixels = np.memmap(**mapped, mode="r")
            except (OSError, ValueError) as error:
                raise DataError(
                    f"the image store {mapped['filename']}, from which a store was pickled, cannot be opened here: "
                    f"{error}. Open the images again with the function that opened them first"
                ) from error

    def __repr__(self) -> str:
        shape = "×".join(map(str, self._pixels.shape[1:]))
        return f"<ImageStore: {len(self):,} images {shape} {self._pixels.dtype.name}, {len(self.classes)} classes>"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images([index])[0], int(self.labels[index])

    @property
    def image_size(self) -> int | tuple[int, int]:
        """The height and width of the images in pixels: one number if they are square, else `(H, W)`."""
        height, width = map(int, self._pixels.shape[2:])
        return height if height == width else (height, width)

    @property
    def num_channels(self) -> int:
        """The number of channels of the images."""
        return int(self._pixels.shape[1])

    @property
    def sha256(self) -> str:
        """A hash of the names, labels and pixels in order; for arrays in memory it is computed at each access."""
        lines = [f"{self._pixels.dtype.name}\t{self._pixels.shape[1:]}"]
        lines += map("{}\t{}\t{}".format, self.names, self.labels.tolist(), self.digests())
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def digests(self) -> list[str]:
        """Returns a hash of the pixels of each image; for arrays in memory they are computed at each call."""
        return [digest(self._pixels[row]) if self._digests is None else self._digests[row] for row in self._rows]

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Returns a copy of some or all images, `(n, C, H, W)` with the dtype of the store.

        Args:
            indices: Positions of the images, `(n,)`; all images by default.

        Raises:
            ArgumentError: The indices are not integers.
            DataError: An image of a store on disk has changed since it was written.
        """
        rows = self._rows if indices is None else self._rows[as_indices(indices)]
        if self._checksums is not None:
            self._checksums.check(self._pixels, rows)
        return torch.from_numpy(np.ascontiguousarray(self._pixels[rows]))

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageStore":
        """Returns a store of some of the images, which shares memory with this one.

        Args:
            indices: Positions of the images, `(n,)`.

        Raises:
            ArgumentError: The indices are not integers.
        """
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
            targets=_rows_of(self.targets, chosen),
            groups=None if self.groups is None else [self.groups[i] for i in chosen],
            channel_names=self.channel_names,
        )


def store_of(
    samples: Samples, *, target: Key | None, name: str | None = None, cache: str | Path | None = None
) -> ImageStore:
    """Stores samples of a dataset; see `ImageStore.from_dataset`.

    Args:
        samples: The samples.
        target: Key of the targets in dicts if `samples` names none; None stores no targets.
        name: Name of the data set for which the store is kept.
        cache: Folder of the stores.

    Raises:
        PretextError: As `ImageStore.from_dataset`.
    """
    stored = store_samples(samples, target=target, name=name, cache=cache)
    index, targets = stored.index, stored.targets
    labels, classes = index["labels"], index["classes"]
    are_classes = targets is not None and targets.ndim == 1 and targets.dtype.kind in "bui"
    if targets is not None and are_classes and targets.max() < MOST_CLASSES:
        known, lowest, highest = samples.classes(target or "label"), int(targets.min()), int(targets.max())
        labels, classes = targets.tolist(), known or [str(i) for i in range(highest + 1)]
        if highest >= len(classes) or lowest < -1:
            raise ArgumentError(
                f"the labels of {samples.name} must be classes from 0 to {len(classes) - 1}, or -1 where unknown; got "
                f"labels from {lowest} to {highest}"
            )
        targets = None
    return ImageStore(
        stored.pixels,
        labels,
        classes,
        index["names"],
        digests=index["digests"],
        checksums=stored.checksums,
        resize=index["resize"],
        targets=targets,
    )


def _rows_of(targets: Any, chosen: npt.NDArray[np.int64]) -> Any:
    if isinstance(targets, Mapping):
        return {name: column[chosen] for name, column in targets.items()}
    return None if targets is None else targets[chosen]
