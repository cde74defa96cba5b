import math

import pytest
import torch

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import create_loss
from ssl_pretext.quantize import ColorQuantizer
from ssl_pretext.tasks import Colorization, CrossChannelPrediction

AB = Channels("lab", "ab")


def colors(count=4, size=8, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def bound(spec, channels=AB, images=None):
    loss = create_loss(spec)
    loss.bind(channels)
    if images is not None:
        loss.prepare(ImageStore.from_arrays(images, [0] * len(images)))
    return loss


def reference_loss(logits, ab, prior, *, rebalance, neighbors, sigma=5.0):
    """Equations 2 to 4 of Zhang et al. 2016 in float64, pixel by pixel, with a dense target."""
    centers = ColorQuantizer().centers.double()
    occurs = prior > 0
    weights = torch.ones(313, dtype=torch.float64)
    if occurs.any():
        weights[occurs] = 1 / ((1 - rebalance) * prior[occurs] + rebalance / occurs.sum())
        weights = weights / (prior * weights).sum()
    total = 0.0
    for image, scores in zip(ab.double(), logits.double(), strict=True):
        for y in range(ab.shape[2]):
            for x in range(ab.shape[3]):
                squares = (centers - image[:, y, x]).square().sum(1)
                nearest = squares.argsort()[:neighbors]
                target = torch.zeros(313, dtype=torch.float64)
                target[nearest] = torch.exp(-squares[nearest] / (2 * sigma**2))
                target /= target.sum()
                total = total - weights[squares.argmin()] * (target * scores[:, y, x].log_softmax(0)).sum()
    return total / (ab.shape[0] * ab.shape[2] * ab.shape[3])


@pytest.mark.parametrize("rebalance", [0.5, 0.0, 1.0])
@pytest.mark.parametrize("neighbors", [10, 1])
def test_color_classification_follows_the_paper(rebalance, neighbors):
    images = colors(2, 4)
    loss = bound(f"color_classification[rebalance={rebalance};neighbors={neighbors}]", images=images)
    logits = torch.randn(2, 313, 4, 4)
    prior = loss.quantizer.prior.double() if rebalance < 1 else torch.zeros(313).double()
    expected = reference_loss(
        logits, AB.denormalize(AB.extract(images)), prior, rebalance=rebalance, neighbors=neighbors
    )
    assert loss(logits, AB.extract(images)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_follows_the_paper():
    images = colors(2, 3)
    loss = bound("color_classification", images=images)
    target = AB.extract(images).double()
    logits = torch.randn(2, 313, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    # The paper multiplies the gradient of each pixel, softmax minus soft target, by the weight of its bin.
    indices, weights = loss.quantizer.encode(AB.denormalize(target))
    soft = torch.zeros_like(logits).scatter_(1, indices, weights)
    pixel = loss.quantizer.rebalancing(0.5)[soft.argmax(1)]
    expected = pixel[:, None] * (logits.softmax(1) - soft) / (2 * 3 * 3)
    assert torch.allclose(gradient.float(), expected.float(), atol=1e-6)
    for position in [(0, 7, 1, 2), (1, 120, 0, 0), (1, int(indices[1, 0, 2, 2]), 2, 2)]:  # finite differences
        step = torch.zeros_like(logits)
        step[position] = 1e-3
        with torch.no_grad():
            slope = (loss(logits + step, target) - loss(logits - step, target)) / 2e-3
        assert slope.item() == pytest.approx(expected[position].item(), abs=1e-7)


def test_gray_images_and_missing_pixels_do_not_count():
    loss = bound("color_classification[rebalance=1]")
    logits, target = torch.randn(2, 313, 4, 4), AB.extract(colors(2, 4))
    target[1] = 4.9 / 110
    assert loss(logits, target).item() == pytest.approx(loss(logits[:1], target[:1]).item() / 2, rel=1e-6)
    target = AB.extract(colors(2, 4))
    complete = loss(logits, target)
    target[:, :, 2:] = float("nan")
    assert loss(logits, target).item() == pytest.approx(loss(logits[:, :, :2], target[:, :, :2]).item(), rel=1e-6)
    assert loss(logits, target) != complete


def test_only_the_gradient_is_dense():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dense(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.created = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.numel() >= 313 * 4 * 256:
                self.created.append(result)  # stored, so that its memory is not reused
            return result

        @property
        def addresses(self):
            return {tensor.untyped_storage().data_ptr() for tensor in self.created}

    loss, target = bound("color_classification"), AB.extract(colors(4, 16))
    logits = torch.randn(4, 313, 16, 16, requires_grad=True)
    loss(logits, target)  # creates the quantizer's table
    with Dense() as dense:
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert dense.addresses - {logits.untyped_storage().data_ptr()} == {gradient.untyped_storage().data_ptr()}
    with Dense() as dense:  # negative control
        torch.autograd.grad(-logits.log_softmax(1).mean(), logits)
    assert len(dense.addresses) > 2


def test_rebalancing_needs_a_prior_and_warns_without_one(caplog):
    loss, target = bound("color_classification"), AB.extract(colors())
    plain = bound("color_classification[rebalance=1]")
    logits = torch.randn(4, 313, 8, 8)
    assert torch.equal(loss(logits, target), plain(logits, target))
    assert "has no prior yet and does not rebalance" in caplog.text
    loss.prepare(ImageStore.from_arrays(colors(8), [0] * 8))
    assert not torch.equal(loss(logits, target), plain(logits, target))


def test_prior_and_adaptive_bins_are_saved(tmp_path):
    images = ImageStore.from_arrays(colors(8) ** 3, [0] * 8)
    for task in (
        Colorization(
            "autoencoder",
            losses={"color_classification[temperature=0.2]": 1.0},
            regularizers={"nuclear_norm[on=features]": 1e-4, "l2": 1e-5},
            output_stride=4,
        ),
        CrossChannelPrediction("lab:ab", "lab:L", "autoencoder", losses={"channel_classification[adaptive=true]": 1.0}),
    ):
        before = task.losses.logits.quantizer.centers.clone()
        task.prepare(images)
        task.save_pretrained(tmp_path / task.name)
        again = type(task).from_pretrained(tmp_path / task.name)
        assert again.options() == task.options()
        saved, loaded = task.losses.logits, again.losses.logits
        assert (saved.temperature, saved.rebalance) == (loaded.temperature, loaded.rebalance)
        assert torch.equal(saved.quantizer.prior, loaded.quantizer.prior)
        assert torch.equal(saved.quantizer.centers, loaded.quantizer.centers)
        assert torch.equal(before, loaded.quantizer.centers) == (task.name == "colorization")
        assert torch.equal(task.eval()(images.images()).loss, again(images.images()).loss)


def test_adaptive_bins_contain_equal_fractions():
    images = colors(8, 16) ** 2
    loss = bound("channel_classification[bins=10;adaptive=true]", Channels("rgb", "R"), images)
    values = Channels("rgb", "R").extract(images)
    fractions = torch.bincount(loss.quantizer.nearest_bin(values).flatten(), minlength=10) / values.numel()
    assert 0.06 < fractions.min() <= fractions.max() < 0.14
    uniform = bound("channel_classification[bins=10]", Channels("rgb", "R"))
    assert (torch.bincount(uniform.quantizer.nearest_bin(values).flatten(), minlength=10) / values.numel()).max() > 0.25
    same = bound("channel_classification[bins=10;adaptive=true]", Channels("rgb", "R"), torch.zeros(2, 3, 4, 4))
    assert (same.quantizer.centers.diff(dim=0) > 0).all()


def test_missing_values_do_not_affect_prior_and_bins():
    space = ChannelSpace.bands("classification-test", ["x", "y"], center=0.5, scale=0.5)
    images = torch.rand(4, 2, 8, 8)
    images[:, 0, :4] = float("nan")
    spec = "channel_classification[bins=10;adaptive=true;rebalance=0.5]"
    loss = bound(spec, Channels(space, "x"), images)
    complete = bound(spec, Channels(space, "x"), images[:, :, 4:])
    assert torch.equal(loss.quantizer.centers, complete.quantizer.centers)
    assert torch.allclose(loss.quantizer.prior, complete.quantizer.prior)
    assert loss.quantizer.prior.isfinite().all()


def test_decoding_and_number_of_outputs():
    loss = bound("channel_classification[decode=mode]", Channels("lab", "L"))
    logits = torch.zeros(1, 50, 1, 1)
    logits[0, 7] = 1.0
    lightness = Channels("lab", "L").denormalize(loss.decode(logits))
    assert lightness.item() == pytest.approx(15.0)  # bins of width 2
    assert bound("channel_classification", AB).num_outputs == 23**2
    assert bound("color_classification[decode=mean]").decode(torch.zeros(1, 313, 2, 2)).abs().max() < 0.2
    assert math.isfinite(bound("channel_classification", AB)(torch.zeros(1, 529, 2, 2), torch.zeros(1, 2, 2, 2)))


def test_lab_classification_is_the_sum_of_lightness_and_color(tmp_path):
    images = colors(4, 16)
    task = CrossChannelPrediction("lab", "lab", "autoencoder", losses={"lab_classification": 1.0}, output_stride=4)
    output = task(images)
    loss, target = task.losses.logits, torch.nn.functional.interpolate(output.target, scale_factor=0.25)
    logits = torch.randn(4, 363, 4, 4)
    expected = bound("channel_classification", Channels("lab", "L"))(logits[:, :50], target[:, :1])
    expected = expected + bound("color_classification[rebalance=1;neighbors=1]")(logits[:, 50:], target[:, 1:])
    assert loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)
    assert output.prediction.shape == output.target.shape == (4, 3, 16, 16)
    task.save_pretrained(tmp_path)
    again = CrossChannelPrediction.from_pretrained(tmp_path)
    assert torch.equal(again(images).loss, task.eval()(images).loss)
    optimizer, totals = torch.optim.Adam(task.parameters(), lr=1e-3), []
    for _ in range(5):
        current = task.train()(images).loss
        totals.append(current.item())
        optimizer.zero_grad()
        current.backward()
        optimizer.step()
    assert totals[-1] < totals[0]


def test_errors_say_what_is_wrong():
    with pytest.raises(
        ArgumentError, match="has bins for lab:ab and cannot be computed on lab:L; use channel_classification"
    ):
        bound("color_classification", Channels("lab", "L"))
    with pytest.raises(ArgumentError, match="classifies one or two channels, but rgb has 3; choose fewer channels"):
        bound("channel_classification", Channels("rgb"))
    with pytest.raises(ArgumentError, match=r"rebalance must lie in \[0, 1\], got 2"):
        create_loss("color_classification[rebalance=2]")
    with pytest.raises(ArgumentError, match="decode needs one of the methods"):
        create_loss("color_classification[decode=median]")
    with pytest.raises(ArgumentError, match="positive number of bins, or 0 for the default, got -1"):
        create_loss("channel_classification[bins=-1]")
    with pytest.raises(ArgumentError, match="logits of only one loss, got color_classification and channel_"):
        Colorization("autoencoder", losses={"color_classification": 1.0, "channel_classification": 1.0})
