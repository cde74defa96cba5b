"""LPIPS (Zhang et al. 2018) as a training loss."""

import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.losses.base import Loss, register_loss, uncast

__all__ = ["LPIPS", "trunks_on_disk"]

# Smallest side that each trunk's pooling leaves something of.
SMALLEST_SIDE = {"alex": 31, "vgg": 16, "squeeze": 17}
_WEIGHTS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}


@register_loss("lpips")
class LPIPS(Loss):
    """Learned perceptual distance between RGB images in `[-1, 1]`, averaged over the batch.

    The network is torchmetrics', called directly: its functional form would build it again on every call, and its
    Metric object keeps the graphs of all calls alive. It is frozen, computed in float32, and neither in
    `parameters()` nor in the state dict. Its authors train with `vgg` and report with `alex`; below 64×64 pixels
    the distance is not calibrated.

    Args:
        net: `"alex"`, `"vgg"` or `"squeeze"`.

    Raises:
        ArgumentError: There is no such network.
        MissingFileError: Its ImageNet weights are neither on disk nor to be downloaded; another network is never
            put in their place.
    """

    def __init__(self, net: str = "alex") -> None:
        super().__init__("rgb")
        if net not in SMALLEST_SIDE:
            raise ArgumentError(f"lpips has the networks {', '.join(SMALLEST_SIDE)}, got net={net!r}")
        self.net = net
        # In a tuple nn.Module does not see it: the network is no part of what is trained or saved.
        self._hidden = (_load_network(net),)

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        smallest = SMALLEST_SIDE[self.net]
        if min(prediction.shape[-2:]) < smallest:
            raise ArgumentError(
                f"lpips[net={self.net}] needs images of at least {smallest}×{smallest} pixels, got "
                f"{tuple(prediction.shape[-2:])}; choose a larger image size or another net"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            distance: Tensor = self._hidden[0](prediction.float(), target.detach().float(), normalize=False)
        return distance.mean()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A task cast to half precision keeps this distance exact.
        self._hidden[0]._apply(uncast(function))
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]


def trunks_on_disk() -> list[str]:
    """The networks whose ImageNet weights are here already."""
    return [net for net in SMALLEST_SIDE if _weights_of(net)[1].exists()]


def _weights_of(net: str) -> tuple[str, Path]:
    """Where the weights of a trunk are published, and where they are kept."""
    import torchvision.models

    url: str = getattr(torchvision.models, _WEIGHTS[net]).IMAGENET1K_V1.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _load_network(net: str) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    url, file = _weights_of(net)
    try:
        with warnings.catch_warnings():
            # torchmetrics reads the trunk through torchvision's old `pretrained=` switch.
            warnings.simplefilter("ignore")
            network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except (urllib.error.URLError, OSError) as error:
        raise MissingFileError(
            f"lpips[net={net}] needs the ImageNet weights {file.name}, which are not at {file} and could not be "
            f"downloaded ({error}). Download {url} elsewhere and put it there (or set TORCH_HOME to the folder "
            "that holds hub/checkpoints/), or choose a network that you have: lpips[net=squeeze], or no lpips at all."
        ) from error
    return network.requires_grad_(False).eval()
