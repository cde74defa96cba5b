"""Several tasks on one encoder, whose losses are added with weights (Doersch and Zisserman 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import check_weights, parse_spec, signature_of
from ssl_pretext.tasks.base import MULTI_TASK, TASKS, PretextTask, TaskOutput, register_task

__all__ = ["MultiTask"]


@register_task(MULTI_TASK)
class MultiTask(PretextTask):
    """Trains one encoder with a weighted sum of the losses of several tasks (Doersch and Zisserman 2017, section 3).

    `create_task("colorization + 0.5*rotation", encoder=...)` creates it, too. All tasks see the same channels, which
    are those of the tasks without an option `channels`, such as the lightness for colorization.

    Args:
        tasks: Weight of each task, by spec, such as `{"colorization": 1.0, "rotation": 0.5}`.
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees; by default those of the tasks that determine them, or else those of
            the first task.

    Raises:
        ArgumentError: There are fewer than two tasks, a task has two encoders, the tasks see different channels, or a
            weight is not positive.
        UnknownNameError: There is no task of this name.

    Examples:
        >>> task = MultiTask({"colorization": 1.0, "rotation": 0.5}, "autoencoder")
        >>> list(task(torch.rand(2, 3, 32, 32)).terms)
        ['colorization smooth_l1', 'rotation cross_entropy']
    """

    def __init__(
        self, tasks: Mapping[str, float], encoder: str | nn.Module, *, channels: str | Channels | None = None
    ) -> None:
        super().__init__()
        check_weights("task", "{'colorization': 1.0, 'rotation': 0.5}", tasks)
        if len(tasks) < 2:
            raise ArgumentError(f"{MULTI_TASK} needs at least two tasks, got {list(tasks)}")
        self.tasks = dict(tasks)
        parts: dict[str, PretextTask] = {}
        # The tasks that determine the channels come first, because the others can take any.
        for spec in sorted(tasks, key=_takes_channels):
            given = {} if channels is None or not _takes_channels(spec) else {"channels": channels}
            try:
                part = TASKS.create(spec, encoder=encoder, **given)
            except ArgumentError as error:
                if not parts:
                    raise
                raise ArgumentError(
                    f"{spec} cannot share the encoder of {next(iter(parts))}, which sees {self.channels!r}: {error}"
                ) from error
            if not isinstance(getattr(part, "channels", None), Channels):
                raise ArgumentError(f"{spec} cannot be part of {MULTI_TASK}, because it has more than one encoder")
            if not parts:
                self.encoder, self.encoder_name, self.shape = part.encoder, part.encoder_name, part.shape
                self.channels = part.channels
            if part.channels != self.channels:
                raise ArgumentError(
                    f"all parts of {MULTI_TASK} must see the same channels, but {spec} sees {part.channels!r} instead "
                    f"of {self.channels!r}"
                )
            encoder, channels = self.encoder, self.channels
            parts[spec] = part
        self.parts = nn.ModuleList(parts[spec] for spec in tasks)
        self.num_views = max(part.num_views for part in self._parts)
        self.register_state_dict_post_hook(_without_encoders_of_parts)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_encoders_of_parts)  # type: ignore[no-untyped-call]

    @property
    @override
    def default_augmentation(self) -> str:
        return max((part for part in self._parts), key=lambda part: part.num_views).default_augmentation

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        views = self.views(images)
        outputs = [part(images if part.num_views > 1 else views[0]) for part in self._parts]
        terms = {
            f"{spec} {name}": weight * term
            for (spec, weight), output in zip(self.tasks.items(), outputs, strict=True)
            for name, term in output.terms.items()
        }
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, outputs[0].prediction, outputs[0].target)

    @override
    def networks(self) -> list[nn.Module]:
        return list(dict.fromkeys(network for part in self._parts for network in part.networks()))

    @override
    def prepare(self, images: ImageStore) -> None:
        for part in self._parts:
            part.prepare(images)

    @override
    def _check_images(self, images: Tensor) -> Tensor:
        return self._parts[0]._check_images(images)

    def _used_channels(self) -> Sequence[Channels]:
        return [channels for part in self._parts for channels in part._used_channels()]

    @property
    def _parts(self) -> list[PretextTask]:
        return [cast(PretextTask, part) for part in self.parts]


def _without_encoders_of_parts(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    """Removes the weights of the encoder that the parts share from a state, which has them already."""
    for name in _names_in_parts(module, prefix):
        state.pop(name, None)


def _with_encoders_of_parts(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Adds the weights of the encoder for each part, where PyTorch expects them, to a state that is being loaded."""
    for name, encoder_name in _names_in_parts(module, prefix).items():
        if encoder_name in state:
            state[name] = state[encoder_name]


def _names_in_parts(module: nn.Module, prefix: str) -> dict[str, str]:
    """The names of the encoder's weights in each part, and in the task itself."""
    task = cast(MultiTask, module)
    return {
        f"{prefix}parts.{number}.encoder.{name}": f"{prefix}encoder.{name}"
        for number in range(len(task.parts))
        for name in task.encoder.state_dict()
    }


def _takes_channels(spec: str) -> bool:
    """Whether a task can see any channels, and its spec leaves them open."""
    name, given = parse_spec(spec)
    return "channels" in signature_of(TASKS.factory(name)).parameters and "channels" not in given
