"""Killed work goes on, and ends as if nothing had happened: bit by bit, and with nothing left over."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssl_pretext as sp

KILLING = Path(__file__).with_name("killing.py")


def rows(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(sp.__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",  # nothing is forked beside threads
    }
    command = [sys.executable, str(KILLING), str(folder), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + logs
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("count", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_work_ends_as_if_nothing_had_happened(count, tmp_path):
    found = rows(tmp_path, count, 0)
    for kind in ("build", "fit", "pretrain", "probe"):
        of_kind = [row for row in found if row["kind"] == kind]
        assert all(row["moments"] for row in of_kind)
        assert [row["differing"] for row in of_kind] == [[]] * count


def test_ctrl_c_ends_whatever_is_going_on(tmp_path):
    short, python, c = rows(tmp_path, "interrupt")
    # Two seconds on a machine with nothing else to do.
    assert max(row["seconds"] for row in (short, python, c)) < 10
    assert [row["code"] for row in (short, python, c)] == [1, 1, 1]
    assert [row["kept"] for row in (short, python, c)] == [2, 1, 1]
    assert "interrupted after step 2; resume goes on from there" in short["said"]
    assert "interrupted in the middle of an epoch; resume goes on from the last checkpoint" in python["said"]
    for row in (short, python):
        assert "stopped by Ctrl-C. The same command with --resume goes on from the last checkpoint." in row["said"]
    assert "stopped by Ctrl-C in the middle of a computation. What was written is whole: start it again" in c["said"]
