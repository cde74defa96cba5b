"""What goes wrong on the way ends in a clear message, and the last good state stays."""

import json
import logging

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import NotFiniteError, PretextError
from ssl_pretext.probes import collapse_in_words, feature_health
from ssl_pretext.tasks import TaskOutput
from ssl_pretext.training.watch import Watch

BRIGHT = 13  # the number of the one image that breaks the networks below


def store(count: int = 40) -> sp.ImageStore:
    """Noise, and one white image."""
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[BRIGHT] = 255
    return sp.ImageStore.from_arrays(images, [0] * count, names=[f"folder/{i}.jpg" for i in range(count)])


class Breaking(nn.Module):
    """A network that a white image makes give what is not finite, or have such gradients."""

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


def broken(tmp_path, encoder, **options):
    """The message of a run that stops, and what it wrote about it; and that run's configuration."""
    torch.manual_seed(0)
    config = sp.FitConfig(out=tmp_path, batch_size=8, device="cpu", **options)
    with pytest.raises(NotFiniteError) as caught:
        sp.fit(sp.Colorization(encoder), store(), config)
    assert isinstance(caught.value, PretextError)
    assert isinstance(caught.value, FloatingPointError)
    assert not (tmp_path / "task").exists()
    return str(caught.value), json.loads((tmp_path / "not_finite.json").read_text())


def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path):
    said, report = broken(tmp_path, Breaking(torch.nan), epochs=3)
    assert report["step"] <= 5  # in the first epoch
    assert f"the loss of step {report['step']} is not finite (loss nan, smooth_l1 nan)" in said
    assert "there is no checkpoint yet" in said
    assert f"folder/{BRIGHT}.jpg" in report["files"]
    assert len(report["files"]) == 8
    assert f"{', '.join(report['files'][:5])} and 3 more ({tmp_path / 'not_finite.json'} lists all)" in said
    assert "start in another folder with a lower learning_rate" in said
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert not (tmp_path / "history.json").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_terms_that_are_finite_are_not_blamed(value, tmp_path):
    watch, good = Watch(tmp_path, tmp_path / "last.ckpt"), torch.tensor(0.5)
    bad = torch.tensor(value)
    watch.see(6, TaskOutput(good, {"l1": good}, good, good), ["one.jpg"])
    with pytest.raises(NotFiniteError, match=rf"the loss of step 7 is not finite \(loss {value}, l2 {value}\)"):
        watch.see(7, TaskOutput(good + bad, {"l1": good, "l2": bad}, good, good), ["other.jpg"])


def test_the_last_good_checkpoint_is_named_and_good(tmp_path, monkeypatch):
    encoder = Breaking(torch.nan)
    monkeypatch.setattr(encoder, "value", 0.0)  # until the second epoch

    def second(module):
        if module.current_epoch == 1:
            encoder.value = torch.nan

    monkeypatch.setattr("ssl_pretext.training.module.Training.on_train_epoch_start", second)
    said, report = broken(tmp_path, encoder, epochs=3)
    assert 6 <= report["step"] <= 10
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last.ckpt'}, after step 5" in said
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    again, _ = broken(tmp_path, encoder, epochs=3, resume=True)
    assert again == said


def test_gradients_that_are_not_finite_reach_no_checkpoint(tmp_path):
    # The white image is in the last step of the epoch or before; a checkpoint after each step meets its gradients.
    said, report = broken(tmp_path, Breaking(torch.nan, backward=True), epochs=1, checkpoint_minutes=1e-9)
    assert f"after step {report['step']} weights are not finite (" in said
    assert f"folder/{BRIGHT}.jpg" in report["files"]
    if (checkpoint := tmp_path / "checkpoints" / "last.ckpt").exists():
        assert f"{checkpoint}, after step {report['step'] - 1}" in said
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_finite_losses_stop_nothing(tmp_path):
    torch.manual_seed(0)
    config = sp.FitConfig(out=tmp_path, epochs=2, batch_size=8, device="cpu")
    assert len(sp.fit(sp.Colorization(Breaking(0.0)), store(), config)) == 2
    assert not (tmp_path / "not_finite.json").exists()


class Constant(nn.Module):
    """An encoder that gives every image the same map, which is not the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, lightness):
        height, width = lightness.shape[-2] // 2, lightness.shape[-1] // 2
        return self.map[..., :height, :width] + 0 * lightness.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("collapsed", [True, False])
def test_collapsed_features_are_reported_at_the_end(collapsed, tmp_path, caplog):
    torch.manual_seed(0)
    encoder = Constant() if collapsed else nn.Conv2d(1, 4, 2, stride=2)
    with caplog.at_level(logging.INFO, logger="ssl_pretext"):
        sp.fit(sp.Colorization(encoder), store(), sp.FitConfig(out=tmp_path, epochs=1, device="cpu"))
    health = json.loads((tmp_path / "health.json").read_text())
    assert (health["between_images"] < 0.01) == collapsed
    assert health["collapsed_channels"] == 0  # what varies over the image hides it
    assert any(record.message.startswith("features: 4 channels") for record in caplog.records)
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert ["colorization has collapsed: its features differ between images by 0.00%" in line for line in warned] == (
        [True] if collapsed else []
    )


def test_how_much_images_differ_is_what_it_says():
    maps = torch.randn(30, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 2
    values = maps.double().numpy()
    expected = values.var(axis=0).mean() ** 0.5 / (values**2).mean() ** 0.5
    health = feature_health(maps)
    assert health["between_images"] == pytest.approx(expected, rel=1e-5)
    assert not collapse_in_words({"mine": health})
    assert "mine has collapsed" in collapse_in_words({"mine": feature_health(maps * 0.01 + 2)})[0]
    del health["between_images"]  # as in reports from before it was measured
    assert not collapse_in_words({"mine": health})
