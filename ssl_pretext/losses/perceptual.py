"""The perceptual loss: a distance between features of a pretrained timm backbone (after Johnson et al. 2016)."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.losses.base import Loss, register_loss, uncast
from ssl_pretext.saving.weights import read_tensors

__all__ = ["Perceptual"]


@register_loss("perceptual")
class Perceptual(Loss):
    """The mean squared distance between the unit-normalized features of a backbone, averaged over its stages.

    The backbone is frozen, computed in float32, and part of neither `parameters()` nor the state dict.

    Args:
        backbone: Name of a timm model that returns feature maps, such as `"vgg16"` or `"resnet18"`.
        stages: Numbers of the stages that are compared, as timm counts them, such as `"0+1+2"`; or `"all"`.
        weights: Path of a file with the weights of the backbone; if empty, timm's pretrained weights are used.

    Raises:
        UnknownNameError: timm has no model of this name.
        ArgumentError: The model does not return feature maps or does not have these stages, or `forward` gets images
            that are too small for them.
        MissingFileError: The weights are not on disk and cannot be downloaded. Random weights are never used.
        CheckpointError: The file of weights is damaged, or holds something other than tensors.
    """

    def __init__(self, backbone: str = "vgg16", stages: str = "all", weights: str = "") -> None:
        super().__init__("rgb")
        self.arguments = (backbone, stages, weights)
        network, mean, std = _load_backbone(backbone, stages, weights)
        # nn.Module does not register a network inside a tuple, so this one is neither trained nor saved.
        self._hidden = (network,)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(prediction.device.type, enabled=False):
            with torch.no_grad():
                target_features = self._features(target)
            pairs = zip(self._features(prediction), target_features, strict=True)
            return torch.stack([(predicted - true).square().sum(dim=1).mean() for predicted, true in pairs]).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean).float(), cast(Tensor, self.std).float()
        try:
            maps = self._hidden[0](((images.float() + 1) / 2 - mean) / std)
        except RuntimeError as error:
            if "too small" not in str(error):
                raise
            raise ArgumentError(
                f"the loss {self.label} needs larger images than {tuple(images.shape[-2:])}: {error}; choose a larger "
                "image size, or fewer stages"
            ) from error
        return [F.normalize(features, dim=1) for features in maps]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The network stays in float32 when the task is cast to half precision.
        self._hidden[0]._apply(uncast(function))
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]


def _load_backbone(name: str, stages: str, weights: str) -> tuple[nn.Module, list[float], list[float]]:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise UnknownNameError(f"timm has no model {name!r} for the perceptual loss; see timm.list_models()")
    if weights and not Path(weights).is_file():
        raise MissingFileError(
            f"perceptual[backbone={name}] needs a file of weights at {weights}, which does not exist; correct the path"
        )
    try:
        chosen = None if stages == "all" else [int(stage) for stage in stages.split("+")]
    except ValueError as error:
        raise ArgumentError(
            f"stages of the perceptual loss must be numbers such as '0+1+2', or 'all', got {stages!r}"
        ) from error
    options = {"out_indices": chosen} if chosen else {}
    # Not the option `file`, with which some versions of timm load pickles.
    overlay = {"state_dict": read_tensors(Path(weights), "the perceptual loss")} if weights else None
    try:
        network = timm.create_model(
            name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay, **options
        )
    except (AttributeError, IndexError, AssertionError, NotImplementedError) as error:
        raise ArgumentError(
            f"the backbone {name} of the perceptual loss cannot return the feature maps of stages {stages}: {error}; "
            "choose other stages or another backbone"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingFileError(
            f"perceptual[backbone={name}] needs pretrained weights, which could not be loaded: {error}. Give a file "
            "with weights=FILE, or choose a backbone whose weights you have; random weights are never used"
        ) from error
    config = network.pretrained_cfg
    config.pop("state_dict", None)  # the network has its own copy
    return network.requires_grad_(False).eval(), list(config["mean"]), list(config["std"])
