"""Resuming a run with other images is refused, and the message says what changed."""

import os
import shutil

import pytest
import torch
from training_runs import noise_store, small_task, write_photos

import ssl_pretext as sp
from ssl_pretext.data.duplicates import KnownImages, find_repeats
from ssl_pretext.errors import CheckpointError
from ssl_pretext.training.image_manifest import HASHES_FILE, read_known_images, write_manifest


def test_changed_files_are_counted_and_named(tmp_path):
    folder = write_photos(tmp_path / "photos")

    def fit():
        images = sp.ImageStore.from_folder(folder, image_size=16, labeled=True, cache=tmp_path / "cache")
        config = sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=8, device="cpu", resume=True)
        return sp.fit(small_task(), images, config)

    history = fit()
    for path in folder.rglob("*.png"):
        os.utime(path, (0, 0))  # as by a clock that was set back; the pixels have not changed
    assert fit() == history
    (folder / "a" / "0.png").unlink()
    shutil.copy(folder / "a" / "2.png", folder / "a" / "new.png")
    for number in (1, 3, 5, 7, 9):
        shutil.copy(folder / "b" / "11.png", folder / "b" / f"{number}.png")
    with pytest.raises(CheckpointError) as caught:
        fit()
    assert (
        "was started with: 1 added (a/new.png); 1 removed (a/0.png); 5 altered (b/1.png, b/3.png, b/5.png and 2 more). "
        "Restore them to resume the run, or start in another folder"
    ) in str(caught.value)


def test_changed_labels_and_order_are_named(tmp_path):
    def fit(images):
        sp.fit(small_task(), images, sp.FitConfig(out=tmp_path, epochs=1, batch_size=20, device="cpu", resume=True))

    images = noise_store(20)
    fit(images)
    labels = images.labels.tolist()
    relabeled = sp.ImageStore.from_arrays(images.images(), [*labels[:19], labels[19] - 1], names=images.names)
    with pytest.raises(CheckpointError, match=r"was started with: 1 relabeled \(folder/19\.jpg\)"):
        fit(relabeled)
    with pytest.raises(CheckpointError, match="was started with: their order, size or dtype has changed"):
        fit(images.subset(range(19, -1, -1)))


def test_a_run_keeps_hashes_of_its_images(tmp_path, caplog):
    images = noise_store(300)
    write_manifest(tmp_path, images)
    known = read_known_images(tmp_path)
    assert (known.names, known.digests) == (images.names, images.digests())
    for name in ("hashes", "scale", "mean"):
        assert torch.equal(getattr(known, name), getattr(KnownImages.of(images), name))
    assert (tmp_path / HASHES_FILE).stat().st_size < 8 * len(images) + 2000
    brighter = sp.ImageStore.from_arrays((images.images([7, 8]).int() * 9 // 10).to(torch.uint8))
    assert find_repeats(brighter, [known]).examples == [("0", images.names[7]), ("1", images.names[8])]
    assert read_known_images(tmp_path / "nothing") is None
    write_manifest(tmp_path / "other", noise_store(20))
    (tmp_path / HASHES_FILE).write_bytes((tmp_path / "other" / HASHES_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="hashes.safetensors does not fit .*images.json"):
        read_known_images(tmp_path)
    (tmp_path / HASHES_FILE).unlink()
    caplog.set_level("INFO")
    assert read_known_images(tmp_path) is None
    assert "was trained on streamed images, which are not compared with the test images" in caplog.text
