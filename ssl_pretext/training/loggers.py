"""The loggers of a run, by name or as loggers of Lightning."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ssl_pretext.errors import ArgumentError, MissingDependencyError, UnknownNameError
from ssl_pretext.registry import did_you_mean

__all__ = ["LOGGERS", "check_loggers", "create_loggers"]

LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "csv": lambda out: CSVLogger(out, "logs", _next_csv_folder(out / "logs")),
    "mlflow": lambda out: MLFlowLogger("ssl_pretext", run_name=out.name, tracking_uri=_mlflow_database()),
    "tensorboard": lambda out: TensorBoardLogger(out, "logs", "tensorboard"),
    "wandb": lambda out: WandbLogger(out.name, save_dir=out / "logs", project="ssl_pretext"),
}
INSTALLED_APART = ("mlflow", "wandb")  # packages of the same names; the others come with the extra `train`


def check_loggers(loggers: Sequence[str | Logger]) -> None:
    """Checks loggers before a run writes its first file.

    Args:
        loggers: Names in `LOGGERS`, or loggers of Lightning.

    Raises:
        ArgumentError: One of them is neither a name nor a logger.
        UnknownNameError: There is no logger of this name.
        MissingDependencyError: The library of a logger is not installed.
    """
    if isinstance(loggers, str | Logger):
        raise ArgumentError(f"fit() needs a list as loggers, such as ['tensorboard', 'csv'], got {loggers!r}")
    for logger in loggers:
        if isinstance(logger, Logger):
            continue
        if not isinstance(logger, str):
            raise ArgumentError(
                f"each logger must be one of {', '.join(LOGGERS)} or a Logger of Lightning, got {type(logger).__name__}"
            )
        if logger not in LOGGERS:
            raise UnknownNameError(
                f"there is no logger named {logger!r}.{did_you_mean(logger, LOGGERS)} Known: {', '.join(LOGGERS)}"
            )
        if logger in INSTALLED_APART and find_spec(logger) is None:
            raise MissingDependencyError(
                f"the logger {logger!r} needs the package {logger}, which is not installed: pip install {logger}"
            )


def create_loggers(loggers: Sequence[str | Logger], out: Path) -> list[Logger]:
    """Creates the loggers of a run.

    Args:
        loggers: Names in `LOGGERS`, or loggers of Lightning, which are returned as they are.
        out: Folder of the run.
    """
    return [LOGGERS[logger](out) if isinstance(logger, str) else logger for logger in loggers]


def _mlflow_database() -> str:
    """Where MLflow itself stores runs and `mlflow ui` looks for them; it no longer accepts the folder of Lightning."""
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")


def _next_csv_folder(logs: Path) -> str:
    """Names a new folder for the CSV file of each start of a run, because Lightning would overwrite an old file."""
    existing = len(list(logs.glob("csv*")))
    return f"csv-{existing + 1}" if existing else "csv"
