"""The controls that are the same network with other weights: the strongest random ones, or those it started from."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from ssl_pretext.data import ImageStore
from ssl_pretext.encoders.untrained import batch_norms, closed_branches, measured_statistics, open_residual_branches
from ssl_pretext.errors import ArgumentError, PretextError
from ssl_pretext.probes.controls import BEFORE, CONTROLS, UNTRAINED, before_name, untrained_name
from ssl_pretext.probes.knn import KNNProbe, neighbor_means
from ssl_pretext.probes.linear import pool, shrink
from ssl_pretext.probes.targets import Targets
from ssl_pretext.representations.base import Backbone, Representation, frozen
from ssl_pretext.representations.cache import Cache, cached_features, code_identity, is_cacheable, network_identity
from ssl_pretext.representations.extraction import (
    BATCH_SIZE,
    Formats,
    extract_features,
    in_float32,
    layers_by_backbone,
)
from ssl_pretext.system.team import Team

__all__ = ["SAMPLE", "images_of_twin", "starting_points", "strongest_twins"]

# Largest number of training images that statistics are measured on and versions are compared on, so that the cost does
# not grow with the data. The accuracies of two versions on 2,048 images have standard errors of about one point.
SAMPLE = 2_048


@dataclass(frozen=True)
class Version:
    """One of the ways in which an untrained twin is completed after its weights are drawn."""

    is_open: bool = False
    is_measured: bool = False

    def describe(self, images: int) -> str:
        """Describes the version for the probe card; `images` is the number of images that it is measured on."""
        opened = ", residual branches at full scale" if self.is_open else ""
        measured = f", BatchNorm statistics of {images:,} training images" if self.is_measured else ""
        return f"random weights{opened}{measured}"


AS_DRAWN, MEASURED, OPEN, OPEN_AND_MEASURED = (
    Version(is_open, is_measured) for is_open, is_measured in product((False, True), repeat=2)
)


def strongest_twins(
    representations: Mapping[str, Representation],
    seed: int,
    train: ImageStore,
    targets: Targets,
    *,
    device: str,
    cache: Cache | None = None,
    team: Team | None = None,
    formats: Formats = in_float32,
) -> dict[str, Representation]:
    """Draws untrained twins of representations, and returns the strongest version of each by the control's name.

    A twin has up to four versions with the same random weights: as they are drawn, with residual branches at full scale
    if they are drawn at about zero (`open_residual_branches`), and both of these with measured BatchNorm statistics
    (`measured_statistics`). None of them is always the strongest. A representation gets the version that predicts best
    by leave-one-out nearest neighbors on a sample of the training images. No test image is used, so the choice does not
    bias the accuracy of the control. The sample has all labels, whatever the budget: the version is then the same for
    all budgets, and what the additional labels contribute can only make the control stronger. A twin with a single
    version has no additional cost.

    Layers of one network become layers of one twin, and are computed in one pass. The global random state is not
    changed.

    Args:
        representations: Representations that have an untrained twin, by name.
        seed: Seed of the random weights.
        train: The training images.
        targets: Their targets.
        device: Device on which the networks run.
        cache: Cache for the features of the sample.
        team: Processes that share the computation of features; all get the choice of its leader.
        formats: The precision and memory format of each network.

    Raises:
        ArgumentError: A network was given as a module, and has values that were possibly learned and are not drawn
            anew; see `reinitialized`.
    """
    team = team or Team()
    chosen = _sample(len(train))
    sample, known = train.subset(chosen), targets.subset(chosen)
    # In the order of the training images if these are all of them, so that the cache has the features of the choice.
    compared, known = (train, targets) if len(sample) == len(train) else (sample, known)
    drawn: dict[Backbone, dict[Version, Backbone]] = {}
    for backbone, layers in layers_by_backbone(representations.values()).items():
        try:
            drawn[backbone] = _versions(backbone, list(layers), seed, sample, device, cache if team.is_leader else None)
        except ArgumentError as error:
            raise ArgumentError(f"{error}. {_how_to_leave_out(UNTRAINED)}") from error
    candidates = {name: _candidates(one, drawn, len(sample)) for name, one in representations.items()}
    rivals = [twin for twins in candidates.values() if len(twins) > 1 for twin in twins]
    if cache is None:
        features = extract_features(rivals, compared, device=device, reduce=shrink, team=team, formats=formats)
    else:
        features = cached_features(
            rivals,
            compared,
            cache,
            device=device,
            sha256=compared.sha256,
            reduce=shrink,
            team=team,
            formats=formats,
        )

    def quality(twin: Representation) -> float:
        maps = twin.combine_parts(features)
        return _leave_one_out(maps.to(device), known)

    def choose() -> dict[str, int]:
        several = {name: twins for name, twins in candidates.items() if len(twins) > 1}
        return {name: max(range(len(twins)), key=lambda i: quality(twins[i])) for name, twins in several.items()}

    choice = team.decide(choose)
    return {untrained_name(name): twins[choice.get(name, 0)] for name, twins in candidates.items()}


def starting_points(
    representations: Mapping[str, Sequence[Representation]], against: Mapping[str, Mapping[str, str]]
) -> dict[str, list[Representation]]:
    """Creates the networks as they were before pretraining, if they started from published weights.

    Args:
        representations: The representation of each seed, by name.
        against: For each name, the names of its controls by label; only those with the label "before" are created.

    Returns:
        The control of each seed by its name. It is the same object for all seeds that started from the same weights.

    Raises:
        PretextError: The published weights cannot be loaded.
    """
    created: dict[Backbone, Backbone] = {}
    known: dict[str, Backbone] = {}

    def before(backbone: Backbone) -> Backbone:
        if backbone.before is None:
            return backbone
        if backbone not in created:
            start = backbone.before()
            identity = json.dumps([start.describe, network_identity(start.module)], sort_keys=True)
            # A backbone without a description may be another function around the same network.
            created[backbone] = start if start.describe is None else known.setdefault(identity, start)
        return created[backbone]

    found: dict[str, list[Representation]] = {}
    for name, of_seeds in representations.items():
        if BEFORE not in against.get(name, {}):
            continue
        try:
            starts = [representation.on(before) for representation in of_seeds]
        except PretextError as error:
            raise type(error)(
                f"the control {before_name(name)!r} needs the published weights that {name!r} started from: {error}. "
                f"{_how_to_leave_out(BEFORE)}"
            ) from error
        same = all(_backbones(start) == _backbones(starts[0]) for start in starts)
        found[before_name(name)] = [starts[0]] * len(starts) if same else starts
    return found


def _how_to_leave_out(kind: str) -> str:
    others = [control for control in CONTROLS if control != kind]
    return (
        f"To evaluate without this control, name the others: controls={others}, or "
        f"--controls {','.join(others)} on the command line"
    )


def _versions(
    backbone: Backbone, layers: Sequence[str], seed: int, sample: ImageStore, device: str, cache: Cache | None
) -> dict[Version, Backbone]:
    """The versions of the twin of one backbone that differ; empty if it has no twin."""
    if backbone.untrained is None:
        return {}
    plain = _draw(backbone.untrained, seed)
    versions = {AS_DRAWN: plain}
    if plain.module is None:
        return versions
    for version in _other_versions(plain.module):
        if version == OPEN_AND_MEASURED and MEASURED not in versions:
            continue  # the BatchNorm layers do not run, for instance because they belong to a decoder
        twin = _draw(backbone.untrained, seed)  # again, because versions must not share parameters
        if twin.module is None or twin.module in [other.module for other in versions.values()]:
            break  # a function that returns one network several times: a change would change all versions
        if version.is_open:
            with _seeded(seed):
                open_residual_branches(twin.module)
        if not version.is_measured or _measure(twin, twin.module, layers, sample, device, cache):
            versions[version] = twin
    return versions


def _other_versions(module: nn.Module) -> list[Version]:
    """The versions that a twin of a network may have, besides the one as drawn."""
    has_norms, is_closed = bool(batch_norms(module)), bool(closed_branches(module))
    return [MEASURED] * has_norms + [OPEN] * is_closed + [OPEN_AND_MEASURED] * (has_norms and is_closed)


def images_of_twin(backbone: Backbone, train: int, test: int, *, cached: bool) -> int:
    """The number of images that all versions of a twin compute, for an estimate of the time.

    Args:
        backbone: The network.
        train: Number of training images.
        test: Number of test images.
        cached: Whether features are cached, so that those of the strongest version are not computed again.
    """
    try:
        twin = None if backbone.untrained is None else _draw(backbone.untrained, 0).module
    except ArgumentError:  # which `strongest_twins` raises with advice
        return 0
    others = [] if twin is None else _other_versions(twin)  # which depend on its weights
    passes = len(others) + bool(others) + sum(version.is_measured for version in others)
    again = 0 if others and cached and is_cacheable(backbone) and train <= SAMPLE else train
    return passes * min(train, SAMPLE) + again + test


def _draw(draw: Callable[[int], Backbone], seed: int) -> Backbone:
    with _seeded(seed):
        return draw(seed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global random state for a block, and restores it afterward."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _measure(
    backbone: Backbone,
    module: nn.Module,
    layers: Sequence[str],
    sample: ImageStore,
    device: str,
    cache: Cache | None,
) -> bool:
    """Measures BatchNorm statistics on the sample, or reads them; returns whether any BatchNorm layer runs."""
    names = ("running_mean", "running_var")
    statistics = [norm.get_buffer(name) for norm in batch_norms(module) for name in names]
    if cache is None or not is_cacheable(backbone):
        return _run_on_sample(backbone, module, layers, sample, device)
    identity = {
        "statistics_of": backbone.describe,
        "network": network_identity(module),
        "layers": sorted(layers),
        "images": sample.sha256,
        "code": code_identity(),
        "device": torch.device(device).type,
    }
    if (known := cache.features(identity)) is None:
        has_run = _run_on_sample(backbone, module, layers, sample, device)
        if has_run:
            cache.store_features(identity, torch.cat([one.detach().cpu().float() for one in statistics]))
        return has_run
    for buffer, values in zip(statistics, known.split([len(one) for one in statistics]), strict=True):
        buffer.copy_(values)
    return True


def _run_on_sample(
    backbone: Backbone, module: nn.Module, layers: Sequence[str], sample: ImageStore, device: str
) -> bool:
    """Measures BatchNorm statistics on the sample; returns whether any BatchNorm layer runs."""
    with frozen(module, device), measured_statistics(module) as measured:
        for indices in torch.arange(len(sample)).tensor_split(math.ceil(len(sample) / BATCH_SIZE)):
            backbone.feature_maps(sample.images(indices).to(device), layers)
            if not measured:
                return False
    return True


def _candidates(
    representation: Representation, drawn: Mapping[Backbone, Mapping[Version, Backbone]], images: int
) -> list[Representation]:
    """The versions of the twin of one representation that differ, the one as drawn first."""
    found: dict[tuple[Backbone, ...], Representation] = {}
    for version in (AS_DRAWN, MEASURED, OPEN, OPEN_AND_MEASURED):

        def replace(backbone: Backbone, wanted: Version = version) -> Backbone:
            # A part that does not have this version has the one that comes nearest, such as a part without BatchNorm.
            nearest = [wanted, Version(wanted.is_open, False), Version(False, wanted.is_measured), AS_DRAWN]
            return next((drawn[backbone][one] for one in nearest if one in drawn[backbone]), backbone)

        twin = representation.on(replace)
        twin.initialization = version.describe(images) + _describe_kept(representation, twin)
        found.setdefault(tuple(_backbones(twin)), twin)
    return list(found.values())


def _describe_kept(representation: Representation, twin: Representation) -> str:
    """Names the frozen parameters that are the same in both, such as fixed filters, for the probe card."""
    kept: dict[str, None] = {}
    for part, other in zip(_backbones(representation), _backbones(twin), strict=True):
        if part is not other and part.module is not None and other.module is not None:
            drawn = dict(other.module.named_parameters())
            kept |= dict.fromkeys(
                name
                for name, parameter in part.module.named_parameters()
                if not parameter.requires_grad
                and name in drawn
                and torch.equal(parameter, drawn[name].to(parameter.device))
            )
    return f", fixed: {', '.join(kept)}" if kept else ""


def _sample(images: int) -> Tensor:
    """Indices of the same random training images for all seeds, in random order: a batch should hold all classes."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:SAMPLE]


def _backbones(representation: Representation) -> list[Backbone]:
    return [part.backbone for part in representation.parts]


def _leave_one_out(features: Tensor, targets: Targets) -> float:
    """How well the nearest other images predict targets: the accuracy of classes, else minus the mean squared error."""
    values = targets.values.to(features.device)
    if targets.kind.name == "class":
        votes = KNNProbe(features.shape[1], len(targets.names)).remember(features, values).votes()
        return (votes.argmax(dim=1) == values).double().mean().item()
    if targets.kind.name == "mask":  # the fraction of each class in the image
        values = targets.kind.truth(values, len(targets.names)).double()
        values = values / values.sum(dim=1, keepdim=True)
    elif targets.kind.name == "map":  # the mean of each map
        values = values.double().nanmean(dim=(2, 3))
    std = (values - values.nanmean(dim=0)).square().nanmean(dim=0).sqrt()
    error = (neighbor_means(pool(features), values) - values) / torch.where(std > 0, std, 1.0)
    return -error.square().nanmean().item()
