"""The base class of encoders from other libraries: feature maps by name, and errors about image sizes."""

import re
from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import Option

__all__ = ["CLASS_TOKEN", "MapEncoder", "as_numbers", "class_token_of"]

CLASS_TOKEN = "cls"  # stands for the class token among the layers of `MapEncoder.feature_maps`


class MapEncoder(nn.Module):
    """Base class of encoders that list their own layers and return all feature maps as `(B, C, h, w)`.

    Args:
        name: Name of the encoder in messages, such as `"timm/resnet18"`.
        body: The wrapped network.
        layers: Names of the layers, in the order in which they run.
        image_size: Width and height in pixels of the images that the network was made for. Many networks accept other
            sizes too.

    Attributes:
        has_class_token: Whether the network has a class token, as vision transformers do.
        published_mean_std: The mean and the standard deviation of RGB in `[0, 1]`, each `(R, G, B)`, that images are
            normalized with for the published weights; None if the encoder was created without these weights.
    """

    has_class_token: bool = False
    published_mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __init__(self, name: str, body: nn.Module, layers: Sequence[str], *, image_size: int) -> None:
        super().__init__()
        self.name, self.body, self.image_size = name, body, image_size
        self._layers = list(layers)

    @override
    def forward(self, images: Tensor) -> Tensor:
        try:
            return self._output(images)
        except (AssertionError, RuntimeError) as error:
            raise self._with_explanation(error, images) from error

    def layers(self) -> list[str]:
        """Returns the names of the layers, in the order in which they run."""
        return list(self._layers)

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns the feature maps `(B, C, h, w)` of layers from one forward pass.

        Args:
            images: Input of the encoder, `(B, in_channels, H, W)`.
            layers: Names from `layers()`; `"cls"` is the class token after the last norm, `(B, C, 1, 1)`.

        Raises:
            UnknownNameError: The encoder has no such layer.
            ArgumentError: The network does not accept images of this size, dtype or device.
        """
        known = [*self._layers, *([CLASS_TOKEN] if self.has_class_token else [])]
        if unknown := [layer for layer in layers if layer not in known]:
            raise UnknownNameError(f"{self.name} has no layer {unknown[0]!r}; its layers: {', '.join(self._layers)}")
        try:
            return self._maps(images, layers)
        except (AssertionError, RuntimeError) as error:
            raise self._with_explanation(error, images) from error

    def output_and_maps(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Returns the output and the maps of layers from one forward pass.

        Some networks apply their last norm to all of these maps, and not only to the output.

        Args:
            images: Input of the encoder, `(B, in_channels, H, W)`.
            layers: Names from `layers()`.

        Raises:
            ArgumentError: The network does not accept images of this size, dtype or device.
        """
        try:
            return self._output_and_maps(images, layers)
        except (AssertionError, RuntimeError) as error:
            raise self._with_explanation(error, images) from error

    def _output(self, images: Tensor) -> Tensor:
        return self._output_and_maps(images, [])[0]

    def _output_and_maps(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError

    def _maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _with_explanation(self, error: Exception, images: Tensor) -> Exception:
        # Shapes that do not fit raise exactly these types; their subclasses have other reasons, such as out of memory.
        if type(error) not in (AssertionError, RuntimeError):
            return error
        weights = next(self.parameters(), images)
        if (weights.dtype, weights.device) != (images.dtype, images.device):
            return ArgumentError(
                f"{self.name} has weights of {weights.dtype} on {weights.device} and got images of {images.dtype} on "
                f"{images.device}; use .to() to give both the same dtype and device"
            )
        size, reason = self.image_size, str(error) or type(error).__name__
        return ArgumentError(
            f"{self.name} does not run on images of shape {tuple(images.shape)}: {reason}. It was made for {size}×"
            f"{size} pixels; use that size, or choose another with '{self.name}[img_size=64]' if the network has this "
            "option"
        )


def class_token_of(encoder: nn.Module) -> str | None:
    """Returns the name by which `feature_maps` takes the class token of an encoder; None if it has none."""
    return CLASS_TOKEN if isinstance(encoder, MapEncoder) and encoder.has_class_token else None


def as_numbers(value: Option) -> Option | tuple[int, ...]:
    """Converts an option of a spec to the form of other libraries: text such as `"64x128"` stands for several numbers.

    Examples:
        >>> as_numbers("64x128x256"), as_numbers("gelu"), as_numbers(3)
        ((64, 128, 256), 'gelu', 3)
    """
    if isinstance(value, str) and re.fullmatch(r"\d+(x\d+)+", value):
        return tuple(map(int, value.split("x")))
    return value
