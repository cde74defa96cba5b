"""The LPIPS term of a training step."""

from collections.abc import Callable

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.measure import measure
from benchmarks.speed.race import OURS, Finding, Size, check_equal, race
from ssl_pretext.losses import create_loss

__all__ = ["lpips"]

NET = "squeeze"


def lpips(size: Size) -> list[Finding]:
    """Forward and backward, as one term of a loss."""
    import lpips as package
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    count, side = (2, 32) if size.small else (32, 64)
    target = sp.sample_photos("train", image_size=side).images(range(count)).float() / 127.5 - 1
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    prediction = (target + 0.2 * noise).clamp(-1, 1).requires_grad_()
    ours = create_loss("lpips", net=NET)
    metric = LearnedPerceptualImagePatchSimilarity(net_type=NET)
    authors = package.LPIPS(net=NET, verbose=False)

    def through_metric() -> Tensor:
        metric.reset()
        return metric(prediction, target)  # type: ignore[no-any-return]

    sides: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: _gradient(lambda: ours(prediction, target), prediction),
        "torchmetrics": lambda: _gradient(through_metric, prediction),
        "lpips": lambda: _gradient(lambda: authors(prediction, target).mean(), prediction),
    }
    gradients = {name: side() for name, side in sides.items()}
    scale = float(gradients[OURS].abs().max())
    error = max(check_equal(name, gradients[OURS], found, within=1e-3 * scale) for name, found in gradients.items())
    steps = 20 if size.small else 1_000
    growth = measure("lpips", steps=steps)
    return [
        Finding(
            work=f"LPIPS ({NET}), {'×'.join(map(str, target.shape))}, forward and backward",
            sides=race(sides, rounds=size.rounds),
            goals={"torchmetrics": 1.0, "lpips": 1.0},
            agreement=f"gradients differ by at most {error / scale:.1g} of the largest",
        ),
        Finding(
            work=f"LPIPS ({NET}): memory after {steps:,} steps",
            sides={OURS: [growth["late"]], f"after {steps // 10} steps": [growth["early"]]},
            goals={f"after {steps // 10} steps": 0.98},
            unit="MiB",
        ),
    ]


def _gradient(distance: Callable[[], Tensor], prediction: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(distance(), prediction)
    return gradient
