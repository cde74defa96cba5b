"""glibc keeps freed memory within the block, and gives it back after it."""

import subprocess
import sys

import pytest

# In a process of its own, because thresholds of the C library are those of the whole process.
COUNT_FAULTS = """
import resource, torch, ssl_pretext.channels
from ssl_pretext.system.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

faults()
outside = faults()
with keep_freed_memory():
    # At times a small object takes a corner of the first one that is freed.
    inside, kept = min(faults() for _ in range(5)), resident()
print(outside, inside, faults(), kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_block_is_faulted_in_once_within_and_returned_at_the_end():
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    outside, inside, after, returned = map(int, run.stdout.split())
    assert outside > 10 * max(1, inside)
    assert after > 10 * max(1, inside)
    assert returned > 2**25
