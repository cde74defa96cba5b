"""Random harm to files, seeded, and a bound on what reading them may take."""

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

ROOM = 2**31 + 2**30  # bytes that reading a hostile file may take beyond what is used already
PATIENCE = 60  # seconds of processor time that it may take; the same by the clock could be the machine's fault
FOREVER = 900  # seconds by the clock, of what waits
PRINTABLE = np.arange(32, 127, dtype=np.uint8)


def harmed(content: bytes, generator: np.random.Generator) -> bytes:
    """Other bytes: some flipped, replaced, lost, put in, moved or cleared, or all of them cut off somewhere."""
    data = np.frombuffer(content, np.uint8).copy()
    size = len(data)
    at = int(generator.integers(size))
    # Half of the harm is to the first kilobyte, where the header of the weights lies.
    at %= 1024 if generator.random() < 0.5 else size
    length = int(min(size - at, 2 ** generator.integers(0, 12)))
    kind = generator.integers(9)
    if kind == 0:  # a bit
        data[at] ^= 1 << generator.integers(8)
    elif kind == 1:  # some bits anywhere
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
    elif kind == 7:  # one character, such as another digit
        data[at] = generator.choice(PRINTABLE)
    else:  # two parts change places
        other = int(generator.integers(size - length + 1))
        data[at : at + length], data[other : other + length] = (
            data[other : other + length].copy(),
            data[at : at + length].copy(),
        )
    return data.tobytes()


class Late(BaseException):
    """Not an Exception, which what is tested may catch."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fails what takes much memory or time, whatever the machine has of them."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()

    def late(*_: Any) -> None:
        raise Late(f"not done after {PATIENCE} s of processor time, or {FOREVER} s of waiting")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, PATIENCE), signal.ITIMER_REAL: (signal.SIGALRM, FOREVER)}
    handlers = {number: signal.signal(number, late) for number, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def outcomes(files: list[Path], read: Callable[[], object], expected: object, count: int, *, seed: int) -> Counter[str]:
    """Harms one file after another and reads them all.

    Args:
        files: Of which one is harmed each time.
        read: Gives something that can be compared.
        expected: What it gives of whole files.
        count: How often.
        seed: Decides the harm.

    Returns:
        How often reading ended in `"refused"`, a `PretextError`; `"same"` as of whole files; `"other"` than that;
        anything else is under its name.
    """
    generator = np.random.default_rng(seed)
    whole = {file: file.read_bytes() for file in files}
    found: Counter[str] = Counter()
    for number in range(count):
        file = files[number % len(files)]
        file.write_bytes(harmed(whole[file], generator))
        try:
            with bounded():
                found["same" if read() == expected else "other"] += 1
        except PretextError:
            found["refused"] += 1
        except BaseException as error:
            found[f"{type(error).__name__}: {error}"[:200]] += 1
        file.write_bytes(whole[file])
    return found


def forge(folder: Path, **changes: Any) -> None:
    """Changes a saved task's contract as an attacker would, who knows how to hash; None takes a key out."""
    file = folder / "config.json"
    contract = {**json.loads(file.read_text()), **changes}
    if "weights_sha256" not in changes:
        contract["weights_sha256"] = file_sha256(folder / "model.safetensors")
    contract.pop("contract_sha256", None)
    file.write_text(json.dumps({**contract, "contract_sha256": json_sha256(contract)}))
