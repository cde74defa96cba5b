"""Whether features have collapsed: figures that stand beside the accuracy, since a falling loss does not tell."""

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

__all__ = ["Health", "feature_health", "health_rows"]

MOST_IMAGES, MOST_VALUES = 1_024, 2**27
COLLAPSED = 0.01  # of the standard deviation of the liveliest channel
EPSILON = 1e-7  # of equation 1 in Garrido et al. 2023


class Health(TypedDict):
    """Figures of one representation.

    Attributes:
        channels: How many it has.
        std: Standard deviation over images and positions, averaged over the channels.
        effective_rank: RankMe of the features averaged over positions: at least 1, at most `channels`.
        collapsed_channels: Channels that vary less than a hundredth as much as the liveliest one.
    """

    channels: int
    std: float
    effective_rank: float
    collapsed_channels: int


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
    }


def health_rows(health: Mapping[str, Health]) -> list[dict[str, str]]:
    """The figures of `feature_health` by representation, as they are shown."""
    return [
        {
            "representation": name,
            "channels": str(figures["channels"]),
            "standard deviation": f"{figures['std']:.3g}",
            "effective rank": f"{figures['effective_rank']:.1f}",
            "collapsed channels": str(figures["collapsed_channels"]),
        }
        for name, figures in health.items()
    ]
