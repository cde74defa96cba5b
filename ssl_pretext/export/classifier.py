"""Fine-tuned networks with their classifier: training on all labels, saving, and loading as a plain module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.export.encoder import ImageEncoder, export_encoder
from ssl_pretext.probes.finetuning import FinetuneConfig, PooledLinear, finetuned
from ssl_pretext.probes.metrics import find_metrics, image_scores
from ssl_pretext.probes.problem import ClassProblem, NumberProblem, Problem, check_classes, check_targets
from ssl_pretext.probes.targets import as_images_with_targets, find_kind
from ssl_pretext.probes.training import run_on_test_images
from ssl_pretext.saving.contract import FORMAT, MAX_JSON_BYTES, WEIGHTS_FILE, check_format
from ssl_pretext.saving.weights import load_weights, save_weights
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import checksum_matches, read_json, with_checksum, write_json
from ssl_pretext.tasks.base import PretextTask

__all__ = ["ImageClassifier", "finetune_classifier", "is_classifier", "load_classifier"]

DESCRIPTION_FILE, TASK_FOLDER = "classifier.json", "task"


class ImageClassifier(nn.Module):
    """A fine-tuned network that takes whole images and predicts classes, labels or numbers.

    It is a plain PyTorch module that can be exported with `torch.export` or to ONNX.

    Args:
        encoder: The fine-tuned encoder.
        head: The layer on its feature map.
        names: Names of the outputs.
        target: What the outputs are: `"class"` (logits of classes), `"labels"` (logits of independent labels) or
            `"numbers"`.

    Attributes:
        num_features: Number of channels of the encoder's feature map.
    """

    def __init__(self, encoder: ImageEncoder, head: PooledLinear, names: Sequence[str], target: str) -> None:
        super().__init__()
        self.encoder, self.head, self.names, self.target = encoder, head, list(names), target
        self.num_features = encoder.num_features

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Computes the outputs `(B, K)` of images as the task takes them, in the order of `names`."""
        outputs: Tensor = self.head(self.encoder(images))
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        """Computes the encoder's feature map `(B, num_features, h, w)`."""
        return self.encoder.forward_features(images)


def finetune_classifier(
    task: PretextTask,
    train: Any,
    test: Any,
    folder: str | Path,
    *,
    target: str = "class",
    epochs: int = 30,
    seed: int = 0,
    training: FinetuneConfig | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Fine-tunes the encoder of a task with a classifier on all labeled images, and writes both to a folder.

    The task itself is not changed. `load_classifier` loads the folder, and `ssl-pretext export` converts it.

    Args:
        task: A pretrained task.
        train: Labeled images, as `evaluate` takes them.
        test: Labeled test images, which choose nothing.
        folder: Folder for the files.
        target: What is predicted: `"class"`, `"labels"` or `"numbers"`.
        epochs: Number of passes over the training images, the largest one if `training` has a `patience`.
        seed: Seed of everything that is random.
        training: Configuration of the training.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        The metrics on the test images by name.

    Raises:
        ArgumentError: The data or an option cannot be used; the message says why.
        StorageError: A file could not be written.
    """
    kind, device, folder = find_kind(target), resolve_device(device), Path(folder)
    if kind.has_pixels:
        raise ArgumentError(
            f"finetune_classifier() predicts a class, labels or numbers of an image, not target={target!r}"
        )
    (images, targets), (test_images, test_targets) = (as_images_with_targets(data, kind) for data in (train, test))
    names = check_targets(targets, test_targets)
    if kind.name == "class":
        check_classes(targets, test_targets, unseen_classes=False)
        seen = targets.values.unique()
        problem: Problem = ClassProblem(targets.values, test_targets.values, len(names), seen, all_classes=False)
        learned = [names[label] for label in seen.tolist()]
    else:
        pose = NumberProblem if kind.name == "numbers" else Problem
        problem, learned = pose(targets.values, test_targets.values, len(names)), names
    with finetuned(
        task.representation(),
        (images, problem.train),
        kind=kind,
        num_outputs=problem.num_outputs,
        epochs=epochs,
        seed=seed,
        training=training,
        device=device,
    ) as network:
        head = cast(PooledLinear, network.head)
        *_, outputs = run_on_test_images(
            lambda batch: network.outputs(test_images.images(batch).to(device)), problem.test.to(device), kind
        )
        predictions, truth = problem.predictions(outputs.cpu()), kind.truth(test_targets.values, len(names))
        metrics = find_metrics(kind.name, None)
        scores = {metric.name: float(image_scores(metric, predictions, truth).mean()) for metric in metrics}
        if isinstance(problem, NumberProblem):
            problem.in_units(head.linear)
        description = {
            "format": FORMAT,
            "target": kind.name,
            "names": learned,
            "num_features": head.linear.in_features,
            "image_size": images.image_size,
            "trained": {"images": len(images), "epochs": len(network.history), "seed": seed},
            "test": {"images": len(test_images), **scores},
        }
        (folder / DESCRIPTION_FILE).unlink(missing_ok=True)  # a folder with a description is complete
        task.save_pretrained(folder / TASK_FOLDER)
        save_weights(head, folder / WEIGHTS_FILE)
        write_json(folder / DESCRIPTION_FILE, with_checksum(description))
    return scores


def is_classifier(folder: str | Path) -> bool:
    """Whether a folder holds what `finetune_classifier` writes."""
    return (Path(folder) / DESCRIPTION_FILE).is_file()


def load_classifier(folder: str | Path) -> tuple[PretextTask, ImageClassifier]:
    """Loads a network that `finetune_classifier` wrote; only JSON and safetensors files are read.

    Args:
        folder: Folder of the network.

    Returns:
        The task with the fine-tuned encoder, and the network in eval mode.

    Raises:
        MissingFileError: The folder or one of its files does not exist.
        CheckpointError: A file is damaged, or the files do not fit each other or this version of the library.
    """
    folder = Path(folder)
    description = read_json(folder / DESCRIPTION_FILE, max_bytes=MAX_JSON_BYTES)
    task = PretextTask.from_pretrained(folder / TASK_FOLDER)
    try:
        check_format(description["format"], folder / DESCRIPTION_FILE, "fine-tune the network again")
        if not checksum_matches(description):
            raise CheckpointError(f"{folder / DESCRIPTION_FILE} has changed since it was saved; fine-tune it again")
        encoder = export_encoder(task)
        encoder.image_size = description["image_size"]
        if description["num_features"] != encoder.num_features:
            raise CheckpointError(
                f"the classifier in {folder} takes {description['num_features']} features, and the encoder has "
                f"{encoder.num_features}"
            )
        names = [str(name) for name in description["names"]]
        head = PooledLinear(encoder.num_features, len(names))
        load_weights(head, folder / WEIGHTS_FILE, "classifier")
        return task, ImageClassifier(encoder, head, names, str(description["target"])).eval()
    except (CheckpointError, MissingFileError):
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION_FILE} does not describe a classifier: {error}") from error
