"""All measurements that need a GPU, in one go: `python -m benchmarks.speed.gpu_session --data DIR --out DIR`."""

import argparse
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.speed.gpu import LOSSES
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.files import read_json

__all__ = ["parts"]

log = logging.getLogger("benchmarks.speed.gpu_session")

MINUTES = 10.0  # that a session may take
EPOCHS, IMAGES = 16, 83 * 216  # of the documented preset on Food-101-64, which has 240 training images per class


class Part(NamedTuple):
    """A command of the session.

    Attributes:
        name: What it measures.
        words: Arguments of Python.
        minutes: How long it is expected to take on a GPU of a data center.
    """

    name: str
    words: list[str]
    minutes: float


def parts(data: str | None, out: Path, *, small: bool) -> list[Part]:
    """Returns the commands of a session.

    Args:
        data: Folder with `food-101/` in it, at 64 px; None stands for the sample of photos.
        out: Folder of the results.
        small: Whether to run on a CPU with tiny inputs, which shows that everything runs.
    """
    steps = ["-m", "benchmarks.speed.gpu", "--out", str(out / "gpu.json")]
    steps += ["--device", "cpu", "--small"] if small else ["--rounds", "5"]
    run = ["-m", "benchmarks.food101", "--out", str(out / "food101"), "--overwrite", "--losses", LOSSES]
    run += ["--preset", "smoke", "--device", "cpu"] if small else ["--preset", "documented", "--device", "cuda"]
    run += [] if small else ["--precision", "bf16-mixed", "--studies", "linear,labels"]
    run += [] if data is None else ["--data", data]
    return [Part("training steps by precision, eager and compiled", steps, 4), Part("the experiment", run, 5)]


def main(arguments: list[str] | None = None) -> int:
    """Runs the commands one after another; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.gpu_session", description=__doc__)
    parser.add_argument("--data", metavar="DIR", help="folder with food-101/ in it, at 64 px (default: sample photos)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="run on a CPU with tiny inputs, in a few minutes")
    options = parser.parse_args(arguments)
    return run_command("benchmarks.speed.gpu_session", lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Runs each command within what is left of the session.

    Raises:
        ArgumentError: A command failed, or the session would take too long.
    """
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    session = parts(options.data, out, small=options.small)
    if options.small:
        log.info("a session on tiny inputs, which takes a few minutes on a CPU")
    else:
        plan = ", ".join(f"{part.minutes:g} for {part.name}" for part in session)
        log.info("this takes about %g of at most %g minutes: %s", sum(p.minutes for p in session), MINUTES, plan)
    start = time.monotonic()
    for part in session:
        left = 60 * MINUTES - (time.monotonic() - start)
        try:
            done = subprocess.run([sys.executable, *part.words], timeout=left, check=False)
        except subprocess.TimeoutExpired as error:
            raise ArgumentError(
                f"{part.name}: stopped after {MINUTES:g} minutes; what is finished is in {out}"
            ) from error
        if done.returncode:
            raise ArgumentError(f"{part.name}: python {' '.join(part.words)} ended with code {done.returncode}")
        if part is session[0] and not options.small:
            rate = max(row["images_per_second"] for row in read_json(out / "gpu.json")["rows"])
            log.info("at %.0f images/s, the pretraining takes about %.0f s", rate, EPOCHS * IMAGES / rate)
    log.info("finished after %.1f minutes; the results are in %s", (time.monotonic() - start) / 60, out)


if __name__ == "__main__":
    sys.exit(main())
