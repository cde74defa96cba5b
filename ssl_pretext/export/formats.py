"""Export of encoders and fine-tuned networks to the formats of other programs, each with a description of its input."""

import io
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.from_torchvision import TorchvisionEncoder
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.export.classifier import ImageClassifier
from ssl_pretext.export.encoder import (
    ImageEncoder,
    describe_input,
    export_encoder,
    native_weights_of,
    parts_of,
    write_encoders,
)
from ssl_pretext.export.native import is_whole, library_weights
from ssl_pretext.saving.weights import save_tensors
from ssl_pretext.system.files import write_bytes, write_json
from ssl_pretext.tasks.base import PretextTask
from ssl_pretext.version import __version__

__all__ = ["FORMATS", "export_network"]

IMAGE_SIZE = 64  # of the example, if neither the training nor the encoder has a size
TOLERANCE = 1e-3  # largest difference from PyTorch, as a fraction of the largest output
CLASSIFIER_FILE = "classifier.safetensors"
CLASSIFIER_CODE = """

from safetensors.torch import load_file

classifier = load_file("classifier.safetensors")  # of the outputs that encoder.json names
scores = features.mean(dim=(2, 3)) @ classifier["weight"].T + classifier["bias"]"""


def export_network(task: PretextTask, path: str | Path, *, to: str, classifier: ImageClassifier | None = None) -> None:
    """Exports the encoder of a task, or a fine-tuned network, for use without this library.

    | `to` | what is written | input |
    |---|---|---|
    | `"timm"`, `"torchvision"` | folder with weights for the library, `encoder.json` and `README.md` | channels |
    | `"safetensors"` | the same for any encoder | channels |
    | `"onnx"`, `"torch-export"` | one file, and a description in `<file>.json` | whole images |

    In the folders, each of two encoders has a subfolder, `encoder0` and `encoder1`. A classifier that is no part of a
    network of the library has a file of its own, `classifier.safetensors`.

    Channels are normalized as `encoder.json` says. The graphs of ONNX and `torch.export` take whole images, select
    and normalize the channels themselves, and take batches of any length and images of any size that the network takes.
    They are run once and compared with PyTorch, ONNX by onnxruntime if it is installed.

    Args:
        task: A pretrained task, or the fine-tuned one of `load_classifier`.
        path: The file or the folder to write.
        to: Name of the format, one of `FORMATS`.
        classifier: The fine-tuned network of `load_classifier`, to be exported with its classifier.

    Raises:
        ArgumentError: There is no such format, the encoder cannot be exported to it, or the exported graph computes
            other values than PyTorch.
        MissingDependencyError: A package for the format is not installed.
        StorageError: A file could not be written.

    Examples:
        >>> import tempfile
        >>> from ssl_pretext.tasks import Colorization
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_network(Colorization("timm/resnet10t"), folder, to="timm")
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['README.md', 'encoder.json', 'model.safetensors']
    """
    if to not in FORMATS:
        raise ArgumentError(f"to of export_network() must be one of {', '.join(FORMATS)}; got {to!r}")
    FORMATS[to](task, Path(path), classifier)


def _write_graph(
    task: PretextTask, path: Path, classifier: ImageClassifier | None, serialize: "Callable[..., tuple[bytes, Any]]"
) -> None:
    """Writes a graph of whole images, which `serialize` makes and checks, and the description of its input."""
    if path.is_dir():
        raise ArgumentError(f"{path} is a folder, and this format is one file; choose the name of a file")
    network = classifier or export_encoder(task)
    network.eval()
    size = _size(network.image_size if isinstance(network, ImageEncoder) else network.encoder.image_size, task)
    content, checked = serialize(network, _images(task, 2, size), _images(task, 3, size))
    write_bytes(path, content, sync=True)
    description = _describe(task, classifier) | {"checked": checked}
    write_json(path.with_name(f"{path.name}.json"), description)


def _describe(task: PretextTask, classifier: ImageClassifier | None) -> dict[str, Any]:
    space = task.image_space
    return {
        "library_version": __version__,
        "task": task.name,
        "input": {
            "name": "images",
            "shape": ["batch", space.image_channels, "height", "width"],
            "dtype": "float32",
            "values": "sRGB in [0, 1]" if space.is_color else f"the bands {', '.join(space.channels)} in their units",
            "image_size": task.trained_on.image_size if classifier is None else classifier.encoder.image_size,
            "resize": task.trained_on.resize,
        },
        "inside": [
            {key: describe_input(part)[key] for key in ("space", "channels", "center", "scale")}
            for part in parts_of(task)
        ],
        "output": {"name": "features", "shape": ["batch", "channels", "h", "w"]}
        if classifier is None
        else {"name": "scores", "shape": ["batch", len(classifier.names)], **_outputs(classifier)},
    }


def _outputs(classifier: ImageClassifier | None) -> dict[str, Any]:
    return {} if classifier is None else {"target": classifier.target, "names": classifier.names}


def _onnx(network: nn.Module, example: Tensor, other: Tensor) -> tuple[bytes, Any]:
    """Returns the file in ONNX, and how it was checked; None if onnxruntime is not installed."""
    try:
        import onnxscript  # noqa: F401 (PyTorch needs it)
    except ImportError as error:
        raise MissingDependencyError(
            "export to ONNX needs onnx and onnxscript: pip install 'ssl-pretext[onnx]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=["images"],
            output_names=["scores" if isinstance(network, ImageClassifier) else "features"],
            dynamic_shapes={"images": _any_size()},
            dynamo=True,
            verbose=False,
        )
    content: bytes = program.model_proto.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        return content, None
    session = onnxruntime.InferenceSession(content)
    (found,) = session.run(None, {"images": other.numpy()})
    return content, {"by": f"onnxruntime {version('onnxruntime')}", **_compare(torch.from_numpy(found), network, other)}


def _torch_export(network: nn.Module, example: Tensor, other: Tensor) -> tuple[bytes, Any]:
    """Returns the file of `torch.export`, and how it was checked."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes={"images": _any_size()}), buffer)
        buffer.seek(0)
        found = torch.export.load(buffer).module()(other)
    return buffer.getvalue(), {"by": f"torch {version('torch')}", **_compare(found, network, other)}


def _any_size() -> dict[int, Any]:
    return dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)  # batch, height, width


@torch.no_grad()
def _compare(found: Tensor, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Returns the largest difference from PyTorch, and raises if it is more than rounding."""
    expected = network(images)
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * largest:
        raise ArgumentError(
            f"the exported graph differs from PyTorch by up to {difference:.2g}, with outputs up to {largest:.2g}; "
            "nothing was written, because the exporter of this version of PyTorch does not support the network"
        )
    return {"largest_difference": difference, "largest_output": largest}


def _images(task: PretextTask, count: int, size: tuple[int, int]) -> Tensor:
    """Random images as the task takes them, always the same."""
    space, generator = task.image_space, torch.Generator().manual_seed(count)
    shape = (count, space.image_channels, *size)
    if space.is_color:
        return torch.rand(shape, generator=generator)
    center, scale = (torch.tensor(numbers)[:, None, None] for numbers in space.statistics)
    return center + scale * torch.randn(shape, generator=generator)


def _size(trained: int | tuple[int, int] | None, task: PretextTask) -> tuple[int, int]:
    size = trained or getattr(task.encoder, "image_size", None) or IMAGE_SIZE
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _write_weights(task: PretextTask, path: Path, classifier: ImageClassifier | None, library: str | None) -> None:
    """Writes a folder with the weights of the encoders and, if there is one, of the classifier."""
    if path.is_file():
        raise ArgumentError(f"{path} is a file, and this format is a folder of files; choose a folder")
    parts, more = parts_of(task), _outputs(classifier)
    if classifier is not None:
        more["image_size"] = classifier.encoder.image_size
    layer = None if classifier is None else classifier.head.folded()
    if classifier is not None and library is None and any(_is_pooled(part) for part in parts):
        library = "torchvision"  # its features can only be read with hooks, so the classifier is a part of the network
    # A classifier of two encoders, or of an inner layer, is no part of a network of the library.
    inside = library is not None and len(parts) == 1 and is_whole(task.encoder, task.encoder_name)
    if layer is not None and not inside and any(_is_pooled(part) for part in parts):
        raise ArgumentError(
            f"cannot export the classifier of {task.name} to torchvision, because it reads two encoders; export it to "
            "onnx or torch-export"
        )
    natives = [
        native_weights_of(part)
        if library is None
        else library_weights(
            part.encoder,
            part.encoder_name,
            part.channels.num_channels,
            library=library,
            classifier=layer if inside else None,
            image_size=_size(more.get("image_size", task.trained_on.image_size), part)[0],
        )
        for part in parts
    ]
    beside = layer is not None and not inside
    write_encoders(task, path, natives, code=CLASSIFIER_CODE if beside else "", **more)
    if layer is not None and beside:
        save_tensors({key: value.detach() for key, value in layer.state_dict().items()}, path / CLASSIFIER_FILE)


def _is_pooled(part: PretextTask) -> bool:
    return isinstance(part.encoder, TorchvisionEncoder)


FORMATS: Mapping[str, Callable[[PretextTask, Path, ImageClassifier | None], None]] = {
    "timm": lambda task, path, classifier: _write_weights(task, path, classifier, "timm"),
    "torchvision": lambda task, path, classifier: _write_weights(task, path, classifier, "torchvision"),
    "safetensors": lambda task, path, classifier: _write_weights(task, path, classifier, None),
    "onnx": lambda task, path, classifier: _write_graph(task, path, classifier, _onnx),
    "torch-export": lambda task, path, classifier: _write_graph(task, path, classifier, _torch_export),
}
