"""The folder with photos and a trained run in which the tests of the commands run, and helpers for them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import ssl_pretext as sp
from ssl_pretext.cli import main

SMALL = [
    *("--encoder", "autoencoder", "--precision", "32-true", "--memory-format", "contiguous"),
    *("--image-size", "16", "--epochs", "1", "--batch-size", "8", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def cli_folder(tmp_path_factory):
    """Runs a test in a folder with `photos`, `labeled`, `labeled_test`, `photo.jpg` and a trained `run`."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SSL_PRETEXT_CACHE", str(folder / "cache"))
        patch.setattr("ssl_pretext.data.samples.MAX_PATCHES", {"train": 6, "test": 2})
        for split, name in (("train", "labeled"), ("test", "labeled_test")):
            store = sp.sample_photos(split, image_size=32)
            for i in (store.labels < 3).nonzero().flatten().tolist():
                save_image(store.images([i])[0], Path(name, store.classes[store.labels[i]], f"{i}.png"))
        shutil.copytree("labeled", "photos")
        Path("photos/broken.jpg").write_text("no photo")
        save_image(sp.sample_photos("test", image_size=64).images([5])[0], Path("photo.jpg"))
        assert main(["pretrain", "--data", "photos", "--task", "colorization", "--out", "run", *SMALL]) == 0
        yield folder


def save_image(pixels: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def save_two_channels(folder: str, count: int = 4) -> None:
    """Saves images with two channels of two classes."""
    for i in range(count):
        path = Path(folder, "ab"[i % 2], f"{i}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((2, 16, 16), i, np.float32))


def error_line(capsys, *arguments: str, code: int = 2) -> str:
    """Runs a command that fails with an exit code; returns its error message, which must be one line."""
    assert main(arguments) == code
    line = capsys.readouterr().err
    assert line.startswith("ssl-pretext: ")
    assert line.count("\n") == 1
    return line


def interrupt(*_arguments, **_options):
    """Replaces a slow function in the tests of Ctrl-C."""
    raise KeyboardInterrupt
