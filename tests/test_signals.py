"""Which signals stop a process, and that their handlers are restored."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ssl_pretext
from ssl_pretext.system.signals import Stopped, handle_stop_signals, signal_name, stop_error, stop_signals


def test_slurm_adds_its_signals(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        assert signal.SIGHUP not in stop_signals()
        with handle_stop_signals(lambda *_: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored_after_an_error():
    before = [signal.getsignal(number) for number in stop_signals()]
    received = []
    with suppress(ZeroDivisionError), handle_stop_signals(lambda number, _: received.append(number)):
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert received == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in stop_signals()] == before


def test_a_script_that_is_stopped_ends_with_the_code_of_the_signal():
    code = f"from ssl_pretext.system.signals import Stopped; raise Stopped({int(signal.SIGTERM)})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=Path(ssl_pretext.__file__).parents[1], text=True
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_names_and_errors():
    assert signal_name(signal.SIGINT) == "Ctrl-C"
    assert signal_name(signal.SIGTERM) == "the signal SIGTERM"
    assert isinstance(stop_error(signal.SIGINT), KeyboardInterrupt)
    assert isinstance(stop_error(signal.SIGUSR1), Stopped)
