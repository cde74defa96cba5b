"""Loggers are created by name or taken as they are, and wrong ones are refused before anything is written."""

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger
from training_runs import noise_store, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, MissingDependencyError, UnknownNameError
from ssl_pretext.training import loggers


class Kept(Logger):
    """Keeps what is logged."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.names = set()

    def log_metrics(self, metrics, step=None):
        self.names |= metrics.keys()

    def log_hyperparams(self, params, **_):
        self.settings = params


def test_loggers_by_name_and_as_objects(tmp_path):
    config, kept = sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu"), Kept()
    sp.fit(small_task(), noise_store(), config, loggers=["csv", kept])
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"csv"}
    assert {"train/smooth_l1", "train/learning_rate", "train/loss"} <= kept.names
    assert kept.settings.items() >= {"task": "colorization", "batch_size": 8, "precision": "32-true"}.items()


def test_mlflow_stores_runs_where_its_page_looks_for_them(tmp_path, monkeypatch):
    """With MLflow 3.17, a run with the folder that Lightning chooses by default ended in an error."""
    seen = []
    monkeypatch.setattr(loggers, "MLFlowLogger", lambda *_, tracking_uri, **__: seen.append(tracking_uri))
    for place, expected in ((None, "sqlite:///mlflow.db"), ("http://tracking", "http://tracking")):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if place:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        loggers.create_loggers(["mlflow"], tmp_path)
        assert seen.pop() == expected


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
