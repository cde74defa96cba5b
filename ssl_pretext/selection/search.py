"""The function `search`, which tries pretext tasks within a time, and recommends one of them or something cheaper."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_pretext.band_statistics import measure_bands, measure_space, warn_of_other_units
from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore, as_store, holdout_split
from ssl_pretext.errors import ArgumentError, NotFiniteError
from ssl_pretext.probes import ProbeReport, evaluate, untrained_name
from ssl_pretext.probes.given import check_images
from ssl_pretext.probes.outcome import pack_scores, unpack_scores
from ssl_pretext.probes.problem import check_targets
from ssl_pretext.probes.targets import KINDS, Targets, as_images_with_targets
from ssl_pretext.representations import FrozenNetwork, Representation
from ssl_pretext.selection.candidates import Candidate, find_candidates
from ssl_pretext.selection.config import SearchConfig
from ssl_pretext.selection.journal import Journal
from ssl_pretext.selection.judge import REPEATS, Hits, Judge
from ssl_pretext.selection.recommendation import (
    Contrast,
    held_out_contrasts,
    held_out_interval,
    recommend,
    tested_contrasts,
)
from ssl_pretext.selection.result import SearchResult, SearchRow
from ssl_pretext.selection.rounds import plan_steps, round_sizes
from ssl_pretext.selection.trial import RunTime, time_run
from ssl_pretext.system.console import describe_duration
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = ["search"]

log = logging.getLogger(__name__)

JOURNAL = "journal.json"
MOST_LABELED, MOST_TESTED = 1_000, 4_000  # images that are used, so that probes take a small part of the time
TIMING = 0.2  # part of the time after which no further task is timed, if nobody asked for it
NO_TIME = "there was no time; search for more minutes, or name the task"
SEEDS = 5  # of the evaluation on test images
CONTROLS = ("untrained", "pixels", "histogram")


def search(
    images: Any,
    labeled: Any,
    *,
    minutes: float,
    out: str | Path,
    test: Any = None,
    bands: Channels | None = None,
    config: SearchConfig | None = None,
) -> SearchResult:
    """Pretrains likely tasks within a time, and says which one to use, or that something cheaper is as good.

    The tasks are compared by successive halving: a short run of each, a longer one of the best third, and a long one of
    the best. All runs of a round take the same time, and each begins anew, so that `fit` alone can repeat the last one.
    The score is the accuracy of a probe on held-out *training* labels. Test images select nothing: the task that was
    chosen is evaluated on them once, at the end, beside the controls.

    The recommendation is the pretrained network only if it is shown to be better than its untrained twin, the pixels,
    the color histogram of photos, and each network of `config.compare`. Without test images, this is judged by the
    labels that the task was chosen by, with intervals that are wider for the number of tasks.

    The same call continues an interrupted search in `out`, from the checkpoint of the run that was interrupted.

    Args:
        images: Images to pretrain on, as for `fit`; an `ImageStore`, or a dataset that is read into one.
        labeled: Labeled training images as for `evaluate`. At most 1,000 of them are used.
        minutes: Minutes that the search takes, with the evaluation on test images.
        out: Output folder, for `search.json`, the journal and the runs.
        test: Labeled test images; at most 4,000 of them are used.
        bands: All channels of the images, in order, if they are not photos, such as
            `ChannelSpace.bands("chips", names)[tuple(names)]`.
        config: Tasks, encoder and more.

    Raises:
        ArgumentError: The images or an option cannot be used, the time is too short for a few steps of each task,
            or no task could be trained.
        CheckpointError: `out` holds a search with other images or settings.
        FolderInUseError: Another process searches in `out`.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    config = config or SearchConfig()
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise ArgumentError(f"minutes of search() must be a positive number, got {minutes!r}")
    data = _Data.of(images, labeled, test, bands, config)
    candidates, left_out = find_candidates(config.tasks, config.encoder, bands, config.seed, data.images.num_channels)
    folder = Path(out)
    with exclusive_lock(folder):
        journal = Journal(folder / JOURNAL, data.settings() | config.to_dict() | {"minutes": float(minutes)})
        result = _Search(data, candidates, left_out, config, journal, folder, 60 * minutes).run()
        write_json(folder / "search.json", result.to_dict())
        return result


@dataclass(frozen=True)
class _Data:
    """The images of a search, checked."""

    images: ImageStore
    labeled: ImageStore
    targets: Targets
    test: ImageStore | None

    @classmethod
    def of(cls, images: Any, labeled: Any, test: Any, bands: Channels | None, config: SearchConfig) -> "_Data":
        store = as_store(images, target=None)
        train, targets = as_images_with_targets(labeled, KINDS["class"])
        shapes = {(one.num_channels, one.image_size) for one in (store, train)}
        if len(shapes) > 1:
            raise ArgumentError(
                "search() needs images and labeled images of one size and number of channels, got "
                + " and ".join(f"{channels} channels and size {size}" for channels, size in sorted(shapes))
            )
        if bands is None and not store.num_channels == 3:
            raise ArgumentError(
                f"search() needs the names of the {store.num_channels} channels of images that are not photos; pass "
                "bands=ChannelSpace.bands('bands', names)[tuple(names)]"
            )
        if test is not None:
            tested, tested_targets = as_images_with_targets(test, KINDS["class"])
            check_images(train, tested)
            check_targets(targets, tested_targets, False)
            test = _limited(tested, tested_targets, MOST_TESTED, config.seed)[0]
        if bands is not None:  # labels of images in other units would be learned from other features
            measured = Channels(measure_space(bands.space, store), bands.names)
            for what, images in (("the labeled images", train), ("the test images", test)):
                if images is not None:
                    warn_of_other_units(measured, measure_bands(images, measured.space), f"search() on {what}")
        return cls(store, *_limited(train, targets, MOST_LABELED, config.seed), test)

    def settings(self) -> dict[str, Any]:
        """What identifies the images."""
        return {
            "images": self.images.sha256,
            "labeled": [self.labeled.sha256, self.targets.sha256],
            "test": None if self.test is None else [self.test.sha256, self.test.labels.tolist()],
        }


def _limited(images: ImageStore, targets: Targets, most: int, seed: int) -> tuple[ImageStore, Targets]:
    """Returns at most about so many images, of each class in proportion, with the targets as their labels."""
    kept = list(range(len(images)))
    if len(images) > most:
        _, kept = holdout_split([str(index) for index in kept], targets.values, fraction=most / len(images), seed=seed)
    chosen, of_chosen = images.subset(kept), targets.subset(torch.tensor(kept))
    chosen.labels, chosen.classes = of_chosen.values, of_chosen.names
    return chosen, of_chosen


class _Search:
    """One call of `search`, whose steps are kept in its journal."""

    def __init__(
        self,
        data: _Data,
        candidates: Sequence[Candidate],
        left_out: Mapping[str, str],
        config: SearchConfig,
        journal: Journal,
        out: Path,
        seconds: float,
    ) -> None:
        self.data, self.candidates, self.left_out = data, {one.name: one for one in candidates}, left_out
        self.config, self.journal, self.out, self.seconds = config, journal, out, seconds
        self.device = resolve_device(config.device)
        self.judge = Judge(data.labeled, data.targets, probe=config.probe, seed=config.seed, device=self.device)
        self.networks = {name: FrozenNetwork(name) for name in config.compare}
        self.times: dict[str, RunTime] = {}
        self.feature_seconds: dict[str, float] = {}  # of all labeled images
        self.hits: dict[str, Hits] = {}
        self.rows: dict[str, SearchRow] = {}

    def run(self) -> SearchResult:
        """Runs all steps that are not finished."""
        with _without_lines_of_runs():
            self._prepare()
            try:
                names = self.journal.step("tasks", self._affordable)
            except ArgumentError:
                self.journal.discard()  # nothing was trained, so that a search of more minutes can begin here
                raise
            best, folder, steps = self._halve(names)
            report = self._test(best, folder)
        return self._result(best, folder, steps, report)

    def _prepare(self) -> None:
        """Scores the controls, and measures how long a step of each task takes."""
        log.info("scoring the controls on %d labeled images", len(self.data.labeled))
        first = next(iter(self.candidates.values()))
        for name, control in (self.judge.controls(self._untrained(first)) | self._published()).items():
            kind = "network" if name in self.networks else "control"
            self._control(name, kind, partial(self.judge.hits, control))
        for name, candidate in self.candidates.items():
            if self._has_no_time_for(name):
                self.rows[name] = SearchRow(name, "left out", note=NO_TIME)
                continue
            self._control(untrained_name(name), "control", partial(self._twin_hits, candidate))
            measured = self.journal.step(f"time {name}", partial(self._time, candidate))
            if "failed" in measured:
                self.rows[name] = SearchRow(name, "left out", note=measured["failed"])
            else:
                self.times[name], self.feature_seconds[name] = RunTime(**measured["run"]), measured["features"]
        if not self.times:
            reasons = "; ".join(f"{name}: {self.rows[name].note}" for name in self.candidates)
            raise ArgumentError(f"search() could train no task: {reasons}")

    def _has_no_time_for(self, name: str) -> bool:
        """Whether a task is left out, because nobody asked for it and the timing of others has taken long."""
        if self.config.tasks is not None or len(self.times) < 2 or f"time {name}" in self.journal.steps:
            return False
        return "tasks" in self.journal.steps or self.journal.seconds > TIMING * self.seconds

    def _published(self) -> dict[str, Representation]:
        return {name: network.representation() for name, network in self.networks.items()}

    def _twin_hits(self, candidate: Candidate) -> Hits:
        return self.judge.hits(self.judge.twins(self._untrained(candidate)))

    def _untrained(self, candidate: Candidate) -> Representation:
        task = candidate.create()
        task.measure(self.data.images)  # centers and scales of bands, as `fit` does
        return task.representation()

    def _control(self, name: str, kind: str, score: Callable[[], Hits]) -> None:
        self.hits[name] = self._hits(f"score {name}", score)
        found = held_out_interval(self.hits[name], folds=self.judge.num_folds)
        self.rows[name] = SearchRow(name, kind, accuracy=found.mean, ci95=found.half)

    def _hits(self, step: str, score: Callable[[], Hits]) -> Hits:
        """The hits of a step, which the journal keeps in packed form, with the seconds that it took."""

        def work() -> dict[str, Any]:
            start = time.perf_counter()
            rows = [pack_scores(torch.from_numpy(row)) for row in score()]
            return {"hits": rows, "seconds": time.perf_counter() - start}

        kept = self.journal.step(step, work)
        return np.stack([unpack_scores(row, len(self.data.labeled)) for row in kept["hits"]])

    def _time(self, candidate: Candidate) -> dict[str, Any]:
        try:
            found = vars(time_run(candidate.create(), self.data.images, self._fit_config(candidate, 0, 1)))
        except (ArgumentError, NotFiniteError) as error:
            return {"failed": str(error)}
        representation, start = self._untrained(candidate), time.perf_counter()
        self.judge.features(representation)
        return {"run": found, "features": time.perf_counter() - start}

    def _fit_config(self, candidate: Candidate, number: int, steps: int) -> FitConfig:
        images = len(self.data.images)
        size = min(self.config.batch_size, images)
        while size > 2 and images % size == 1:  # tasks that compare images cannot use a batch of one
            size -= 1
        return FitConfig(
            out=self.out / "runs" / f"{number + 1}-{candidate.folder}",
            epochs=math.ceil(steps / math.ceil(images / size)),
            max_steps=steps,
            batch_size=size,
            learning_rate=self.config.learning_rate,
            seed=self.config.seed,
            device=self.config.device,
        )

    def _halve(self, names: list[str]) -> tuple[str, Path, int]:
        """Trains the tasks in rounds; returns the best one with the folder and the steps of its last run."""
        for name in [one for one in self.times if one not in names]:
            del self.times[name]
            self.rows[name] = SearchRow(name, "left out", note=NO_TIME)
        best = None
        sizes = round_sizes(len(names))
        for number, size in enumerate(sizes):
            names = names[:size]
            steps = self.journal.step(f"plan {number}", partial(self._plan_later, names, sizes[number:]))
            if steps is None:
                log.warning("the runs took longer than their trial; there is no time for round %d", number + 1)
                break
            seconds = steps[names[0]] * self.times[names[0]].step
            log.info(
                "round %d of %d: %s, about %s each",
                number + 1,
                len(sizes),
                ", ".join(names),
                describe_duration(seconds),
            )
            scored = {}
            for name in names:
                accuracy = self._train(name, number, steps[name])
                if accuracy is not None:
                    scored[name] = accuracy
            if not scored:
                break
            names = sorted(scored, key=lambda name: scored[name], reverse=True)
            best = names[0], self._fit_config(self.candidates[names[0]], number, 1).out, steps[names[0]]
        if best is None:
            reasons = "; ".join(f"{name}: {self.rows[name].note}" for name in self.times)
            raise ArgumentError(f"search() could train no task: {reasons}")
        return best[0], Path(best[1]), best[2]

    def _affordable(self) -> list[str]:
        """Returns the tasks that there is time for: all of them, or the more likely ones if nobody asked for any."""
        names = list(self.times)
        while True:
            try:
                self._plan(names, round_sizes(len(names)))
            except ArgumentError:
                if self.config.tasks is not None or len(names) <= 2:
                    raise
                names.pop()
            else:
                return names

    def _plan_later(self, names: Sequence[str], sizes: Sequence[int]) -> dict[str, int] | None:
        """The steps of the next round; None if there is no time for it, because runs took longer than their trial."""
        try:
            return self._plan(names, sizes)
        except ArgumentError:
            return None

    def _plan(self, names: Sequence[str], sizes: Sequence[int]) -> dict[str, int]:
        # A trained network is scored in each repetition, but without the versions of its twin.
        overhead = max(self.times[name].overhead for name in names) + self._scoring_seconds(names)
        left = self.seconds - self.journal.seconds - self._reserve()
        return plan_steps({name: self.times[name].step for name in names}, sizes, left, overhead)

    def _reserve(self) -> float:
        """Seconds for the evaluation on test images, on which each seed scores another untrained twin."""
        if self.data.test is None:
            return 0.0
        of_test = max(self.feature_seconds[name] for name in self.times) * len(self.data.test) / len(self.data.labeled)
        return SEEDS * self._scoring_seconds(list(self.times)) + (SEEDS + 1) * of_test

    def _scoring_seconds(self, names: Sequence[str]) -> float:
        """The longest time to draw and to score the untrained twin of a task once, on all labeled images."""
        return max(float(self.journal.steps[f"score {untrained_name(name)}"]["seconds"]) for name in names) / REPEATS

    def _train(self, name: str, number: int, steps: int) -> float | None:
        """Trains and scores a task; returns its accuracy, or None if the run failed."""
        candidate = self.candidates[name]
        config = self._fit_config(candidate, number, steps)
        done = self.journal.step(f"train {number} {name}", lambda: self._fit(candidate, config))
        if "failed" in done:
            self.rows[name] = SearchRow(name, "left out", rounds=number + 1, note=done["failed"])
            return None
        if not done["resumed"]:
            own = self.times[name]
            self.times[name] = replace(own, step=max(0.0, done["seconds"] - own.overhead) / steps or own.step)
        self.hits[name] = self._hits(
            f"score {number} {name}",
            lambda: self.judge.hits(PretextTask.from_pretrained(Path(config.out) / "task").representation()),
        )
        folds, twin = self.judge.num_folds, self.hits[untrained_name(name)]
        found = held_out_interval(self.hits[name], folds=folds)
        over = held_out_interval(self.hits[name], twin, folds=folds, draws=self._draws())
        self.rows[name] = row = SearchRow(
            name, "task", number + 1, done["seconds"] / 60, steps, found.mean, found.half, over.mean, over.half
        )
        left = max(0.0, self.seconds - self.journal.seconds)
        log.info(
            "  %s: %s%%, %s over untrained; %s left", name, *list(row.shown().values())[3:5], describe_duration(left)
        )
        return found.mean

    def _draws(self) -> list[Hits]:
        """The hits of the untrained twins of all tasks that are tried."""
        return [self.hits[untrained_name(name)] for name in self.times]

    def _fit(self, candidate: Candidate, config: FitConfig) -> dict[str, Any]:
        out, start = Path(config.out), time.perf_counter()
        resumed = (out / "checkpoints").exists()
        try:
            fit(candidate.create(), self.data.images, replace(config, resume=True), loggers=["csv"])
        except (ArgumentError, NotFiniteError) as error:
            return {"failed": str(error)}
        shutil.rmtree(out / "checkpoints")  # a run that has ended needs no checkpoint
        return {"seconds": time.perf_counter() - start, "resumed": resumed}

    def _test(self, best: str, folder: Path) -> ProbeReport | None:
        """Evaluates the best task on the test images."""
        if self.data.test is None:
            return None
        log.info("evaluating %s on %d test images", best, len(self.data.test))
        given = {best: PretextTask.from_pretrained(folder / "task").representation(), **self._published()}
        kept = self.journal.step(
            "test",
            lambda: evaluate(
                given,
                self.data.labeled,
                self.data.test,
                probe=self.config.probe,
                seeds=SEEDS,
                pretraining=self.data.images,
                controls=CONTROLS,
                device=self.config.device,
            ).to_dict(),
        )
        return ProbeReport.from_dict(kept)

    def _result(self, best: str, folder: Path, steps: int, report: ProbeReport | None) -> SearchResult:
        twin = untrained_name(best)
        twins = [untrained_name(name) for name in self.candidates]
        references = [name for name, row in self.rows.items() if row.kind in ("control", "network")
                      and (name == twin or name not in twins)]  # fmt: skip
        contrasts: list[Contrast]
        remarks = []
        if report is None:
            of_references = {name: self.hits[name] for name in references}
            contrasts = held_out_contrasts(
                self.hits[best], of_references, twin, folds=self.judge.num_folds, draws=self._draws()
            )
            remarks.append(
                "There were no test images. The accuracy of the best task is optimistic by an unknown amount, because "
                f"it is the best of {len(self.times)} on the same labels; the intervals of its differences are widened "
                "for that."
            )
        else:
            contrasts = tested_contrasts(report, best, references)
            remarks.append("The test images had no part in the choice of the task.")
        remarks.append("Each task was pretrained from one seed; another seed can give another order.")
        tasks = [row for row in self.rows.values() if row.kind == "task"]
        tasks.sort(key=lambda row: (row.name != best, -row.rounds, -(row.accuracy or 0)))
        others = [row for row in self.rows.values() if row.kind != "task"]
        missing = [SearchRow(name, "left out", note=reason) for name, reason in self.left_out.items()]
        accuracies = {name: self.rows[name].accuracy or 0.0 for name in references}
        candidate = self.candidates[best]
        return SearchResult(
            (*tasks, *[row for row in others if row.name in references or row.kind == "left out"], *missing),
            recommend(best, contrasts, accuracies),
            tuple(remarks),
            candidate.spec,
            candidate.encoder,
            folder,
            replace(self._fit_config(candidate, 0, steps), out=folder),
            report,
            self.journal.seconds / 60,
        )


@contextmanager
def _without_lines_of_runs() -> Iterator[None]:
    """Hides the lines that `fit` logs of each epoch, of which a search has many."""
    logger = logging.getLogger("ssl_pretext.training")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
