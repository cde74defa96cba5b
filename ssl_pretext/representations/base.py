"""The classes of representations: a layer of a network, raw pixels, a color histogram, or several of them together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = [
    "OUTPUT",
    "Backbone",
    "ColorHistogram",
    "Concatenated",
    "Pixels",
    "Representation",
    "average_down",
    "describe_channels",
    "frozen",
]

MOST_BINS = 32  # largest number of bins per channel; the histogram then has 32,768 features
POOLINGS = ("map", "gap", "cls", "gap+cls")
OUTPUT = ""  # the name of a backbone's last feature map among its layers


class Backbone:
    """A frozen network, or any function of images, whose layers are computed together in one pass.

    Args:
        feature_maps: A function from image batches `(B, C, H, W)` and names of layers to the map `(B, c, h, w)` of
            each. The name `""` stands for the output.
        name: The name of the network in messages.
        layers: A function that returns the names of the inner layers, in running order. Without it there is only the
            output.
        describe: Everything that determines the features except the weights, as values that JSON can hold, for probe
            cards and feature caches. Leave it out if that is unknown, as it is for a function.
        module: The network, if there is one; it is put in eval mode and on the device while features are computed.
        channels: The channels that the network sees, if they are known; `evaluate` uses them as a control.
        untrained: A function from a seed to the same network with random weights.
        before: A function that returns the same network with the published weights that its training started from.
            Leave it out if training started from random weights, or if the network was not trained further.
        class_token: The name by which `feature_maps` takes the class token, `(B, C, 1, 1)`, if the network has one.
        prediction: The name by which `feature_maps` takes the prediction of the network's decoder, if it has one.

    Examples:
        >>> network = nn.Conv2d(3, 8, 2, stride=2)
        >>> backbone = Backbone(lambda images, layers: {layer: network(images) for layer in layers}, module=network)
        >>> backbone.representation().features(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 8, 4, 4])
    """

    def __init__(
        self,
        feature_maps: Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]],
        *,
        name: str = "network",
        layers: Callable[[], list[str]] = list,
        describe: Mapping[str, Any] | None = None,
        module: nn.Module | None = None,
        channels: Channels | None = None,
        untrained: "Callable[[int], Backbone] | None" = None,
        before: "Callable[[], Backbone] | None" = None,
        class_token: str | None = None,
        prediction: str | None = None,
    ) -> None:
        self.feature_maps, self.name, self.layers = feature_maps, name, layers
        self.module, self.channels, self.untrained, self.before = module, channels, untrained, before
        self.class_token, self.prediction = class_token, prediction
        self.describe = None if describe is None else dict(describe)

    def __eq__(self, other: object) -> bool:
        """Whether both run the same network in the same way, so that their layers can be computed in one pass."""
        if self is other:
            return True
        if not isinstance(other, Backbone) or self.module is None:
            return False
        same_module, same_description = self.module is other.module, self.describe == other.describe
        return same_module and same_description and self.feature_maps == other.feature_maps

    def __hash__(self) -> int:
        return hash(id(self if self.module is None else self.module))

    def representation(
        self, layer: str | None = None, name: str | None = None, *, pooling: str = "map"
    ) -> "Representation":
        """Returns the features of one layer, by default of the output, as a representation.

        Args:
            layer: Name of a layer, one of `layers()`.
            name: The name of the representation in messages, by default `"network:layer"`.
            pooling: `"map"` for the feature map, `"gap"` for its mean over all positions (global average pooling),
                `"cls"` for the class token after the last norm, as most results of vision transformers are published,
                or `"gap+cls"` for both, concatenated. The last three are vectors `(B, C, 1, 1)`.

        Raises:
            UnknownNameError: The network has no such layer.
            ArgumentError: There is no such pooling, or it asks for a class token that the layer does not have.
        """
        if layer:
            self._check_layers([layer])
        label = name or f"{self.name}:{layer or 'output'}" + (f" ({pooling})" if pooling != "map" else "")
        output = Representation(label, self, layer=layer or OUTPUT)
        if pooling == "map":
            return output
        if pooling not in POOLINGS:
            raise ArgumentError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        if pooling == "gap":
            return Concatenated([output], size=1, name=label)
        if self.class_token is None or layer:
            owner = f"layer {layer!r} of {self.name}" if layer else self.name
            raise ArgumentError(
                f"pooling={pooling!r} needs a class token, and {owner} has none; use 'gap' or 'map', or create a "
                "transformer by its name"
            )
        token = Representation(label, self, layer=self.class_token)
        return token if pooling == "cls" else Concatenated([output, token], size=1, name=label)

    def representations(self, layers: Sequence[str] | None = None) -> "dict[str, Representation]":
        """Returns the features of several layers by name, by default of all inner layers; one pass computes them.

        Raises:
            UnknownNameError: The network has no such layer.
        """
        known = self._check_layers(layers or [])
        return {layer: Representation(layer, self, layer=layer) for layer in layers or known}

    def _check_layers(self, layers: Sequence[str]) -> list[str]:
        known = self.layers()
        if unknown := [layer for layer in layers if layer not in (*known, self.class_token, self.prediction)]:
            raise UnknownNameError(f"{self.name} has no layer {unknown[0]!r}; its layers: {', '.join(known)}")
        return known


class Representation:
    """A named frozen function from images to features: one layer of a `Backbone`.

    Args:
        name: The name of the representation in messages.
        source: A backbone, or a function from image batches `(B, C, H, W)`, `uint8` or floating-point, to features
            `(B, c, h, w)`.
        layer: The layer of the backbone; `""` is its output.

    Examples:
        >>> half_size = Representation("half size", lambda images: images[:, :, ::2, ::2].float())
        >>> half_size.features(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 3, 4, 4])
    """

    control: bool = False  # whether the representation only serves as a baseline for others
    initialization: str | None = None  # how an untrained twin got its weights, in words for the probe card

    def __init__(self, name: str, source: Backbone | Callable[[Tensor], Tensor], *, layer: str = OUTPUT) -> None:
        self.name, self.layer = name, layer
        self.backbone = source if isinstance(source, Backbone) else _single_map(source)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def features(self, images: Tensor) -> Tensor:
        """Computes the features `(B, c, h, w)` of a batch of images, with the network in eval mode."""
        module = self.backbone.module
        with nullcontext() if module is None else eval_mode(module):
            return self.backbone.feature_maps(images, [self.layer])[self.layer]

    @property
    def describe(self) -> dict[str, Any] | None:
        """Everything that determines the features except the weights, for the probe card; None if that is unknown."""
        described = self.backbone.describe
        return None if described is None else described | ({"layer": self.layer} if self.layer else {})

    @property
    def parts(self) -> "tuple[Representation, ...]":
        """The representations that this one is concatenated from; only itself, unless it is a `Concatenated`."""
        return (self,)

    def combine(self, features: Sequence[Tensor]) -> Tensor:
        """Computes the features `(N, c, h, w)` of the representation from those of its parts."""
        (only,) = features
        return only

    @property
    def untrained(self) -> "Callable[[int], Representation] | None":
        """A function from a seed to the same layers with random weights, or None if no part has weights."""
        if all(part.backbone.untrained is None for part in self.parts):
            return None
        return lambda seed: self.on(lambda backbone: backbone.untrained(seed) if backbone.untrained else backbone)

    @property
    def before(self) -> "Callable[[], Representation] | None":
        """A function that returns the same layers with the weights that training started from.

        None if no part started from published weights. Parts that did not are kept as they are.
        """
        if all(part.backbone.before is None for part in self.parts):
            return None
        return lambda: self.on(lambda backbone: backbone.before() if backbone.before else backbone)

    def combine_parts(self, features: Mapping[tuple[Backbone, str], Tensor]) -> Tensor:
        """Combines what `extract_features` returns, which may hold the features of other representations, too."""
        return self.combine([features[part.backbone, part.layer] for part in self.parts])

    def on(self, replace: Callable[[Backbone], Backbone]) -> "Representation":
        """Returns the same layers of other backbones; `replace` maps each backbone to the one that takes its place."""
        return Representation(self.name, replace(self.backbone), layer=self.layer)


class Pixels(Representation):
    """The normalized channels of the image itself, the baseline that every encoder must beat.

    Args:
        channels: Channels of the image, such as `"rgb"` or `"lab:L"`.
        size: Largest height and width, one number for both or `(h, w)`; larger images are averaged down to it.

    Raises:
        ArgumentError: The size is not positive.

    Examples:
        >>> Pixels("lab:L", size=4).features(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 4, 4])
    """

    control = True

    def __init__(self, channels: str | Channels, *, size: int | tuple[int, int] | None = None) -> None:
        self.channels = Channels.parse(channels)
        self.shape = None if size is None else _height_and_width("size of Pixels", size)
        described: dict[str, Any] = {"kind": "pixels", **describe_channels(self.channels)}
        suffix = ""
        if self.shape is not None:
            described["size"] = list(self.shape)
            suffix = f" {self.shape[0]}×{self.shape[1]}"
        super().__init__(
            f"pixels {self.channels}{suffix}", _single_map(self._pixels, described, channels=self.channels)
        )

    def _pixels(self, images: Tensor) -> Tensor:
        values = self.channels.inputs(images)
        return values if self.shape is None else average_down(values, self.shape)


class ColorHistogram(Representation):
    """The fraction of pixels of each color, regardless of their positions.

    Args:
        bins: Number of bins for each of R, G and B, at most 32. With the default of 4 there are 4³ = 64 features,
            `(B, 64, 1, 1)`.

    Raises:
        ArgumentError: The number of bins is not between 1 and 32.

    Examples:
        >>> ColorHistogram().features(torch.rand(2, 3, 8, 8)).sum(dim=1).flatten()
        tensor([1., 1.])
    """

    control = True

    def __init__(self, bins: int = 4) -> None:
        self.bins = whole_number("bins of ColorHistogram", bins)
        if bins > MOST_BINS:
            raise ArgumentError(
                f"bins of ColorHistogram must be at most {MOST_BINS}, got {bins}; the number of features is its cube"
            )
        described = {"kind": "histogram", "bins": self.bins}
        super().__init__("color histogram", _single_map(self._count, described, channels=Channels.parse("rgb")))

    def _count(self, images: Tensor) -> Tensor:
        steps = ((Channels.parse("rgb").extract(images) + 1) / 2 * self.bins).long().clamp(0, self.bins - 1)
        cells = (steps[:, 0] * self.bins + steps[:, 1]) * self.bins + steps[:, 2]
        return F.one_hot(cells, self.bins**3).float().mean(dim=(1, 2))[:, :, None, None]


class Concatenated(Representation):
    """Several representations, concatenated along the channels or as vectors; or a single one, averaged down.

    Args:
        parts: One or more representations.
        size: If given, the maps of each part are averaged to at most this height and width, and all values are
            concatenated to vectors `(B, F, 1, 1)`. Otherwise, all maps are averaged to the smallest height and width
            among them and concatenated along the channels.
        name: The name of the representation in messages, by default the names of its parts.

    Raises:
        ArgumentError: There are no parts, one of them is not a representation, or the size is not positive.

    Examples:
        >>> Concatenated([Pixels("lab:L"), ColorHistogram()], size=4).features(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 80, 1, 1])
    """

    def __init__(self, parts: Sequence[Representation], *, size: int | None = None, name: str | None = None) -> None:
        if not parts or not all(isinstance(part, Representation) for part in parts):
            raise ArgumentError(f"Concatenated needs a sequence of one or more representations, got {parts!r}")
        size = None if size is None else whole_number("size of Concatenated", size)
        self.members, self.size = tuple(parts), size
        descriptions = [part.describe for part in parts]
        described = None if None in descriptions else {"kind": "concatenated", "size": size, "parts": descriptions}
        super().__init__(name or " + ".join(part.name for part in parts), _single_map(self._concatenated, described))

    @override
    @property
    def parts(self) -> tuple[Representation, ...]:
        return tuple(leaf for member in self.members for leaf in member.parts)

    @override
    def combine(self, features: Sequence[Tensor]) -> Tensor:
        remaining = iter(features)
        maps = [member.combine(list(islice(remaining, len(member.parts)))) for member in self.members]
        if self.size is not None:
            vectors = [average_down(values, (self.size, self.size)).flatten(1) for values in maps]
            return torch.cat(vectors, dim=1)[:, :, None, None]
        smallest = min(values.shape[-2] for values in maps), min(values.shape[-1] for values in maps)
        return torch.cat([average_down(values, smallest) for values in maps], dim=1)

    @override
    def on(self, replace: Callable[[Backbone], Backbone]) -> Representation:
        return Concatenated([member.on(replace) for member in self.members], size=self.size, name=self.name)

    def _concatenated(self, images: Tensor) -> Tensor:
        return self.combine([part.features(images) for part in self.parts])


def describe_channels(channels: Channels) -> dict[str, Any]:
    """Describes channels for a card; with their space unless it is built in, since its name does not define it."""
    space = channels.space
    return {"channels": str(channels)} | ({} if space.is_built_in else {"space": space.describe()})


@contextmanager
def frozen(module: nn.Module | None, device: str | torch.device) -> Iterator[None]:
    """Puts a module on a device and in eval mode for the block, in which no gradients are computed."""
    if module is None:
        with torch.no_grad():
            yield
        return
    original_device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module.to(device)
    try:
        with eval_mode(module), torch.no_grad():
            yield
    finally:
        module.to(original_device)


def _single_map(
    encode: Callable[[Tensor], Tensor], describe: Mapping[str, Any] | None = None, *, channels: Channels | None = None
) -> Backbone:
    return Backbone(_SingleMap(encode), describe=describe, channels=channels)


@dataclass(frozen=True)
class _SingleMap:
    """A function of images as one of images and layers; a class instead of a lambda, which could not be pickled."""

    encode: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {OUTPUT: self.encode(images)}


def _height_and_width(what: str, size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return whole_number(what, height), whole_number(what, width)


def average_down(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Averages maps down to at most a height and width; smaller maps are returned unchanged."""
    height, width = (min(most, have) for most, have in zip(size, maps.shape[-2:], strict=True))
    return maps if (height, width) == maps.shape[-2:] else F.adaptive_avg_pool2d(maps, (height, width))
