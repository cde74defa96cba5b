"""Encoders from torchvision: its classification networks without their pooling and classifier."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ssl_pretext.encoders.inspection import dry_run, layers_with_maps, record_outputs
from ssl_pretext.encoders.map_encoder import CLASS_TOKEN, MapEncoder, as_numbers
from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.registry import Option, did_you_mean

__all__ = ["TorchvisionEncoder", "constructor_options", "torchvision_encoder", "torchvision_names"]

HEADS = {"avgpool", "classifier", "fc", "head"}  # torchvision's names of the parts after the features
RGB = 3
WITH_INPUT_TRANSFORM = ("googlenet", "inception_v3")  # networks that normalize their input again


class TorchvisionEncoder(MapEncoder):
    """A torchvision network that returns the feature map before its pooling.

    Args:
        name: Name of the encoder in messages.
        body: The network, with identities in place of the parts after the features.
        layers: Names of the submodules that return feature maps; the last of them is the output.
        channels_last: Names of the layers that return maps as `(B, h, w, C)`.
    """

    def __init__(self, name: str, body: nn.Module, layers: Sequence[str], *, channels_last: Sequence[str] = ()) -> None:
        super().__init__(name, body, layers, image_size=224)
        self.channels_last = frozenset(channels_last)
        self.has_class_token = isinstance(body, PatchTransformer)

    def _output_and_maps(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        last = self._layers[-1]
        maps = self._maps(images, [*layers, last])
        return maps[last], [maps[layer] for layer in layers]

    def _maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        # Hooks get the features even of networks whose `forward` pools them itself.
        with record_outputs(self.body, [layer for layer in layers if layer != CLASS_TOKEN]) as outputs:
            output = self.body(images)
        return {
            layer: output[:, 0, :, None, None]
            if layer == CLASS_TOKEN
            else self._as_map(cast(Tensor, outputs[layer]), layer, images)
            for layer in layers
        }

    def _as_map(self, output: Tensor, layer: str, images: Tensor) -> Tensor:
        if isinstance(self.body, PatchTransformer):
            height = math.ceil(images.shape[-2] / self.body.patch_size)
            return cast(Tensor, rearrange(output[:, 1:], "b (h w) c -> b c h w", h=height))  # drops the class token
        return cast(Tensor, rearrange(output, "b h w c -> b c h w")) if layer in self.channels_last else output


class PatchTransformer(nn.Module):
    """The vision transformer of torchvision up to its last norm, for images of any size.

    It returns tokens `(B, 1 + h w, C)`, of which the first is the class token.

    Args:
        vit: A `torchvision.models.VisionTransformer`, whose submodules are used.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.patch_size: int = vit.patch_size
        self.conv_proj, self.class_token = vit.conv_proj, vit.class_token
        self.pos_embedding, self.dropout = vit.encoder.pos_embedding, vit.encoder.dropout
        self.layers, self.ln = vit.encoder.layers, vit.encoder.ln

    def forward(self, images: Tensor) -> Tensor:
        from timm.layers import resample_abs_pos_embed

        size = self.patch_size
        patches = self.conv_proj(F.pad(images, (0, -images.shape[-1] % size, 0, -images.shape[-2] % size)))
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        positions = resample_abs_pos_embed(self.pos_embedding, patches.shape[-2:], num_prefix_tokens=1)
        return cast(Tensor, self.ln(self.layers(self.dropout(tokens + positions))))


def torchvision_encoder(
    name: str, *, in_channels: int, pretrained: bool = False, **options: Option
) -> TorchvisionEncoder:
    """Creates the encoder `"torchvision/<name>"`.

    Args:
        name: A name of `torchvision.models.list_models(module=torchvision.models)`.
        in_channels: Number of channels of the input. Pretrained weights for RGB are adapted by timm's rule.
        pretrained: Whether to load torchvision's default weights.
        options: Options that torchvision passes on to the network, such as `width_mult=0.5` or `input_size="448x448"`.

    Raises:
        UnknownNameError: torchvision has no such network.
        MissingFileError: The pretrained weights are not on disk and cannot be downloaded.
        ArgumentError: The network does not take these options.
    """
    known = torchvision_names()
    if name not in known:
        raise UnknownNameError(
            f"torchvision has no network named {name!r}.{did_you_mean(name, known)} list_encoders('torchvision/*') "
            "lists all names"
        )
    body = _build(name, pretrained, {key: as_numbers(value) for key, value in options.items()})
    _set_in_channels(body, in_channels, pretrained=pretrained)
    encoder = _as_encoder(f"torchvision/{name}", body, in_channels)
    encoder.published_mean_std = _mean_std(name, body) if pretrained else None
    return encoder


def torchvision_names() -> list[str]:
    """Returns the names of all classification networks of torchvision."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def constructor_options(name: str, options: dict[str, Any], *, pretrained: bool = False) -> dict[str, Any]:
    """Returns the options for torchvision's constructor of a network, with additions for GoogLeNet and Inception v3.

    Args:
        name: Name of the network.
        options: The options that were given.
        pretrained: Whether pretrained weights are loaded.
    """
    if name not in WITH_INPUT_TRANSFORM:
        return options
    # These switch off the auxiliary classifiers and an input transform that works for RGB only. Both constructors warn
    # without `init_weights`, but accept neither it nor `aux_logits` together with pretrained weights.
    added = {} if pretrained else {"aux_logits": False, "init_weights": True}
    return {"transform_input": False} | options | added


def _build(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    from torchvision.models import get_model, get_model_weights

    options = constructor_options(name, options, pretrained=pretrained)
    weights = get_model_weights(name)
    if pretrained and not len(weights):
        raise MissingFileError(f"torchvision has no weights for {name!r}; choose another network, or pretrained=false")
    try:
        body: Any = get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except OSError as error:
        url = weights.DEFAULT.url
        raise MissingFileError(
            f"the pretrained weights of torchvision/{name} are not on this machine and could not be downloaded: "
            f"{error}. Download {url} on a machine with internet access, and copy the file to the folder "
            f"{torch.hub.get_dir()}/checkpoints of this one"
        ) from error
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"torchvision/{name} does not take these options: {error}") from error
    if name == "inception_v3":  # with pretrained weights it has an auxiliary classifier
        body.aux_logits, body.AuxLogits = False, None
    return body


def _mean_std(name: str, body: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of RGB that images are normalized with for the default weights."""
    from torchvision.models import get_model_weights

    if name in WITH_INPUT_TRANSFORM and not body.transform_input:
        # The input transform that is switched off would convert the normalization that is published to this one.
        return (0.5,) * RGB, (0.5,) * RGB
    transform = get_model_weights(name).DEFAULT.transforms()
    return tuple(transform.mean), tuple(transform.std)


def _as_encoder(name: str, body: Any, in_channels: int) -> TorchvisionEncoder:
    """Creates the encoder of a classification network, which loses its pooling and its classifier."""
    from torchvision.models import SwinTransformer, VisionTransformer

    if isinstance(body, VisionTransformer):
        body = PatchTransformer(body)
        blocks = [f"layers.{block}" for block, _ in body.layers.named_children()]
        return TorchvisionEncoder(name, body, [*blocks, "ln"])
    trunk = _cut(body)
    if isinstance(body, SwinTransformer):
        stages = [f"features.{stage}" for stage, _ in body.features.named_children()]
        return TorchvisionEncoder(name, body, [*stages, trunk], channels_last=stages)
    encoder = TorchvisionEncoder(name, body, [trunk])
    with torch.no_grad():
        layers = layers_with_maps(body, lambda: dry_run(encoder, in_channels))
    return TorchvisionEncoder(name, body, layers[: layers.index(trunk) + 1])


def _set_in_channels(body: nn.Module, in_channels: int, *, pretrained: bool) -> None:
    """Changes the number of input channels of the first convolution, the only layer that sees the image."""
    from timm.models import adapt_input_conv

    first = next(part for part in body.modules() if isinstance(part, nn.Conv2d))
    if in_channels == RGB:
        return
    if pretrained:
        weight = adapt_input_conv(in_channels, first.weight.detach())
    else:
        # New random weights, because timm's rule would repeat the same weights for several channels. Their standard
        # deviation preserves the variance of the output.
        weight = first.weight.new_empty(first.out_channels, in_channels, *first.kernel_size)
        nn.init.normal_(weight, std=first.weight.std().item() * math.sqrt(RGB / in_channels))
    first.in_channels, first.weight = in_channels, nn.Parameter(weight)


def _cut(body: nn.Module) -> str:
    """Replaces pooling and classifier by identities, and returns the name of the last layer before them."""
    names = [name for name, _ in body.named_children()]
    head = next(index for index, name in enumerate(names) if name in HEADS)
    for name in names[head:]:
        setattr(body, name, nn.Identity())
    trunk = names[head - 1]
    last = body.get_submodule(trunk)
    # A list of modules is not called itself; its last item returns the features.
    return f"{trunk}.{len(last) - 1}" if isinstance(last, nn.ModuleList) else trunk
