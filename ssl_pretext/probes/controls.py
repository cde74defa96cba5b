"""The controls that stand beside every figure: what any representation has to beat before it has helped."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations import ColorHistogram, Pixels, Representation, frozen

__all__ = ["CONTROLS", "Controls", "find_controls", "untrained_name"]

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
    kinds = set(CONTROLS if wanted is True else wanted or ())
    if unknown := sorted(kinds - {*CONTROLS}):
        raise ArgumentError(f"there is no control {unknown[0]!r}; known: {', '.join(CONTROLS)}")
    known: dict[str, Representation] = {
        name: one for name, one in given.items() if isinstance(one, Pixels | ColorHistogram)
    }
    controls = Controls({}, list(known), {name: {} for name in given if name not in known})
    for name, against in controls.against.items():
        one = given[name]
        if "untrained" in kinds and one.untrained is not None:
            against["untrained"] = untrained_name(name)
            if against["untrained"] in given:
                raise ArgumentError(f"{against['untrained']!r} is what the control of {name!r} is called; rename one")
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
    controls.names.extend(one["untrained"] for one in controls.against.values() if "untrained" in one)
    return controls


def untrained_name(name: str) -> str:
    """What the untrained control of a representation is called."""
    return f"{name} (untrained)"


def _of(
    one: Representation, images: ImageStore, kinds: Collection[str], reduce: Callable[[Tensor], Tensor], device: str
) -> list[tuple[str, Representation]]:
    """The controls of one representation, each with what a table calls it if not by its name."""
    with ExitStack() as stack:
        for part in one.parts:
            stack.enter_context(frozen(part.backbone.module, device))
        maps = one.encode(images.images([0]).to(device))
    if maps.dim() != 4:
        raise ArgumentError(f"{one.name!r} gave features of shape {tuple(maps.shape)} instead of (B, C, h, w)")
    seen = [part.backbone.channels for part in one.parts if part.backbone.channels is not None]
    pixels = _whole_image(seen, images)
    found: list[tuple[str, Representation]] = []
    if pixels is None:
        return found
    if "pixels" in kinds:
        found.append(("", Pixels(pixels)))
    if "source" in kinds and len(seen) == 1 and {*seen[0].names} != {*seen[0].space.channels}:
        found.append(("its source channels", Pixels(seen[0])))
    size = tuple(reduce(maps).shape[-2:])
    if "reduced" in kinds and max(size) > 1 and min(size) < min(images.images([0]).shape[-2:]):
        found.append(("pixels of its size", Pixels(pixels, size=(size[0], size[1]))))
    if "histogram" in kinds and pixels.space.is_color:
        found.append(("", ColorHistogram()))
    return found


def _whole_image(seen: Sequence[Channels], images: ImageStore) -> Channels | None:
    """All channels of the image: RGB, or the bands; None for bands that nothing tells the names of."""
    if seen and not seen[0].space.is_color:
        return Channels(seen[0].space)
    return Channels("rgb") if images.num_channels == 3 else None
