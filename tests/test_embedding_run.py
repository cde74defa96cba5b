"""Embedding to a file: resumed after a stop, refused with other settings, and the same whatever the blocks are."""

import json
import logging

import numpy as np
import pytest
import torch
from probing import random_store
from test_stream import encoded, photo, write

import ssl_pretext as sp
from ssl_pretext.errors import CheckpointError, DataError
from ssl_pretext.representations import Embeddings
from ssl_pretext.representations import embedding_run as run
from ssl_pretext.representations.embedding_run import card_file, embed_to_file


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("ssl_pretext.representations.embedding.BLOCK", 4)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return sp.create_task("colorization", encoder="autoencoder[width=0.25]")


def write_features(task, images, path, *, pooling="gap"):
    embed_to_file(task.representation(pooling=pooling), images, path, settings={"made": "here"})


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_the_file_holds_what_embed_returns(task, suffix, tmp_path):
    images, path = random_store(10), tmp_path / f"f{suffix}"
    write_features(task, images, path)
    found, expected = Embeddings.load(path), task.embed(images)
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-6)
    assert (found.names, found.labels) == (expected.names, expected.labels)
    card = json.loads(card_file(path).read_text())
    assert card.items() >= {"images": 10, "features": task.shape.channels, "made": "here", "skipped": []}.items()
    kept = {path.name, f"{path.name}.json", *(["f.names.csv"] if suffix == ".npy" else [])}
    assert {file.name for file in tmp_path.iterdir()} == kept


def stopping_at(number, monkeypatch):
    """Lets the computation of one block fail; returns a list to which each computed block is added."""
    computed, embed_block = [], run.embed_block

    def stop(representation, images, block, **options):
        if len(computed) == number:
            raise KeyboardInterrupt
        computed.append(block)
        return embed_block(representation, images, block, **options)

    monkeypatch.setattr(run, "embed_block", stop)
    return computed


def test_a_stopped_run_continues_after_its_finished_blocks(task, tmp_path, monkeypatch, caplog):
    images, path = random_store(10), tmp_path / "f.npy"
    with monkeypatch.context() as patch:
        stopping_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            write_features(task, images, path)
    assert [file.name for file in tmp_path.iterdir()] == ["f.npy.parts"]
    with pytest.raises(CheckpointError, match="holds the unfinished features of other images"):
        write_features(task, random_store(9), path)
    with pytest.raises(CheckpointError, match="choose another file with --out, or remove the folder"):
        write_features(task, images, path, pooling="map")
    computed = stopping_at(None, monkeypatch)
    write_features(task, images, path)
    assert computed == [range(8, 10)]
    np.testing.assert_allclose(np.load(path), task.embed(images).features, rtol=1e-5, atol=1e-6)
    with caplog.at_level(logging.INFO):
        write_features(task, images, path)
    assert "f.npy is complete; nothing is computed again" in caplog.text
    assert len(computed) == 1


def test_a_run_that_was_killed_before_its_card_is_finished(task, tmp_path, monkeypatch):
    images, path = random_store(10), tmp_path / "f.npy"

    def killed(file, value, write=run.write_json):
        if file == card_file(path):
            raise KeyboardInterrupt
        write(file, value)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            write_features(task, images, path)
    assert path.exists()
    assert stopping_at(None, monkeypatch) == []
    write_features(task, images, path)
    assert json.loads(card_file(path).read_text())["images"] == 10
    assert not (tmp_path / "f.npy.parts").exists()


def test_a_complete_file_of_other_features_is_kept(task, tmp_path):
    path = tmp_path / "f.npy"
    write_features(task, random_store(5), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="exists and holds other features"):
        write_features(task, random_store(6), path)
    assert path.read_bytes() == before
    assert not (tmp_path / "f.npy.parts").exists()
    card_file(path).unlink()
    with pytest.raises(CheckpointError, match="exists and holds other features"):
        write_features(task, random_store(5), path)


def test_shards_are_embedded_once_in_their_order(task, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    for shard, numbers in enumerate(([0, 1, 2, 3, 4], [], [5, 6])):
        members = {f"{number}.png": encoded(photo(number)) for number in numbers}
        write(tmp_path / f"{shard}.tar", members | {"x.png": b"broken"})
    stream = sp.ImageStream(str(tmp_path / "{0..2}.tar"), image_size=16)
    write_features(task, stream, tmp_path / "f.h5")
    found = Embeddings.load(tmp_path / "f.h5")
    assert found.names == [*(f"0.tar/{number}.png" for number in range(5)), "2.tar/5.png", "2.tar/6.png"]
    assert found.labels is None
    pixels = [torch.from_numpy(pixels) for shard in stream.names for _, pixels in stream.read_once(shard)]
    np.testing.assert_allclose(found.features, task.embed(torch.stack(pixels)).features, rtol=1e-5, atol=1e-6)
    skipped = json.loads(card_file(tmp_path / "f.h5").read_text())["skipped"]
    assert [item["name"] for item in skipped] == ["0.tar/x.png", "1.tar/x.png", "2.tar/x.png"]


def test_shards_without_readable_images_leave_no_file(task, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "0.tar", {"0.png": encoded(photo(0))})
    stream = sp.ImageStream(str(tmp_path / "0.tar"), image_size=16)
    write(tmp_path / "0.tar", {"0.png": b"broken"})
    with pytest.raises(DataError, match="none of the images can be read; there is nothing to write to"):
        write_features(task, stream, tmp_path / "f.npy")
    assert not (tmp_path / "f.npy").exists()
