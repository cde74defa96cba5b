import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.channels import Channels, ChannelSpace, join
from ssl_pretext.errors import ArgumentError, UnknownNameError


@st.composite
def spaces(draw):
    """A space of bands with any centers and scales; its name stands for its contents, as names are global."""
    count = draw(st.integers(2, 8))
    center = draw(st.lists(st.floats(-10, 10), min_size=count, max_size=count))
    scale = draw(st.lists(st.floats(0.5, 20), min_size=count, max_size=count))
    name = hashlib.sha256(repr((center, scale)).encode()).hexdigest()
    return ChannelSpace.bands(name, [f"B{i}" for i in range(count)], center=center, scale=scale)


@given(st.one_of(spaces(), st.sampled_from([Channels.parse(name).space for name in ("rgb", "lab")])), st.data())
def test_a_group_and_its_complement_are_the_image(space, data):
    names = data.draw(st.lists(st.sampled_from(space.channels), unique=True, max_size=len(space.channels) - 1))
    images = torch.rand(2, space.image_channels, 4, 4, dtype=torch.float64)
    group = Channels(space, names)
    rest = group.complement()
    again = join({group: group.extract(images), rest: rest.extract(images)})
    assert torch.allclose(again, images, atol=1e-9)
    assert set(rest.complement().names) == set(group.names)
    if names:
        units = group.denormalize(group.extract(images))
        assert torch.allclose(units, group.select(space._from_image(images)), atol=1e-9)
        assert Channels.parse(str(group)) == group


@pytest.mark.parametrize("name", ["rgb", "lab", "gray", "lab:ab", "rgb:G"])
def test_uint8_and_float_agree(name):
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    channels = Channels.parse(name)
    assert torch.equal(channels.extract(levels), channels.extract(levels.float() / 255))
    assert channels.extract(levels).abs().max() <= 1 + 1e-5
    assert str(channels) == name


def test_gray_is_bt601_luma():
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    gray = Channels.parse("gray")
    red, green, blue = images[0]
    assert torch.allclose(gray.denormalize(gray.extract(images))[0, 0], 0.299 * red + 0.587 * green + 0.114 * blue)
    assert join({gray: gray.extract(images)}).shape == images.shape


def test_bands_are_found_by_name():
    space = ChannelSpace.bands("s2-test", ["B02", "B03", "B08"], scale=0.5)
    assert ChannelSpace.bands("s2-test", ["B02", "B03", "B08"], scale=0.5) == space
    channels = Channels.parse("s2-test:B02,B08")
    assert (channels.num_channels, str(channels.complement())) == (2, "s2-test:B03")
    assert torch.equal(channels.extract(torch.ones(1, 3, 2, 2)), torch.full((1, 2, 2, 2), 2.0))
    with pytest.raises(ArgumentError, match="exists already with other channels"):
        ChannelSpace.bands("s2-test", ["B02"])


def test_errors_say_what_is_wrong():
    light, color = Channels("lab", "L"), Channels("lab", "ab")
    with pytest.raises(UnknownNameError, match="no channel space 'hsv'; known: rgb, lab, gray"):
        Channels.parse("hsv:H")
    with pytest.raises(UnknownNameError, match="no channel 'c'; its channels: L, a, b"):
        Channels.parse("lab:ac")
    with pytest.raises(ArgumentError, match="written 'space' or 'space:names'"):
        Channels.parse("lab:")
    with pytest.raises(ArgumentError, match="may be named once"):
        Channels("lab", "aa")
    with pytest.raises(ArgumentError, match=r"shape \(B, 3, H, W\), got \(2, 1, 4, 4\)"):
        light.extract(torch.rand(2, 1, 4, 4))
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
        light.extract(torch.full((1, 3, 4, 4), 255.0))
    with pytest.raises(ArgumentError, match=r"uint8 or floating, got torch\.int64"):
        light.extract(torch.zeros(1, 3, 4, 4, dtype=torch.int64))
    values = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ArgumentError, match="needs each channel of lab"):
        join({light: values})
    with pytest.raises(ArgumentError, match="of one space"):
        join({light: values, Channels("rgb", "R"): values})
    with pytest.raises(ArgumentError, match=r"takes values \(B, 2, H, W\)"):
        join({light: values, color: values})
    with pytest.raises(ArgumentError, match="distinct names"):
        ChannelSpace.bands("twice", ["x", "x"])
    with pytest.raises(ArgumentError, match="positive scales"):
        ChannelSpace.bands("flat", ["x", "y"], scale=[1, 0])
    with pytest.raises(ArgumentError, match="free of"):
        ChannelSpace.bands("a:b", ["x"])
