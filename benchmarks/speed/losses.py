"""Time and memory of LPIPS as a term of a loss."""

from collections.abc import Callable

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.new_process import measure_in_new_process
from benchmarks.speed.peaks import count_flop, seconds_at_peak
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from ssl_pretext.losses import create_loss

__all__ = ["lpips"]

NET = "squeeze"


def lpips(options: RunOptions) -> list[Measurement]:
    """Times forward and backward of LPIPS, and measures whether its memory grows with the steps."""
    import lpips as package
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    count, image_size = (2, 32) if options.small else (32, 64)
    target = sp.sample_photos("train", image_size=image_size).images(range(count)).float() / 127.5 - 1
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    prediction = (target + 0.2 * noise).clamp(-1, 1).requires_grad_()
    ours = create_loss("lpips", net=NET)
    metric = LearnedPerceptualImagePatchSimilarity(net_type=NET)
    authors = package.LPIPS(net=NET, verbose=False)

    def torchmetrics_loss() -> Tensor:
        metric.reset()
        return metric(prediction, target)  # type: ignore[no-any-return]

    variants: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: _gradient(lambda: ours(prediction, target), prediction),
        "torchmetrics": lambda: _gradient(torchmetrics_loss, prediction),
        "lpips": lambda: _gradient(lambda: authors(prediction, target).mean(), prediction),
    }
    gradients = {name: run() for name, run in variants.items()}
    scale = float(gradients[OURS].abs().max())
    error = max(check_equal(name, gradients[OURS], found, within=1e-3 * scale) for name, found in gradients.items())
    steps = 20 if options.small else 1_000
    growth = measure_in_new_process("lpips", steps=steps)
    return [
        Measurement(
            work=f"LPIPS ({NET}), {'×'.join(map(str, target.shape))}, forward and backward",
            variants=time_in_turn(variants, rounds=options.rounds),
            goals={"torchmetrics": 1.0, "lpips": 1.0},
            agreement=f"the gradients differ by at most {error / scale:.1g} of the largest gradient",
            seconds_at_peak=seconds_at_peak(count_flop(lambda: ours(prediction, target).backward())),
        ),
        Measurement(
            work=f"LPIPS ({NET}): memory after {steps:,} steps",
            variants={OURS: [growth["late"]], f"after {steps // 10} steps": [growth["early"]]},
            goals={f"after {steps // 10} steps": 0.98},
            unit="MiB",
        ),
    ]


def _gradient(distance: Callable[[], Tensor], prediction: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(distance(), prediction)
    return gradient
