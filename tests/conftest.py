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
