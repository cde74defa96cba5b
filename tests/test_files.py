import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.errors import CheckpointError, MissingFileError, PretextError, StorageError
from ssl_pretext.system import files
from ssl_pretext.system.files import read_json, reserved_temporary_file, write_json, write_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "a.json"


@given(value=values)
def test_json_round_trip(file, value):
    write_json(file, value)
    assert read_json(file) == value


def test_text_replaces_the_file_and_leaves_no_temporary_file(tmp_path):
    file = tmp_path / "new" / "folder" / "a.txt"
    for text in ("first, longer", "second ≤"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
        assert list(file.parent.iterdir()) == [file]


def write_half(path, content):
    """`Path.write_bytes` on a disk that becomes full."""
    with path.open("wb") as stream:
        stream.write(content[: len(content) // 2])
    raise OSError(28, "No space left on device")


def old_file_survives(write, monkeypatch, file) -> bool:
    """Whether the file still has the old text after `write(file, text)` failed half way."""
    file.write_text("old text", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            write(file, "new text")
    return file.read_text(encoding="utf-8") == "old text"


def test_a_failed_write_keeps_the_old_file(monkeypatch, tmp_path):
    assert old_file_survives(write_text, monkeypatch, tmp_path / "a.txt")
    assert old_file_survives(write_json, monkeypatch, tmp_path / "a.json")
    in_place = lambda path, text: path.write_bytes(text.encode())  # noqa: E731
    assert not old_file_survives(in_place, monkeypatch, tmp_path / "b.txt"), "the check does not detect a partial file"


def test_the_file_appears_when_it_is_complete(monkeypatch, tmp_path):
    file, states = tmp_path / "a.json", []
    replace = Path.replace

    def record(part, target):
        states.append((Path(target).exists(), part.parent, read_json(part)))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", record)
    write_json(file, [1, 2])
    assert states == [(False, tmp_path, [1, 2])], "it must be complete and in the same folder when it is renamed"
    assert read_json(file) == [1, 2]


def test_a_failed_write_leaves_no_temporary_file(monkeypatch, tmp_path):
    assert old_file_survives(write_text, monkeypatch, tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"loss": [1.5, float("nan"), (float("inf"), 2)], "nested": {"x": -float("inf")}})
    assert read_json(tmp_path / "a.json") == {"loss": [1.5, None, [None, 2]], "nested": {"x": None}}


def test_a_value_that_is_not_json_leaves_no_file(tmp_path):
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
    "content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 200_000], ids=["empty", "truncated", "bytes", "nested"]
)
def test_invalid_json_files_are_named(tmp_path, content):
    file = tmp_path / "invalid.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="invalid.json is not valid JSON .* may be damaged"):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "reason"), [('{"a": 1, "a": 2}', "a key occurs twice"), ('{"a": NaN}', "NaN is not a number in JSON")]
)
def test_json_is_read_strictly(tmp_path, content, reason):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=rf"a\.json is not valid JSON \({reason}\)"):
        read_json(file)


def test_large_files_are_refused(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(f'"{"x" * 998}"')
    assert len(read_json(file, max_bytes=1000)) == 998
    with pytest.raises(CheckpointError, match=r"a\.json has 1,000 bytes, more than the limit of 999 for this file"):
        read_json(file, max_bytes=999)


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("way", ["reserved", "unsupported by the file system", "without the function"])
def test_the_room_of_a_temporary_file_is_reserved(way, monkeypatch):
    if way.startswith("unsupported"):
        monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))
    elif way.startswith("without"):
        monkeypatch.delattr(os, "posix_fallocate")
    size = 2**20 + 12
    with reserved_temporary_file(size, "features") as file:
        found = os.fstat(file.fileno())
        assert found.st_size == size
        assert 512 * found.st_blocks >= size, "the file is sparse"
        assert not np.memmap(file, mode="r+").any()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_temporary_file_without_room_is_refused(number, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", failing(number))
    expected = (
        rf"the features need 3.0 MiB in {tempfile.gettempdir()}, which has .* free: {os.strerror(number)}.*TMPDIR"
    )
    with pytest.raises(StorageError, match=expected), reserved_temporary_file(3 * 2**20, "features"):
        pass


def test_a_missing_folder_for_temporary_files_is_reported(monkeypatch):
    monkeypatch.setattr(files.tempfile, "TemporaryFile", failing(errno.ENOENT))
    with pytest.raises(StorageError, match="No such file.*TMPDIR"), reserved_temporary_file(1, "features"):
        pass
