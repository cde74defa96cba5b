import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, PretextError
from ssl_pretext.system.files import read_json, write_json, write_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    folder: Path = Path("runs")
    epochs: int = 1

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))


@given(st.integers(), st.text("abc/", min_size=1))
def test_configurations_come_back_through_json(epochs, folder):
    config = Example(epochs=epochs, folder=folder)
    assert Example.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configurations_are_frozen_and_refuse_unknown_keys():
    assert Example.from_dict({}) == Example()
    assert Example().to_dict() == {"folder": "runs", "epochs": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().epochs = 2
    with pytest.raises(ArgumentError, match="Example has no epoch, seeed; it has epochs, folder"):
        Example.from_dict({"seeed": 1, "epochs": 1, "epoch": 1})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "a.json"


@given(value=values)
def test_json_comes_back(file, value):
    write_json(file, value)
    assert read_json(file) == value


def test_text_replaces_the_file_and_leaves_no_part(tmp_path):
    file = tmp_path / "new" / "folder" / "a.txt"
    for text in ("first, longer", "zweiter, kürzer ≤"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
        assert list(file.parent.iterdir()) == [file]


def write_half(path, content):
    """`Path.write_bytes` on a disk that fills up."""
    with path.open("wb") as stream:
        stream.write(content[: len(content) // 2])
    raise OSError(28, "No space left on device")


def old_file_survives(write, monkeypatch, file) -> bool:
    """Whether a reader still finds the old text after `write(file, text)` has broken off half way."""
    file.write_text("old text", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            write(file, "new text")
    return file.read_text(encoding="utf-8") == "old text"


def test_a_reader_never_sees_half(monkeypatch, tmp_path):
    assert old_file_survives(write_text, monkeypatch, tmp_path / "a.txt")
    assert old_file_survives(write_json, monkeypatch, tmp_path / "a.json")
    in_place = lambda path, text: path.write_bytes(text.encode())  # noqa: E731
    assert not old_file_survives(in_place, monkeypatch, tmp_path / "b.txt"), "the check sees no half file"


def test_the_file_appears_only_once_it_is_whole(monkeypatch, tmp_path):
    file, seen = tmp_path / "a.json", []
    replace = Path.replace

    def look(part, target):
        seen.append((Path(target).exists(), part.parent, read_json(part)))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", look)
    write_json(file, [1, 2])
    assert seen == [(False, tmp_path, [1, 2])], "the part must be whole, and beside the file, before the rename"
    assert read_json(file) == [1, 2]


def test_a_failed_write_leaves_no_part(monkeypatch, tmp_path):
    assert old_file_survives(write_text, monkeypatch, tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"loss": [1.5, float("nan"), (float("inf"), 2)], "nested": {"x": -float("inf")}})
    assert read_json(tmp_path / "a.json") == {"loss": [1.5, None, [None, 2]], "nested": {"x": None}}


def test_a_value_that_is_no_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_missing_files_are_named(tmp_path):
    file = tmp_path / "none.json"
    with pytest.raises(MissingFileError, match="none.json does not exist") as caught:
        read_json(file)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, PretextError)


@pytest.mark.parametrize(
    "content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 200_000], ids=["empty", "cut", "bytes", "deep"]
)
def test_broken_files_are_named(tmp_path, content):
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken.json is not valid JSON .* may be damaged"):
        read_json(file)
