"""The journal of a search: finished steps are kept, whatever stops it."""

import json

import pytest

from ssl_pretext.errors import CheckpointError
from ssl_pretext.selection.journal import Journal


def test_a_step_runs_once_also_in_another_process(tmp_path):
    calls = []
    for _ in range(2):
        journal = Journal(tmp_path / "journal.json", {"minutes": 1.0})
        assert journal.step("first", lambda: calls.append(1) or {"value": [1, 2]}) == {"value": [1, 2]}
    assert calls == [1]


def test_the_time_before_an_interruption_counts(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("ssl_pretext.selection.journal.time.perf_counter", lambda: clock[0])

    def stopped():
        clock[0] += 5
        raise KeyboardInterrupt

    journal = Journal(tmp_path / "journal.json", {})
    journal.step("first", lambda: clock.__setitem__(0, 3.0))
    with pytest.raises(KeyboardInterrupt):
        journal.step("second", stopped)
    clock[0] = 1000.0
    again = Journal(tmp_path / "journal.json", {})
    assert again.seconds == 8.0
    clock[0] += 2
    assert again.step("second", lambda: "done") == "done"
    assert again.seconds == 10.0


def test_other_settings_and_damage_are_refused(tmp_path):
    file = tmp_path / "journal.json"
    Journal(file, {"minutes": 1.0, "seed": 0}).step("first", lambda: 1)
    with pytest.raises(CheckpointError, match=r"holds another search, with other settings \(minutes\)"):
        Journal(file, {"minutes": 2.0, "seed": 0})
    file.write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match="does not hold the journal of a search"):
        Journal(file, {})
    Journal.discard(journal := Journal(tmp_path / "other.json", {}))
    assert not journal.file.exists()
