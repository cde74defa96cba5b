"""Masks in files of their own: which image they belong to, and what becomes of their values and sizes."""

import re

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from test_patterns import DRAW, numbers, opened, write

import ssl_pretext as sp
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError, DataError


@pytest.fixture
def scenes(tmp_path):
    """Five scenes of two bands, one of them of half the resolution, and masks of four of them in several formats."""
    folder = write(tmp_path / "scenes", {f"{p}_{b}.npy": numbers(*s) for p in "abcde" for b, s in BANDS.items()})
    masks = {place: DRAW.integers(0, 4, (24, 20)).astype(np.uint8) for place in "abcd"}
    palette = Image.fromarray(masks["a"], mode="P")
    palette.putpalette([value for color in ((0, 0, 0), (128, 0, 0), (0, 128, 0), (9, 9, 9)) for value in color])
    palette.save(folder / "a_mask.png")
    Image.fromarray(masks["b"]).save(folder / "b_mask.png")
    tifffile.imwrite(folder / "c_mask.tif", masks["c"], extratags=[(42113, "s", 0, "3", True)])  # GDAL_NODATA
    np.save(folder / "d_mask.npy", masks["d"].astype(np.int64))
    expected = {place: mask.astype(np.int64) for place, mask in masks.items()} | {"e": np.full((24, 20), -1)}
    expected["c"] = np.where(masks["c"] == 3, -1, expected["c"])
    return folder, np.stack([expected[place] for place in "abcde"])


BANDS = {"B02": (24, 20), "B05": (12, 10)}
SCENES = {"pattern": "{place}_{channel}.npy", "masks": "{place}_mask.*", "labeled": False, "resample": "bilinear"}


def test_masks_are_found_by_the_parts_of_the_pattern(scenes, caplog):
    folder, expected = scenes
    store = opened(folder, **SCENES)
    assert (store.names, store.channel_names) == ([*"abcde"], ["B02", "B05"])
    np.testing.assert_array_equal(store.targets, expected)
    assert "1 of 5 images have no mask, such as e" in caplog.text
    rows = ((np.arange(12) + 0.5) * 2).astype(int)  # of the nearest pixels; the shortest side is halved
    small = expected[:, rows][:, :, ((np.arange(10) + 0.5) * 2).astype(int)]
    np.testing.assert_array_equal(opened(folder, **SCENES, image_size=10).targets, small[:, 1:11])
    np.testing.assert_array_equal(opened(folder, **SCENES, image_size=10, crop=True).targets, expected[:, 7:17, 5:15])
    first, second = store.subset([2, 0]), opened(folder, **SCENES).subset([2, 0])
    np.testing.assert_array_equal(first.targets, expected[[2, 0]])
    assert first.sha256 == second.sha256
    table = {"file": ["d", "b"], "label": ["field", "water"], "split": ["train", "test"]}
    options = {name: value for name, value in SCENES.items() if name != "labeled"}
    labeled = ImageStore.from_table(table, folder, image_size=None, cache=folder.parent / "cache", **options)
    np.testing.assert_array_equal(labeled.targets, expected[[1, 3]])
    assert (labeled.classes, labeled.labels.tolist()) == (["field", "water"], [1, 0])
    with pytest.raises(ArgumentError, match="a store has masks or the numbers of a table, not both"):
        ImageStore.from_table(table, folder, image_size=None, target="numbers", **options)


def test_masks_are_cut_into_the_tiles_of_their_images(scenes):
    folder, expected = scenes
    options = SCENES | {"pattern": "{place}_{channel:B02}.npy", "tile": 8}
    store = opened(folder, **options)
    assert store.names[:3] == ["a/0-0", "a/0-8", "a/8-0"]
    tiles = [mask[t : t + 8, s : s + 8] for mask in expected for t in (0, 8, 16) for s in (0, 8)]
    np.testing.assert_array_equal(store.targets, tiles)


def test_masks_are_targets_of_evaluate(scenes):
    folder, _ = scenes
    store = opened(folder, **SCENES)
    channels = sp.ChannelSpace.bands("x", ["a", "b"], scale=2.0**15)["a", "b"]
    network = sp.FrozenNetwork(torch.nn.Conv2d(2, 4, 2), channels=channels)
    report = sp.evaluate(network, store, store, target="mask", controls=False, probe="linear", seeds=1)
    assert report.card["unlabeled"] == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a_mask.png", lambda: numbers(24, 21, dtype=np.uint8), "a_mask.png has 24×21 pixels, and its image has 24×20"),
        ("a_mask.png", lambda: numbers(24, 20, 3, dtype=np.uint8), "a mask has one channel, .* and a_mask.png has 3"),
        ("a_mask.npy", lambda: np.full((24, 20), 0.5), "the values of a mask are classes, whole numbers, .* has 0.5"),
        ("a_mask.jpg", lambda: numbers(24, 20, dtype=np.uint8), "a mask is not read from the lossy format JPEG"),
    ],
)
def test_masks_that_do_not_fit_are_unknown_with_a_reason(scenes, name, make, reason):
    folder, expected = scenes
    (folder / "a_mask.png").unlink()
    write(folder, {name: make()})
    store = opened(folder, **SCENES)
    assert (store.targets[0] == -1).all()
    np.testing.assert_array_equal(store.targets[1:], expected[1:])
    (item,) = store.skipped
    assert item["name"] == "a"
    assert re.match(f"its mask: .*{reason}", item["reason"])


def test_a_pattern_of_masks_is_checked(scenes):
    folder, _ = scenes
    with pytest.raises(ArgumentError, match="masks is a pattern with parts of that of the images; pass pattern="):
        ImageStore.from_folder(folder, image_size=8, masks="{place}_mask.png")
    with pytest.raises(ArgumentError, match="has the part 'plac', which .* Did you mean 'place'"):
        opened(folder, **SCENES | {"masks": "{plac}_mask.png"})
    with pytest.raises(ArgumentError, match="has the part 'channel', which does not tell images apart"):
        opened(folder, **SCENES | {"masks": "{place}_{channel}_mask.png"})
    with pytest.raises(DataError, match="no file of .* is the mask of an image by the pattern '{place}_label.png'"):
        opened(folder, **SCENES | {"masks": "{place}_label.png"})
    write(folder, {"a_mask.npy": np.zeros((24, 20), np.uint8)})
    with pytest.raises(DataError, match="a_mask.npy and a_mask.png in .* are both masks of one image by"):
        opened(folder, **SCENES)
