import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    folder: Path = Path("runs")
    epochs: int = 1

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))


@given(st.integers(), st.text("abc/", min_size=1))
def test_configurations_round_trip_through_json(epochs, folder):
    config = Example(epochs=epochs, folder=folder)
    assert Example.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configurations_are_frozen_and_refuse_unknown_keys():
    assert Example.from_dict({}) == Example()
    assert Example().to_dict() == {"folder": "runs", "epochs": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().epochs = 2
    with pytest.raises(ArgumentError, match="Example has no field epoch, seeed; its fields are epochs, folder"):
        Example.from_dict({"seeed": 1, "epochs": 1, "epoch": 1})
