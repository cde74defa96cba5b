"""Losses by name, each with the domain it is computed in, and their weighted sum."""

from ssl_pretext.losses.base import LOSSES, Domain, Loss, create_loss, list_losses, register_loss
from ssl_pretext.losses.lpips import LPIPS
from ssl_pretext.losses.pixel import PixelLoss
from ssl_pretext.losses.weighted import WeightedLosses, parse_losses

__all__ = [
    "LOSSES",
    "LPIPS",
    "Domain",
    "Loss",
    "PixelLoss",
    "WeightedLosses",
    "create_loss",
    "list_losses",
    "parse_losses",
    "register_loss",
]
