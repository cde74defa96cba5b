"""Exit codes, error messages and log output of `run_command`."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ssl_pretext
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import MissingFileError, StorageError
from ssl_pretext.system.signals import Stopped

ROOT = Path(ssl_pretext.__file__).parents[1]
PROCESS_ENDS = """
import atexit, gc, sys
from ssl_pretext.cli.command import exit_process
gc.callbacks.append(lambda *_: print("collected", flush=True))
atexit.register(print, "end")
sys.stdout.write("begin\\n")
exit_process(3)
"""
# An import that turns the exception of a signal into another one, as NumPy's does.
INTERRUPTED_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            try:
                os.kill(os.getpid(), {number})
            except BaseException:
                raise ImportError("it failed to import") from None
signal.signal(signal.SIGINT, signal.default_int_handler)
from ssl_pretext.cli.__main__ import run
sys.meta_path.insert(0, Finder())
sys.argv = ["ssl-pretext", "pretrain", "--data", "photos", "--out", "run"]
run()
"""


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def test_the_end_of_a_process_collects_no_garbage():
    assert run_python(PROCESS_ENDS) == (3, "begin\nend\n", "")


@pytest.mark.parametrize(
    ("number", "code", "cause"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "the signal SIGTERM")]
)
def test_a_signal_during_the_imports_ends_the_program_at_once(number, code, cause):
    done = run_python(INTERRUPTED_IMPORT.format(number=int(number)))
    assert done == (code, "", f"ssl-pretext: stopped by {cause}.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_stops_the_work(number, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            done.append(1)

    before = signal.getsignal(number)
    assert run_command("it", work) == 128 + number
    assert done == [1]
    assert capsys.readouterr().err == f"it: stopped by the signal {signal.Signals(number).name}.\n"
    assert signal.getsignal(number) is before


def test_signal_handling_is_restored_after_the_work():
    before = signal.set_wakeup_fd(-1)
    threads = threading.active_count()
    assert run_command("it", lambda: None) == 0
    assert (signal.set_wakeup_fd(before), threading.active_count()) == (-1, threads)


def test_a_command_can_run_in_another_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_command("it", lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def raising(error):
    def work():
        raise error

    return work


def test_log_messages_are_printed(capsys):
    assert run_command("it", lambda: logging.getLogger("ssl_pretext").info("epoch %d", 1)) == 0
    assert capsys.readouterr() == ("epoch 1\n", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MissingFileError("no such file;\n\n  fetch it"), 2, "it: no such file; fetch it\n"),
        (OSError(28, "No space left on device", "a.png"), 1, "it: [Errno 28] No space left on device: 'a.png'\n"),
        (StorageError("no room"), 1, "it: no room\n"),
        (KeyboardInterrupt("Start it again."), 130, "it: stopped by Ctrl-C. Start it again.\n"),
        (Stopped(15, "Start it again."), 143, "it: stopped by the signal SIGTERM. Start it again.\n"),
    ],
)
def test_an_error_gives_one_line_and_an_exit_code(error, code, message, capsys):
    assert run_command("it", raising(error)) == code
    assert capsys.readouterr() == ("", message)


def test_an_unexpected_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        run_command("it", raising(ZeroDivisionError()))


def test_a_closed_output_prints_no_error(monkeypatch, tmp_path, capsys):
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert run_command("it", raising(BrokenPipeError())) == 1
    assert capsys.readouterr().err == ""


def test_work_continues_when_the_reader_of_its_log_has_closed_it(monkeypatch, capsys):
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = []

    def work():
        logging.getLogger("ssl_pretext").info("epoch 1")
        done.append(1)

    with os.fdopen(write_end, "w", closefd=False) as output:
        monkeypatch.setattr("sys.stdout", output)
        run_command("it", work)
        os.dup2(os.open(os.devnull, os.O_WRONLY), write_end)
    os.close(write_end)
    assert done == [1]
    assert capsys.readouterr().err == ""


def test_a_process_without_standard_output_works(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert run_command("it", lambda: logging.getLogger("ssl_pretext").info("epoch 1")) == 0
