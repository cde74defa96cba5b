"""Bands on the command line: their names, their ranges, and the task that images get by default."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import SMALL, error_line

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.cli.bands import ImageFormat, choose_bands, default_task, image_format, read_bands
from ssl_pretext.errors import ArgumentError, MissingFileError

FIVE = ImageFormat(5, is_photo=False)


@pytest.fixture
def chips(tmp_path, monkeypatch):
    """Runs a test in a folder with `chips`, images of four correlated bands in two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for kind in ("field", "water"):
        Path("chips", kind).mkdir(parents=True)
        for number in range(8):
            one = rng.uniform(500, 3000, (1, 16, 16)) * np.array([1, 2, 3, 4]).reshape(4, 1, 1)
            np.save(Path("chips", kind, f"{number}.npy"), one.astype(np.uint16))


def contract(run: str) -> dict:
    return json.loads(Path(run, "task", "config.json").read_text())


def test_chips_without_any_option_get_a_split_brain(chips, capsys):
    assert main(["pretrain", "--data", "chips", "--out", "run", *SMALL]) == 0
    assert (
        "the images are not photos: split_brain predicts band3 and band4 from band1 and band2, and the reverse"
        in capsys.readouterr().out
    )
    saved = contract("run")
    assert (saved["task"], saved["options"]["first"]) == ("split_brain", "bands:band1,band2")
    pixels = sp.ImageStore.from_folder("chips", image_size=16).images().transpose(0, 1).flatten(1)
    assert saved["channel_spaces"][0]["center"] == pytest.approx(pixels.quantile(0.5, dim=1).tolist(), rel=1e-4)
    assert main(["pretrain", "--data", "chips", "--out", "run", "--resume", *SMALL]) == 0
    probe = ["probe", "run", "--data", "chips", "--probe", "knn", "--seeds", "2", "--device", "cpu"]
    assert main(probe) == 0
    assert "pixels bands" in capsys.readouterr().out
    stores = {*Path("cache").iterdir()}
    for name in ("a/1.npy", "b/2.npy"):
        Path("photos", name).parent.mkdir(parents=True)
        np.save(Path("photos", name), np.zeros((3, 16, 16), np.uint8))
    for command in ("probe", "compare", "finetune"):
        line = error_line(capsys, command, "run", "--data", "photos")
        assert "run was trained on images with 4 channels, but those in photos have 3, such as a/1.npy; name im" in line
    Path("photos.csv").write_text("file,label\nphotos/a/1.npy,a\nphotos/b/2.npy,b\n")
    with tarfile.open("photos.tar", "w") as tar:
        tar.add("photos/a/1.npy", "1.npy")
    for arguments in (
        ("probe", "run", "--data", "chips", "--test", "photos"),
        ("probe", "run", "--data", ".", "--labels", "photos.csv"),
        ("embed", "run", "--data", "photos", "--out", "f.npy"),
        ("embed", "run", "--data", "photos.tar", "--out", "f.npy"),
    ):
        assert "run was trained on images with 4 channels, but those in" in error_line(capsys, *arguments)
    assert {path for path in Path("cache").iterdir() if path.is_dir()} == {path for path in stores if path.is_dir()}


def test_named_bands_are_predicted_from_each_other(chips):
    task = "cross_channel[source=B02+B03;target=B08]"
    command = ["pretrain", "--data", "chips", "--bands", "B02,B03,B04,B08", "--task", task, "--out", "run", *SMALL]
    assert main(command) == 0
    options = contract("run")["options"]
    assert (options["source"], options["target"]) == ("bands:B02,B03", "bands:B08")
    loaded = sp.PretextTask.from_pretrained("run")
    assert loaded.source.space.is_measured
    assert main([*command[:3], "--config", "run/pretrain.yaml", "--out", "again"]) == 0
    assert contract("again")["options"] == options


def test_other_tasks_see_all_bands_and_given_ranges(chips):
    Path("bands.yaml").write_text(
        "- {name: near infrared, position: 4, center: 6000, scale: 4000}\n"
        "- {name: blue, position: 1, center: 1700, scale: 1000}\n"
    )
    command = ["pretrain", "--data", "chips", "--bands", "bands.yaml", "--task", "denoising", "--out", "run", *SMALL]
    assert main(command) == 0
    assert contract("run")["options"]["channels"] == "bands:near infrared,blue"
    space = contract("run")["channel_spaces"][0]
    assert space["channels"] == ["blue", "band2", "band3", "near infrared"]
    assert space["center"] == [1700, 0, 0, 6000]


def test_a_value_means_missing_in_one_band_and_is_valid_in_another(chips, capsys):
    arrays = {path: np.load(path) for path in sorted(Path("chips").rglob("*.npy"))}
    for path, values in arrays.items():
        values[:, 3:6, 3:6] = 0
        values[3, 8, 8] = 65535
        np.save(path, values)
    stacked = np.stack([*arrays.values()]).astype(np.float32)
    stacked[:, 1][stacked[:, 1] == 0] = np.nan
    stacked[:, 3][stacked[:, 3] == 65535] = np.nan
    Path("bands.yaml").write_text("[blue, {name: green, missing: 0}, red, {name: near infrared, missing: 65535}]")
    command = ["pretrain", "--data", "chips", "--bands", "bands.yaml", "--out", "run", *SMALL]
    assert main([*command, "--probe-data", "chips"]) == 0
    store = sp.ImageStore.from_folder("chips", image_size=16, missing={"band2": 0, "band4": 65535})
    np.testing.assert_array_equal(store.images(), stacked)
    probe = ["probe", "run", "--data", "chips", "--probe", "knn", "--seeds", "2", "--device", "cpu"]
    assert main([*probe, "--missing", "band2=0,band4=65535"]) == 0
    labeled = [*Path("cache").glob("*/index.json")]
    assert len(labeled) == 2, "with and without labels; all commands read the same images"
    assert "both say which value means missing" in error_line(capsys, *command, "--missing", "0", "--out", "other")
    line = error_line(capsys, *probe, "--missing", "band5=0")
    assert "missing names the channel 'band5', which the image does not have. Did you mean" in line
    assert "Its channels are band1, band2, band3 and band4" in line
    assert "--missing must be a number, or numbers with the names" in error_line(capsys, *probe, "--missing", "none")


def test_missing_values_are_named_like_the_channels_of_the_files(chips):
    for path in Path("chips").rglob("*.npy"):
        image = np.load(path)
        image[:, 0, 0] = 7
        for number, name in enumerate(("depth", "rgb")):
            Path("parts", path.parent.name, name).mkdir(parents=True, exist_ok=True)
            np.save(Path("parts", path.parent.name, name, path.name), image[number * 2 : number * 2 + 2 - number])
    pattern = "{label}/{channel:rgb|depth}/{id}.npy"
    options = {"image_size": None, "pattern": pattern}
    plain = sp.ImageStore.from_folder("parts", **options)
    assert plain.channel_names == ["rgb", "depth.1", "depth.2"]
    for missing, channel in (({"depth.2": 7}, 2), ({"rgb": 7}, 0), ({"band2": 7}, 1)):
        images, expected = sp.ImageStore.from_folder("parts", **options, missing=missing).images(), plain.images()
        expected[:, channel][expected[:, channel] == 7] = torch.nan
        np.testing.assert_array_equal(images, expected)
        assert images.isnan().sum() == len(images)


def test_names_in_the_files_are_used(monkeypatch):
    store = sp.ImageStore.from_arrays(torch.zeros(2, 3, 8, 8), [0, 0])
    store.channel_names = ["BF", "DNA stain", "DF"]
    assert choose_bands(None, image_format(store)).names == ("BF", "DNA stain", "DF")
    for unusable in (["x", "x", "y"], ["x", "", "y"], ["x", "y"]):
        store.channel_names = unusable
        assert choose_bands(None, image_format(store)).names == ("band1", "band2", "band3")


def test_colors_of_photos_are_matched_and_one_channel_is_inpainted():
    photos = image_format(sp.ImageStore.from_arrays(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 0]))
    assert choose_bands(None, photos) is None
    assert default_task("colorization", None) == ("colorization", {}, None)
    assert default_task(None, None)[:2] == ("cross_channel_contrast[first=lab:L;second=lab:ab]", {})
    named = choose_bands(read_bands("A,B,C"), photos)  # bands of 8 bits, if they are named
    assert default_task(None, named)[1] == {"first": named.space["A"], "second": named.space["B", "C"]}
    one = choose_bands(None, ImageFormat(1, is_photo=False))
    assert default_task(None, one)[:2] == ("inpainting", {"channels": one})
    assert default_task("rotation", one)[1] == {"channels": one}
    assert default_task("rotation[channels=band1]", one)[1] == {}
    assert default_task("cross_channel[source=band1;target=band1]", one)[1] == {}


def test_errors_say_what_is_wrong(chips, capsys, tmp_path):
    data = ["pretrain", "--data", "chips", "--out", "run", *SMALL]
    assert "--bands names 3 bands, but the images have 4 channels" in error_line(capsys, *data, "--bands", "A,B,C")
    line = error_line(capsys, *data, "--task", "cross_channel[source=band1;target=B8]")
    assert "there is no channel space and no channel 'B8'; " in line
    assert "bands has the channels band1, band2, band3, band4" in line
    line = error_line(capsys, *data, "--task", "colorization")
    assert "colorization takes images with 3 channels, but those in chips have 4" in line
    assert "there is no task named 'denoise'" in error_line(capsys, *data, "--task", "denoise")
    assert not Path("run").exists() or not list(Path("run").iterdir())
    for text, match in [("A,,B", "each name must not be empty"), ("A,B,A", "each band once, got 'A' twice")]:
        with pytest.raises(ArgumentError, match=match):
            read_bands(text)
    with pytest.raises(MissingFileError, match="should be a YAML file"):
        read_bands("missing.yaml")
    for content, match in [
        ("A: 1", "must contain a list of bands"),
        ("[[A]]", "must contain a list of bands"),
        ("[{center: 1}]", "needs a name"),
        ("[{name: A, gain: 1}]", "Band has no field gain; its fields are center, missing, name, position, scale"),
        ("[{name: A, center: x}]", "Band.center must be a number or None, got 'x'"),
        ("[{name: A, center: .nan}]", "the center of the band 'A' must be a finite number, got nan"),
        ("[{name: A, scale: .inf}]", "the scale of the band 'A' must be a finite number, got inf"),
        ("[{name: A, missing: .nan}]", "the missing value of the band 'A' must be a finite number, got nan"),
        ("[{name: A, center: 1}, B]", "give center for all bands or for none; B has none"),
    ]:
        Path("bands.yaml").write_text(content)
        with pytest.raises(ArgumentError, match=match):
            read_bands("bands.yaml")
    for positions in ("0, 2", "2, 6", "3, 3"):
        first, second = positions.split(", ")
        Path("bands.yaml").write_text(f"[{{name: A, position: {first}}}, {{name: B, position: {second}}}]")
        with pytest.raises(ArgumentError, match=rf"must differ and be from 1 to 5, .* got \[{positions}\]"):
            choose_bands(read_bands("bands.yaml"), FIVE)


def test_bands_of_shards(chips, monkeypatch):
    with tarfile.open("train.tar", "w") as tar:
        for file in sorted(Path("chips").rglob("*.npy")):
            tar.add(file, arcname=f"{file.parent.name}{file.name}")
    assert main(["pretrain", "--data", "train.tar", "--out", "run", *SMALL]) == 0
    assert contract("run")["options"]["second"] == "bands:band3,band4"
