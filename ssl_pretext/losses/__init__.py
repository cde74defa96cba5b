"""Loss functions, the registry that creates them by name, and weighted sums of them."""

from ssl_pretext.losses.adversarial import Adversarial
from ssl_pretext.losses.base import LOSSES, Domain, LogitsLoss, Loss, create_loss, list_losses, register_loss
from ssl_pretext.losses.classification import ChannelClassification, ColorClassification
from ssl_pretext.losses.lab_classification import LabClassification
from ssl_pretext.losses.lpips import LPIPS, trunks_on_disk
from ssl_pretext.losses.perceptual import Perceptual
from ssl_pretext.losses.pixel import PixelLoss
from ssl_pretext.losses.weighted import Losses, WeightedLosses, as_signed_rgb, parse_losses

__all__ = [
    "LOSSES",
    "LPIPS",
    "Adversarial",
    "ChannelClassification",
    "ColorClassification",
    "Domain",
    "LabClassification",
    "LogitsLoss",
    "Loss",
    "Losses",
    "Perceptual",
    "PixelLoss",
    "WeightedLosses",
    "as_signed_rgb",
    "create_loss",
    "list_losses",
    "parse_losses",
    "register_loss",
    "trunks_on_disk",
]
