import os
import subprocess
import sys

import pytest
from joblib import cpu_count

from ssl_pretext.system import cpus
from ssl_pretext.system.cpus import available_cpus


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 64 processors, all of which the process may use."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)


def count(tmp_path, groups, **files):
    """The number with these lines of `/proc/self/cgroup` and these files of control groups, by path."""
    (tmp_path / "cgroup").write_text("\n".join(groups) + "\n")
    for path, content in files.items():
        file = tmp_path / "mount" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return available_cpus(proc=tmp_path / "cgroup", mount=tmp_path / "mount")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (["0::/"], {}, 64),
        (["0::/"], {"cpu.max": "max 100000\n"}, 64),
        (["0::/"], {"cpu.max": "400000 100000\n"}, 4),
        (["0::/"], {"cpu.max": "150000 100000\n"}, 2),
        (["0::/"], {"cpu.max": "1000 100000\n"}, 1),
        (["0::/job/step"], {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        (["0::/job/step"], {"job/cpu.max": "800000 100000", "job/step/cpu.max": "500000 100000"}, 5),
        (["0::/unmounted/path"], {"cpu.max": "200000 100000"}, 2),
        (["2:cpu,x:/a"], {"cpu,x/a/cpu.cfs_quota_us": "600000", "cpu,x/a/cpu.cfs_period_us": "100000"}, 6),
        (["4:cpu:/docker/1"], {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (["4:cpu:/a"], {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 64),
        (["4:memory:/a"], {"memory/a/cpu.cfs_quota_us": "100000", "memory/a/cpu.cfs_period_us": "100000"}, 64),
        (["0::/"], {"cpu.max": "nonsense"}, 64),
        (["0::/"], {"cpu.max": "100000 0"}, 64),
        (["0::/a:b"], {"a:b/cpu.max": "200000 100000"}, 2),
    ],
)  # fmt: skip
def test_the_quota_of_the_control_groups_is_the_limit(groups, files, expected, tmp_path):
    assert count(tmp_path, groups, **files) == expected


def test_the_affinity_is_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7, 9}, raising=False)
    assert count(tmp_path, ["0::/"]) == 3
    assert count(tmp_path, ["0::/"], **{"cpu.max": "200000 100000"}) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(proc=tmp_path / "none", mount=tmp_path) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(proc=tmp_path / "none", mount=tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the affinity can be set on Linux alone")
def test_a_restricted_process_agrees_with_joblib(monkeypatch):
    monkeypatch.undo()
    assert available_cpus() <= cpu_count()  # joblib does not look at the groups below the mounted one
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); import {cpus.__name__} as c; print(c.available_cpus())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
