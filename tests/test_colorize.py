"""The command `colorize`, run in this process on a few small photos."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import cli_folder, error_line, interrupt, save_image  # noqa: F401 (cli_folder is a fixture)
from PIL import Image
from skimage.color import rgb2lab

import ssl_pretext as sp
from ssl_pretext.cli import colorize, main

pytestmark = pytest.mark.usefixtures("cli_folder")


@pytest.mark.parametrize("size", [(63, 201), (1, 1), (400, 7)])
def test_colorize_keeps_size_and_lightness(size, tmp_path, capsys):
    gradient = np.linspace(60, 190, size[0] * size[1]).reshape(*size, 1).repeat(3, 2).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "gray.png")
    assert main(["colorize", "run", str(tmp_path / "gray.png"), "-o", str(tmp_path / "out.png")]) == 0
    assert "colored: " in capsys.readouterr().out
    colored = np.asarray(Image.open(tmp_path / "out.png"))
    assert colored.shape == gradient.shape
    inside = ((colored > 0) & (colored < 255)).all(-1)
    assert inside.mean() > 0.5
    assert np.ptp(colored, axis=-1).max() > 0, "no color"
    assert np.abs(rgb2lab(colored) - rgb2lab(gradient))[inside, 0].max() < 0.4  # rounding changes L by about 0.2


def test_a_large_photo_is_colored_in_strips(monkeypatch):
    task = sp.Colorization.from_pretrained("run/task")
    photo = sp.sample_photos("test", image_size=33).images([0])[0]
    expected = colorize.colorize_photo(task, photo)
    monkeypatch.setattr(colorize, "MAX_PIXELS", 100)
    assert torch.equal(colorize.colorize_photo(task, photo), expected)


def test_the_exif_orientation_is_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert main(["colorize", "run", str(tmp_path / "turned.png"), "-o", str(tmp_path / "out.tif")]) == 0
    with Image.open(tmp_path / "out.tif") as colored:
        assert colored.size == (24, 40)


def test_a_transparent_photo_is_colored_on_white(tmp_path):
    opacity = np.linspace(0, 255, 24).astype(np.uint8)[:, None, None]
    raw = np.full((24, 40, 1), 128, np.uint8) * np.ones(3, np.uint8)
    Image.fromarray(np.concatenate([raw, opacity * np.ones((1, 40, 1), np.uint8)], 2)).save(tmp_path / "clear.png")
    blended = np.rint(128 * (opacity / 255) + 255 * (1 - opacity / 255)) * np.ones((24, 40, 3))
    Image.fromarray(blended.astype(np.uint8)).save(tmp_path / "blended.png")
    for name in ("clear", "blended"):
        assert main(["colorize", "run", str(tmp_path / f"{name}.png"), "-o", str(tmp_path / f"{name}-out.png")]) == 0
    clear, expected = (
        np.asarray(Image.open(tmp_path / f"{name}-out.png")).astype(int) for name in ("clear", "blended")
    )
    assert clear.shape == (24, 40, 3)
    assert np.abs(clear - expected).max() <= 3


def test_a_folder_is_colored(tmp_path, capsys):
    assert main(["colorize", "run", "photos", "-o", str(tmp_path / "out")]) == 0
    assert "unreadable and skipped: 1, see" in capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.png"))
    (skipped,) = json.loads((tmp_path / "out/skipped.json").read_text())
    assert skipped["name"] == "photos/broken.jpg"


def test_photos_whose_names_differ_only_in_their_suffix_have_different_outputs(tmp_path):
    for name in ("a.jpg", "a.png"):
        save_image(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "photos" / name)
    assert main(["colorize", "run", str(tmp_path / "photos"), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.jpg.png", "a.png.png"}


def test_ctrl_c_leaves_only_complete_pictures(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.colorize.colorize_photo", interrupt)
    message = error_line(capsys, "colorize", "run", "photo.jpg", "-o", "never.png", code=130)
    assert "The pictures that were written are complete" in message
    assert not list(Path().glob("never*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run nowhere.jpg -o out.png", "there is no photo or folder nowhere.jpg"),
        ("run photo.jpg -o photo.jpg", "-o photo.jpg is the photo itself, which is never overwritten"),
        ("run photo.jpg -o photos/../photo.jpg", "is the photo itself"),
        ("run photo.jpg -o out.gif", "-o out.gif must end in one of .png, .jpg"),
        ("run photo.jpg -o photos.png", "-o photos.png is a folder; for a single photo, name an output file"),
        ("run photos -o photos", "one of the folders -o photos and photos contains the other"),
        ("run photos -o photos/out", "one of the folders -o photos/out and photos contains the other"),
        ("run photos -o photo.jpg", "-o photo.jpg is a file; for a folder of images, name an output folder"),
        ("run photos/broken.jpg -o out.png", "no photo could be read; photos/broken.jpg: UnidentifiedImageError"),
        ("run bands.npy -o out.png", "no photo could be read; bands.npy: it is not a photo, but 5 channels of float"),
        ("split photo.jpg -o out.png", "holds the task 'split_brain', which is not a Colorization"),
        ("sizeless photo.jpg -o out.png", "the task has no record of the image size that it was trained at"),
    ],
)
def test_wrong_requests_write_nothing(arguments, message, capsys):
    Path("photos.png").mkdir(exist_ok=True)
    np.save("bands.npy", np.zeros((5, 8, 8), np.float32))
    if arguments.startswith("split"):
        sp.SplitBrain("lab:L", "lab:ab", "autoencoder").save_pretrained("split")
    if arguments.startswith("sizeless"):
        sp.Colorization("autoencoder").save_pretrained("sizeless")
    before = Path("photo.jpg").read_bytes()
    assert message in error_line(capsys, "colorize", *arguments.split())
    assert Path("photo.jpg").read_bytes() == before
    assert not Path("out.png").exists()
