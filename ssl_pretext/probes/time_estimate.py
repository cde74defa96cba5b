"""How long an evaluation will take, measured beforehand: a few images of each network, and one probe, are timed."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ssl_pretext.probes.comparison import Comparison
from ssl_pretext.probes.label_budget import LabelSets
from ssl_pretext.probes.linear import MAX_FEATURES, pool, shrink
from ssl_pretext.probes.twins import images_of_twins
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.cache import are_cached
from ssl_pretext.representations.extraction import BATCH_SIZE, in_float32, layers_by_backbone, run_backbone
from ssl_pretext.system.compute_format import ComputeFormat
from ssl_pretext.system.console import describe_duration
from ssl_pretext.system.team import Team

__all__ = ["TimeEstimate", "estimate_time", "log_estimate"]

LEAST = 10.0  # seconds; nothing is said about shorter evaluations
SECONDS = 1.0  # for which a network is timed at most, unless it takes longer for a few images
FEW = 4  # images that are computed first
MOST_LABELS = 2_000  # on which a probe is timed
BACKWARD = 3  # a training step takes about three times as long as the outputs of the same images

log = logging.getLogger(__name__)

Maps = dict[tuple[Backbone, str], Tensor]


@dataclass(frozen=True)
class TimeEstimate:
    """The seconds that the features and the probes of an evaluation take.

    Attributes:
        features: Seconds of all features.
        images: Number of training and test images.
        networks: Number of networks that compute them, without untrained ones.
        untrained: Number of untrained networks that compute them.
        fits: Seconds of all probes.
        probes: Number of probes.
        probe: Name of the probe.

    Examples:
        >>> str(TimeEstimate(80, 1_430, 3, 0, 12, 35, "linear"))
        'about 1 min 32 s: features of 1,430 images by 3 networks (1 min 20 s), 35 linear probes (12 s)'
    """

    features: float
    images: int
    networks: int
    untrained: int
    fits: float
    probes: int
    probe: str

    def __str__(self) -> str:
        parts = []
        if self.features >= 1:
            networks = (_count(self.networks, "network"), _count(self.untrained, "untrained network"))
            by = f" by {' and '.join(filter(None, networks))}" if any(networks) else ""
            parts.append(f"features of {self.images:,} images{by} ({describe_duration(self.features)})")
        if self.probes:
            parts.append(f"{_count(self.probes, f'{self.probe} probe')} ({describe_duration(self.fits)})")
        return f"about {describe_duration(self.features + self.fits)}: {', '.join(parts)}"


@dataclass
class _Passes:
    """The images that a network has yet to compute, and the numbers of them that its untrained twins have."""

    layers: dict[str, str] = field(default_factory=dict)
    own: int = 0
    of_twins: int = 0
    twins: int = 0


def log_estimate(evaluation: Comparison, labels: Sequence[LabelSets]) -> None:
    """Logs how long an evaluation will take, if it is long and the logger shows it.

    For fine-tuning, which may stop early, there is `FinetuningTime`.

    Args:
        evaluation: The evaluation.
        labels: The labels that the seeds use, for each budget.
    """
    if log.isEnabledFor(logging.INFO) and not evaluation.method.finetunes:
        estimate = estimate_time(evaluation, labels)
        if estimate.features + estimate.fits >= LEAST:
            log.info("%s", estimate)


def estimate_time(evaluation: Comparison, labels: Sequence[LabelSets]) -> TimeEstimate:
    """Estimates how long an evaluation takes, apart from what is in its cache.

    Each network computes a few images, whose time is multiplied by the number of images that it and its untrained twins
    have yet to compute. One probe is trained, whose time is multiplied by the number of probes and by what the time of
    such a probe grows with.

    Args:
        evaluation: The evaluation.
        labels: The labels that the seeds use, for each budget.
    """
    passes = _passes(evaluation)
    seconds, maps = 0.0, Maps()
    for backbone, each in passes.items():
        of_image, found = _time_network(evaluation, backbone, each.layers)
        seconds += of_image * (each.own + each.of_twins) / evaluation.team.size
        maps |= {(backbone, layer): values for layer, values in found.items()}
    fits, probes = _estimate_fits(evaluation, labels, maps)
    networks = [each for backbone, each in passes.items() if backbone.module is not None]
    return TimeEstimate(
        features=seconds,
        images=len(evaluation.train) + len(evaluation.test),
        networks=sum(each.own > 0 for each in networks),
        untrained=sum(each.twins for each in networks),
        fits=fits,
        probes=probes,
        probe=evaluation.method.name,
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number > 1)}" if number else ""


def _passes(evaluation: Comparison) -> dict[Backbone, _Passes]:
    passes: dict[Backbone, _Passes] = {}
    fixed, train, test = evaluation.fixed(), len(evaluation.train), len(evaluation.test)

    def networks(representations: Iterable[Representation]) -> Iterable[tuple[Backbone, _Passes]]:
        for backbone, layers in layers_by_backbone(representations).items():
            each = passes.setdefault(backbone, _Passes())
            each.layers |= layers
            yield backbone, each

    varying = [
        of_seeds[number]
        for name, of_seeds in evaluation.representations.items()
        for number in range(len(evaluation.seeds))
        if name not in fixed
    ]
    for backbone, each in networks([*fixed.values(), *varying]):
        each.own = sum(
            len(store)
            for split, store in (("train", evaluation.train), ("test", evaluation.test))
            if not _is_cached(evaluation, backbone, each.layers, split)
        )
    cache = evaluation.cache
    if cache is None or cache.result(evaluation.identity_of_twins()) is None:
        seeds: dict[Backbone, list[int]] = {}
        for number, seed in enumerate(evaluation.seeds):
            for backbone, _ in networks(evaluation.with_twins(number).values()):
                seeds.setdefault(backbone, []).append(seed)
        for backbone, drawn in seeds.items():
            chooses = drawn[0] == evaluation.seeds[0]
            passes[backbone].of_twins = images_of_twins(
                backbone, train, test, drawn, chooses=chooses, cached=cache is not None
            )
            passes[backbone].twins = len(drawn) * (backbone.untrained is not None)
    return passes


def _is_cached(evaluation: Comparison, backbone: Backbone, layers: Iterable[str], split: str) -> bool:
    return evaluation.cache is not None and are_cached(
        backbone,
        layers,
        evaluation.cache,
        device=evaluation.device,
        sha256=evaluation.hashes[split],
        reduce=shrink if evaluation.method.pooled else None,
        computed_in=_format(evaluation, backbone, layers),
    )


def _format(evaluation: Comparison, backbone: Backbone, layers: Iterable[str]) -> ComputeFormat:
    """The format in which a network computes; with several processes, which choose it together, the usual one."""
    formats = evaluation.formats if evaluation.team.size == 1 else in_float32
    return formats(backbone, list(layers), evaluation.train)


def _time_network(
    evaluation: Comparison, backbone: Backbone, layers: Mapping[str, str]
) -> tuple[float, dict[str, Tensor]]:
    """Returns the seconds per image, and the feature maps of a few images."""
    reduce, images = shrink if evaluation.method.pooled else None, evaluation.train
    computed_in = _format(evaluation, backbone, layers)

    def timed(count: int) -> tuple[float, dict[str, Tensor]]:
        some, start = images.subset(range(count)), time.perf_counter()
        maps = run_backbone(
            backbone, layers, some, device=evaluation.device, reduce=reduce, team=Team(), computed_in=computed_in
        )
        return (time.perf_counter() - start) / count, maps

    count, most = min(FEW, len(images)), min(BATCH_SIZE, len(images))
    timed(count)  # the very first images take longer
    each, maps = timed(count)
    while count < most and 4 * count * each < SECONDS:
        count = min(4 * count, most)
        each, maps = timed(count)
    return each, maps


def _estimate_fits(evaluation: Comparison, labels: Sequence[LabelSets], maps: Maps) -> tuple[float, int]:
    """Returns the seconds and the number of all probes that are not in the cache."""
    seconds, probes, of_size = 0.0, 0, None
    for name, of_seeds in evaluation.representations.items():
        counts = _labels_of_probes(evaluation, name, labels)
        if not counts:
            continue
        probes += len(counts)
        features = of_seeds[0].combine_parts(maps)
        if evaluation.method.pooled:
            width = pool(features[:1]).shape[1]
            of_size = of_size or _time_pooled(evaluation, max((sets.full[0] for sets in labels), key=len))
            seconds += of_size * sum(_size(count, width) for count in counts)
        else:
            images = evaluation.epochs * (BACKWARD * sum(counts) + len(counts) * len(evaluation.test))
            seconds += images * _time_epoch(evaluation, features)
    return seconds, probes


def _labels_of_probes(evaluation: Comparison, name: str, labels: Sequence[LabelSets]) -> list[int]:
    """The number of labels of each probe that is not in the cache, on a representation and on its untrained twin."""
    found = []
    for number, seed in enumerate(evaluation.seeds):
        representation = evaluation.representations[name][number]
        described = evaluation.described(representation)
        copies = 2 if name in evaluation.with_twins(number) else 1
        for sets in labels:
            for labeled in (sets.full[number], *sets.parts[number : number + 1]):
                identity = evaluation.identity_of_run(representation, described, labeled, seed)
                if evaluation.cache is None or identity is None or evaluation.cache.result(identity) is None:
                    found += [len(labeled)] * copies
    return found


def _size(labels: int, features: int) -> int:
    """What the time of a probe that is not trained in epochs grows with: the features have a rank of at most N."""
    return labels * min(labels, features)


def _time_pooled(evaluation: Comparison, labeled: Tensor) -> float:
    """Trains a probe on the pixels of labeled images; returns the seconds for each unit of `_size`.

    The pixels are those of the real images, because the number of iterations depends on how much the classes differ.
    """
    labeled = labeled[:MOST_LABELS]
    pixels = evaluation.train.images(labeled).flatten(1)[:, :MAX_FEATURES, None, None].float().nan_to_num(0)
    targets = evaluation.targets["train"].values[labeled]
    if (seconds := _time_fit(evaluation, pixels, targets)) < SECONDS:  # the very first one takes longer
        seconds = _time_fit(evaluation, pixels, targets)
    return seconds / _size(len(labeled), pixels.shape[1])


def _time_epoch(evaluation: Comparison, features: Tensor) -> float:
    """Trains and tests a probe for an epoch on the features of a few images; returns the seconds per tested image."""
    targets = evaluation.targets["train"].values[: len(features)]
    _time_fit(evaluation, features, targets)  # the very first steps take longer
    return _time_fit(evaluation, features, targets) / ((BACKWARD + 1) * len(features))


def _time_fit(evaluation: Comparison, features: Tensor, targets: Tensor) -> float:
    problem = evaluation.problem(targets, targets)
    maps, start = features.to(evaluation.device), time.perf_counter()
    train, test = ((maps, values.to(evaluation.device)) for values in (problem.train, problem.test))
    evaluation.method.train(train, test, num_outputs=problem.num_outputs, epochs=1, seed=0)
    return time.perf_counter() - start
