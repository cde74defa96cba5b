import logging
import os
import signal

import hypothesis
import pytest
import torch
from helpers import SMALL_AUTOENCODER, shrink_autoencoder

from ssl_pretext.augment.steps import AUGMENTATIONS
from ssl_pretext.data.readers.registry import READERS
from ssl_pretext.encoders import autoencoder
from ssl_pretext.encoders.registry import ENCODERS
from ssl_pretext.losses import LOSSES
from ssl_pretext.probes.registry import PROBES
from ssl_pretext.regularizers import REGULARIZERS
from ssl_pretext.tasks.base import TASKS

REGISTRIES = (
    AUGMENTATIONS,
    ENCODERS,
    LOSSES,
    PROBES,
    READERS,
    REGULARIZERS,
    TASKS,
)  # test_structure.py checks that none is missing

PUBLISHED_AUTOENCODER = {name: getattr(autoencoder, name) for name in SMALL_AUTOENCODER}

if "PYTEST_XDIST_WORKER" in os.environ:  # with several workers, more threads would only wait for each other
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

# Processes that a shell starts in the background ignore Ctrl-C, and the tests of Ctrl-C would fail in them.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="module")
def small_autoencoder():
    """Makes training cheap: few tests are about how well a network learns, and those have another one."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_autoencoder(patch)
        yield


@pytest.fixture
def published_autoencoder(monkeypatch):
    """Gives `autoencoder` its published size, for tests of that size."""
    for name, value in PUBLISHED_AUTOENCODER.items():
        monkeypatch.setattr(autoencoder, name, value)


@pytest.fixture(autouse=True)
def restored_registries(monkeypatch):
    """Removes the names that a test has registered after the test."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def restored_log_levels():
    """Restores the log levels that a command has set, on which it depends what later tests capture."""
    loggers = [logging.getLogger(name) for name in (None, "ssl_pretext", "ssl_pretext.training")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


log_levels_after_a_module = pytest.fixture(restored_log_levels, autouse=True, scope="module")  # of commands in fixtures
log_levels_after_a_test = pytest.fixture(restored_log_levels, autouse=True)


@pytest.fixture(autouse=True)
def one_round_of_timing(monkeypatch):
    """Times each format of a run by one step: which one is chosen does not matter, and training takes a few steps."""
    monkeypatch.setattr("ssl_pretext.training.compute_format.ROUNDS", 1)
