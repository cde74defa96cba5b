"""The page of a pretraining run, `report.html`: its losses, examples of what the task predicts, and how to judge it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_pretext.data import ImageStore
from ssl_pretext.reporting.drawings import line_chart
from ssl_pretext.reporting.page import Gallery, Section, Tile, html_page, image_to_png
from ssl_pretext.spacing import evenly_spaced
from ssl_pretext.tasks import CrossChannelPrediction, PretextTask
from ssl_pretext.training.config import FitConfig

__all__ = ["HISTORY", "PAGE", "describe_training", "example_sections", "loss_sections", "run_page"]

HISTORY, PAGE = "history.json", "report.html"  # relative to the folder of the run
EXAMPLES = 4
NUMBERS = ("epochs", "images")  # settings of `TrainedOn` that the line about a run needs


def run_page(
    task: PretextTask,
    history: Sequence[Mapping[str, Any]],
    config: FitConfig,
    *,
    examples: ImageStore,
    num_images: int | None,
    parts: Sequence[Section],
) -> str:
    """Returns the page of a run as HTML.

    Args:
        task: The task.
        history: A row for each epoch until now, as `fit` returns them.
        config: Configuration of the run.
        examples: Images whose predictions are shown.
        num_images: Number of training images, or None if it is unknown.
        parts: Further sections.
    """
    done, quoted = len(history), shlex.quote(str(Path(config.out)))
    planned = f"{done} of {config.epochs}" if done < config.epochs else str(done)
    sections = [
        *loss_sections(history),
        *parts,
        *example_sections(task, examples),
        Section(
            "Does it help?",
            ["A falling loss does not show that the features are useful. This command measures it:"],
            code=f"ssl-pretext probe {quoted} --data LABELED_FOLDER",
        ),
        Section(
            "Settings",
            table=[{"setting": name, "value": str(value)} for name, value in config.to_dict().items()],
            collapsed=True,
        ),
    ]
    return html_page(f"Pretraining: {task.name}", sections, lead=_line(task, planned, num_images, examples.image_size))


def describe_training(task: PretextTask) -> str:
    """Says in one line what a task was trained on.

    Args:
        task: The task.
    """
    trained = task.trained_on
    if trained.settings is None or trained.image_size is None:
        return f"{_subject(task)}, without a record of its training"
    epochs, images = (trained.settings.get(name) for name in NUMBERS)
    return _line(task, "some" if epochs is None else str(epochs), images, trained.image_size)


def loss_sections(history: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Draws the losses and the learning rate of a run by epoch.

    Args:
        history: Rows as `fit` returns them.
    """
    if not history:
        return []

    def curve(value: Any) -> list[tuple[float, float]]:
        return [(row["epoch"], value(row)) for row in history if value(row) is not None]

    losses = {"training": curve(lambda row: row["train_loss"]), "validation": curve(lambda row: row["val_loss"])}
    last = history[-1]
    validation = "" if last["val_loss"] is None else f", and {last['val_loss']:.4g} on the validation images"
    caption = f"The mean loss in each epoch. After epoch {last['epoch']} it is {last['train_loss']:.4g}{validation}."
    sections = [Section("Loss", drawings=[line_chart(losses, x_label="epoch", y_label="loss", caption=caption)])]
    further = {}
    if len(last["terms"]) > 1:
        terms = {name: curve(lambda row, name=name: row["terms"].get(name)) for name in last["terms"]}
        further["The terms of the training loss, whose sum it is."] = ("loss", terms)
    if last.get("learning_rate") is not None:
        rates = {"learning rate": curve(lambda row: row.get("learning_rate"))}
        further["The learning rate at the end of each epoch."] = ("learning rate", rates)
    drawings = [
        line_chart(series, x_label="epoch", y_label=label, caption=caption)
        for caption, (label, series) in further.items()
    ]
    return [*sections, *([Section("Learning rate and terms", drawings=drawings, collapsed=True)] if drawings else [])]


def example_sections(task: PretextTask, images: ImageStore) -> list[Section]:
    """Shows a few images with the channels that a task predicts; there is no section if it predicts none.

    Args:
        task: The task.
        images: Images of which a few are shown, evenly spaced.
    """
    if not isinstance(task, CrossChannelPrediction):
        return []
    chosen = evenly_spaced(len(images), EXAMPLES)
    weight = next(task.parameters())
    shown = images.images(chosen).to(weight.device)
    if weight.dtype == torch.float64:  # during a run in double precision
        shown = (shown.float() / 255 if shown.dtype == torch.uint8 else shown).double()
    predicted, inputs = task.predict(shown), task.inputs(shown)
    if task.source.space.is_bounded:
        inputs = (inputs + 1) / 2
    truth = shown if task.target.space.is_color else shown[:, task.target.indices]
    tiles = []
    for source, guess, real in zip(inputs, predicted, truth, strict=True):
        tiles += [Tile(image_to_png(source), "input"), Tile(image_to_png(_as_seen(guess, real)), "predicted")]
        tiles.append(Tile(image_to_png(_as_seen(real, real)), "original"))
    caption = f"What the network sees, what {task.name} predicts from it, and the original."
    columns = 6 if len(chosen) > 1 else 3
    return [Section("Examples", galleries=[Gallery(tiles, columns, caption)])]


def _as_seen(image: Tensor, original: Tensor) -> Tensor:
    """A prediction on the scale of its original, so that the two can be compared by eye."""
    if original.dtype == torch.uint8:
        return image.float() / 255 if image.dtype == torch.uint8 else image
    if len(original) == 3 and original.min() >= 0 and original.max() <= 1:
        return image
    first, known = image[:1].float(), original[:1][original[:1].isfinite()].float()
    if not known.numel():
        return first.nan_to_num(0).clamp(0, 1)
    low, high = known.quantile(0.02), known.quantile(0.98)
    return ((first - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _subject(task: PretextTask) -> str:
    names = task.options().get("encoder")
    encoder = " and ".join(dict.fromkeys(names)) if isinstance(names, list) else names
    return f"{task.name} with the encoder {encoder or 'of your own'}"


def _line(task: PretextTask, epochs: str, images: int | None, size: int | tuple[int, int]) -> str:
    pixels = f"{size}×{size}" if isinstance(size, int) else f"{size[0]}×{size[1]}"
    number = "" if images is None else f"{images:,} "
    return (
        f"{_subject(task)}, trained for {epochs} epoch{'' if epochs == '1' else 's'} on {number}images of {pixels} px"
    )
