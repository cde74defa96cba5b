import os
import signal

import hypothesis
import pytest
import torch

from ssl_pretext import channels
from ssl_pretext.encoders.registry import ENCODERS
from ssl_pretext.losses import LOSSES
from ssl_pretext.probes.registry import PROBES
from ssl_pretext.regularizers import REGULARIZERS
from ssl_pretext.tasks.base import TASKS

REGISTRIES = (ENCODERS, LOSSES, PROBES, REGULARIZERS, TASKS)  # all there are: test_structure.py looks

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, two threads on each core would wait for one another
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

# A shell starts what runs in its background deaf to Ctrl-C, and so would be the tests of it.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """Removes after each test what it has registered."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.setattr(channels, "_SPACES", dict(channels._SPACES))
