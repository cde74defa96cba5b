"""Whether predicting channels is worth labels on cells and satellite images: `python -m benchmarks.evidence cells`.

Each pretext task is pretrained from several seeds on the same images for about the same time, and evaluated with few
labels beside its untrained network, the pixels and a network that was trained on ImageNet.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import pearsonr

import ssl_pretext as sp
from benchmarks.evidence.studies import ENCODER, READINGS, STUDIES, Row, Split, Study
from benchmarks.finetuning.page import FINETUNING_EPOCHS
from benchmarks.food101.experiment import environment
from benchmarks.harness import compact, folder_name
from benchmarks.result_page import store_and_publish
from ssl_pretext.band_statistics import measure_space
from ssl_pretext.cli.command import run_command
from ssl_pretext.representations import IMAGENET_LABELS, Concatenated, Representation, imagenet_reference
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

log = logging.getLogger("benchmarks.evidence")

SIZE_OF_PUBLISHED = 128  # pixels

Networks = Mapping[str, Sequence[sp.PretextTask]]  # the pretrained networks of each row, one per seed


def run(
    study: Study, folder: Path, out: Path, *, seeds: int, epochs: int, validate: bool, device: str
) -> dict[str, Any]:
    """Pretrains and evaluates all rows of a study; what the folder `out` holds already is not computed again.

    With `validate`, what the study has tried is pretrained once, on three quarters of the training images, and compared
    on the others; no test image is read.
    """
    split = study.split(folder, validate)
    rows = study.tried if validate else study.rows
    if validate:
        out = out / "validation"
    trained_for = {row.name: max(1, round(epochs * row.epochs)) for row in rows}
    networks: dict[str, list[sp.PretextTask]] = {}
    costs: dict[str, list[float]] = {}
    for seed in range(1 if validate else seeds):
        for row in rows:
            place = out / f"{folder_name(row.name)}-{seed}"
            task, seconds = _pretrained(row, split.pretraining, seed, trained_for[row.name], place, device)
            networks.setdefault(row.name, []).append(task)
            costs.setdefault(row.name, []).append(seconds)
    evaluate = _on_validation_images if validate else _on_test_images
    return {
        "counts": {
            "pretraining": len(split.pretraining),
            "test": sum(len(test) for _, test in split.judged.values()),
            "classes": len(split.pretraining.classes),
        },
        "epochs": trained_for,
        "cpu_seconds": costs,
        **evaluate(study, networks, split, out, seeds=seeds, device=device),
    }


def _on_validation_images(study: Study, networks: Networks, split: Split, out: Path, **options: Any) -> dict[str, Any]:
    """Compares what was tried, and further ways to read the first of it."""
    ((train, test),) = split.judged.values()
    ((first, *_), *_) = networks.values()
    views = {name: first.representation(**reading) for name, reading in study.views.items()}
    compared = {name: task.representation() for name, (task,) in networks.items()} | views
    # There are fewer images to draw labels from.
    counts = [count for count in study.per_class if count <= int(train.labels.bincount().min())]
    reports = _reports(out / "reports.json", compared, train, test, per_class=counts, controls=False, **options)
    return {"reports": {"": reports}}


def _on_test_images(study: Study, networks: Networks, split: Split, out: Path, **options: Any) -> dict[str, Any]:
    """Compares the rows with their controls, and asks what else the study asks of its first row."""
    seeds = options["seeds"]
    compared = _readings(study, networks)
    found: dict[str, Any] = {"compared": list(compared), "reports": {}}
    for kind, (train, test) in split.judged.items():
        file = (out / folder_name(kind) if kind else out) / f"reports-{seeds}.json"
        everything = compared | _predictions(study, networks) | _published(study, train)
        found["reports"][kind] = _reports(file, everything, train, test, per_class=study.per_class, **options)
    name, train, test = study.rows[0].name, *next(iter(split.judged.values()))
    if study.finetuned:
        first = {name: [task.representation() for task in networks[name]]}
        found["finetuned"] = _reports(
            out / f"finetuned-{seeds}.json", first, train, test, per_class=study.finetuned, probe="finetune",
            epochs=FINETUNING_EPOCHS, controls=["untrained"], **options,
        )  # fmt: skip
    if study.space and study.target:
        found["predicted"] = _predicted(_predicting(networks[name]), test, study.space[study.target], study.subset)
    return found


def _pretrained(
    row: Row, images: sp.ImageStore, seed: int, epochs: int, out: Path, device: str
) -> tuple[sp.PretextTask, float]:
    """Returns a pretrained network, and the seconds of all processors that its training took."""
    file = out / "cpu_seconds.json"
    if not file.exists():
        torch.manual_seed(seed)
        task = row.create()
        config = FitConfig(
            out=out, epochs=epochs, batch_size=row.batch_size, learning_rate=row.learning_rate, augment=row.augment,
            seed=seed, precision="auto", memory_format="auto", device=device, resume=True,
        )  # fmt: skip
        steps = 0

        def count(*_: Any) -> None:
            nonlocal steps
            steps += 1

        started = time.process_time()
        with task.register_forward_pre_hook(count):
            history = fit(task, images, config)
        # A run that was resumed counts the steps of all its parts like those of its last.
        every = epochs * -(-len(images) // row.batch_size)
        write_json(file, (time.process_time() - started) * every / max(1, steps))
        log.info("%s, seed %d: loss %.4f", row.name, seed, history[-1]["train_loss"])
    return sp.PretextTask.from_pretrained(out / "task").eval(), read_json(file)


def _reports(
    file: Path, compared: dict[str, Any], train: sp.ImageStore, test: sp.ImageStore, **options: Any
) -> dict[str, Any]:
    """The reports by number of labels per class, as JSON holds them."""
    if not file.exists():
        curve = sp.label_efficiency(compared, train, test, cache=file.parent / "cache", **options)
        log.info("%s", curve.table())
        write_json(file, {str(count): compact(report) for count, report in curve.reports.items()})
    return dict(read_json(file))


def _readings(study: Study, networks: Networks) -> dict[str, list[Representation]]:
    """What is read from the pretrained networks of all rows, by its name in tables."""
    return {
        row.name + READINGS[pooling]: [task.representation(pooling=pooling) for task in networks[row.name]]
        for row in study.rows
        for pooling in row.readings
    }


def _predictions(study: Study, networks: Networks) -> dict[str, list[Representation]]:
    """Features of the first row together with what it predicts, if that is compared with the truth."""
    if not study.target:
        return {}
    name = study.rows[0].name
    return {
        f"{name}, with the prediction": [
            Concatenated([task.representation(), task.prediction_representation()], size=5)
            for task in _predicting(networks[name])
        ]
    }


def _published(study: Study, images: sp.ImageStore) -> dict[str, Representation]:
    """What is read from a network that was trained with ImageNet's labels, which sees the images enlarged."""
    if study.space is None:
        reference = imagenet_reference(SIZE_OF_PUBLISHED)
    elif study.published:
        reference = imagenet_reference(SIZE_OF_PUBLISHED, measure_space(study.space, images)[tuple(study.published)])
    else:
        return {}
    found = {}
    for pooling in study.rows[0].readings:
        name = IMAGENET_LABELS + READINGS[pooling]
        found[name] = Concatenated([reference], size=1, name=name) if pooling == "gap" else reference
        found[name].control = True
    return found


def _predicting(tasks: Sequence[sp.PretextTask]) -> list[sp.CrossChannelPrediction]:
    return [task for task in tasks if isinstance(task, sp.CrossChannelPrediction)]


def _predicted(
    tasks: Sequence[sp.CrossChannelPrediction], test: sp.ImageStore, target: sp.Channels, subset: Sequence[str]
) -> dict[str, list[float]]:
    """Correlations of the predicted with the true total of the target, over all classes and over some of them."""
    images = test.images()
    true = images[:, target.indices].double().sum((1, 2, 3))
    chosen = torch.tensor([test.classes[label] in subset for label in test.labels.tolist()])
    found: dict[str, list[float]] = {"all classes": [], ", ".join(subset): []}
    for task in tasks:
        total = task.predict(images).double().sum((1, 2, 3))
        for name, which in zip(found, (torch.ones_like(chosen), chosen), strict=True):
            found[name].append(float(pearsonr(total[which], true[which]).statistic))
    return found


def main() -> int:
    """Runs a study and writes `results.json` and its page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with a folder per class")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/evidence-STUDY)")
    parser.add_argument("--seeds", type=int, default=5, help="number of pretrainings of each row")
    parser.add_argument("--epochs", type=int, help="epochs of the first row (default: the study's)")
    parser.add_argument("--tried", action="store_true", help="compare what was tried on validation images first")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    study, out = STUDIES[options.study], options.out or Path(f"runs/evidence-{options.study}")
    epochs = options.epochs or study.epochs
    if options.tried and not study.tried:
        parser.error(f"the study {options.study} has nothing that is compared on validation images; leave out --tried")

    def work() -> None:
        device = resolve_device(options.device, "--device")
        logging.getLogger("ssl_pretext.training").setLevel(logging.WARNING)
        with exclusive_lock(out):
            found = {
                name: run(study, options.data, out, seeds=options.seeds, epochs=epochs, validate=one, device=device)
                for name, one in {"tried": True, "evidence": False}.items()
                if options.tried or not one
            }
        results = {
            "title": study.title,
            "about": study.about,
            "command": f"python -m benchmarks.evidence {options.study} --data=DIR --seeds={options.seeds} "
            f"--epochs={epochs}{' --tried' if options.tried else ''}",
            "settings": {
                "encoder": ENCODER,
                "epochs": epochs,
                "batch_size": study.rows[0].batch_size,
                "learning_rate": study.rows[0].learning_rate,
            },
            "environment": environment(device),
            **found,
        }
        store_and_publish(results, out)

    return run_command("benchmarks.evidence", work)


if __name__ == "__main__":
    sys.exit(main())
