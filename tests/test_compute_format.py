"""The choice of precision and memory format: it is the fastest, changes nothing else, and is kept on resume."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_runs import noise_store, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system import compute_format
from ssl_pretext.system.compute_format import ComputeFormat, in_memory_format, set_memory_format
from ssl_pretext.training import compute_format as of_training
from ssl_pretext.training.compute_format import choose_format

FASTEST = ComputeFormat("bf16-mixed", "channels_last")
ROUNDS = 3
ALL = [ComputeFormat(p, m) for p in ("32-true", "bf16-mixed") for m in ("contiguous", "channels_last")]


def choose(task: sp.PretextTask, precision: str = "auto", memory_format: str = "auto") -> ComputeFormat:
    return choose_format(
        task,
        noise_store(),
        batch_size=8,
        device=torch.device("cpu"),
        precision=precision,
        memory_format=memory_format,
    )


@pytest.fixture
def timed(monkeypatch):
    """Replaces the durations of steps; each step is computed all the same."""

    def set_seconds(seconds: dict[ComputeFormat, float]) -> list[ComputeFormat]:
        computed, measure = [], compute_format._seconds

        def timed_step(step, one, device):
            measure(step, one, device)
            computed.append(one)
            return seconds[one]

        monkeypatch.setattr(compute_format, "_seconds", timed_step)
        monkeypatch.setattr(of_training, "ROUNDS", ROUNDS)
        return computed

    return set_seconds


@pytest.mark.parametrize("fastest", ALL)
def test_the_fastest_format_is_chosen(fastest, timed, caplog):
    caplog.set_level("INFO", "ssl_pretext")
    computed = timed({one: 0.9 if one == fastest else 1.0 for one in ALL})
    assert choose(small_task()) == fastest
    assert computed == ALL * (ROUNDS + 1)  # they take turns
    assert "1000 ms" in caplog.text
    assert "900 ms" in caplog.text


def test_what_is_much_slower_is_not_tried_again(timed):
    computed = timed({one: 0.5 if one == FASTEST else 1.0 for one in ALL})
    assert choose(small_task()) == FASTEST
    assert computed == [*ALL * 2, *[FASTEST] * (ROUNDS - 1)]


def test_float32_stays_unless_another_format_is_clearly_faster(timed):
    timed({one: 1.0 if one == ALL[0] else 0.99 for one in ALL})
    assert choose(small_task()) == ALL[0]


def test_what_is_given_is_not_changed(timed):
    computed = timed({one: 0.5 if one == FASTEST else 1.0 for one in ALL})
    assert choose(small_task(), precision="32-true") == ALL[0]
    assert choose(small_task(), memory_format="channels_last") == FASTEST
    assert choose(small_task(), "bf16-mixed", "contiguous") == ComputeFormat("bf16-mixed", "contiguous")
    assert {one.precision for one in computed[:2]} == {"32-true"}


def test_a_trial_changes_neither_the_task_nor_the_random_state():
    task = small_task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = torch.get_rng_state()
    choose(task)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in task.parameters())


class Viewing(nn.Module):
    """A network that computes in one memory format only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)

    def forward(self, images):
        maps = self.conv(images)
        return maps.view(len(maps), -1).view_as(maps)


def test_a_format_that_the_task_cannot_compute_in_is_left_out(timed):
    computed = timed({one: 0.5 if one == FASTEST else 1.0 for one in ALL})
    task = sp.Colorization(Viewing())
    assert choose(task).memory_format == "contiguous"
    assert {one.memory_format for one in computed} == {"contiguous"}


class Failing(nn.Module):
    def forward(self, images):
        if self.training:
            raise RuntimeError("no kernel")
        return images


def test_a_task_that_cannot_be_computed_says_why():
    with pytest.raises(ArgumentError, match="cannot compute a training step: no kernel"):
        choose(sp.Colorization(Failing()))


def test_a_run_trains_in_the_chosen_format_and_keeps_it(tmp_path, timed):
    timed({one: 0.5 if one == FASTEST else 1.0 for one in ALL})
    config = sp.FitConfig(
        out=tmp_path, epochs=2, batch_size=8, device="cpu", precision="auto", memory_format="auto", resume=True
    )
    task = small_task()
    sp.fit(task, noise_store(), config)
    assert task.trained_on.settings["precision"] == "bf16-mixed"
    assert json.loads((tmp_path / "fit.json").read_text())["memory_format"] == "channels_last"
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in task.parameters())
    # Another machine would choose otherwise, but the run goes on as it was started.
    timed({one: 0.5 if one == ALL[0] else 1.0 for one in ALL})
    sp.fit(small_task(), noise_store(), config)
    given = replace(config, out=tmp_path / "given", precision="bf16-mixed", memory_format="channels_last")
    other = small_task()
    sp.fit(other, noise_store(), given)
    for one, two in zip(task.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_memory_formats_are_set_and_taken_back():
    conv = nn.Conv2d(4, 8, 3)
    set_memory_format(conv, "channels_last")
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    set_memory_format(conv, "contiguous")
    assert conv.weight.is_contiguous()


def test_weights_are_put_back_as_they_were():
    conv = nn.Conv2d(4, 8, 3)
    address = conv.weight.data_ptr()
    with in_memory_format(conv, "channels_last"):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert conv.weight.is_contiguous()
    assert conv.weight.data_ptr() == address


def test_unknown_formats_are_refused():
    with pytest.raises(ArgumentError, match="FitConfig.memory_format must be one of contiguous, channels_last, auto"):
        sp.FitConfig(out="run", memory_format="nhwc")
