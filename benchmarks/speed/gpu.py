"""Pretraining steps on a GPU by kind of arithmetic, eager and compiled: `python -m benchmarks.speed.gpu`."""

import argparse
import logging
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ssl_pretext as sp
from benchmarks.food101.experiment import environment
from benchmarks.speed.peaks import SOURCE, peak
from benchmarks.speed.race import check_equal, race
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import parse_losses
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.system.files import write_json

__all__ = ["Mode", "Step"]

log = logging.getLogger("benchmarks.speed.gpu")

PRECISIONS = ("fp32", "tf32", "bf16")
LOSSES = "smooth_l1=1,lpips[net=squeeze]=1"
AGREEMENT = 0.05  # by which part the first loss may differ from fp32's

EPILOG = """\
A step is forward, backward and AdamW on images that are on the device already. FLOP are those of matrix products and
convolutions in network and losses, counted once; the peak is the device's for dense work of that kind. The losses are
also timed alone, forward and backward. fp32 is exact: PyTorch's own default computes convolutions in TF32.
"""


@dataclass(frozen=True)
class Mode:
    """A kind of arithmetic, and whether the networks are compiled."""

    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """How tables call it."""
        return self.precision + (" compiled" if self.compiled else "")

    @contextmanager
    def arithmetic(self, device: str) -> Iterator[None]:
        """PyTorch's switches for this kind, put back at the end."""
        products, fast = torch.get_float32_matmul_precision(), self.precision != "fp32"
        torch.set_float32_matmul_precision("high" if fast else "highest")
        try:
            with (
                torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=fast),
                torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"),
            ):
                yield
        finally:
            torch.set_float32_matmul_precision(products)


class Step:
    """Pretraining steps of the documented autoencoder in one mode.

    Args:
        mode: Of arithmetic.
        images: A batch, `uint8` `(B, 3, H, W)`, on the device.
        losses: As `create_task` takes them.
    """

    def __init__(self, mode: Mode, images: Tensor, losses: Mapping[str, float]) -> None:
        torch.manual_seed(0)
        self.mode, self.images, self.device = mode, images, images.device.type
        self.task = sp.Colorization("autoencoder", target="rgb", losses=losses).to(images.device)
        with mode.arithmetic(self.device), torch.no_grad():
            self.first: sp.TaskOutput = self.task(images)
        if mode.compiled:
            for network in self.task.networks():
                network.compile()
        self.optimizer = torch.optim.AdamW(self.task.parameters(), lr=1e-4, weight_decay=2e-5)
        self.rgb = images.float() / 255

    def train(self) -> Tensor:
        """One step; returns its loss."""
        with self.mode.arithmetic(self.device):
            loss: Tensor = self.task(self.images).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def judge(self) -> None:
        """The losses of the untrained network's prediction, forward and backward, without the network."""
        prediction = self.first.prediction.detach().requires_grad_()
        with self.mode.arithmetic(self.device):
            terms = self.task.losses(prediction, self.first.target, self.rgb, prediction)
            torch.stack(list(terms.values())).sum().backward()

    def flop(self) -> int:
        """Of one step."""
        with FlopCounterMode(display=False) as counter:
            self.train()
        return int(counter.get_total_flops())

    def mebibytes(self) -> float | None:
        """What one step takes of a GPU's memory beside weights and optimizer."""
        if self.device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.train()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every mode, in turn."""
    device: str = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("PyTorch sees no CUDA device here; --device cpu --small shows that everything runs")
    side, count = (32, 2) if options.small else (options.image_size, options.batch_size)
    repeats = 1 if options.small or device == "cpu" else options.steps
    losses = parse_losses(options.losses)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    images = pixels.to(device, torch.uint8)
    steps = [Step(mode, images, losses) for mode in _modes(device, options.compiled)]
    first = [_first(step) for step in steps]
    exact = first[0]["first_loss"]
    for step, found in zip(steps, first, strict=True):
        pair = (torch.tensor(loss) for loss in (exact, found["first_loss"]))
        check_equal(step.mode.name, *pair, within=AGREEMENT * exact)
    flop = steps[0].flop()
    work = [one for step in steps for one in (step.train, step.judge)]
    sides = {str(number): _repeated(one, repeats, device) for number, one in enumerate(work)}
    taken = [
        [one / repeats for one in round_]
        for round_ in race(sides, rounds=1 if options.small else options.rounds).values()
    ]
    env = environment(device)
    return {
        "command": _command(options),
        "environment": env,
        "config": {"image_size": side, "batch_size": count, "losses": losses, "steps_per_round": repeats},
        "gflop_per_image": flop / count / 1e9,
        "peaks_from": SOURCE,
        "rows": [
            _row(step, training, judging, flop, env["device"]) | found
            for step, found, training, judging in zip(steps, first, taken[::2], taken[1::2], strict=True)
        ],
    }


def _modes(device: str, compiled: bool | None) -> list[Mode]:
    """A processor has no TF32, and compiles only if asked to."""
    kinds = [kind for kind in PRECISIONS if device == "cuda" or kind != "tf32"]
    both = device == "cuda" if compiled is None else compiled
    return [Mode(kind, made) for made in ((False, True) if both else (False,)) for kind in kinds]


def _first(step: Step) -> dict[str, float]:
    """The first step, which compiles, and its loss."""
    start = time.perf_counter()
    loss = float(step.train())
    return {"first_step_seconds": time.perf_counter() - start, "first_loss": loss}


def _row(step: Step, training: list[float], judging: list[float], flop: int, device_name: str) -> dict[str, Any]:
    """A mode from the seconds of its steps, and of their losses alone."""
    seconds, count = statistics.median(training), len(step.images)
    reached, most = flop / seconds / 1e12, peak(device_name, step.mode.precision)
    return {
        "precision": step.mode.precision,
        "compiled": step.mode.compiled,
        "images_per_second": count / seconds,
        "least": count / max(training),
        "most": count / min(training),
        "rounds": len(training),
        "tflop_per_second": reached,
        "peak_tflop_per_second": most,
        "share_of_peak": None if most is None else reached / most,
        "share_of_losses": statistics.median(judging) / seconds,
        "step_mebibytes": step.mebibytes(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of what was measured."""
    lines = [
        {
            "arithmetic": Mode(row["precision"], row["compiled"]).name,
            "images/s (least to most)": f"{row['images_per_second']:,.1f} ({row['least']:,.1f} to {row['most']:,.1f})",
            "TFLOP/s": f"{row['tflop_per_second']:.3g}",
            "of the peak": "unknown" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f}%",
            "in the losses": f"{100 * row['share_of_losses']:.0f}%",
            "memory of a step": "" if row["step_mebibytes"] is None else f"{row['step_mebibytes']:,.0f} MiB",
            "first step": f"{row['first_step_seconds']:.1f} s",
        }
        for row in rows
    ]
    return markdown_table(lines, list(lines[0]))


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        # torch.compile looks at it, and nobody else.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        results = measure(options)
        log.info("%s, %.3g GFLOP per image\n", results["environment"]["device"], results["gflop_per_image"])
        log.info("%s", table(results["rows"]))
        if options.out:
            write_json(Path(options.out), results)

    return run_command("benchmarks.speed.gpu", work)


def _repeated(work: Callable[[], object], times: int, device: str) -> Callable[[], None]:
    """The work several times, and then the wait until the device has done it."""

    def run() -> None:
        for _ in range(times):
            work()
        _wait(device)

    return run


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _command(options: argparse.Namespace) -> str:
    """What repeats the measurement; where its result lies is another machine's business."""
    given = {name: value for name, value in vars(options).items() if name not in ("out", "small", "compiled")}
    said = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    said += ["--small"] if options.small else []
    said += [] if options.compiled is None else ["--compiled" if options.compiled else "--no-compiled"]
    return "python -m benchmarks.speed.gpu " + shlex.join(said)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.gpu",
        description="Times steps of the documented pretraining in fp32, TF32 and bfloat16, eager and compiled. Run "
        "nothing else meanwhile.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="FILE", help="JSON of what was measured")
    parser.add_argument("--small", action="store_true", help="tiny inputs: shows that everything runs")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--image-size", type=int, default=64, help="side in pixels (default: 64)")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument("--losses", default=LOSSES, help=f'default: "{LOSSES}"; without its weights, smooth_l1=1')
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed (default: 9)")
    parser.add_argument("--steps", type=int, default=10, help="of each round, on a GPU (default: 10)")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, help="compile too, or not (default: on a GPU)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
