"""The same command under `torchrun`, with two processes on this machine's processor."""

import json
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import several
import torch
from PIL import Image
from safetensors.torch import load_file

import ssl_pretext as sp
from ssl_pretext.system.processes import RankInfo, on_rank_zero, rank_info

ROOT = Path(sp.__file__).parents[1]


def run(what: str, folder: Path) -> "list[dict[str, object]]":
    """What each process found."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(Path(several.__file__))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, what, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Warning" not in done.stderr
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for label in ("a", "b"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (60 * number, 90, 100 * (label == "a"))).save(
                folder / "photos" / label / f"{number}.png"
            )
    (folder / "shards").mkdir()
    (folder / "broken.png").write_text("no photo")
    for number in range(4):
        with tarfile.open(folder / f"shards/{number}.tar", "w") as shard:
            shard.add(folder / "photos", "photos")
            shard.add(folder / "broken.png", "broken.png")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return run("two", folder)


def weights(run: Path) -> "dict[str, torch.Tensor]":
    return load_file(run / "task" / "model.safetensors")


def losses(history) -> "list[float]":
    return [row[key] for row in history for key in ("train_loss", "val_loss")]


def test_two_processes_learn_what_one_does(found, folder, tmp_path):
    alone = several.pretrain_plainly(tmp_path)
    assert found[0]["plain"] == found[1]["plain"] == json.loads((folder / "plain/history.json").read_text())
    assert losses(found[0]["plain"]) == pytest.approx(losses(alone), rel=1e-5)
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(weights(folder / "plain")[name], value, rtol=1e-3, atol=1e-5)
    # Negative control: half of each batch is another run.
    half = several.config(tmp_path / "half", epochs=3).to_dict() | {"batch_size": 4}
    other = sp.fit(several.task(), several.store(41), sp.FitConfig(**half), validation=several.store(9))
    assert losses(other) != pytest.approx(losses(alone), rel=1e-2)


def test_a_stopped_run_of_two_ends_with_the_weights_of_one_that_was_not(found, folder):
    for name, value in weights(folder / "whole").items():
        assert torch.equal(value, weights(folder / "stopped")[name])
    assert (folder / "whole/history.json").read_text() == (folder / "stopped/history.json").read_text()


def test_one_goes_on_for_two_and_says_what_is_not_the_same(found, folder, caplog):
    with caplog.at_level(logging.WARNING):
        task = several.task(input_noise=0.1, input_drop=0.2)
        history = sp.fit(task, several.store(41), several.config(folder / "alone", epochs=3))
    assert "1 processes go on for 2: what is drawn at random is not the same" in caplog.text
    whole = json.loads((folder / "whole/history.json").read_text())
    assert history[0] == whole[0]  # before the stop
    assert losses(history)[2] == pytest.approx(losses(whole)[2], rel=0.05)
    assert history[1] != whole[1]


def test_a_stream_is_shared_and_what_either_could_not_read_is_told(found, folder):
    assert found[0]["stream"] == found[1]["stream"]
    assert [row["epoch"] for row in found[0]["stream"]] == [1, 2]
    skipped = json.loads((folder / "stream/skipped.json").read_text())
    assert [one["name"] for one in skipped] == [f"{number}.tar/broken.png" for number in range(4)]


def test_probes_are_counted_once(found):
    assert found[0]["table"] == found[1]["table"]
    assert found[0]["budgets"] == found[1]["budgets"] == [1, 4]
    assert found[0]["asked"].count("reports") == 3  # evaluate, label_efficiency, and that of the command line
    assert found[1]["asked"].count("reports") == 0


def test_the_command_line_under_torchrun(found, folder):
    assert found[0]["codes"] == found[1]["codes"] == [0, 0]
    assert (found[0]["asked"] + found[1]["asked"]).count("_build") == 2  # pretrain's store and probe's, each once
    assert sp.PretextTask.from_pretrained(folder / "cli/task").trained_on.settings["images"] == 8
    assert sp.ProbeReport.from_json(folder / "cli/probe/knn.json").names[0] == "colorization"
    assert not list((folder / "cache").glob("*.lock"))


def test_what_the_first_refuses_all_refuse(found):
    assert found[0]["refused"] == found[1]["refused"] == "said by 0"
    assert found[1]["too small"] == "batch_size counts the images of all processes; 2 of them need at least 2"
    assert "holds another pretraining run" in found[0]["taken"]
    assert found[0]["taken"] == found[1]["taken"]


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("RANK", "3")  # as other launchers set it
    assert rank_info() == RankInfo(0, 1, 1)
    assert on_rank_zero("anything", lambda: 7) == 7


@pytest.mark.slow
def test_every_task_trains_in_two_processes(tmp_path):
    run("tasks", tmp_path)
