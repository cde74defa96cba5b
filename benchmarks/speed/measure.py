"""Measurements in an interpreter of their own: memory, imports, and what depends on the state of malloc."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["measure"]


def measure(work: str, **options: Any) -> dict[str, float]:
    """Runs a function of `benchmarks.speed.child` in a fresh interpreter and returns what it measured.

    Raises:
        RuntimeError: It failed.
    """
    command = [sys.executable, "-m", "benchmarks.speed.child", work, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"benchmarks.speed.child {work} failed:\n{done.stderr[-2_000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
