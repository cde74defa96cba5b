import logging

import numpy as np
import pytest
import torch

import ssl_pretext as sp
from ssl_pretext.augment import create_augmentation
from ssl_pretext.data import loader as loader_module
from ssl_pretext.data.loader import BatchLoader

AUGMENT = create_augmentation("shift,horizontal_flip")


def store(count: int = 40) -> sp.ImageStore:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return sp.ImageStore.from_arrays(images, [index % 4 for index in range(count)])


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_order_and_augmentation_depend_on_seed_and_epoch_only(augment):
    images = store()
    loader, other = (BatchLoader(images, 16, seed=1, augment=augment) for _ in range(2))
    first = list(loader)
    assert len(first) == len(loader) == 3
    torch.manual_seed(7)  # the order must not depend on the global seed
    assert same(first, other)
    loader.set_epoch(1)
    assert not torch.equal(next(iter(loader)), first[0])
    # A loader with the state of another one continues where that one stopped.
    other.set_epoch(0)
    passing = iter(other)
    next(passing)
    resumed = BatchLoader(images, 16, seed=1, augment=augment)
    resumed.load_state_dict(other.state_dict())
    assert same(resumed, first[1:])


def test_large_seeds_are_distinguished():
    first, again, other = (torch.cat(list(BatchLoader(store(), 16, seed=seed))) for seed in (2**62, 2**62, 2**62 + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(33, 16, [16, 17]), (34, 16, [16, 16, 2]), (32, 16, [16, 16]), (1, 16, [1]), (2, 1, [1, 1])],
)
def test_a_single_remaining_image_joins_the_last_batch(count, size, sizes):
    loader = BatchLoader(store(count), size, seed=0)
    assert [len(batch) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_augmentation_keeps_the_order_of_images():
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 16, 16)
    plain, augmented = (
        BatchLoader(sp.ImageStore.from_arrays(images, [0] * 40), 16, seed=1, augment=augment)
        for augment in (None, AUGMENT)
    )
    assert same(plain, augmented)
    assert not same(BatchLoader(store(), 16, seed=1), BatchLoader(store(), 16, seed=1, augment=AUGMENT))


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_processes_divide_the_batches_of_a_single_process(augment, monkeypatch):
    single = list(BatchLoader(store(), 16, seed=1, augment=augment))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        part = list(BatchLoader(store(), 16, seed=1, augment=augment))
        assert same(part, [batch[rank::2] for batch in single])


def test_a_process_without_an_image_repeats_those_of_others_with_weight_zero(monkeypatch):
    single = list(BatchLoader(store(42), 8, seed=1))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    loader = BatchLoader(store(42), 8, seed=1)
    shares = []
    for batch, full in zip(loader, single, strict=True):
        shares.append(loader.batch_weight)
        assert torch.equal(batch, full[2::3] if len(full) > 2 else full)
    assert shares == [2 * 3 / 8] * 5 + [0]


@pytest.mark.parametrize("augment", [None, AUGMENT])
@pytest.mark.parametrize(("free", "message"), [(10**6, "stored on cpu"), (10**4, "copied batch by batch to cpu")])
def test_a_store_that_fits_is_copied_to_the_device(free, message, augment, monkeypatch, caplog):
    images = store().subset([5, 5, *range(30, 3, -1)])
    plain = list(BatchLoader(images, 8, seed=1, augment=augment))
    monkeypatch.setattr(loader_module, "_free_memory", lambda device: free)
    monkeypatch.setattr(loader_module, "PIECE", 4 * 16 * 16 * 3)
    loader = BatchLoader(images, 8, seed=1, augment=augment)
    with caplog.at_level(logging.INFO, "ssl_pretext.data.loader"):
        assert same(loader, plain)
        reading = images.images
        monkeypatch.setattr(images, "images", lambda rows: reading(rows) if len(rows) == 1 else pytest.fail("read"))
        if "stored" in message:
            assert same(loader, plain)  # without reading the store again
        else:
            with pytest.raises(pytest.fail.Exception):
                list(loader)
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


def expected_image(image, flip, down, right):
    """Flips and shifts one image `(C, H, W)` with numpy."""
    pad = 8
    padded = np.pad(image[..., ::-1] if flip else image, [(0, 0), (pad, pad), (pad, pad)], mode="reflect")
    height, width = image.shape[1:]
    return padded[:, pad - down : pad - down + height, pad - right : pad - right + width]


@pytest.mark.parametrize(
    ("count", "size", "world"), [(66, 64, 2), (67, 64, 2), (41, 8, 3), (7, 8, 4), (2, 64, 8), (5, 4, 4)]
)
def test_no_process_gets_a_single_image_unless_full_batches_have_one(count, size, world, monkeypatch):
    """A BatchNorm layer could not compute a variance from it. The weights are those of the numbers of images."""
    images = sp.ImageStore.from_arrays(
        torch.arange(count)[:, None, None, None].expand(count, 3, 8, 8) / 255, [0] * count
    )
    alone = list(BatchLoader(images, size, seed=0))
    for number, whole in enumerate(alone):
        parts, weights = [], []
        for rank in range(world):
            monkeypatch.setattr(loader_module, "rank_and_world", lambda rank=rank: (rank, world))
            loader = BatchLoader(images, size, seed=0)
            loader.load_state_dict({"batches_yielded": number})
            part = next(iter(loader))
            assert len(part) >= min(2, size // world, len(whole))
            assert loader.batch_weight * len(whole) == pytest.approx(len(loader.last_names()) * world)
            parts += [part] if loader.batch_weight else []
            weights.append(loader.batch_weight)
        assert sum(weights) == pytest.approx(world)
        assert torch.cat(parts)[:, 0, 0, 0].sort().values.equal(whole[:, 0, 0, 0].sort().values)
