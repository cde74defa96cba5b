"""A run stops at the first NaN or infinite loss or weight, and no checkpoint contains it."""

import json
import signal

import pytest
import torch
from torch import nn
from training_runs import noise_store

import ssl_pretext as sp
from ssl_pretext.errors import NotFiniteError, PretextError
from ssl_pretext.tasks import TaskOutput
from ssl_pretext.training.finite import FiniteCheck

WHITE = 13  # index of the only white image, on which the networks below fail


def store_with_white_image() -> sp.ImageStore:
    noise = noise_store()
    images = noise.images().clone()
    images[WHITE] = 255
    return sp.ImageStore.from_arrays(images, [0] * len(images), names=noise.names)


class FailsOnWhite(nn.Module):
    """A network whose output, or the gradient of it, has a given value for white images.

    Args:
        value: The value, such as NaN.
        backward: Whether the gradient has the value.
    """

    def __init__(self, value: float, *, backward: bool = False) -> None:
        super().__init__()
        self.conv, self.value, self.backward = nn.Conv2d(1, 4, 3, stride=2, padding=1), value, backward

    def forward(self, lightness):
        maps = self.conv(lightness)
        white = (lightness.mean(dim=(1, 2, 3)) > 0.99).view(-1, 1, 1, 1)
        if not self.training:
            return maps
        if self.backward:
            maps.register_hook(lambda gradient: gradient.where(~white, self.value))
            return maps
        return maps.where(~white, self.value)


def failed_run(out, encoder, **options):
    """Trains until the run stops; returns the error message and the report of the failure."""
    torch.manual_seed(0)
    config = sp.FitConfig(out=out, batch_size=8, device="cpu", **options)
    with pytest.raises(NotFiniteError) as caught:
        sp.fit(sp.Colorization(encoder), store_with_white_image(), config)
    assert isinstance(caught.value, PretextError)
    assert isinstance(caught.value, FloatingPointError)
    assert not (out / "task").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return str(caught.value), json.loads((out / "not_finite.json").read_text())


def test_training_stops_at_the_step_with_a_nan_loss(tmp_path):
    message, report = failed_run(tmp_path, FailsOnWhite(torch.nan), epochs=3)
    assert report["step"] <= 5  # in the first epoch
    assert f"the loss of step {report['step']} is not finite (loss nan, smooth_l1 nan)" in message
    assert "there is no checkpoint yet" in message
    assert f"folder/{WHITE}.jpg" in report["files"]
    assert len(report["files"]) == 8
    assert f"{', '.join(report['files'][:5])} and 3 more ({tmp_path / 'not_finite.json'} lists all of them)" in message
    assert "start in another folder with a lower learning_rate" in message
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert not (tmp_path / "history.json").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_message_names_only_terms_that_are_not_finite(value, tmp_path):
    check, good = FiniteCheck(tmp_path, tmp_path / "last.ckpt"), torch.tensor(0.5)
    bad = torch.tensor(value)
    check.observe(6, TaskOutput(good, {"l1": good}, good, good), ["one.jpg"])
    with pytest.raises(NotFiniteError, match=rf"the loss of step 7 is not finite \(loss {value}, l2 {value}\)"):
        check.observe(7, TaskOutput(good + bad, {"l1": good, "l2": bad}, good, good), ["other.jpg"])


def test_the_last_good_checkpoint_is_named_and_finite(tmp_path, monkeypatch):
    encoder = FailsOnWhite(torch.nan)
    monkeypatch.setattr(encoder, "value", 0.0)  # until the second epoch

    def on_train_epoch_start(module):
        if module.current_epoch == 1:
            encoder.value = torch.nan

    module = "ssl_pretext.training.lightning_module.PretextModule"
    monkeypatch.setattr(f"{module}.on_train_epoch_start", on_train_epoch_start)
    message, report = failed_run(tmp_path, encoder, epochs=3)
    assert 6 <= report["step"] <= 10
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last.ckpt'}, after step 5" in message
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    again, _ = failed_run(tmp_path, encoder, epochs=3, resume=True)
    assert again == message


def test_weights_with_nan_are_not_saved_in_a_checkpoint(tmp_path):
    # The checkpoint after each step finds the gradients of the white image, unless that is in the last step.
    message, report = failed_run(tmp_path, FailsOnWhite(torch.nan, backward=True), epochs=1, checkpoint_minutes=1e-9)
    assert f"weights are not finite after step {report['step']} (" in message
    assert f"folder/{WHITE}.jpg" in report["files"]
    if (checkpoint := tmp_path / "checkpoints" / "last.ckpt").exists():
        assert f"{checkpoint}, after step {report['step'] - 1}" in message
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_finite_losses_do_not_stop_a_run(tmp_path):
    torch.manual_seed(0)
    config = sp.FitConfig(out=tmp_path, epochs=2, batch_size=8, device="cpu")
    assert len(sp.fit(sp.Colorization(FailsOnWhite(0.0)), store_with_white_image(), config)) == 2
    assert not (tmp_path / "not_finite.json").exists()
