"""Saved tasks: a folder with the weights and the whole input contract, loaded strictly."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ssl_pretext.channels import ChannelSpace
from ssl_pretext.encoders import without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.registry import Registry
from ssl_pretext.saving.contract import CONTRACT_FILE, WEIGHTS_FILE, TrainedOn, read_contract
from ssl_pretext.saving.memory_limit import MemoryLimit
from ssl_pretext.saving.weights import load_weights

__all__ = ["check_loadable", "load_task", "options_without_weights"]

T = TypeVar("T", bound=nn.Module)


def check_loadable(task_class: type[T], name: str, options: Mapping[str, Any], registry: Registry[T]) -> None:
    """Refuses a task that could not be made again from its name and its options, before it is trained for nothing.

    Raises:
        ArgumentError: Its class is not registered, or does not take what `options()` returns.
    """
    if name not in registry.names() or registry.factory(name) is not task_class:
        raise ArgumentError(
            f"the task class {task_class.__name__} is not registered, so a checkpoint of it could not be loaded; put "
            "@register_task('a name') above it"
        )
    try:
        inspect.signature(task_class.__init__).bind(None, **options)
    except TypeError as error:
        raise ArgumentError(
            f"options() of {task_class.__name__} returns {', '.join(options)}, which {task_class.__name__}() does not "
            f"take: {error}. It must return the arguments that make the same task"
        ) from error


def load_task(
    registry: Registry[T],
    folder: str | Path,
    *,
    revision: str | None,
    parts: Mapping[str, nn.Module],
) -> tuple[T, TrainedOn]:
    """Builds the task that a contract describes, from a registry, and loads its weights.

    Args:
        registry: The task classes by name.
        folder: A folder, or the name of a repository on the Hugging Face hub.
        revision: Branch, tag or commit on the hub.
        parts: Untrained modules for parts that were given as modules.

    Raises:
        MissingFileError: The folder or one of its files does not exist.
        CheckpointError: Contract and weights do not fit this library or each other.
    """
    path = _local_folder(folder, revision)
    contract = read_contract(path)
    weights = path / WEIGHTS_FILE
    try:
        for space in contract["channel_spaces"]:
            ChannelSpace.bands(space["name"], space["channels"], center=space["center"], scale=space["scale"])
        options = options_without_weights(contract["options"])  # the saved weights take their place
        for part in ("encoder", "decoder"):
            if part in options and options[part] is None:
                if part not in parts:
                    raise CheckpointError(
                        f"the {part} of the task in {path} was given as a module, which a checkpoint cannot rebuild; "
                        f"pass parts={{'{part}': <a module of the same architecture>}}"
                    )
                options[part] = parts[part]
        with MemoryLimit(weights.stat().st_size):
            task = registry.create(contract["task"], **options)
    except CheckpointError:
        raise
    except Exception as error:  # a contract from elsewhere may make any library raise anything
        raise CheckpointError(f"no task can be made from the contract {path / CONTRACT_FILE}: {error}") from error
    load_weights(task, weights, "task")
    return task.eval(), contract["trained_on"]


def options_without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task, whose encoders are named without published weights."""
    name = options.get("encoder")
    if isinstance(name, str):
        return {**options, "encoder": without_weights(name)}
    if isinstance(name, list):
        return {**options, "encoder": [without_weights(one) for one in name]}
    return dict(options)


def _local_folder(folder: str | Path, revision: str | None) -> Path:
    if os.path.isdir(folder):
        if not (path := Path(folder) / CONTRACT_FILE).exists() and (run := Path(folder) / "task").is_dir():
            raise MissingFileError(f"{path} does not exist; {folder} holds a run, and its task is {run}")
        return Path(folder)
    if isinstance(folder, Path) or str(folder).count("/") != 1 or str(folder).startswith((".", "/")):
        raise MissingFileError(f"there is no folder {folder} with a saved task")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), revision=revision, allow_patterns=[CONTRACT_FILE, WEIGHTS_FILE]))
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"{folder} is neither a folder nor a repository that could be fetched: {error}"
        ) from error
