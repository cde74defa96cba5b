"""Neighbors and the map show what the features say."""

import torch
from probing import noise

import ssl_pretext as sp
from ssl_pretext.probes.gallery import embedding_map, nearest_images, picture_sections
from ssl_pretext.reporting.page import image_to_png


def test_the_nearest_images_are_those_with_the_most_similar_features():
    train, test = noise([0, 1, 2, 0, 1, 2]), noise([0, 1], seed=1)
    directions = torch.eye(6)
    features = torch.stack([directions[4] + 0.1 * directions[0], 3 * directions[5]])
    gallery = nearest_images("net", directions, features, train, test)
    assert gallery.columns == 6
    assert len(gallery.tiles) == 2 * 6
    assert gallery.tiles[0].png == image_to_png(test.images([0])[0])
    assert [gallery.tiles[i].png for i in (1, 2, 7)] == [image_to_png(train.images([i])[0]) for i in (4, 0, 5)]
    assert [(gallery.tiles[i].text, gallery.tiles[i].right) for i in (0, 1, 2)] == [
        ("a", None),
        ("b", False),
        ("a", True),
    ]


def test_the_map_is_that_of_the_principal_components():
    images = noise([0, 1, 2])
    features = torch.tensor([[-3.0, 0.0, 5.0], [0.0, 1.0, 5.0], [3.0, 0.0, 5.0]])
    drawing = embedding_map("net", features, images)
    assert "which hold 100% of the variance" in drawing.caption
    assert all(
        f"<title>{name}: {image}</title>" in drawing.svg for name, image in zip("abc", images.names, strict=True)
    )


def test_images_without_classes_are_shown_by_their_names():
    store = sp.ImageStore.from_arrays(torch.rand(4, 5, 8, 8), names=["x/1.tif", "x/2.tif", "x/3.tif", "x/4.tif"])
    representation = sp.Representation("means", lambda images: images)
    found, on_map = picture_sections("means", representation, store, store, device="cpu")
    assert [tile.text for tile in found.galleries[0].tiles[:2]] == ["1.tif", "1.tif"]
    assert all(tile.right is None for tile in found.galleries[0].tiles)
    assert "unlabeled" not in on_map.drawings[0].svg
