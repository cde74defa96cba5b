"""What every pretext task is: a module with a loss, features by layer, an untrained twin and a saved contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from typing_extensions import Self

from ssl_pretext.channels import Channels, as_images
from ssl_pretext.config import check_room
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import EncoderShape, capture, create_encoder, feature_layers, measure_encoder
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import Registry, format_spec, parse_spec
from ssl_pretext.representations import OUTPUT, Backbone, Representation
from ssl_pretext.tasks.checkpoint import channel_spaces, fresh_weights, load_task, save_task

if TYPE_CHECKING:
    from ssl_pretext.tasks.card import Scores

__all__ = [
    "TASKS",
    "PretextTask",
    "TaskOutput",
    "channels_of_one_image",
    "create_task",
    "list_tasks",
    "register_task",
]


@dataclass(frozen=True)
class TaskOutput:
    """What a task makes of a batch.

    Attributes:
        loss: The scalar to minimise, the sum of `terms`.
        terms: The weighted terms by name of the loss.
        prediction: Normalised predicted channels, `(B, n, H, W)`; scores `(N, classes)` where a task tells classes
            apart, with any number of parts or copies `N` of the images.
        target: Normalised true ones, of the same shape; the right classes `(N,)`, `int64`.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    prediction: Tensor
    target: Tensor


def channels_of_one_image(first: str | Channels, second: str | Channels) -> tuple[Channels, Channels]:
    """Two groups of channels.

    Raises:
        ArgumentError: They are read from different images.
    """
    one, other = Channels.parse(first), Channels.parse(second)
    if one.space.image_channels != other.space.image_channels:
        raise ArgumentError(f"{one} and {other} are read from different images")
    return one, other


class PretextTask(nn.Module, PyTorchModelHubMixin, library_name="ssl_pretext", tags=["self-supervised"]):
    """Base class of the pretext tasks.

    A task takes image batches `(B, C, H, W)`, sRGB in `[0, 1]` or `uint8` (or the bands of its channel space),
    and is trained on `forward(images).loss`, for instance by `fit`. A task with one encoder calls `set_encoder` when
    it is made, and then has to say only what its loss is.

    Attributes:
        encoder: The network that is pretrained.
        encoder_name: What it was asked for by, its options in order; None for a module.
        channels: What it sees.
        shape: Of its output.
        image_size: Side of the images that it was trained on, or `(H, W)`, once `fit` has seen them; saved with it.
        resize: How those were resized.
        pretraining: What `fit` trained it with and on, once it has; saved with it.
    """

    name: ClassVar[str] = ""  # until it is registered
    encoder: nn.Module
    encoder_name: str | None = None
    channels: Channels
    shape: EncoderShape
    image_size: int | tuple[int, int] | None = None
    resize: str | None = None
    pretraining: dict[str, Any] | None = None

    def set_encoder(self, encoder: str | nn.Module, channels: str | Channels) -> None:
        """Builds the encoder for the channels that it will see, or takes a module as it is.

        Raises:
            ArgumentError: There are no channels, or the encoder does not give a map `(B, C, h, w)` of them.
        """
        self.channels = Channels.parse(channels)
        if not self.channels.names:
            raise ArgumentError(f"the encoder of {self.name} needs channels to see, got none of {channels!r}")
        # In the one spelling that loading gives back, or a card would call a saved task another network.
        self.encoder_name = format_spec(*parse_spec(encoder)) if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=self.channels.num_channels)
        self.shape = measure_encoder(self.encoder, self.channels.num_channels)

    def forward(self, images: Tensor) -> TaskOutput:
        """Predicts the hidden part of a batch and measures the loss.

        What is hidden at random is drawn from PyTorch's global generator, whose state a checkpoint holds, and in eval
        mode too, so that a validation loss is that of the same problem.
        """
        raise NotImplementedError

    def inputs(self, images: Tensor) -> Tensor:
        """What the encoder is shown of whole images: its normalised channels, missing values at their centre.

        Raises:
            ArgumentError: The images do not fit the task.
        """
        return self._filled(self._pick(self.channels, self._checked(images)))

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        """The feature map `(B, C, h, w)` of one of `layers()`, of the encoder's output by default.

        Raises:
            ArgumentError: The images do not fit the task.
            UnknownNameError: There is no such layer.
        """
        return self.feature_maps(images, [layer or OUTPUT])[layer or OUTPUT]

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The feature maps of several of `layers()`, or of `""`, the output, out of one pass of the encoder."""
        return capture(self.encoder, self.inputs(images), layers)

    def layers(self) -> list[str]:
        """What `features` accepts as `layer`, in running order."""
        return feature_layers(self.encoder, self.channels.num_channels)

    def networks(self) -> list[nn.Module]:
        """What `fit` compiles: the networks from channels to channels, without the losses."""
        return [self.encoder]

    def options(self) -> dict[str, Any]:
        """The arguments, JSON-ready, that make a task of this architecture; a module stands as None."""
        return {"encoder": self.encoder_name, "channels": str(self.channels)}

    def prepare(self, images: ImageStore) -> None:
        """Measures what the losses need of the training images, such as a prior; `fit` calls it before it starts."""

    def untrained(self, seed: int) -> Self:
        """The control: the same architecture with fresh weights.

        Args:
            seed: Draws the weights; the global random state is left as it was.

        Raises:
            ArgumentError: A part given as a module has parameters that it cannot draw again.
        """
        return fresh_weights(self, seed)

    @property
    def sees(self) -> Channels | None:
        """The channels that the encoder sees, where they are those of one space."""
        return vars(self).get("channels")

    def backbone(self) -> Backbone:
        """The frozen network, whose layers are `layers()` and its output."""
        return Backbone(
            self.feature_maps,
            describe={
                "kind": "task",
                "task": self.name,
                "options": self.options(),
                "channel_spaces": [space.describe() for space in channel_spaces(self)],
                "pretrained_at": self.image_size,
            },
            module=self,
            channels=self.sees,
            untrained=lambda seed: self.untrained(seed).backbone(),
        )

    def representation(self, layer: str | None = None, name: str | None = None) -> Representation:
        """The frozen features of a layer, for `evaluate`.

        Args:
            layer: One of `layers()`; the encoder's output by default.
            name: How it is called in messages; task and layer by default.

        Raises:
            UnknownNameError: There is no such layer.
        """
        if layer is not None and layer not in (known := self.layers()):
            raise UnknownNameError(f"{self.name} has no layer {layer!r}; its layers: {', '.join(known)}")
        return self.backbone().layer(layer or OUTPUT, name or f"{self.name}:{layer or 'encoder'}")

    def representations(self, layers: Sequence[str] | None = None) -> dict[str, Representation]:
        """The frozen features of several layers by name, which `evaluate` computes in one pass.

        Args:
            layers: Some of `layers()`; all of them by default.

        Raises:
            UnknownNameError: There is no such layer.
        """
        known, backbone = self.layers(), self.backbone()
        if unknown := [layer for layer in layers or () if layer not in known]:
            raise UnknownNameError(f"{self.name} has no layer {unknown[0]!r}; its layers: {', '.join(known)}")
        return {layer: backbone.layer(layer, layer) for layer in layers or known}

    def _checked(self, images: Tensor) -> Tensor:
        images = as_images(images, self.channels.space)
        smallest = max(1, round(self.shape.reduction))
        if min(images.shape[-2:]) < smallest:
            raise ArgumentError(
                f"{self.name} reduces images by {smallest} and needs at least {smallest}×{smallest} pixels, got "
                f"{tuple(images.shape[-2:])}; choose a larger image size"
            )
        return images

    @staticmethod
    def _pick(channels: Channels, images: Tensor) -> Tensor:
        return channels.select(channels.space.extract(images))

    def _filled(self, values: Tensor) -> Tensor:
        """Missing values at the centre of their band; sRGB has none."""
        return values if self.channels.space.is_color else values.nan_to_num(nan=0.0)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the weights, the contract and a model card; the options are those of `PyTorchModelHubMixin`.

        Raises:
            StorageError: There is no room for them; what was there is as it was.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, sum(value.nbytes for value in self.state_dict().values()))  # before the mixin removes files
        return super().save_pretrained(folder, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_task(self, save_directory)

    def generate_model_card(
        self,
        *,
        license: str = "unknown",
        datasets: Sequence[str] = (),
        report: "Scores | None" = None,
        place: str = "path/to/this/folder",
    ) -> ModelCard:
        """The `README.md` that `save_pretrained` and `push_to_hub` write; they take these as `model_card_kwargs`.

        Args:
            license: Of the weights, by its name on the Hugging Face hub, such as `"apache-2.0"`.
            datasets: Names on the hub of what it was pretrained on.
            report: A `ProbeReport`: its scores, those of the controls, and what follows.
            place: What `from_pretrained` loads it by.
        """
        from ssl_pretext.tasks.card import model_card

        return model_card(self, license=license, datasets=datasets, report=report, place=place)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's takes pickles and ignores missing keys
        cls, folder: str | Path, *, revision: str | None = None, parts: Mapping[str, nn.Module] | None = None
    ) -> Self:
        """Loads what `save_pretrained` wrote; the right class is found from the saved contract.

        Only JSON and safetensors are read, and strictly: every weight must be there, and no other.

        Args:
            folder: A folder, or the name of a repository on the Hugging Face hub.
            revision: Branch, tag or commit on the hub.
            parts: Untrained modules for parts that were given as modules, such as `{"encoder": MyNet()}`.

        Raises:
            MissingFileError: The folder or one of its files does not exist.
            CheckpointError: Contract and weights do not fit this library, each other, or the class asked for.
        """
        return load_task(cls, folder, revision=revision, parts=dict(parts or {}))


TASKS: Registry[PretextTask] = Registry("task")


def create_task(task: str, **options: Any) -> PretextTask:
    """Builds a task by name; the options are those of its class.

    Raises:
        UnknownNameError: There is no such task.
        ArgumentError: The task does not take these options.

    Examples:
        >>> import torch
        >>> task = create_task("colorization", encoder="autoencoder", target="rgb", losses={"smooth_l1": 1.0})
        >>> task(torch.rand(2, 3, 32, 32)).prediction.shape
        torch.Size([2, 3, 32, 32])
    """
    return TASKS.create(task, **options)


def list_tasks() -> list[str]:
    """Names that `create_task` knows."""
    return TASKS.names()


def register_task(name: str) -> Callable[[type[PretextTask]], type[PretextTask]]:
    """Files a task class under a name, as a decorator."""

    def add(task: type[PretextTask]) -> type[PretextTask]:
        task.name = name
        TASKS.register(name)(task)
        return task

    return add
