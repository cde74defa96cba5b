"""The tasks that a search tries, for photos and for bands."""

import sys

import pytest
import torch

from ssl_pretext import ChannelSpace, create_task
from ssl_pretext.errors import ArgumentError, MissingDependencyError, UnknownNameError
from ssl_pretext.selection.candidates import find_candidates, likely_tasks

TINY = "timm/resnet10t[layer=layer1]"


def bands_of(*names):
    return ChannelSpace.bands("bands", names)[names]


def test_photos_get_seven_tasks_with_the_weights_of_the_seed():
    found, left_out = find_candidates(None, TINY, None, 3, 3)
    assert [one.name for one in found] == [
        "cross_channel_contrast", "instance_contrast", "vicreg", "split_brain", "colorization", "rotation", "denoising",
    ]  # fmt: skip
    assert not left_out
    torch.manual_seed(3)
    expected = create_task("colorization", encoder=TINY).state_dict()
    state = found[4].create().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


@pytest.mark.parametrize("names", [["one"], ["B02", "B03"], ["CD4+", "x", "z"]])
def test_bands_are_split_into_halves(names):
    bands = bands_of(*names)
    found, _ = find_candidates(None, TINY, bands, 0, len(names))
    seen = [{name for space in [one.create()] for name in _channels(space)} for one in found]
    assert all(channels == {*names} for channels in seen)
    assert len(found) == 4


def _channels(task):
    parts = [getattr(task, name, None) for name in ("first", "second", "source", "target", "channels")]
    return [name for part in parts if part is not None for name in part.names]


def test_a_likely_task_without_its_library_is_left_out_but_one_that_was_asked_for_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    found, left_out = find_candidates(None, TINY, None, 0, 3)
    assert {*left_out} == {"instance_contrast", "vicreg"}
    assert "pip install 'ssl-pretext[joint]'" in left_out["vicreg"]
    assert len(found) == 5
    with pytest.raises(MissingDependencyError):
        find_candidates(["vicreg"], TINY, None, 0, 3)


def test_the_name_of_a_likely_task_stands_for_it_with_its_options():
    (found,), _ = find_candidates(["cross_channel_contrast"], TINY, bands_of("x", "y"), 0, 2)
    assert (found.spec, found.name) == ("cross_channel_contrast[first=x;second=y]", "cross_channel_contrast")


def test_the_same_task_twice_is_named_by_its_options():
    tasks = ["colorization", "colorization[target=rgb]", "colorization + 0.5*rotation"]
    found, _ = find_candidates(tasks, TINY, None, 0, 3)
    assert [one.name for one in found] == tasks
    assert len({one.folder for one in found}) == 3
    assert all("/" not in one.folder and "[" not in one.folder for one in found)


def test_wrong_tasks_are_refused():
    with pytest.raises(ArgumentError, match="each named once, got 'rotation' twice"):
        find_candidates(["rotation", "rotation"], TINY, None, 0, 3)
    with pytest.raises(ArgumentError, match="got none"):
        find_candidates([], TINY, None, 0, 3)
    with pytest.raises(UnknownNameError, match="no task named 'colors'"):
        find_candidates(["colors"], TINY, None, 0, 3)
    with pytest.raises(ArgumentError, match="takes images with 3 channels, but these have 4"):
        find_candidates(["colorization"], TINY, bands_of("a", "b", "c", "d"), 0, 4)


def test_likely_tasks_are_specs():
    assert likely_tasks(bands_of("a", "b", "c"))[-1] == "cross_channel[source=a;target=b+c]"
