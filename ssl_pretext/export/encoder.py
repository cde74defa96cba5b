"""A pretrained encoder leaves: as a plain module on whole images, and as a file that its own library loads."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.export.native import Native, as_native
from ssl_pretext.saving.contract import WEIGHTS_FILE
from ssl_pretext.system.files import atomic_write, write_json, write_text
from ssl_pretext.tasks.base import PretextTask
from ssl_pretext.tasks.two_encoders import TwoEncoderTask
from ssl_pretext.version import __version__

__all__ = ["ImageEncoder", "export_encoder"]

README = """\
# {name}

The encoder of the pretext task `{task}`, pretrained with ssl_pretext {version}. It maps `inputs`
`(B, {count}, H, W)` to features `(B, {outputs}, H/{reduction:g}, W/{reduction:g})`.

```python
{code}
```

## What it was shown

```json
{contract}
```

`inputs` are the named channels of an image, each as `(value - center) / scale`. Images are sRGB in `[0, 1]` unless the
space is one of bands; missing values are 0. With ssl_pretext: `inputs = Channels.parse("{channels}").extract(images)`.
{fresh}"""


class ImageEncoder(nn.Module):
    """A pretrained encoder on whole images: takes its channels out of them, and gives its feature map.

    All of it is plain PyTorch: train it, put a head behind it, save its `state_dict`.

    Args:
        encoders: Networks from normalized channels to maps `(B, C, h, w)`.
        channels: What each of them sees.
        image_size: Side of the images that they were trained on, or `(H, W)`, where that is known.
    """

    def __init__(
        self, encoders: Sequence[nn.Module], channels: Sequence[Channels], image_size: int | tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.channels, self.image_size = tuple(channels), image_size

    def forward(self, images: Tensor) -> Tensor:
        """The feature map `(B, C, h, w)`, those of several encoders joined, of images as the task takes them."""
        maps = []
        for encoder, channels in zip(self.encoders, self.channels, strict=True):
            maps.append(encoder(channels.inputs(images)))
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


def export_encoder(task: PretextTask, folder: str | Path | None = None) -> ImageEncoder:
    """The pretrained encoder of a task, to be fine-tuned elsewhere.

    The folder gets `model.safetensors`, `encoder.json` (what the encoder is to be shown) and a `README.md` with the
    code that loads it without this library: weights of a timm encoder are those of
    `timm.create_model(name, in_chans=..., num_classes=0, checkpoint_path=...)`, those of a torchvision one have the
    names of its constructor, and others are the encoder's `state_dict`.

    Args:
        task: A trained task; the module returned is a copy, in eval mode, that shares nothing with it.
        folder: Where to write the files, if at all.

    Returns:
        A module from images, sRGB in `[0, 1]` or `uint8` (or the bands of the task's space), to `(B, C, h, w)`.

    Raises:
        ArgumentError: Files are asked for of a task with two encoders; export each of `task.branches`.

    Examples:
        >>> from ssl_pretext.tasks import Colorization
        >>> encoder = export_encoder(Colorization("timm/resnet10t"))
        >>> encoder(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 512, 2, 2])
    """
    parts = [cast(PretextTask, branch) for branch in task.branches] if isinstance(task, TwoEncoderTask) else [task]
    if folder is not None:
        if len(parts) > 1:
            raise ArgumentError(
                f"{task.name} has two encoders, and a file holds one: call export_encoder(task.branches[0], folder), "
                "and the same for task.branches[1] with another folder"
            )
        _write(task, Path(folder))
    encoders = [copy.deepcopy(part.encoder).cpu() for part in parts]
    return ImageEncoder(encoders, [part.channels for part in parts], task.trained_on.image_size).eval()


def _write(task: PretextTask, folder: Path) -> None:
    from safetensors.torch import save_file

    native = as_native(task.encoder, task.encoder_name, task.channels.num_channels)
    contract = _contract(task)
    with atomic_write(folder / WEIGHTS_FILE) as part:
        save_file(native.weights, part, metadata={"format": "pt"})
    write_json(folder / "encoder.json", contract)
    write_text(folder / "README.md", _readme(task, native, contract))


def _contract(task: PretextTask) -> dict[str, Any]:
    """What the encoder is to be shown, JSON-ready."""
    channels, space = task.channels, task.channels.space
    places = [space.channels.index(name) for name in channels.names]
    return {
        "encoder": task.encoder_name,
        "task": task.name,
        "space": space.name,
        "channels": list(channels.names),
        "center": [space.center[place] for place in places],
        "scale": [space.scale[place] for place in places],
        "image_size": task.trained_on.image_size,
        "resize": task.trained_on.resize,
    }


def _readme(task: PretextTask, native: Native, contract: dict[str, Any]) -> str:
    fresh = ", ".join(native.fresh)
    note = f"\nThe features do not depend on these weights, which are not trained: {fresh}.\n" if fresh else ""
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
        fresh=note,
    )
