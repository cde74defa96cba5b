"""The model card of a task: its configuration, its training, and its probe scores next to those of the controls."""

from collections.abc import Sequence
from typing import Any, Protocol

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from ssl_pretext.channels import ChannelSpace
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.saving.contract import TrainedOn

__all__ = ["Scores", "model_card"]

BODY = """\
# {title}

An encoder that was pretrained with the pretext task `{task}` of the library
ssl_pretext, on images without labels. Its features can be used to train a
classifier on few labeled images.

```python
import ssl_pretext as sp

task = sp.PretextTask.from_pretrained("{place}")
features = task.features(images)  # images: (B, {image_channels}, H, W), {ranges}
encoder = sp.export_encoder(task)  # a plain PyTorch module for fine-tuning
```

## Configuration

{about}

## Training

{trained}

## Evaluation

{scores}

## License

{license}
"""

NOT_EVALUATED = (
    "Not evaluated yet. The command `ssl-pretext probe` trains a small classifier on the features, and on those of the "
    "controls for comparison."
)


class Scores(Protocol):
    """The part of a `ProbeReport` that a model card shows."""

    @property
    def card(self) -> dict[str, Any]:
        """Settings of the evaluation: probe, images, classes, seeds, and the controls of each representation."""

    def table(self) -> str:
        """Returns the accuracies and their differences from the controls as a Markdown table."""

    def summary(self) -> list[dict[str, Any]]:
        """Returns one row of mean scores per representation."""

    def sentences(self) -> list[str]:
        """Returns the conclusions from the comparisons with the controls."""


class CardTask(Protocol):
    """The part of a `PretextTask` that a model card describes."""

    encoder_name: str | None
    trained_on: TrainedOn

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def encoder(self) -> nn.Module:
        """The pretrained network."""

    @property
    def image_space(self) -> ChannelSpace:
        """Channel space of the images that the task takes."""

    def options(self) -> dict[str, Any]:
        """Returns the constructor arguments of the task."""


def model_card(
    task: CardTask, *, license: str, datasets: Sequence[str], report: Scores | None, place: str
) -> ModelCard:
    """Creates the model card, with the metadata that the Hugging Face hub reads.

    The arguments are those of `PretextTask.generate_model_card`.
    """
    title = f"{task.name} with {task.encoder_name or type(task.encoder).__name__}"
    data = ModelCardData(
        model_name=title,
        library_name="ssl_pretext",
        license=license,
        pipeline_tag="image-feature-extraction",
        tags=["self-supervised", "pretext-task", task.name],
        datasets=list(datasets) or None,
        metrics=["accuracy"] if report else None,
        eval_results=_results(report) if report else None,
    )
    space = task.image_space
    stated = "not stated" if license == "unknown" else license
    body = BODY.format(
        title=title,
        task=task.name,
        place=place,
        image_channels=space.image_channels,
        ranges="sRGB in [0, 1] or uint8" if space.is_color else f"the bands of {space.name}",
        about=_about(task),
        trained=_trained(task, datasets),
        scores=_scores(report) if report else NOT_EVALUATED,
        license=f"Weights: {stated}. Library: Apache-2.0.",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _about(task: CardTask) -> str:
    """Returns the options of a task and the size of its encoder as a Markdown table."""
    rows: list[dict[str, object]] = [{"": key, "value": f"`{value}`"} for key, value in task.options().items()]
    rows += [{"": "image size", "value": task.trained_on.image_size}, {"": "resized", "value": task.trained_on.resize}]
    parameters = sum(parameter.numel() for parameter in task.encoder.parameters())
    rows.append({"": "parameters of the encoder", "value": f"{parameters:,}"})
    return markdown_table(rows, ["", "value"])


def _trained(task: CardTask, datasets: Sequence[str]) -> str:
    """Returns the data sets and the training settings as Markdown."""
    named = f"Data: {', '.join(datasets) or 'not stated'}"
    if task.trained_on.initialized_from is not None:
        named += f". The training started from weights with the SHA-256 hash `{task.trained_on.initialized_from}`"
    if task.trained_on.settings is None:
        return f"{named}. The training settings are unknown, because the task was not trained with `fit`."
    rows: list[dict[str, object]] = [
        {"": key, "value": f"`{value}`"} for key, value in task.trained_on.settings.items()
    ]
    return f"{named}.\n\n{markdown_table(rows, ['', 'value'])}"


def _scores(report: Scores) -> str:
    """Returns the table of a report as Markdown, with an explanation before it and the conclusions after it."""
    card, conclusions = report.card, [f"- {sentence}" for sentence in report.sentences()]
    about = (
        f"Test accuracy of a {card['probe']} probe on frozen features, compared with controls. The probe was trained "
        f"on {card['train']['images']:,} labeled images of {card['classes']} classes and tested on "
        f"{card['test']['images']:,} images. Number of seeds: {len(card['seeds'])}. The number after ± is half the "
        "width of the 95% interval over the seeds."
    )
    return "\n\n".join([about, report.table(), "\n".join(conclusions)])


def _results(report: Scores) -> list[EvalResult]:
    """Returns the scores of the pretrained representations as metadata for the hub, without those of the controls."""
    card = report.card
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=f"{card['test']['images']} images of {card['classes']} classes",
            dataset_args={"sha256": card["test"]["sha256"]},
            metric_type="accuracy",
            metric_name=f"{card['probe']} probe on frozen features, {row['representation']}",
            metric_value=row["test_accuracy_mean"],
        )
        for row in report.summary()
        if row["representation"] in card["against"]  # the other rows are controls
    ]
