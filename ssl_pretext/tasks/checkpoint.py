"""Loading of saved tasks: builds the task that a contract describes and loads its weights strictly."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ssl_pretext.channels import ChannelSpace, known_spaces
from ssl_pretext.encoders import without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.registry import Registry, signature_of
from ssl_pretext.saving.contract import CONTRACT_FILE, WEIGHTS_FILE, read_contract
from ssl_pretext.saving.memory_limit import MemoryLimit
from ssl_pretext.saving.weights import load_weights
from ssl_pretext.version import __version__

__all__ = ["AVERAGED", "check_loadable", "load_task", "local_folder", "options_without_weights"]

RUN_FILE = "fit.json"  # which `fit` writes when it starts
AVERAGED = "task-ema"  # folder of a run for the task with the moving average of the weights

T = TypeVar("T", bound=nn.Module)


def check_loadable(task_class: type[T], name: str, options: Mapping[str, Any], registry: Registry[T]) -> None:
    """Checks that a task can be created again from its name and its options; called before training starts.

    Args:
        task_class: Class of the task.
        name: Name under which the class should be registered.
        options: The task's `options()`.
        registry: The task classes by name.

    Raises:
        ArgumentError: The class is not registered, or its constructor does not take what `options()` returns.
    """
    if name not in registry.names() or registry.factory(name) is not task_class:
        raise ArgumentError(
            f"the task class {task_class.__name__} is not registered, so a saved copy of it could not be loaded; put "
            "@register_task('a name') above the class"
        )
    try:
        signature_of(task_class).bind(**options)
    except TypeError as error:
        raise ArgumentError(
            f"options() of {task_class.__name__} returns {', '.join(options)}, but {task_class.__name__}() does not "
            f"take these arguments: {error}. options() must return the arguments that create the same task"
        ) from error


def load_task(
    registry: Registry[T],
    folder: str | Path,
    *,
    revision: str | None,
    parts: Mapping[str, nn.Module],
    spaces: Sequence[ChannelSpace],
) -> tuple[T, dict[str, Any]]:
    """Creates the task that a contract describes, and loads its weights.

    Args:
        registry: The task classes by name.
        folder: A folder of a task or of a training run, or the name of a repository on the Hugging Face hub.
        revision: Branch, tag or commit of the repository.
        parts: Untrained modules by name, to replace the parts that were given as modules.
        spaces: The channel spaces of the task that convert images with functions.

    Returns:
        The task in eval mode, and the contract.

    Raises:
        MissingFileError: The folder or one of its files does not exist, or the repository cannot be fetched.
        CheckpointError: The contract or the weights are damaged, or do not fit each other or this version of the
            library, or the training run has not finished.
    """
    path = local_folder(folder, revision)
    contract = read_contract(path)
    weights = path / WEIGHTS_FILE
    try:
        saved = [ChannelSpace.restore(described, spaces) for described in contract["channel_spaces"]]
        options = options_without_weights(contract["options"])  # the saved weights replace published ones
        for part in ("encoder", "decoder"):
            if part in options and options[part] is None:
                if part not in parts:
                    raise CheckpointError(
                        f"the {part} of the task in {path} was given as a module, which a checkpoint cannot rebuild; "
                        f"in Python, pass parts={{'{part}': <a module of the same architecture>}}"
                    )
                options[part] = parts[part]
        with MemoryLimit(weights.stat().st_size), known_spaces(saved):
            task = registry.create(contract["task"], **options)
    except CheckpointError:
        raise
    except Exception as error:  # the values of an untrusted contract can make other libraries raise any error
        # The options of a task may have changed between two versions that have the same format.
        writer = contract["library_version"]
        versions = "" if writer == __version__ else f". It was saved by ssl_pretext {writer}, and this is {__version__}"
        raise CheckpointError(
            f"cannot create a task from the contract {path / CONTRACT_FILE}: {error}{versions}"
        ) from error
    load_weights(task, weights, "task")
    return task.eval(), contract


def options_without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a task's options with encoders that start from random instead of published weights."""
    name = options.get("encoder")
    if isinstance(name, str):
        return {**options, "encoder": without_weights(name)}
    if isinstance(name, list):
        return {**options, "encoder": [without_weights(spec) for spec in name]}
    return dict(options)


def _task_folder(folder: Path) -> Path:
    """The folder itself, or that of the task in the folder of a training run."""
    if (folder / CONTRACT_FILE).exists():
        return folder
    if (task := folder / "task" / CONTRACT_FILE).exists():
        return task.parent
    if (folder / RUN_FILE).exists():
        options = folder / "pretrain.yaml"  # written by the command line
        how = f"ssl-pretext pretrain --config {options} --resume" if options.exists() else "fit() with resume=True"
        raise CheckpointError(f"the training run in {folder} has not finished; finish it first: {how}")
    return folder


def local_folder(folder: str | Path, revision: str | None) -> Path:
    """Returns the folder of a task, of the task of a training run, or of a repository that is fetched from the hub.

    Args:
        folder: The folder, or the name of the repository.
        revision: Branch, tag or commit of the repository.

    Raises:
        MissingFileError: The folder does not exist, or the repository cannot be fetched.
        CheckpointError: The training run has not finished.
    """
    if os.path.isdir(folder):
        return _task_folder(Path(folder))
    if isinstance(folder, Path) or str(folder).count("/") != 1 or str(folder).startswith((".", "/")):
        raise MissingFileError(
            f"there is no folder {folder} with a saved task; give a folder that save_pretrained() wrote, or the name "
            "of a repository on the Hugging Face hub, such as 'user/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), revision=revision, allow_patterns=[CONTRACT_FILE, WEIGHTS_FILE]))
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"{folder} is neither a folder nor a repository that can be fetched from the Hugging Face hub: {error}"
        ) from error
