"""Whether features have collapsed: figures that stand beside the accuracy, since a falling loss does not tell."""

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

__all__ = ["Health", "collapse_warnings", "feature_health", "health_rows"]

MOST_IMAGES, MOST_VALUES = 1_024, 2**27
COLLAPSED = 0.01  # of the standard deviation of the liveliest channel; of the features' own size, between images
EPSILON = 1e-7  # of equation 1 in Garrido et al. 2023


class Health(TypedDict):
    """Figures of one representation.

    Attributes:
        channels: How many it has.
        std: Standard deviation over images and positions, averaged over the channels.
        effective_rank: RankMe of the features averaged over positions: at least 1, at most `channels`.
        collapsed_channels: Channels that vary less than a hundredth as much as the liveliest one.
        between_images: How much the features at one place differ from image to image: their standard deviation, as a
            share of their root mean square. Near 0, all images look the same.
    """

    channels: int
    std: float
    effective_rank: float
    collapsed_channels: int
    between_images: float


def feature_health(features: Tensor) -> Health:
    """Measures features `(N, C, h, w)` on at most 1,024 images (fewer of large maps), evenly spaced.

    The effective rank is the exponential of the entropy of the singular values, divided by their sum (Garrido et al.
    2023, RankMe, section 3.1). All-equal features have rank 1 and every channel collapsed.

    Examples:
        >>> feature_health(torch.ones(16, 8, 2, 2))["collapsed_channels"]
        8
    """
    count = max(2, min(MOST_IMAGES, MOST_VALUES // features[0].numel()))
    chosen = torch.linspace(0, len(features) - 1, min(count, len(features))).long()
    maps = features[chosen]
    spread = maps.std(dim=(0, 2, 3), correction=0).double()
    pooled = maps.mean(dim=(2, 3)).double()
    size = torch.linalg.vector_norm(maps, dtype=torch.float64) / maps.numel() ** 0.5
    between = maps.var(dim=0, correction=0).double().mean().sqrt()
    gram = pooled @ pooled.T if len(pooled) < pooled.shape[1] else pooled.T @ pooled
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=EPSILON) + EPSILON
    liveliest = spread.max()
    collapsed = (spread <= COLLAPSED * liveliest) if liveliest > EPSILON * maps.abs().max() else spread >= 0
    return {
        "channels": features.shape[1],
        "std": spread.mean().item(),
        "effective_rank": max(1.0, (-(shares * shares.log()).sum()).exp().item()),
        "collapsed_channels": int(collapsed.sum()),
        "between_images": (between / size.clamp(min=EPSILON)).item(),
    }


def collapse_warnings(health: Mapping[str, Health]) -> list[str]:
    """A sentence for each representation that gives all images nearly the same features.

    Examples:
        >>> collapse_warnings({"mine": feature_health(torch.ones(16, 8, 2, 2))})
        ['mine has collapsed: its features differ between images by 0.00% of their size, so that no probe can tell...']
    """
    return [
        f"{name} has collapsed: its features differ between images by {figures['between_images']:.2%} of their size, "
        "so that no probe can tell the images apart."
        for name, figures in health.items()
        if figures["between_images"] < COLLAPSED
    ]


def health_rows(health: Mapping[str, Health]) -> list[dict[str, str]]:
    """The figures of `feature_health` by representation, as they are shown."""
    return [
        {
            "representation": name,
            "channels": str(figures["channels"]),
            "standard deviation": f"{figures['std']:.3g}",
            "effective rank": f"{figures['effective_rank']:.1f}",
            "collapsed channels": str(figures["collapsed_channels"]),
            "between images": f"{figures['between_images']:.1%}",
        }
        for name, figures in health.items()
    ]
