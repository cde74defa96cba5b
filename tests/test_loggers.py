"""Loggers are created by name or taken as they are, and wrong ones are refused before anything is written."""

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger
from training_runs import noise_store, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, MissingDependencyError, UnknownNameError


class Kept(Logger):
    """Keeps what is logged."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.names = set()

    def log_metrics(self, metrics, step=None):
        self.names |= metrics.keys()

    def log_hyperparams(self, *_, **__):
        pass


def test_loggers_by_name_and_as_objects(tmp_path):
    config, kept = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu"), Kept()
    sp.fit(small_task(), noise_store(), config, loggers=["csv", kept])
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"csv"}
    assert {"train/smooth_l1", "train/learning_rate", "train/loss"} <= kept.names


def test_a_run_without_loggers(tmp_path):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu")
    sp.fit(small_task(), noise_store(), config, loggers=[])
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loggers": ["tensorbord"]}, UnknownNameError, "no logger named 'tensorbord'. Did you mean 'tensorboard'"),
        ({"loggers": ["wandb"]}, MissingDependencyError, "'wandb' needs the package wandb.*: pip install wandb"),
        ({"loggers": "csv"}, ArgumentError, "needs a list as loggers, such as .*got 'csv'"),
        ({"loggers": [CSVLogger]}, ArgumentError, "must be one of .* or a Logger of Lightning, got ABCMeta"),
        (
            {"callbacks": ["early"]},
            ArgumentError,
            r"needs a list of Lightning's callbacks as callbacks, got \['early'\]",
        ),
    ],
)
def test_wrong_ones_are_refused(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_pretext.training.loggers.find_spec", lambda name: None)
    with pytest.raises(error, match=message):
        sp.fit(small_task(), noise_store(), sp.FitConfig(out=tmp_path / "run", device="cpu"), **arguments)
    assert not (tmp_path / "run").exists()
