"""Pretraining, against a loop written by hand."""

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.measure import measure
from benchmarks.speed.race import OURS, Finding, Size, check_equal

__all__ = ["fitting", "imports", "limited", "memory"]

BATCH_SIZE = 64


def fitting(size: Size) -> list[Finding]:
    """Steps of the documented autoencoder with a smooth L1 loss, from the first one on: starting does not count."""
    steps = 3 if size.small else 40
    store = sp.sample_photos("train", image_size=32)
    store = store.subset([i % len(store) for i in range(steps * BATCH_SIZE)])

    def ours() -> tuple[Tensor, float]:
        trained, ends = _task()
        with tempfile.TemporaryDirectory() as folder:
            sp.fit(trained, store, sp.FitConfig(out=Path(folder), epochs=1, batch_size=BATCH_SIZE, device="cpu"))
        return _weights(trained), _seconds_per_step(ends)

    def by_hand() -> tuple[Tensor, float]:
        trained, ends = _task()
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4, weight_decay=2e-5)
        torch.manual_seed(0)
        order = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))
        for batch in order.split(BATCH_SIZE):
            loss = trained(store.images(batch)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return _weights(trained), _seconds_per_step(ends)

    sides = {OURS: ours, "a loop by hand": by_hand}
    error = check_equal("a loop by hand", ours()[0], by_hand()[0], within=0.0)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(size.rounds):
        for name, run in sides.items():
            taken[name].append(run()[1])
    return [
        Finding(
            work=f"documented autoencoder, 32 px, a step of {BATCH_SIZE} images, {steps} in a row",
            sides=taken,
            goals={"a loop by hand": 0.97},
            agreement=f"weights differ by {error:g}",
        )
    ]


def _task() -> tuple[sp.Colorization, list[float]]:
    """A task, and when each of its predictions was made."""
    torch.manual_seed(0)
    task = sp.Colorization("autoencoder", target="rgb", losses={"smooth_l1": 1.0})
    ends: list[float] = []
    task.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
    return task, ends


def _seconds_per_step(ends: list[float]) -> float:
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def _weights(task: sp.Colorization) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.parameters()])


def imports(size: Size) -> list[Finding]:
    """`import ssl_pretext`, which loads torch and little else."""
    found = {module: [] for module in ("ssl_pretext", "torch")}  # type: dict[str, list[dict[str, float]]]
    for module in (*found, *found):  # the first reads the files
        measure("importing", module=module)
    for _ in range(2 if size.small else size.rounds):
        for module, figures in found.items():
            figures.append(measure("importing", module=module))
    memory = {module: [one["mib"] for one in figures] for module, figures in found.items()}
    return [
        Finding(
            work="import",
            sides={module: [one["seconds"] for one in figures] for module, figures in found.items()},
            goals={"torch": 1 / 1.1},
        ),
        Finding(
            work="memory after the import",
            sides=memory,
            unit="MiB",
            agreement=f"{max(memory['ssl_pretext']) - min(memory['torch']):.0f} MiB more at most; the limit is 30",
        ),
    ]


def memory(size: Size) -> list[Finding]:
    """Whether memory grows with the number of images, and whether a store may be larger than memory."""
    few, many = (240, 480) if size.small else (4_000, 40_000)
    findings = []
    for work in ("pretraining", "extraction"):
        some, more = (measure(work, images=images)["mib"] for images in (few, many))
        findings.append(
            Finding(
                work=f"{work}: peak memory with {many:,} images",
                sides={OURS: [more], f"with {few:,}": [some]},
                goals={f"with {few:,}": 0.95},
                unit="MiB",
            )
        )
    return [*findings, limited(size)]


def limited(size: Size) -> Finding:
    """Whether a store four times as large as the memory that is allowed is pretrained on and read."""
    # In small form without what the libraries take: four times that would take a minute to go through.
    options = {"spare": 80, "side": 32, "whole": False} if size.small else {"spare": 512, "side": 64, "whole": True}
    found = measure("limited", **options)
    return Finding(
        work=f"steps on and features of a store of {found['store']:,.0f} MiB, {found['allowed']:,.0f} MiB allowed",
        sides={OURS: [found["mib"]], "the store": [found["store"]]},
        goals={"the store": found["store"] / found["allowed"]},
        unit="MiB",
        agreement="where the store is larger than what is allowed, taking all its images at once fails",
    )
