"""Large images are cut into tiles, without decoding a file for each of them."""

import numpy as np
import pytest
import rasterio
from image_files import opened, reasons, values, write_geotiff
from PIL import Image

from ssl_pretext.cli import main
from ssl_pretext.cli.options import ImageOptions
from ssl_pretext.cli.parsing import parse
from ssl_pretext.data import build
from ssl_pretext.data.chatter import silenced
from ssl_pretext.data.opening import PhotoFile
from ssl_pretext.data.readers import base
from ssl_pretext.errors import ArgumentError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def cut(array, size, stride):
    """Names and tiles of an array `(C, H, W)`."""
    tops, lefts = (range(0, side - size + 1, stride) for side in array.shape[1:])
    return {f"{top}-{left}": array[:, top : top + size, left : left + size] for top in tops for left in lefts}


@pytest.mark.parametrize(("size", "stride"), [(64, None), (64, 32), (50, 70)])
def test_a_scene_becomes_tiles(folder, size, stride):
    scene = values(np.uint16, 4, 300, 260)
    write_geotiff(folder / "scene.tif", scene, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
    store = opened(folder, tile=size, stride=stride)
    expected = cut(scene, size, stride or size)
    assert store.names == [f"scene.tif/{name}" for name in expected]
    np.testing.assert_array_equal(store.images(), np.stack([*expected.values()]))
    assert store.groups == ["scene.tif"] * len(store)
    assert store.resize == f"tiles of {size} px, stride {stride or size} px"
    assert opened(folder, tile=size, stride=stride).sha256 == store.sha256


def test_tiles_with_too_many_missing_pixels_are_left_out_and_counted(folder):
    scene = values(np.uint16, 2, 96, 64)
    scene[0, :20] = 0  # 20 of 32 rows of the first two tiles
    scene[1, 40:43] = 0  # 3 of 32 rows of the next two
    write_geotiff(folder / "a.tif", scene, nodata=0)
    write_geotiff(folder / "b.tif", np.zeros_like(scene), nodata=0)
    tiles = cut(scene, 32, 32)
    for min_valid, kept in ((0.9, [*tiles][2:]), (0.95, [*tiles][4:]), (0.3, [*tiles])):
        store = opened(folder, tile=32, min_valid=min_valid)
        assert store.names == [f"a.tif/{name}" for name in kept]
        left = {"a.tif": 6 - len(kept), "b.tif": 6}
        expected = {
            name: f"{count} of 6 tiles are left out, because too many of their pixels are missing"
            for name, count in left.items()
            if count
        }
        assert {item["name"]: item["reason"] for item in store.skipped} == expected
        np.testing.assert_array_equal(store.images().nan_to_num(), np.stack([tiles[name] for name in kept]))
    (folder / "a.tif").unlink()
    assert "6 of 6 tiles of" in reasons(folder, tile=32)


def test_missing_uint8_in_tiles(folder):
    scene = values(np.uint8, 3, 64, 64)
    scene[:, :40] = 0
    Image.fromarray(scene.transpose(1, 2, 0)).save(folder / "a.png")
    assert len(opened(folder, tile=32)) == 4
    store = opened(folder, tile=32, min_valid=0.5, missing=0)
    assert store.names == ["a.png/32-0", "a.png/32-32"]
    np.testing.assert_array_equal(store.images()[:, :, 8:], np.stack([scene[:, 40:, :32], scene[:, 40:, 32:]]))
    assert store.images()[:, :, :8].isnan().all()


def test_photos_are_decoded_once_for_all_their_tiles(folder, monkeypatch):
    photo = values(np.uint8, 70, 90, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(folder / "a.png", exif=exif)
    Image.fromarray(photo).save(folder / "b.webp", exif=exif, lossless=True)
    Image.fromarray(photo).save(folder / "c.tif")
    Image.fromarray(photo[:20]).save(folder / "small.png")
    decoded = []
    resized = PhotoFile.resized
    monkeypatch.setattr(PhotoFile, "resized", lambda self, size: decoded.append(size) or resized(self, size))
    store = opened(folder, tile=32)
    upright = np.rot90(photo, -1).transpose(2, 0, 1)
    turned, plain = cut(upright, 32, 32), cut(photo.transpose(2, 0, 1), 32, 32)
    np.testing.assert_array_equal(store.images(), np.stack([*turned.values(), *turned.values(), *plain.values()]))
    assert len(decoded) == 2, "the TIFF file is read in parts"
    assert store.skipped == [{"name": "small.png", "reason": "the image has 20×90 pixels, less than a tile of 32×32"}]


def test_tiles_are_resized_to_the_image_size(folder):
    np.save(folder / "a.npy", np.kron(values(np.uint8, 1, 4, 4), np.ones((16, 16), np.uint8)))
    store = opened(folder, tile=32, image_size=8)
    assert store.images().shape == (4, 1, 8, 8)
    assert store.resize == "tiles of 32 px, stride 32 px; shortest side to 8 px (bilinear, antialiased), center crop"
    assert opened(folder, tile=32, image_size=32).resize == "tiles of 32 px, stride 32 px"


def test_a_scene_above_the_limit_of_bytes_is_read_in_parts(folder, monkeypatch):
    scene = values(np.uint16, 2, 128, 96)
    write_geotiff(folder / "a.tif", scene)
    with (
        silenced(),
        rasterio.open(
            folder / "b.jp2",
            "w",
            driver="JP2OpenJPEG",
            count=2,
            height=128,
            width=96,
            dtype="uint16",
            QUALITY=100,
            REVERSIBLE="YES",
        ) as file,
    ):
        file.write(scene)
    np.save(folder / "c.npy", scene)
    monkeypatch.setattr(base, "MAX_BYTES", scene.nbytes // 4)
    assert "bytes, above the limit of" in reasons(folder)
    store = opened(folder, tile=32)
    np.testing.assert_array_equal(store.images(), np.stack([*cut(scene, 32, 32).values()] * 3))


def test_a_killed_build_of_tiles_is_resumed(folder, monkeypatch):
    scene = values(np.uint16, 2, 128, 96)
    scene[:, :40, :40] = 0
    write_geotiff(folder / "a.tif", scene, nodata=0, names=("a", "b"))
    complete = opened(folder, tile=16, cache=folder.parent / "other")
    decoded = []
    original = build.digest

    def stop_at(count):
        def digest(pixels):
            decoded.append(pixels)
            if len(decoded) == count:
                raise KeyboardInterrupt
            return original(pixels)

        return digest

    with monkeypatch.context() as patch:
        patch.setattr(build, "digest", stop_at(30))
        with pytest.raises(KeyboardInterrupt):
            opened(folder, tile=16)
    (part,) = (folder.parent / "cache").glob("*.part")
    done = len((part / "journal.jsonl").read_text().splitlines())
    assert done
    resumed = opened(folder, tile=16)
    assert (resumed.sha256, resumed.names, resumed.groups) == (complete.sha256, complete.names, complete.groups)
    assert (resumed.skipped, resumed.channel_names) == (complete.skipped, ["a", "b"])
    assert len(complete) < 48


def test_photos_are_cropped_without_resizing(folder):
    photo = values(np.uint8, 40, 31, 3)
    Image.fromarray(photo).save(folder / "a.png")
    np.save(folder / "b.npy", photo.transpose(2, 0, 1))
    Image.fromarray(photo[:15]).save(folder / "small.png")
    store = opened(folder, image_size=16, crop=True)
    np.testing.assert_array_equal(store.images(), np.stack([photo[12:28, 7:23].transpose(2, 0, 1)] * 2))
    assert store.resize == "center crop of 16 px"
    assert store.skipped[0]["reason"].endswith("the image has 15×31 pixels, less than the crop of 16×16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be a whole number of at least 1, got 0"),
        ({"tile": 8, "stride": 0}, "stride must be a whole number of at least 1, got 0"),
        ({"tile": 8, "min_valid": 1.5}, "min_valid must be a fraction between 0 and 1, got 1.5"),
        ({"stride": 8}, "stride=8 is the distance of tiles; pass tile= too"),
        ({"crop": True}, "crop=True needs the size of the crop; pass image_size="),
    ],
)
def test_invalid_options(folder, options, message):
    with pytest.raises(ArgumentError, match=message):
        opened(folder, **options)


def test_the_commands_take_the_options_of_images(folder, capsys):
    scene = values(np.uint8, 80, 64, 3)
    Image.fromarray(scene).save(folder / "scene.png")
    run, cache = folder.parent / "run", folder.parent / "cache"
    arguments = ["pretrain", "--data", str(folder), "--out", str(run), "--tile", "32", "--stride", "16"]
    small = [
        "--task",
        "rotation",
        "--encoder",
        "autoencoder",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--cache",
        str(cache),
    ]
    assert main([*arguments, *small]) == 0, capsys.readouterr()
    store = opened(folder, image_size=32, tile=32, stride=16)
    assert len([*cache.glob("*/index.json")]) == 1, "the command reads the same images"
    assert len(store) == 12
    assert {"tile: 32", "image_size: 32"} <= {*(run / "pretrain.yaml").read_text().splitlines()}
    assert main(["pretrain", "--config", str(run / "pretrain.yaml"), "--resume"]) == 0
    shards = ["pretrain", "--data", "a-{0..1}.tar", "--out", str(run / "b"), "--tile", "8"]
    assert main(shards) == 2
    assert "are for folders only" in capsys.readouterr().err
    given = ["--data", "x", "--crop", "--missing=-1", "--min-valid", "0.5", "--reader", "h5[key=x]"]
    expected = ImageOptions(crop=True, missing="-1", min_valid=0.5, reader="h5[key=x]")
    assert parse(["probe", "run", *given]).images == expected
    assert parse(["pretrain", "--out", "run", *given]).images == expected
