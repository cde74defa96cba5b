"""Configurations check the types of their fields, and round trip through JSON."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssl_pretext.cli.options  # noqa: F401
from benchmarks.food101.presets import PRESETS, Preset
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.training import ProbeConfig
from ssl_pretext.training.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    folder: Path = Path("runs")
    epochs: int = 1


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
    with pytest.raises(ArgumentError, match=r"Example has no field lr; its fields"):
        Example(lr=1)
    with pytest.raises(ArgumentError, match=r"FitConfig has no field lr \(did you mean learning_rate\?\); its fields"):
        FitConfig(out="runs", lr=1e-3)
    assert pickle.loads(pickle.dumps(Example(epochs=3))) == copy.copy(Example(epochs=3)) == Example(epochs=3)


@dataclass(frozen=True, kw_only=True)
class Typed(Config):
    switch: bool = False
    number: float = 1.0
    text: str | None = None
    place: Path | str = "runs"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    choice: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("switch", "no", "True or False, got 'no'"),
        ("switch", 1, "True or False, got 1"),
        ("switch", None, "True or False, got None"),
        ("number", True, "a number, got True"),
        ("number", "1", "a number, got '1'"),
        ("text", 3, "a text or None, got 3"),
        ("place", None, "a path or a text, got None"),
        ("weights", [("a", 1.0)], "of the type Mapping, got"),
        ("choice", "c", "one of 'a', 'b', got 'c'"),
    ],
)
def test_each_type_is_checked(field, value, needed):
    with pytest.raises(ArgumentError, match=rf"Typed\.{field} must be {needed}"):
        Typed(**{field: value})


def test_numbers_of_numpy_and_texts_are_converted():
    converted = Typed(number=np.float32(0.5), place="here")
    assert (type(converted.number), type(converted.place)) == (float, str)
    assert type(Typed(number=np.int64(3)).number) is float
    assert Example(folder="here").folder == Path("here")


def test_all_configurations_check_all_fields(tmp_path):
    """No subclass forgets to call the check of the base class."""
    needed = {FitConfig: {"out": tmp_path}, Preset: PRESETS["smoke"].to_dict()}
    for kind in [FitConfig, ProbeConfig, Preset]:
        for field in get_type_hints(kind):
            with pytest.raises(ArgumentError, match=rf"{kind.__name__}\.{field} must be"):
                kind(**{**needed.get(kind, {}), field: object()})
    library = [kind for kind in Config.__subclasses__() if kind.__module__.startswith(("ssl_pretext", "benchmarks"))]
    assert {FitConfig, ProbeConfig, Preset} <= {*library}
    for kind in library:
        wrong = {field.name: object() for field in dataclasses.fields(kind)}
        with pytest.raises(ArgumentError, match=rf"{kind.__name__}\.\w+ must be"):
            kind(**wrong)


def test_settings_that_were_taken_for_others_are_refused(tmp_path):
    for name, value in {"augment": True, "compile": "no", "resume": "False", "learning_rate": True}.items():
        with pytest.raises(ArgumentError, match=rf"FitConfig\.{name} must be"):
            FitConfig(out=tmp_path, **{name: value})
