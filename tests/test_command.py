"""Exit codes, error messages and log output of `run_command`."""

import gc
import logging
import os
import signal
import threading

import pytest

from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import MissingFileError, StorageError


def test_no_garbage_is_collected_at_exit(monkeypatch):
    registered = []
    monkeypatch.setattr("atexit.register", registered.append)
    run_command("it", lambda: None)
    assert registered == [gc.freeze]


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
        (KeyboardInterrupt("Start it again."), 1, "it: stopped by Ctrl-C. Start it again.\n"),
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
