"""The number of processors that this process may use: by its affinity and by the quota of its control group."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_cpus"]


def available_cpus(*, proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the number of processors that this process may use, at least 1.

    `os.cpu_count` counts those of the machine, even if a container, Slurm or `taskset` grants only some of them.

    Args:
        proc: File that says which control groups the process is in.
        mount: Folder in which the control groups are mounted.

    Examples:
        >>> 1 <= available_cpus() <= os.cpu_count()
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    count = os.cpu_count() or 1 if affinity is None else len(affinity(0))
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(proc, mount))]))


def _quotas(proc: Path, mount: Path) -> Iterator[float]:
    """Yields the quotas of the control groups of this process and of their parents, in processors."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # In a container the path may be that of the host, of which only the last part, or nothing, is mounted.
        parts = Path(group.lstrip("/")).parts
        for folder in {mount / name for name in ("", "cpu", controllers)} if controllers else {mount}:
            for depth in range(len(parts) + 1):
                yield from _quota(folder.joinpath(*parts[:depth]))


def _quota(group: Path) -> Iterator[float]:
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # versions 2 and 1
        try:
            quota, period = (" ".join((group / file).read_text() for file in files)).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            pass
