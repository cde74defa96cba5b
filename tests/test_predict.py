"""The command `predict` and `task.predict`, on small images with bands."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from cli_runs import error_line, interrupt
from PIL import Image
from torch import nn

import ssl_pretext as sp
from ssl_pretext.cli import main, predict
from ssl_pretext.data.sources import RESIZE_RULE
from ssl_pretext.saving.contract import TrainedOn

CELLS = sp.ChannelSpace.bands("cells", ["BF", "DNA", "DF"], center=[900.0, 1000.0, 500.0], scale=[300.0, 1000.0, 400.0])
ENCODER = "timm/resnet10t[layer=layer1]"


def cell_task(resize: "str | None" = "none", size: int = 16, target: "tuple[str, ...]" = ("DNA",), space=CELLS):
    torch.manual_seed(0)
    task = sp.create_task("cross_channel", source=space["BF"], target=space[target], encoder=ENCODER, decoder="unet")
    task.trained_on = TrainedOn(image_size=size, resize=resize)
    return task.eval()


def cells(height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 1500, (3, height, width)).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs a test in a folder with a saved task in `run`, and images in `images`."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cell_task().save_pretrained("run")
        Path("images/G1").mkdir(parents=True)
        np.save("images/G1/a.npy", cells())
        np.save("images/b.npy", cells(20, 41, seed=1)[:1])  # only the channel that the task sees
        np.save("images/two.npy", cells()[:2])
        Path("images/broken.npy").write_text("no array")
        tifffile.imwrite("images/c.tif", cells(seed=2), photometric="minisblack")
        yield folder


# task.predict


def test_predictions_are_in_the_units_of_the_images_whatever_the_mode_and_the_batch():
    task = cell_task()
    images = torch.from_numpy(np.stack([cells(seed=i).astype(np.float32) for i in range(70)]))
    predicted = task.predict(images)
    assert predicted.shape == (70, 1, 16, 16)
    assert not predicted.requires_grad
    with torch.no_grad():
        expected = task(images).prediction * 1000 + 1000
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=0.01)
    images[:, 1:] = torch.nan  # neither the target nor the other channels are read
    task.train()
    torch.testing.assert_close(task.predict(images[3:5]), expected[3:5], rtol=1e-4, atol=0.01)
    assert task.training


def test_spaces_with_functions_predict_in_the_units_of_the_images():
    functions = {"convert": torch.log1p, "convert_back": torch.expm1}
    space = sp.ChannelSpace("logs", ("BF", "DNA", "DF"), (6.0,) * 3, (1.0,) * 3, **functions)
    task = cell_task(space=space, target=("DF", "DNA"))
    images = torch.from_numpy(cells().astype(np.float32))[None]
    with torch.no_grad():
        expected = torch.expm1(task(images).prediction + 6)
    torch.testing.assert_close(task.predict(images), expected, rtol=1e-4, atol=1e-3)


def test_targets_of_a_color_space_are_predicted_as_photos():
    photos = torch.rand(2, 3, 16, 16)
    task = sp.CrossChannelPrediction("lab:ab", "lab:L", ENCODER).eval()
    predicted = task.predict(photos)
    assert predicted.shape == (2, 3, 16, 16)
    assert 0 <= predicted.min() <= predicted.max() <= 1
    rgb = sp.CrossChannelPrediction("lab:L", "rgb", ENCODER).eval()
    with torch.no_grad():
        torch.testing.assert_close(rgb.predict(photos), (rgb(photos).prediction + 1) / 2, rtol=0, atol=1e-5)


# The prediction as a representation


def test_the_prediction_is_a_representation_that_is_saved_and_has_an_untrained_control(tmp_path):
    task = cell_task()
    images = torch.from_numpy(np.stack([cells(seed=i).astype(np.float32) for i in range(3)]))
    map_, mean = task.prediction_representation(), task.prediction_representation("stain", pooling="gap")
    assert (map_.name, mean.name) == ("cross_channel:(prediction)", "stain")
    normalized = (task.predict(images) - 1000) / 1000
    torch.testing.assert_close(map_.features(images), normalized, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean.features(images)[:, :, 0, 0], normalized.mean((2, 3)), rtol=1e-4, atol=1e-5)
    twin = map_.untrained(3)
    torch.testing.assert_close(twin.features(images), task.untrained(3).prediction_representation().features(images))
    both = task.feature_maps(images, ["layer1", predict_layer := map_.layer, ""])
    assert list(both) == ["layer1", "", predict_layer]
    for one in (map_, mean):
        sp.save_representation(one, tmp_path / one.name)
        loaded = sp.load_representation(tmp_path / one.name)
        assert loaded.describe == one.describe
        assert torch.equal(loaded.features(images), one.features(images))
    with pytest.raises(sp.PretextError, match="needs a class token, and layer .* of cross_channel has none"):
        task.prediction_representation(pooling="cls")


def test_evaluate_probes_the_prediction():
    class Stain(nn.Module):
        """Returns the level of each image, so that the decoder predicts it."""

        def forward(self, images):
            return images

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    pixels = torch.randn(40, 3, 8, 8, generator=generator) * 300 + 900
    pixels[:, 0] += 600 * labels[:, None, None]
    task = sp.CrossChannelPrediction(CELLS["BF"], CELLS["DNA"], Stain(), decoder=nn.Conv2d(1, 1, 1))
    store = sp.ImageStore.from_arrays(pixels, labels)
    prediction = {"mean stain": task.prediction_representation(pooling="gap")}
    report = sp.evaluate(prediction, store, store, probe="knn", seeds=2, controls=False)
    assert report.values("mean stain") == [1, 1]


# The command


def test_a_folder_is_predicted(folder, capsys):
    assert main(["predict", "run", "images", "-o", "out", "--device", "cpu"]) == 0
    assert "predicted cells:DNA of 3 images: out; unreadable and skipped: 2, see" in capsys.readouterr().out
    files = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert files == ["G1/a.npy", "b.npy", "c.tif", "skipped.json"]
    skipped = {item["name"]: item["reason"] for item in json.loads(Path("out/skipped.json").read_text())}
    assert skipped["images/two.npy"] == (
        "it has 2 channels; the task takes BF, DNA, DF, or only those that it predicts from, BF"
    )
    task = sp.PretextTask.from_pretrained("run")
    for file, written in (("G1/a.npy", np.load("out/G1/a.npy")), ("c.tif", tifffile.imread("out/c.tif")[None])):
        read = np.load(f"images/{file}") if file.endswith("npy") else tifffile.imread(f"images/{file}")
        expected = task.predict(torch.from_numpy(read.astype(np.float32))[None])[0]
        assert written.dtype == np.float32
        np.testing.assert_allclose(written.reshape(expected.shape), expected, rtol=1e-4, atol=0.05)
    assert np.load("out/b.npy").shape == (1, 20, 41)


def test_tiles_are_blended_without_edges():
    """A task whose prediction is a function of pixels gives the same in tiles and at once."""

    task = sp.CrossChannelPrediction(CELLS["BF"], CELLS["DNA"], nn.Conv2d(1, 2, 1), decoder=nn.Conv2d(2, 1, 1)).eval()
    image = torch.from_numpy(cells(37, 50).astype(np.float32))
    expected = task.predict(image[None])[0]
    for size in (8, 16, (10, 70), 50):
        task.trained_on = TrainedOn(image_size=size, resize="none")
        torch.testing.assert_close(predict.predict_image(task, image), expected, rtol=1e-4, atol=0.05)


def test_images_are_resized_as_for_training_and_the_prediction_back():
    task = cell_task(RESIZE_RULE.format(16))
    image = torch.from_numpy(cells(32, 64).astype(np.float32))
    sizes = []
    task.encoder.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].shape))
    task.encoder.output_and_maps = lambda images, layers, own=task.encoder.output_and_maps: (
        sizes.append(images.shape) or own(images, layers)
    )
    assert predict.predict_image(task, image).shape == (1, 32, 64)
    assert sizes == [(3, 1, 16, 16)]  # 16 × 32 pixels in three tiles that overlap by half


def test_georeferenced_files_stay_so(folder):
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4600000)
    about = {"driver": "GTiff", "height": 20, "width": 30, "count": 3, "dtype": "uint16", "nodata": 0}
    values = cells(20, 30)
    values[:, :4] = 0
    with rasterio.open("scene.tif", "w", **about, crs="EPSG:32633", transform=transform) as file:
        file.write(values)
    assert main(["predict", "run", "scene.tif", "-o", "georeferenced", "--device", "cpu"]) == 0
    with rasterio.open("georeferenced/scene.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.descriptions) == (32633, transform, ("DNA",))
        assert (file.height, file.width, file.dtypes) == (20, 30, ("float32",))
        assert np.isnan(file.read()[:, :4]).all()  # nothing was seen there
        assert np.isfinite(file.read()[:, 4:]).all()
    assert not Path("georeferenced/skipped.json").exists()


def test_pngs_hold_the_integers_of_the_files(folder):
    Path("pngs").mkdir()
    np.save("pngs/deep.npy", cells())
    np.save("pngs/float.npy", cells().astype(np.float32))
    assert main(["predict", "run", "pngs", "-o", "png-out", "--format", "png", "--device", "cpu"]) == 0
    (skipped,) = json.loads(Path("png-out/skipped.json").read_text())
    assert "its values are float, which a PNG file cannot hold" in skipped["reason"]
    task = sp.PretextTask.from_pretrained("run")
    expected = task.predict(torch.from_numpy(cells().astype(np.float32))[None])[0, 0]
    written = np.asarray(Image.open("png-out/deep.png"))
    assert np.abs(written - expected.numpy().clip(0, 65535)).max() <= 0.6


def test_files_of_a_plate_are_joined_and_only_the_source_is_needed(folder):
    Path("plate").mkdir()
    for well in ("A01", "A02"):
        tifffile.imwrite(f"plate/{well}_wBF.tif", cells()[0])
        tifffile.imwrite(f"plate/{well}_wDF.tif", cells()[2])
    assert (
        main(["predict", "run", "plate", "--pattern", "{well}_w{channel}.tif", "-o", "wells", "--device", "cpu"]) == 0
    )
    expected = sp.PretextTask.from_pretrained("run").predict(torch.from_numpy(cells().astype(np.float32))[None])[0, 0]
    np.testing.assert_allclose(tifffile.imread("wells/A02.tif").squeeze(), expected, rtol=1e-4, atol=0.05)


def test_ctrl_c_leaves_only_complete_predictions(folder, capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.predict.predict_image", interrupt)
    message = error_line(capsys, "predict", "run", "images/b.npy", "-o", "never", code=130)
    assert "The predictions that were written are complete" in message
    assert not list(Path().glob("never/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run nowhere.npy -o refused", "there is no image or folder nowhere.npy"),
        ("run images -o images/out", "one of the folders -o images/out and images contains the other"),
        ("run images -o images/b.npy", "contains the other"),
        ("run images/b.npy -o images/c.tif", "-o images/c.tif is a file"),
        ("run images/broken.npy -o refused", "no image could be read; images/broken.npy: "),
        ("run images/two.npy -o refused", "no image could be read; images/two.npy: it has 2 channels"),
        ("run images/b.npy --pattern {id}.npy -o refused", "--pattern is for folders only"),
        ("run images/b.npy -o refused --format bmp", "--format"),
        ("colors images/b.npy -o refused", "holds a colorization; use ssl-pretext colorize"),
        ("sizeless images/b.npy -o refused", "the task has no record of the image size that it was trained at"),
        (
            "tiled images/b.npy -o refused",
            "was trained on tiles that were resized (tiles of 64 px, stride 32 px; s",
        ),
        ("turned images/b.npy -o refused", "holds the task 'rotation', which is not a CrossChannelPrediction"),
        (
            "pair images/b.npy -o refused --format png",
            "a PNG file cannot hold cells:DNA,DF; choose --format tif",
        ),
    ],
)
def test_wrong_requests_write_nothing(folder, arguments, message, capsys):
    run = arguments.split()[0]
    if run == "colors":
        sp.Colorization(ENCODER).save_pretrained(run)
    elif run == "turned":
        sp.create_task("rotation", channels=CELLS["BF"], encoder=ENCODER).save_pretrained(run)
    elif run != "run":
        rules = {"tiled": f"tiles of 64 px, stride 32 px; {RESIZE_RULE.format(16)}"}
        task = cell_task(rules.get(run, "none"), target=("DNA", "DF") if run == "pair" else ("DNA",))
        if run == "sizeless":
            task.trained_on = TrainedOn()
        task.save_pretrained(run)
    assert message in error_line(capsys, "predict", *arguments.split())
    assert not Path("refused").exists()
