"""Ctrl-C and the signals of schedulers stop a run with a checkpoint, from which it resumes as if nothing had been."""

import signal
import threading
import time

import pytest
import torch
from training_runs import fit_noisy_task, noise_store, same_run, small_task

import ssl_pretext as sp
from ssl_pretext.system.signals import Stopped


@pytest.fixture
def patient(monkeypatch):
    """Lets steps take as long as they need, because they are slow on a busy machine."""
    monkeypatch.setattr("ssl_pretext.training.stopping.STEP_TIMEOUTS", {})


def stop_in_step(patch, step, number):
    """Makes a training step send a signal to its process."""
    forward, steps = sp.CrossChannelPrediction.forward, []

    def interrupt(task, images):
        steps.extend([1] * task.training)
        if task.training and len(steps) == step:
            signal.raise_signal(number)
        return forward(task, images)

    patch.setattr(sp.CrossChannelPrediction, "forward", interrupt)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (2, signal.SIGINT),
        (4, signal.SIGINT),
        (5, signal.SIGINT),
        (12, signal.SIGINT),
        (2, signal.SIGTERM),
        (4, signal.SIGTERM),
        (5, signal.SIGHUP),
        (6, signal.SIGUSR1),
    ],
)
def test_a_signal_in_any_step_loses_nothing(step, number, tmp_path, monkeypatch, patient, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.chdir(tmp_path)
    before = {one: signal.getsignal(one) for one in signal.valid_signals()}
    with monkeypatch.context() as patch:
        stop_in_step(patch, step, number)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped) as raised:
            fit_noisy_task(tmp_path / "stopped")
    if number != signal.SIGINT:
        assert raised.value.code == 128 + number
    assert before == {one: signal.getsignal(one) for one in signal.valid_signals()}
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    last = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    # After the last step of an epoch, the validation is not waited for, without which the epoch has no checkpoint.
    assert last["global_step"] == (step - 1 if step % 4 == 0 else step)
    cause = "Ctrl-C" if number == signal.SIGINT else f"the signal {signal.Signals(number).name}"
    where = "in the middle of an epoch" if step % 4 == 0 else f"after step {step}"
    assert f"interrupted by {cause} {where}; the run can be resumed from" in caplog.text
    assert same_run(fit_noisy_task(tmp_path / "stopped", resume=True), fit_noisy_task(tmp_path / "complete"))
    assert {path.name for path in tmp_path.iterdir()} == {"stopped", "complete"}


def test_the_signals_of_slurm_are_not_handled_elsewhere(tmp_path, monkeypatch, patient):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    received = []
    monkeypatch.setattr("ssl_pretext.system.signals.STOP_SIGNALS", ())
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        stop_in_step(monkeypatch, 2, signal.SIGUSR1)
        fit_noisy_task(tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_long_step_is_abandoned(number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ssl_pretext.training.stopping.STEP_TIMEOUTS", {number: 0.2})
    forward, steps = sp.CrossChannelPrediction.forward, []

    def wait(task, images):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(number)
            while time.monotonic() < began + 60:
                time.sleep(0.01)
        return forward(task, images)

    monkeypatch.setattr(sp.CrossChannelPrediction, "forward", wait)
    began = time.monotonic()
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", checkpoint_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
        sp.fit(small_task(), noise_store(), config)
    assert time.monotonic() - began < 20
    assert "in the middle of an epoch; the run can be resumed from the last checkpoint" in caplog.text
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2


def test_fit_in_another_thread_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    done = []
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu")
    thread = threading.Thread(target=lambda: done.append(sp.fit(small_task(), noise_store(), config)))
    thread.start()
    thread.join()
    assert len(done) == 1
    assert signal.getsignal(signal.SIGTERM) is before
