"""`evaluate`: how well small classifiers do on frozen features."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.cache import Cache, code_identity, traceable, weights_sha256
from ssl_pretext.probes.controls import Controls, find_controls, untrained_name
from ssl_pretext.probes.features import extract
from ssl_pretext.probes.health import Health, feature_health
from ssl_pretext.probes.linear import shrink
from ssl_pretext.probes.methods import find_method
from ssl_pretext.probes.modules import ProbeFactory, ProbeTraining
from ssl_pretext.probes.results import LabelEfficiency, ProbeReport
from ssl_pretext.representations import Backbone, Representation
from ssl_pretext.tasks.checkpoint import library_version

__all__ = ["evaluate", "label_efficiency"]

Given = Representation | Sequence[Representation]


def evaluate(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    probe: str | ProbeFactory = "conv",
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    label_fraction: float = 1.0,
    per_class: int | None = None,
    controls: bool | Collection[str] = True,
    unseen_classes: bool = False,
    training: ProbeTraining | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
) -> ProbeReport:
    """Trains a probe on each representation, once per seed, and tests it.

    A seed decides the probe's initialisation, the order of the images, which labels are used where not all are, and
    the weights of the untrained controls; it is the same for every representation, so that differences can be taken
    seed by seed. Test images choose nothing: not the setting of the linear probe, nor the epoch, which is the last.

    Features are computed once, all layers of a network in one pass over the images.

    Args:
        representations: Frozen features by name; a sequence stands for one network per seed, such as one pretrained
            from each, whose luck is then inside the interval.
        train: Labelled images: an `ImageStore`, a Dataset of `(image, label)`, or `(images, labels)`.
        test: The same, of the same classes.
        probe: A name of `list_probes()`, with options in brackets, or a function `(in_channels, num_classes)` to a
            module.
        epochs: Passes over the labelled images; the probe's own number if left out (conv: 10, linear: 100).
        seeds: How many seeds, or which ones.
        label_fraction: Share of each class's labels that is used, at least one image.
        per_class: Or this many images of each class.
        controls: What is measured beside, of `"untrained"` (the same network with fresh weights), `"pixels"`,
            `"source"` (the channels that the network sees), `"reduced"` (pixels averaged to the size of its maps) and
            `"histogram"` (of colours); True for all of them.
        unseen_classes: Allow test images of classes that have no training image, which no probe can name.
        training: How a probe that is a network is trained.
        cache: A folder where features and finished probes are kept, so that a call that was stopped goes on. An entry
            is used only for the same weights, images, settings and code.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        The report: `table()`, `summary()`, `differences()`, `to_json()`, `plot()`.

    Raises:
        ArgumentError: Data or options are unusable; the message says which and why.

    Examples:
        >>> from ssl_pretext.probes import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> report = evaluate({"pixels": Pixels("rgb")}, data, data, epochs=1, seeds=2)
        >>> report.summary()[0]["representation"]
        'pixels'
    """
    budget = _Budget(label_fraction, per_class)
    run = _Evaluation(representations, train, test, probe, epochs, seeds, unseen_classes, training, cache, device)
    return run.reports([budget], controls)[0]


def label_efficiency(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    per_class: Sequence[int] = (1, 2, 5, 10, 20),
    probe: str | ProbeFactory = "linear",
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    controls: bool | Collection[str] = True,
    unseen_classes: bool = False,
    training: ProbeTraining | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
) -> LabelEfficiency:
    """`evaluate` with few labels and with more; a seed's few are among its more.

    Args:
        representations: As for `evaluate`, as all that is not named here.
        train: Labelled images, at least as many of each class as the largest budget.
        test: The same for all budgets.
        per_class: Labelled images of each class.
        probe: As for `evaluate`.
        epochs: As for `evaluate`.
        seeds: As for `evaluate`.
        controls: As for `evaluate`.
        unseen_classes: As for `evaluate`.
        training: As for `evaluate`.
        cache: As for `evaluate`.
        device: As for `evaluate`.

    Raises:
        ArgumentError: Data or options are unusable, or a class has too few images.

    Examples:
        >>> from ssl_pretext.probes import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> curve = label_efficiency({"pixels": Pixels("rgb")}, data, data, per_class=[1, 4], probe="knn", seeds=2)
        >>> list(curve.reports)
        [1, 4]
    """
    if not per_class or len(set(per_class)) != len(per_class):
        raise ArgumentError(f"label_efficiency needs at least one budget, each once; got {list(per_class)}")
    budgets = [_Budget(1.0, count) for count in sorted(per_class)]
    run = _Evaluation(representations, train, test, probe, epochs, seeds, unseen_classes, training, cache, device)
    return LabelEfficiency(dict(zip(sorted(per_class), run.reports(budgets, controls), strict=True)))


@dataclass(frozen=True)
class _Budget:
    """Which labelled images a seed uses."""

    fraction: float
    per_class: int | None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ArgumentError(f"label_fraction lies in (0, 1], got {self.fraction}")
        if self.per_class is not None and (self.per_class < 1 or self.fraction != 1):
            raise ArgumentError(
                f"per_class is a positive number and takes the place of label_fraction; got {self.per_class} and "
                f"{self.fraction}"
            )

    def check(self, train: ImageStore) -> None:
        """Refuses a class with too few images."""
        for label, count in zip(*train.labels.unique(return_counts=True), strict=True):
            if self.per_class is not None and count < self.per_class:
                raise ArgumentError(
                    f"class {train.classes[label]!r} has {count} labelled images, fewer than per_class={self.per_class}"
                )

    def indices(self, labels: Tensor, seed: int) -> Tensor | None:
        """The images of a seed in order; None for all of them. Those of a smaller budget are among a larger one's."""
        if self.fraction == 1 and self.per_class is None:
            return None
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        parts = [order[labels[order] == label] for label in labels.unique()]
        counts = [self.per_class or max(1, round(self.fraction * len(part))) for part in parts]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).sort().values


class _Evaluation:
    """One call: what is compared, on what, by which probe."""

    def __init__(
        self,
        representations: Mapping[str, Given],
        train: Any,
        test: Any,
        probe: str | ProbeFactory,
        epochs: int | None,
        seeds: int | Sequence[int],
        unseen_classes: bool,
        training: ProbeTraining | None,
        cache: str | Path | None,
        device: str,
    ) -> None:
        self.train, self.test = as_store(train), as_store(test)
        self.seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        self.method = find_method(probe, training)
        self.epochs = self.method.epochs if epochs is None else epochs
        if self.epochs < 1 or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ArgumentError(
                f"evaluate() needs epochs >= 1 and at least one seed, each once; got {epochs} and {self.seeds}"
            )
        self.given = {name: _per_seed(name, given, self.seeds) for name, given in representations.items()}
        if not self.given:
            raise ArgumentError("evaluate() got no representations")
        self.hashes = {"train": self.train.sha256, "test": self.test.sha256}
        self.unseen = _check_classes(self.train, self.test, unseen_classes)
        self.cache = None if cache is None else Cache(cache)
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device

    def reports(self, budgets: Sequence[_Budget], controls: bool | Collection[str]) -> list[ProbeReport]:
        """A report per budget, out of the same features."""
        from tqdm import tqdm

        for budget in budgets:
            budget.check(self.train)
        beside = find_controls(
            {name: ones[0] for name, ones in self.given.items()},
            self.train,
            wanted=controls,
            reduce=shrink if self.method.pooled else lambda maps: maps,
            device=self.device,
        )
        all_of = self.given | {name: [one] * len(self.seeds) for name, one in beside.added.items()}
        names = list(_ordered(all_of, beside))
        runs: dict[_Budget, list[dict[str, Any]]] = {budget: [] for budget in budgets}
        health: dict[str, Health] = {}
        total = len(self.seeds) * len(names) * len(budgets)
        with tqdm(total=total, desc=f"{self.method.name} probes", unit="probe", disable=None) as bar:
            for seed, name, one, features in self._features(all_of, beside):
                bar.set_postfix_str(name)
                if name not in health:
                    health[name] = feature_health(features[0])
                for budget in budgets:
                    run = self._kept_or_trained(one, features, budget, seed)
                    runs[budget].append({"representation": name, "probe": self.method.name, "seed": seed, **run})
                    bar.update()
        place = {(name, seed): (i, j) for i, name in enumerate(names) for j, seed in enumerate(self.seeds)}
        card = self._card(beside, all_of) | {"health": {name: health[name] for name in names}}
        return [
            ProbeReport(
                sorted(runs[budget], key=lambda run: place[run["representation"], run["seed"]]),
                card | {"label_fraction": budget.fraction, "per_class": budget.per_class},
            )
            for budget in budgets
        ]

    def _features(
        self, all_of: Mapping[str, Sequence[Representation]], beside: Controls
    ) -> Iterator[tuple[int, str, Representation, tuple[Tensor, Tensor]]]:
        """Each seed and representation with its features of training and test images.

        What is the same for all seeds is computed once; what differs is held for one seed at a time.
        """
        reduce = shrink if self.method.pooled else None

        def of(ones: Collection[Representation]) -> list[dict[tuple[Backbone, str], Tensor]]:
            return [
                extract(ones, images, device=self.device, cache=self.cache, reduce=reduce)
                for images in (self.train, self.test)
            ]

        fixed = {name: ones[0] for name, ones in all_of.items() if all(one is ones[0] for one in ones)}
        steady = of(fixed.values())
        for number, seed in enumerate(self.seeds):
            networks = {name: all_of[name][number] for name, one in beside.against.items() if "untrained" in one}
            varying = {name: ones[number] for name, ones in all_of.items() if name not in fixed}
            varying |= _untrained(networks, seed)
            sides = [first | second for first, second in zip(steady, of(varying.values()), strict=True)]
            for name, one in (fixed | varying).items():
                train, test = (one.combine([side[part.backbone, part.layer] for part in one.parts]) for side in sides)
                yield seed, name, one, (train, test)

    def _kept_or_trained(
        self, one: Representation, features: tuple[Tensor, Tensor], budget: _Budget, seed: int
    ) -> dict[str, Any]:
        """What the probe does with one representation, seed and budget; looked up where it was done before."""
        if self.cache is None or not self.method.own_code or not all(traceable(part.backbone) for part in one.parts):
            return self._trained(features, budget, seed)
        identity = {
            "representation": _described(one),
            "method": {"name": self.method.name, **self.method.card, "epochs": self.epochs},
            "seed": seed,
            "budget": [budget.fraction, budget.per_class],
            "images": self.hashes,
            "code": code_identity(),
            "device": self.device,
        }
        run: dict[str, Any] | None = self.cache.result(identity)
        if run is None:
            run = self._trained(features, budget, seed)
            self.cache.keep_result(identity, run)
        return run

    def _trained(self, features: tuple[Tensor, Tensor], budget: _Budget, seed: int) -> dict[str, Any]:
        train, labels = features[0], self.train.labels
        if (kept := budget.indices(labels, seed)) is not None:
            train, labels = train[kept], labels[kept]
        seen = self.train.labels.unique()
        known = torch.isin(self.test.labels, seen)
        test, truth = features[1], self.test.labels
        if self.unseen:
            test, truth = test[known], truth[known]
        classes = len(self.train.classes)
        if not self.method.all_classes:
            labels, truth, classes = torch.searchsorted(seen, labels), torch.searchsorted(seen, truth), len(seen)
        # On the device once, rather than batch by batch in every epoch.
        sides = [(one.to(self.device), names.to(self.device)) for one, names in ((train, labels), (test, truth))]
        history, chosen = self.method.train(*sides, classes=classes, epochs=self.epochs, seed=seed)
        for row in history:  # what no probe can name is a miss; its loss is not defined, and left out
            row["test_accuracy"] *= known.double().mean().item()
        return {"labels": len(labels), "history": history, **chosen}

    def _card(self, beside: Controls, all_of: Mapping[str, Sequence[Representation]]) -> dict[str, Any]:
        """Everything that decides the figures."""
        sides = {"train": self.train, "test": self.test}
        return {
            "probe": self.method.name,
            **self.method.card,
            "epochs": self.epochs,
            "seeds": self.seeds,
            **{side: {"images": len(store), "sha256": self.hashes[side]} for side, store in sides.items()},
            "classes": len(self.train.labels.unique()),
            "classes_without_training_images": self.unseen,
            "image_size": self.train.image_size,
            "resize": self.train.resize,
            "device": self.device,
            "library": library_version(),
            "torch": version("torch"),
            "controls": beside.names,
            "against": beside.against,
            "representations": {
                name: [_described(one) for one in dict.fromkeys(ones)] for name, ones in all_of.items()
            },
        }


def _per_seed(name: str, given: Given, seeds: Sequence[int]) -> list[Representation]:
    ones = [given] * len(seeds) if isinstance(given, Representation) else given
    if not isinstance(ones, Sequence) or not all(isinstance(one, Representation) for one in ones):
        raise ArgumentError(
            f"representation {name!r} is a {type(given).__name__}; use task.representation(), Network() or Pixels()"
        )
    if len(ones) != len(seeds):
        raise ArgumentError(f"representation {name!r} has {len(ones)} networks for {len(seeds)} seeds")
    return list(ones)


def _check_classes(train: ImageStore, test: ImageStore, unseen_classes: bool) -> list[str]:
    """Refuses data that no figure could be made of; returns the classes that have no training image."""
    for side, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate() got no {side} images")
    if train.classes != test.classes:
        raise ArgumentError(f"train and test have other classes: {train.classes[:5]}... and {test.classes[:5]}...")
    if len(train.labels.unique()) < 2:
        raise ArgumentError("evaluate() needs training images of at least two classes, got one")
    have = {*train.labels.tolist()}
    missing = sorted({*test.labels.tolist()} - have)
    if missing and not unseen_classes:
        raise ArgumentError(
            f"{len(missing)} classes of the test images have no training image, such as {train.classes[missing[0]]!r}: "
            "no probe can name them. Pass unseen_classes=True to count them as misses, or leave them out"
        )
    return [name for label, name in enumerate(train.classes) if label not in have]


def _ordered(all_of: Mapping[str, object], beside: Controls) -> Iterator[str]:
    """Representations, each before its untrained twin, then the controls."""
    for name in all_of:
        yield name
        if "untrained" in beside.against.get(name, {}):
            yield untrained_name(name)


def _untrained(networks: Mapping[str, Representation], seed: int) -> dict[str, Representation]:
    """The untrained twins; layers of one network stay layers of one."""
    drawn: dict[Backbone, Backbone] = {}

    def draw(backbone: Backbone) -> Backbone:
        if backbone.untrained is None:
            return backbone
        if backbone not in drawn:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                drawn[backbone] = backbone.untrained(seed)
        return drawn[backbone]

    return {untrained_name(name): one.on(draw) for name, one in networks.items()}


def _described(one: Representation) -> dict[str, Any]:
    """What a card says of a representation."""
    weights = [weights_sha256(part.backbone.module) for part in one.parts if part.backbone.module is not None]
    return {**(one.describe or {"kind": "function", "name": one.name}), **({"weights": weights} if weights else {})}
