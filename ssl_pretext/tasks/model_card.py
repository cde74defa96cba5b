"""The model card of a task: its configuration, its training, and its probe scores next to those of the controls."""

import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from ssl_pretext.channels import ChannelSpace
from ssl_pretext.reporting.page import Verdict, markdown_table
from ssl_pretext.saving.contract import TrainedOn

__all__ = ["CARD_FILE", "Scores", "model_card", "with_scores"]

CARD_FILE = "README.md"

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

SCORES = re.compile(r"(?<=^## Evaluation\n\n).*?(?=\n\n## |\Z)", re.DOTALL | re.MULTILINE)
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

    def verdict(self) -> Verdict:
        """Returns the answer to the question whether the first representation is better than its controls."""


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
    title = f"{task.name} with {_encoders(task)}"
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


def with_scores(text: str, report: Scores) -> str | None:
    """Returns a model card with the scores of a report in place of those before.

    Args:
        text: The text of a card that `model_card` made; its other sections may have been edited.
        report: The report.

    Returns:
        The text, or None if the card has no section `Evaluation` any more.
    """
    card = ModelCard(text, ignore_metadata_errors=True)
    if not SCORES.search(card.text):
        return None
    data = cast(ModelCardData, card.data)
    data.metrics, data.eval_results = ["accuracy"], _results(report)
    body = SCORES.sub(lambda _: _scores(report), card.text.lstrip("\n"))
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _encoders(task: CardTask) -> str:
    """The name of the encoder, the names of two, or the class of a module."""
    named = task.options().get("encoder")
    names = [named] if isinstance(named, str) else named
    return " and ".join(dict.fromkeys(names)) if isinstance(names, list) else type(task.encoder).__name__


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
    card, found = report.card, report.verdict()
    answer = f"**{found.question} {found.answer}.** {' '.join(found.sentences)}"
    classes = f" of {card['classes']} classes" if card["target"] == "class" else ""
    about = (
        f"Scores of a {card['probe']} probe on frozen features, compared with controls. Labeled images were chosen "
        f"from {card['train']['images']:,}{classes}, and the probe was tested on {card['test']['images']:,} images. "
        f"Number of seeds: {len(card['seeds'])}. The number after ± is half the width of the 95% interval."
    )
    conclusions = "\n".join(f"- {sentence}" for sentence in report.sentences())
    return "\n\n".join([answer, about, report.table(), conclusions])


def _results(report: Scores) -> list[EvalResult]:
    """Returns the scores of the pretrained representations as metadata for the hub, without those of the controls."""
    card = report.card
    if card["target"] != "class":
        return []
    described = {name: ones[0] for name, ones in card["representations"].items()}
    controls = [one for name, one in described.items() if name not in card["against"]]
    # A row of features that are joined with a control is no result of this model alone.
    own = [name for name in card["against"] if not any(part in controls for part in described[name].get("parts", []))]
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
        if row["representation"] in own
    ]
