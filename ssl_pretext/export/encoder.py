"""Export of a pretrained encoder, as a plain module on whole images and as files for other libraries."""

import json
from collections.abc import Sequence
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

__all__ = ["CONTRACT_FILE", "ImageEncoder", "describe_input", "export_encoder", "write_encoder"]

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

    Args:
        task: A trained task.
        folder: Folder for the files; None writes no files.

    Returns:
        A copy of the encoder in eval mode, which shares no weights with the task. It maps images `(B, C, H, W)`, sRGB
        in `[0, 1]` or `uint8` or the bands of the task's space, to feature maps `(B, c, h, w)`.

    Raises:
        ArgumentError: A folder is given for a task with two encoders, or timm now builds another network by the
            encoder's name.
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
    parts = [cast(PretextTask, branch) for branch in task.branches] if isinstance(task, TwoEncoderTask) else [task]
    if folder is not None:
        if len(parts) > 1:
            raise ArgumentError(
                f"{task.name} has two encoders, but a folder can contain only one; call "
                "export_encoder(task.branches[0], folder), and the same for task.branches[1] with another folder"
            )
        write_encoder(task, Path(folder), native_weights(task.encoder, task.encoder_name, task.channels.num_channels))
    encoders = [detached_copy(part.encoder).cpu() for part in parts]
    return ImageEncoder(encoders, [part.channels for part in parts], task.trained_on.image_size).eval()


def write_encoder(task: PretextTask, folder: Path, native: NativeWeights, **more: Any) -> None:
    """Writes the weights of an encoder, the description of its input, and a README.

    Args:
        task: The task of the encoder.
        folder: Folder for the files.
        native: The weights.
        more: Further entries of the description.

    Raises:
        StorageError: A file could not be written.
    """
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
        name=task.encoder_name or type(task.encoder).__name__,
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
