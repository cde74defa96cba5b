"""The Trainer of a run does not depend on the variables of launchers and schedulers, and trains in each precision."""

import copy
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from training_runs import fit_noisy_task, noise_store, same_run, small_encoder, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.signals import Stopped
from ssl_pretext.training.trainer import unused_parameters

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "node1",
}


@pytest.mark.parametrize(
    "variables",
    [
        SLURM,
        {**SLURM, "SLURM_PROCID": "3"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"},
        {"LOCAL_RANK": "2"},
        {"JSM_NAMESPACE_RANK": "1", "LSB_JOBID": "1"},
        {"GROUP_RANK": "1", "NODE_RANK": "1", "MASTER_ADDR": "far", "MASTER_PORT": "1"},
    ],
)
def test_variables_of_launchers_change_nothing(variables, tmp_path, monkeypatch):
    config = sp.FitConfig(out=tmp_path, epochs=1, batch_size=16, device="cpu")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Lightning reads the rank when it is imported.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    sp.fit(small_task(), noise_store(), config)
    assert rank_zero_only.rank == 1
    assert len((tmp_path / "logs/csv/metrics.csv").read_text().splitlines()) > 3
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


def test_a_run_in_a_job_of_slurm_neither_writes_nor_reads_checkpoints_elsewhere(tmp_path, monkeypatch):
    complete = fit_noisy_task(tmp_path / "complete")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # With Slurm's variables, Lightning resumes from this file without being asked.
    shutil.copy(tmp_path / "complete/checkpoints/last.ckpt", "hpc_ckpt_1.ckpt")
    assert same_run(fit_noisy_task(tmp_path / "other"), complete)

    Path("hpc_ckpt_1.ckpt").unlink()
    forward, steps = sp.CrossChannelPrediction.forward, []

    def warned(task, images):
        steps.extend([1] * task.training)
        if task.training and len(steps) == 2:
            signal.raise_signal(signal.SIGUSR1)  # as `sbatch --signal=USR1@60` does before the time is over
        return forward(task, images)

    monkeypatch.setattr(sp.CrossChannelPrediction, "forward", warned)
    with pytest.raises(Stopped):
        fit_noisy_task(tmp_path / "stopped")
    assert list(folder.iterdir()) == []
    assert same_run(fit_noisy_task(tmp_path / "stopped", resume=True), complete)


@pytest.mark.parametrize("precision", ["32-true", "tf32", "bf16-mixed", "64-true"])
def test_a_task_is_saved_in_float32_from_each_precision(precision, tmp_path):
    task, images = small_task(), noise_store()
    sp.fit(task, images, sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu", precision=precision))
    assert {value.dtype for value in task.state_dict().values() if value.is_floating_point()} == {torch.float32}
    again = sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": small_encoder()})
    assert torch.equal(task.features(images.images()), again.features(images.images()))
    assert (tmp_path / "health.json").exists()


def test_double_precision_trains_like_single(tmp_path):
    rows = {}
    for precision in ("32-true", "64-true"):
        config = sp.FitConfig(out=tmp_path / precision, epochs=2, batch_size=8, device="cpu", precision=precision)
        rows[precision] = [row["train_loss"] for row in sp.fit(small_task(), noise_store(), config)]
    assert rows["64-true"] == pytest.approx(rows["32-true"], rel=1e-5)
    assert rows["64-true"] != rows["32-true"]


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_weights_of_16_bits_are_refused(precision, tmp_path):
    with pytest.raises(ArgumentError, match=f"'{precision}'.*; use 'bf16-mixed' or '16-mixed'"):
        sp.FitConfig(out=tmp_path, precision=precision)


def test_unused_parameters_are_found_without_side_effects():
    task, images = small_task(), noise_store(4).images()
    task.encoder.append(nn.Identity())
    task.encoder[3].head = nn.Linear(2, 2)
    task.encoder[3].frozen = nn.Linear(2, 2).requires_grad_(False)
    assert unused_parameters(small_task(), images) == []
    state, random = copy.deepcopy(task.state_dict()), torch.get_rng_state()
    assert unused_parameters(task, images) == ["encoder.3.head.weight", "encoder.3.head.bias"]
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert task.training
    assert all(parameter.grad is None for parameter in task.parameters())


def test_float16_on_a_cpu_is_refused(tmp_path):
    # Lightning would train in bfloat16 instead.
    config = sp.FitConfig(out=tmp_path, device="cpu", precision="16-mixed")
    with pytest.raises(ArgumentError, match="'16-mixed' needs a GPU; use 'bf16-mixed' on a CPU"):
        sp.fit(small_task(), noise_store(), config)
