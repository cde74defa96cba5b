"""`ssl-pretext pretrain`: from a folder of images to a trained task."""

import logging
import shlex
from pathlib import Path

import torch

from ssl_pretext.cli.files import noting_skipped, read_options, write_options, write_skipped
from ssl_pretext.cli.options import Pretrain
from ssl_pretext.data import ImageStore, ImageStream, are_shards
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.losses import parse_losses
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask, create_task
from ssl_pretext.training.fit import fit, holds_run

__all__ = ["run"]

log = logging.getLogger(__name__)

OPTIONS_FILE = "pretrain.yaml"
# What decides no weights, or what `fit` looks at itself: whether the images are the same, wherever they lie.
FREE = ("data", "out", "cache", "device", "compile", "checkpoint_minutes")


def run(options: Pretrain) -> None:
    """Pretrains, going on where an earlier run in the same folder stopped if `resume` says so."""
    out = Path(options.fit.out)
    # Everything that can be wrong with the request comes before the first file is written.
    task = _task(options)
    on_rank_zero("folder", lambda: _check_folder(out, options))
    with noting_skipped(out):
        images = _images(options)
    unread = ""
    with exclusive_lock(out, "checkpoints", "task"):
        if rank_info().rank == 0:
            _check_folder(out, options)  # again: another run may have begun while the images were decoded
            write_options(out / OPTIONS_FILE, options.settings())
            if isinstance(images, ImageStore):  # what cannot be read of a stream is found while it is trained on
                unread = write_skipped(out, images.skipped)
        log.info("%s images of %s px from %s%s", f"{len(images):,}", images.image_size, options.data, unread)
        fit(task, images, options.fit)
    folder = shlex.quote(str(out))
    log.info("trained: %s\ndoes it help? ssl-pretext probe %s --data LABELED_FOLDER", out / "task", folder)


def _images(options: Pretrain) -> ImageStore | ImageStream:
    size, cache = options.image_size, options.cache
    if are_shards(options.data):
        return ImageStream(options.data, image_size=size, epoch_images=options.epoch_images, cache=cache)
    if options.epoch_images is not None:
        raise ArgumentError(f"--epoch-images is about shards, and {options.data} is a folder; leave it out")
    return ImageStore.from_folder(options.data, image_size=size, labeled=False, cache=cache)


def _task(options: Pretrain) -> PretextTask:
    losses = {} if options.losses is None else {"losses": parse_losses(options.losses)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.fit.seed)
        return create_task(options.task, encoder=options.encoder, **losses)


def _check_folder(out: Path, options: Pretrain) -> None:
    """Refuses the folder of another run."""
    if not holds_run(out):
        return
    if not options.fit.resume:
        raise CheckpointError(
            f"{out} holds another pretraining run; go on with it by --resume, or choose another folder with --out"
        )
    if (written := out / OPTIONS_FILE).exists():
        now = options.settings()
        before = {key: value for key, value in read_options(written).items() if key in now and key not in FREE}
        if other := [f"{key} {value}" for key, value in before.items() if value != now[key]]:
            raise CheckpointError(
                f"the run in {out} had other settings: {', '.join(other)}. Resume it with them, by --config {written}, "
                "or choose another folder with --out"
            )
