"""Pictures of what a representation finds alike: nearest neighbors of test images, and a map of them."""

from pathlib import Path

import torch
from torch import Tensor

from ssl_pretext.data import ImageStore
from ssl_pretext.reporting.drawings import Drawing, scatter_chart
from ssl_pretext.reporting.page import Gallery, Section, Tile, image_to_png
from ssl_pretext.representations.base import Representation
from ssl_pretext.representations.embedding_map import principal_components
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.spacing import evenly_spaced

__all__ = ["embedding_map", "nearest_images", "picture_sections"]

QUERIES, NEIGHBORS = 8, 5
MOST_TRAIN, MOST_TEST = 2_000, 500  # images that the pictures are made of, which bounds their time


def picture_sections(
    name: str, representation: Representation, train: ImageStore, test: ImageStore, *, device: str
) -> list[Section]:
    """Computes the features of some images and returns the sections with their neighbors and their map.

    At most 2,000 training images and 500 test images are used, evenly spaced.

    Args:
        name: Name of the representation on the page.
        representation: The representation.
        train: Images among which neighbors are sought.
        test: Images whose neighbors are shown, and which are on the map.
        device: Device to compute the features on.
    """
    train, test = train.subset(evenly_spaced(len(train), MOST_TRAIN)), test.subset(evenly_spaced(len(test), MOST_TEST))
    train_features, test_features = (_vectors(representation, store, device) for store in (train, test))
    mean, scale = train_features.mean(0), train_features.std(0, correction=0).clamp(min=1e-6)
    train_features, test_features = ((features - mean) / scale for features in (train_features, test_features))
    return [
        Section(
            "What does the network find alike?",
            galleries=[nearest_images(name, train_features, test_features, train, test)],
        ),
        Section("A map of the test images", drawings=[embedding_map(name, test_features, test)]),
    ]


def nearest_images(
    name: str, train_features: Tensor, test_features: Tensor, train: ImageStore, test: ImageStore
) -> Gallery:
    """Shows eight test images, each followed by the five training images that are nearest by cosine similarity.

    Args:
        name: Name of the representation.
        train_features: Features of the training images `(N, F)`.
        test_features: Features of the test images `(m, F)`.
        train: The training images.
        test: The test images.
    """
    queries = evenly_spaced(len(test), QUERIES)
    similar = torch.nn.functional.normalize(test_features[queries]) @ torch.nn.functional.normalize(train_features).T
    nearest = similar.topk(min(NEIGHBORS, len(train)), dim=1).indices
    tiles = []
    for query, found in zip(queries.tolist(), nearest, strict=True):
        tiles.append(Tile(_png(test, query), _label(test, query)))
        for index in found.tolist():
            tiles.append(Tile(_png(train, index), _label(train, index), _same_class(test, query, train, index)))
    marked = ", green if the class is the same and red if it is not" if _has_classes(test) else ""
    caption = (
        f"Left: {len(queries)} test images, evenly spaced in their list. Right: the training images that {name} finds "
        f"most alike{marked}."
    )
    return Gallery(tiles, 1 + nearest.shape[1], caption)


def embedding_map(name: str, features: Tensor, images: ImageStore) -> Drawing:
    """Draws images at their first two principal components.

    Args:
        name: Name of the representation.
        features: Features of the images `(m, F)`.
        images: The images.
    """
    points, share = principal_components(features.numpy())
    indices = range(len(images))
    groups = [_class(images, i) if _has_classes(images) else "images" for i in indices]
    titles = [f"{_label(images, i)}: {images.names[i]}" for i in indices]
    caption = (
        f"{len(images):,} test images at the first two principal components of {name}, which hold {share:.0%} of the "
        "variance. Images that are near each other look alike to the network."
    )
    return scatter_chart([(x, y) for x, y in points.tolist()], groups, titles, caption=caption)


def _vectors(representation: Representation, images: ImageStore, device: str) -> Tensor:
    """Features averaged over all positions, `(N, C)`."""
    found = extract_features(
        [representation], images, device=device, reduce=lambda maps: maps.mean((2, 3), keepdim=True)
    )
    return representation.combine_parts(found).flatten(1)


def _has_classes(images: ImageStore) -> bool:
    return images.targets is None and bool((images.labels >= 0).any()) and images.classes != ["unlabeled"]


def _class(images: ImageStore, index: int) -> str:
    label = int(images.labels[index])
    return images.classes[label] if label >= 0 else "unknown"


def _label(images: ImageStore, index: int) -> str:
    return _class(images, index) if _has_classes(images) else Path(images.names[index]).name


def _same_class(test: ImageStore, query: int, train: ImageStore, index: int) -> bool | None:
    return _class(test, query) == _class(train, index) if _has_classes(test) else None


def _png(images: ImageStore, index: int) -> bytes:
    return image_to_png(images.images([index])[0])
