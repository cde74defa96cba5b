"""Embeddings: a feature vector for each image, with its name and its label, computed block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_pretext.data import ImageStore, ImageStream, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import Representation
from ssl_pretext.representations.extraction import Formats, extract_features
from ssl_pretext.representations.feature_files import FeatureBlock, read_features, write_features
from ssl_pretext.representations.feature_formats import FeatureFormats
from ssl_pretext.system.compute_format import CONTIGUOUS, FLOAT32
from ssl_pretext.system.devices import resolve_device

__all__ = ["Block", "Embeddings", "blocks_of", "embed", "embed_block"]

BLOCK = 1024  # images that are embedded at a time
Block = range | str  # positions of images in a store, or a shard of a stream


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A feature vector for each image, with its name and perhaps its label.

    Attributes:
        features: The features `(N, F)`, float32.
        names: Names of the images, such as paths relative to their folder.
        labels: Label of each image, or None if the images have none. An unknown label is empty.

    Examples:
        >>> import tempfile
        >>> found = Embeddings(np.zeros((2, 3), np.float32), ["a.jpg", "b.jpg"], ["cat", "dog"])
        >>> path = Path(tempfile.mkdtemp()) / "features.npy"
        >>> found.save(path)
        >>> Embeddings.load(path)
        <Embeddings: 2 images, 3 features, 2 labels>
    """

    features: NDArray[np.float32]
    names: list[str]
    labels: list[str] | None = None

    def __repr__(self) -> str:
        labels = "" if self.labels is None else f", {len({*self.labels})} labels"
        return f"<Embeddings: {len(self):,} images, {self.features.shape[1]:,} features{labels}>"

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: str | Path) -> None:
        """Writes the embeddings to a file whose suffix selects the format: `.npy`, `.parquet` or `.h5`.

        An `.npy` file holds the features alone; the names and labels are in a table beside it, which ends in
        `.names.csv`. The other files have the columns or data sets `file`, `label` and `features`.

        Raises:
            ArgumentError: The file has another suffix.
            MissingDependencyError: pyarrow or h5py, which write `.parquet` and `.h5`, is not installed.
            StorageError: The file cannot be written.
        """
        count, width = self.features.shape
        block = FeatureBlock(self.features, self.names, self.labels)
        write_features(Path(path), [block], count=count, width=width, labeled=self.labels is not None)

    @classmethod
    def load(cls, path: str | Path) -> "Embeddings":
        """Reads a file that `save` or `ssl-pretext embed` wrote; the features of an `.npy` file are memory-mapped.

        Raises:
            ArgumentError: The file has another suffix.
            MissingFileError: The file does not exist.
            CheckpointError: The file holds something else.
        """
        return cls(*read_features(Path(path)))


def embed(
    representation: Representation,
    images: Any,
    *,
    device: str = "auto",
    precision: str = FLOAT32,
    memory_format: str = CONTIGUOUS,
) -> Embeddings:
    """Computes the feature vector of each image; see `BackboneOwner.embed`."""
    chosen = resolve_device(device)
    source = _as_images(images)
    formats = FeatureFormats(precision, memory_format, num_images=len(source), device=chosen)
    found = [embed_block(representation, source, block, device=chosen, formats=formats) for block in blocks_of(source)]
    if not any(len(block.names) for block in found):
        raise ArgumentError("embed() got no images; pass at least one")
    features, names, labels = zip(*found, strict=True)
    return Embeddings(
        np.concatenate([each for each in features if len(each)]),
        list(chain.from_iterable(names)),
        None if labels[0] is None else list(chain.from_iterable(labels)),
    )


def blocks_of(images: ImageStore | ImageStream) -> Sequence[Block]:
    """Returns the blocks in which images are embedded: ranges of a store, or the shards of a stream."""
    if isinstance(images, ImageStream):
        return images.names
    return [range(start, min(start + BLOCK, len(images))) for start in range(0, len(images), BLOCK)]


def embed_block(
    representation: Representation, images: ImageStore | ImageStream, block: Block, *, device: str, formats: Formats
) -> FeatureBlock:
    """Computes the feature vectors of one of `blocks_of(images)`; a shard without a readable image gives none."""
    if isinstance(images, ImageStore):
        store = images.subset(range(0)) if isinstance(block, str) else images.subset(block)
        return FeatureBlock(_vectors(representation, store, device, formats), store.names, label_texts(store))
    stores = _stores(images.read_once(str(block)))
    found = [(_vectors(representation, store, device, formats), store.names) for store in stores]
    if not found:
        return FeatureBlock(np.empty((0, 0), np.float32), [], None)
    features, names = zip(*found, strict=True)
    return FeatureBlock(np.concatenate(features), list(chain.from_iterable(names)), None)


def label_texts(images: ImageStore) -> list[str] | None:
    """Returns the class of each image by name, "" if it is unknown; None if the images have no classes."""
    if images.classes == ["unlabeled"] or not images.classes:
        return None
    return [images.classes[label] if label >= 0 else "" for label in images.labels.tolist()]


def _vectors(representation: Representation, images: ImageStore, device: str, formats: Formats) -> NDArray[np.float32]:
    """Computes the features of images, flattened to vectors `(n, F)`."""
    found = extract_features([representation], images, device=device, formats=formats)
    maps: Tensor = representation.combine_parts(found)
    return np.asarray(maps.flatten(1).numpy())


def _stores(named: Iterator[tuple[str, NDArray[Any]]]) -> Iterator[ImageStore]:
    while some := list(islice(named, BLOCK)):
        names, pixels = zip(*some, strict=True)
        yield ImageStore.from_arrays(np.stack(pixels), names=list(names))


def _as_images(images: Any) -> ImageStore | ImageStream:
    if isinstance(images, ImageStream):
        return images
    if isinstance(images, torch.Tensor | np.ndarray):
        return ImageStore.from_arrays(images)
    return as_store(images, target=None)
