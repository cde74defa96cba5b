"""Representations: named frozen functions from images to features, which is all that a probe sees of a network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError

__all__ = ["OUTPUT", "Backbone", "ColorHistogram", "Joined", "Pixels", "Representation", "frozen"]

OUTPUT = ""  # the name of a backbone's last feature map among its layers


class Backbone:
    """A frozen network, or any function of images, whose layers are computed together in one pass.

    Args:
        maps: Image batches `(B, C, H, W)` and names of layers to the features `(B, c, h, w)` of each.
        describe: All that decides the values but the weights, JSON-ready, for probe cards and feature caches; left out
            where it cannot be told, as for a function.
        module: The network inside, put into eval mode and on the device while it is used.
        channels: The channels that it sees, where that is known; `evaluate` makes a control of them.
        untrained: The same network with weights drawn from a seed.
    """

    def __init__(
        self,
        maps: Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]],
        *,
        describe: Mapping[str, Any] | None = None,
        module: nn.Module | None = None,
        channels: Channels | None = None,
        untrained: "Callable[[int], Backbone] | None" = None,
    ) -> None:
        self.maps, self.module, self.channels, self.untrained = maps, module, channels, untrained
        self.describe = None if describe is None else dict(describe)

    def __eq__(self, other: object) -> bool:
        """Backbones of one network and description are one: their layers share a pass."""
        if self is other:
            return True
        if not isinstance(other, Backbone) or self.module is None or self.describe is None:
            return False
        return self.module is other.module and self.describe == other.describe

    def __hash__(self) -> int:
        return hash(id(self if self.module is None else self.module))

    def layer(self, layer: str = OUTPUT, name: str | None = None) -> "Representation":
        """The representation that one layer is; the output by default."""
        return Representation(name or layer or "output", self, layer=layer)


class Representation:
    """A named frozen function from images to features: one layer of a `Backbone`.

    Args:
        name: How messages call it.
        source: The backbone, or a function from image batches `(B, C, H, W)`, `uint8` or floating, to features
            `(B, c, h, w)`.
        layer: Of the backbone.

    Examples:
        >>> halves = Representation("half size", lambda images: images[:, :, ::2, ::2].float())
        >>> halves.encode(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 3, 4, 4])
    """

    def __init__(self, name: str, source: Backbone | Callable[[Tensor], Tensor], *, layer: str = OUTPUT) -> None:
        self.name, self.layer = name, layer
        self.backbone = source if isinstance(source, Backbone) else _one_map(source)

    def encode(self, images: Tensor) -> Tensor:
        """Features `(B, c, h, w)` of a batch."""
        return self.backbone.maps(images, [self.layer])[self.layer]

    @property
    def describe(self) -> dict[str, Any] | None:
        """What decides its values, for the probe card; None where that cannot be told."""
        described = self.backbone.describe
        return None if described is None else described | ({"layer": self.layer} if self.layer else {})

    @property
    def parts(self) -> "tuple[Representation, ...]":
        """The representations that it is joined from: itself, for all but `Joined`."""
        return (self,)

    def combine(self, features: Sequence[Tensor]) -> Tensor:
        """Its features `(N, c, h, w)` from those of its parts."""
        (alone,) = features
        return alone

    @property
    def untrained(self) -> "Callable[[int], Representation] | None":
        """The control: the same layers of the same networks with weights drawn from a seed, where there are such."""
        if all(part.backbone.untrained is None for part in self.parts):
            return None
        return lambda seed: self.on(lambda backbone: backbone.untrained(seed) if backbone.untrained else backbone)

    def on(self, other: Callable[[Backbone], Backbone]) -> "Representation":
        """The same layers of other backbones, each given by what it stands in for."""
        return Representation(self.name, other(self.backbone), layer=self.layer)


class Pixels(Representation):
    """The normalised channels of the image itself, the baseline that every encoder must beat.

    Args:
        channels: Such as `"rgb"` or `"lab:L"`.
        size: Averages the image down to at most this many pixels a side, or `(h, w)`.

    Examples:
        >>> Pixels("lab:L", size=4).encode(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, channels: str | Channels, *, size: int | tuple[int, int] | None = None) -> None:
        chosen = Channels.parse(channels)
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and min(sides) < 1:
            raise ArgumentError(f"Pixels are averaged to a positive size, got {size}")

        def extract(images: Tensor) -> Tensor:
            # A missing value counts as the centre of its band, as an encoder sees it.
            values = chosen.extract(images).nan_to_num(0.0)
            return values if sides is None else _shrunk(values, sides)

        described: dict[str, Any] = {"kind": "pixels", "channels": str(chosen)}
        named = ""
        if sides is not None:
            described["size"] = list(sides)
            named = f" {sides[0]}×{sides[1]}"
        super().__init__(f"pixels {chosen}{named}", _one_map(extract, described, channels=chosen))


class ColorHistogram(Representation):
    """The share of each colour in the image, wherever it is: a cube of `bins` steps along R, G and B.

    Args:
        bins: Steps per channel; four make 64 features `(B, 64, 1, 1)`.

    Examples:
        >>> ColorHistogram().encode(torch.rand(2, 3, 8, 8)).sum(dim=1).flatten()
        tensor([1., 1.])
    """

    def __init__(self, bins: int = 4) -> None:
        if bins < 1:
            raise ArgumentError(f"a histogram has at least one bin, got {bins}")
        rgb = Channels.parse("rgb")

        def count(images: Tensor) -> Tensor:
            steps = ((rgb.extract(images) + 1) / 2 * bins).long().clamp(0, bins - 1)
            cells = (steps[:, 0] * bins + steps[:, 1]) * bins + steps[:, 2]
            return F.one_hot(cells, bins**3).float().mean(dim=(1, 2))[:, :, None, None]

        described = {"kind": "histogram", "bins": bins}
        super().__init__("colour histogram", _one_map(count, described, channels=rgb))


class Joined(Representation):
    """Several representations side by side.

    Args:
        parts: At least two.
        size: Averages the map of each part to at most `size` pixels a side and joins the values, `(B, F, 1, 1)`; left
            out, the maps are averaged to the smallest height and width among them and joined along the channels.
        name: How messages call it; the names of the parts by default.

    Examples:
        >>> Joined([Pixels("lab:L"), ColorHistogram()], size=4).encode(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 80, 1, 1])
    """

    def __init__(self, parts: Sequence[Representation], *, size: int | None = None, name: str | None = None) -> None:
        if len(parts) < 2:
            raise ArgumentError(f"Joined takes at least two representations, got {len(parts)}")
        if size is not None and size < 1:
            raise ArgumentError(f"Joined averages to a positive size, got {size}")
        self._parts, self.size = tuple(leaf for part in parts for leaf in part.parts), size
        descriptions = [part.describe for part in self._parts]
        described = None if None in descriptions else {"kind": "joined", "size": size, "parts": descriptions}
        encode = lambda images: self.combine([part.encode(images) for part in self._parts])  # noqa: E731
        super().__init__(name or " + ".join(part.name for part in parts), _one_map(encode, described))

    @property
    def parts(self) -> tuple[Representation, ...]:
        return self._parts

    def combine(self, features: Sequence[Tensor]) -> Tensor:
        if self.size is not None:
            flat = [_shrunk(one, (self.size, self.size)).flatten(1) for one in features]
            return torch.cat(flat, dim=1)[:, :, None, None]
        smallest = min(one.shape[-2] for one in features), min(one.shape[-1] for one in features)
        return torch.cat([_shrunk(one, smallest) for one in features], dim=1)

    def on(self, other: Callable[[Backbone], Backbone]) -> Representation:
        return Joined([part.on(other) for part in self._parts], size=self.size, name=self.name)


@contextmanager
def frozen(module: nn.Module | None, device: str | torch.device) -> Iterator[None]:
    """Puts a module on the device and in eval mode, without gradients, and back again."""
    if module is None:
        with torch.no_grad():
            yield
        return
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    modes = {part: part.training for part in module.modules()}
    module.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.to(home)
        for part, training in modes.items():
            part.training = training


def _one_map(
    encode: Callable[[Tensor], Tensor], describe: Mapping[str, Any] | None = None, *, channels: Channels | None = None
) -> Backbone:
    return Backbone(lambda images, _layers: {OUTPUT: encode(images)}, describe=describe, channels=channels)


def _shrunk(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Maps averaged down to at most `sides`; smaller ones stay as they are."""
    height, width = (min(side, have) for side, have in zip(sides, maps.shape[-2:], strict=True))
    return maps if (height, width) == maps.shape[-2:] else F.adaptive_avg_pool2d(maps, (height, width))
