"""Samples of datasets and loaders from elsewhere: where their images and targets are, and how both are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ssl_pretext.arguments import whole_number
from ssl_pretext.data.build import check_image_size
from ssl_pretext.data.decode import Decoded, decode_in_memory
from ssl_pretext.data.photo import upright_size
from ssl_pretext.errors import ArgumentError

__all__ = ["Key", "Sample", "Samples", "is_source", "target_array"]

Key = str | int


class Sample(NamedTuple):
    """A sample as its dataset returns it.

    Attributes:
        image: The image: a Pillow image, a tensor or an array.
        target: Its target, or None if there is none.
    """

    image: Any
    target: Any


@dataclass(frozen=True)
class Samples:
    """A dataset or loader from elsewhere, and where the images and targets are in its samples.

    A sample is an image, a tuple `(image, target)`, or a dict. An image is a Pillow image, which is read like a
    photograph in a file, or a tensor or an array `(C, H, W)` or `(H, W)`, whose values are kept as those of arrays in
    files are: sRGB is `uint8`, or floating in `[0, 1]`.

    `fit` and `evaluate` take datasets and loaders as they are; this class is for samples with other keys, and for
    images of different sizes.

    Attributes:
        source: A map-style or iterable PyTorch Dataset, a Hugging Face dataset, streaming or not, a DataLoader, or any
            other object with `__getitem__` and `__len__`, or with `__iter__`. Of a DataLoader, a batch is a tensor
            `(B, C, H, W)`, a pair of images and targets, a dict of both, or a list of samples that are dicts.
        image: Key or position of the image in a sample; by default `"image"` in a dict and 0 in a tuple.
        target: Key or position of the target; by default 1 in a tuple, and in a dict `"label"` (for masks `"mask"`,
            for maps `"map"`).
        image_size: The shortest side is resized to this number of pixels and the center is cropped, as those of files
            are; so are masks, where each pixel keeps the value that is nearest. By default, images keep their size,
            which must then be the same for all.

    Raises:
        ArgumentError: `source` is not a dataset or a loader, or the size is not positive or too large.

    Examples:
        >>> dataset = [{"img": torch.zeros(3, 4, 4), "fine_label": 7}]
        >>> Samples(dataset, image="img", target="fine_label").classes() is None
        True
    """

    source: Any
    image: Key | None = None
    target: Key | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if not is_source(self.source):
            raise _no_source_error(self.source)
        if self.image_size is not None:
            whole_number("image_size", self.image_size)
        check_image_size(self.image_size)

    @property
    def is_indexed(self) -> bool:
        """Whether a sample can be read by its position; otherwise all are read in the order of the source."""
        return not isinstance(self.source, DataLoader | IterableDataset) and _has(self.source, "__getitem__", "__len__")

    @property
    def name(self) -> str:
        """The class of the source, for messages."""
        return type(self.source).__name__

    @property
    def fingerprint(self) -> str | None:
        """The name that a Hugging Face dataset gives to its content; None for other sources."""
        found = getattr(self.source, "_fingerprint", None)
        return found if isinstance(found, str) and self.is_indexed else None

    def classes(self, target: Key = "label") -> list[str] | None:
        """The names of the classes if the dataset tells them: `classes`, or the names of a Hugging Face ClassLabel.

        A Subset or a DataLoader has those of its dataset.

        Args:
            target: Key of the target if this object names none.
        """
        source = self.source
        while isinstance(source, DataLoader | Subset):
            source = source.dataset
        features = getattr(source, "features", None)
        named = features.get(target if self.target is None else self.target) if isinstance(features, Mapping) else None
        found = getattr(named, "names", getattr(source, "classes", None))
        return [str(name) for name in found] if isinstance(found, Sequence) and not isinstance(found, str) else None

    def set_epoch(self, epoch: int) -> None:
        """Tells the parts of the source that shuffle by epoch which one is next."""
        source = self.source
        parts: list[Any] = [source, source.sampler, source.dataset] if isinstance(source, DataLoader) else [source]
        for part in parts:
            if _has(part, "set_epoch"):
                part.set_epoch(epoch)

    def read(self, start: int = 0, *, target: Key | None) -> Iterator[Sample]:
        """Yields the samples in order.

        Args:
            start: Position of the first one, for an indexed source.
            target: Key of the targets in dicts if this object names none; None reads no targets.

        Raises:
            ArgumentError: A sample has another form.
        """
        if self.is_indexed:
            for index in range(start, len(self.source)):
                yield self._split(self.source[index], target)
            return
        for given in self.source:
            yield from self.split_batch(given, target)

    def split_batch(self, given: Any, target: Key | None) -> list[Sample]:
        """Returns the samples of what an iterable source yields, which is a sample or a batch of samples."""
        if isinstance(given, list) and given and isinstance(given[0], Mapping):
            return [self._split(sample, target) for sample in given]
        images, targets = sample = self._split(given, target)
        if isinstance(images, Tensor | np.ndarray):
            if images.ndim != 4:
                return [sample]
        elif not isinstance(images, list):
            return [sample]
        if targets is None:
            return [Sample(image, None) for image in images]
        if len(targets) != len(images):
            raise ArgumentError(f"a batch of {self.name} has {len(images)} images and {len(targets)} targets")
        return [Sample(*pair) for pair in zip(images, targets, strict=True)]

    def decode(self, image: Any, position: int) -> Decoded:
        """Converts the image of a sample to pixels.

        Args:
            image: The image.
            position: Position of the sample, for messages.

        Raises:
            ArgumentError: The image has another form.
        """
        try:
            return decode_in_memory(image, self.image_size)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"the image of sample {position} of {self.name} cannot be used: {error}") from error

    def check_mask(self, image: Any, mask: npt.NDArray[Any], position: int) -> None:
        """Raises unless a mask `(1, H, W)` has the height and width of its image.

        Args:
            image: The image as the source returns it.
            mask: The mask.
            position: Position of the sample.
        """
        is_array = isinstance(image, Tensor | np.ndarray)
        height, width = image.shape[-2:] if is_array else upright_size(image)[::-1]
        if mask.shape[1:] != (height, width):
            raise ArgumentError(
                f"the mask of sample {position} of {self.name} has {mask.shape[1]}×{mask.shape[2]} pixels and its "
                f"image {height}×{width}; both are resized together, and must have one size"
            )

    def check_format(self, image: Decoded, position: int, first: Decoded | str) -> None:
        """Raises unless an image has the channels, dtype and size of the first one.

        Args:
            image: The image.
            position: Position of its sample.
            first: The first image, or the description of its format.
        """
        expected = first if isinstance(first, str) else first.description
        if image.description != expected:
            raise ArgumentError(
                f"sample {position} of {self.name} has {image.description}, but the first sample has {expected}; "
                "resize the images in the dataset, or pass Samples(dataset, image_size=...)"
            )

    def _split(self, sample: Any, target: Key | None) -> Sample:
        """Returns the image of a sample and its target, if `target` is not None."""
        if isinstance(sample, Mapping):
            known: Any = list(sample)
            keys: tuple[Key, Key | None] = (
                "image" if self.image is None else self.image,
                target if self.target is None else self.target,
            )
        elif isinstance(sample, tuple | list):
            keys = (0 if self.image is None else self.image, 1 if self.target is None else self.target)
            known = range(len(sample))
        else:
            return Sample(sample, None)
        image, given = keys
        if image not in known:
            raise ArgumentError(
                f"the samples of {self.name} have no image under {image!r}; they have {_listed(known)}. Name its key: "
                "Samples(dataset, image=...)"
            )
        if target is None or (self.target is None and given not in known):
            return Sample(sample[image], None)
        if given not in known:
            raise ArgumentError(
                f"the samples of {self.name} have no target under {given!r}; they have {_listed(known)}. Name its key: "
                "Samples(dataset, target=...)"
            )
        return Sample(sample[image], sample[given])


def is_source(data: Any) -> bool:
    """Whether an object is a dataset or a loader; strings, mappings, arrays and pairs of arrays are not."""
    if isinstance(data, str | bytes | Mapping | Tensor | np.ndarray | tuple):
        return False
    return _has(data, "__getitem__", "__len__") or _has(data, "__iter__")


def target_array(target: Any, position: int) -> npt.NDArray[Any]:
    """Converts a target to an array of three dimensions: `K` numbers `(K, 1, 1)`, a mask `(1, H, W)`, or `K` maps.

    Args:
        target: A number, a vector of numbers, a mask `(H, W)`, or maps `(K, H, W)`.
        position: Position of the sample, for messages.

    Raises:
        ArgumentError: The target has another form.
    """
    if isinstance(target, Tensor):
        target = target.detach().cpu()
        target = target.float() if target.dtype == torch.bfloat16 else target
    array = np.asarray(target)
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"the target of sample {position} must be one or several numbers, got {target!r:.80}")
    if array.ndim > 3:
        raise ArgumentError(
            f"the target of sample {position} must be a number, several numbers (K,), a mask (H, W) or maps (K, H, W), "
            f"got an array of shape {array.shape}"
        )
    shape = {0: (1, 1, 1), 1: (-1, 1, 1), 2: (1, *array.shape), 3: array.shape}[array.ndim]
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")).reshape(shape))


def _has(data: Any, *methods: str) -> bool:
    return all(hasattr(type(data), method) for method in methods)


def _listed(keys: Iterable[Key]) -> str:
    return ", ".join(map(repr, keys)) or "nothing"


def _no_source_error(source: Any) -> ArgumentError:
    if isinstance(source, Mapping):  # such as a DatasetDict
        return ArgumentError(
            f"a {type(source).__name__} of {_listed(source)} is not a dataset; pass one of its splits, such as "
            f"dataset[{next(iter(source), 'train')!r}]"
        )
    return ArgumentError(
        f"a dataset or a loader needs __getitem__ and __len__, or __iter__; got {type(source).__name__}"
    )
