"""The comparison behind `evaluate`: it checks the data, adds the controls, computes features and trains the probes."""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ssl_pretext.arguments import whole_number
from ssl_pretext.band_statistics import measure_bands, warn_of_other_units
from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.data.duplicates import KnownImages, find_repeats
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.controls import BEFORE, UNTRAINED, Controls, before_name, find_controls
from ssl_pretext.probes.finetuning import FinetuneConfig
from ssl_pretext.probes.finetuning_time import FinetuningTime
from ssl_pretext.probes.given import Given, One, as_cache, as_seeds, check_images, describe, has_network, per_seed
from ssl_pretext.probes.label_budget import LabelBudget, LabelSets, indices_sha256
from ssl_pretext.probes.linear import shrink
from ssl_pretext.probes.metrics import class_scores, find_metrics, image_scores
from ssl_pretext.probes.outcome import count_confusions, pack_scores
from ssl_pretext.probes.problem import ClassProblem, MapProblem, NumberProblem, Problem, check_classes, check_targets
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.targets import as_images_with_targets, find_kind
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory
from ssl_pretext.probes.twins import UntrainedTwins, images_of_twins, starting_points
from ssl_pretext.representations.base import Backbone, Concatenated, Representation
from ssl_pretext.representations.cache import cached_features, code_identity, is_cacheable
from ssl_pretext.representations.collapse import Health, feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.representations.feature_formats import FeatureFormats
from ssl_pretext.system.compute_format import AUTO, CONTIGUOUS, FLOAT32
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import finite_json
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.system.team import Team
from ssl_pretext.version import __version__

__all__ = ["ONE_AT_A_TIME", "Comparison"]

MEASURED_IMAGES = 64  # training images whose bands are compared with those that a network was trained on

# Threads wait for each other, also while a comparison is prepared: the mode of a network and the state of the random
# numbers belong to the whole process.
ONE_AT_A_TIME = threading.RLock()
HEALTH_IMAGES = 512  # on which the features of a network are examined before it is fine-tuned


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
        training: ProbeConfig | FinetuneConfig | None = None,
        cache: str | Path | None = None,
        device: str = "auto",
        precision: str = FLOAT32,
        memory_format: str = CONTIGUOUS,
    ) -> None:
        self.kind = find_kind(target)
        self.metrics = find_metrics(self.kind.name, metrics)
        (self.train, trained), (self.test, tested) = (as_images_with_targets(one, self.kind) for one in (train, test))
        self.targets = {"train": trained, "test": tested}
        self.pretraining = _pretraining(pretraining)
        self.seeds = as_seeds(seeds)
        self.method = find_method(probe, training, self.kind)
        self.linear = find_method("linear", None, self.kind)
        self.epochs = self.method.epochs if epochs is None else whole_number("epochs", epochs)
        of_seeds = per_seed(representations, self.seeds, self.train)
        if not isinstance(unseen_classes, bool):
            raise ArgumentError(f"unseen_classes must be True or False, got {unseen_classes!r}")
        check_images(self.train, self.test)
        self.names_of_targets = check_targets(trained, tested, unseen_classes)
        if len(self.names_of_targets) > 1 and self.metrics[0].has_units:
            raise ArgumentError(
                f"{self.metrics[0].name} has a unit of its own for each {self.kind.each}, so it cannot be the main "
                f"metric; name another one first, such as {find_metrics(self.kind.name)[0].name}"
            )
        self.unseen_classes = check_classes(trained, tested, unseen_classes) if target == "class" else []
        self.hashes = {"train": self.train.sha256, "test": self.test.sha256}
        self._warn_of_other_units(of_seeds)
        self.device = resolve_device(device)
        self.cache = as_cache(cache)
        self.controls = find_controls(
            {name: each[0] for name, each in of_seeds.items()},
            self.train,
            wanted=controls,
            reduce=shrink if self.method.pooled else lambda maps: maps,
            join=self.method.pooled,
            device=self.device,
        )
        # By name, and for each seed in order; without the untrained networks, which are drawn seed by seed.
        self.representations = (
            of_seeds
            | self._joined(of_seeds)
            | starting_points(of_seeds, self.controls.against)
            | {name: [control] * len(self.seeds) for name, control in self.controls.added.items()}
        )
        self.names = list(_ordered_names(self.representations, self.controls))
        self.team = Team()
        self.formats = FeatureFormats(
            precision,
            memory_format,
            num_images=self._images_of_networks() if AUTO in (precision, memory_format) else None,
            device=self.device,
            cache=self.cache,
            team=self.team,
        )

    def _images_of_networks(self) -> int:
        """Number of images that a network and its untrained twins compute, which decides whether a trial pays."""
        train, test, cached = len(self.train), len(self.test), self.cache is not None
        drawn = {part.backbone for one in self.with_twins(0).values() for part in one.parts}
        of_twins = (
            images_of_twins(backbone, train, test, self.seeds, chooses=True, cached=cached) for backbone in drawn
        )
        return train + test + (0 if self.method.finetunes else max(of_twins, default=0))

    def _joined(self, of_seeds: Mapping[str, Sequence[Representation]]) -> dict[str, list[Representation]]:
        """The features of each seed joined with the color histogram, by the name of their row."""
        found: dict[str, list[Representation]] = {}
        for joined, (name, histogram, size) in self.controls.joined.items():
            other = of_seeds[histogram][0] if histogram in of_seeds else self.controls.added[histogram]
            # One object for all seeds with the same network, so that its features are computed once.
            once = {id(one): Concatenated([one, other], size=size, name=joined) for one in of_seeds[name]}
            found[joined] = [once[id(one)] for one in of_seeds[name]]
        return found

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
    def reports(
        self, budgets: Sequence[LabelBudget], before: Callable[[Self, Sequence[LabelSets]], None] | None = None
    ) -> list[ProbeReport]:
        """Trains and tests all probes; returns one report per budget, all on the same features.

        Args:
            budgets: The labels that the probes get.
            before: Called by the process that trains the probes, with the labels of each budget, before it starts.
        """
        with ONE_AT_A_TIME:
            return self.team.lead(lambda: self._reports(budgets, before), self._help)

    def _help(self) -> None:
        """Computes this process's share of the features."""
        for _ in self._features():
            pass

    def _reports(
        self, budgets: Sequence[LabelBudget], before: Callable[[Self, Sequence[LabelSets]], None] | None
    ) -> list[ProbeReport]:
        from tqdm.auto import tqdm

        for budget in budgets:
            budget.check(self.targets["train"])
        labels = {budget: budget.draw(self.targets["train"].strata, self.seeds) for budget in budgets}
        if before is not None:
            before(self, list(labels.values()))
        runs: dict[LabelBudget, list[dict[str, Any]]] = {budget: [] for budget in budgets}
        described: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}
        health: dict[str, Health] = {}
        finetuning = FinetuningTime(sum(map(self._labels_of_finetuning, labels.values())))
        total = len(self.seeds) * len(self.names) * len(budgets)
        with tqdm(total=total, desc=f"{self.method.name} probes", unit="probe", disable=None) as bar:
            for seed, name, representation, features in self._features():
                bar.set_postfix_str(name)
                if name not in health:
                    health[name] = feature_health(features[0])
                identity = self.described(representation)
                if identity not in described[name]:
                    described[name].append(identity)
                number = self.seeds.index(seed)
                for budget, sets in labels.items():
                    start = time.perf_counter()
                    run = self._cached_run(representation, identity, features, sets.full[number], seed)
                    if self._is_finetuned(representation):
                        finetuning.add(len(sets.full[number]), time.perf_counter() - start)
                    if number < len(sets.parts):
                        part = self._cached_run(representation, identity, features, sets.parts[number], seed)
                        of_part = ("labels", "scores", "class_scores")
                        run |= {f"part_{key}": part[key] for key in of_part}
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

        fixed = self.fixed()
        fixed_features = extract(fixed.values())
        twins = UntrainedTwins(
            self.train,
            self.targets["train"],
            device=self.device,
            cache=self.cache,
            team=self.team,
            formats=self.formats,
        )
        for number, seed in enumerate(self.seeds):
            varying = {name: of_seeds[number] for name, of_seeds in self.representations.items() if name not in fixed}
            varying |= twins.draw(self.with_twins(number), seed)
            splits = [first | second for first, second in zip(fixed_features, extract(varying.values()), strict=True)]
            for name, representation in (fixed | varying).items() if self.team.is_leader else ():
                if self._is_finetuned(representation):
                    yield seed, name, representation, self._sample_features(representation)
                    continue
                train, test = (representation.combine_parts(features) for features in splits)
                yield seed, name, representation, (train, test)
        if self.cache is not None and self.team.is_leader and not self.method.finetunes:
            self.cache.store_result(self.identity_of_twins(), True)

    def fixed(self) -> dict[str, Representation]:
        """The representations that are the same for all seeds, by name."""
        return {
            name: of_seeds[0]
            for name, of_seeds in self.representations.items()
            if all(each is of_seeds[0] for each in of_seeds)
        }

    def with_twins(self, number: int) -> dict[str, Representation]:
        """The representations of a seed that have an untrained twin, by name."""
        return {
            name: self.representations[name][number]
            for name, controls in self.controls.against.items()
            if UNTRAINED in controls
        }

    def identity_of_twins(self) -> dict[str, Any]:
        """The key of a note in the cache that the features of all untrained twins are there, too."""
        drawn = [self.with_twins(number) for number in range(len(self.seeds))]
        return {
            "twins_of": [{name: describe(one) for name, one in of_seed.items()} for of_seed in drawn],
            "seeds": self.seeds,
            "images": self.hashes,
            "targets": self.targets["train"].sha256,
            "pooled": self.method.pooled,
            "code": code_identity(),
            "device": self.device,
        }

    def _labels_of_finetuning(self, sets: LabelSets) -> int:
        """The sum of the numbers of labels on which networks are fine-tuned."""
        known = self.representations
        trained = sum(name not in known or self._is_finetuned(known[name][0]) for name in self.names)
        return trained * sum(map(len, [*sets.full, *sets.parts])) * self.method.finetunes

    def _is_finetuned(self, representation: Representation) -> bool:
        """Whether a network is trained on images, so that its features before are needed for their health alone."""
        return self.method.finetunes and has_network(representation)

    def _sample_features(self, representation: Representation) -> tuple[Tensor, Tensor]:
        """The features of a few training images, and none of test images."""
        sample = self.train.subset(range(min(HEALTH_IMAGES, len(self.train))))
        found = extract_features([representation], sample, device=self.device)
        maps = representation.combine_parts(found)
        return maps, maps[:0]

    def _extract(
        self, representations: Collection[Representation], split: str, reduce: Callable[[Tensor], Tensor] | None
    ) -> dict[tuple[Backbone, str], Tensor]:
        images, sha256 = {"train": self.train, "test": self.test}[split], self.hashes[split]
        return cached_features(
            representations,
            images,
            self.cache,
            device=self.device,
            sha256=sha256,
            reduce=reduce,
            team=self.team,
            formats=self.formats,
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
        identity = self.identity_of_run(representation, described, labeled, seed)
        if self.cache is None or identity is None:
            return dict(finite_json(self._run(representation, features, labeled, seed)))
        run: dict[str, Any] | None = self.cache.result(identity)
        if run is None:
            run = dict(finite_json(self._run(representation, features, labeled, seed)))
            self.cache.store_result(identity, run)
        return run

    def described(self, representation: Representation) -> dict[str, Any]:
        """The description of a representation in the card, with the formats of its networks."""
        return describe(representation) | self.formats.describe(representation)

    def identity_of_run(
        self, representation: Representation, described: dict[str, Any], labeled: Tensor, seed: int
    ) -> dict[str, Any] | None:
        """Everything that determines a run of a probe; None if it cannot be cached."""
        if not self.method.cacheable or not all(is_cacheable(part.backbone) for part in representation.parts):
            return None
        return {
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

    def _run(
        self, representation: Representation, features: tuple[Tensor, Tensor], labeled: Tensor, seed: int
    ) -> dict[str, Any]:
        """Trains and tests a probe once, on the labeled images with the given indices."""
        targets = self.targets["train"].values[labeled]
        problem = self.problem(targets, self.targets["test"].values)
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
        single = len(self.names_of_targets) == 1
        averaged = [metric for metric in self.metrics if single or not metric.has_units]
        scores = {metric.name: pack_scores(image_scores(metric, outputs, truth)) for metric in averaged}
        of_classes = {
            metric.name: [one if one is None else pack_scores(one) for one in class_scores(metric, outputs, truth)]
            for metric in self.metrics
            if metric.per_class is not None
        }
        if "test_accuracy" in history[-1] and problem.tested is not None:
            for row in history:  # images of unseen classes count as errors; their loss is undefined, so it is left out
                if "test_accuracy" in row:
                    row["test_accuracy"] *= problem.tested.double().mean().item()
        return {
            "labels": len(targets),
            "history": history,
            "scores": scores,
            "class_scores": of_classes,
            **({"confusions": count_confusions(outputs, truth)} if self.kind.name == "class" else {}),
            **settings,
        }

    def problem(self, train: Tensor, test: Tensor) -> Problem:
        """The problem of predicting the targets of test images, given those of training images."""
        poses = {"class": self._class_problem, "numbers": NumberProblem, "map": MapProblem}
        return poses.get(self.kind.name, Problem)(train, test, len(self.names_of_targets))

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
            "test_images_per_class": self.targets["test"].images_per_name(len(self.names_of_targets)),
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
                "names": [name for name, of_seeds in self.representations.items() if not has_network(of_seeds[0])],
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


def _pretraining(given: Any) -> ImageStore | Sequence[KnownImages] | None:
    """Converts the images that networks were pretrained on, unless they are unknown or only their hashes are."""
    hashes = isinstance(given, list | tuple) and given and all(isinstance(one, KnownImages) for one in given)
    return given if given is None or hashes else as_store(given, target=None)


def _ordered_names(representations: Mapping[str, object], controls: Controls) -> Iterator[str]:
    """Yields the names of the representations, each followed by its own network's controls, and then of the others."""
    own = {before_name(name) for name, against in controls.against.items() if BEFORE in against}
    for name in representations:
        if name not in own:
            yield name
            against = controls.against.get(name, {})
            yield from (against[label] for label in (UNTRAINED, BEFORE) if label in against)
