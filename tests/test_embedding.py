"""Embeddings of images: tasks and networks, tensors, stores, streams; files of features in three formats."""

import csv

import h5py
import numpy as np
import pandas
import pytest
import torch
from probing import random_store

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.representations import Embeddings
from ssl_pretext.representations.embedding import blocks_of


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return sp.create_task("colorization", encoder="autoencoder[width=0.25]")


def expected(task, images, layer=None):
    """The mean of each feature map over all positions, computed without the library's pooling."""
    return task.features(images, layer).detach().numpy().mean(axis=(2, 3))


def test_a_task_embeds_images_as_the_mean_of_its_feature_maps(task, monkeypatch):
    monkeypatch.setattr("ssl_pretext.representations.embedding.BLOCK", 4)
    images = random_store(10).images()
    found = task.embed(images)
    assert found.features.shape == (10, task.shape.channels)
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, expected(task, images), rtol=1e-5, atol=1e-6)
    assert found.names == [str(i) for i in range(10)]
    assert found.labels is None
    layer = task.layers()[0]
    np.testing.assert_allclose(
        task.embed(images, layer=layer).features, expected(task, images, layer), rtol=1e-5, atol=1e-6
    )


def test_map_pooling_flattens_all_positions(task):
    images = random_store(3).images()
    found = task.embed(images.numpy(), pooling="map")
    np.testing.assert_allclose(found.features, task.features(images).detach().flatten(1).numpy(), rtol=1e-5, atol=1e-6)


def test_labels_and_names_are_those_of_the_store(task):
    store = sp.ImageStore.from_arrays(
        random_store(3).images(), [1, 0, 1], classes=["cat", "dog"], names=["a.png", "b.png", "c.png"]
    )
    store.labels[2] = -1
    found = task.embed(store)
    assert (found.names, found.labels) == (["a.png", "b.png", "c.png"], ["dog", "cat", ""])
    assert task.embed((store.images(), [0, 0, 1])).labels == ["0", "0", "1"]


def test_a_frozen_network_embeds_a_data_set():
    network = sp.FrozenNetwork("timm/resnet10t")
    images = random_store(4, size=32).images()
    dataset = torch.utils.data.TensorDataset(images)
    found = network.embed(dataset)
    maps = network.representation().features(images)
    np.testing.assert_allclose(found.features, maps.detach().numpy().mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_refused(task):
    with pytest.raises(ArgumentError, match="images must be an ImageStore, a dataset or a loader"):
        task.embed(3)
    with pytest.raises(ArgumentError, match="got no images"):
        task.embed(random_store(2).subset([]))
    with pytest.raises(ArgumentError, match="pooling must be one of"):
        task.embed(random_store(2), pooling="mean")


def test_blocks_cover_a_store_once(monkeypatch):
    monkeypatch.setattr("ssl_pretext.representations.embedding.BLOCK", 4)
    assert [list(block) for block in blocks_of(random_store(6))] == [[0, 1, 2, 3], [4, 5]]


NAMES = ["ä/1.png", 'with "quotes",\nand a line.png', "bytes\udc80.png"]
WRITTEN = [*NAMES[:2], "bytes\\udc80.png"]
FEATURES = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
@pytest.mark.parametrize("labels", [None, ["x", "", "y"]])
def test_files_return_what_was_saved(suffix, labels, tmp_path):
    path = tmp_path / f"features{suffix}"
    Embeddings(FEATURES, NAMES, labels).save(path)
    found = Embeddings.load(path)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert (found.names, found.labels) == (WRITTEN, labels)


def test_other_libraries_read_the_files(tmp_path):
    found = Embeddings(FEATURES, WRITTEN, ["x", "", "y"])
    for suffix in (".npy", ".parquet", ".h5"):
        found.save(tmp_path / f"f{suffix}")
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), FEATURES)
    with (tmp_path / "f.names.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["file", "label"], *map(list, zip(WRITTEN, ["x", "", "y"], strict=True))]
    frame = pandas.read_parquet(tmp_path / "f.parquet")
    assert list(frame.columns) == ["file", "label", "features"]
    np.testing.assert_array_equal(np.stack(frame["features"]), FEATURES)
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file["features"][:], FEATURES)
        assert [name.decode() for name in file["file"][:]] == WRITTEN


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"ends in \.npy, \.parquet, \.h5; got .*features.txt"):
        Embeddings(FEATURES, NAMES).save(tmp_path / "features.txt")
    with pytest.raises(MissingFileError, match="there is no file .*none.npy of features"):
        Embeddings.load(tmp_path / "none.npy")
    np.save(tmp_path / "other.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(MissingFileError, match="there is no file .*other.names.csv of features"):
        Embeddings.load(tmp_path / "other.npy")
    (tmp_path / "other.names.csv").write_text("file\na\n")
    with pytest.raises(CheckpointError, match="does not hold one row of features for each name"):
        Embeddings.load(tmp_path / "other.npy")
    for suffix in (".parquet", ".h5"):
        (tmp_path / f"bad{suffix}").write_text("nothing")
        with pytest.raises(CheckpointError, match="does not hold features as"):
            Embeddings.load(tmp_path / f"bad{suffix}")
    assert not list(tmp_path.glob("*.part"))
