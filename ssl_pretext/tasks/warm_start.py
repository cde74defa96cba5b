"""Warm start: a task gets the weights of another one that was trained before."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from ssl_pretext.errors import CheckpointError
from ssl_pretext.saving.contract import WEIGHTS_FILE, read_contract
from ssl_pretext.system.files import file_sha256
from ssl_pretext.tasks.base import PretextTask
from ssl_pretext.tasks.checkpoint import local_folder

__all__ = ["initialize_from"]

log = logging.getLogger(__name__)


def initialize_from(task: PretextTask, folder: str | Path, *, revision: str | None = None) -> None:
    """Gives a task the weights of a trained one, from which `fit` then trains it further.

    All weights of the encoders must be there, with the same names and shapes. Of the other parts, such as decoders and
    heads, those are loaded that both tasks have with the same names and shapes; the others keep their initial weights.
    The log names them. `task.trained_on.initialized_from` is the hash of the loaded file, which `fit` records.

    Args:
        task: The task, which is changed in place. It may be of another kind than the trained one.
        folder: Folder of a run or of a task, or the name of a repository on the Hugging Face hub.
        revision: Branch, tag or commit of the repository.

    Raises:
        MissingFileError: The folder or one of its files does not exist, or the repository cannot be fetched.
        CheckpointError: The trained task is damaged, or its encoder does not fit. The task is unchanged.

    Examples:
        >>> import tempfile
        >>> import ssl_pretext as sp
        >>> before = sp.create_task("colorization", encoder="autoencoder")
        >>> task = sp.create_task("colorization[target=rgb]", encoder="autoencoder")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = before.save_pretrained(folder)
        ...     initialize_from(task, folder)
        >>> torch.equal(task.encoder.to_latent.weight, before.encoder.to_latent.weight)
        True
    """
    from safetensors.torch import load_file

    path = local_folder(folder, revision)
    read_contract(path)  # verifies the checksums
    own, saved = task.state_dict(keep_vars=True), load_file(str(path / WEIGHTS_FILE))
    # Not by name: where the encoders are among the weights of a task is its own affair.
    of_encoder = {id(value) for value in task.encoder.state_dict(keep_vars=True).values()}
    fitting = {name for name, value in own.items() if name in saved and saved[name].shape == value.shape}
    loaded = {id(own[name]) for name in fitting}  # a weight with two names is saved under one of them
    missing = [name for name, value in own.items() if id(value) in of_encoder - loaded]
    if missing:
        name = missing[0]
        problem = (
            f"has the shape {tuple(saved[name].shape)} instead of {tuple(own[name].shape)}"
            if name in saved
            else "is missing"
        )
        more = f", and {len(missing) - 1} more do not fit" if len(missing) > 1 else ""
        raise CheckpointError(
            f"the encoder of the task in {path} does not fit: {name} {problem}{more}. Create the task with the encoder "
            "and the channels of the trained one"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(saved[name])
    others = [name for name, value in own.items() if id(value) not in loaded]
    kept = f"; not loaded: {', '.join(others)}" if others else ""
    log.info("%d of %d weights were loaded from %s%s", len(fitting), len(own), path, kept)
    task.trained_on = replace(task.trained_on, initialized_from=file_sha256(path / WEIGHTS_FILE))
