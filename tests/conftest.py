import os

# Tests run side by side, one process per core; before torch is imported, and for the processes that tests start.
os.environ.setdefault(
    "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
)

import hypothesis
import pytest

from ssl_pretext import channels
from ssl_pretext.encoders import ENCODERS
from ssl_pretext.losses import LOSSES
from ssl_pretext.tasks.base import TASKS

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (ENCODERS, LOSSES, TASKS):
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.setattr(channels, "_SPACES", dict(channels._SPACES))
