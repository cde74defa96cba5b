"""The page of a run shows its losses and examples after each epoch."""

from pathlib import Path

import pytest
import torch
from training_runs import noise_store, small_encoder, small_task

import ssl_pretext as sp
from ssl_pretext.channels import ChannelSpace
from ssl_pretext.reporting.page import Section, image_to_png
from ssl_pretext.system.files import read_json
from ssl_pretext.training.page_callbacks import PagePart
from ssl_pretext.training.run_page import describe_training, example_sections, loss_sections


class Part(PagePart):
    """A part of the page that says how often it was asked, and what the page was before."""

    def __init__(self, page: Path) -> None:
        self.page, self.found = page, []

    def sections(self) -> list[Section]:
        self.found.append(self.page.read_text() if self.page.exists() else None)
        return [Section(f"asked {len(self.found)} times")]


def test_fit_writes_a_page_after_each_epoch(tmp_path):
    task, page = small_task(), tmp_path / "report.html"
    part = Part(page)
    config = sp.FitConfig(out=tmp_path, epochs=2, batch_size=20, device="cpu")
    history = sp.fit(task, noise_store(), config, validation=noise_store(8), callbacks=[part])
    assert part.found[0] is None
    assert "trained for 1 of 2 epochs on 40 images of 16×16 px" in part.found[1]
    text = page.read_text()
    assert "trained for 2 epochs on 40 images of 16×16 px" in text
    assert f"After epoch 2 it is {history[-1]['train_loss']:.4g}, and {history[-1]['val_loss']:.4g} on the" in text
    assert text.count('<div class="tile ') == 12, "input, prediction and original of four images"
    assert "asked 2 times" in text
    assert f"ssl-pretext probe {tmp_path} --data LABELED_FOLDER" in text
    assert describe_training(task) in text
    assert read_json(tmp_path / "history.json")[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-12), "of a cosine"


def test_losses_that_are_not_finite_are_left_out_and_terms_are_shown():
    row = {"train_loss": 2.0, "val_loss": None, "terms": {"l1": 1.5, "l2": 0.5}}
    losses, more = loss_sections([{"epoch": 1, **row}, {"epoch": 2, **row}])
    assert "validation" not in losses.drawings[0].svg
    assert "l1" in more.drawings[0].svg
    assert loss_sections([]) == []


def test_examples_show_the_prediction():
    task, photos = small_task(), noise_store(4)
    (section,) = example_sections(task, photos)
    (gallery,) = section.galleries
    predicted = task.predict(photos.images([0]))
    assert gallery.tiles[1].png == image_to_png(predicted[0])
    assert gallery.tiles[2].png == image_to_png(photos.images([0])[0].float() / 255)
    assert example_sections(sp.create_task("rotation", encoder="autoencoder[width=0.125]"), photos) == []


def test_examples_of_bands_are_on_the_scale_of_the_original():
    space = ChannelSpace.bands("cells", ["bright field", "DNA"], center=1000.0, scale=500.0)
    task = sp.CrossChannelPrediction(space["bright field"], space["DNA"], small_encoder())
    images = sp.ImageStore.from_arrays(900 + 200 * torch.rand(2, 2, 16, 16))
    (section,) = example_sections(task, images)
    original = images.images([0])[0, 1:]
    low, high = original.quantile(0.02), original.quantile(0.98)
    tiles = section.galleries[0].tiles
    assert tiles[2].png == image_to_png(((original - low) / (high - low)).clamp(0, 1))
    assert tiles[1].png == image_to_png(((task.predict(images.images([0]))[0] - low) / (high - low)).clamp(0, 1))


def test_a_task_without_a_record_says_so():
    assert "without a record of its training" in describe_training(small_task())
