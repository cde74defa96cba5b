"""Ctrl-C during training loses nothing, and the log estimates the time that is left."""

import logging
import re
import signal
import threading

import pytest
import torch
from training_runs import fit_noisy_task, noise_store, same_run, small_task

import ssl_pretext as sp


@pytest.mark.parametrize("step", [2, 4, 5, 12])
def test_ctrl_c_in_any_step_loses_nothing(step, tmp_path, monkeypatch):
    forward, steps = sp.CrossChannelPrediction.forward, []

    def interrupt(task, images):
        steps.extend([1] * task.training)
        if task.training and len(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return forward(task, images)

    monkeypatch.setattr("ssl_pretext.training.callbacks.STEP_TIMEOUT", 60.0)  # steps are slow on a busy machine
    with monkeypatch.context() as patch:
        patch.setattr(sp.CrossChannelPrediction, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit_noisy_task(tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    last = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    # After the last step of an epoch, the validation is not waited for, without which the epoch has no checkpoint.
    assert last["global_step"] == (step - 1 if step % 4 == 0 else step)
    assert same_run(fit_noisy_task(tmp_path / "stopped", resume=True), fit_noisy_task(tmp_path / "complete"))


def test_the_log_estimates_the_time_that_is_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="ssl_pretext"):
        sp.fit(small_task(), noise_store(), sp.FitConfig(out=tmp_path, epochs=3, batch_size=8, device="cpu"))
    found = [message for message in caplog.messages if "steps left" in message]
    assert len(found) == 1
    assert re.fullmatch(r"4 steps left at \d+\.\d\d s each, about \d+ s; \d+\.\d GiB of memory used so far", found[0])
