"""Statistics of features that show whether they have collapsed, which a decreasing loss does not show."""

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

from ssl_pretext.spacing import evenly_spaced

__all__ = ["Health", "collapse_warnings", "feature_health", "health_rows"]

MOST_IMAGES, MOST_VALUES = 1_024, 2**27
# A channel has collapsed if its standard deviation is at most this fraction of the largest one of all channels. A
# representation has collapsed if its features differ between images by less than this fraction of their size.
COLLAPSED = 0.01
EPSILON = 1e-7  # from equation 1 of Garrido et al. 2023


class Health(TypedDict):
    """Statistics of the features of one representation.

    Attributes:
        channels: Number of channels.
        std: Standard deviation over images and positions, averaged over the channels.
        effective_rank: RankMe of the features averaged over positions; at least 1, at most `channels`.
        collapsed_channels: Number of channels whose standard deviation is at most a hundredth of the largest one.
        between_images: Standard deviation over the images of the features at one position, as a fraction of their root
            mean square. Near 0, the features of all images are nearly the same.
    """

    channels: int
    std: float
    effective_rank: float
    collapsed_channels: int
    between_images: float


def feature_health(features: Tensor) -> Health:
    """Computes statistics of features `(N, C, h, w)` on at most 1,024 evenly spaced images, or fewer if maps are large.

    The effective rank is RankMe (Garrido et al. 2023, section 3.1): the exponential of the entropy of the singular
    values after they are divided by their sum. If all features are equal, it is 1 and all channels count as collapsed.

    Examples:
        >>> feature_health(torch.ones(16, 8, 2, 2))["collapsed_channels"]
        8
    """
    count = max(2, min(MOST_IMAGES, MOST_VALUES // features[0].numel()))
    chosen = evenly_spaced(len(features), count)
    maps = features[chosen]
    deviations = maps.std(dim=(0, 2, 3), correction=0).double()
    pooled = maps.mean(dim=(2, 3)).double()
    size = torch.linalg.vector_norm(maps, dtype=torch.float64) / maps.numel() ** 0.5
    between = maps.var(dim=0, correction=0).double().mean().sqrt()
    gram = pooled @ pooled.T if len(pooled) < pooled.shape[1] else pooled.T @ pooled
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    fractions = singular / singular.sum().clamp(min=EPSILON) + EPSILON
    largest = deviations.max()
    varies = largest > EPSILON * maps.abs().max()  # otherwise the deviations are rounding errors
    collapsed = (deviations <= COLLAPSED * largest) if varies else deviations >= 0
    return {
        "channels": features.shape[1],
        "std": deviations.mean().item(),
        "effective_rank": max(1.0, (-(fractions * fractions.log()).sum()).exp().item()),
        "collapsed_channels": int(collapsed.sum()),
        "between_images": (between / size.clamp(min=EPSILON)).item(),
    }


def collapse_warnings(health: Mapping[str, Health]) -> list[str]:
    """Returns a warning for each representation whose features are nearly the same for all images.

    Args:
        health: Statistics of `feature_health` by name of the representation.

    Examples:
        >>> collapse_warnings({"mine": feature_health(torch.ones(16, 8, 2, 2))})
        ['mine has collapsed: its features differ between images by 0.00% of their size, so no probe can...']
    """
    return [
        f"{name} has collapsed: its features differ between images by {statistics['between_images']:.2%} of their "
        "size, so no probe can distinguish the images."
        for name, statistics in health.items()
        if statistics["between_images"] < COLLAPSED
    ]


def health_rows(health: Mapping[str, Health]) -> list[dict[str, str]]:
    """Formats the statistics of `feature_health` as rows of a table, one per representation."""
    return [
        {
            "representation": name,
            "channels": str(statistics["channels"]),
            "standard deviation": f"{statistics['std']:.3g}",
            "effective rank": f"{statistics['effective_rank']:.1f}",
            "collapsed channels": str(statistics["collapsed_channels"]),
            "between images": f"{statistics['between_images']:.1%}",
        }
        for name, statistics in health.items()
    ]
