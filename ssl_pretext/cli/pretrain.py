"""The command `ssl-pretext pretrain`, which trains a task on a folder of images or on shards."""

import logging
import shlex
from dataclasses import fields
from pathlib import Path

import torch

from ssl_pretext.cli.files import read_options, write_options, write_skipped, write_skipped_on_error
from ssl_pretext.cli.options import ImageOptions, Pretrain
from ssl_pretext.data import ImageStore, ImageStream, are_shards
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.losses import parse_losses
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import check_launcher, on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask, create_task
from ssl_pretext.training.fit import fit, holds_run

__all__ = ["run"]

log = logging.getLogger(__name__)

OPTIONS_FILE = "pretrain.yaml"
# Options that a resumed run may change: they affect the weights at most by rounding. Paths are among them, because
# `fit` itself checks that the images are the same.
CHANGEABLE = ("data", "out", "cache", "device", "compile", "checkpoint_minutes")


def run(options: Pretrain) -> None:
    """Pretrains a task, and resumes an earlier run in the same folder if `resume` is set.

    Raises:
        CheckpointError: The output folder contains a run, and `resume` is off or the run had other settings.
        PretextError: The images cannot be read, an option is invalid, or the training fails.
    """
    check_launcher()
    out = Path(options.fit.out)
    # The whole request is checked before the first file is written.
    task = _task(options)
    on_rank_zero("folder", lambda: _check_folder(out, options))
    with write_skipped_on_error(out):
        images = _images(options)
    note = ""
    with exclusive_lock(out, "checkpoints", "task"):
        if rank_info().rank == 0:
            _check_folder(out, options)  # again, because another run may have started while the images were decoded
            write_options(out / OPTIONS_FILE, options.settings())
            if isinstance(images, ImageStore):  # the unreadable images of a stream are found during training
                note = write_skipped(out, images.skipped)
        log.info("%s images of %s px from %s%s", f"{len(images):,}", images.image_size, options.data, note)
        fit(task, images, options.fit)
    quoted = shlex.quote(str(out))
    log.info("trained: %s\ndoes it help? ssl-pretext probe %s --data LABELED_FOLDER", out / "task", quoted)


def _images(options: Pretrain) -> ImageStore | ImageStream:
    size, cache = options.size, options.cache
    if are_shards(options.data):
        if options.images != ImageOptions():
            names = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(ImageOptions))
            raise ArgumentError(f"{names} are for folders only, and {options.data} are shards; leave the options out")
        return ImageStream(
            options.data,
            image_size=size,
            image_field=options.image_field,
            epoch_images=options.epoch_images,
            cache=cache,
        )
    for name, value in (("--image-field", options.image_field), ("--epoch-images", options.epoch_images)):
        if value is not None:
            raise ArgumentError(f"{name} is for shards only, and {options.data} is a folder; leave the option out")
    return ImageStore.from_folder(options.data, image_size=size, labeled=False, cache=cache, **options.images.to_dict())


def _task(options: Pretrain) -> PretextTask:
    losses = {} if options.losses is None else {"losses": parse_losses(options.losses)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.fit.seed)
        return create_task(options.task, encoder=options.encoder, **losses)


def _check_folder(out: Path, options: Pretrain) -> None:
    """Raises an error if the folder contains a run that these options must not resume."""
    if not holds_run(out):
        return
    if not options.fit.resume:
        raise CheckpointError(
            f"{out} holds another pretraining run; resume it with --resume, or choose another folder with --out"
        )
    if (written := out / OPTIONS_FILE).exists():
        now = options.settings()
        before = {key: value for key, value in read_options(written).items() if key in now and key not in CHANGEABLE}
        if differing := [f"{key} {value}" for key, value in before.items() if value != now[key]]:
            raise CheckpointError(
                f"the run in {out} was started with other settings: {', '.join(differing)}. Resume it with them "
                f"(--config {written}), or choose another folder with --out"
            )
