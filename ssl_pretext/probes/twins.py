"""The controls that are the same network with other weights: the strongest random ones, or those it started from."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.data import ImageStore
from ssl_pretext.encoders.untrained import batch_norms, closed_branches, measured_statistics, open_residual_branches
from ssl_pretext.errors import ArgumentError, PretextError
from ssl_pretext.probes.controls import BEFORE, CONTROLS, UNTRAINED, before_name, untrained_name
from ssl_pretext.probes.given import describe
from ssl_pretext.probes.knn import KNNProbe, neighbor_means
from ssl_pretext.probes.linear import pool, shrink
from ssl_pretext.probes.targets import Targets
from ssl_pretext.representations.base import Backbone, Representation, frozen
from ssl_pretext.representations.cache import Cache, cached_features, code_identity, is_cacheable, network_identity
from ssl_pretext.representations.extraction import (
    BATCH_SIZE,
    Formats,
    in_float32,
    layers_by_backbone,
)
from ssl_pretext.system.team import Team

__all__ = ["UntrainedTwins", "images_of_twins", "starting_points"]

# Largest numbers of training images that versions are compared on and that statistics are measured on, so that the cost
# does not grow with the data. The accuracies of two versions on 2,048 images have standard errors of about one point.
SAMPLE = 2_048
MEASURED_ON = 512


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


VERSIONS = [Version(is_open, is_measured) for is_open, is_measured in product((False, True), repeat=2)]
AS_DRAWN, MEASURED, OPEN, OPEN_AND_MEASURED = VERSIONS


class UntrainedTwins:
    """Draws untrained twins of representations, each in its strongest version.

    A twin has up to four versions with the same random weights: as they are drawn, with residual branches at full scale
    if they are drawn at about zero (`open_residual_branches`), and both of these with measured BatchNorm statistics
    (`measured_statistics`). None of them is always the strongest. A representation gets the version that predicts best
    by leave-one-out nearest neighbors on a sample of the training images. No test image is used, so the choice does not
    bias the accuracy of the control. The sample has all labels, whatever the budget: the version is then the same for
    all budgets, and what the additional labels contribute can only make the control stronger.

    The version is chosen once, with the random weights of seed 0, because it depends on the architecture and the images
    far more than on the weights. A twin with a single version has no additional cost.

    Args:
        train: The training images.
        targets: Their targets.
        device: Device on which the networks run.
        cache: Cache for the choice and for the features of the sample.
        team: Processes that share the computation of features; all get the choice of its leader.
        formats: The precision and memory format of each network.
    """

    def __init__(
        self,
        train: ImageStore,
        targets: Targets,
        *,
        device: str,
        cache: Cache | None = None,
        team: Team | None = None,
        formats: Formats = in_float32,
    ) -> None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        self._measured_on = train.subset(order[:MEASURED_ON])  # in random order: a batch should hold all classes
        # In the order of the training images if these are all of them, so that the cache has the features.
        is_whole = len(train) <= SAMPLE
        self._compared = train if is_whole else train.subset(order[:SAMPLE])
        self._targets = targets if is_whole else targets.subset(order[:SAMPLE])
        self._device, self._cache, self._team, self._formats = device, cache, team or Team(), formats
        self._versions: dict[str, Version] | None = None

    def draw(self, representations: Mapping[str, Representation], seed: int) -> dict[str, Representation]:
        """Draws the twins of representations that have one, by the name of the control.

        Layers of one network become layers of one twin, and are computed in one pass. The global random state is not
        changed.

        Args:
            representations: Representations that have an untrained twin, by name; the same names for each seed.
            seed: Seed of the random weights.

        Raises:
            ArgumentError: A network was given as a module, and has values that were possibly learned and are not drawn
                anew; see `reinitialized`.
        """
        drawn = self._draws(representations, seed)
        if self._versions is None:
            single = all(draws.is_single for draws in drawn.values())
            first = drawn if single or seed == 0 else self._draws(representations, 0)
            self._versions = self._choose(representations, first)
        twins = ((name, self._twin(one, drawn, self._versions[name])) for name, one in representations.items())
        return {untrained_name(name): twin for name, twin in twins}

    def _draws(self, representations: Mapping[str, Representation], seed: int) -> "dict[Backbone, Draws]":
        cache = self._cache if self._team.is_leader else None
        return {
            backbone: Draws(backbone.untrained, list(layers), seed, self._measured_on, self._device, cache)
            for backbone, layers in layers_by_backbone(representations.values()).items()
            if backbone.untrained is not None
        }

    def _twin(
        self, representation: Representation, drawn: "Mapping[Backbone, Draws]", version: Version
    ) -> Representation:
        twin = representation.on(lambda part: drawn[part].nearest(version) if part in drawn else part)
        twin.initialization = version.describe(len(self._measured_on)) + _describe_kept(representation, twin)
        return twin

    def _choose(
        self, representations: Mapping[str, Representation], drawn: "Mapping[Backbone, Draws]"
    ) -> dict[str, Version]:
        """Chooses the strongest version of each representation, or reads the choice from the cache."""
        is_cached = all(is_cacheable(part) for one in representations.values() for part in _backbones(one))
        identity, cache = self._identity(representations), self._cache if is_cached else None
        choice = self._team.decide(lambda: None if cache is None else cache.result(identity))
        if choice is None:
            choice = self._compare({name: self._candidates(one, drawn) for name, one in representations.items()})
            if cache is not None and self._team.is_leader:
                cache.store_result(identity, choice)
        return {name: Version(*version) for name, version in choice.items()}

    def _identity(self, representations: Mapping[str, Representation]) -> dict[str, Any]:
        """Everything that determines the choice."""
        return {
            "strongest_version_of": {name: describe(one) for name, one in representations.items()},
            "images": self._compared.sha256,
            "targets": self._targets.sha256,
            "code": code_identity(),
            "device": self._device,
        }

    def _candidates(
        self, representation: Representation, drawn: "Mapping[Backbone, Draws]"
    ) -> dict[Version, Representation]:
        """The versions of the twin of one representation that differ, the one as drawn first."""
        found: dict[tuple[Backbone, ...], tuple[Version, Representation]] = {}
        for version in VERSIONS:
            twin = self._twin(representation, drawn, version)
            found.setdefault(tuple(_backbones(twin)), (version, twin))
        return dict(found.values())

    def _compare(self, candidates: Mapping[str, Mapping[Version, Representation]]) -> dict[str, list[bool]]:
        """The strongest version of each twin, as the cache holds it."""
        several = {name: twins for name, twins in candidates.items() if len(twins) > 1}
        rivals = [twin for twins in several.values() for twin in twins.values()]
        features = cached_features(
            rivals,
            self._compared,
            self._cache,
            device=self._device,
            sha256=self._compared.sha256,
            reduce=shrink,
            team=self._team,
            formats=self._formats,
        )

        def quality(twin: Representation) -> float:
            return _leave_one_out(twin.combine_parts(features).to(self._device), self._targets)

        def choose() -> dict[str, list[bool]]:
            strongest = dict.fromkeys(candidates, AS_DRAWN)
            for name, twins in several.items():
                strongest[name] = max(twins, key=lambda version: quality(twins[version]))
            return {name: [version.is_open, version.is_measured] for name, version in strongest.items()}

        return self._team.decide(choose)


class Draws:
    """The versions of the twin of one network, all with the same random weights; each is made when it is asked for.

    Args:
        untrained: Draws the network with random weights.
        layers: Its layers that are used.
        seed: Seed of the random weights.
        sample: Images on which BatchNorm statistics are measured.
        device: Device on which the network runs.
        cache: Cache for the statistics.
    """

    def __init__(
        self,
        untrained: Callable[[int], Backbone],
        layers: Sequence[str],
        seed: int,
        sample: ImageStore,
        device: str,
        cache: Cache | None,
    ) -> None:
        self._untrained, self._seed = untrained, seed
        self._measure = partial(_measure, layers=layers, sample=sample, device=device, cache=cache)
        self._spare: Backbone | None = None
        self._made: dict[Version, Backbone | None] = {}

    @property
    def is_single(self) -> bool:
        """Whether there is only the network as it is drawn."""
        module = self._example().module
        return module is None or not _other_versions(module)

    def nearest(self, wanted: Version) -> Backbone:
        """The twin in a version, or in the one that comes nearest, such as that of a network without BatchNorm."""
        order = [wanted, Version(wanted.is_open, False), Version(False, wanted.is_measured), AS_DRAWN]
        return next(twin for version in order if (twin := self._version(version)) is not None)

    def _version(self, version: Version) -> Backbone | None:
        if version not in self._made:
            self._made[version] = self._make(version)
        return self._made[version]

    def _make(self, version: Version) -> Backbone | None:
        """Completes a network of its own, because versions must not share parameters; None if there is no version."""
        module = self._example().module
        if version != AS_DRAWN and (module is None or version not in _other_versions(module)):
            return None
        twin, self._spare = self._spare or self._draw(), None
        if twin.module is None or any(other and other.module is twin.module for other in self._made.values()):
            # A function that returns one network several times: a change would change all versions.
            return twin if version == AS_DRAWN else None
        if version.is_open:
            with _seeded(self._seed):
                open_residual_branches(twin.module)
        if version.is_measured and not self._measure(twin, twin.module):
            return None  # the BatchNorm layers do not run, for instance because they belong to a decoder
        return twin

    def _example(self) -> Backbone:
        """A network that shows which versions there are; if it is drawn only for that, it becomes the next one."""
        if (example := self._made.get(AS_DRAWN) or self._spare) is None:
            example = self._spare = self._draw()
        return example

    def _draw(self) -> Backbone:
        try:
            return _draw(self._untrained, self._seed)
        except ArgumentError as error:
            raise ArgumentError(f"{error}. {_how_to_leave_out(UNTRAINED)}") from error


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


def _other_versions(module: nn.Module) -> list[Version]:
    """The versions that a twin of a network may have, besides the one as drawn."""
    has_norms, is_closed = bool(batch_norms(module)), bool(closed_branches(module))
    return [MEASURED] * has_norms + [OPEN] * is_closed + [OPEN_AND_MEASURED] * (has_norms and is_closed)


def images_of_twins(
    backbone: Backbone, train: int, test: int, seeds: Sequence[int], *, chooses: bool, cached: bool
) -> int:
    """The number of images that the untrained twins of a network compute at most, for an estimate of the time.

    Args:
        backbone: The network.
        train: Number of training images.
        test: Number of test images.
        seeds: Seeds for which it is drawn.
        chooses: Whether the strongest version is chosen with this network.
        cached: Whether features are cached, so that those of seed 0 are not computed again after the choice.
    """
    if backbone.untrained is None:
        return 0
    try:
        twin = _draw(backbone.untrained, 0).module
    except ArgumentError:  # which `UntrainedTwins.draw` raises with advice
        return 0
    others = [] if twin is None else _other_versions(twin)  # which depend on its weights
    measuring = min(train, MEASURED_ON) * (MEASURED in others)
    images = len(seeds) * (measuring + train + test)
    if chooses and others:
        images += (len(others) + 1) * min(train, SAMPLE)
        images += measuring * sum(version.is_measured for version in others)
        if 0 in seeds:
            images -= measuring
            if cached and is_cacheable(backbone) and train <= SAMPLE:
                images -= train
    return images


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
