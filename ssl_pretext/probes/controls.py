"""The controls of an evaluation: the baselines that a representation must beat before pretraining deserves credit."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import Tensor

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import ColorHistogram, Pixels, Representation, frozen
from ssl_pretext.representations.extraction import check_maps
from ssl_pretext.representations.hidden import hidden_networks

__all__ = [
    "BEFORE",
    "CONTROLS",
    "JOINED",
    "UNTRAINED",
    "Controls",
    "before_name",
    "check_modes",
    "find_controls",
    "untrained_name",
]

# Labels of columns in tables.
UNTRAINED, BEFORE, SOURCE, REDUCED = "untrained", "before", "its source channels", "pixels of its size"
CONTROLS = ("untrained", "before", "pixels", "source", "reduced", "histogram")
JOINED = "joined"  # no baseline, but what the features add to the color histogram


@dataclass(frozen=True)
class Controls:
    """The controls of an evaluation.

    Attributes:
        added: Controls that are not among the given representations, by name; without the same networks with
            other weights, which are "untrained" and "before".
        names: Names of all controls, including those among the given representations.
        against: For each representation that is not a control, the names of its controls by their label in tables.
        joined: For each row of features joined with the color histogram, the name of the representation and that of the
            histogram, and the height and width that the feature maps are averaged to.
        without_twin: Representations that should have an untrained control but have none, each with the reason.
    """

    added: dict[str, Representation]
    names: list[str]
    against: dict[str, dict[str, str]]
    joined: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    without_twin: dict[str, str] = field(default_factory=dict)


def find_controls(
    given: Mapping[str, Representation],
    images: ImageStore,
    *,
    wanted: bool | Collection[str],
    reduce: Callable[[Tensor], Tensor],
    device: str,
    join: bool = False,
) -> Controls:
    """Finds the controls that representations are compared with.

    Args:
        given: Representations by name.
        images: Images to evaluate on; only the first one is looked at.
        wanted: Some of `CONTROLS`; True stands for all of them. `JOINED` adds a row that is compared with the histogram
            alone.
        reduce: Function that the probe applies to feature maps before it uses them.
        device: Device on which the networks run.
        join: Whether the probe takes features that are joined with the histogram, which has no positions.

    Raises:
        ArgumentError: There is no such control, the name of a control is already taken, or a representation does not
            return feature maps.
    """
    if isinstance(wanted, str | Mapping) or not isinstance(wanted, bool | Collection):
        raise ArgumentError(f"controls must be True, False or a list of some of {', '.join(CONTROLS)}; got {wanted!r}")
    kinds: Collection[str] = CONTROLS if wanted is True else wanted or ()
    if unknown := [kind for kind in kinds if kind not in (*CONTROLS, JOINED)]:
        raise ArgumentError(f"there is no control {unknown[0]!r}; known: {', '.join((*CONTROLS, JOINED))}")
    if reserved := sorted({*given} & {UNTRAINED, BEFORE, SOURCE, REDUCED}):
        raise ArgumentError(f"{reserved[0]!r} is the label of a control in tables; rename the representation")
    known: dict[str, Representation] = {name: one for name, one in given.items() if one.control}
    controls = Controls({}, list(known), {name: {} for name in given if name not in known})
    for name, against in controls.against.items():
        representation = given[name]
        if "untrained" in kinds:
            if representation.untrained is None:
                controls.without_twin[name] = _why_no_twin(representation)
            else:
                against[UNTRAINED] = untrained_name(name)
        if "before" in kinds and representation.before is not None:
            against[BEFORE] = before_name(name)
        for label, taken in against.items():
            if taken in given:
                raise ArgumentError(f"{taken!r} is the name of the {label} control of {name!r}; rename one of the two")
        for label, control in _controls_of(representation, images, kinds, reduce, device):
            found = next((same for same, other in known.items() if other.describe == control.describe), control.name)
            if found not in known:
                if found in given:
                    raise ArgumentError(f"{found!r} is the name of a control; rename the representation")
                known[found] = controls.added[found] = control
                controls.names.append(found)
            against[label or found] = found
        for other in given:
            if other in known and other not in against.values():
                against[other] = other
    histograms = [name for name, control in known.items() if isinstance(control, ColorHistogram)]
    for name, against in list(controls.against.items()) if join and JOINED in kinds else ():
        for histogram in [one for one in histograms if one in against.values()][:1]:
            joined = f"{name} + {histogram}"
            if joined in given:
                raise ArgumentError(f"{joined!r} is the name of a row with both joined; rename the representation")
            controls.against[joined] = {histogram: histogram}
            controls.joined[joined] = name, histogram, max(_map_size(given[name], images, reduce, device))
    for labels in controls.against.values():
        controls.names.extend(labels[label] for label in (UNTRAINED, BEFORE) if label in labels)
    return controls


def check_modes(name: str, representation: Representation) -> None:
    """Raises if a function uses a network whose features depend on the batch or on chance, since it is in train mode.

    Args:
        name: Name of the representation for the message.
        representation: The representation.

    Raises:
        ArgumentError: A network inside a function is in train mode and has layers for which that matters.
    """
    for network in hidden_networks(representation):
        layers = [type(part).__name__ for part in network.modules() if part.training]
        if changing := [layer for layer in layers if re.search("BatchNorm|Dropout|DropPath", layer)]:
            raise ArgumentError(
                f"{name!r} is a function around a {type(network).__name__} in train mode, in which {changing[0]} "
                "layers compute other features for other batches. Pass the network itself, as "
                "FrozenNetwork(network).representation(), or call eval() on it first"
            )


def _why_no_twin(representation: Representation) -> str:
    if networks := hidden_networks(representation):
        return f"it is a function around a {type(networks[0]).__name__}"
    modules = [part.backbone.module for part in representation.parts if part.backbone.module is not None]
    return f"its Backbone around a {type(modules[0]).__name__} has no `untrained`" if modules else "it is a function"


def untrained_name(name: str) -> str:
    """The name of the untrained control of a representation."""
    return f"{name} (untrained)"


def before_name(name: str) -> str:
    """The name of the control with the published weights that the training of a representation started from."""
    return f"{name} (before)"


def _controls_of(
    representation: Representation,
    images: ImageStore,
    kinds: Collection[str],
    reduce: Callable[[Tensor], Tensor],
    device: str,
) -> list[tuple[str, Representation]]:
    """The controls of one representation, each with its label in tables; an empty label stands for its name."""
    parts = representation.parts
    seen = [part.backbone.channels for part in parts if part.backbone.channels is not None]
    pixels = _all_channels(seen, images)
    found: list[tuple[str, Representation]] = []
    if pixels is None:
        return found
    if "pixels" in kinds:
        found.append(("", Pixels(pixels)))
    # Compared with the image's channels, not with those of the space: the space of gray has no other channel.
    if "source" in kinds and len(seen) == 1 and seen[0].num_channels < seen[0].space.image_channels:
        found.append((SOURCE, Pixels(seen[0])))
    if "reduced" in kinds:
        height, width = _map_size(representation, images, reduce, device)
        full_height, full_width = images.images([0]).shape[-2:]
        if max(height, width) > 1 and (height < full_height or width < full_width):
            found.append((REDUCED, Pixels(pixels, size=(height, width))))
    if "histogram" in kinds and pixels.space.is_color:
        found.append(("", ColorHistogram()))
    return found


def _map_size(
    representation: Representation, images: ImageStore, reduce: Callable[[Tensor], Tensor], device: str
) -> tuple[int, int]:
    """The height and width of the feature maps that the probe uses."""
    with ExitStack() as stack:
        for part in representation.parts:
            stack.enter_context(frozen(part.backbone.module, device))
        image = images.images([0]).to(device)
        maps = check_maps(representation.name, representation.features(image), 1)
    height, width = reduce(maps).shape[-2:]
    return height, width


def _all_channels(seen: Sequence[Channels], images: ImageStore) -> Channels | None:
    """All channels of the images: RGB, or the bands; None if unknown, since three floating channels may be anything."""
    if seen and not seen[0].space.is_color:
        return Channels(seen[0].space)
    rgb = images.are_photos or (images.num_channels == 3 and bool(seen))
    return Channels("rgb") if rgb else None
