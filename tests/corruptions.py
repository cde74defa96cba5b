"""Seeded random corruption of files, and limits on the memory and time that reading them may take."""

import json
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl_pretext.errors import PretextError
from ssl_pretext.system.files import file_sha256, json_sha256

MAX_MEMORY = 2**31 + 2**30  # bytes that reading a hostile file may allocate
MAX_CPU_SECONDS = 60  # of processor time, because a busy machine would make a limit on elapsed time fail
MAX_SECONDS = 900  # of elapsed time, to detect reads that block
PRINTABLE = np.arange(32, 127, dtype=np.uint8)


def corrupted(content: bytes, generator: np.random.Generator) -> bytes:
    """Returns the bytes with some flipped, replaced, deleted, inserted, swapped or zeroed, or with the end cut off."""
    data = np.frombuffer(content, np.uint8).copy()
    size = len(data)
    at = int(generator.integers(size))
    # Half of the corruptions are in the first kilobyte, which contains the header of the weights.
    at %= 1024 if generator.random() < 0.5 else size
    length = int(min(size - at, 2 ** generator.integers(0, 12)))
    kind = generator.integers(9)
    if kind == 0:  # flips a bit
        data[at] ^= 1 << generator.integers(8)
    elif kind == 1:  # flips bits at eight places
        places = generator.integers(size, size=8)
        data[places] ^= (1 << generator.integers(8, size=8)).astype(np.uint8)
    elif kind == 2:
        data = data[:at]
    elif kind == 3:
        data = np.delete(data, slice(at, at + length))
    elif kind == 4:
        data = np.insert(data, at, generator.integers(256, size=length, dtype=np.uint8))
    elif kind == 5:
        data[at : at + length] = generator.integers(256, size=length, dtype=np.uint8)
    elif kind == 6:
        data[at : at + length] = 0
    elif kind == 7:  # replaces a character, for example a digit by another one
        data[at] = generator.choice(PRINTABLE)
    else:  # swaps two parts
        other = int(generator.integers(size - length + 1))
        data[at : at + length], data[other : other + length] = (
            data[other : other + length].copy(),
            data[at : at + length].copy(),
        )
    return data.tobytes()


class TimedOut(BaseException):
    """A time limit was exceeded. This is not an Exception, because the tested code may catch those."""


@contextmanager
def bounded() -> Iterator[None]:
    """Limits the memory and time of the block, independent of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()

    def time_out(*_: Any) -> None:
        raise TimedOut(f"more than {MAX_CPU_SECONDS} s of processor time or {MAX_SECONDS} s of elapsed time")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, MAX_CPU_SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, MAX_SECONDS)}
    handlers = {number: signal.signal(number, time_out) for number, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def outcomes(files: list[Path], read: Callable[[], object], expected: object, count: int, *, seed: int) -> Counter[str]:
    """Corrupts one file at a time, reads all files, and counts the outcomes.

    Args:
        files: Files, one of which is corrupted each time.
        read: Function that reads the files and returns a value that can be compared.
        expected: Value that it returns for intact files.
        count: Number of corruptions.
        seed: Seed of the corruptions.

    Returns:
        The number of each outcome: `"refused"` if reading raised a `PretextError`, `"same"` if it returned the expected
        value, `"other"` if it returned another one, and otherwise the error that it raised.
    """
    generator = np.random.default_rng(seed)
    intact = {file: file.read_bytes() for file in files}
    found: Counter[str] = Counter()
    for number in range(count):
        file = files[number % len(files)]
        file.write_bytes(corrupted(intact[file], generator))
        try:
            with bounded():
                found["same" if read() == expected else "other"] += 1
        except PretextError:
            found["refused"] += 1
        except BaseException as error:
            found[f"{type(error).__name__}: {error}"[:200]] += 1
        file.write_bytes(intact[file])
    return found


def forge(folder: Path, **changes: Any) -> None:
    """Changes the contract of a saved task, with valid checksums, as an attacker would.

    Args:
        folder: Folder of the task.
        changes: New values of keys in the contract.
    """
    file = folder / "config.json"
    contract = {**json.loads(file.read_text()), **changes}
    if "weights_sha256" not in changes:
        contract["weights_sha256"] = file_sha256(folder / "model.safetensors")
    contract.pop("contract_sha256", None)
    file.write_text(json.dumps({**contract, "contract_sha256": json_sha256(contract)}))
