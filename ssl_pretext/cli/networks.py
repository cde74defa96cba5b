"""The networks that commands name: runs, saved tasks, and networks of other libraries, each perhaps with a layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.duplicates import KnownImages
from ssl_pretext.encoders.registry import is_encoder_name, suggest_encoders
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import duplicates, joined
from ssl_pretext.representations import FrozenNetwork, Representation
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.image_manifest import read_known_images

__all__ = ["Network", "check_channels", "check_same_channels", "choose_image_size", "open_network", "open_networks"]


@dataclass(frozen=True)
class Network:
    """A network that a command names.

    Attributes:
        name: Its name in tables: what was typed.
        folder: Folder of the run or the saved task; None for a network of another library.
        layer: Layer that is read; None stands for the output.
        representation: The features of the layer, with their pooling.
        network: The task, or the network of another library.
    """

    name: str
    folder: Path | None
    layer: str | None
    representation: Representation
    network: PretextTask | FrozenNetwork

    @property
    def image_size(self) -> int | tuple[int, int] | None:
        """Height and width of the images that the network was trained on or made for, if they are known."""
        if isinstance(self.network, PretextTask):
            return self.network.trained_on.image_size
        size = getattr(self.network.encoder, "image_size", None)
        return size if isinstance(size, int) else None

    def known_images(self) -> KnownImages | None:
        """Returns what the run kept of the images of the pretraining; None if they are unknown."""
        return None if self.folder is None else read_known_images(self.folder)


def open_network(name: str, *, layer: str | None, pooling: str) -> Network:
    """Loads the network that a text names.

    Args:
        name: Folder of a run or of a saved task, a repository of a task on the Hugging Face hub, or the name of an
            encoder; a layer may follow after a colon.
        layer: Layer to read if the text names none; None stands for the output.
        pooling: What is read from the layer.

    Raises:
        UnknownNameError: There is no such network or layer.
        PretextError: The network cannot be loaded.
    """
    source, own = name, ""
    if ":" in name and not Path(name).is_dir():
        source, _, own = name.rpartition(":")
    folder = Path(source) if Path(source).is_dir() else None
    network: PretextTask | FrozenNetwork
    if folder is None and is_encoder_name(source):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights for each command if the name asks for no published ones
            network = FrozenNetwork(source)
    elif folder is None and "/" not in source:
        raise UnknownNameError(
            f"there is no folder {source} with a saved task, and no network of this name.{suggest_encoders(source)} "
            "Name the output folder of pretrain, or a network such as 'timm/resnet18[pretrained=true]'"
        )
    else:
        network = PretextTask.from_pretrained(source)
    read = own or layer
    return Network(name, folder, read, network.representation(read, pooling=pooling), network)


def open_networks(names: Sequence[str], *, layer: str | None, pooling: str) -> list[Network]:
    """Loads several networks; see `open_network`.

    Raises:
        ArgumentError: No network is named, or one is named twice.
        PretextError: A network cannot be loaded.
    """
    if not names:
        raise ArgumentError(
            "no network is named; name the output folder of pretrain, or a network such as "
            "'timm/resnet18[pretrained=true]'"
        )
    if twice := duplicates(names):
        raise ArgumentError(f"{twice[0]} is named twice; name each network once")
    return [open_network(name, layer=layer, pooling=pooling) for name in names]


def check_channels(
    networks: Sequence[Network], source: str | Path, images: Iterable[tuple[str, Decoded | npt.NDArray[Any]]]
) -> None:
    """Raises if images have other channels than those that the runs were trained on.

    Args:
        networks: The networks, of which those of other libraries take any number of channels.
        source: Folder or shards of the images, for the message.
        images: A few images with their names, which are looked at until all networks have found theirs.

    Raises:
        ArgumentError: No image has the channels that a run was trained on.
    """
    runs = [(one.name, one.network) for one in networks if isinstance(one.network, PretextTask)]
    wanted, example = {task.image_space.image_channels: name for name, task in runs}, None
    if not wanted:
        return
    for name, image in images:
        channels = len(image.pixels if isinstance(image, Decoded) else image)
        wanted.pop(channels, None)
        if not wanted:
            return
        example = example or (name, channels)
    if example is not None:
        count, run = next(iter(wanted.items()))
        raise ArgumentError(
            f"{run} was trained on images with {count} channels, but those in {source} have {example[1]}, such as "
            f"{example[0]}; name images like those of the run, or another run"
        )


def check_same_channels(
    folder: str | Path,
    images: Iterable[tuple[str, Decoded]],
    labeled_folder: str | Path,
    labeled: Iterable[tuple[str, Decoded]],
) -> None:
    """Raises if labeled images have other channels than those that a network is to be trained on.

    Args:
        folder: Folder of the images for the training.
        images: A few of its images with their names.
        labeled_folder: Folder of the labeled images.
        labeled: A few of its images.

    Raises:
        ArgumentError: No image of the one folder has as many channels as an image of the other.
    """
    first, second = ([(name, len(image.pixels)) for name, image in few] for few in (images, labeled))
    if first and second and not {count for _, count in first} & {count for _, count in second}:
        raise ArgumentError(
            f"the images in {folder} have {first[0][1]} channels, such as {first[0][0]}, but those in {labeled_folder} "
            f"have {second[0][1]}, such as {second[0][0]}; name labeled images like those for the training"
        )


def choose_image_size(given: int | None, networks: Sequence[Network]) -> int:
    """Returns the image size that is given, or that of the networks: of the pretrained ones if there are any.

    Raises:
        ArgumentError: No size is given, and the networks have none, several ones, or one that is not square.
    """
    if given is not None:
        return given
    tasks = [one for one in networks if isinstance(one.network, PretextTask)]
    sizes = {one.image_size: one.name for one in tasks or networks}
    if len(sizes) > 1:
        found = joined([f"{name} ({size})" for size, name in sizes.items()])
        raise ArgumentError(f"the networks were made for different image sizes: {found}; set --image-size")
    ((size, name),) = sizes.items()
    if size is None:
        raise ArgumentError(f"{name} records no image size; set --image-size")
    if not isinstance(size, int):
        raise ArgumentError(f"{name} records the image size {size}, but a single number is needed; set --image-size")
    return size
