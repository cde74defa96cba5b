"""What is compared, on what, by which probe: the work behind `evaluate`."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ssl_pretext.arguments import whole_number
from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.controls import UNTRAINED, Controls, find_controls, untrained_name
from ssl_pretext.probes.label_budget import LabelBudget
from ssl_pretext.probes.linear import shrink
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.cache import Cache, cached_features, code_identity, is_cacheable, network_identity
from ssl_pretext.representations.collapse import Health, feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.version import __version__

__all__ = ["Comparison", "EvaluateOptions", "Given"]

Given = Representation | Sequence[Representation]


class EvaluateOptions(TypedDict, total=False):
    """The options that `evaluate` and `label_efficiency` share; all may be left out.

    Attributes:
        probe: A name of `list_probes()`, with options in brackets, or a function `(in_channels, num_classes)` to a
            module.
        epochs: Passes over the labeled images; the probe's own number by default (conv: 10, linear: 100).
        seeds: The number of seeds, or the seeds themselves; 5 by default.
        controls: The controls to measure beside the representations: some of `"untrained"` (the same network with
            fresh weights), `"pixels"`, `"source"` (the channels that the network sees), `"reduced"` (pixels averaged to
            the size of its maps) and `"histogram"` (of colors). True, the default, stands for all of them.
        unseen_classes: Whether test images may be of classes that have no training image. No probe can name these, so
            they count as misses.
        training: How a probe that is a network is trained.
        cache: A folder where features and finished probes are kept, so that a call that was stopped can continue. An
            entry is used only for the same weights, images, settings and code.
        device: `"auto"` (the default), `"cpu"` or `"cuda"`.
    """

    probe: str | ProbeFactory
    epochs: int | None
    seeds: int | Sequence[int]
    controls: bool | Collection[str]
    unseen_classes: bool
    training: ProbeConfig | None
    cache: str | Path | None
    device: str


class Comparison:
    """One call of `evaluate`: what is compared, on which images, by which probe; see there for the arguments."""

    def __init__(
        self,
        representations: Mapping[str, Given],
        train: Any,
        test: Any,
        *,
        probe: str | ProbeFactory = "conv",
        epochs: int | None = None,
        seeds: int | Sequence[int] = 5,
        controls: bool | Collection[str] = True,
        unseen_classes: bool = False,
        training: ProbeConfig | None = None,
        cache: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        self.train, self.test = as_store(train), as_store(test)
        self.seeds = _seeds(seeds)
        self.method = find_method(probe, training)
        self.epochs = self.method.epochs if epochs is None else whole_number("epochs", epochs)
        if not isinstance(representations, Mapping) or not representations:
            given = repr(representations)[:80]
            raise ArgumentError(f"evaluate() takes representations by name, at least one; got {given}")
        self.given = {name: _per_seed(name, given, self.seeds) for name, given in representations.items()}
        self.unseen = _check_images(self.train, self.test, unseen_classes)
        self.hashes = {"train": self.train.sha256, "test": self.test.sha256}
        self.device = resolve_device(device)
        if cache is not None and Path(cache).exists() and not Path(cache).is_dir():
            raise ArgumentError(f"cache is a folder, and {cache} is a file")
        self.cache = None if cache is None else Cache(cache)
        self.beside = find_controls(
            {name: ones[0] for name, ones in self.given.items()},
            self.train,
            wanted=controls,
            reduce=shrink if self.method.pooled else lambda maps: maps,
            device=self.device,
        )
        self.all_of = self.given | {name: [one] * len(self.seeds) for name, one in self.beside.added.items()}
        self.names = list(_ordered(self.all_of, self.beside))

    @keep_freed_memory()
    def reports(self, budgets: Sequence[LabelBudget]) -> list[ProbeReport]:
        """A report per budget, out of the same features."""
        from tqdm import tqdm

        for budget in budgets:
            budget.check(self.train)
        runs: dict[LabelBudget, list[dict[str, Any]]] = {budget: [] for budget in budgets}
        described: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}
        health: dict[str, Health] = {}
        total = len(self.seeds) * len(self.names) * len(budgets)
        with tqdm(total=total, desc=f"{self.method.name} probes", unit="probe", disable=None) as bar:
            for seed, name, one, features in self._features():
                bar.set_postfix_str(name)
                if name not in health:
                    health[name] = feature_health(features[0])
                identity = _described(one)
                if identity not in described[name]:
                    described[name].append(identity)
                for budget in budgets:
                    run = self._kept_or_trained(one, identity, features, budget, seed)
                    runs[budget].append({"representation": name, "probe": self.method.name, "seed": seed, **run})
                    bar.update()
        place = {(name, seed): (i, j) for i, name in enumerate(self.names) for j, seed in enumerate(self.seeds)}
        card = self._card() | {"representations": described, "health": {name: health[name] for name in self.names}}
        return [
            ProbeReport(
                sorted(runs[budget], key=lambda run: place[run["representation"], run["seed"]]),
                # As it comes back from a file.
                json.loads(json.dumps(card | {"label_fraction": budget.fraction, "per_class": budget.per_class})),
            )
            for budget in budgets
        ]

    def _features(self) -> Iterator[tuple[int, str, Representation, tuple[Tensor, Tensor]]]:
        """Each seed and representation with its features of training and test images.

        What is the same for all seeds is computed once; what differs is held for one seed at a time.
        """
        reduce = shrink if self.method.pooled else None

        def of(ones: Collection[Representation]) -> list[dict[tuple[Backbone, str], Tensor]]:
            return [self._side(ones, side, reduce) for side in ("train", "test")]

        fixed = {name: ones[0] for name, ones in self.all_of.items() if all(one is ones[0] for one in ones)}
        steady = of(fixed.values())
        for number, seed in enumerate(self.seeds):
            networks = {
                name: self.all_of[name][number] for name, one in self.beside.against.items() if UNTRAINED in one
            }
            varying = {name: ones[number] for name, ones in self.all_of.items() if name not in fixed}
            varying |= _untrained(networks, seed)
            sides = [first | second for first, second in zip(steady, of(varying.values()), strict=True)]
            for name, one in (fixed | varying).items():
                train, test = (one.combine([side[part.backbone, part.layer] for part in one.parts]) for side in sides)
                yield seed, name, one, (train, test)

    def _side(
        self, ones: Collection[Representation], side: str, reduce: Callable[[Tensor], Tensor] | None
    ) -> dict[tuple[Backbone, str], Tensor]:
        images, sha256 = {"train": self.train, "test": self.test}[side], self.hashes[side]
        if self.cache is None:
            return extract_features(ones, images, device=self.device, reduce=reduce)
        return cached_features(ones, images, self.cache, device=self.device, sha256=sha256, reduce=reduce)

    def _kept_or_trained(
        self,
        one: Representation,
        described: dict[str, Any],
        features: tuple[Tensor, Tensor],
        budget: LabelBudget,
        seed: int,
    ) -> dict[str, Any]:
        """What the probe does with one representation, seed and budget; looked up where it was done before."""
        if (
            self.cache is None
            or not self.method.cacheable
            or not all(is_cacheable(part.backbone) for part in one.parts)
        ):
            return self._trained(features, budget, seed)
        identity = {
            "representation": described,
            "method": {"name": self.method.name, **self.method.card, "epochs": self.epochs},
            "seed": seed,
            "budget": [budget.fraction, budget.per_class],
            "images": self.hashes,
            "classes": self.train.classes,
            "code": code_identity(),
            "device": self.device,
        }
        run: dict[str, Any] | None = self.cache.result(identity)
        if run is None:
            run = self._trained(features, budget, seed)
            self.cache.store_result(identity, run)
        return run

    def _trained(self, features: tuple[Tensor, Tensor], budget: LabelBudget, seed: int) -> dict[str, Any]:
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

    def _card(self) -> dict[str, Any]:
        """What decides the figures of all representations."""
        sides = {"train": self.train, "test": self.test}
        known = {*self.train.digests()}
        return {
            "probe": self.method.name,
            **self.method.card,
            "epochs": self.epochs,
            "seeds": self.seeds,
            **{side: {"images": len(store), "sha256": self.hashes[side]} for side, store in sides.items()},
            "classes": len(self.train.labels.unique()),
            "classes_without_training_images": self.unseen,
            "seen": sum(digest in known for digest in self.test.digests()),
            "guessed": (self.test.labels == self.train.labels.mode().values).double().mean().item(),
            "image_size": self.train.image_size,
            "resize": self.train.resize,
            "device": self.device,
            "library": __version__,
            "torch": version("torch"),
            "code": code_identity()["ssl_pretext"],
            "controls": self.beside.names,
            "against": self.beside.against,
        }


def _seeds(seeds: object) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        return list(range(whole_number("seeds", seeds)))
    chosen = [whole_number("a seed", seed, least=0) for seed in seeds]
    if not chosen or len(set(chosen)) != len(chosen):
        raise ArgumentError(f"evaluate() needs at least one seed, each once; got {chosen}")
    return chosen


def _per_seed(name: str, given: Given, seeds: Sequence[int]) -> list[Representation]:
    ones = [given] * len(seeds) if isinstance(given, Representation) else given
    if not isinstance(ones, Sequence) or not all(isinstance(one, Representation) for one in ones):
        raise ArgumentError(
            f"representation {name!r} is a {type(given).__name__}; use task.representation(), Network() or Pixels()"
        )
    if len(ones) != len(seeds):
        raise ArgumentError(f"representation {name!r} has {len(ones)} networks for {len(seeds)} seeds")
    if len({one.untrained is None for one in ones}) > 1:
        raise ArgumentError(f"some of the networks of {name!r} have an untrained twin and some have none")
    return list(ones)


def _check_images(train: ImageStore, test: ImageStore, unseen_classes: bool) -> list[str]:
    """Refuses data that no figure could be made of; returns the classes that have no training image."""
    for side, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate() got no {side} images")
    shapes = [(store.num_channels, store.image_size) for store in (train, test)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            "train and test have other images: {} channels of {} pixels and {} of {}".format(*shapes[0], *shapes[1])
        )
    if train.classes[: len(test.classes)] != test.classes:  # labels given as numbers may lack the last classes
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
    if not have & {*test.labels.tolist()}:
        raise ArgumentError("no test image is of a class that has training images")
    return [name for label, name in enumerate(train.classes) if label not in have]


def _ordered(all_of: Mapping[str, object], beside: Controls) -> Iterator[str]:
    """Representations, each before its untrained twin, then the controls."""
    for name in all_of:
        yield name
        if UNTRAINED in beside.against.get(name, {}):
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
    networks = [network_identity(part.backbone.module) for part in one.parts if part.backbone.module is not None]
    return {**(one.describe or {"kind": "function", "name": one.name}), **({"networks": networks} if networks else {})}
