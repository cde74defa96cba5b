"""The base class of every pretext task: a loss, features by layer, an untrained copy and a saved contract."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from typing_extensions import Self

from ssl_pretext.channels import Channels, ChannelSpace, as_images
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import EncoderShape, create_encoder, feature_layers, feature_maps, measure_encoder
from ssl_pretext.encoders.untrained import reinitialized
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.registry import Registry, format_spec, parse_spec
from ssl_pretext.representations.base import OUTPUT, Backbone, BackboneOwner
from ssl_pretext.saving.contract import WEIGHTS_FILE, TrainedOn, write_contract
from ssl_pretext.saving.weights import save_weights
from ssl_pretext.system.files import check_free_space
from ssl_pretext.tasks.checkpoint import check_loadable, load_task, options_without_weights
from ssl_pretext.tasks.model_card import Scores, model_card
from ssl_pretext.version import __version__

__all__ = [
    "TASKS",
    "PretextTask",
    "TaskOutput",
    "channels_of_one_image",
    "create_task",
    "list_tasks",
    "register_task",
]

TASKS: "Registry[PretextTask]" = Registry("task")


@dataclass(frozen=True)
class TaskOutput:
    """The result of a task on a batch of images.

    Attributes:
        loss: The scalar to minimize, which is the sum of `terms`.
        terms: The weighted terms by name of the loss.
        prediction: The predicted channels, normalized, `(B, n, H, W)`. For a task that classifies, the logits
            `(N, classes)`, with `N` parts or copies of the images.
        target: The true channels, normalized, of the same shape. For a task that classifies, the true classes `(N,)`,
            `int64`.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    prediction: Tensor
    target: Tensor


def channels_of_one_image(first: str | Channels, second: str | Channels) -> tuple[Channels, Channels]:
    """Parses two groups of channels that are read from the same images.

    Raises:
        ArgumentError: They are read from images with different numbers of channels.
    """
    one, other = Channels.parse(first), Channels.parse(second)
    if one.space.image_channels != other.space.image_channels:
        raise ArgumentError(f"{one} and {other} are read from different images")
    return one, other


class PretextTask(nn.Module, PyTorchModelHubMixin, BackboneOwner, library_name="ssl_pretext", tags=["self-supervised"]):
    """Base class of the pretext tasks.

    A task takes image batches `(B, C, H, W)`: sRGB in `[0, 1]` or `uint8`, or the bands of its channel space. It is
    trained on `forward(images).loss`, for instance by `fit`. A subclass with one encoder calls `set_encoder` in its
    constructor, keeps each argument of the constructor in an attribute of the same name, and implements `forward`.

    Attributes:
        encoder: The network that is pretrained.
        encoder_name: The name that the encoder was asked for by, with its options in order; None for a module.
        channels: The channels that the encoder sees.
        shape: The shape of the encoder's output.
        trained_on: What the task was trained on, which is saved with it.
    """

    name: ClassVar[str] = ""  # until the class is registered
    encoder: nn.Module
    encoder_name: str | None = None
    channels: Channels
    shape: EncoderShape
    trained_on: TrainedOn = TrainedOn()

    def set_encoder(self, encoder: str | nn.Module, channels: str | Channels) -> None:
        """Builds the encoder for the channels that it will see, or takes a module as it is.

        Raises:
            ArgumentError: There are no channels, or the encoder does not return a map `(B, C, h, w)` for them.
        """
        self.channels = Channels.parse(channels)
        if not self.channels.names:
            raise ArgumentError(f"the encoder of {self.name} needs channels to see, got none of {channels!r}")
        # In the spelling that loading gives back, or a probe card would call a saved task another network.
        self.encoder_name = format_spec(*parse_spec(encoder)) if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=self.channels.num_channels)
        self.shape = measure_encoder(self.encoder, self.channels.num_channels)

    def forward(self, images: Tensor) -> TaskOutput:
        """Predicts the hidden part of a batch and computes the loss.

        Random choices are drawn from PyTorch's global generator, whose state a checkpoint holds. They are drawn in eval
        mode too, so that the validation loss measures the same problem as the training loss.
        """
        raise NotImplementedError

    def inputs(self, images: Tensor) -> Tensor:
        """What the encoder is shown of whole images: its channels, normalized, with missing values at the center.

        Raises:
            ArgumentError: The images do not fit the task.
        """
        return self._filled(self._pick(self.channels, self._checked(images)))

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        """The feature map `(B, C, h, w)` of one of `layers()`, by default of the encoder's output.

        Raises:
            ArgumentError: The images do not fit the task.
            UnknownNameError: The encoder has no such layer.
        """
        return self.feature_maps(images, [layer or OUTPUT])[layer or OUTPUT]

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The feature maps of several of `layers()` in one pass of the encoder; `""` is its output."""
        return feature_maps(self.encoder, self.inputs(images), layers)

    def layers(self) -> list[str]:
        """Names of the encoder's layers that give feature maps, in running order."""
        return feature_layers(self.encoder, self.channels.num_channels)

    def networks(self) -> list[nn.Module]:
        """The networks that `fit` compiles, which map channels to channels; the losses are not among them."""
        return [self.encoder]

    def options(self) -> dict[str, Any]:
        """The arguments that make a task of this architecture, JSON-ready, by the constructor's signature.

        Each is read from the attribute of its name. An encoder that was given as a module is None.

        Raises:
            ArgumentError: An argument of the constructor is kept in no attribute of its name.
        """
        converted = self._converted_options()
        options = {}
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if name not in converted and not hasattr(self, name):
                raise ArgumentError(
                    f"{type(self).__name__}() takes {name}, and its instances have no attribute of that name, from "
                    "which a checkpoint would be written; set it in the constructor, or override options()"
                )
            value = converted[name] if name in converted else getattr(self, name)
            options[name] = str(value) if isinstance(value, Channels) else value
        return options

    def prepare(self, images: ImageStore) -> None:
        """Measures what the losses need to know of the training images, such as a prior; `fit` calls it first."""

    def untrained(self, seed: int) -> Self:
        """The control: a task of the same architecture with weights drawn from a seed.

        Args:
            seed: The seed of the weights. The global random state is left as it was.

        Raises:
            ArgumentError: A part that was given as a module has parameters that it cannot draw again.
        """
        options = options_without_weights(self.options())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in ("encoder", "decoder"):
                if part in options and options[part] is None:
                    options[part] = reinitialized(getattr(self, part))
            twin = type(self)(**options)
        twin.trained_on = TrainedOn(image_size=self.trained_on.image_size, resize=self.trained_on.resize)
        device = next((parameter.device for parameter in self.parameters()), None)
        return twin.to(device) if device is not None else twin

    @property
    def encoder_channels(self) -> Channels | None:
        """The channels that the encoders see together; None if they are of different spaces."""
        return getattr(self, "channels", None)

    @property
    def image_space(self) -> ChannelSpace:
        """The channel space of the images that the task takes."""
        return self.channels.space

    def channel_spaces(self) -> list[ChannelSpace]:
        """The channel spaces of bands that the task uses, sorted by name; they are saved with it."""
        spaces = {channels.space for channels in self._used_channels()}
        return sorted((space for space in spaces if not space.is_color), key=lambda space: space.name)

    def backbone(self) -> Backbone:
        """The frozen encoder, with its layers and its output."""
        return Backbone(
            self.feature_maps,
            name=self.name,
            layers=self.layers,
            describe={
                "kind": "task",
                "task": self.name,
                "options": self.options(),
                "channel_spaces": [space.describe() for space in self.channel_spaces()],
                "pretrained_at": self.trained_on.image_size,
            },
            module=self,
            channels=self.encoder_channels,
            untrained=lambda seed: self.untrained(seed).backbone(),
        )

    def check_loadable(self) -> None:
        """Refuses a task of which no checkpoint could be loaded; `fit` and `save_pretrained` call it.

        Raises:
            ArgumentError: The class is not registered, or does not take what `options()` returns.
        """
        check_loadable(type(self), self.name, self.options(), TASKS)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the weights, the contract and a model card; the options are those of `PyTorchModelHubMixin`.

        Raises:
            StorageError: The disk has no room for them; the files in the folder stay as they were.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        check_free_space(folder, sum(value.nbytes for value in self.state_dict().values()))  # the mixin removes files
        return super().save_pretrained(folder, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.check_loadable()
        contract = {
            "library_version": __version__,
            "task": self.name,
            "options": self.options(),
            "channel_spaces": [space.describe() for space in self.channel_spaces()],
            "trained_on": self.trained_on.to_dict(),
        }
        save_weights(self, save_directory / WEIGHTS_FILE)
        write_contract(save_directory, contract)  # last: a folder with a contract is complete

    def generate_model_card(
        self,
        *,
        license: str = "unknown",
        datasets: Sequence[str] = (),
        report: Scores | None = None,
        place: str = "path/to/this/folder",
    ) -> ModelCard:
        """The `README.md` that `save_pretrained` and `push_to_hub` write; they take these as `model_card_kwargs`.

        Args:
            license: The license of the weights, by its name on the Hugging Face hub, such as `"apache-2.0"`.
            datasets: Names on the hub of the data sets that the task was pretrained on.
            report: A `ProbeReport`, whose scores are shown beside those of the controls.
            place: The folder or repository that `from_pretrained` loads the task from.
        """
        return model_card(self, license=license, datasets=datasets, report=report, place=place)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's takes pickles and ignores missing keys
        cls, folder: str | Path, *, revision: str | None = None, parts: Mapping[str, nn.Module] | None = None
    ) -> Self:
        """Loads what `save_pretrained` wrote; the class of the task is found from the contract.

        Only JSON and safetensors are read, and strictly: all weights must be there, and no others.

        Args:
            folder: A folder, or the name of a repository on the Hugging Face hub.
            revision: Branch, tag or commit on the hub.
            parts: Untrained modules for parts that were given as modules, such as `{"encoder": MyNet()}`.

        Raises:
            MissingFileError: The folder or one of its files does not exist.
            CheckpointError: Contract and weights do not fit this library, each other, or the class.
        """
        task, trained_on = load_task(TASKS, folder, revision=revision, parts=dict(parts or {}))
        if not isinstance(task, cls):
            raise CheckpointError(f"{folder} holds the task {task.name!r}, which is not a {cls.__name__}")
        task.trained_on = trained_on
        return task

    def _converted_options(self) -> dict[str, Any]:
        """The options whose JSON form is not the value of the attribute of that name."""
        return {"encoder": self.encoder_name}

    def _used_channels(self) -> Sequence[Channels]:
        """All groups of channels that the task sees or predicts."""
        return [self.channels]

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
        return self.channels.space.fill_missing(values)


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
