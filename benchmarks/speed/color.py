"""Time of color conversions, of soft encoding and of the color loss, and memory of the color loss."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.new_process import measure_in_new_process
from benchmarks.speed.peaks import seconds_at_bandwidth, seconds_at_peak
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from ssl_pretext.color import lab_to_rgb as to_rgb
from ssl_pretext.color import rgb_to_lab as to_lab
from ssl_pretext.losses import ColorClassification
from ssl_pretext.quantize import ColorQuantizer

__all__ = ["color_loss", "lab_gradients", "lab_to_rgb", "rgb_to_lab", "soft_encoding"]


def rgb_to_lab(options: RunOptions) -> list[Measurement]:
    """Times RGB → Lab without gradients, in float32."""
    import cv2
    import kornia
    from skimage.color import rgb2lab

    images = torch.rand(_shape(options), generator=torch.Generator().manual_seed(0))
    # OpenCV's layout; the conversion to it is not timed.
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    exact = torch.from_numpy(np.stack([rgb2lab(array.astype(np.float64)) for array in arrays[:4]])).movedim(-1, 1)
    error = check_equal("scikit-image", to_lab(images[:4]), exact, within=1e-3)
    check_equal("kornia", to_lab(images), kornia.color.rgb_to_lab(images), within=1e-2)
    opencv = torch.from_numpy(np.stack([cv2.cvtColor(array, cv2.COLOR_RGB2Lab) for array in arrays[:4]]))
    opencv_error = check_equal("OpenCV", opencv.movedim(-1, 1), exact, within=1)
    with torch.no_grad():
        taken = time_in_turn(
            {
                OURS: lambda: to_lab(images),
                "kornia": lambda: kornia.color.rgb_to_lab(images),
                "OpenCV": lambda: [cv2.cvtColor(array, cv2.COLOR_RGB2Lab) for array in arrays],
                "a plain copy": images.clone,
            },
            rounds=options.rounds,
        )
    return [
        Measurement(
            work=f"RGB → Lab, {_sizes(images)} float32, no gradients",
            variants=taken,
            goals={"kornia": 4, "OpenCV": 0.5},
            agreement=f"the largest difference from scikit-image in float64 is {error:.1g}, and {opencv_error:.1g} "
            "for OpenCV",
            seconds_at_peak=seconds_at_bandwidth(2 * images.nbytes),
        )
    ]


def lab_to_rgb(options: RunOptions) -> list[Measurement]:
    """Times Lab → RGB without gradients."""
    import kornia

    lab = to_lab(torch.rand(_shape(options), generator=torch.Generator().manual_seed(0)))

    def theirs() -> Tensor:
        return cast(Tensor, kornia.color.lab_to_rgb(lab, clip=False))

    error = check_equal("kornia", to_rgb(lab), theirs(), within=1e-3)
    with torch.no_grad():
        taken = time_in_turn({OURS: lambda: to_rgb(lab), "kornia": theirs}, rounds=options.rounds)
    return [
        Measurement(
            work=f"Lab → RGB, {_sizes(lab)} float32, no gradients",
            variants=taken,
            goals={"kornia": 1.5},
            agreement=f"the results differ by at most {error:.1g}",
            seconds_at_peak=seconds_at_bandwidth(2 * lab.nbytes),
        )
    ]


def lab_gradients(options: RunOptions) -> list[Measurement]:
    """Times both directions, forward and backward."""
    import kornia

    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(_shape(options), generator=generator)
    lab = to_lab(rgb)
    weights = torch.rand(rgb.shape, generator=generator)

    def gradient(convert: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        values = values.detach().requires_grad_()
        (found,) = torch.autograd.grad(convert(values), values, weights)
        return found

    measurements = []
    for name, values, ours, theirs in (
        ("RGB → Lab", rgb, to_lab, kornia.color.rgb_to_lab),
        ("Lab → RGB", lab, to_rgb, lambda lab: kornia.color.lab_to_rgb(lab, clip=False)),
    ):
        variants = {OURS: lambda f=ours, x=values: gradient(f, x), "kornia": lambda f=theirs, x=values: gradient(f, x)}
        # The two branches of the published curve do not quite meet. Within 1e-7 of the gap, both branches contribute
        # to our gradient.
        found, expected = variants[OURS](), variants["kornia"]()
        error = check_equal("kornia", found, expected, within=5e-2 * float(found.abs().max()), except_fraction=1e-6)
        measurements.append(
            Measurement(
                work=f"{name}, {_sizes(values)} float32, forward and backward",
                variants=time_in_turn(variants, rounds=options.rounds),
                goals={"kornia": 1.5},
                agreement=f"the gradients differ by at most {error:.1g}",
                seconds_at_peak=seconds_at_bandwidth(4 * values.nbytes),  # two images are read and two are written
            )
        )
    return measurements


def soft_encoding(options: RunOptions) -> list[Measurement]:
    """Times the encoding of ab colors as weights of their nearest bins."""
    from sklearn.neighbors import NearestNeighbors

    ab, quantizer = _colors(2 if options.small else 16, 56), ColorQuantizer()
    centers, count = quantizer.centers, quantizer.neighbors
    neighbors = NearestNeighbors(n_neighbors=count, algorithm="ball_tree").fit(centers.numpy())

    def reference() -> Tensor:
        """Encodes as the released code of Zhang et al. 2016 does."""
        points = ab.movedim(1, -1).flatten(0, 2).numpy()
        distances, indices = neighbors.kneighbors(points)
        weights = np.exp(-(distances**2) / (2 * quantizer.sigma**2))
        weights /= weights.sum(axis=1, keepdims=True)
        dense = np.zeros((len(points), quantizer.bins), dtype=np.float32)
        dense[np.arange(len(points))[:, None], indices] = weights
        return torch.from_numpy(dense).reshape(len(ab), 56, 56, -1).movedim(-1, 1)

    def with_cdist() -> tuple[Tensor, Tensor]:
        squares, indices = torch.cdist(ab.movedim(1, -1).flatten(0, 2), centers).topk(count, largest=False)
        weights = (squares.square() / (-2 * quantizer.sigma**2)).softmax(dim=1)
        return (x.reshape(len(ab), 56, 56, count).movedim(-1, 1) for x in (indices, weights))  # type: ignore[return-value]

    ours = _dense(*quantizer.encode(ab), quantizer.bins)
    error = check_equal("scikit-learn", ours, reference(), within=1e-4)
    check_equal("cdist", ours, _dense(*with_cdist(), quantizer.bins), within=1e-3)
    variants = {OURS: lambda: quantizer.encode(ab), "scikit-learn": reference, "cdist and topk": with_cdist}
    return [
        Measurement(
            work=f"soft encoding of ab, {_sizes(ab)}, k=10",
            variants=time_in_turn(variants, rounds=options.rounds),
            goals={"scikit-learn": 4, "cdist and topk": 5},
            agreement=f"the weights differ by at most {error:.1g}",
            # The distances of all colors from all bins are a product of matrices.
            seconds_at_peak=seconds_at_peak(2.0 * ab.numel() * quantizer.bins),
        )
    ]


class ColorLossWork:
    """The color loss on one batch, forward and backward, with a sparse and with a dense target."""

    def __init__(self, *, small: bool) -> None:
        channels = sp.Channels.parse("lab:ab")
        self.loss, self.quantizer = ColorClassification(rebalance=1.0), ColorQuantizer()
        self.loss.bind(channels)
        self.values = _colors(2 if small else 16, 56)
        self.target = channels.normalize(self.values)
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(len(self.target), 313, 56, 56, generator=generator).requires_grad_()

    def ours(self) -> Tensor:
        """Computes the gradient with the few bins that each pixel has a weight for."""
        return self._gradient(self.loss(self.logits, self.target))

    def dense(self) -> Tensor:
        """Computes the gradient with a target of all bins per pixel, which is encoded just as fast."""
        soft = _dense(*self.quantizer.encode(self.values), self.quantizer.bins)
        return self._gradient(F.cross_entropy(self.logits, soft))

    def _gradient(self, loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, self.logits)
        return gradient


def color_loss(options: RunOptions) -> list[Measurement]:
    """Times the color loss, forward and backward, and measures its memory."""
    work = ColorLossWork(small=options.small)
    error = check_equal("a dense target", work.ours(), work.dense(), within=1e-6)
    name = f"color classification, {_sizes(work.logits)}, forward and backward"
    variants = {OURS: work.ours, "dense soft target": work.dense}
    return [
        Measurement(
            work=name,
            variants=time_in_turn(variants, rounds=options.rounds),
            goals={"dense soft target": 1 / 0.8},
            agreement=f"the gradients differ by at most {error:.1g}",
            # The logits are read for the largest one, for the sum, and for the gradient, which is written.
            seconds_at_peak=seconds_at_bandwidth(4 * work.logits.nbytes),
        ),
        Measurement(
            work=f"{name}: memory in addition to the inputs",
            variants={
                name: [
                    measure_in_new_process("color_loss", method=method, small=options.small)["mib"]
                    for _ in range(1 if options.small else 3)
                ]
                for name, method in ((OURS, "ours"), ("dense soft target", "dense"))
            },
            goals={"dense soft target": 1 / 0.6},
            unit="MiB",
        ),
    ]


def _dense(indices: Tensor, weights: Tensor, bins: int) -> Tensor:
    shape = (len(indices), bins, *indices.shape[2:])
    return torch.zeros(shape).scatter_(1, indices, weights)


def _colors(count: int, image_size: int) -> Tensor:
    """The ab channels of sample photographs."""
    ab = sp.Channels.parse("lab:ab")
    return ab.denormalize(ab.extract(sp.sample_photos("train", image_size=image_size).images(range(count))))


def _shape(options: RunOptions) -> tuple[int, ...]:
    return (4, 3, 32, 32) if options.small else (64, 3, 224, 224)


def _sizes(values: Tensor) -> str:
    return "×".join(map(str, values.shape))
