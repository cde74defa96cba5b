"""Time of pretraining steps on a GPU by precision, eager and compiled: `python -m benchmarks.speed.gpu`."""

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
from benchmarks.speed.gpu_peaks import SOURCE, peak
from benchmarks.speed.timing import check_equal, time_in_turn
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import parse_losses
from ssl_pretext.reporting import markdown_table
from ssl_pretext.system.files import write_json

__all__ = ["LOSSES", "Mode", "Step"]

log = logging.getLogger("benchmarks.speed.gpu")

PRECISIONS = ("fp32", "tf32", "bf16")
LOSSES = "smooth_l1=1,lpips[net=squeeze]=1"
MAX_DIFFERENCE = 0.05  # of the first loss from that of fp32, as a fraction

EPILOG = """\
A step is forward, backward and AdamW, on images that are on the device already. The FLOP of a step are those of matrix
products and convolutions in the network and the losses, counted once. The peak is that of the device for dense work in
the same precision. The losses are also timed alone, forward and backward. fp32 computes everything in float32, whereas
PyTorch's default computes convolutions in TF32.
"""


@dataclass(frozen=True)
class Mode:
    """A precision, and whether the networks are compiled.

    Attributes:
        precision: `"fp32"`, `"tf32"` or `"bf16"`.
        compiled: Whether the networks are compiled with `torch.compile`.
    """

    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name of the mode in tables."""
        return self.precision + (" compiled" if self.compiled else "")

    @contextmanager
    def arithmetic(self, device: str) -> Iterator[None]:
        """Sets PyTorch's switches for this precision within the block, and restores them at its end."""
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
        mode: Precision and compilation.
        images: Batch of images `(B, 3, H, W)` in `uint8`, on the device.
        losses: Losses with their weights, as `create_task` takes them.
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
        """Runs one training step; returns its loss."""
        with self.mode.arithmetic(self.device):
            loss: Tensor = self.task(self.images).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def losses_alone(self) -> None:
        """Computes the losses of the untrained network's prediction, forward and backward, without the network."""
        prediction = self.first.prediction.detach().requires_grad_()
        with self.mode.arithmetic(self.device):
            terms = self.task.losses(prediction, self.first.target, self.rgb, prediction)
            torch.stack(list(terms.values())).sum().backward()

    def flop(self) -> int:
        """Counts the floating-point operations of one step."""
        with FlopCounterMode(display=False) as counter:
            self.train()
        return int(counter.get_total_flops())

    def mebibytes(self) -> float | None:
        """The GPU memory, in MiB, that a step takes in addition to weights and optimizer; None on a CPU."""
        if self.device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.train()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times all modes, which take turns.

    Raises:
        ArgumentError: There is no GPU, or the first losses of two modes differ too much.
    """
    device: str = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("PyTorch finds no CUDA device here; use --device cpu --small to see that everything runs")
    image_size, count = (32, 2) if options.small else (options.image_size, options.batch_size)
    repeats = 1 if options.small or device == "cpu" else options.steps
    losses = parse_losses(options.losses)
    pixels = torch.randint(0, 256, (count, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    images = pixels.to(device, torch.uint8)
    steps = [Step(mode, images, losses) for mode in _modes(device, options.compiled)]
    first = [_first(step) for step in steps]
    exact = first[0]["first_loss"]
    for step, found in zip(steps, first, strict=True):
        pair = (torch.tensor(loss) for loss in (exact, found["first_loss"]))
        check_equal(step.mode.name, *pair, within=MAX_DIFFERENCE * exact)
    flop = steps[0].flop()
    work = [function for step in steps for function in (step.train, step.losses_alone)]
    variants = {str(number): _repeated(function, repeats, device) for number, function in enumerate(work)}
    taken = [
        [value / repeats for value in seconds]
        for seconds in time_in_turn(variants, rounds=1 if options.small else options.rounds).values()
    ]
    env = environment(device)
    return {
        "command": _command(options),
        "environment": env,
        "config": {"image_size": image_size, "batch_size": count, "losses": losses, "steps_per_round": repeats},
        "gflop_per_image": flop / count / 1e9,
        "peaks_from": SOURCE,
        "rows": [
            _row(step, training, losses_alone, flop, env["device"]) | found
            for step, found, training, losses_alone in zip(steps, first, taken[::2], taken[1::2], strict=True)
        ],
    }


def _modes(device: str, compiled: bool | None) -> list[Mode]:
    """The modes to compare; a CPU has no TF32, and compiles only if `compiled` is set."""
    precisions = [precision for precision in PRECISIONS if device == "cuda" or precision != "tf32"]
    both = device == "cuda" if compiled is None else compiled
    return [Mode(precision, compile_) for compile_ in ((False, True) if both else (False,)) for precision in precisions]


def _first(step: Step) -> dict[str, float]:
    """Runs the first step, which includes the compilation; returns its duration and its loss."""
    start = time.perf_counter()
    loss = float(step.train())
    return {"first_step_seconds": time.perf_counter() - start, "first_loss": loss}


def _row(step: Step, training: list[float], losses_alone: list[float], flop: int, device_name: str) -> dict[str, Any]:
    """The results of a mode, from the seconds of its steps and of the losses alone."""
    seconds, count = statistics.median(training), len(step.images)
    reached, limit = flop / seconds / 1e12, peak(device_name, step.mode.precision)
    return {
        "precision": step.mode.precision,
        "compiled": step.mode.compiled,
        "images_per_second": count / seconds,
        "least": count / max(training),
        "most": count / min(training),
        "rounds": len(training),
        "tflop_per_second": reached,
        "peak_tflop_per_second": limit,
        "share_of_peak": None if limit is None else reached / limit,
        "share_of_losses": statistics.median(losses_alone) / seconds,
        "step_mebibytes": step.mebibytes(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the results as a table in Markdown."""
    cells = [
        {
            "mode": Mode(row["precision"], row["compiled"]).name,
            "images/s (min to max)": f"{row['images_per_second']:,.1f} ({row['least']:,.1f} to {row['most']:,.1f})",
            "TFLOP/s": f"{row['tflop_per_second']:.3g}",
            "fraction of the peak": "unknown" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f}%",
            "time in the losses": f"{100 * row['share_of_losses']:.0f}%",
            "memory of a step": "" if row["step_mebibytes"] is None else f"{row['step_mebibytes']:,.0f} MiB",
            "first step": f"{row['first_step_seconds']:.1f} s",
        }
        for row in rows
    ]
    return markdown_table(cells)


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints the table; returns the exit code."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        # torch.compile reads this attribute, which nothing here uses.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        results = measure(options)
        log.info("%s, %.3g GFLOP per image\n", results["environment"]["device"], results["gflop_per_image"])
        log.info("%s", table(results["rows"]))
        if options.out:
            write_json(Path(options.out), results)

    return run_command("benchmarks.speed.gpu", work)


def _repeated(work: Callable[[], object], times: int, device: str) -> Callable[[], None]:
    """A function that does the work several times and then waits until the device has finished."""

    def run() -> None:
        for _ in range(times):
            work()
        _wait(device)

    return run


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _command(options: argparse.Namespace) -> str:
    """The command that repeats the measurement, without paths, which mean nothing on another machine."""
    given = {name: value for name, value in vars(options).items() if name not in ("out", "small", "compiled")}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    words += ["--small"] if options.small else []
    words += [] if options.compiled is None else ["--compiled" if options.compiled else "--no-compiled"]
    return "python -m benchmarks.speed.gpu " + shlex.join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.gpu",
        description="Times steps of the documented pretraining in fp32, TF32 and bfloat16, eager and compiled. Run "
        "nothing else on the machine meanwhile.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="FILE", help="JSON file for the results")
    parser.add_argument("--small", action="store_true", help="use tiny inputs, to see that everything runs")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--image-size", type=int, default=64, help="height and width in pixels (default: 64)")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument(
        "--losses", default=LOSSES, help=f'default: "{LOSSES}"; without the weights of SqueezeNet, use smooth_l1=1'
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each mode is timed (default: 9)")
    parser.add_argument("--steps", type=int, default=10, help="number of steps per round, on a GPU (default: 10)")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="whether to time compiled networks too (default: only on a GPU)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
