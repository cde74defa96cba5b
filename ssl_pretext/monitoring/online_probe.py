"""A callback that probes the network every few epochs of a pretraining run, beside its untrained twin."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.data import as_store
from ssl_pretext.encoders.copies import detached_copy
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import ProbeReport, evaluate
from ssl_pretext.probes.controls import UNTRAINED
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.targets import find_kind
from ssl_pretext.registry import split_specs
from ssl_pretext.reporting.drawings import line_chart
from ssl_pretext.reporting.page import Section
from ssl_pretext.representations.feature_formats import PRECISIONS
from ssl_pretext.system.compute_format import FLOAT32
from ssl_pretext.system.files import write_json
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.lightning_module import CHECKPOINT
from ssl_pretext.training.page_callbacks import PagePart

__all__ = ["OnlineProbe"]

FILE = "online_probe.json"  # relative to the folder of the run
HOLDOUT = 0.25
NAME = "network"
KINDS = {"accuracy": "mean", "untrained": "untrained"}  # curves of the loggers, by the end of their names

log = logging.getLogger(__name__)


class OnlineProbe(PagePart):
    """Trains probes on the features every few epochs, and shows their results beside those of the untrained network.

    A quarter of the images of each class is held out, and the probes are trained on the others. Do not pass the images
    that the final result is measured on: a run that is stopped or changed because of these figures has been selected
    by them. The callback itself chooses nothing, and the trained weights are the same with and without it.

    The checkpoint of an epoch is written before the epoch is probed, so that the epoch is kept if the run is stopped
    meanwhile, and once more with the results.

    In a Trainer of your own, leave `enable_checkpointing` at its default, because Lightning counts the callback as a
    checkpoint.

    The results are logged, written to `online_probe.json` in the folder of the run and to its loggers, and drawn in its
    `report.html`. The first row, epoch 0, is measured before the training.

    Args:
        images: Labeled images of at least two classes, as `evaluate` takes them, of the size of the training images.
        every: Number of epochs from one probing to the next. The last epoch is always probed.
        probes: Probes to train, separated by commas; see `list_probes`.
        seeds: Number of repetitions, from which the intervals are computed.

    Attributes:
        rows: A row per epoch and probe with `epoch`, `probe`, `metric`, its `mean` and `ci95`, the mean of the
            `untrained` network, the `difference` from it with `difference_ci95`, and that difference in `words`.

    Raises:
        ArgumentError: The images have no labels, a class has a single image, or a number is not positive.
        UnknownNameError: There is no such probe.

    Examples:
        >>> import ssl_pretext as sp
        >>> labeled = sp.sample_photos("train", image_size=16)
        >>> probing = OnlineProbe(labeled, every=2, probes="knn")
        >>> # sp.fit(task, photos, config, callbacks=[probing])
        >>> probing.rows
        []
    """

    def __init__(self, images: Any, *, every: int = 5, probes: str = "knn,linear", seeds: int = 3) -> None:
        self.every, self.seeds = whole_number("every", every), whole_number("seeds", seeds)
        self.probes = split_specs(probes)
        for probe in self.probes:
            find_method(probe, None, find_kind("class"))
        if not self.probes or len(set(self.probes)) < len(self.probes):
            raise ArgumentError(f"OnlineProbe needs at least one probe and no probe twice, got {probes!r}")
        store = as_store(images)
        if len(store.labels[store.labels >= 0].unique()) < 2 or store.classes == ["unlabeled"]:
            raise ArgumentError(
                "OnlineProbe needs labeled images of at least two classes; pass a folder with one subfolder per class "
                "as ImageStore.from_folder(folder)"
            )
        self.train, self.held_out = store.split(HOLDOUT, seed=0)
        self.rows: list[dict[str, Any]] = []
        self._twins: dict[str, ProbeReport] = {}  # reports before the training, with the untrained twin

    @override
    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not self._twins:
            self._probe(trainer, module, 0)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs:
            self._probe(trainer, module, epoch)
            trainer.save_checkpoint(Path(module.config.out) / CHECKPOINT)  # again, because it holds the results

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "twins": {probe: report.to_dict() for probe, report in self._twins.items()}}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._twins = {probe: ProbeReport.from_dict(report) for probe, report in state_dict["twins"].items()}

    @override
    def sections(self) -> list[Section]:
        if not self.rows:
            return []
        metric = self.rows[0]["metric"]
        series: dict[str, list[tuple[float, float]]] = {}
        for probe in self.probes:
            rows = [row for row in self.rows if row["probe"] == probe]
            series[f"{probe}, trained"] = [(row["epoch"], 100 * row["mean"]) for row in rows]
            series[f"{probe}, untrained"] = [(row["epoch"], 100 * row["untrained"]) for row in rows]
        untrained, last = [f"{probe}, untrained" for probe in self.probes], self.rows[-1]["epoch"]
        caption = (
            f"Probes on {len(self.train):,} labeled images, judged on {len(self.held_out):,} others; means over "
            f"{self.seeds} seeds. Epoch 0 is before the training."
        )
        drawing = line_chart(series, x_label="epoch", y_label=f"{metric}, %", caption=caption, dashed=untrained)
        sentences = [f"{row['probe']}: {row['words']}." for row in self.rows if row["epoch"] == last]
        return [
            Section(
                "Is it learning what helps?",
                [f"After epoch {last}, compared with the untrained network:", "\n".join(f"- {s}" for s in sentences)],
                drawings=[drawing],
            )
        ]

    def _probe(self, trainer: pl.Trainer, module: Any, epoch: int) -> None:
        device = module.device
        # A copy, so that neither modes nor hooks nor the state of the random numbers of the training change.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            task: PretextTask = detached_copy(module.task).float().eval()
            # As the run computes, unless its precision is none of features. A choice for each probing would cost more.
            config: FitConfig = module.config
            computed = {
                "device": device.type,
                "precision": config.precision if config.precision in PRECISIONS else FLOAT32,
                "memory_format": config.memory_format,
            }
            rows = [self._row(task, probe, epoch, computed) for probe in self.probes]
        self.rows += rows
        shown = "; ".join(
            f"{row['probe']} {100 * row['mean']:.1f}% (untrained {100 * row['untrained']:.1f}%)" for row in rows
        )
        log.info("probes after epoch %d: %s", epoch, shown)
        for logger in trainer.loggers:
            values = {f"probe/{row['probe']}_{kind}": row[key] for row in rows for kind, key in KINDS.items()}
            logger.log_metrics(values, step=trainer.global_step)
        if trainer.is_global_zero:
            write_json(Path(module.config.out) / FILE, self.rows)

    def _row(self, task: PretextTask, probe: str, epoch: int, computed: Mapping[str, Any]) -> dict[str, Any]:
        first = self._twins.get(probe)
        report = evaluate(
            {NAME: task},
            self.train,
            self.held_out,
            probe=probe,
            seeds=self.seeds,
            controls=[UNTRAINED] if first is None else False,
            **computed,
        )
        if first is None:
            self._twins[probe] = report
        else:  # the untrained network is that of the first report
            twins = [run for run in first.runs if run["representation"] != NAME]
            described = {**first.card["representations"], **report.card["representations"]}
            report = ProbeReport([*report.runs, *twins], {**first.card, "representations": described})
        (row,) = report.against_controls()
        found = report.interval(NAME)
        return {
            "epoch": epoch,
            "probe": probe,
            "metric": report.metric().name,
            "mean": found.mean,
            "ci95": found.half,
            "untrained": report.interval(row["reference"]).mean,
            "difference": row["mean"],
            "difference_ci95": row["ci95"],
            "words": row["words"],
        }
