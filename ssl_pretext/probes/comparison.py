"""The comparison behind `evaluate`: it checks the data, adds the controls, computes features and trains the probes."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.band_statistics import measure_bands, warn_of_other_units
from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.data.duplicates import find_repeats
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.controls import BEFORE, UNTRAINED, Controls, before_name, check_modes, find_controls
from ssl_pretext.probes.label_budget import LabelBudget, indices_sha256
from ssl_pretext.probes.linear import shrink
from ssl_pretext.probes.metrics import find_metrics, image_scores
from ssl_pretext.probes.outcome import pack_scores
from ssl_pretext.probes.problem import ClassProblem, NumberProblem, Problem, check_classes, check_targets
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.targets import as_images_with_targets, find_kind
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory
from ssl_pretext.probes.twins import starting_points, strongest_twins
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.cache import Cache, cached_features, code_identity, is_cacheable, network_identity
from ssl_pretext.representations.collapse import Health, feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.representations.network import FrozenNetwork
from ssl_pretext.representations.owner import BackboneOwner
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import finite_json
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.system.team import Team
from ssl_pretext.version import __version__

__all__ = ["ONE_AT_A_TIME", "Comparison", "EvaluateOptions", "Given", "One"]

One = Representation | BackboneOwner | nn.Module | str
Given = One | Sequence[One]

MEASURED_IMAGES = 64  # training images whose bands are compared with those that a network was trained on

# Threads wait for each other, also while a comparison is prepared: the mode of a network and the state of the random
# numbers belong to the whole process.
ONE_AT_A_TIME = threading.RLock()
HEALTH_IMAGES = 512  # on which the features of a network are examined before it is fine-tuned


class EvaluateOptions(TypedDict, total=False):
    """The options that `evaluate` and `label_efficiency` share; all may be left out.

    Attributes:
        target: What the probe predicts: `"class"` (the default), `"labels"` (several per image), `"numbers"` or
            `"mask"` (a class per pixel). For all but classes, `train` and `test` are pairs `(images, targets)`:
            labels are an array `(N, K)` of 0 and 1, numbers `(N,)` or `(N, K)`, masks `(N, H, W)`; labels and numbers
            can also be a mapping from names to arrays `(N,)`, such as a DataFrame. Unknown targets are NaN; unknown
            classes, also of pixels, are -1.
        metrics: Names of metrics of the target to report; the first one decides tables and sentences unless another is
            asked for. By default `accuracy` and `balanced_accuracy` for classes, and all metrics for other targets.
        probe: Name of a probe from `list_probes()`, with options in brackets such as `"knn[k=5]"`, or a function from
            `(in_channels, num_outputs)` to a module.
        epochs: Passes over the labeled images for networks such as `"conv"`, by default 10, and 30 for `"finetune"`;
            other probes have none.
        seeds: The number of seeds, or the seeds themselves; 5 by default.
        pretraining: The images that the representations were trained on, as an `ImageStore`, a dataset or a loader, or
            as a mapping from their `digests()` to their names. The report then says how many test images repeat them.
        controls: The controls to compare the representations with: some of `"untrained"` (the same network with random
            weights, in the version that is strongest on the training images), `"before"` (the same network with the
            published weights that its training started from, if there are any), `"pixels"`, `"source"` (the channels
            that the network sees), `"reduced"` (pixels averaged to the size of its feature maps) and `"histogram"` (of
            colors). True, the default, stands for all of them.
        unseen_classes: Whether test images may belong to classes without training images. No probe can predict these
            classes, so such images count as errors.
        training: Configuration of the training, for probes that are networks.
        cache: A folder for features and finished probes, so that an interrupted call can continue. An entry is used
            only for the same weights, images, settings and code.
        device: `"auto"` (the default), `"cpu"`, `"cuda"`, a numbered GPU such as `"cuda:1"`, or `"mps"`.
    """

    target: str
    metrics: Sequence[str] | None
    probe: str | ProbeFactory
    epochs: int | None
    seeds: int | Sequence[int]
    pretraining: Any
    controls: bool | Collection[str]
    unseen_classes: bool
    training: ProbeConfig | None
    cache: str | Path | None
    device: str


class Comparison:
    """One call of `evaluate` or `label_efficiency`, whose documentation describes the arguments."""

    def __init__(
        self,
        representations: Mapping[str, Given] | One,
        train: Any,
        test: Any,
        *,
        target: str = "class",
        metrics: Sequence[str] | None = None,
        probe: str | ProbeFactory = "linear",
        epochs: int | None = None,
        seeds: int | Sequence[int] = 5,
        pretraining: Any = None,
        controls: bool | Collection[str] = True,
        unseen_classes: bool = False,
        training: ProbeConfig | None = None,
        cache: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        self.kind = find_kind(target)
        self.metrics = find_metrics(self.kind.name, metrics)
        (self.train, trained), (self.test, tested) = (as_images_with_targets(one, self.kind) for one in (train, test))
        self.targets = {"train": trained, "test": tested}
        is_converted = pretraining is None or isinstance(pretraining, Mapping)
        self.pretraining = pretraining if is_converted else as_store(pretraining, target=None)
        self.seeds = _seeds(seeds)
        self.method = find_method(probe, training, self.kind)
        self.linear = find_method("linear", None, self.kind)
        self.epochs = self.method.epochs if epochs is None else whole_number("epochs", epochs)
        representations = _named(representations)
        if wrong := [name for name in representations if not isinstance(name, str) or not name]:
            raise ArgumentError(f"the names of representations must be text, such as 'mine', got {wrong[0]!r}")
        per_seed = {name: _per_seed(name, given, self.seeds, self.train) for name, given in representations.items()}
        for name, of_seeds in per_seed.items():
            _check_networks(name, of_seeds)
            for representation in of_seeds:
                check_modes(name, representation)
        if not isinstance(unseen_classes, bool):
            raise ArgumentError(f"unseen_classes must be True or False, got {unseen_classes!r}")
        _check_images(self.train, self.test)
        self.names_of_targets = check_targets(trained, tested, unseen_classes)
        self.unseen_classes = check_classes(trained, tested, unseen_classes) if target == "class" else []
        self.hashes = {"train": self.train.sha256, "test": self.test.sha256}
        self._warn_of_other_units(per_seed)
        self.device = resolve_device(device)
        self.cache = _cache(cache)
        self.controls = find_controls(
            {name: of_seeds[0] for name, of_seeds in per_seed.items()},
            self.train,
            wanted=controls,
            reduce=shrink if self.method.pooled else lambda maps: maps,
            device=self.device,
        )
        # By name, and for each seed in order; without the untrained networks, which are drawn seed by seed.
        self.representations = (
            per_seed
            | starting_points(per_seed, self.controls.against)
            | {name: [control] * len(self.seeds) for name, control in self.controls.added.items()}
        )
        self.names = list(_ordered_names(self.representations, self.controls))
        self.team = Team()

    def _warn_of_other_units(self, representations: Mapping[str, Sequence[Representation]]) -> None:
        """Warns if a network sees bands in other units than those that it was trained on."""
        # Representations often share a space, such as all layers of a task.
        measured = lru_cache(None)(lambda images, space: measure_bands(images, space, num_images=MEASURED_IMAGES))
        for name, (first, *_) in representations.items():
            for part in first.parts:
                channels = part.backbone.channels
                if channels is not None and not channels.space.is_color:
                    for what, images in ((name, self.train), (f"{name}, test images", self.test)):
                        if warn_of_other_units(channels, measured(images, channels.space), what):
                            break

    @keep_freed_memory()
    def reports(self, budgets: Sequence[LabelBudget]) -> list[ProbeReport]:
        """Trains and tests all probes; returns one report per budget, all on the same features."""
        with ONE_AT_A_TIME:
            return self.team.lead(lambda: self._reports(budgets), self._help)

    def _help(self) -> None:
        """Computes this process's share of the features."""
        for _ in self._features():
            pass

    def _reports(self, budgets: Sequence[LabelBudget]) -> list[ProbeReport]:
        from tqdm import tqdm

        for budget in budgets:
            budget.check(self.targets["train"])
        labels = {budget: budget.draw(self.targets["train"].strata, self.seeds) for budget in budgets}
        runs: dict[LabelBudget, list[dict[str, Any]]] = {budget: [] for budget in budgets}
        described: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}
        health: dict[str, Health] = {}
        total = len(self.seeds) * len(self.names) * len(budgets)
        with tqdm(total=total, desc=f"{self.method.name} probes", unit="probe", disable=None) as bar:
            for seed, name, representation, features in self._features():
                bar.set_postfix_str(name)
                if name not in health:
                    health[name] = feature_health(features[0])
                identity = _identity(representation)
                if identity not in described[name]:
                    described[name].append(identity)
                number = self.seeds.index(seed)
                for budget, sets in labels.items():
                    run = self._cached_run(representation, identity, features, sets.full[number], seed)
                    if number < len(sets.parts):
                        part = self._cached_run(representation, identity, features, sets.parts[number], seed)
                        run |= {"part_labels": part["labels"], "part_scores": part["scores"]}
                    runs[budget].append({"representation": name, "probe": self.method.name, "seed": seed, **run})
                    bar.update()
        order = {(name, seed): (i, j) for i, name in enumerate(self.names) for j, seed in enumerate(self.seeds)}
        card = self._card() | {"representations": described, "health": {name: health[name] for name in self.names}}
        return [
            ProbeReport(
                sorted(runs[budget], key=lambda run: order[run["representation"], run["seed"]]),
                # The same values as in a report that is read from a file, for instance lists in place of tuples.
                json.loads(
                    json.dumps(
                        card
                        | {
                            "label_fraction": budget.fraction,
                            "per_class": budget.per_class,
                            "label_sets": sets.kind,
                        }
                    )
                ),
            )
            for budget, sets in labels.items()
        ]

    def _features(self) -> Iterator[tuple[int, str, Representation, tuple[Tensor, Tensor]]]:
        """Yields each seed and representation with the features of the training and the test images.

        Under `torchrun` only the leader of the team yields them, and the others compute their share.

        Features that are the same for all seeds are computed once. The others are held for one seed at a time.
        """
        reduce = shrink if self.method.pooled else None

        def extract(representations: Collection[Representation]) -> list[dict[tuple[Backbone, str], Tensor]]:
            frozen = [one for one in representations if not self._is_finetuned(one)]
            return [self._extract(frozen, split, reduce) for split in ("train", "test")]

        fixed = {
            name: of_seeds[0]
            for name, of_seeds in self.representations.items()
            if all(each is of_seeds[0] for each in of_seeds)
        }
        fixed_features = extract(fixed.values())
        for number, seed in enumerate(self.seeds):
            trained = {
                name: self.representations[name][number]
                for name, controls in self.controls.against.items()
                if UNTRAINED in controls
            }
            varying = {name: of_seeds[number] for name, of_seeds in self.representations.items() if name not in fixed}
            varying |= strongest_twins(
                trained, seed, self.train, self.targets["train"], device=self.device, cache=self.cache, team=self.team
            )
            splits = [first | second for first, second in zip(fixed_features, extract(varying.values()), strict=True)]
            for name, representation in (fixed | varying).items() if self.team.is_leader else ():
                if self._is_finetuned(representation):
                    yield seed, name, representation, self._sample_features(representation)
                    continue
                train, test = (
                    representation.combine([features[part.backbone, part.layer] for part in representation.parts])
                    for features in splits
                )
                yield seed, name, representation, (train, test)

    def _is_finetuned(self, representation: Representation) -> bool:
        """Whether a network is trained on images, so that its features before are needed for their health alone."""
        return self.method.finetunes and _has_network(representation)

    def _sample_features(self, representation: Representation) -> tuple[Tensor, Tensor]:
        """The features of a few training images, and none of test images."""
        sample = self.train.subset(range(min(HEALTH_IMAGES, len(self.train))))
        found = extract_features([representation], sample, device=self.device)
        maps = representation.combine([found[part.backbone, part.layer] for part in representation.parts])
        return maps, maps[:0]

    def _extract(
        self, representations: Collection[Representation], split: str, reduce: Callable[[Tensor], Tensor] | None
    ) -> dict[tuple[Backbone, str], Tensor]:
        images, sha256 = {"train": self.train, "test": self.test}[split], self.hashes[split]
        if self.cache is None:
            return extract_features(representations, images, device=self.device, reduce=reduce, team=self.team)
        return cached_features(
            representations, images, self.cache, device=self.device, sha256=sha256, reduce=reduce, team=self.team
        )

    def _cached_run(
        self,
        representation: Representation,
        described: dict[str, Any],
        features: tuple[Tensor, Tensor],
        labeled: Tensor,
        seed: int,
    ) -> dict[str, Any]:
        """Returns the run of a probe for one representation and seed, from the cache if it is stored there.

        `labeled` holds the indices of the labeled images that the probe is trained on.
        """
        if (
            self.cache is None
            or not self.method.cacheable
            or not all(is_cacheable(part.backbone) for part in representation.parts)
        ):
            return dict(finite_json(self._run(representation, features, labeled, seed)))
        identity = {
            "representation": described,
            "method": {"name": self.method.name, **self.method.card, "epochs": self.epochs},
            "seed": seed,
            "labeled": indices_sha256(labeled),
            "images": self.hashes,
            "targets": [targets.sha256 for targets in self.targets.values()],
            "metrics": [metric.name for metric in self.metrics],
            "code": code_identity(),
            "device": self.device,
        }
        run: dict[str, Any] | None = self.cache.result(identity)
        if run is None:
            run = dict(finite_json(self._run(representation, features, labeled, seed)))
            self.cache.store_result(identity, run)
        return run

    def _run(
        self, representation: Representation, features: tuple[Tensor, Tensor], labeled: Tensor, seed: int
    ) -> dict[str, Any]:
        """Trains and tests a probe once, on the labeled images with the given indices."""
        targets = self.targets["train"].values[labeled]
        pose = {"class": self._class_problem, "numbers": NumberProblem}.get(self.kind.name, Problem)
        problem = pose(targets, self.targets["test"].values, len(self.names_of_targets))
        options = {"num_outputs": problem.num_outputs, "epochs": self.epochs, "seed": seed}
        finetunes = self._is_finetuned(representation)
        # What has no network, such as pixels, cannot be fine-tuned; the linear probe takes its place.
        train_probe = self.linear.train if self.method.finetunes and not finetunes else self.method.train
        tested = torch.arange(len(self.test)) if problem.tested is None else problem.tested.nonzero().flatten()
        if finetunes:
            images = (self.train.subset(labeled), problem.train), (self.test.subset(tested), problem.test)
            history, settings, predictions = train_probe(representation, *images, device=self.device, **options)
        else:
            # All features are moved to the device once, instead of batch by batch in every epoch. They are copied only
            # if some are left out, because a copy of all would take twice the memory.
            splits = [
                ((maps if len(chosen) == len(maps) else maps[chosen]).to(self.device), values.to(self.device))
                for maps, chosen, values in zip(features, (labeled, tested), (problem.train, problem.test), strict=True)
            ]
            history, settings, predictions = train_probe(*splits, **options)
        outputs = problem.predictions(predictions.cpu())
        truth = self.kind.truth(self.targets["test"].values, len(self.names_of_targets))
        scores = {metric.name: image_scores(metric, outputs, truth) for metric in self.metrics}
        if "test_accuracy" in history[-1] and problem.tested is not None:
            for row in history:  # images of unseen classes count as errors; their loss is undefined, so it is left out
                if "test_accuracy" in row:
                    row["test_accuracy"] *= problem.tested.double().mean().item()
        return {
            "labels": len(targets),
            "history": history,
            "scores": {name: pack_scores(values) for name, values in scores.items()},
            **settings,
        }

    def _class_problem(self, train: Tensor, test: Tensor, num_outputs: int) -> "Problem":
        return ClassProblem(train, test, num_outputs, self.targets["train"].values.unique(), self.method.all_classes)

    def _card(self) -> dict[str, Any]:
        """The part of the probe card that holds for all representations and budgets."""
        splits = {"train": self.train, "test": self.test}
        repeats = {"train": find_repeats(self.test, self.train), "test": find_repeats(self.test)}
        if self.pretraining is not None:
            repeats["pretraining"] = find_repeats(self.test, self.pretraining)
        return {
            "probe": self.method.name,
            "target": self.kind.name,
            "metrics": [metric.name for metric in self.metrics],
            "names": self.names_of_targets,
            "unlabeled": {split: targets.missing for split, targets in self.targets.items()},
            **self.method.card,
            "epochs": self.epochs,
            "seeds": self.seeds,
            **{split: {"images": len(store), "sha256": self.hashes[split]} for split, store in splits.items()},
            "targets": {split: targets.sha256 for split, targets in self.targets.items()},
            **(self._finetuning_card() if self.method.finetunes else {}),
            **(self._class_card() if self.kind.name == "class" else {}),
            "seen": repeats["train"].identical,
            "repeated": repeats["test"].identical,
            "repeats": {split: asdict(found) for split, found in repeats.items()},
            "image_size": self.train.image_size,
            "resize": self.train.resize,
            "device": self.device,
            "library": __version__,
            "torch": version("torch"),
            "code": code_identity()["ssl_pretext"],
            "controls": self.controls.names,
            "against": self.controls.against,
            "without_twin": self.controls.without_twin,
        }

    def _finetuning_card(self) -> dict[str, Any]:
        return {
            "without_network": {
                "probe": self.linear.name,
                "names": [name for name, of_seeds in self.representations.items() if not _has_network(of_seeds[0])],
                **self.linear.card,
            }
        }

    def _class_card(self) -> dict[str, Any]:
        train, test = (targets.values for targets in self.targets.values())
        return {
            "classes": len(train.unique()),
            "classes_without_training_images": self.unseen_classes,
            "predictable": torch.isin(test, train).double().mean().item(),
            "guessed": (test == train.mode().values).double().mean().item(),
            "largest_class": test.bincount().max().item() / len(test),
        }


def _has_network(representation: Representation) -> bool:
    return any(part.backbone.module is not None for part in representation.parts)


def _cache(folder: object) -> Cache | None:
    if folder is None:
        return None
    if not isinstance(folder, str | Path) or not str(folder) or "\0" in str(folder):
        raise ArgumentError(f"cache must be the path of a folder or None, got {folder!r}")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ArgumentError(f"cache must be a folder, but {folder} is a file")
    return Cache(folder)


def _seeds(seeds: object) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        return list(range(whole_number("seeds", seeds)))
    chosen = [whole_number("a seed", seed, least=0) for seed in seeds]
    if large := [seed for seed in chosen if seed >= 2**63]:
        raise ArgumentError(f"a seed must be less than 2**63, got {large[0]}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise ArgumentError(f"seeds must contain at least one seed and no seed twice, got {chosen}")
    return chosen


def _named(representations: object) -> Mapping[str, Given]:
    """Returns representations by name; a single one is called by its own name."""
    if isinstance(representations, str):
        return {representations: representations}
    if isinstance(representations, Representation | BackboneOwner | nn.Module):
        own = getattr(representations, "name", None)
        return {own if isinstance(own, str) and own else type(representations).__name__: representations}
    if not isinstance(representations, Mapping) or not representations:
        raise ArgumentError(
            "evaluate() needs a task, a network, the name of an encoder or a representation, or a mapping from names "
            f"to them with at least one entry, such as {{'mine': task}}; got {repr(representations)[:80]}"
        )
    return representations


def _per_seed(name: str, given: Given, seeds: Sequence[int], images: ImageStore) -> list[Representation]:
    """The representation of each seed."""
    if isinstance(given, Sequence) and not isinstance(given, str | nn.Module):
        of_seeds = [_as_representation(name, each, images) for each in given]
    else:
        of_seeds = [_as_representation(name, given, images)] * len(seeds)
    if len(of_seeds) != len(seeds):
        raise ArgumentError(
            f"{name!r} is a sequence of {len(of_seeds)} representations for {len(seeds)} seeds; pass one for each seed"
        )
    if len({each.untrained is None for each in of_seeds}) > 1:
        raise ArgumentError(
            f"some representations of {name!r} have an untrained twin and some have none; pass only one kind"
        )
    if len({each.before is None for each in of_seeds}) > 1:
        raise ArgumentError(
            f"some representations of {name!r} started from published weights and some did not; pass only one kind"
        )
    return list(of_seeds)


def _as_representation(name: str, given: object, images: ImageStore) -> Representation:
    """The output of a task or a network, or the representation that is given."""
    if isinstance(given, Representation):
        return given
    if isinstance(given, BackboneOwner):
        return given.representation()
    if isinstance(given, str):
        return FrozenNetwork(given).representation()
    if isinstance(given, nn.Module):
        if images.num_channels != 3:
            raise ArgumentError(
                f"{name!r} is a module, and which of the {images.num_channels} channels it sees is unknown; pass "
                "FrozenNetwork(module, channels=...)"
            )
        return FrozenNetwork(given).representation()
    raise ArgumentError(
        f"{name!r} must be a task, a network, the name of an encoder or a representation, or a sequence with one of "
        f"them for each seed; got {type(given).__name__}"
    )


def _check_networks(name: str, of_seeds: Sequence[Representation]) -> None:
    """Raises if a network is given for some seeds but not for all: they would count as independent pretrainings."""
    if all(each is of_seeds[0] for each in of_seeds):
        return
    different = len({json.dumps(_identity(each), sort_keys=True, default=str) for each in of_seeds})
    if 1 < different < len(of_seeds):
        raise ArgumentError(
            f"{name!r} has {different} different networks for {len(of_seeds)} seeds; pass another one for each seed, "
            "so that the interval can cover the pretraining, or one for all"
        )


def _check_images(train: ImageStore, test: ImageStore) -> None:
    """Raises unless there are training and test images of one shape."""
    for split, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate() got no {split} images")
    shapes = [(store.num_channels, store.image_size) for store in (train, test)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            "train and test must have images of the same size and number of channels; train has {} channels and size "
            "{}, test has {} channels and size {}".format(*shapes[0], *shapes[1])
        )


def _ordered_names(representations: Mapping[str, object], controls: Controls) -> Iterator[str]:
    """Yields the names of the representations, each followed by its own network's controls, and then of the others."""
    own = {before_name(name) for name, against in controls.against.items() if BEFORE in against}
    for name in representations:
        if name not in own:
            yield name
            against = controls.against.get(name, {})
            yield from (against[label] for label in (UNTRAINED, BEFORE) if label in against)


def _identity(representation: Representation) -> dict[str, Any]:
    """The description of a representation in the probe card, with hashes of the weights of its networks."""
    modules = [part.backbone.module for part in representation.parts]
    networks = [network_identity(module) for module in modules if module is not None]
    described = representation.describe or {"kind": "function", "name": representation.name}
    drawn = {} if representation.initialization is None else {"initialization": representation.initialization}
    return {**described, **drawn, **({"networks": networks} if networks else {})}
