"""How command lines end."""

import gc
import logging
import os
import signal
import threading

import pytest

from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import MissingFileError, StorageError


def test_the_end_is_not_kept_waiting_for_garbage(monkeypatch):
    registered = []
    monkeypatch.setattr("atexit.register", registered.append)
    run_command("it", lambda: None)
    assert registered == [gc.freeze]


def test_signals_are_heard_as_before_when_work_is_done():
    before = signal.set_wakeup_fd(-1)
    threads = threading.active_count()
    assert run_command("it", lambda: None) == 0
    assert (signal.set_wakeup_fd(before), threading.active_count()) == (-1, threads)


def test_other_threads_run_commands_too():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_command("it", lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def raising(error):
    def work():
        raise error

    return work


def test_work_logs_to_the_screen(capsys):
    assert run_command("it", lambda: logging.getLogger("ssl_pretext").info("epoch %d", 1)) == 0
    assert capsys.readouterr() == ("epoch 1\n", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MissingFileError("no such file;\n\n  fetch it"), 2, "it: no such file; fetch it\n"),
        (OSError(28, "No space left on device", "a.png"), 1, "it: [Errno 28] No space left on device: 'a.png'\n"),
        (StorageError("no room"), 1, "it: no room\n"),
        (KeyboardInterrupt("Start it again."), 1, "it: stopped by Ctrl-C. Start it again.\n"),
    ],
)
def test_a_failure_is_one_line_and_a_code(error, code, said, capsys):
    assert run_command("it", raising(error)) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("it", raising(ZeroDivisionError()))


def test_a_reader_that_left_is_no_fault(monkeypatch, tmp_path, capsys):
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert run_command("it", raising(BrokenPipeError())) == 1
    assert capsys.readouterr().err == ""


def test_work_goes_on_in_silence_where_the_reader_of_its_log_left(monkeypatch, capsys):
    heard, says = os.pipe()
    os.close(heard)
    done = []

    def work():
        logging.getLogger("ssl_pretext").info("epoch 1")
        done.append(1)

    with os.fdopen(says, "w", closefd=False) as output:
        monkeypatch.setattr("sys.stdout", output)
        run_command("it", work)
        os.dup2(os.open(os.devnull, os.O_WRONLY), says)
    os.close(says)
    assert done == [1]
    assert capsys.readouterr().err == ""


def test_no_output_is_needed(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert run_command("it", lambda: logging.getLogger("ssl_pretext").info("epoch 1")) == 0
