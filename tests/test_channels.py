import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hed2rgb, rgb2hed, rgb2lab
from skimage.data import immunohistochemistry

from ssl_pretext.channels import Channels, ChannelSpace, join, known_spaces
from ssl_pretext.errors import ArgumentError, UnknownChannelsError, UnknownNameError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


S2 = ChannelSpace.bands("s2", ["B02", "B03", "B08"], scale=0.5)


@pytest.mark.parametrize(
    "space", ["rgb", "lab", "ycbcr", "gray", "hed", S2], ids=lambda space: getattr(space, "name", space)
)
def test_channels_can_be_pickled(space):
    channels, images = Channels(space), torch.rand(1, 3, 2, 2)
    again = pickle.loads(pickle.dumps(channels))
    assert again == channels
    assert torch.equal(again.extract(images), channels.extract(images))
    assert torch.equal(join({again: again.extract(images)}), join({channels: channels.extract(images)}))


@st.composite
def spaces(draw):
    """A space of bands with any centers and scales."""
    count = draw(st.integers(2, 8))
    center = draw(st.lists(st.floats(-10, 10), min_size=count, max_size=count))
    scale = draw(st.lists(st.floats(0.5, 20), min_size=count, max_size=count))
    return ChannelSpace.bands("drawn", [f"B{i}" for i in range(count)], center=center, scale=scale)


@given(st.one_of(spaces(), st.sampled_from([Channels.parse(name).space for name in ("rgb", "lab")])), st.data())
def test_a_group_and_its_complement_give_the_image(space, data):
    names = data.draw(st.lists(st.sampled_from(space.channels), unique=True, max_size=len(space.channels) - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    images = torch.rand(2, space.image_channels, 4, 4, dtype=torch.float64, generator=generator)
    group = Channels(space, names)
    rest = group.complement()
    again = join({group: group.extract(images), rest: rest.extract(images)})
    assert torch.allclose(again, images, atol=1e-9)
    assert set(rest.complement().names) == set(group.names)
    if names:
        units = group.denormalize(group.extract(images))
        assert torch.allclose(units, group.select(space.convert(images)), atol=1e-9)
        with known_spaces([] if space.is_built_in else [space]):
            assert Channels.parse(str(group)) == group


@pytest.mark.parametrize("name", ["rgb", "lab", "gray", "lab:ab", "rgb:G"])
def test_uint8_and_float_agree(name):
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    channels = Channels.parse(name)
    assert torch.equal(channels.extract(levels), channels.extract(levels.float() / 255))
    assert channels.extract(levels).abs().max() <= 1 + 1e-5
    assert str(channels) == name


@given(spaces(), st.data())
def test_normalized_values_are_the_distance_from_center_over_scale(space, data):
    index = data.draw(st.integers(0, len(space.channels) - 1))
    channels = Channels(space, [space.channels[index]])
    images = torch.full((1, len(space.channels), 1, 1), data.draw(st.floats(-30, 30)), dtype=torch.float64)
    expected = (images[0, index].item() - space.center[index]) / space.scale[index]
    assert channels.extract(images).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert channels.denormalize(channels.extract(images)).item() == pytest.approx(images[0, 0].item(), abs=1e-12)


def test_normalized_lab_agrees_with_scikit_image():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    reference = rgb2lab(images.numpy(), channel_axis=1)
    light, color = Channels("lab", "L"), Channels("lab", "ba")  # in the requested order
    assert np.allclose(light.extract(images).numpy(), reference[:, :1] / 50 - 1, atol=1e-9)
    assert np.allclose(color.extract(images).numpy(), reference[:, [2, 1]] / 110, atol=1e-9)
    assert np.allclose(color.denormalize(color.extract(images)).numpy(), reference[:, [2, 1]], atol=1e-9)


def test_normalized_lab_ranges():
    steps = torch.linspace(0, 1, 33)
    colors = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(1, 3, 33, -1)
    light, green_red, blue_yellow = Channels("lab").extract(colors)[0]
    for values, low, high in [(light, -50, 50), (green_red, -86.2, 98.2), (blue_yellow, -107.9, 94.5)]:
        scale = 50 if values is light else 110
        assert values.min().item() * scale == pytest.approx(low, abs=0.06)
        assert values.max().item() * scale == pytest.approx(high, abs=0.06)


@pytest.mark.parametrize("text", ["rgb", "rgb:R", "rgb:BR", "lab", "lab:ab", "lab:L", "gray", "hed:HD", "s2:B02,B03"])
def test_parsing_and_str_are_inverse(text):
    with known_spaces([S2]):
        channels = Channels.parse(text)
        assert str(channels) == text
        assert repr(channels) == f"Channels({text!r})"
        assert Channels.parse(channels) is channels
        assert hash(Channels.parse(str(channels))) == hash(channels)


ODD_NAMES = ["Band 4 (Red)", "DNA stain", "CD4+", "a:b", 'x, the "best"', "gray"]


@given(st.lists(st.sampled_from(ODD_NAMES), min_size=1, unique=True), st.sampled_from(["cells", "2021: my cells"]))
def test_names_may_contain_any_character(names, name):
    space = ChannelSpace.bands(name, ODD_NAMES)
    with known_spaces([space]):
        assert Channels.parse(str(space[tuple(names)])) == space[tuple(names)] == Channels(space, names)
    assert Channels(space, names[0]).names == (names[0],)


def test_names_of_channels_alone_are_enough_where_the_space_is_known():
    with known_spaces([S2]):
        assert (
            Channels.parse("B02+B08") == Channels.parse("B02,B08") == Channels.parse("s2:B02+B08") == S2["B02", "B08"]
        )
        assert Channels.parse("s2") == Channels(S2)
        assert Channels.parse("rgb") == Channels("rgb")
        with pytest.raises(
            UnknownChannelsError, match="no channel 'B09'; the channel spaces .*s2 has the channels B02,"
        ):
            Channels.parse("B09")
        with pytest.raises(UnknownChannelsError, match="space 's2' has no channel 'B09'; its channels are B02, B03"):
            Channels.parse("s2:B02,B09")
    with pytest.raises(UnknownChannelsError, match=r"no channel space 's2'; known: rgb, .*select its channels with"):
        Channels.parse("s2:B02")


def test_different_spellings_are_equal():
    assert Channels.parse("lab:a,b") == Channels("lab", "ab") == Channels("lab", ["a", "b"])
    assert Channels.parse("lab:Lab") == Channels("lab")
    assert Channels("lab", "ab") != Channels("lab", "ba")


def test_join_has_gradients_outside_the_gamut():
    light = torch.ones(1, 1, 1, 1)
    color = torch.tensor([-1.0, 100 / 110]).view(1, 2, 1, 1).requires_grad_()
    image = join({Channels("lab", "L"): light, Channels("lab", "ab"): color})
    assert image.min() < 0
    image.square().sum().backward()
    assert color.grad.isfinite().all()
    assert (color.grad != 0).all()


def test_dtype_and_device_are_kept():
    for device, dtype in [("cpu", torch.float64), ("cpu", torch.bfloat16), ("meta", torch.float32)]:
        light, color = Channels("lab", "L"), Channels("lab", "ab")
        images = torch.zeros(1, 3, 2, 2, dtype=dtype, device=device)
        parts = {light: light.extract(images), color: color.extract(images)}
        for found in (*parts.values(), join(parts), color.denormalize(parts[color])):
            assert (found.dtype, found.device) == (images.dtype, images.device)


def test_gray_is_bt601_luma():
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    gray = Channels.parse("gray")
    red, green, blue = images[0]
    assert torch.allclose(gray.denormalize(gray.extract(images))[0, 0], 0.299 * red + 0.587 * green + 0.114 * blue)
    assert join({gray: gray.extract(images)}).shape == images.shape


@pytest.mark.parametrize("center", [[1, 2], (1.0, 2.0), np.array([1, 2]), torch.tensor([1.0, 2.0])])
def test_centers_and_scales_may_be_numbers_of_any_type(center):
    space = ChannelSpace.bands("numbers", ["x", "y"], center=center, scale=np.float32(2))
    assert (space.center, space.scale) == ((1.0, 2.0), (2.0, 2.0))


def test_uint8_bands_are_divided_by_255():
    raw = ChannelSpace.bands("raw8", ["x", "y"], center=0.5, scale=0.5)
    levels = torch.randint(0, 256, (2, 2, 4, 4), dtype=torch.uint8)
    assert torch.equal(Channels(raw).extract(levels), Channels(raw).extract(levels.float() / 255))


def test_stains_are_those_of_scikit_image():
    photo = torch.from_numpy(immunohistochemistry()[::4, ::4]).permute(2, 0, 1)[None].double() / 255
    images = torch.cat([photo, torch.rand_like(photo), torch.zeros_like(photo)])
    stains = Channels("hed")
    values = stains.denormalize(stains.extract(images))
    np.testing.assert_allclose(values.numpy(), rgb2hed(images.numpy(), channel_axis=1), atol=1e-12)
    again = join({stains: stains.extract(images)})
    np.testing.assert_allclose(again.numpy(), hed2rgb(values.numpy(), channel_axis=1), atol=1e-12)
    mixtures = join({stains: stains.normalize(0.2 * torch.rand(1, 3, 8, 8, dtype=torch.float64))})
    torch.testing.assert_close(join({stains: stains.extract(mixtures)}), mixtures, atol=1e-12, rtol=0)
    inner = mixtures.requires_grad_()
    assert torch.autograd.gradcheck(stains.extract, inner)
    assert images.float().dtype == stains.extract(images.float()).dtype == torch.float32


def test_ycbcr_is_that_of_jpeg():
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = torch.from_numpy(np.array(Image.fromarray(levels).convert("YCbCr"))).permute(2, 0, 1)
    images = torch.from_numpy(levels).permute(2, 0, 1)[None]
    both = Channels.parse("ycbcr:Y"), Channels.parse("ycbcr:CbCr")
    assert [str(channels) for channels in both] == ["ycbcr:Y", "ycbcr:CbCr"]
    assert both[1].names == ("Cb", "Cr")
    assert both[1].complement() == both[0]
    light, color = (channels.denormalize(channels.extract(images))[0] for channels in both)
    # Pillow truncates to integer levels and adds 128 to the differences.
    assert (255 * light - expected[:1]).abs().max() <= 1 + 1e-3
    assert (255 * color + 128 - expected[1:]).abs().max() <= 1 + 1e-3
    extremes = torch.eye(3)[..., None, None]
    assert Channels("ycbcr").extract(extremes).abs().max() <= 1 + 1e-6


def test_bands_are_selected_by_name():
    assert ChannelSpace.bands("s2", ["B02", "B03", "B08"], scale=0.5) == S2
    channels = S2["B02", "B08"]
    assert (channels.num_channels, channels.complement()) == (2, S2["B03"])
    assert torch.equal(channels.extract(torch.ones(1, 3, 2, 2)), torch.full((1, 2, 2, 2), 2.0))
    other = ChannelSpace.bands("s2", ["B02", "B03", "B08"], scale=2)  # as in a cell that is run again
    assert other["B02"] != S2["B02"]
    with (
        pytest.raises(ArgumentError, match="two different channel spaces have the name 's2'"),
        known_spaces([S2, other]),
    ):
        pass
    with pytest.raises(UnknownNameError, match="has no channel 'B09'"):
        S2["B02", "B09"]
    with pytest.raises(TypeError, match="not iterable"):
        list(S2)


def test_a_space_without_numbers_must_be_measured():
    space = ChannelSpace.bands("raw", ["x", "y"])
    for use in (space["x"].extract, space["x"].inputs):
        with pytest.raises(ArgumentError, match=r"'raw' has no center and scale yet: fit\(\) measures them on the"):
            use(torch.zeros(1, 2, 4, 4))
    for use in (space["x"].denormalize, space["x"].normalize, lambda values: join({space["x", "y"]: values})):
        with pytest.raises(ArgumentError, match="has no center and scale yet"):
            use(torch.zeros(1, 2, 4, 4))
    assert ChannelSpace.restore(space.describe()) == space


def test_a_space_that_converts_is_restored_with_its_functions():
    log = ChannelSpace("log", ("x", "y"), None, None, convert=torch.log1p, convert_back=torch.expm1)
    measured = replace(log, center=(1.0, 2.0), scale=(1.0, 1.0))
    described = measured.describe()
    assert ChannelSpace.restore(described, [S2, log]) == ChannelSpace.restore(described, [measured]) == measured
    with pytest.raises(ArgumentError, match=r"'log' converts images with functions.* pass spaces=\[<the same"):
        ChannelSpace.restore(described, [S2])
    with pytest.raises(ArgumentError, match="is not the one that was saved"):
        ChannelSpace.restore(described, [replace(measured, scale=(1.0, 2.0))])
    with pytest.raises(ArgumentError, match="is not the one that was saved"):
        ChannelSpace.restore(described, [ChannelSpace.bands("log", ["x", "y"])])
    images = torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(join({Channels(measured): Channels(measured).extract(images)}), images)
    torch.testing.assert_close(measured["y"].extract(images), images[:, 1:].log1p() - 2)


@pytest.mark.parametrize("shape", [(1, 2, 5, 5), (2, 2, 4, 4)])
def test_join_refuses_groups_of_unequal_sizes(shape):
    with pytest.raises(ArgumentError, match="groups with the same batch size, height and width, got lab:L"):
        join({Channels("lab", "L"): torch.zeros(1, 1, 4, 4), Channels("lab", "ab"): torch.zeros(shape)})


def test_errors_say_what_is_wrong():
    light, color = Channels("lab", "L"), Channels("lab", "ab")
    with pytest.raises(UnknownNameError, match="no channel space 'hsv'; known: rgb, lab, ycbcr, gray, hed"):
        Channels.parse("hsv:H")
    with pytest.raises(UnknownNameError, match="no channel 'c'; its channels are L, a, b"):
        Channels.parse("lab:ac")
    with pytest.raises(ArgumentError, match="written 'space' or 'space:names'"):
        Channels.parse("lab:")
    with pytest.raises(ArgumentError, match="may be selected only once"):
        Channels("lab", "aa")
    with pytest.raises(ArgumentError, match=r"shape \(B, 3, H, W\), got \(2, 1, 4, 4\)$"):
        light.extract(torch.rand(2, 1, 4, 4))
    with pytest.raises(
        ArgumentError, match=r"got \(2, 4, 4, 3\); the channels must come before .*images\.permute\(0, 3, 1, 2\)"
    ):
        light.extract(torch.rand(2, 4, 4, 3))
    with pytest.raises(ArgumentError, match=r"got \(3, 4, 4\); pass a single image as a batch of one: image\[None\]"):
        light.extract(torch.rand(3, 4, 4))
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
        light.extract(torch.full((1, 3, 4, 4), 255.0))
    with pytest.raises(ArgumentError, match=r"uint8 or floating, got torch\.int64"):
        light.extract(torch.zeros(1, 3, 4, 4, dtype=torch.int64))
    values = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ArgumentError, match="needs each channel of lab"):
        join({light: values})
    with pytest.raises(ArgumentError, match=r"needs each channel of lab \(L, a, b\) once, got \['L', 'a', 'a', 'b'\]"):
        join({Channels("lab", "La"): color.select(torch.zeros(1, 3, 4, 4)), color: torch.zeros(1, 2, 4, 4)})
    with pytest.raises(ArgumentError, match=r"of exactly one space, got \[\]"):
        join({})
    with pytest.raises(ArgumentError, match="of exactly one space"):
        join({light: values, Channels("rgb", "R"): values})
    with pytest.raises(ArgumentError, match=r"join needs values of shape \(B, 2, H, W\) for Channels"):
        join({light: values, color: values})
    for outside in (-0.01, 1.01, float("nan")):
        with pytest.raises(ArgumentError, match=r"space 'lab' takes RGB in \[0, 1\]"):
            color.extract(torch.full((1, 3, 4, 4), outside))
    with pytest.raises(ArgumentError, match=r"shape \(B, 3, H, W\), got ndarray"):
        light.extract(np.zeros((1, 3, 4, 4)))
    with pytest.raises(ArgumentError, match="needs as many finite centers"):
        ChannelSpace.bands("counts", ["x"], center=[0, 1])
    with pytest.raises(ArgumentError, match="distinct names"):
        ChannelSpace.bands("twice", ["x", "x"])
    with pytest.raises(ArgumentError, match="positive scales"):
        ChannelSpace.bands("flat", ["x", "y"], scale=[1, 0])
    for not_finite in (float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="as many finite centers and finite positive scales"):
            ChannelSpace.bands("not_finite", ["x"], center=not_finite)
        with pytest.raises(ArgumentError, match="positive scales"):
            ChannelSpace.bands("not_finite", ["x"], scale=not_finite)
    for names in ([""], [5], []):
        with pytest.raises(ArgumentError, match="must be text and not empty|distinct names"):
            ChannelSpace.bands("x", names)
    with pytest.raises(ArgumentError, match="'rgb' is built in; choose another name"):
        ChannelSpace.bands("rgb", ["R", "G", "B"])
    with pytest.raises(ArgumentError, match="channels must be given as text, such as 'lab:ab', .*got 8"):
        Channels.parse(8)
