"""The model card of a task: what it is, what it was trained on, and how it did beside its controls."""

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

The pretext task `{task}` of ssl_pretext, pretrained without labels: its encoder
gives features of images to classifiers that have few labels.

```python
import ssl_pretext as sp

task = sp.PretextTask.from_pretrained("{place}")
features = task.features(images)  # of (B, {image_channels}, H, W), {ranges}
encoder = sp.export_encoder(task)  # a plain module, to be fine-tuned
```

## What it is

{about}

## What it was trained on

{trained}

## Does it help?

{scores}

## License

{license}
"""


class Scores(Protocol):
    """What a card says of a `ProbeReport`."""

    @property
    def card(self) -> dict[str, Any]: ...

    def table(self) -> str: ...

    def summary(self) -> list[dict[str, Any]]: ...

    def sentences(self) -> list[str]: ...


class CardTask(Protocol):
    """The part of a `PretextTask` that a model card describes."""

    encoder_name: str | None
    trained_on: TrainedOn

    @property
    def name(self) -> str: ...

    @property
    def encoder(self) -> nn.Module: ...

    @property
    def image_space(self) -> ChannelSpace: ...

    def options(self) -> dict[str, Any]: ...


def model_card(
    task: CardTask, *, license: str, datasets: Sequence[str], report: Scores | None, place: str
) -> ModelCard:
    """The card, whose head the hub reads; see `PretextTask.generate_model_card`."""
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
    stated = "not stated by whoever saved it" if license == "unknown" else license
    body = BODY.format(
        title=title,
        task=task.name,
        place=place,
        image_channels=space.image_channels,
        ranges="sRGB in [0, 1] or uint8" if space.is_color else f"the bands of {space.name}",
        about=_about(task),
        trained=_trained(task, datasets),
        scores=_scores(report) if report else "Not measured yet: `ssl-pretext probe` does, beside the controls.",
        license=f"The weights: {stated}. The library: Apache-2.0.",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _about(task: CardTask) -> str:
    rows: list[dict[str, object]] = [{"": key, "value": f"`{value}`"} for key, value in task.options().items()]
    rows += [{"": "image size", "value": task.trained_on.image_size}, {"": "resized", "value": task.trained_on.resize}]
    parameters = sum(parameter.numel() for parameter in task.encoder.parameters())
    rows.append({"": "parameters of the encoder", "value": f"{parameters:,}"})
    return markdown_table(rows, ["", "value"])


def _trained(task: CardTask, datasets: Sequence[str]) -> str:
    named = ", ".join(datasets) or "Images that whoever saved it did not name"
    if task.trained_on.settings is None:
        return f"{named}. How is not known: `fit` did not train it."
    rows: list[dict[str, object]] = [
        {"": key, "value": f"`{value}`"} for key, value in task.trained_on.settings.items()
    ]
    return f"{named}.\n\n{markdown_table(rows, ['', 'value'])}"


def _scores(report: Scores) -> str:
    card, words = report.card, [f"- {sentence}" for sentence in report.sentences()]
    about = (
        f"A {card['probe']} probe on frozen features, trained on {card['train']['images']:,} labeled images of "
        f"{card['classes']} classes and tested on {card['test']['images']:,}; seeds: {len(card['seeds'])}. Beside it "
        "stand its controls; ± is half a 95% interval over the seeds."
    )
    return "\n\n".join([about, report.table(), "\n".join(words)])


def _results(report: Scores) -> list[EvalResult]:
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
        if row["representation"] in card["against"]  # the others are its controls
    ]
