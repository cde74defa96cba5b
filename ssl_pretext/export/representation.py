"""Saving and loading of representations, so that a score can be reproduced from the files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ssl_pretext.channels import ChannelSpace, known_spaces
from ssl_pretext.encoders import without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.representations.base import ColorHistogram, Concatenated, Pixels, Representation
from ssl_pretext.representations.cache import network_identity
from ssl_pretext.representations.network import FrozenNetwork
from ssl_pretext.saving.contract import FORMAT, MAX_JSON_BYTES, UPGRADE, WEIGHTS_FILE, check_format
from ssl_pretext.saving.memory_limit import MemoryLimit
from ssl_pretext.saving.weights import load_weights, save_weights
from ssl_pretext.system.files import check_regular_file, checksum_matches, read_json, with_checksum, write_json
from ssl_pretext.tasks import PretextTask

__all__ = ["load_representation", "save_representation"]

KINDS = ("pixels", "histogram", "concatenated", "task", "network")
DESCRIPTION_FILE, TASK_FOLDER = "representation.json", "task"


def save_representation(representation: Representation, folder: str | Path) -> None:
    """Writes a representation to a folder: its weights, its layer and its normalization.

    The description of the representation is written last, so that a folder with a description is complete.

    Args:
        representation: `Pixels`, a `ColorHistogram`, a layer of a task or of a `FrozenNetwork`, or a `Concatenated` of
            these.
        folder: The folder, which is created if it does not exist.

    Raises:
        ArgumentError: The representation is made by a function, which cannot be saved.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_representation(Pixels("lab:L", size=4), folder)
        ...     load_representation(folder).describe
        {'kind': 'pixels', 'channels': 'lab:L', 'size': [4, 4]}
    """
    folder = Path(folder)
    if (representation.describe or {}).get("kind") not in KINDS:
        raise ArgumentError(
            f"save_representation() cannot save {representation.name!r}, because it is made by a function; use a "
            "module in a FrozenNetwork instead"
        )
    module = representation.backbone.module
    if isinstance(representation, Concatenated):
        for number, member in enumerate(representation.members):
            save_representation(member, folder / f"part{number}")
    elif isinstance(module, PretextTask):
        module.save_pretrained(folder / TASK_FOLDER)
    elif module is not None:
        save_weights(module, folder / WEIGHTS_FILE)
    description: dict[str, Any] = {"format": FORMAT, "name": representation.name, "layer": representation.layer}
    description |= {"describe": representation.describe, "network": network_identity(module)}
    write_json(folder / DESCRIPTION_FILE, with_checksum(description))


def load_representation(
    folder: str | Path, *, modules: Mapping[str, nn.Module] | None = None, spaces: Sequence[ChannelSpace] = ()
) -> Representation:
    """Loads a representation that `save_representation` wrote.

    Args:
        folder: Folder of the representation.
        modules: Untrained modules to replace the parts that were given as modules, such as `{"encoder": MyNet()}`.
        spaces: The channel spaces that convert images with functions, which files cannot store.

    Raises:
        MissingFileError: The folder or one of its files does not exist.
        CheckpointError: A file is damaged, or the files do not fit each other or this version of the library.
    """
    folder, modules = Path(folder), dict(modules or {})
    description = read_json(folder / DESCRIPTION_FILE, max_bytes=MAX_JSON_BYTES)
    try:
        check_format(description["format"], folder / DESCRIPTION_FILE, "save the representation again")
        if not checksum_matches(description):
            raise CheckpointError(
                f"{folder / DESCRIPTION_FILE} has changed since it was saved: it is damaged or was edited. Download it "
                "again, or save the representation again"
            )
        name, layer = str(description["name"]), str(description["layer"])
        describe = description["describe"]
        with known_spaces([ChannelSpace.restore(describe["space"], spaces)] if "space" in describe else []):
            representation = _build(describe, name, layer, folder, modules, spaces)
        if network_identity(representation.backbone.module) != description["network"]:
            raise CheckpointError(f"the weights in {folder} are not those that were saved")
    except (CheckpointError, MissingFileError):
        raise
    except Exception as error:  # the values of an untrusted description can make other libraries raise any error
        raise CheckpointError(f"{folder / DESCRIPTION_FILE} does not describe a representation: {error}") from error
    return representation


def _build(
    describe: Mapping[str, Any],
    name: str,
    layer: str,
    folder: Path,
    modules: dict[str, nn.Module],
    spaces: Sequence[ChannelSpace],
) -> Representation:
    """Creates the representation that a description asks for, with the weights in the folder."""
    kind = describe["kind"]
    if kind == "pixels":
        return Pixels(describe["channels"], size=tuple(describe["size"]) if "size" in describe else None)
    if kind == "histogram":
        return ColorHistogram(describe["bins"])
    if kind == "concatenated":
        folders = [folder / f"part{i}" for i in range(len(describe["parts"]))]
        if links := [part for part in folders if part.is_symlink()]:
            raise CheckpointError(
                f"{links[0]} is a symbolic link, which could lead back to {folder}; replace it by the folder itself"
            )
        parts = [load_representation(part, modules=modules, spaces=spaces) for part in folders]
        return Concatenated(parts, size=describe["size"], name=name)
    if kind == "task":
        task = PretextTask.from_pretrained(folder / TASK_FOLDER, parts=modules, spaces=spaces)
        return task.backbone().representation(layer, name)
    if kind == "network":
        return _network(describe, folder, modules).backbone().representation(layer, name)
    raise CheckpointError(
        f"{folder} contains a representation of a kind unknown to this version of ssl_pretext, {kind!r}; {UPGRADE}"
    )


def _network(describe: Mapping[str, Any], folder: Path, modules: dict[str, nn.Module]) -> FrozenNetwork:
    """Creates the network that a description asks for, and loads its weights."""
    if describe["encoder"] is None and "encoder" not in modules:
        raise CheckpointError(
            f"the network in {folder} was given as a module ({describe['class']}), which a file cannot rebuild; pass "
            "modules={'encoder': <a module of the same architecture>}"
        )
    encoder = modules["encoder"] if describe["encoder"] is None else without_weights(describe["encoder"])
    transform = {key: describe[key] for key in ("channels", "mean", "std", "image_size")}
    check_regular_file(folder / WEIGHTS_FILE)
    with MemoryLimit((folder / WEIGHTS_FILE).stat().st_size):
        network = FrozenNetwork(encoder, **transform)
    load_weights(network.encoder, folder / WEIGHTS_FILE, "network")
    return network
