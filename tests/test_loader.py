import logging

import numpy as np
import pytest
import torch

import ssl_pretext as sp
from ssl_pretext.data import loader as loader_module
from ssl_pretext.data.augment import draw_flips_and_shifts, flip_and_shift
from ssl_pretext.data.loader import BatchLoader


def store(count: int = 40) -> sp.ImageStore:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return sp.ImageStore.from_arrays(images, [index % 4 for index in range(count)])


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augment", [False, True])
def test_the_order_and_the_moves_depend_on_seed_and_epoch_alone(augment):
    images = store()
    loader, other = (BatchLoader(images, 16, seed=1, augment=augment) for _ in range(2))
    first = list(loader)
    assert len(first) == len(loader) == 3
    torch.manual_seed(7)  # no one else's
    assert same(first, other)
    loader.set_epoch(1)
    assert not torch.equal(next(iter(loader)), first[0])
    # A loader that is told where another stopped goes on from there.
    other.set_epoch(0)
    passing = iter(other)
    next(passing)
    resumed = BatchLoader(images, 16, seed=1, augment=augment)
    resumed.load_state_dict(other.state_dict())
    assert same(resumed, first[1:])


def test_large_seeds_are_seeds_too():
    first, again, other = (torch.cat(list(BatchLoader(store(), 16, seed=seed))) for seed in (2**62, 2**62, 2**62 + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(33, 16, [16, 17]), (34, 16, [16, 16, 2]), (32, 16, [16, 16]), (1, 16, [1]), (2, 1, [1, 1])],
)
def test_a_single_image_that_is_left_joins_the_last_batch(count, size, sizes):
    loader = BatchLoader(store(count), size, seed=0)
    assert [len(batch) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_moves_keep_the_order_of_the_images():
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 16, 16)
    plain, augmented = (
        BatchLoader(sp.ImageStore.from_arrays(images, [0] * 40), 16, seed=1, augment=augment)
        for augment in (False, True)
    )
    assert same(plain, augmented)
    assert not same(BatchLoader(store(), 16, seed=1), BatchLoader(store(), 16, seed=1, augment=True))


@pytest.mark.parametrize("augment", [False, True])
def test_processes_share_each_batch_and_see_what_one_would(augment, monkeypatch):
    whole = list(BatchLoader(store(), 16, seed=1, augment=augment))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        share = list(BatchLoader(store(), 16, seed=1, augment=augment))
        assert same(share, [batch[rank::2] for batch in whole])


def test_a_process_for_which_no_image_is_left_gets_one_that_counts_nothing(monkeypatch):
    whole = list(BatchLoader(store(42), 8, seed=1))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    loader = BatchLoader(store(42), 8, seed=1)
    shares = []
    for batch, of_all in zip(loader, whole, strict=True):
        shares.append(loader.share)
        assert torch.equal(batch, of_all[2::3] if len(of_all) > 2 else of_all[:1])
    assert shares == [2 * 3 / 8] * 5 + [0]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(("free", "said"), [(10**6, "kept on cpu"), (10**4, "copied batch by batch to cpu")])
def test_a_store_that_fits_is_kept_on_the_device_and_gives_the_same(free, said, augment, monkeypatch, caplog):
    images = store().subset([5, 5, *range(30, 3, -1)])
    plain = list(BatchLoader(images, 8, seed=1, augment=augment))
    monkeypatch.setattr(loader_module, "_free_memory", lambda device: free)
    monkeypatch.setattr(loader_module, "PIECE", 4 * 16 * 16 * 3)
    loader = BatchLoader(images, 8, seed=1, augment=augment)
    with caplog.at_level(logging.INFO, "ssl_pretext.data.loader"):
        assert same(loader, plain)
        reading = images.images
        monkeypatch.setattr(images, "images", lambda rows: reading(rows) if len(rows) == 1 else pytest.fail("read"))
        if "kept" in said:
            assert same(loader, plain)  # without the store
        else:
            with pytest.raises(pytest.fail.Exception):
                list(loader)
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]


def by_hand(image, flip, down, right):
    """The same move of one image `(C, H, W)` in numpy."""
    most = 8
    padded = np.pad(image[..., ::-1] if flip else image, [(0, 0), (most, most), (most, most)], mode="reflect")
    height, width = image.shape[1:]
    return padded[:, most - down : most - down + height, most - right : most - right + width]


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_moves_are_numpys(channels, dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, channels, 24, 17), generator=generator).to(dtype)
    if dtype == torch.float32:
        images[images > 240] = torch.nan
    moves = draw_flips_and_shifts(20, 24, 17, generator)
    found = flip_and_shift(images, moves)
    assert found.dtype == dtype
    assert found.is_contiguous()
    for image, move, one in zip(images.numpy(), moves.tolist(), found.numpy(), strict=True):
        np.testing.assert_array_equal(one, by_hand(image, *move))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(found[0].numpy(), by_hand(images[0].numpy(), *(moves[0] + 1).tolist()))


def test_shifts_reach_an_eighth_of_the_side_both_ways_and_no_further():
    flip, down, right = draw_flips_and_shifts(2_000, 24, 17, torch.Generator().manual_seed(0)).unbind(1)
    assert flip.unique().tolist() == [0, 1]
    assert down.unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert right.unique().tolist() == [-2, -1, 0, 1, 2]
    assert not draw_flips_and_shifts(9, 7, 1, torch.Generator().manual_seed(0))[:, 1:].any()
