"""A run resumes from each of its checkpoints; test_hostile_checkpoints.py has the damaged ones."""

import shutil

import torch
from training_runs import fit_noisy_task, same_run

from ssl_pretext.training.checkpoints import AtomicCheckpointIO


def test_runs_resumed_from_any_checkpoint_equal_the_uninterrupted_run(tmp_path, monkeypatch):
    save, complete = AtomicCheckpointIO.save_checkpoint, tmp_path / "complete"
    copies = []

    def save_and_copy(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path)
        copies.append(shutil.copytree(complete, tmp_path / str(len(copies))))

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_copy)
        expected = fit_noisy_task(complete)
    steps = [torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] for copy in copies]
    assert steps == [*range(1, 13)]  # after each step; after the last step of an epoch, by the end of the epoch
    for copy in copies:
        assert same_run(fit_noisy_task(copy, resume=True), expected), f"resumed from {copy}"
