"""The controls that stand beside every figure: what any representation has to beat before it has helped."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import ColorHistogram, Pixels, Representation, frozen
from ssl_pretext.representations.extraction import check_maps

__all__ = ["CONTROLS", "UNTRAINED", "Controls", "find_controls", "untrained_name"]

UNTRAINED, SOURCE, REDUCED = "untrained", "its source channels", "pixels of its size"  # as a table calls them
CONTROLS = ("untrained", "pixels", "source", "reduced", "histogram")


@dataclass(frozen=True)
class Controls:
    """The controls of an evaluation.

    Attributes:
        added: Those that were not among the representations given, by name; without the untrained networks.
        names: All that are controls, given ones included.
        against: For each representation that is none, its controls by what a table calls them.
    """

    added: dict[str, Representation]
    names: list[str]
    against: dict[str, dict[str, str]]


def find_controls(
    given: Mapping[str, Representation],
    images: ImageStore,
    *,
    wanted: bool | Collection[str],
    reduce: Callable[[Tensor], Tensor],
    device: str,
) -> Controls:
    """Which controls belong to the representations.

    Args:
        given: By name.
        images: Some of the images; one is looked at.
        wanted: Some of `CONTROLS`; True for all of them.
        reduce: What the probe does with maps before it sees them.
        device: Where the networks run.

    Raises:
        ArgumentError: There is no such control, its name is taken, or a representation gives no maps.
    """
    if isinstance(wanted, str) or not isinstance(wanted, bool | Collection):
        raise ArgumentError(f"controls is True, False or some of {', '.join(CONTROLS)}, got {wanted!r}")
    kinds = set(CONTROLS if wanted is True else wanted or ())
    if unknown := sorted(kinds - {*CONTROLS}):
        raise ArgumentError(f"there is no control {unknown[0]!r}; known: {', '.join(CONTROLS)}")
    if reserved := sorted({*given} & {UNTRAINED, SOURCE, REDUCED}):
        raise ArgumentError(f"{reserved[0]!r} is what a table calls a control; rename the representation")
    known: dict[str, Representation] = {name: one for name, one in given.items() if one.control}
    controls = Controls({}, list(known), {name: {} for name in given if name not in known})
    for name, against in controls.against.items():
        one = given[name]
        if "untrained" in kinds and one.untrained is not None:
            against[UNTRAINED] = untrained_name(name)
            if against[UNTRAINED] in given:
                raise ArgumentError(f"{against[UNTRAINED]!r} is what the control of {name!r} is called; rename one")
        for label, control in _of(one, images, kinds, reduce, device):
            found = next((have for have, other in known.items() if other.describe == control.describe), control.name)
            if found not in known:
                if found in given:
                    raise ArgumentError(f"{found!r} is what one of the controls is called; rename the representation")
                known[found] = controls.added[found] = control
                controls.names.append(found)
            against[label or found] = found
        for have in given:
            if have in known and have not in against.values():
                against[have] = have
    controls.names.extend(one[UNTRAINED] for one in controls.against.values() if UNTRAINED in one)
    return controls


def untrained_name(name: str) -> str:
    """What the untrained control of a representation is called."""
    return f"{name} (untrained)"


def _of(
    one: Representation, images: ImageStore, kinds: Collection[str], reduce: Callable[[Tensor], Tensor], device: str
) -> list[tuple[str, Representation]]:
    """The controls of one representation, each with what a table calls it if not by its name."""
    seen = [part.backbone.channels for part in one.parts if part.backbone.channels is not None]
    pixels = _whole_image(seen, images)
    found: list[tuple[str, Representation]] = []
    if pixels is None:
        return found
    if "pixels" in kinds:
        found.append(("", Pixels(pixels)))
    # Gray is all of its space, and less than the image.
    if "source" in kinds and len(seen) == 1 and seen[0].num_channels < seen[0].space.image_channels:
        found.append((SOURCE, Pixels(seen[0])))
    if "reduced" in kinds:
        with ExitStack() as stack:
            for part in one.parts:
                stack.enter_context(frozen(part.backbone.module, device))
            maps = check_maps(one.name, one.features(images.images([0]).to(device)), 1)
        height, width = reduce(maps).shape[-2:]
        full_height, full_width = images.images([0]).shape[-2:]
        if max(height, width) > 1 and (height < full_height or width < full_width):
            found.append((REDUCED, Pixels(pixels, size=(height, width))))
    if "histogram" in kinds and pixels.space.is_color:
        found.append(("", ColorHistogram()))
    return found


def _whole_image(seen: Sequence[Channels], images: ImageStore) -> Channels | None:
    """All channels of the image: RGB, or the bands; None where nothing tells: three floating bands may be anything."""
    if seen and not seen[0].space.is_color:
        return Channels(seen[0].space)
    rgb = images.num_channels == 3 and (bool(seen) or images.images([0]).dtype == torch.uint8)
    return Channels("rgb") if rgb else None
