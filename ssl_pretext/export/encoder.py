"""Export of a pretrained encoder, as a plain module on whole images and as files for other libraries."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.encoders import measure_encoder
from ssl_pretext.encoders.copies import detached_copy
from ssl_pretext.errors import ArgumentError
from ssl_pretext.export.native import NativeWeights, native_weights
from ssl_pretext.saving.contract import WEIGHTS_FILE
from ssl_pretext.saving.weights import save_tensors
from ssl_pretext.system.files import write_json, write_text
from ssl_pretext.tasks.base import PretextTask
from ssl_pretext.tasks.two_encoders import TwoEncoderTask
from ssl_pretext.version import __version__

__all__ = [
    "CONTRACT_FILE",
    "ImageEncoder",
    "describe_input",
    "export_encoder",
    "native_weights_of",
    "parts_of",
    "write_encoders",
]

CONTRACT_FILE = "encoder.json"
README = """\
# {name}

An encoder that was pretrained with the pretext task `{task}` of ssl_pretext {version}. It maps `inputs`
`(B, {count}, H, W)` to features `(B, {outputs}, H/{reduction:g}, W/{reduction:g})`.

```python
{code}
```

## Inputs

```json
{contract}
```

`inputs` are the listed channels of the images, normalized by `(value - center) / scale`. Missing values are 0. The
images are sRGB in `[0, 1]` for the spaces rgb, lab, ycbcr, gray and hed, and otherwise contain the channels themselves.
With ssl_pretext, `inputs = Channels.parse("{channels}").inputs(images)`.
{untrained}"""
JOINED_README = """\
# {names}

Two encoders that were pretrained together with the pretext task `{task}` of ssl_pretext {version}. Each has a folder
of its own, whose `README.md` describes its input. The features of both are joined:

```python
import torch

{code}
```

`inputs` is a list with the input of each encoder: {channels}.
"""


class ImageEncoder(nn.Module):
    """A pretrained encoder that takes whole images: it extracts its channels and computes the feature map.

    It is a plain PyTorch module: you can train it, add a head, save its `state_dict`, compile it, and export it with
    `torch.export` or to ONNX. An exported or compiled graph does not check the range of its images.

    Args:
        encoders: One or more networks from normalized channels to feature maps `(B, C, h, w)`.
        channels: The channels that each network sees.
        image_size: Height and width of the training images, as one number or `(H, W)`; None if it is unknown.

    Attributes:
        num_features: Number of channels of the feature map.
    """

    def __init__(
        self, encoders: Sequence[nn.Module], channels: Sequence[Channels], image_size: int | tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.channels, self.image_size = tuple(channels), image_size
        shapes = [measure_encoder(one, seen.num_channels) for one, seen in zip(encoders, channels, strict=True)]
        self.num_features = sum(shape.channels for shape in shapes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Computes the feature map, as `forward` does; networks of timm have a method of this name."""
        features: Tensor = self(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Computes the feature map `(B, C, h, w)` of images as the task takes them.

        The maps of several encoders are concatenated along the channels.
        """
        maps = []
        for encoder, channels in zip(self.encoders, self.channels, strict=True):
            maps.append(encoder(channels.inputs(images)))
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


def export_encoder(task: PretextTask, folder: str | Path | None = None) -> ImageEncoder:
    """Exports the pretrained encoder of a task, for example for fine-tuning.

    If a folder is given, three files are written to it. `model.safetensors` contains the weights, `encoder.json`
    describes the input that the encoder expects, and `README.md` contains code that loads the weights without this
    library. The weights of a timm encoder are those that
    `timm.create_model(name, in_chans=..., num_classes=0, checkpoint_path=...)` loads, those of a torchvision encoder
    have the names of torchvision's model, and those of other encoders are the encoder's `state_dict`.
    Each encoder of a task with two has these files in a subfolder, `encoder0` and `encoder1`, and the `README.md`
    beside them joins their features.

    Args:
        task: A trained task.
        folder: Folder for the files; None writes no files.

    Returns:
        A copy of the encoder in eval mode, which shares no weights with the task. It maps images `(B, C, H, W)`, sRGB
        in `[0, 1]` or `uint8` or the bands of the task's space, to feature maps `(B, c, h, w)`.

    Raises:
        ArgumentError: A folder is given, and timm now builds another network by the encoder's name.
        StorageError: A file could not be written.

    Examples:
        >>> from ssl_pretext.tasks import Colorization
        >>> encoder = export_encoder(Colorization("timm/resnet10t"))
        >>> encoder(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 512, 2, 2])
    """
    if not isinstance(task, PretextTask):
        raise ArgumentError(
            f"export_encoder() needs a pretext task, got {type(task).__name__}; PretextTask.from_pretrained() loads a "
            "saved one"
        )
    parts = parts_of(task)
    if folder is not None:
        write_encoders(task, Path(folder), [native_weights_of(part) for part in parts])
    encoders = [detached_copy(part.encoder).cpu() for part in parts]
    return ImageEncoder(encoders, [part.channels for part in parts], task.trained_on.image_size).eval()


def parts_of(task: PretextTask) -> list[PretextTask]:
    """Returns the tasks with one encoder that a task consists of: its two branches, or the task itself."""
    return [cast(PretextTask, branch) for branch in task.branches] if isinstance(task, TwoEncoderTask) else [task]


def native_weights_of(part: PretextTask) -> NativeWeights:
    """Converts the weights of a task's only encoder so that its library can load them."""
    return native_weights(part.encoder, part.encoder_name, part.channels.num_channels)


def write_encoders(
    task: PretextTask, folder: Path, natives: Sequence[NativeWeights], *, code: str = "", **more: Any
) -> None:
    """Writes the weights of each encoder, the description of its input, and a README.

    Args:
        task: The task of the encoders.
        folder: Folder for the files; two encoders have a subfolder each.
        natives: The weights of each encoder.
        code: Code for the README that computes more from the features.
        more: Further entries of the description.

    Raises:
        StorageError: A file could not be written.
    """
    parts = parts_of(task)
    if len(parts) == 1:
        _write_encoder(task, folder, replace(natives[0], code=natives[0].code + code), **more)
        return
    for number, (part, native) in enumerate(zip(parts, natives, strict=True)):
        _write_encoder(part, folder / f"encoder{number}", native)
    contract = {
        "encoder": [part.encoder_name for part in parts],
        "task": task.name,
        "inputs": [describe_input(part) for part in parts],
        **more,
    }
    write_json(folder / CONTRACT_FILE, contract)
    readme = JOINED_README.format(
        names=" and ".join(_name(part) for part in parts),
        task=task.name,
        version=__version__,
        code=_joined_code(natives) + code,
        channels=", ".join(f"`{part.channels}`" for part in parts),
    )
    write_text(folder / "README.md", readme)


def _joined_code(natives: Sequence[NativeWeights]) -> str:
    """Code that joins the features of several encoders, each from a folder of its own."""
    blocks = []
    for number, native in enumerate(natives):
        block = native.code.replace(WEIGHTS_FILE, f"encoder{number}/{WEIGHTS_FILE}")
        blocks.append(re.sub(r"\binputs\b", f"inputs[{number}]", block) + f"\nfeatures{number} = {native.output}")
    return "\n\n".join([*blocks, "features = torch.cat([features0, features1], dim=1)"])


def _write_encoder(task: PretextTask, folder: Path, native: NativeWeights, **more: Any) -> None:
    contract = {"encoder": task.encoder_name, "task": task.name, **describe_input(task), **more}
    save_tensors(native.weights, folder / WEIGHTS_FILE)
    write_json(folder / CONTRACT_FILE, contract)
    write_text(folder / "README.md", _readme(task, native, contract))


def describe_input(task: PretextTask) -> dict[str, Any]:
    """Describes the input of a task's only encoder, as JSON-serializable values."""
    channels, space = task.channels, task.channels.space
    center, scale = channels.statistics
    return {
        "space": space.name,
        "channels": list(channels.names),
        "center": center,
        "scale": scale,
        "image_size": task.trained_on.image_size,
        "resize": task.trained_on.resize,
    }


def _readme(task: PretextTask, native: NativeWeights, contract: dict[str, Any]) -> str:
    names = ", ".join(native.untrained)
    note = f"\nThe features do not depend on these weights, which are not trained: {names}.\n" if names else ""
    return README.format(
        name=_name(task),
        task=task.name,
        version=__version__,
        count=task.channels.num_channels,
        outputs=task.shape.channels,
        reduction=task.shape.reduction,
        code=native.code,
        contract=json.dumps(contract, indent=2, ensure_ascii=False),
        channels=task.channels,
        untrained=note,
    )


def _name(task: PretextTask) -> str:
    return task.encoder_name or type(task.encoder).__name__
