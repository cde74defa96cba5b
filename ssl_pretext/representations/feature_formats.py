"""The precision and the memory format in which frozen networks compute their features."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import Backbone, Representation, frozen
from ssl_pretext.representations.extraction import BATCH_SIZE, layers_by_backbone
from ssl_pretext.system.compute_format import (
    AUTO,
    BF16_MIXED,
    CHANNELS_LAST,
    CONTIGUOUS,
    FLOAT32,
    MEMORY_FORMATS,
    PLAIN,
    ComputeFormat,
    autocast,
    fastest_format,
    in_memory_format,
    possible_formats,
)
from ssl_pretext.system.team import Team

__all__ = ["PRECISIONS", "FeatureFormats"]

PRECISIONS = (FLOAT32, BF16_MIXED, AUTO)
ROUNDS = 2
LEAST_IMAGES = 100 * BATCH_SIZE  # a choice takes the time of up to 12 batches, which has to pay


class Results(Protocol):
    """Where choices are stored; `Cache` is one, which tasks do not import."""

    def result(self, identity: Mapping[str, Any]) -> Any:
        """Returns what is stored under an identity, or None."""

    def store_result(self, identity: Mapping[str, Any], result: Any) -> None:
        """Stores a result."""


class FeatureFormats:
    """The format in which each network computes features; networks of the same structure get the same one.

    An untrained control is therefore computed as the network that it is compared with. Color conversions, and functions
    that are not networks, are computed in float32, and all features are returned in float32.

    Args:
        precision: `"32-true"`, `"bf16-mixed"`, or `"auto"` for the faster one.
        memory_format: `"contiguous"`, `"channels_last"`, or `"auto"` for the faster one.
        num_images: Number of images whose features are computed; many if left out. For less than 6,400, `"auto"` stands
            for `"32-true"` and `"contiguous"`, because timing would take longer than it saves.
        device: The device on which the networks run.
        cache: A `Cache` of choices, so that a later call makes the same ones.
        team: Processes that share the images; all get the choice of the leader.

    Raises:
        ArgumentError: There is no such precision or memory format.

    Examples:
        >>> from ssl_pretext.representations import Pixels
        >>> images = ImageStore.from_arrays(torch.zeros(4, 3, 8, 8))
        >>> formats = FeatureFormats("auto", "auto", num_images=len(images))
        >>> str(formats(Pixels("rgb").backbone, [""], images))
        'float32'
    """

    def __init__(
        self,
        precision: str = FLOAT32,
        memory_format: str = CONTIGUOUS,
        *,
        num_images: int | None = None,
        device: str | torch.device = "cpu",
        cache: Results | None = None,
        team: Team | None = None,
    ) -> None:
        for name, value, known in (
            ("precision", precision, PRECISIONS),
            ("memory_format", memory_format, MEMORY_FORMATS),
        ):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        possible = possible_formats(precision, memory_format)
        self._possible = possible if num_images is None or num_images >= LEAST_IMAGES else possible[:1]
        self._device, self._cache, self._team = torch.device(device), cache, team or Team()
        self._chosen: dict[str, ComputeFormat] = {}

    def __call__(self, backbone: Backbone, layers: Sequence[str], images: ImageStore) -> ComputeFormat:
        """Returns the format in which a backbone computes layers; the first call may time a batch of the images."""
        if backbone.module is None:
            return PLAIN
        structure = str(backbone.module)
        if structure not in self._chosen:
            self._chosen[structure] = self._team.decide(lambda: self._choose(backbone, layers, images))
        return self._chosen[structure]

    def choose(self, representation: Representation, images: ImageStore) -> None:
        """Chooses the formats of the networks of a representation, before their features are computed."""
        for backbone, layers in layers_by_backbone([representation]).items():
            self(backbone, list(layers), images)

    def describe(self, representation: Representation) -> dict[str, Any]:
        """Returns what a card says of the formats of a representation: nothing if all of it is in float32."""
        modules = (part.backbone.module for part in representation.parts)
        chosen = (self._chosen.get(str(module), PLAIN) for module in modules)
        others = sorted({str(one) for one in chosen if one != PLAIN})
        return {"computed_in": others} if others else {}

    def _choose(self, backbone: Backbone, layers: Sequence[str], images: ImageStore) -> ComputeFormat:
        if len(self._possible) == 1 or backbone.module is None:
            return self._possible[0]
        identity = {
            "format_of": str(backbone.module),
            "possible": self._possible,
            "image_size": images.image_size,
            "device": self._device.type,
            "torch": torch.__version__,
        }
        known = None if self._cache is None else self._cache.result(identity)
        if known is not None:
            return ComputeFormat(*known)
        batch = images.images(range(min(len(images), BATCH_SIZE))).to(self._device)

        def step(one: ComputeFormat) -> None:
            with autocast(one.precision, self._device):
                backbone.feature_maps(batch, layers)

        with frozen(backbone.module, self._device), in_memory_format(backbone.module, CHANNELS_LAST):
            try:
                chosen = fastest_format(self._possible, backbone.module, step, self._device, rounds=ROUNDS)
            except RuntimeError:  # the extraction raises it again, for this network
                chosen = self._possible[0]
        if self._cache is not None:
            self._cache.store_result(identity, chosen)
        return chosen
