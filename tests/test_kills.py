"""Killed work can be resumed, and ends with exactly the same files as work that was not killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssl_pretext as sp

KILLING = Path(__file__).with_name("killing.py")


def run_rounds(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Runs `killing.py`, and returns the rows that it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(sp.__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",  # because killing.py forks, which is not safe with other threads
    }
    command = [sys.executable, str(KILLING), str(folder), *map(str, arguments)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    assert finished.returncode == 0, finished.stderr[-3000:] + logs
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.mark.parametrize("count", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_work_ends_with_the_same_files(count, tmp_path):
    rows = run_rounds(tmp_path, count, 0)
    for kind in ("build", "fit", "pretrain", "probe"):
        of_kind = [row for row in rows if row["kind"] == kind]
        assert all(row["moments"] for row in of_kind)
        assert [row["differing"] for row in of_kind] == [[]] * count


def test_a_signal_ends_any_step(tmp_path):
    short, python, c, terminated = run_rounds(tmp_path, "interrupt")
    # It takes two seconds on an idle machine.
    assert max(row["seconds"] for row in (short, python, c)) < 10
    assert [row["code"] for row in (short, python, c)] == [130, 130, 130]
    assert [row["step"] for row in (short, python, c)] == [2, 1, 1]
    assert "interrupted by Ctrl-C after step 2; the run can be resumed from there" in short["output"]
    assert (
        "interrupted by Ctrl-C in the middle of an epoch; the run can be resumed from the last checkpoint"
        in python["output"]
    )
    for row in (short, python):
        assert "stopped by Ctrl-C. The same command with --resume continues from the last checkpoint." in row["output"]
    advice = "stopped by Ctrl-C in the middle of a computation. All files that were written are complete. Run the same"
    assert advice in c["output"]
    assert (terminated["code"], terminated["step"]) == (143, 2)
    assert "interrupted by the signal SIGTERM after step 2; the run can be resumed from there" in terminated["output"]
    assert "stopped by the signal SIGTERM. The same command with --resume continues" in terminated["output"]
