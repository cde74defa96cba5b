"""Two CPU processes under `torchrun`, compared with a single process."""

import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import several
import torch
from PIL import Image
from safetensors.torch import load_file

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations import Embeddings
from ssl_pretext.system.processes import RankInfo, check_launcher, on_rank_zero, rank_info

ROOT = Path(sp.__file__).parents[1]


def run(part: str, folder: Path) -> "list[dict[str, object]]":
    """Runs a part of `several.py` in two processes and returns the results of each."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(Path(several.__file__))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *command, part, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert "Warning" not in process.stderr
    return [json.loads((folder / f"results-{rank}.json").read_text()) for rank in range(2)]


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
    (folder / "broken.png").write_text("no image")
    for number in range(4):
        with tarfile.open(folder / f"shards/{number}.tar", "w") as shard:
            shard.add(folder / "photos", "photos")
            shard.add(folder / "broken.png", "broken.png")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return run("two", folder)


def weights(run: Path) -> "dict[str, torch.Tensor]":
    return load_file(run / "task" / "model.safetensors")


def losses(history) -> "list[float]":
    return [row[key] for row in history for key in ("train_loss", "val_loss")]


def test_two_processes_train_like_one(results, folder, tmp_path):
    alone = several.pretrain_plainly(tmp_path)
    assert results[0]["plain"] == results[1]["plain"] == json.loads((folder / "plain/history.json").read_text())
    assert losses(results[0]["plain"]) == pytest.approx(losses(alone), rel=1e-5)
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(weights(folder / "plain")[name], value, rtol=1e-3, atol=1e-5)
    # Negative control: a run with half the batch size has other losses.
    half_batches = several.config(tmp_path / "half", epochs=3).to_dict() | {"batch_size": 4}
    other = sp.fit(several.task(), several.store(41), sp.FitConfig(**half_batches), validation=several.store(9))
    assert losses(other) != pytest.approx(losses(alone), rel=1e-2)


def test_two_processes_accumulate_like_one(results, folder, tmp_path):
    alone = several.pretrain_accumulated(tmp_path)
    found = [row["train_loss"] for row in results[0]["accumulated"]]
    assert found == pytest.approx([row["train_loss"] for row in alone], rel=1e-5)
    for name in ("task", "task-ema"):
        one, two = (load_file(run / name / "model.safetensors") for run in (tmp_path, folder / "accumulated"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_of_two_processes_ends_with_the_same_weights(results, folder):
    for name, value in weights(folder / "uninterrupted").items():
        assert torch.equal(value, weights(folder / "stopped")[name])
    assert (folder / "uninterrupted/history.json").read_text() == (folder / "stopped/history.json").read_text()


def test_a_signal_to_one_of_two_processes_stops_both_with_a_checkpoint(results, folder):
    assert results[0]["signals"] == results[1]["signals"]
    # Step 9 is stopped after, or the next one: a signal reaches the other process with the step that follows.
    for number, (code, step) in zip((signal.SIGTERM, signal.SIGINT), results[0]["signals"], strict=True):
        assert (code, step) == (128 + number, 10)
        for name, value in weights(folder / "uninterrupted").items():
            assert torch.equal(value, weights(folder / f"signal-{int(number)}")[name])


def test_uneven_batches_and_unused_parameters_train_like_in_one_process(results, tmp_path):
    """BatchNorm normalizes in each process, so only the last batch, which one process has alone, is the same."""
    alone = several.pretrain_headed(tmp_path)
    assert [row["train_loss"] for row in results[0]["headed"]] == pytest.approx(
        [row["train_loss"] for row in alone], rel=0.1
    )
    assert results[0]["headed"] == results[1]["headed"]


def test_one_process_resumes_a_run_of_two_with_a_warning(results, folder, caplog):
    with caplog.at_level(logging.WARNING):
        task = several.task(input_noise=0.1, input_drop=0.2)
        history = sp.fit(task, several.store(41), several.config(folder / "alone", epochs=3))
    assert "the number of processes changed from 2 to 1: random numbers will differ" in caplog.text
    uninterrupted = json.loads((folder / "uninterrupted/history.json").read_text())
    assert history[0] == uninterrupted[0]  # before the stop
    assert losses(history)[2] == pytest.approx(losses(uninterrupted)[2], rel=0.05)
    assert history[1] != uninterrupted[1]


def test_processes_divide_a_stream_and_collect_skipped_images(results, folder):
    assert results[0]["stream"] == results[1]["stream"]
    assert [row["epoch"] for row in results[0]["stream"]] == [1, 2]
    skipped = json.loads((folder / "stream/skipped.json").read_text())
    assert [item["name"] for item in skipped] == [f"{number}.tar/broken.png" for number in range(4)]


def test_probes_run_on_rank_zero_only(results):
    assert results[0]["table"] == results[1]["table"]
    assert results[0]["budgets"] == results[1]["budgets"] == [1, 4]
    # One report for each of evaluate, label_efficiency and the command line.
    assert results[0]["calls"].count("_reports") == 3 + 3
    assert results[1]["calls"].count("_reports") == 0


def test_processes_share_the_images_of_which_features_are_computed(results, tmp_path):
    alone, encoded = several.judged(200, tmp_path)
    (first, error, again), (other, other_error, other_again) = (result["shared"] for result in results)
    assert first[0] == other[0] == again[0] == other_again[0] == alone
    # The network and its twins of two seeds see 200 and 70 images in batches of 64, and each sees one image before.
    # Networks with hooks are not cached.
    assert encoded == 3 * (200 + 70 + 1)
    assert (first[1], other[1]) == (again[1], other_again[1]) == (3 * (128 + 64 + 1), 3 * (72 + 6 + 1))
    assert error == other_error
    assert "'wrong' returned features that are not finite" in error


def test_the_command_line_under_torchrun(results, folder):
    assert results[0]["codes"] == results[1]["codes"] == [0, 0, 0]
    assert (results[0]["calls"] + results[1]["calls"]).count("_build") == 2  # one store for pretrain and one for probe
    found = Embeddings.load(folder / "features.npy")
    alone = sp.PretextTask.from_pretrained(folder / "cli").embed(
        sp.ImageStore.from_folder(folder / "photos", image_size=16, labeled=False, cache=folder / "cache"), device="cpu"
    )
    assert found.names == alone.names
    np.testing.assert_allclose(found.features, alone.features, rtol=1e-4, atol=1e-5)
    assert not (folder / "features.npy.parts").exists()
    assert sp.PretextTask.from_pretrained(folder / "cli/task").trained_on.settings["images"] == 8
    assert sp.ProbeReport.from_json(folder / "cli/probe/knn.json").names[0] == "cross_channel_contrast"
    assert not list((folder / "cache").glob("*.lock"))


def test_an_error_on_rank_zero_is_raised_on_all_ranks(results):
    assert results[0]["refused"] == results[1]["refused"] == "raised on rank 0"
    assert results[1]["too small"] == (
        "FitConfig.batch_size is the total over all processes; for 2 processes it must be at least 2, got 1"
    )
    assert "holds another pretraining run" in results[0]["folder in use"]
    assert results[0]["folder in use"] == results[1]["folder in use"]


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("RANK", "3")  # other launchers set it too
    assert rank_info() == RankInfo(0, 1, 1)
    assert on_rank_zero("anything", lambda: 7) == 7


def test_processes_of_other_launchers_are_refused(monkeypatch):
    check_launcher()
    for variable, launcher in (("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "m")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            check_launcher()
            patch.setenv(variable, "4")
            with pytest.raises(ArgumentError, match=f"{launcher}.* has started 4 .*srun --ntasks-per-node=1 torchrun"):
                check_launcher()
            patch.setenv("TORCHELASTIC_RUN_ID", "1")
            check_launcher()
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of the job, in which this process may be alone
    check_launcher()


@pytest.mark.slow
def test_every_task_trains_in_two_processes(tmp_path):
    run("tasks", tmp_path)
