"""Representations in a folder: weights, layer and transform, so that a score can be had again from the files alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ssl_pretext.channels import ChannelSpace
from ssl_pretext.encoders import without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.representations.base import ColorHistogram, Concatenated, Pixels, Representation
from ssl_pretext.representations.cache import network_identity
from ssl_pretext.representations.network import FrozenNetwork
from ssl_pretext.saving.contract import MOST_BYTES, WEIGHTS_FILE
from ssl_pretext.saving.memory_limit import MemoryLimit
from ssl_pretext.saving.weights import load_weights, save_weights
from ssl_pretext.system.files import check_regular_file, checksum_matches, read_json, with_checksum, write_json
from ssl_pretext.tasks import PretextTask

__all__ = ["load_representation", "save_representation"]

FORMAT = 2  # 1 was written by versions before the first release
KINDS = ("pixels", "histogram", "concatenated", "task", "network")
NOTE_FILE, TASK_FOLDER = "representation.json", "task"


def save_representation(representation: Representation, folder: str | Path) -> None:
    """Writes a representation for `load_representation`, the note of what it is last.

    Args:
        representation: Pixels, a histogram, a layer of a task or of a `FrozenNetwork`, or several joined.
        folder: Made if it is not there.

    Raises:
        ArgumentError: It is a function, which no file could hold.

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
            f"{representation.name!r} is made by a function, which cannot be saved; give it as a Network"
        )
    module = representation.backbone.module
    if isinstance(representation, Concatenated):
        for number, member in enumerate(representation.members):
            save_representation(member, folder / f"part{number}")
    elif isinstance(module, PretextTask):
        module.save_pretrained(folder / TASK_FOLDER)
    elif module is not None:
        save_weights(module, folder / WEIGHTS_FILE)
    note: dict[str, Any] = {"format": FORMAT, "name": representation.name, "layer": representation.layer}
    note |= {"describe": representation.describe, "network": network_identity(module)}
    write_json(folder / NOTE_FILE, with_checksum(note))


def load_representation(folder: str | Path, *, modules: Mapping[str, nn.Module] | None = None) -> Representation:
    """Makes the representation again that `save_representation` wrote.

    Args:
        folder: Where it lies.
        modules: Untrained modules for what was given as a module and not by name, such as `{"encoder": MyNet()}`.

    Raises:
        MissingFileError: Folder or files are not there.
        CheckpointError: They do not fit this library or each other.
    """
    folder, modules = Path(folder), dict(modules or {})
    note = read_json(folder / NOTE_FILE, most_bytes=MOST_BYTES)
    try:
        if note["format"] < FORMAT:
            raise CheckpointError(
                f"{folder} was made by an unreleased version of ssl_pretext; save the representation again"
            )
        if note["format"] > FORMAT:
            raise CheckpointError(
                f"{folder} has format {note['format']}, and this version reads {FORMAT}; update ssl_pretext"
            )
        if not checksum_matches(note):
            raise CheckpointError(f"{folder / NOTE_FILE} has changed since it was saved: it is damaged or was edited")
        one = _made(note["describe"], str(note["name"]), str(note["layer"]), folder, modules)
        if network_identity(one.backbone.module) != note["network"]:
            raise CheckpointError(f"the weights in {folder} are not those that were saved")
    except (CheckpointError, MissingFileError):
        raise
    except Exception as error:  # what a note from elsewhere asks for may make any library stumble anywhere
        raise CheckpointError(f"{folder / NOTE_FILE} does not describe a representation: {error}") from error
    return one


def _made(
    describe: Mapping[str, Any], name: str, layer: str, folder: Path, modules: dict[str, nn.Module]
) -> Representation:
    kind = describe["kind"]
    if "space" in describe:  # bands, which a fresh process does not know
        ChannelSpace.bands(**describe["space"])
    if kind == "pixels":
        return Pixels(describe["channels"], size=tuple(describe["size"]) if "size" in describe else None)
    if kind == "histogram":
        return ColorHistogram(describe["bins"])
    if kind == "concatenated":
        places = [folder / f"part{i}" for i in range(len(describe["parts"]))]
        if linked := [place for place in places if place.is_symlink()]:
            raise CheckpointError(f"{linked[0]} is a link, which may lead in circles; put the folder itself there")
        parts = [load_representation(place, modules=modules) for place in places]
        return Concatenated(parts, size=describe["size"], name=name)
    if kind == "task":
        task = PretextTask.from_pretrained(folder / TASK_FOLDER, parts=modules)
        return task.backbone().representation(layer, name)
    if kind == "network":
        return _network(describe, folder, modules).backbone().representation(layer, name)
    raise CheckpointError(f"{folder} holds a representation of the unknown kind {kind!r}")


def _network(describe: Mapping[str, Any], folder: Path, modules: dict[str, nn.Module]) -> FrozenNetwork:
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
