"""The image store: images of one size with labels, decoded once and memory-mapped from a single file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Unpack

from ssl_pretext.data.build import StoreSpec, digest, open_or_build
from ssl_pretext.data.checksums import Checksums
from ssl_pretext.data.dataset_store import store_samples
from ssl_pretext.data.datasets import Key, Samples
from ssl_pretext.data.decode import fitting_integers, stored_dtype
from ssl_pretext.data.folder_options import FolderOptions, list_images, reading_of, spec_of
from ssl_pretext.data.integers import as_indices, as_labels
from ssl_pretext.data.listing import list_food101
from ssl_pretext.data.mask_files import list_masks, read_masks
from ssl_pretext.data.preview import preview
from ssl_pretext.data.readers.base import are_channels_last
from ssl_pretext.data.sources import Reading
from ssl_pretext.data.splits import Role, holdout_split, stated_split
from ssl_pretext.data.tables import Table, read_table
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.system.notebook import html_picture, html_table

__all__ = ["ImageStore", "store_of"]

MOST_CLASSES = 2**20  # larger whole numbers are not classes, such as the time of an image
PREVIEWS = 8  # pictures, and classes, that a notebook shows


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
            `(N,)`, masks `(N, H, W)`, or maps `(N, K, H, W)`; None if there is nothing.
        groups: Group of each image, such as its scene or patient, whose images belong on one side of a split.
        splits: What each image is for, `"train"`, `"val"` or `"test"`, if a table says so.
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
        splits: Sequence[Role] | None = None,
        channel_names: Sequence[str] | None = None,
    ) -> None:
        self._pixels, self._digests, self._checksums = pixels, digests, checksums
        self._rows = np.arange(len(pixels)) if rows is None else rows
        self.labels = torch.as_tensor(list(labels), dtype=torch.int64)
        self.classes, self.names = list(classes), list(names)
        self.resize, self.skipped, self.targets = resize, list(skipped), targets
        self.groups = None if groups is None else list(groups)
        self.splits = None if splits is None else list(splits)
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
        pixels = fitting_integers(np.asarray(images))
        if pixels.ndim != 4 or 0 in pixels.shape[1:]:
            raise ArgumentError(f"from_arrays takes images (N, C, H, W), got shape {pixels.shape}")
        if are_channels_last(pixels.shape[1:]):
            raise ArgumentError(
                f"from_arrays takes images (N, C, H, W), and the channels of shape {pixels.shape} seem to be last; "
                "pass images.transpose(0, 3, 1, 2)"
            )
        dtype = stored_dtype(pixels.dtype)
        if dtype is None:
            raise ArgumentError(
                "from_arrays takes uint8, int8, int16, uint16 or floating images, or integers up to 2²⁴, got "
                f"{pixels.dtype}"
            )
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
        labeled: bool = True,
        group: str | None = None,
        **options: Unpack[FolderOptions],
    ) -> "ImageStore":
        """Opens the store of a folder of image files; the first call decodes the images, later calls reuse them.

        Photographs become sRGB in `uint8`, composited on white where they are transparent. `.npy` files, and TIFF and
        PNG files with more bits, bands or pages than a photograph, are read as arrays `(C, H, W)`, or `(H, W)` for one
        channel; the bands of a TIFF file, or its pages in gray, are its channels. `register_reader` names the other
        formats. `uint8` arrays remain `uint8`; `int8`, `int16`, `uint16` and floating arrays become `float32` with
        unscaled values, unless the file has a scale. NaN, infinities and values that a file declares as no data (unless
        it is `uint8`) are missing and become NaN. Resizing excludes missing values from its averages; a resized pixel
        is missing if more than half of the pixels that are averaged in it, by weight, are missing.

        Args:
            folder: Folder of image files such as `CLASS/NAME.jpg`.
            image_size: The shortest side is resized to this number of pixels and the center is cropped. None keeps
                the size, which must then be the same for all images.
            labeled: Whether the subfolders are classes. False takes all images at any depth as one class.
            group: Part of the pattern that is the group of an image, in place of a part with this name.
            options: How the files become images, and where they are stored; see `FolderOptions`.

        Raises:
            ArgumentError: A number is out of its range, the pattern is malformed, `stride` is given without `tile`, or
                the reader does not take its options.
            UnknownNameError: There is no such reader.
            DataError: There are no images or no classes, the subfolders are splits such as `train` and `test`, too many
                images cannot be read, or no format (channels, dtype and size) is shared by more than half of the
                images. If one is, other images are skipped.
            MissingDependencyError: A package that decodes an image is missing.
            ReadError: An image cannot be read for a reason that says nothing about it, such as a lack of memory. The
                next call continues with it.
        """
        reading = reading_of("from_folder", image_size, options)
        listing = list_images(folder, options, labeled=labeled, group=group)
        return cls._open(spec_of(listing, reading, options), options)[0]

    @classmethod
    def from_table(
        cls,
        table: str | Path | Mapping[str, Sequence[Any]] | Table,
        folder: str | Path,
        *,
        image_size: int | None,
        target: str = "class",
        columns: Mapping[str, str | Sequence[str]] | None = None,
        **options: Unpack[FolderOptions],
    ) -> "ImageStore":
        """Opens the store of the images that a table names, with the labels, groups and splits that it states.

        The table has one row per image and these columns, of which the first two are needed:

        - `file`: the path of the image relative to the folder. The suffix may be left out, and the folders in it, if
          that is not ambiguous. With a pattern it may also be the name of the image.
        - `label`: the class, any text or number. For `target="numbers"` a number, and for `target="labels"` the names
          of all labels that apply, separated by `|` or `;`. Several columns of numbers, or of 0 and 1, can be named.
        - `group`: the scene, patient or plate, whose images belong on one side of a split.
        - `split`: `train`, `val` or `test`; see `split`.

        A class, label or number that is empty is unknown: `evaluate` leaves images out of which nothing is known. The
        images are decoded once for each set of files, whatever the table says of them.

        Args:
            table: Path of a CSV or Parquet file; a DataFrame or another mapping from names of columns to values; or the
                result of `ssl_pretext.data.tables.read_table`, whose target and columns then count.
            folder: Folder of the image files, which may be in subfolders.
            image_size: Height and width of the images in pixels; see `from_folder`.
            target: What the labels are: `"class"`, `"labels"` (several per image) or `"numbers"`, as for `evaluate`.
                Labels and numbers are in `targets`.
            columns: Names of the columns that have other names, such as `{"file": "image_id", "label": "diagnosis"}`;
                `"label"` may name several. By default, the column `labels` is used if there is no column `label`.
            options: How the files become images, and where they are stored; see `FolderOptions`. What the table says of
                a file holds for all its tiles.

        Raises:
            ArgumentError: The target or a column is unknown.
            DataError: The table names files that the folder does not have, or contradicts itself, a label does not fit
                the target, or the images cannot be read, as in `from_folder`.
            MissingDependencyError: A package that reads the table or an image is missing.
            MissingFileError: The file of the table does not exist.

        Examples:
            >>> import tempfile, numpy as np
            >>> folder = Path(tempfile.mkdtemp())
            >>> for name in "abc":
            ...     np.save(folder / f"{name}.npy", np.zeros((3, 8, 8), np.uint8))
            >>> table = {"file": ["a", "b", "c"], "label": ["cat", "dog", "cat"], "split": ["train", "train", "test"]}
            >>> train, test = ImageStore.from_table(table, folder, image_size=8, cache=folder / "cache").split()
            >>> train.classes, train.names, test.names
            (['cat', 'dog'], ['a.npy', 'b.npy'], ['c.npy'])
        """
        reading = reading_of("from_table", image_size, options)
        labels = table if isinstance(table, Table) else read_table(table, columns, target)
        if labels.target != "class" and options.get("masks") is not None:
            raise ArgumentError(
                f"a store has masks or the {labels.target} of a table, not both; leave masks or target out"
            )
        listing = list_images(folder, options, labeled=None)
        chosen, notes = labels.find(listing)
        store, rows = cls._open(spec_of(listing.subset(chosen), reading, options), options)
        known = notes.subset(rows)
        store.labels, store.classes = torch.tensor(known.labels), known.classes
        store.targets, store.splits = known.targets or store.targets, known.splits
        store.groups = known.groups or store.groups
        return store

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
        return cls._open(StoreSpec(listing=listing, reading=reading, cache=cache, max_unreadable=0.01))[0]

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

        Whole numbers as targets are classes, named after the dataset's `classes` or its ClassLabel, and so are texts,
        which are the names of their classes; other targets (numbers, several numbers per image, masks) become
        `targets`. Random transforms of the dataset are applied once: each image is the same in every epoch.

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
    def _open(cls, spec: StoreSpec, options: FolderOptions | None = None) -> tuple["ImageStore", list[int]]:
        """Opens a store with the masks of its images; also returns the row of each image in the listing of files."""
        pattern, masks = (options or {}).get("pattern"), (options or {}).get("masks")
        listed = list_masks(spec.listing, pattern, masks) if pattern and masks else None
        pixels, index, checksums = open_or_build(spec)
        listing, rows = spec.listing, index["rows"]
        groups = listing.groups
        if groups is None and len({*rows}) < len(rows):
            groups = listing.names  # images of one file belong on one side of a split
        kept = ("labels", "classes", "names", "digests", "resize", "skipped", "channel_names")
        fields = {key: index[key] for key in kept}
        store = cls(pixels, **fields, checksums=checksums, groups=groups and [groups[row] for row in rows])
        if listed is not None:
            store.targets, unread = read_masks(store.names, listed, spec)
            store.skipped += unread
        return store, rows

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

    def _repr_html_(self) -> str:
        size = "×".join(map(str, self._pixels.shape[2:]))
        row = {"images": f"{len(self):,}", "size": size, "channels": self.num_channels, "dtype": self._pixels.dtype}
        shown = range(min(PREVIEWS, len(self)))
        pictures = (html_picture(preview(self.images([i])[0]), self.names[i]) for i in shown)
        return html_table([row | {"classes": ", ".join(self.classes[:PREVIEWS])}]) + " ".join(pictures)

    @property
    def are_photos(self) -> bool:
        """Whether the images have three channels of 8 bits, as photos have."""
        return self.num_channels == 3 and self._pixels.dtype == np.uint8

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
            splits=None if self.splits is None else [self.splits[i] for i in chosen],
            channel_names=self.channel_names,
        )

    def split(
        self, fraction: float | None = None, *, groups: Sequence[str] | None = None, seed: int = 0
    ) -> tuple["ImageStore", "ImageStore"]:
        """Splits the images into those for training and those for testing; see `holdout_split`.

        Args:
            fraction: Fraction of each class that is held out for testing. By default, the split that a table states,
                or a tenth if there is none. Of a table that states `train`, `val` and `test`, the images of `val` are
                left out, since probes select their settings on training images; without `test`, they are the test
                images.
            groups: Group of each image, which is never on both sides; by default `self.groups`.
            seed: Seed of the split.

        Raises:
            ArgumentError: The fraction is not between 0 and 1, no group can be held out, or a stated split has no
                images on one side.

        Examples:
            >>> store = ImageStore.from_arrays(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), [0, 1] * 10)
            >>> [len(part) for part in store.split(0.3)]
            [14, 6]
        """
        groups = self.groups if groups is None else groups
        if fraction is None and self.splits is not None:
            sides = stated_split(self.splits, groups)
        else:
            sides = holdout_split(
                self.names, self.labels, groups=groups, fraction=0.1 if fraction is None else fraction, seed=seed
            )
        kept, held_out = sides
        return self.subset(kept), self.subset(held_out)


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
    if targets is not None and stored.names:
        given = samples.classes(target or "label") or []
        classes = given if {*stored.names} <= {*given} else sorted(stored.names)
        places = np.array([classes.index(name) for name in stored.names])
        labels, targets = places[targets].tolist(), None
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
