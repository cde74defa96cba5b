"""A task starts from the weights of another one, and a run knows from which."""

import pytest
import torch
from torch import nn
from training_runs import noise_store, small_encoder, small_task

import ssl_pretext as sp
from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import file_sha256, read_json
from ssl_pretext.tasks.warm_start import initialize_from


def saved(folder, seed=1):
    torch.manual_seed(seed)
    task = sp.Colorization(small_encoder())
    task.save_pretrained(folder)
    return task, file_sha256(folder / "model.safetensors")


def test_what_fits_is_loaded(tmp_path, caplog):
    before, digest = saved(tmp_path)
    task = sp.Colorization(small_encoder(), target="rgb")  # its decoder has another last layer
    own = {name: value.clone() for name, value in task.state_dict().items()}
    with caplog.at_level("INFO"):
        initialize_from(task, tmp_path)
    trained = before.state_dict()
    for name, value in task.state_dict().items():
        fits = trained[name].shape == value.shape
        assert torch.equal(value, trained[name] if fits else own[name]), name
    last = [name for name, value in own.items() if trained[name].shape != value.shape]
    assert last
    assert f"not loaded: {', '.join(last)}" in caplog.text
    assert task.trained_on.initialized_from == digest
    assert digest in str(task.generate_model_card())


def test_both_encoders_of_a_task_must_fit(tmp_path):
    def split_brain():
        return sp.SplitBrain("lab:L", "lab:ab", [nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(2, 4, 2, stride=2)])

    before, task = split_brain(), split_brain()
    before.save_pretrained(tmp_path)
    initialize_from(task, tmp_path)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in task.state_dict().items())
    with pytest.raises(CheckpointError, match=r"encoder of the task in .* does not fit: encoder.0.weight is missing"):
        initialize_from(small_task(), tmp_path)


def test_an_encoder_of_another_shape_is_refused_and_nothing_changed(tmp_path):
    saved(tmp_path)
    task = sp.Colorization(nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU()))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"encoder.0.weight has the shape \(8, 1, 3, 3\) instead of \(8, 1, 5, 5\)"
    ):
        initialize_from(task, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_a_run_is_resumed_with_the_same_start_only(tmp_path):
    _, digest = saved(tmp_path / "first")
    saved(tmp_path / "second", seed=2)
    config = sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=16, device="cpu", resume=True)
    task = small_task()
    initialize_from(task, tmp_path / "first")
    history = sp.fit(task, noise_store(), config)
    assert read_json(tmp_path / "run/fit.json")["initialized_from"] == digest
    assert task.trained_on.initialized_from == digest
    for start in (None, "second"):
        other = small_task()
        if start:
            initialize_from(other, tmp_path / start)
        with pytest.raises(CheckpointError, match=r"other settings \(initialized_from\)"):
            sp.fit(other, noise_store(), config)
    again = small_task()
    initialize_from(again, tmp_path / "first")
    assert sp.fit(again, noise_store(), config) == history
