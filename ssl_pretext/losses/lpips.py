"""LPIPS, the learned perceptual distance of Zhang et al. 2018, as a training loss."""

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

# Smallest image size, in pixels, that the pooling layers of each network do not reduce to nothing.
SMALLEST_SIZE = {"alex": 31, "vgg": 16, "squeeze": 17}
_WEIGHTS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}


@register_loss("lpips")
class LPIPS(Loss):
    """Learned perceptual distance between RGB images in `[-1, 1]`, averaged over the batch.

    The network comes from torchmetrics. It is called directly, because the functional form of torchmetrics builds the
    network again in every call, and its `Metric` object keeps the autograd graphs of all calls. The network is frozen,
    computed in float32, and part of neither `parameters()` nor the state dict. The authors of LPIPS train with `vgg`
    and report with `alex`. The distance is not calibrated for images below 64×64 pixels.

    Args:
        net: Name of the network: `"alex"`, `"vgg"` or `"squeeze"`.

    Raises:
        ArgumentError: There is no such network, or `forward` gets images that are too small for it.
        MissingFileError: The ImageNet weights of the network are not on disk and cannot be downloaded. Another network
            is never used instead.
    """

    def __init__(self, net: str = "alex") -> None:
        super().__init__("rgb")
        if net not in SMALLEST_SIZE:
            raise ArgumentError(f"net of the loss lpips must be one of {', '.join(SMALLEST_SIZE)}, got {net!r}")
        self.net = net
        # nn.Module does not register a network inside a tuple, so this one is neither trained nor saved.
        self._hidden = (_load_network(net),)

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        smallest = SMALLEST_SIZE[self.net]
        if min(prediction.shape[-2:]) < smallest:
            raise ArgumentError(
                f"lpips[net={self.net}] needs images of at least {smallest}×{smallest} pixels, got "
                f"{tuple(prediction.shape[-2:])}; choose a larger image size or another net"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            distance: Tensor = self._hidden[0](prediction.float(), target.detach().float(), normalize=False)
        return distance.mean()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The network stays in float32 when the task is cast to half precision.
        self._hidden[0]._apply(uncast(function))
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]


def trunks_on_disk() -> list[str]:
    """Returns the names of the networks whose ImageNet weights are already on disk."""
    return [net for net in SMALLEST_SIZE if _weights_of(net)[1].exists()]


def _weights_of(net: str) -> tuple[str, Path]:
    """Returns the URL of a network's ImageNet weights, and the path at which they are stored on disk."""
    import torchvision.models

    url: str = getattr(torchvision.models, _WEIGHTS[net]).IMAGENET1K_V1.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _load_network(net: str) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    url, file = _weights_of(net)
    try:
        with warnings.catch_warnings():
            # torchmetrics loads the network through torchvision's deprecated argument `pretrained`.
            warnings.simplefilter("ignore")
            network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except (urllib.error.URLError, OSError) as error:
        raise MissingFileError(
            f"lpips[net={net}] needs the ImageNet weights {file.name}, which are not at {file} and could not be "
            f"downloaded ({error}). Download {url} on another machine and copy it to that path, or set TORCH_HOME to "
            "the folder that contains hub/checkpoints/. Or use a network whose weights you have, such as "
            "lpips[net=squeeze], or train without lpips."
        ) from error
    return network.requires_grad_(False).eval()
