"""Time of pretraining compared with a hand-written loop, time of the import, and memory."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.new_process import measure_in_new_process
from benchmarks.speed.peaks import count_flop, seconds_at_peak
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn

__all__ = ["fit_overhead", "fitting", "imports", "memory", "memory_limit"]

BATCH_SIZE = 64
MEMORY_ROUNDS = 3  # peaks of single runs differ by a few percent


def fitting(options: RunOptions) -> list[Measurement]:
    """Times training steps of the documented autoencoder with a smooth L1 loss, without the start of the run."""
    steps = 3 if options.small else 40
    store = sp.sample_photos("train", image_size=32)
    store = store.subset([i % len(store) for i in range(steps * BATCH_SIZE)])

    def ours() -> tuple[Tensor, float]:
        trained, ends = _task()
        with tempfile.TemporaryDirectory() as folder:
            config = sp.FitConfig(
                out=Path(folder), epochs=1, batch_size=BATCH_SIZE, device="cpu", schedule="constant", warmup=0.0
            )
            sp.fit(trained, store, config)
        return _weights(trained), _seconds_per_step(ends)

    def hand_written() -> tuple[Tensor, float]:
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

    batch = store.images(range(BATCH_SIZE))
    flop = count_flop(lambda: _task()[0](batch).loss.backward())
    variants = {OURS: ours, "a hand-written loop": hand_written}
    error = check_equal("a hand-written loop", ours()[0], hand_written()[0], within=0.0)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, run in variants.items():
            taken[name].append(run()[1])
    return [
        Measurement(
            work=f"documented autoencoder, 32 px, a step of {BATCH_SIZE} images, {steps} steps in a row",
            variants=taken,
            goals={"a hand-written loop": 0.97},
            agreement=f"the weights differ by {error:g}",
            seconds_at_peak=seconds_at_peak(flop),
        )
    ]


def fit_overhead(options: RunOptions) -> list[Measurement]:
    """Times a whole run whose network computes next to nothing, so that what remains is the work of `fit` itself.

    That is the loader, the logs, the check for NaN, the progress, the checkpoint, the saved task and the page; and the
    start of the run. An epoch of the documented autoencoder at 32 px of a minute has about as many steps.
    """
    steps = 5 if options.small else 150
    store = sp.sample_photos("train", image_size=8)
    store = store.subset([i % len(store) for i in range(steps * BATCH_SIZE)])

    def tiny() -> sp.Colorization:
        torch.manual_seed(0)
        encoder = torch.nn.Conv2d(1, 4, 2, stride=2)
        return sp.Colorization(encoder, decoder=torch.nn.ConvTranspose2d(4, 2, 2, stride=2), losses={"l1": 1.0})

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            sp.fit(tiny(), store, sp.FitConfig(out=Path(folder), epochs=1, batch_size=BATCH_SIZE, device="cpu"))

    def bare() -> None:
        task = tiny()
        task.prepare(store)
        optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, weight_decay=2e-5)
        order = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))
        for batch in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            task(store.images(batch)).loss.backward()
            optimizer.step()

    taken = time_in_turn({OURS: ours, "the bare steps": bare}, rounds=min(options.rounds, 5))
    added = statistics.median(taken[OURS]) - statistics.median(taken["the bare steps"])
    return [
        Measurement(
            work=f"a run of {steps} steps of {BATCH_SIZE} images of 8 px with a tiny network, from call to return",
            variants=taken,
            agreement=f"fit adds {added:.2f} s to {steps} steps, {added / 60:.1%} of an epoch of a minute; the limit "
            "is 3%",
        )
    ]


def _task() -> tuple[sp.Colorization, list[float]]:
    """A task, and a list to which the time of each of its forward passes is appended."""
    torch.manual_seed(0)
    task = sp.Colorization("autoencoder", target="rgb", losses={"smooth_l1": 1.0})
    ends: list[float] = []
    task.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
    return task, ends


def _seconds_per_step(ends: list[float]) -> float:
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def _weights(task: sp.Colorization) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.parameters()])


def imports(options: RunOptions) -> list[Measurement]:
    """Measures time and memory of `import ssl_pretext`, which loads torch and little else."""
    found = {module: [] for module in ("ssl_pretext", "torch")}  # type: dict[str, list[dict[str, float]]]
    for module in (*found, *found):  # the first import of each may have to read its files from the disk
        measure_in_new_process("importing", module=module)
    for _ in range(2 if options.small else options.rounds):
        for module, runs in found.items():
            runs.append(measure_in_new_process("importing", module=module))
    memory = {module: [run["mib"] for run in runs] for module, runs in found.items()}
    extra = max(memory["ssl_pretext"]) - min(memory["torch"])
    return [
        Measurement(
            work="import",
            variants={module: [run["seconds"] for run in runs] for module, runs in found.items()},
            goals={"torch": 1 / 1.1},
        ),
        Measurement(
            work="memory after the import",
            variants=memory,
            unit="MiB",
            agreement=f"ssl_pretext takes at most {extra:.0f} MiB more than torch; the limit is 30 MiB",
        ),
    ]


def memory(options: RunOptions) -> list[Measurement]:
    """Measures whether memory grows with the number of images, and whether a store can be larger than the memory."""
    few, many = (240, 480) if options.small else (4_000, 40_000)
    found = []
    for work in ("pretraining", "extraction"):
        peaks: dict[int, list[float]] = {many: [], few: []}
        for _ in range(1 if options.small else MEMORY_ROUNDS):
            for images, measured in peaks.items():
                measured.append(measure_in_new_process(work, images=images)["mib"])
        found.append(
            Measurement(
                work=f"{work}: peak memory with {many:,} images",
                variants={OURS: peaks[many], f"with {few:,}": peaks[few]},
                goals={f"with {few:,}": 0.95},
                unit="MiB",
            )
        )
    return [*found, memory_limit(options)]


def memory_limit(options: RunOptions) -> Measurement:
    """Pretrains on a store, and extracts features of it, that is four times as large as the memory allowed for it."""
    # The small form does not count what the libraries take: a store of four times that would take a minute to process.
    small = {"spare": 80, "image_size": 32, "count_libraries": False}
    large = {"spare": 512, "image_size": 64, "count_libraries": True}
    found = measure_in_new_process("limited_memory", **(small if options.small else large))
    return Measurement(
        work=f"pretraining and features on a store of {found['store']:,.0f} MiB, {found['allowed']:,.0f} MiB allowed",
        variants={OURS: [found["mib"]], "the store": [found["store"]]},
        goals={"the store": found["store"] / found["allowed"]},
        unit="MiB",
        agreement="under the same limit, loading all images of the store at once fails",
    )
