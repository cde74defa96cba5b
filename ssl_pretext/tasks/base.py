"""The base class of all pretext tasks: loss, features by layer, untrained control, saving and loading."""

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from typing_extensions import Self

from ssl_pretext.augment import NO_AUGMENTATION
from ssl_pretext.band_statistics import check_bands, measure_bands, warn_of_other_units
from ssl_pretext.channels import Channels, ChannelSpace, as_images, check_names_differ, known_spaces
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import EncoderShape, create_encoder, feature_layers, feature_maps, measure_encoder
from ssl_pretext.encoders.inspection import check_image_size
from ssl_pretext.encoders.map_encoder import class_token_of
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.encoders.reinitialized import reinitialized
from ssl_pretext.encoders.untrained import starts_from_weights, without_weights
from ssl_pretext.encoders.weights_file import with_weights_sha256
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.registry import Registry, format_spec, parse_spec, signature_of
from ssl_pretext.representations.base import OUTPUT, Backbone
from ssl_pretext.representations.owner import BackboneOwner
from ssl_pretext.saving.contract import WEIGHTS_FILE, TrainedOn, write_contract
from ssl_pretext.saving.weights import save_weights
from ssl_pretext.system.files import check_free_space
from ssl_pretext.system.notebook import html_table
from ssl_pretext.tasks.checkpoint import check_loadable, load_task, options_without_weights
from ssl_pretext.tasks.model_card import Scores, model_card
from ssl_pretext.version import __version__

__all__ = [
    "TASKS",
    "PretextTask",
    "TaskOutput",
    "create_task",
    "list_tasks",
    "parse_channel_pair",
    "parse_task",
    "register_task",
]

log = logging.getLogger(__name__)

MULTI_TASK = "multi_task"  # the name of the task that a sum of tasks becomes
TASKS: "Registry[PretextTask]" = Registry("task")


@dataclass(frozen=True)
class TaskOutput:
    """The output of a task for one batch of images.

    Attributes:
        loss: The scalar to minimize, which is the sum of `terms`.
        terms: The weighted loss terms by name.
        prediction: The predicted channels, normalized, `(B, n, H, W)`. For a classification task, the logits
            `(N, classes)`, where `N` is the number of classified items, such as rotated copies of the images. For a
            task that compares views, the vectors `(B, n)` of the first views.
        target: The true channels, normalized, in the shape of `prediction`. For a classification task, the true
            classes `(N,)` as `int64`. For a task that compares views, the vectors of the second views.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    prediction: Tensor
    target: Tensor


def parse_channel_pair(first: str | Channels, second: str | Channels) -> tuple[Channels, Channels]:
    """Parses two groups of channels, and checks that both can be read from the same images.

    Raises:
        ArgumentError: The images of their spaces have different numbers of channels.
    """
    pair = Channels.parse(first), Channels.parse(second)
    counts = [channels.space.image_channels for channels in pair]
    if counts[0] != counts[1]:
        raise ArgumentError(
            f"{pair[0]} and {pair[1]} are read from different images, with {counts[0]} and {counts[1]} channels; "
            "choose two groups of channels of the same images"
        )
    return pair


class PretextTask(nn.Module, PyTorchModelHubMixin, BackboneOwner, library_name="ssl_pretext", tags=["self-supervised"]):
    """Base class of the pretext tasks.

    A task takes image batches `(B, C, H, W)`: sRGB in `[0, 1]` or `uint8`, or the bands of its channel space. It is
    trained by minimizing `forward(images).loss`, for instance with `fit`. A subclass with one encoder calls
    `set_encoder` in its constructor, stores each argument of the constructor in an attribute of the same name, and
    implements `forward`.

    Attributes:
        encoder: The network that is pretrained.
        encoder_name: The spec of the encoder with its options sorted by name; None if it was given as a module.
        channels: The channels that the encoder sees.
        shape: The channels and the reduction of the encoder's feature map.
        trained_on: The image size and the settings that the task was trained with; they are saved with the task.
        num_views: Number of differently augmented copies of each image that the task compares. If it is larger than
            one, training batches are `(B, num_views, C, H, W)`.
    """

    name: ClassVar[str] = ""  # set by `register_task`
    encoder: nn.Module
    encoder_name: str | None = None
    channels: Channels
    shape: EncoderShape
    trained_on: TrainedOn = TrainedOn()
    num_views: int = 1

    def set_encoder(self, encoder: str | nn.Module, channels: str | Channels) -> None:
        """Creates the encoder for the channels that it will see, or takes a module as it is.

        Args:
            encoder: Name of an encoder with its options, or a module from `(B, n, H, W)` to `(B, C, h, w)`.
            channels: The `n` channels that the encoder sees.

        Raises:
            ArgumentError: No channels are given, or the encoder does not return a map `(B, C, h, w)` for them.
        """
        self.channels = Channels.parse(channels)
        if not self.channels.names:
            raise ArgumentError(f"the encoder of {self.name} needs at least one channel, got {channels!r}")
        # Loading returns the spec in this normalized form. In another form, a probe card of the task and one of the
        # same task after loading would describe different networks.
        self.encoder_name = with_weights_sha256(encoder) if isinstance(encoder, str) else None
        self.encoder = create_encoder(self.encoder_name or encoder, in_channels=self.channels.num_channels)
        self.shape = measure_encoder(self.encoder, self.channels.num_channels)

    def _repr_html_(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        rows: list[dict[str, object]] = [{"task": key, self.name: value} for key, value in self.options().items()]
        rows.append({"task": "parameters of the encoder", self.name: f"{parameters:,}"})
        rows.append({"task": "trained at", self.name: self.trained_on.image_size or "not trained"})
        return html_table(rows)

    def __call__(self, images: Tensor) -> TaskOutput:
        """Calls `forward`; in training it also records the size of the images, which `fit` would do."""
        if self.training and torch.is_grad_enabled():
            height, width = images.shape[-2:]
            size = height if height == width else (height, width)
            if size != self.trained_on.image_size:
                self.trained_on = replace(self.trained_on, image_size=size, resize=None, settings=None)
        output: TaskOutput = super().__call__(images)
        return output

    def forward(self, images: Tensor) -> TaskOutput:
        """Predicts the hidden part of a batch of images and computes the loss.

        Random choices are drawn from PyTorch's global generator, whose state is part of a training checkpoint. They are
        also drawn in eval mode, so that the validation loss measures the same problem as the training loss.
        """
        raise NotImplementedError

    def inputs(self, images: Tensor) -> Tensor:
        """Computes the encoder's input: its channels, normalized, with missing values replaced by 0, the center.

        Args:
            images: Images `(B, C, H, W)` as the task takes them.

        Raises:
            ArgumentError: The shape, dtype or value range of the images does not fit the task.
        """
        return self._fill_missing(self._extract(self.channels, self._check_images(images)))

    @property
    def default_augmentation(self) -> str:
        """The augmentation that `fit` uses if its configuration names none; see `create_augmentation`."""
        return NO_AUGMENTATION

    def views(self, images: Tensor) -> list[Tensor]:
        """Splits a batch `(B, num_views, C, H, W)` into its views `(B, C, H, W)`.

        A batch `(B, C, H, W)` without a dimension of views is returned as each of the views.

        Raises:
            ArgumentError: The batch has another number of views.
        """
        if images.dim() == 4:
            return [images] * self.num_views
        if images.dim() != 5 or images.shape[1] != self.num_views:
            raise ArgumentError(
                f"{self.name} takes image batches (B, {self.num_views}, C, H, W), with {self.num_views} views of each "
                f"image; got {tuple(images.shape)}"
            )
        return list(images.unbind(1))

    def repeat_as_views(self, images: Tensor) -> Tensor:
        """Returns images `(B, C, H, W)` as a batch that the task takes, in which all views of an image are the same."""
        return images if self.num_views == 1 else images[:, None].expand(-1, self.num_views, -1, -1, -1)

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Computes the feature map `(B, C, h, w)` of one layer, by default of the encoder's output.

        The encoder computes it in eval mode, in whatever mode the task is, so features do not depend on the other
        images of the batch. `export_encoder` returns a module that can be trained further.

        Args:
            images: Images `(B, C, H, W)` as the task takes them.
            layer: A name from `layers()`.

        Raises:
            ArgumentError: The shape, dtype or value range of the images does not fit the task.
            UnknownNameError: The encoder has no such layer.
        """
        return self.feature_maps(images, [layer or OUTPUT])[layer or OUTPUT]

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Computes the feature maps of several layers in one pass, in eval mode; `""` is the encoder's output."""
        with eval_mode(self.encoder):
            return feature_maps(self.encoder, self.inputs(images), layers)

    def layers(self) -> list[str]:
        """Returns the names of the encoder's layers that produce feature maps, in the order in which they run."""
        return feature_layers(self.encoder, self.channels.num_channels)

    def networks(self) -> list[nn.Module]:
        """Returns the networks that `fit` compiles: the trained networks without the losses."""
        return [self.encoder]

    def options(self) -> dict[str, Any]:
        """Returns the constructor arguments that create a task of this architecture, as JSON-serializable values.

        The names are those of the constructor's signature; each value is read from the attribute of the same name. An
        encoder or decoder that was given as a module is None.

        Raises:
            ArgumentError: The task has no attribute with the name of a constructor argument.
        """
        converted = self._converted_options()
        options = {}
        for name, parameter in signature_of(type(self)).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if name not in converted and not hasattr(self, name):
                raise ArgumentError(
                    f"{type(self).__name__}() takes the argument {name}, but its instances have no attribute {name}, "
                    f"so it could not be saved; set self.{name} in the constructor, or override options()"
                )
            value = converted[name] if name in converted else getattr(self, name)
            options[name] = str(value) if isinstance(value, Channels) else value
        return options

    def measure(self, images: Any) -> None:
        """Measures the center and scale of channel spaces that have none yet; `fit` calls it before `prepare`.

        It also logs a warning if bands are constant or missing, or if values lie far outside of the range of a space
        whose center and scale are known.

        Args:
            images: The training images, of which up to 1,024 are measured: a store, a tensor or an array
                `(B, C, H, W)`, a dataset or a loader.

        Raises:
            ArgumentError: The images do not fit the task, or all values of a group of channels are missing.
        """
        for space in self.channel_spaces():
            statistics = measure_bands(images, space)
            groups = [group for group in self._used_channels() if group.space == space]
            check_bands(groups, statistics, self.name)
            if space.is_measured:
                seen = Channels(space, list(dict.fromkeys(name for group in groups for name in group.names)))
                warn_of_other_units(seen, statistics, self.name)
            else:
                self._replace_space(space, replace(space, center=statistics.center, scale=statistics.scale))
                log.info("measured the center and scale of %s on %s images", space.name, f"{statistics.images:,}")

    def prepare(self, images: ImageStore) -> None:
        """Computes what the losses need from the training images, such as a class prior; `fit` calls it first."""

    def untrained(self, seed: int) -> Self:
        """Creates the untrained control: a task of the same architecture with new random weights.

        Args:
            seed: Seed of the weights. The global random state is not changed.

        Raises:
            ArgumentError: The encoder or decoder was given as a module and has parameters that cannot be drawn again.
        """
        return self._created_again(options_without_weights(self.options()), seed)

    def before(self) -> Self:
        """Creates the task as it was before it was trained: encoders get the weights again that they started from.

        These are published weights, or those of a file, which must still be there.

        All other parts get random weights, which are always the same.

        Raises:
            ArgumentError: All encoders started from random weights, or a part that was given as a module has
                parameters that cannot be drawn again.
            MissingFileError: The weights are not on disk and cannot be downloaded.
            CheckpointError: The file of weights is no longer the same.
        """
        if not self._starts_from_weights():
            raise ArgumentError(
                f"the encoder of this {self.name} task did not start from published weights or from a file, as "
                "'timm/resnet18[pretrained=true]' does; use untrained(seed)"
            )
        return self._created_again(self._starting_options(), seed=0)

    def _created_again(self, options: dict[str, Any], seed: int) -> Self:
        """Creates a task with new weights, and puts it on the device of this one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in ("encoder", "decoder"):
                if part in options and options[part] is None:
                    options[part] = reinitialized(getattr(self, part))
            with known_spaces(self.channel_spaces()):
                task = type(self)(**options)
        task.trained_on = TrainedOn(image_size=self.trained_on.image_size, resize=self.trained_on.resize)
        device = next((parameter.device for parameter in self.parameters()), None)
        return task.to(device) if device is not None else task

    @property
    def encoder_channels(self) -> Channels | None:
        """All channels that the task's encoders see; None if they belong to different channel spaces."""
        return getattr(self, "channels", None)

    @property
    def image_space(self) -> ChannelSpace:
        """Channel space of the images that the task takes."""
        return self.channels.space

    def channel_spaces(self) -> list[ChannelSpace]:
        """Returns the task's channel spaces that are not built in, sorted by name; they are saved with the task.

        Raises:
            ArgumentError: Two of them have the same name.
        """
        spaces = {channels.space for channels in self._used_channels()}
        own = sorted((space for space in spaces if not space.is_built_in), key=lambda space: space.name)
        check_names_differ(own)
        return own

    def backbone(self) -> Backbone:
        """Returns the frozen encoder, which computes the features of its layers and of its output."""
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
            untrained=self._untrained_backbone,  # methods instead of lambdas, because lambdas cannot be pickled
            before=self._backbone_before if self._starts_from_weights() else None,
            class_token=class_token_of(self.encoder),
        )

    def _untrained_backbone(self, seed: int) -> Backbone:
        return self.untrained(seed).backbone()

    def _backbone_before(self) -> Backbone:
        return self.before().backbone()

    def check_loadable(self) -> None:
        """Checks that a saved copy of the task could be loaded; `fit` and `save_pretrained` call it first.

        Raises:
            ArgumentError: The class is not registered, or its constructor does not take what `options()` returns.
        """
        check_loadable(type(self), self.name, self.options(), TASKS)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the weights, the contract and a model card to a folder.

        Args:
            save_directory: The folder, which is created if it does not exist.
            options: Options of `PyTorchModelHubMixin.save_pretrained`. Its `model_card_kwargs` are the arguments of
                `generate_model_card`.

        Raises:
            ArgumentError: The saved task could not be loaded; see `check_loadable`.
            StorageError: The disk does not have enough free space. The files in the folder are unchanged.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        # Checked here, because the mixin deletes the old contract before anything is written.
        check_free_space(folder, sum(value.nbytes for value in self.state_dict().values()))
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
        write_contract(save_directory, contract)  # last, so that a folder with a contract is complete

    def generate_model_card(
        self,
        *,
        license: str = "unknown",
        datasets: Sequence[str] = (),
        report: Scores | None = None,
        place: str = "path/to/this/folder",
    ) -> ModelCard:
        """Creates the model card, which `save_pretrained` and `push_to_hub` write as `README.md`.

        These two functions take the arguments as a dictionary `model_card_kwargs`.

        Args:
            license: License of the weights, by its name on the Hugging Face hub, such as `"apache-2.0"`.
            datasets: Names on the hub of the data sets that the task was pretrained on.
            report: A `ProbeReport`, whose scores are shown next to those of the controls.
            place: The folder or repository that the example code in the card loads the task from.
        """
        return model_card(self, license=license, datasets=datasets, report=report, place=place)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's method reads pickles and ignores missing keys
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        parts: Mapping[str, nn.Module] | None = None,
        spaces: Sequence[ChannelSpace] = (),
    ) -> Self:
        """Loads a task that `save_pretrained` wrote. The contract in the folder names its class.

        Only a JSON file and a safetensors file are read. Loading is strict: missing and additional weights are errors.

        Args:
            folder: A folder that `save_pretrained` wrote, the folder of a run of `fit` or `ssl-pretext pretrain`, or
                the name of a repository on the Hugging Face hub.
            revision: Branch, tag or commit of the repository.
            parts: Untrained modules to replace the parts that were given as modules, such as `{"encoder": MyNet()}`.
            spaces: The channel spaces of the task that convert images with functions. Other spaces are in the contract.

        Raises:
            MissingFileError: The folder or one of its files does not exist, or the repository cannot be fetched.
            CheckpointError: The contract or the weights are damaged, do not fit each other or this version of the
                library, or belong to another class, or the run has not finished.
        """
        task, contract = load_task(TASKS, folder, revision=revision, parts=dict(parts or {}), spaces=spaces)
        if not isinstance(task, cls):
            raise CheckpointError(f"{folder} holds the task {task.name!r}, which is not a {cls.__name__}")
        task.trained_on = contract["trained_on"]
        task._restore_encoder_names(contract["options"].get("encoder"))
        return task

    def _converted_options(self) -> dict[str, Any]:
        """Returns the options whose saved value differs from the attribute of the same name."""
        return {"encoder": self.encoder_name}

    def _starts_from_weights(self) -> bool:
        """Whether an encoder had published weights, or those of a file, when training started."""
        return self.encoder_name is not None and starts_from_weights(self.encoder_name)

    def _starting_options(self) -> dict[str, Any]:
        """Returns the options that create the task with the published weights; a module that is drawn again is None."""
        return self.options()

    def _restore_encoder_names(self, saved: object) -> None:
        """Restores the name in a contract; without published weights, the encoder was created under another name."""
        if isinstance(saved, str) and without_weights(saved) == self.encoder_name:
            self.encoder_name = format_spec(*parse_spec(saved))

    def _replace_space(self, old: ChannelSpace, new: ChannelSpace) -> None:
        """Replaces a channel space in all groups of channels of the task, its branches and its losses."""
        for module in self.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Channels) and value.space == old:
                    setattr(module, name, Channels(new, value.names))

    def _used_channels(self) -> Sequence[Channels]:
        """Returns all groups of channels that the task sees or predicts."""
        return [self.channels]

    def _check_images(self, images: Tensor) -> Tensor:
        """Returns the images as floating point, after checking that they fit the task."""
        images = as_images(images, self.channels.space)
        check_image_size(self.encoder, images)
        smallest = max(1, round(self.shape.reduction))
        if min(images.shape[-2:]) < smallest:
            raise ArgumentError(
                f"the encoder of {self.name} reduces images by a factor of {smallest} and needs at least {smallest}×"
                f"{smallest} pixels, got {images.shape[-2]}×{images.shape[-1]}; choose a larger image size"
            )
        return images

    @staticmethod
    def _extract(channels: Channels, images: Tensor) -> Tensor:
        return channels.select(channels.space.extract(images))

    def _fill_missing(self, values: Tensor) -> Tensor:
        return self.channels.space.fill_missing(values)


def create_task(task: str, *, spaces: Sequence[ChannelSpace] = (), **options: Any) -> PretextTask:
    """Creates a task by name.

    Args:
        task: A name from `list_tasks()`, with options in brackets or without; or a weighted sum of several such tasks
            on one encoder, such as `"colorization + 0.5*rotation"`.
        spaces: Channel spaces of your own that the options name, such as `source="sentinel2:B02,B03"`. The names of
            their channels alone are enough: `source="B02,B03"`.
        options: Arguments of the task's class.

    Raises:
        UnknownNameError: No task is registered under this name, or a channel or channel space is unknown.
        ArgumentError: The task does not take these options.

    Examples:
        >>> import torch
        >>> task = create_task("colorization", encoder="autoencoder", target="rgb", losses={"smooth_l1": 1.0})
        >>> task(torch.rand(2, 3, 32, 32)).prediction.shape
        torch.Size([2, 3, 32, 32])
        >>> chips = ChannelSpace.bands("chips", ["B02", "B03", "B08"])
        >>> create_task("cross_channel[source=B02+B03;target=B08]", spaces=[chips], encoder="autoencoder").target
        Channels('chips:B08')
    """
    name, given = parse_task(task)
    with known_spaces(spaces):
        return TASKS.create(task, **options) if name != MULTI_TASK else TASKS.create(name, **given, **options)


def parse_task(task: str) -> tuple[str, dict[str, Any]]:
    """Splits the spec of a task, or a weighted sum of tasks, into the name of the task and its options.

    Examples:
        >>> parse_task("colorization[target=rgb]")
        ('colorization', {'target': 'rgb'})
        >>> parse_task("colorization + 0.5*rotation")
        ('multi_task', {'tasks': {'colorization': 1.0, 'rotation': 0.5}})
    """
    parts = [part.strip() for part in re.split(r"\+(?![^\[]*\])", task)]
    if len(parts) == 1:
        name, given = parse_spec(task)
        return name, dict(given)
    weighted = [re.fullmatch(r"(?:([\d.eE-]+)\s*\*\s*)?(.+)", part) for part in parts]
    try:
        tasks = {match[2]: float(match[1] or 1) for match in weighted if match}
    except ValueError:
        tasks = {}
    if len(tasks) < len(parts):
        raise ArgumentError(
            f"a sum of tasks must be different tasks, each with a weight or without, such as "
            f"'colorization + 0.5*rotation'; got {task!r}"
        )
    return MULTI_TASK, {"tasks": tasks}


def list_tasks() -> list[str]:
    """Returns the names of all registered tasks, sorted."""
    return TASKS.names()


def register_task(name: str) -> Callable[[type[PretextTask]], type[PretextTask]]:
    """Returns a decorator that registers a task class under a name.

    Raises:
        ArgumentError: The name is taken or not well-formed, or what is decorated is not a subclass of `PretextTask`.
    """

    def add(task: type[PretextTask]) -> type[PretextTask]:
        if not (inspect.isclass(task) and issubclass(task, PretextTask)):
            raise ArgumentError(f"register_task({name!r}) needs a subclass of PretextTask, got {task!r}")
        TASKS.register(name)(task)
        task.name = name
        return task

    return add
