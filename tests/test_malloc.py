"""glibc keeps freed memory within the block and returns it afterward."""

import subprocess
import sys

import pytest

# Runs in a separate process, because the thresholds of the C library apply to the entire process.
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
    # Sometimes a small object is allocated in the first block that is freed.
    inside, before = min(faults() for _ in range(5)), resident()
print(outside, inside, faults(), before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_memory_is_reused_within_the_block_and_returned_at_the_end():
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    outside, inside, after, returned = map(int, run.stdout.split())
    assert outside > 10 * max(1, inside)
    assert after > 10 * max(1, inside)
    assert returned > 2**25
