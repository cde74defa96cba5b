"""Representations: named frozen functions from images to features, which is all that a probe sees of a network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.config import whole_number
from ssl_pretext.errors import ArgumentError

__all__ = [
    "OUTPUT",
    "Backbone",
    "ColorHistogram",
    "Joined",
    "Pixels",
    "Representation",
    "averaged",
    "describe_channels",
    "frozen",
]

MOST_BINS = 32
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

    Examples:
        >>> network = nn.Conv2d(3, 8, 2, stride=2)
        >>> backbone = Backbone(lambda images, layers: {layer: network(images) for layer in layers}, module=network)
        >>> backbone.layer().encode(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 8, 4, 4])
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
        """Backbones that run one network in one way are one: their layers share a pass."""
        if self is other:
            return True
        if not isinstance(other, Backbone) or self.module is None:
            return False
        return self.module is other.module and self.describe == other.describe and self.maps == other.maps

    def __hash__(self) -> int:
        return hash(id(self if self.module is None else self.module))

    def layer(self, layer: str = OUTPUT, name: str | None = None) -> "Representation":
        """The representation that one layer is; the output by default."""
        return Representation(name or layer or "output", self, layer=layer)


class Representation:
    """A named frozen function from images to features: one layer of a `Backbone`, which alone decides its values.

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

    control: bool = False  # whether it is there for others to be compared with

    def __init__(self, name: str, source: Backbone | Callable[[Tensor], Tensor], *, layer: str = OUTPUT) -> None:
        self.name, self.layer = name, layer
        self.backbone = source if isinstance(source, Backbone) else _one_map(source)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

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

    control = True

    def __init__(self, channels: str | Channels, *, size: int | tuple[int, int] | None = None) -> None:
        chosen = Channels.parse(channels)
        sides = None if size is None else _sides("size of Pixels", size)

        def extract(images: Tensor) -> Tensor:
            # A missing value counts as the centre of its band, as an encoder sees it.
            values = chosen.extract(images).nan_to_num(0.0)
            return values if sides is None else averaged(values, sides)

        described: dict[str, Any] = {"kind": "pixels", **describe_channels(chosen)}
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

    control = True

    def __init__(self, bins: int = 4) -> None:
        bins = whole_number("bins of ColorHistogram", bins)
        if bins > MOST_BINS:
            raise ArgumentError(f"bins of ColorHistogram are at most {MOST_BINS}, got {bins}; its cube is counted")
        rgb = Channels.parse("rgb")

        def count(images: Tensor) -> Tensor:
            steps = ((rgb.extract(images) + 1) / 2 * bins).long().clamp(0, bins - 1)
            cells = (steps[:, 0] * bins + steps[:, 1]) * bins + steps[:, 2]
            return F.one_hot(cells, bins**3).float().mean(dim=(1, 2))[:, :, None, None]

        described = {"kind": "histogram", "bins": bins}
        super().__init__("colour histogram", _one_map(count, described, channels=rgb))


class Joined(Representation):
    """Representations side by side, or one, averaged to fewer values.

    Args:
        parts: One or more.
        size: Averages the map of each part to at most `size` pixels a side and joins the values, `(B, F, 1, 1)`; left
            out, the maps are averaged to the smallest height and width among them and joined along the channels.
        name: How messages call it; the names of the parts by default.

    Examples:
        >>> Joined([Pixels("lab:L"), ColorHistogram()], size=4).encode(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 80, 1, 1])
    """

    def __init__(self, parts: Sequence[Representation], *, size: int | None = None, name: str | None = None) -> None:
        if not parts or not all(isinstance(part, Representation) for part in parts):
            raise ArgumentError(f"Joined takes a sequence of representations, got {parts!r}")
        size = None if size is None else whole_number("size of Joined", size)
        self.members, self.size = tuple(parts), size
        descriptions = [part.describe for part in parts]
        described = None if None in descriptions else {"kind": "joined", "size": size, "parts": descriptions}
        super().__init__(name or " + ".join(part.name for part in parts), _one_map(self._encoded, described))

    @property
    def parts(self) -> tuple[Representation, ...]:
        return tuple(leaf for member in self.members for leaf in member.parts)

    def _encoded(self, images: Tensor) -> Tensor:
        return self.combine([part.encode(images) for part in self.parts])

    def combine(self, features: Sequence[Tensor]) -> Tensor:
        left = iter(features)
        features = [member.combine(list(islice(left, len(member.parts)))) for member in self.members]
        if self.size is not None:
            flat = [averaged(one, (self.size, self.size)).flatten(1) for one in features]
            return torch.cat(flat, dim=1)[:, :, None, None]
        smallest = min(one.shape[-2] for one in features), min(one.shape[-1] for one in features)
        return torch.cat([averaged(one, smallest) for one in features], dim=1)

    def on(self, other: Callable[[Backbone], Backbone]) -> Representation:
        return Joined([member.on(other) for member in self.members], size=self.size, name=self.name)


def describe_channels(channels: Channels) -> dict[str, Any]:
    """Channels as a card holds them: bands with what their space makes of them, since only their name is fixed."""
    space = channels.space
    return {"channels": str(channels)} | ({} if space.is_color else {"space": space.describe()})


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


def _sides(what: str, size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return whole_number(what, height), whole_number(what, width)


def averaged(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Maps averaged down to at most `sides`; smaller ones stay as they are."""
    height, width = (min(side, have) for side, have in zip(sides, maps.shape[-2:], strict=True))
    return maps if (height, width) == maps.shape[-2:] else F.adaptive_avg_pool2d(maps, (height, width))
