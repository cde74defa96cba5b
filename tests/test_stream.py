"""Images streamed from WebDataset shards."""

import gzip
import io
import json
import logging
import pickle
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

import ssl_pretext as sp
from ssl_pretext.augment import create_augmentation
from ssl_pretext.cli import main
from ssl_pretext.data.shards import count_images, find_shards, read_shard
from ssl_pretext.data.stream_loader import StreamLoader
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError

pytestmark = pytest.mark.usefixtures("own_cache")
COUNT = 41


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))


def photo(number: int, size: "tuple[int, int]" = (20, 20)) -> Image.Image:
    """An image whose level of red identifies it, with one white corner."""
    image = Image.new("RGB", size, (5 * number, 5 * number, 255))
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write(path: Path, members: "dict[str, bytes]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Five shards with 8 or 9 images each, and other files that shards contain."""
    numbers = np.array_split(np.arange(COUNT), 5)
    for shard, mine in enumerate(numbers):
        members = {f"{number:04}.png": encoded(photo(number)) for number in mine}
        members |= {f"{number:04}.cls": b"7" for number in mine} | {"._hidden.png": b"notes"}
        write(tmp_path / f"shards/train-{shard}.tar", members)
    return str(tmp_path / "shards/train-{0..4}.tar")


def stream(shards: str, **options: object) -> sp.ImageStream:
    return sp.ImageStream(shards, **{"image_size": 16, "buffer": 10, **options})


def levels(batches) -> "list[int]":
    """The numbers of the images in batches, from their levels of red."""
    return [int(level) // 5 for batch in batches for level in batch[:, 0, -1, -1]]


def loader(images: sp.ImageStream, **options: object) -> StreamLoader:
    return StreamLoader(images, 8, **{"seed": 1, **options})


def test_an_epoch_has_each_image_once_in_an_order_of_seed_and_epoch(shards):
    images = stream(shards)
    assert (len(images), images.image_size, len(loader(images))) == (COUNT, 16, 5)
    batches = loader(images)
    first = list(batches)
    assert [len(batch) for batch in first] == [8, 8, 8, 8, 9]
    assert first[0].dtype == torch.uint8
    assert sorted(levels(first)) == list(range(COUNT))
    torch.manual_seed(7)  # the order must not depend on the global seed
    assert levels(loader(images)) == levels(first)
    assert levels(loader(images, seed=2)) != levels(first)
    batches.set_epoch(1)
    assert sorted(levels(second := list(batches))) == list(range(COUNT))
    assert levels(second) != levels(first)
    assert levels(loader(images, seed=None)) == list(range(COUNT))
    # Images are shuffled in the buffer, and not only shards.
    shards_of_images = [level // 8 for level in levels(first)]
    assert sum(one != other for one, other in pairwise(shards_of_images)) > 10


def test_pixels_equal_those_of_a_folder(shards, tmp_path):
    for name in ("a.jpg", "b.npy", "c.tif"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encoded(photo(9, (40, 30)), "JPEG", exif=exif)
        if name == "b.npy":
            file = io.BytesIO()
            np.save(file, np.arange(3 * 30 * 40, dtype=np.uint16).reshape(3, 30, 40))
            content = file.getvalue()
        if name == "c.tif":
            content = encoded(photo(9, (40, 30)), "TIFF")
        folder = tmp_path / name[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
        write(tmp_path / f"{name}.tar", {name: content})
        store = sp.ImageStore.from_folder(folder, image_size=16, labeled=False)
        (batch,) = loader(stream(str(tmp_path / f"{name}.tar")))
        assert torch.equal(batch, store.images())
    array = sp.ImageStream(str(tmp_path / "c.tif.tar"), image_size=16, channels=3)
    assert torch.equal(next(iter(loader(array))), next(iter(loader(stream(str(tmp_path / "c.tif.tar"))))))


def test_a_stream_is_pickled(shards):
    images = stream(shards)
    again = pickle.loads(pickle.dumps(images))
    assert len(again) == COUNT
    assert levels(loader(again)) == levels(loader(images))


@pytest.mark.parametrize("augment", [None, create_augmentation("shift")])
def test_a_pass_resumes_where_it_stopped(shards, augment):
    full_pass = list(batches := loader(stream(shards), augment=augment))
    assert bool(augment) == (not all(map(torch.equal, full_pass, loader(stream(shards)))))
    passing = iter(batches)
    for _ in range(3):
        next(passing)
    passing.close()
    resumed = loader(stream(shards), augment=augment)
    resumed.load_state_dict(batches.state_dict())
    for one, other in zip(resumed, full_pass[3:], strict=True):
        assert torch.equal(one, other)


def test_processes_read_different_shards(shards, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shards_read, shares = [], []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        batches = loader(stream(shards))
        mine = []
        for batch in batches:
            mine.append(batch)
            shares.append((len(batch), batches.batch_weight))
        shards_read.append({level // 8 if level < 9 else (level - 1) // 8 for level in levels(mine)})
    assert not shards_read[0] & shards_read[1]
    assert shards_read[0] | shards_read[1] == set(range(5))
    assert shares == [*[(4, 1.0)] * 4, (5, 10 / 9), *[(4, 1.0)] * 4, (4, 8 / 9)]
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    batches = loader(stream(shards, epoch_images=COUNT + 1))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2, 2]
    assert batches.batch_weight == 0, "a last batch of two images has none for the third process"
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 6)
    with pytest.raises(ArgumentError, match="6 processes need at least 6 shards, got 5; write more shards"):
        next(iter(loader(stream(shards))))


def test_unreadable_images_are_skipped_with_a_reason(shards, tmp_path, caplog):
    good = {f"{number}.png": encoded(photo(number)) for number in range(6)}
    deep = io.BytesIO()
    np.save(deep, np.zeros((3, 20, 20), np.uint16))
    write(tmp_path / "bad/0.tar", {"broken.png": b"no photo", **good, "deep.npy": deep.getvalue()})
    write(tmp_path / "bad/1.tar", {f"{number}.png": encoded(photo(number)) for number in (6, 7, 8)})
    write(tmp_path / "bad/2.tar", {f"{number}.png": encoded(photo(number)) for number in (9, 10)})
    content = (tmp_path / "bad/2.tar").read_bytes()
    (tmp_path / "bad/2.tar").write_bytes(content[:600])  # in the middle of the first image
    images = stream(str(tmp_path / "bad/*.tar"))
    assert len(images) == 12  # counted from the headers; the first images replace the unreadable ones
    numbers = levels(loader(images))
    assert (len(numbers), set(numbers)) == (12, set(range(9)))
    reasons = {item["name"]: item["reason"] for item in images.skipped}
    assert set(reasons) == {"0.tar/broken.png", "0.tar/deep.npy", "2.tar"}
    assert "cannot identify image file" in reasons["0.tar/broken.png"]
    assert "3 channels of uint16" in reasons["0.tar/deep.npy"]
    assert "the shard is damaged or truncated: ReadError" in reasons["2.tar"]
    with caplog.at_level(logging.WARNING, "ssl_pretext"):
        sp.fit(task(), images, sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=4, device="cpu"))
    assert json.loads((tmp_path / "run/skipped.json").read_text()) == images.skipped
    assert "unreadable and skipped so far: 3, see" in caplog.text


def task(**options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
    return sp.CrossChannelPrediction("lab:L", "lab:ab", encoder, losses={"l2": 1.0}, **options)


def test_fit_on_a_stream_resumes_to_the_same_weights(shards, tmp_path, monkeypatch):
    def run(name: str) -> "dict[str, torch.Tensor]":
        made = task(input_noise=0.1)
        config = sp.FitConfig(out=tmp_path / name, epochs=3, batch_size=8, device="cpu", resume=True, augment="shift")
        sp.fit(made, stream(shards), sp.FitConfig(**config.to_dict() | {"checkpoint_minutes": 1e-5}))
        return made.state_dict()

    expected = run("uninterrupted")
    original, steps = StreamLoader.last_names, iter([*range(9)])  # interrupts the second of three epochs

    def last_names(self):
        if next(steps, None) is None:
            raise InterruptedError
        return original(self)

    monkeypatch.setattr(StreamLoader, "last_names", last_names)
    with pytest.raises(InterruptedError):
        run("stopped")
    monkeypatch.setattr(StreamLoader, "last_names", original)
    for name, value in run("stopped").items():
        assert torch.equal(value, expected[name])
    saved = json.loads((tmp_path / "uninterrupted/task/config.json").read_text())["trained_on"]["settings"]
    assert (saved["images"], saved["sha256"]) == (COUNT, stream(shards).sha256)
    write(tmp_path / "shards/train-0.tar", {"0.png": encoded(photo(0))})
    with pytest.raises(CheckpointError, match="images"):
        run("uninterrupted")


def test_losses_are_fitted_to_a_sample(shards, tmp_path):
    torch.manual_seed(0)
    made = sp.Colorization(nn.Conv2d(1, 8, 2, stride=2), losses={"color_classification": 1.0})
    sp.fit(made, stream(shards), sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=8, device="cpu"))
    assert made.losses.logits.quantizer.prior.sum().item() == pytest.approx(1.0)
    sample = stream(shards).sample()
    assert (len(sample), sample.image_size, sample.resize) == (COUNT, 16, stream(shards).resize)
    assert sorted(levels([sample.images()])) == list(range(COUNT))


def test_remote_shards_are_read_with_their_protocol(shards, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for shard in find_shards(shards):
        memory.pipe(f"/far/{Path(shard).name}", Path(shard).read_bytes())
    far = "memory://far/train-{0..4}.tar"
    with pytest.raises(ArgumentError, match="only counted in local shards; pass epoch_images for memory://far/train-0"):
        stream(far)
    images = stream(far, epoch_images=20)
    assert levels(loader(images)) == levels(loader(stream(shards, epoch_images=20)))
    assert len(set(levels(loader(images)))) == 20
    with pytest.raises(DataError, match="the shard memory://far/none.tar cannot be read: FileNotFoundError"):
        stream("memory://far/none.tar", epoch_images=20)
    with pytest.raises(DataError, match="nowhere://none.tar cannot be read: ValueError"):
        stream("nowhere://none.tar", epoch_images=20)


def test_images_are_counted_once(shards, tmp_path, monkeypatch):
    assert len(stream(shards)) == COUNT
    monkeypatch.setattr("ssl_pretext.data.stream.count_images", lambda *_: pytest.fail("counted again"))
    assert len(stream(shards)) == COUNT


def test_other_shards_of_the_same_name_and_size_are_counted_again(tmp_path):
    for folder, count in (("a", 3), ("b", 4)):
        write(tmp_path / folder / "0.tar", {f"{number}.png": encoded(photo(number)) for number in range(count)})
    first, other = tmp_path / "a/0.tar", tmp_path / "b/0.tar"
    assert first.stat().st_size == other.stat().st_size
    assert [len(stream(str(shard))) for shard in (first, other)] == [3, 4]
    first.write_bytes(other.read_bytes())
    assert len(stream(str(first))) == 4


def test_images_with_other_numbers_of_channels_are_skipped(tmp_path):
    bands = io.BytesIO()
    np.save(bands, np.zeros((4, 20, 20), np.uint8))
    write(tmp_path / "0.tar", {"a.png": encoded(photo(0)), "b.npy": bands.getvalue(), "c.png": encoded(photo(2))})
    assert stream(str(tmp_path / "0.tar")).sample().num_channels == 3
    images = stream(str(tmp_path / "0.tar"), channels=4)
    assert images.sample().num_channels == 4
    assert [item["name"] for item in images.skipped] == ["0.tar/a.png", "0.tar/c.png"]
    assert "channels=4 was requested" in images.skipped[0]["reason"]
    with pytest.raises(DataError, match="channels=5 was requested"):
        stream(str(tmp_path / "0.tar"), channels=5)
    with pytest.raises(ArgumentError, match="channels must be a whole number of at least 1, got 0"):
        stream(str(tmp_path / "0.tar"), channels=0)


def array(value: int, *shape: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(shape, value, np.uint8))
    return file.getvalue()


MASK = Image.new("L", (20, 20), 255)
SAMPLES = {  # other files of a sample, before and after its image `NUMBER.png`, whose level is 5 · NUMBER
    "masks": ({}, {"seg.png": encoded(MASK)}),
    "masks in front": ({"depth.png": encoded(MASK), "mask.PNG": encoded(MASK)}, {}),
    "embeddings": ({"npy": array(0, 20, 20), "clip.npy": array(0, 512)}, {"json": b"{}"}),
    "embeddings of three channels": ({}, {"npy": array(255, 3, 20, 20)}),
    "texts": ({"cls": b"3"}, {"txt": b"a photo", "index.json": b"{}"}),
    "an equal rank": ({}, {"bmp": encoded(MASK, "BMP")}),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_one_image_is_read_for_each_sample(kind, tmp_path):
    before, after = SAMPLES[kind]
    members = {}
    for number in range(6):
        files = {**before, "png": encoded(photo(number)), **after}
        members |= {f"some.folder/{number:03}.{field}": content for field, content in files.items()}
    write(tmp_path / "0.tar", members)
    images = stream(str(tmp_path / "0.tar"))
    assert len(images) == 6
    assert sorted(levels(loader(images))) == list(range(6))
    ignored = [field for field in (*before, *after) if field.rpartition(".")[2].lower() in ("png", "npy", "bmp")]
    assert [item["name"] for item in images.skipped] == sorted(f"*.{field}" for field in ignored)
    for item in images.skipped:
        assert f"0.tar are ignored, unless image_field is '{item['name'][2:]}'" in item["reason"]


def test_a_lossy_photograph_comes_before_a_mask_without_loss(tmp_path):
    members = {}
    for number in range(6):
        members |= {f"{number}.png": encoded(MASK), f"{number}.jpg": encoded(photo(number), "JPEG", quality=100)}
    write(tmp_path / "0.tar", members)
    images = stream(str(tmp_path / "0.tar"))
    assert len(images) == 6
    # Levels may differ by one, because JPEG is lossy.
    read = torch.cat(list(loader(images)))[:, 0, -1, -1].tolist()
    np.testing.assert_allclose(sorted(read), 5 * np.arange(6), rtol=0, atol=1)
    assert [item["name"] for item in images.skipped] == ["*.png"]


def test_the_field_of_the_images_may_be_chosen(tmp_path, capsys):
    members = {}
    for number in range(6):
        members |= {f"{number}.png": encoded(MASK), f"{number}.rgb.PNG": encoded(photo(number))}
    write(tmp_path / "0.tar", members)
    shard = str(tmp_path / "0.tar")
    chosen, default = stream(shard, image_field="rgb.png"), stream(shard)
    assert (len(chosen), sorted(levels(loader(chosen))), chosen.skipped) == (6, list(range(6)), [])
    assert set(levels(loader(default))) == {51}
    assert chosen.sha256 != default.sha256
    with pytest.raises(ArgumentError, match=r"image_field must be what follows the first dot .*, got 'cls'"):
        stream(shard, image_field="cls")
    with pytest.raises(DataError, match=r"no image can be read from .*0.tar"):
        stream(shard, image_field="jpg")
    write(tmp_path / "1.tar", {name: content for name, content in members.items() if "rgb" in name})
    with pytest.raises(DataError, match=r"no image can be read .*: \*.rgb.PNG: .* unless image_field is 'rgb.PNG'"):
        stream(str(tmp_path / "1.tar"))
    small = ["--image-size", "16", "--epochs", "1", "--batch-size", "6", "--device", "cpu"]
    request = ["pretrain", "--image-field", "rgb.png", "--out", str(tmp_path / "run"), *small, "--data"]
    assert main([*request, shard]) == 0
    assert main([*request[:3], "--out", str(tmp_path / "new"), *small, "--data", str(tmp_path)]) == 2
    assert "--image-field is for shards only" in capsys.readouterr().err


def test_damage_after_an_image_of_a_sample_does_not_lose_it(tmp_path):
    shard = tmp_path / "0.tar"
    write(shard, {"0.png": encoded(photo(0)), "1.png": encoded(photo(1)), "1.npy": array(0, 5000)})
    shard.write_bytes(shard.read_bytes()[:4000])
    read = list(read_shard(str(shard)))
    assert [member.name for member in read] == ["0.tar/0.png", "0.tar/1.png", "0.tar"]
    assert count_images(str(shard)) == 2


@pytest.mark.parametrize("damage", ["garbage", "cut", "cut between images"])
def test_a_damaged_header_is_not_the_end_of_a_shard(damage, tmp_path):
    shard = tmp_path / "0.tar"
    write(shard, {f"{number}.png": encoded(photo(number)) for number in range(4)})
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2].offset
    content = shard.read_bytes()
    garbage = bytes(range(256)) * 2
    damaged = {"garbage": content[:third] + garbage + content[third + 512 :], "cut": content[: third + 99]}
    shard.write_bytes(damaged.get(damage, content[:third]))
    names, contents = zip(*read_shard(str(shard)), strict=True)
    assert names == ("0.tar/0.png", "0.tar/1.png", "0.tar")
    assert contents[2].startswith("the shard is damaged or truncated: ReadError")
    assert ("end-of-archive mark" in contents[2]) == (damage == "cut between images")
    assert count_images(str(shard)) == 2


def test_a_compressed_shard_that_ends_between_images_is_reported(tmp_path):
    shard, plain = tmp_path / "0.tar.gz", tmp_path / "0.tar"
    write(plain, {"0.png": encoded(photo(0))})
    content = plain.read_bytes()
    end = content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)
    for whole, members in ((content, 1), (end + bytes(512), 1), (end, 2)):  # one block of zeros is a mark, too
        shard.write_bytes(gzip.compress(whole))
        found = list(read_shard(str(shard)))
        assert len(found) == members
    assert "it ends without the end-of-archive mark, so files may be missing" in found[1].content


@pytest.mark.parametrize(
    "pattern", ["{0..99999999999}.tar", "{0..9999}-{0..9999}.tar", f"{{1..{10**17}}}.tar", "{a,b}" * 21 + ".tar"]
)
def test_a_pattern_of_too_many_shards_is_refused(pattern):
    with pytest.raises(DataError, match="stands for more than 1,000,000 shards"):
        find_shards(pattern)


@pytest.mark.parametrize("pattern", ["missing-{0..999999}.tar", f"{{0..{'9' * 5000}}}.tar", "{3..1}.tar"])
def test_a_pattern_without_shards_is_refused(pattern):
    with pytest.raises(DataError, match="there (is|are) no shard"):
        find_shards(pattern)


def test_errors_say_what_is_wrong(shards, tmp_path):
    with pytest.raises(DataError, match=r"there is no shard .*train-5.tar; pass tar files"):
        stream(shards.replace("4}", "5}"))
    with pytest.raises(DataError, match="there are no shards"):
        stream([])
    with pytest.raises(ArgumentError, match="buffer must be a whole number of at least 1, got 0"):
        stream(shards, buffer=0)
    write(tmp_path / "none.tar", {"a.png": b"no photo"})
    with pytest.raises(DataError, match=r"no image can be read from .*none.tar .*: none.tar/a.png: Unidentified"):
        stream(str(tmp_path / "none.tar"))
    (tmp_path / "text.tar").write_text("no tar file")
    with pytest.raises(DataError, match=r"text.tar: the shard is damaged or truncated: ReadError"):
        stream(str(tmp_path / "text.tar"))


def test_readers_and_missing_values_are_those_of_a_folder(tmp_path, capsys):
    stack = np.random.default_rng(0).integers(1, 250, (4, 2, 3, 16, 16)).astype(np.uint16)
    stack[:, :, 1, 3:9] = 0
    folder = tmp_path / "stacks"
    folder.mkdir()
    for number, image in enumerate(stack):
        tifffile.imwrite(folder / f"{number}.ome.tif", image, metadata={"axes": "ZCYX"})
    write(tmp_path / "stacks.tar", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    shard, options = str(tmp_path / "stacks.tar"), {"reader": "ome.tif[z=max]", "missing": {"band2": 0}}
    images = stream(shard, **options)
    store = sp.ImageStore.from_folder(folder, image_size=16, labeled=False, **options)
    expected = stack.max(1).astype(np.float32)
    expected[:, 1][expected[:, 1] == 0] = np.nan
    for found in (pickle.loads(pickle.dumps(images)).sample().images().sort(dim=0)[0], store.images().sort(dim=0)[0]):
        np.testing.assert_array_equal(found, np.sort(expected, axis=0))
    assert images.sha256 != stream(shard, reader="ome.tif[z=mean]", missing={"band2": 0}).sha256
    run = ["pretrain", "--data", shard, "--out", str(tmp_path / "run"), "--image-size", "16", "--max-steps", "1"]
    given = ["--reader", "ome.tif[z=max]", "--missing", "band2=0", "--batch-size", "4", "--device", "cpu"]
    assert main([*run, *given]) == 0, capsys.readouterr()
    with pytest.raises(ArgumentError, match=r"reader='nii\[z=0\]' reads files named .*; the images are named like"):
        stream(shard, reader="nii[z=0]")


def test_the_command_line_takes_shards(shards, tmp_path, capsys):
    write(tmp_path / "shards/train-4.tar", {"broken.png": b"no photo", "0.png": encoded(photo(0))})
    small = ["--image-size", "16", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    out = tmp_path / "run"
    assert main(["pretrain", "--data", shards, "--out", str(out), *small]) == 0
    assert [item["name"] for item in json.loads((out / "skipped.json").read_text())] == ["train-4.tar/broken.png"]
    assert main(["pretrain", "--config", str(out / "pretrain.yaml"), "--resume"]) == 0
    assert sp.PretextTask.from_pretrained(out / "task").trained_on.settings["images"] == 35
    folder = ["pretrain", "--data", str(tmp_path), "--out", str(tmp_path / "new"), "--epoch-images", "5", *small]
    assert main(folder) == 2
    assert "--epoch-images is for shards only" in capsys.readouterr().err


def test_images_in_formats_that_are_not_read_are_reported(tmp_path):
    members = {"1.png": encoded(photo(1)), "2.dng": b"raw", "3.dng": b"raw", "4.heic": b"phone", "4.txt": b"a dog"}
    write(tmp_path / "mixed.tar", members)
    images = stream(str(tmp_path / "mixed.tar"), cache=tmp_path / "cache")
    passes = images.read(seed=None, epoch=0, rank=0, world=1)
    assert [next(passes)[0] for _ in range(2)] == ["mixed.tar/1.png"] * 2
    assert [(item["name"], item["reason"].split(";")[0]) for item in images.skipped] == [
        ("*.dng", "raw photographs are not read"),
        ("*.heic", "it is not read without pillow-heif: pip install pillow-heif"),
    ]
    write(tmp_path / "raw.tar", {"2.dng": b"raw"})
    with pytest.raises(DataError, match=r"no image can be read from .*raw\.tar .*: \*\.dng: raw photographs"):
        stream(str(tmp_path / "raw.tar"), epoch_images=1, cache=tmp_path / "cache")
