import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_pretext.data import ImageStore
from ssl_pretext.data.patterns import list_pattern, parse_pattern
from ssl_pretext.errors import ArgumentError, DataError

PLATE = "{well}_s{site}_w{channel}.npy"
DRAW = np.random.default_rng(0)


def opened(folder, pattern, **options):
    return ImageStore.from_folder(
        folder, **{"image_size": None, "pattern": pattern, "cache": folder.parent / "cache"} | options
    )


def write(folder, arrays):
    for name, values in arrays.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path)
    return folder


def numbers(*shape, dtype=np.uint16):
    return DRAW.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.fixture
def plate(tmp_path):
    wells, channels = ("A01", "B01"), (1, 2, 10)
    arrays = {f"{w}_s{s}_w{c}.npy": numbers(6, 5) for w in wells for s in (1, 2) for c in channels}
    return write(tmp_path / "plate", arrays), arrays


def test_files_of_a_plate_become_images_with_channels_sorted_by_number(plate):
    folder, arrays = plate
    store = opened(folder, PLATE, group="well")
    assert store.names == ["A01/1", "A01/2", "B01/1", "B01/2"]
    assert (store.channel_names, store.groups) == (["1", "2", "10"], ["A01", "A01", "B01", "B01"])
    for name, image in zip(store.names, store.images().numpy(), strict=True):
        well, site = name.split("/")
        expected = np.stack([arrays[f"{well}_s{site}_w{channel}.npy"] for channel in (1, 2, 10)])
        np.testing.assert_array_equal(image, expected)
    assert [{*part.groups} for part in store.split(0.5)] in ([{"A01"}, {"B01"}], [{"B01"}, {"A01"}])


def test_alternatives_choose_and_order_the_channels(plate, caplog):
    folder, arrays = plate
    caplog.set_level("INFO")
    store = opened(folder, "{well}_s{site}_w{channel:10|1}.npy")
    assert store.channel_names == ["10", "1"]
    np.testing.assert_array_equal(
        store.images([0])[0], np.stack([arrays["A01_s1_w10.npy"], arrays["A01_s1_w1.npy"]]).astype(np.float32)
    )
    assert "4 of 12 files in" in caplog.text
    assert "do not match {well}_s{site}_w{channel:10|1}.npy, such as A01_s1_w2.npy" in caplog.text


def test_a_photo_and_its_depth_become_one_image(tmp_path):
    rgb, depth = numbers(6, 8, 3, dtype=np.uint8), numbers(6, 8)
    folder = write(tmp_path / "rgbd", {"rgb/7.png": rgb, "depth/7.png": depth})
    store = opened(folder, "{channel:rgb|depth}/{id}.png")
    assert (store.names, store.channel_names) == (["7"], ["rgb.1", "rgb.2", "rgb.3", "depth"])
    np.testing.assert_array_equal(store.images()[0, :3], rgb.transpose(2, 0, 1))
    np.testing.assert_array_equal(store.images()[0, 3], depth)


def test_photos_in_gray_have_one_channel_each(tmp_path):
    photos = {f"7_{channel}.png": numbers(6, 8, dtype=np.uint8) for channel in ("dna", "actin")}
    store = opened(write(tmp_path / "gray", photos), "{id}_{channel}.png")
    assert (store.channel_names, store.images().dtype) == (["actin", "dna"], torch.uint8)
    np.testing.assert_array_equal(store.images()[0], np.stack([photos["7_actin.png"], photos["7_dna.png"]]))


def test_bands_of_three_resolutions_are_resampled_to_the_finest(tmp_path):
    bands = {"B02": numbers(12, 24), "B8A": numbers(6, 12), "B08": numbers(12, 24), "B01": numbers(2, 4)}
    folder = write(
        tmp_path / "S2.SAFE", {f"GRANULE/L2A_T32/IMG_DATA/T32_2020_{band}.npy": v for band, v in bands.items()}
    )
    pattern = "**/{tile}_{date}_{channel}.npy"
    rules = dict.fromkeys(("B01", "B8A"), "bilinear")
    store = opened(folder, pattern, resample=rules)
    assert (store.names, store.channel_names) == (["T32/2020"], ["B01", "B02", "B08", "B8A"])
    for image, name in zip(store.images()[0], store.channel_names, strict=True):
        values = torch.from_numpy(bands[name].astype(np.float32))[None, None]
        expected = F.interpolate(values, (12, 24), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(image, expected)
    nearest = opened(folder, pattern, resample="nearest").images()[0]
    for image, name in zip(nearest, store.channel_names, strict=True):
        factor = 12 // bands[name].shape[0]
        np.testing.assert_array_equal(image, np.kron(bands[name], np.ones((factor, factor))))
    with pytest.raises(
        DataError, match=r"different sizes: \[\(2, 4\), \(12, 24\)\]; pass resample, bilinear or nearest"
    ):
        opened(folder, pattern)


def test_resampling_keeps_bytes_and_missing_values(tmp_path):
    gray = {"a_x.npy": numbers(4, 4, dtype=np.uint8), "a_y.npy": np.array([[0, 255], [255, 255]], np.uint8)}
    store = opened(write(tmp_path / "bytes", gray), "{id}_{channel}.npy", resample="bilinear")
    exact = F.interpolate(torch.tensor(gray["a_y.npy"])[None, None].float(), (4, 4), mode="bilinear")[0, 0]
    assert torch.equal(store.images()[0, 1], exact.round().to(torch.uint8))
    holes = {"a_x.npy": np.ones((4, 4), np.float32), "a_y.npy": np.array([[np.nan, 3], [3, 3]], np.float32)}
    image = opened(write(tmp_path / "holes", holes), "{id}_{channel}.npy", resample="bilinear").images()[0, 1]
    weights = np.outer([1, 0.75, 0.25, 0], [1, 0.75, 0.25, 0])  # of the missing value in each pixel
    np.testing.assert_array_equal(image.isnan(), weights > 0.5)
    assert image[~image.isnan()].unique().tolist() == [3.0]


def test_sizes_must_differ_by_resolution_alone(tmp_path):
    folder = write(tmp_path / "shapes", {"a_x.npy": numbers(12, 12), "a_y.npy": numbers(6, 12)})
    with pytest.raises(
        DataError, match=r"different sizes: \[\(6, 12\), \(12, 12\)\]; only their resolution may differ"
    ):
        opened(folder, "{id}_{channel}.npy", resample="nearest")


def test_the_rule_determines_the_store(tmp_path):
    folder = write(tmp_path / "rules", {"a_x.npy": numbers(8, 8), "a_y.npy": numbers(4, 4)})
    images = [opened(folder, "{id}_{channel}.npy", resample=rule).images() for rule in ("bilinear", "nearest")]
    assert not torch.equal(*images)
    write(folder, {"a_y.npy": numbers(4, 4)})
    assert not torch.equal(opened(folder, "{id}_{channel}.npy", resample="nearest").images(), images[1])


def test_names_say_the_class_and_the_group(tmp_path):
    folder = write(tmp_path / "flat", {f"{name}_{i}.npy": numbers(4, 4) for name in ("dog", "cat") for i in range(2)})
    store = opened(folder, "{label}_{group}.npy")
    assert (store.classes, store.labels.tolist(), store.groups) == (["cat", "dog"], [0, 0, 1, 1], ["0", "1", "0", "1"])
    assert store.channel_names is None
    assert opened(folder, "{label}_{group}.npy", labeled=False).classes == ["unlabeled"]
    assert opened(folder, "{id}_{group}.npy").classes == ["unlabeled"]


def test_images_that_lack_a_channel_are_skipped_with_the_reason_or_refused(plate, caplog):
    folder, _ = plate
    (folder / "B01_s2_w10.npy").unlink()
    store = opened(folder, PLATE)
    assert store.names == ["A01/1", "A01/2", "B01/1"]
    assert store.skipped == [{"name": "B01/2", "reason": "the image lacks the channel 10"}]
    assert "1 of 4 images in" in caplog.text
    with pytest.raises(DataError, match="1 of 4 images in .* lack one of the channels 1, 2 and 10: B01/2: the image"):
        opened(folder, PLATE, max_unreadable=0.2)
    with pytest.raises(DataError, match="4 of 4 images in .* lack one of the channels 1 and 3: A01/1: the image lacks"):
        opened(folder, "{well}_s{site}_w{channel:1|3}.npy")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{well}_s{site", "malformed at '{': a part is a name in braces"),
        ("{well} {}.npy", "malformed at '{}'"),
        ("{a b}.npy", "malformed at '{a b}'"),
        ("{channel}.npy", "no part that tells one image from another; name one, such as {id}"),
        ("*.npy", "no part that tells one image from another"),
        ("{id}_{channel:a||b}.npy", "alternatives of '{channel:a||b}' must be different and not empty"),
        ("{id:a|b}/{id:c|d}.npy", "names the part 'id' twice; write its alternatives where it comes first only"),
        ("{id}_{label}_{class}.npy", "the parts label and class, which mean the same"),
    ],
)
def test_malformed_patterns_are_refused(pattern, message, tmp_path):
    with pytest.raises(ArgumentError) as caught:
        list_pattern(tmp_path, pattern)
    assert message in str(caught.value)


def test_a_part_that_is_named_twice_is_the_same_text():
    expression = parse_pattern("{id}/**/{id}_{channel}.tif").expression
    assert expression.fullmatch("a/b/c/a_dna.tif")["channel"] == "dna"
    assert expression.fullmatch("a/a_dna.tif")
    assert not expression.fullmatch("a/b_dna.tif")
    assert parse_pattern("{id}_{channel}.tif").expression.fullmatch("my_cat_dna.tif")["id"] == "my_cat"


def test_other_wrong_requests_are_refused(plate):
    folder, _ = plate
    for options, message in (
        ({"group": "wel"}, "has no part 'wel' for the group. Did you mean 'well'?"),
        ({"pattern": None, "group": "well", "labeled": False}, "pass the pattern, too"),
        ({"resample": "cubic"}, "resample must be bilinear or nearest, got 'cubic'"),
        ({"resample": {"3": "nearest"}}, "names the channel '3', which no file shows"),
        ({"pattern": "{id}.npy", "resample": "nearest"}, "resample is for images from several files"),
    ):
        with pytest.raises(ArgumentError) as caught:
            opened(folder, **{"pattern": PLATE} | options)
        assert message in str(caught.value)
    for pattern, message in (
        ("{id}.tif", "no file of .* matches the pattern '{id}.tif'; its images are named like A01_s1_w1.npy"),
        ("{well}_*_w{channel}.npy", "A01_s1_w1.npy and A01_s2_w1.npy in .* are both the channel 1 of the image A01"),
    ):
        with pytest.raises(DataError, match=message):
            opened(folder, pattern)
    assert not (folder.parent / "cache").exists()


def test_a_store_of_several_files_is_found_again(plate, monkeypatch):
    folder, _ = plate
    first = opened(folder, PLATE)
    monkeypatch.setattr("ssl_pretext.data.build._build", None)
    assert opened(folder, PLATE, group="site").sha256 == first.sha256
    index = next((folder.parent / "cache").glob("*/index.json"))
    assert json.loads(index.read_text())["names"] == first.names
