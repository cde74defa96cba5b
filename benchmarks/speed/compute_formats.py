"""Time of training steps and of features by precision and memory format, with what the automatic choice takes."""

import copy
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.peaks import count_flop, seconds_at_peak
from benchmarks.speed.timing import OURS, Measurement, RunOptions, time_in_turn
from ssl_pretext.probes import mean_interval
from ssl_pretext.representations import FeatureFormats
from ssl_pretext.system.compute_format import (
    AUTO,
    BF16_MIXED,
    PLAIN,
    ComputeFormat,
    autocast,
    possible_formats,
    set_memory_format,
)
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.training.compute_format import choose_format
from ssl_pretext.training.lightning_module import CompiledNetworks

__all__ = ["compiling", "feature_formats", "format_results", "training_formats"]

NETWORKS = (  # encoders, with the size of their images in pixels
    ("autoencoder", 32),
    ("autoencoder", 64),
    ("timm/resnet18", 64),
    ("timm/resnet10t[layer=layer3]", 64),
    ("timm/resnet50", 64),
    ("timm/convnext_atto", 64),
    ("timm/vit_tiny_patch16_224[img_size=64]", 64),
)
COMPILED = (("timm/resnet18[layer=layer3]", 64), ("autoencoder", 32), ("timm/vit_tiny_patch16_224[img_size=64]", 64))
RESULT_NETWORKS = ("autoencoder", "timm/resnet10t[layer=layer3]")
TRAINING_BATCH, FEATURE_BATCH, ROUNDS = 32, 64, 5
CPU = torch.device("cpu")
ALL = possible_formats(AUTO, AUTO)


def training_formats(options: RunOptions) -> list[Measurement]:
    """Times forward and backward steps of colorization with L1."""

    def measure(name: str, task: sp.Colorization, images: sp.ImageStore) -> Measurement:
        batch = images.images(range(len(images)))

        def step(trained: sp.Colorization, one: ComputeFormat) -> None:
            trained.zero_grad(set_to_none=True)
            with autocast(one.precision, CPU):
                loss = trained(batch).loss
            loss.backward()

        start = time.perf_counter()
        chosen = choose_format(task, images, batch_size=len(images), device=CPU, precision=AUTO, memory_format=AUTO)
        took = time.perf_counter() - start
        return _measurement(name, task.train(), step, "a training step", chosen, took, len(images), options)

    return _each(measure, TRAINING_BATCH, options)


def feature_formats(options: RunOptions) -> list[Measurement]:
    """Times the features of a batch."""

    def measure(name: str, task: sp.Colorization, images: sp.ImageStore) -> Measurement:
        batch = images.images(range(len(images)))

        def step(frozen: sp.Colorization, one: ComputeFormat) -> None:
            with torch.no_grad(), autocast(one.precision, CPU):
                frozen.backbone().feature_maps(batch, [""])

        start = time.perf_counter()
        chosen = FeatureFormats(AUTO, AUTO)(task.backbone(), [""], images)
        took = time.perf_counter() - start
        return _measurement(name, task.eval(), step, "features", chosen, took, len(images), options)

    return _each(measure, FEATURE_BATCH, options)


def compiling(options: RunOptions) -> list[Measurement]:
    """Times training steps with compiled networks, and what compiling takes; `fit` compiles only if it is asked to."""
    found = []
    for encoder, image_size in (("timm/resnet10t[layer=layer1]", 32),) if options.small else COMPILED:
        torch.manual_seed(0)
        task = sp.Colorization(encoder, losses={"l1": 1.0}).train()
        images = sp.sample_photos("train", image_size=image_size).subset(range(TRAINING_BATCH))
        batch = images.images(range(len(images)))
        networks = CompiledNetworks(task.networks())

        def plain(task: sp.Colorization = task, batch: Tensor = batch) -> None:
            task.zero_grad(set_to_none=True)
            task(batch).loss.backward()

        def compiled(plain: Callable[[], None] = plain, networks: CompiledNetworks = networks) -> None:
            with networks:
                plain()

        with (
            keep_freed_memory(),
            tempfile.TemporaryDirectory() as cache,
            patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": cache}),  # so that nothing was compiled before
        ):
            start = time.perf_counter()
            compiled()
            took = time.perf_counter() - start
            taken = time_in_turn({OURS: plain, "compiled": compiled}, rounds=min(options.rounds, ROUNDS))
        found.append(
            Measurement(
                work=f"{encoder}, {image_size} px, a training step of {len(images)} images in float32",
                variants=taken,
                agreement=f"{encoder}: the first compiled step takes {took:.0f} s",
            )
        )
    return found


def format_results(options: RunOptions) -> list[Measurement]:
    """Compares the loss after an epoch, and the error of a linear probe, between formats; a row of values per seed."""
    seeds, count = (range(2), 20) if options.small else (range(3), 1_350)
    train, test = (sp.sample_photos(split, image_size=32) for split in ("train", "test"))
    few = train.subset(range(0, len(train), 7))
    found = []
    for encoder in RESULT_NETWORKS[:1] if options.small else RESULT_NETWORKS:
        losses: dict[str, list[float]] = {}
        errors: dict[str, list[float]] = {}
        for one, seed in itertools.product(ALL, seeds):
            torch.manual_seed(seed)
            task = sp.Colorization(encoder, losses={"l1": 1.0})
            with tempfile.TemporaryDirectory() as folder:
                config = sp.FitConfig(
                    out=Path(folder), epochs=1, learning_rate=1e-3, seed=seed, device="cpu", **one._asdict()
                )
                history = sp.fit(task, train.subset(range(count)), config)
            report = sp.evaluate(
                {"features": task.representation()}, few, test, probe="linear", seeds=1, controls=False, **one._asdict()
            )
            name = OURS if one == PLAIN else str(one)
            losses.setdefault(name, []).append(history[-1]["train_loss"])
            errors.setdefault(name, []).append(1 - report.interval("features").mean)
        for what, values in (("loss after an epoch", losses), ("error of a linear probe", errors)):
            apart = [
                f"{name} {_plus_minus([value - usual for value, usual in zip(taken, values[OURS], strict=True)])}"
                for name, taken in values.items()
                if name != OURS
            ]
            found.append(
                Measurement(
                    work=f"{encoder}, 32 px, {what}; ssl_pretext in float32",
                    variants=values,
                    unit="",
                    agreement=f"{encoder}, {what}, above that of float32 over {len(seeds)} seeds: {'; '.join(apart)}",
                )
            )
    return found


def _plus_minus(differences: Sequence[float]) -> str:
    mean, half = mean_interval(differences)
    return f"{mean:+.4f}" + ("" if half is None else f" ± {half:.4f}")


def _each(
    measure: Callable[[str, sp.Colorization, sp.ImageStore], Measurement], batch_size: int, options: RunOptions
) -> list[Measurement]:
    found = []
    for encoder, image_size in NETWORKS[:1] if options.small else NETWORKS:
        torch.manual_seed(0)
        task = sp.Colorization(encoder, losses={"l1": 1.0})
        photos = sp.sample_photos("train", image_size=image_size)
        with keep_freed_memory():
            found.append(
                measure(f"{encoder}, {image_size} px", task, photos.subset(range(2 if options.small else batch_size)))
            )
    return found


def _measurement(
    name: str,
    task: sp.Colorization,
    step: Callable[[sp.Colorization, ComputeFormat], None],
    what: str,
    chosen: ComputeFormat,
    took: float,
    count: int,
    options: RunOptions,
) -> Measurement:
    """Times all formats in turn; the row of ssl_pretext is that of the format that it chose before."""
    copies: Mapping[ComputeFormat, sp.Colorization] = {one: copy.deepcopy(task) for one in ALL}
    for one, copied in copies.items():
        set_memory_format(copied, one.memory_format)
    flop = count_flop(lambda: step(task, PLAIN))
    variants = {one: (lambda one=one: step(copies[one], one)) for one in ALL}
    taken = time_in_turn(
        {str(one): run for one, run in variants.items()}, rounds=min(options.rounds, ROUNDS), least_seconds=0
    )
    return Measurement(
        work=f"{name}, {what} of {count} images",
        variants={OURS: taken[str(chosen)], **taken},
        goals={one: 0.98 if one == str(PLAIN) else 0.95 for one in taken},
        agreement=f"{name}, {what}: chose {chosen} in {took:.1f} s",
        seconds_at_peak={OURS: _at_peak(flop, chosen), **{str(one): _at_peak(flop, one) for one in ALL}},
    )


def _at_peak(flop: int, one: ComputeFormat) -> float:
    return seconds_at_peak(flop, torch.bfloat16 if one.precision == BF16_MIXED else torch.float32)
