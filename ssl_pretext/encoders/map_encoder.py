"""What the encoders around other libraries' networks share: feature maps by name, and errors about image sizes."""

import re
from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import Option

__all__ = ["MapEncoder", "as_numbers"]


class MapEncoder(nn.Module):
    """An encoder that names its inner feature maps itself and gives all of them as `(B, C, h, w)`.

    Args:
        name: What it is called in messages, such as `"timm/resnet18"`.
        body: The network inside.
        layers: Names that `feature_maps` accepts, in running order.
        image_size: Side of the images that the network was made for; many take others too.
    """

    def __init__(self, name: str, body: nn.Module, layers: Sequence[str], *, image_size: int) -> None:
        super().__init__()
        self.name, self.body, self.image_size = name, body, image_size
        self._layers = list(layers)

    @override
    def forward(self, images: Tensor) -> Tensor:
        try:
            return self._output(images)
        except (AssertionError, RuntimeError) as error:
            raise self._explained(error, images) from error

    def layers(self) -> list[str]:
        """Names of the inner feature maps, in running order."""
        return list(self._layers)

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The feature maps `(B, C, h, w)` of the named layers, out of one pass.

        Raises:
            UnknownNameError: There is no such layer.
            ArgumentError: The network does not take images of this size.
        """
        if unknown := [layer for layer in layers if layer not in self._layers]:
            raise UnknownNameError(f"{self.name} has no layer {unknown[0]!r}; its layers: {', '.join(self._layers)}")
        try:
            return self._maps(images, layers)
        except (AssertionError, RuntimeError) as error:
            raise self._explained(error, images) from error

    def _output(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _explained(self, error: Exception, images: Tensor) -> Exception:
        # Only the plain kinds come from shapes that do not fit; the subclasses are things like lack of memory.
        if type(error) not in (AssertionError, RuntimeError):
            return error
        weights = next(self.parameters(), images)
        if (weights.dtype, weights.device) != (images.dtype, images.device):
            return ArgumentError(
                f"{self.name} has weights of {weights.dtype} on {weights.device} and got images of {images.dtype} on "
                f"{images.device}; bring them together with .to()"
            )
        size, reason = self.image_size, str(error) or type(error).__name__
        return ArgumentError(
            f"{self.name} does not run on images of shape {tuple(images.shape)}: {reason}. It was made for {size}×"
            f"{size} pixels; use that size, or build it for another with '{self.name}[img_size=64]' where it takes that"
        )


def as_numbers(value: Option) -> Option | tuple[int, ...]:
    """An option of a spec as other libraries take it: `"64x128"` stands for several numbers.

    Examples:
        >>> as_numbers("64x128x256"), as_numbers("gelu"), as_numbers(3)
        ((64, 128, 256), 'gelu', 3)
    """
    if isinstance(value, str) and re.fullmatch(r"\d+(x\d+)+", value):
        return tuple(map(int, value.split("x")))
    return value
