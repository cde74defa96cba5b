"""Saving a task with its whole input contract, loading it strictly, and drawing its weights anew."""

import copy
import errno
import inspect
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ssl_pretext.channels import ChannelSpace
from ssl_pretext.config import check_regular, replacing
from ssl_pretext.encoders import without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError
from ssl_pretext.tasks.allowance import Allowance
from ssl_pretext.tasks.contract import CONTRACT_FILE, WEIGHTS_FILE, read_contract, write_contract

if TYPE_CHECKING:
    from ssl_pretext.tasks.base import PretextTask

__all__ = [
    "channel_spaces",
    "check_contract",
    "fresh_weights",
    "library_version",
    "load_task",
    "load_weights",
    "redrawn",
    "save_task",
    "save_weights",
]

T = TypeVar("T", bound="PretextTask")


def library_version() -> str:
    """The installed version of this library, `"unknown"` in a checkout that is not installed."""
    try:
        return version("ssl-pretext")
    except PackageNotFoundError:
        return "unknown"


def check_contract(task: "PretextTask") -> None:
    """Refuses a task that could not be made again from its name and its options, before it is trained for nothing.

    Raises:
        ArgumentError: Its class is not registered, or does not take what `options()` returns.
    """
    from ssl_pretext.tasks.base import TASKS

    kind = type(task)
    if kind.name not in TASKS.names() or TASKS.factory(kind.name) is not kind:
        raise ArgumentError(
            f"the task class {kind.__name__} is not registered, so that no checkpoint of it could be loaded; put "
            "@register_task('a name') above it"
        )
    options = task.options()
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise ArgumentError(
            f"options() of {kind.__name__} returns {', '.join(options)}, which {kind.__name__}() does not take: "
            f"{error}. It must return the arguments that make a task like this one"
        ) from error


def save_task(task: "PretextTask", folder: Path) -> None:
    """Writes weights and contract, the contract last: a folder with a contract is whole."""
    check_contract(task)
    options = task.options()
    contract = {
        "library_version": library_version(),
        "task": task.name,
        "options": options,
        "channel_spaces": [space.describe() for space in channel_spaces(task)],
        "image_size": task.image_size,
        "resize": task.resize,
        "pretraining": task.pretraining,
    }
    save_weights(task, folder / WEIGHTS_FILE)
    write_contract(folder, contract)


def save_weights(module: nn.Module, file: Path) -> None:
    """Writes parameters and buffers as safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    needed = sum(value.nbytes for value in module.state_dict().values())
    with replacing(file, needed=needed, lasting=True) as part:
        try:
            save_model(module, str(part))
        except SafetensorError as error:  # which is no OSError, and names one in words only
            raise OSError(errno.EIO, str(error)) from error


def load_weights(module: nn.Module, file: Path, what: str) -> None:
    """Loads what `save_weights` wrote, strictly.

    Raises:
        CheckpointError: The file is damaged, or its weights are not those of the module, `what` in the message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    check_regular(file)
    try:
        own = module.state_dict()
        for name, value in load_file(str(file)).items():
            if name in own and value.dtype != own[name].dtype:  # which loading would convert
                raise ValueError(f"{name} is of {value.dtype} instead of {own[name].dtype}")
        load_model(module, str(file), strict=True)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"the weights {file} do not fit the {what}: {error}") from error


def load_task(cls: type[T], folder: str | Path, *, revision: str | None, parts: dict[str, nn.Module]) -> T:
    """Builds the task of the contract and loads its weights; see `PretextTask.from_pretrained`."""
    from ssl_pretext.tasks.base import create_task

    path = _local_folder(folder, revision)
    contract = read_contract(path)
    weights = path / WEIGHTS_FILE
    try:
        for space in contract.get("channel_spaces", []):
            ChannelSpace.bands(space["name"], space["channels"], center=space["center"], scale=space["scale"])
        options = _without_weights(contract["options"])  # its own weights take their place
        for part, value in options.items():
            if value is None and part in ("encoder", "decoder"):
                if part not in parts:
                    raise CheckpointError(
                        f"the {part} of the task in {path} was given as a module, which a checkpoint cannot rebuild; "
                        f"pass parts={{'{part}': <a module of the same architecture>}}"
                    )
                options[part] = parts[part]
        with Allowance(weights.stat().st_size):
            task = create_task(contract["task"], **options)
    except CheckpointError:
        raise
    except Exception as error:  # what a contract from elsewhere asks for may make any library stumble anywhere
        raise CheckpointError(f"the contract {path / CONTRACT_FILE} cannot be followed: {error}") from error
    if not isinstance(task, cls):
        raise CheckpointError(f"{path} holds the task {contract['task']!r}, which is no {cls.__name__}")
    load_weights(task, weights, "task")
    size = contract.get("image_size")
    task.image_size, task.resize = tuple(size) if isinstance(size, list) else size, contract.get("resize")
    task.pretraining = contract.get("pretraining")
    return task.eval()


def fresh_weights(task: T, seed: int) -> T:
    """A task of the same architecture with weights drawn from `seed`."""
    options = _without_weights(task.options())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in ("encoder", "decoder"):
            if part in options and options[part] is None:
                options[part] = redrawn(getattr(task, part))
        twin = type(task)(**options)
    twin.image_size, twin.resize = task.image_size, task.resize
    device = next((parameter.device for parameter in task.parameters()), None)
    return twin.to(device) if device is not None else twin


def _without_weights(options: dict[str, Any]) -> dict[str, Any]:
    """The options with every encoder's name freed of published weights."""
    if isinstance(name := options.get("encoder"), str):
        return options | {"encoder": without_weights(name)}
    if isinstance(name, list):
        return options | {"encoder": [without_weights(one) for one in name]}
    return dict(options)


def redrawn(module: nn.Module) -> nn.Module:
    """A copy whose parts have drawn their parameters again, through PyTorch's `reset_parameters`."""
    twin = copy.deepcopy(module)
    drawn: set[int] = set()
    for part in twin.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
            drawn.update(id(parameter) for parameter in part.parameters(recurse=False))
    left = [name for name, parameter in twin.named_parameters() if id(parameter) not in drawn]
    if left:
        raise ArgumentError(
            f"{type(module).__name__} cannot draw {', '.join(left[:3])} anew: its part has no reset_parameters(). "
            "Add one, or register_encoder() a factory and give the encoder by name."
        )
    return twin


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


def channel_spaces(task: "PretextTask") -> list[ChannelSpace]:
    """The channel spaces that a fresh process does not know."""
    used = {value.space for value in vars(task).values() if hasattr(value, "space")}
    return sorted((space for space in used if not space.is_color), key=lambda space: space.name)
