"""Training on loaders and iterable datasets: their batches, stopping and resuming, and what is refused."""

import json
import os
import signal
import tempfile
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from test_datasets import Indexed, Iterated, hugging_face
from torch.utils.data import DataLoader, Dataset, TensorDataset
from training_runs import noise_store, small_task

import ssl_pretext as sp
from ssl_pretext.data import Samples
from ssl_pretext.data.sample_stream import SampleLoader, SampleStream
from ssl_pretext.errors import ArgumentError, CheckpointError

STORE = noise_store(42)
IMAGES = list(STORE.images())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))


def train(out, images, **options):
    task = small_task()
    settings = {"epochs": 2, "batch_size": 8, "device": "cpu"} | options
    history = sp.fit(task, images, sp.FitConfig(schedule="constant", warmup=0, out=out, **settings), validation=None)
    return history, task.state_dict()


def same(one, other) -> bool:
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def batches(images, size=8):
    return [batch.tolist() for batch in SampleLoader(SampleStream(Samples(images)), size, seed=0)]


def test_batches_are_those_of_the_loader_or_have_the_batch_size():
    expected = [batch.tolist() for batch in STORE.images().split(8)]
    assert batches(DataLoader(IMAGES, 8)) == expected
    assert batches(DataLoader(IMAGES, 8, num_workers=2), size=3) == expected
    assert batches(Iterated(IMAGES)) == expected
    assert batches(DataLoader(Iterated(IMAGES), 8, drop_last=True)) == expected[:-1]
    # As of a store, a single remaining image is added to the last batch.
    assert [len(batch) for batch in batches(Iterated(IMAGES[:17]))] == [8, 9]
    assert [len(batch) for batch in batches(Iterated(IMAGES[:17]), size=1)] == [1] * 17
    assert [len(batch) for batch in batches(Iterated(IMAGES[:1]))] == [1]


def test_an_indexed_dataset_trains_like_its_store(tmp_path, caplog):
    caplog.set_level("INFO")
    expected = train(tmp_path / "store", STORE)
    assert same(train(tmp_path / "dataset", Indexed(IMAGES)), expected)
    assert "the samples of Indexed are read once, so that random transforms are the same" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_sampler_and_workers_of_a_loader_are_used(tmp_path, workers):
    class Noisy(Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, index):
            return {"image": (IMAGES[index] / 255 + torch.rand(1) * 0.1).clamp(0, 1), "name": str(index)}

    seen = []

    @sp.register_task("seeing")
    class Task(sp.Colorization):
        def forward(self, images):
            seen.append(images.mean(dim=(1, 2, 3)))
            return super().forward(images)

    task = Task(torch.nn.Conv2d(1, 4, 2, stride=2))
    loader = DataLoader(Noisy(), 8, sampler=torch.utils.data.SubsetRandomSampler(range(16)), num_workers=workers)
    sp.fit(task, loader, sp.FitConfig(out=tmp_path, epochs=2, device="cpu"))
    assert [len(one) for one in seen[:4]] == [8] * 4
    first, second = torch.cat(seen[:2]).sort().values, torch.cat(seen[2:4]).sort().values
    plain = torch.stack(IMAGES[:16]).float().mean(dim=(1, 2, 3)).sort().values / 255
    for one in (first, second):
        assert (one > plain - 0.01).all()
        assert (one < plain + 0.11).all()
    assert not torch.equal(first, second)
    assert task.trained_on.settings["images"] == 16


class Stopping:
    """Images that send a signal to this process when one of them is read for the third time.

    The first pass is that of the statistics before training, so that this is in the second epoch.
    """

    def __init__(self, stop):
        self.stop, self.passes = stop, 0

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        self.passes += index == 0
        if self.passes == 3 and index == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return IMAGES[index]


KINDS = {
    "iterable": lambda images: Iterated(images),
    "loader of an iterable": lambda images: DataLoader(Iterated(images), 8),
    "loader": lambda images: DataLoader(Indexed(images), 8),
}


@pytest.mark.parametrize("stop", [24, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_resumes_after_its_last_batch(kind, stop, tmp_path):
    """The order of these images is fixed, so that the weights are those of a run that was not stopped."""
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", KINDS[kind](Stopping(stop)), epochs=3)
    step = torch.load(tmp_path / "stopped/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 6 < step <= 12
    assert same(train(tmp_path / "stopped", KINDS[kind](IMAGES), epochs=3, resume=True), whole_run())


@lru_cache
def whole_run():
    with tempfile.TemporaryDirectory() as folder:
        return train(folder, Iterated(IMAGES), epochs=3)


def test_the_unknown_length_of_an_iterable_is_found_in_each_epoch(tmp_path):
    class Growing(Iterated):
        def set_epoch(self, epoch):
            self.samples = IMAGES[: 16 + 8 * epoch]

    task = small_task()
    sp.fit(task, Growing(IMAGES[:16]), sp.FitConfig(out=tmp_path, epochs=3, batch_size=8, device="cpu"))
    assert task.trained_on.settings["images"] == 32
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2 + 3 + 4
    assert json.loads((tmp_path / "images.json").read_text()) == []


def test_streams_of_hugging_face_and_images_to_resize(tmp_path):
    history, _ = train(tmp_path / "hf", Samples(hugging_face().to_iterable_dataset(), image_size=4), augment="shift")
    assert len(history) == 2
    assert train(tmp_path / "tensors", DataLoader(TensorDataset(torch.stack(IMAGES)), 8), epochs=1)[0]


def test_a_nan_is_traced_to_its_sample(tmp_path):
    @sp.register_task("failing")
    class Task(sp.Colorization):
        def forward(self, images):
            output = super().forward(images)
            bad = (images == IMAGES[20]).flatten(1).all(dim=1).any() and self.training
            return replace(output, loss=output.loss * torch.nan) if bad else output

    for number, images in enumerate((Iterated(IMAGES), DataLoader(IMAGES, 8))):
        config = sp.FitConfig(out=tmp_path / str(number), batch_size=8, epochs=1, device="cpu")
        with pytest.raises(sp.PretextError, match="sample 16 of the epoch"):
            sp.fit(Task(torch.nn.Conv2d(1, 4, 2, stride=2)), images, config)


def test_what_cannot_be_streamed_says_why(tmp_path, monkeypatch):
    config = sp.FitConfig(out=tmp_path / "run", device="cpu")
    small = IMAGES[0][:, :8, :8]
    for images, match in (
        (iter(IMAGES), "a list_iterator can be read only once, and fit"),
        (Iterated([]), "needs at least one image, and Iterated has no samples"),
        (Iterated([*IMAGES[:9], small]), "sample 9 of Iterated has .* 8×8 pixels, but the first sample has .* 16×16"),
        (DataLoader([1, 2], 2), "image of sample 0 of DataLoader cannot be used: an array must have shape"),
        ((IMAGES, [0] * 42), "needs an ImageStore, an ImageStream, a dataset or a loader as images, got tuple"),
    ):
        with pytest.raises(ArgumentError, match=match):
            sp.fit(small_task(), images, config)
    assert not (tmp_path / "run" / "fit.json").exists()
    train(tmp_path / "other", Iterated(IMAGES), epochs=1)
    with pytest.raises(CheckpointError, match="images are not those .*: their order, size or dtype has changed"):
        train(tmp_path / "other", Iterated([image / 255 for image in IMAGES]), epochs=1, resume=True)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match="reads a Iterated in one process only.*from_dataset"):
        SampleStream(Samples(Iterated(IMAGES)))
