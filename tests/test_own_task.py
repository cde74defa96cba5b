"""A user's own task: the example of the documentation, and errors that are raised before training starts."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "own-task.md"
MOST_LINES = 40


@pytest.fixture
def palette():
    """The task class of the documentation page; the other code of the page runs in test_structure.py."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    assert len(code.splitlines()) < MOST_LINES
    scope: dict[str, type[sp.PretextTask]] = {}
    exec(code, scope)
    return scope["Palette"]


def images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    return nn.Conv2d(1, 4, 3, stride=2, padding=1)


def test_the_example_predicts_colors_that_the_encoder_does_not_see(palette):
    task = sp.create_task("palette", encoder=net(), bins=2)
    assert isinstance(task, palette)
    output = task(images())
    assert output.prediction.shape == output.target.shape == (8, 8)
    assert torch.allclose(output.target.sum(dim=1), torch.ones(8))
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    assert task(red).target.argmax(dim=1).item() == 0b100  # the upper bin of R, the lower bins of G and B
    light, dim = (sp.channels.join({sp.Channels("lab", "L"): torch.zeros(1, 1, 16, 16), sp.Channels("lab", "ab"): ab})
                  for ab in (torch.zeros(1, 2, 16, 16), torch.full((1, 2, 16, 16), 0.1)))  # fmt: skip
    assert torch.allclose(task.inputs(light), task.inputs(dim), atol=1e-5), "the encoder must not see colors"


def test_the_example_learns(palette):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    task, batch = palette(encoder, bins=2), images() * torch.linspace(0.2, 1, 8)[:, None, None, None]
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for _ in range(150):
        loss = task(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = task(batch).target.mean(dim=0)
    loss_of_the_mean = -(mean * mean.clamp(min=1e-9).log()).sum()
    assert loss < 0.8 * loss_of_the_mean


def error_of_fit_and_save(task, tmp_path):
    """Returns the error that `fit` and `save_pretrained` raise for a task, which must be the same."""
    store = sp.ImageStore.from_arrays(images(), [0] * 8)
    with pytest.raises(ArgumentError) as trained:
        sp.fit(task, store, sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu"))
    assert not (tmp_path / "run").exists(), "fit must raise before it creates the folder"
    with pytest.raises(ArgumentError) as saved:
        task.save_pretrained(tmp_path / "task")
    assert not list((tmp_path / "task").glob("*"))
    assert str(trained.value) == str(saved.value)
    return str(saved.value)


def test_options_that_do_not_fit_the_constructor_raise_before_training(palette, tmp_path):
    @sp.register_task("forgetful")
    class Forgetful(palette):
        def options(self):
            return super().options() | {"channels": "lab:L"}

    assert error_of_fit_and_save(Forgetful(net()), tmp_path) == (
        "options() of Forgetful returns encoder, bins, channels, but Forgetful() does not take these arguments: got an "
        "unexpected keyword argument 'channels'. options() must return the arguments that create the same task"
    )


def test_an_argument_without_an_attribute_raises_before_training(palette, tmp_path):
    @sp.register_task("careless")
    class Careless(palette):
        def __init__(self, encoder, *, hue=0.5):
            super().__init__(encoder)

    assert (
        "Careless() takes the argument hue, but its instances have no attribute hue, so it could not be saved"
        in error_of_fit_and_save(Careless(net()), tmp_path)
    )


@pytest.mark.parametrize("base", ["PretextTask", "Rotation"])
def test_an_unregistered_class_raises_before_training(base, tmp_path):
    class Nameless(getattr(sp if base == "PretextTask" else sp.tasks, base)):
        def __init__(self):
            super().__init__(**({"encoder": nn.Conv2d(3, 4, 1)} if base == "Rotation" else {}))

    assert (
        "the task class Nameless is not registered, so a saved copy of it could not be loaded; put "
        in error_of_fit_and_save(Nameless(), tmp_path)
    )


def test_a_forward_that_returns_a_tensor_is_named(palette, tmp_path):
    @sp.register_task("bare")
    class Bare(palette):
        def forward(self, images):
            return super().forward(images).loss

    store = sp.ImageStore.from_arrays(images(), [0] * 8)
    with pytest.raises(ArgumentError, match="forward.. of the task 'bare' must return a TaskOutput, got Tensor"):
        sp.fit(Bare(net()), store, sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu"))


def test_only_task_classes_are_registered():
    with pytest.raises(ArgumentError, match="needs a subclass of PretextTask, got <class 'int'>"):
        sp.register_task("number")(int)
    with pytest.raises(ArgumentError, match="'rotation' is registered already"):
        sp.register_task("rotation")(sp.Colorization)
    assert sp.Colorization.name == "colorization"
