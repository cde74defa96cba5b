"""Feature distance over a pretrained timm backbone (a perceptual loss after Johnson et al. 2016)."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.losses.base import Loss, register_loss, uncast

__all__ = ["Perceptual"]


@register_loss("perceptual")
class Perceptual(Loss):
    """The mean squared distance of a backbone's unit-normalized features, averaged over its stages.

    The backbone is frozen, computed in float32, and neither in `parameters()` nor in the state dict.

    Args:
        backbone: A timm model that gives feature maps, such as `"vgg16"` or `"resnet18"`.
        stages: Which of its stages, as timm counts them, such as `"0+1+2"`; all of them by default.
        weights: A file with its weights; timm's pretrained ones by default.

    Raises:
        UnknownNameError: timm has no such model.
        ArgumentError: It gives no feature maps, or has no such stages; or images are too small for them.
        MissingFileError: Its weights are neither on disk nor to be downloaded; random ones are never used.
    """

    def __init__(self, backbone: str = "vgg16", stages: str = "all", weights: str = "") -> None:
        super().__init__("rgb")
        self.arguments = (backbone, stages, weights)
        network, mean, std = _load_backbone(backbone, stages, weights)
        # In a tuple nn.Module does not see it: the network is no part of what is trained or saved.
        self._hidden = (network,)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(prediction.device.type, enabled=False):
            with torch.no_grad():
                truths = self._features(target)
            pairs = zip(self._features(prediction), truths, strict=True)
            return torch.stack([(mine - true).square().sum(dim=1).mean() for mine, true in pairs]).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean).float(), cast(Tensor, self.std).float()
        try:
            maps = self._hidden[0](((images.float() + 1) / 2 - mean) / std)
        except RuntimeError as error:
            if "too small" not in str(error):
                raise
            raise ArgumentError(
                f"{self.label} needs larger images than {tuple(images.shape[-2:])}: {error}; choose a larger image "
                "size, or fewer stages"
            ) from error
        return [F.normalize(features, dim=1) for features in maps]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A task cast to half precision keeps this distance exact.
        self._hidden[0]._apply(uncast(function))
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]


def _load_backbone(name: str, stages: str, weights: str) -> tuple[nn.Module, list[float], list[float]]:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise UnknownNameError(f"timm has no model {name!r} for the perceptual loss; timm.list_models() lists them")
    if weights and not Path(weights).is_file():
        raise MissingFileError(f"there is no file {weights} with the weights of {name}")
    try:
        chosen = None if stages == "all" else [int(stage) for stage in stages.split("+")]
    except ValueError as error:
        raise ArgumentError(f"stages are written '0+1+2' or 'all', got {stages!r}") from error
    options = {"out_indices": chosen} if chosen else {}
    overlay = {"file": weights} if weights else None
    try:
        network = timm.create_model(
            name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay, **options
        )
    except (AttributeError, IndexError, AssertionError, NotImplementedError) as error:
        raise ArgumentError(f"{name} does not give the feature maps of stages {stages}: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingFileError(
            f"perceptual[backbone={name}] needs pretrained weights, which could not be had: {error}. Give a file with "
            f"weights=FILE, or choose a backbone that you have; random weights are never used"
        ) from error
    config = network.pretrained_cfg
    return network.requires_grad_(False).eval(), list(config["mean"]), list(config["std"])
