"""Measurements in a new Python process, for imports, memory, and times that depend on the state of malloc."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["measure_in_new_process"]


def measure_in_new_process(work: str, **options: Any) -> dict[str, float]:
    """Runs a function of `benchmarks.speed.new_process_work` in a new Python process.

    Args:
        work: Name of the function.
        **options: Arguments of the function, JSON-ready.

    Returns:
        What the function measured.

    Raises:
        RuntimeError: The process failed; the message ends with its error output.
    """
    command = [sys.executable, "-m", "benchmarks.speed.new_process_work", work, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"benchmarks.speed.new_process_work {work} failed:\n{done.stderr[-2_000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
