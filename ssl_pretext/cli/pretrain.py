"""The command `ssl-pretext pretrain`, which trains a task on a folder of images or on shards."""

import logging
import shlex
from pathlib import Path
from typing import Any

import torch

from ssl_pretext.channels import Channels
from ssl_pretext.cli.bands import choose_bands, default_task, image_format, read_bands, with_missing
from ssl_pretext.cli.files import read_options, write_options, write_skipped, write_skipped_on_error
from ssl_pretext.cli.networks import check_same_channels
from ssl_pretext.cli.options import ImageOptions, Pretrain
from ssl_pretext.data import ImageStore, ImageStream, are_shards
from ssl_pretext.data.folder_options import few_images
from ssl_pretext.errors import ArgumentError, CheckpointError, UnknownChannelsError
from ssl_pretext.losses import parse_losses
from ssl_pretext.monitoring import OnlineProbe
from ssl_pretext.registry import split_specs
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import check_launcher, on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask, create_task
from ssl_pretext.tasks.warm_start import initialize_from
from ssl_pretext.training.fit import check_no_stray_checkpoint, check_request, fit, holds_run
from ssl_pretext.training.run_page import PAGE

__all__ = ["run"]

log = logging.getLogger(__name__)

OPTIONS_FILE = "pretrain.yaml"
# Options that a resumed run may change: they affect the weights at most by rounding. Paths are among them, because
# `fit` itself checks that the images are the same.
CHANGEABLE = (
    *("data", "out", "cache", "loggers", "device", "strategy", "compile", "checkpoint_minutes"),
    *("probe_data", "probe_every"),
)


def run(options: Pretrain) -> None:
    """Pretrains a task, and resumes an earlier run in the same folder if `resume` is set.

    Raises:
        CheckpointError: The output folder contains a run, and `resume` is off or the run had other settings.
        PretextError: The images cannot be read, an option is invalid, or the training fails.
    """
    check_launcher()
    out = Path(options.fit.out)
    # The whole request is checked before the first file is written, and as much as possible before images are read.
    bands = None if options.bands is None else read_bands(options.bands)
    of_images = with_missing(options.images, bands)
    task = _task_of_photos(options) if bands is None else None
    loggers = split_specs(options.loggers)
    if task is not None:
        check_request(task, options.fit, loggers=loggers)
    on_rank_zero("folder", lambda: _check_folder(out, options))
    with write_skipped_on_error(out):
        if options.probe_data is not None and not are_shards(options.data):
            few, labeled = (few_images(one, **of_images.arguments()) for one in (options.data, options.probe_data))
            check_same_channels(options.data, few, options.probe_data, labeled)
        images = _images(options, of_images)
    found = image_format(images)
    chosen = choose_bands(bands, found)
    if task is None or chosen is not None:
        task = _task(options, chosen)
    if task.image_space.image_channels != found.num_channels:
        raise ArgumentError(
            f"{task.name} takes images with {task.image_space.image_channels} channels, but those in {options.data} "
            f"have {found.num_channels}; choose a task for their channels, such as 'cross_channel[source=...;"
            "target=...]' with names of bands, or leave --task out"
        )
    if options.init_from is not None:
        initialize_from(task, options.init_from)
    check_request(task, options.fit, loggers=loggers)
    probing = _probing(options, of_images)
    note = ""
    with exclusive_lock(out, "checkpoints", "task"):
        if rank_info().rank == 0:
            _check_folder(out, options)  # again, because another run may have started while the images were decoded
            write_options(out / OPTIONS_FILE, options.settings())
            if isinstance(images, ImageStore):  # the unreadable images of a stream are found during training
                note = write_skipped(out, images.skipped)
        if about := default_task(options.task, chosen)[2]:
            log.info("%s", about)
        log.info("%s images of %s px from %s%s", f"{len(images):,}", images.image_size, options.data, note)
        fit(task, images, options.fit, callbacks=probing, loggers=loggers)
    quoted = shlex.quote(str(out))
    report = f"trained: {out / 'task'}\nreport: {out / PAGE}"
    log.info("%s\ndoes it help? ssl-pretext probe %s --data LABELED_FOLDER", report, quoted)


def _images(options: Pretrain, of_images: ImageOptions) -> ImageStore | ImageStream:
    size, cache = options.size, options.cache
    if are_shards(options.data):
        return ImageStream(
            options.data,
            image_size=size,
            image_field=options.image_field,
            epoch_images=options.epoch_images,
            cache=cache,
            **of_images.of_shards(options.data),
        )
    for name, value in (("--image-field", options.image_field), ("--epoch-images", options.epoch_images)):
        if value is not None:
            raise ArgumentError(f"{name} is for shards only, and {options.data} is a folder; leave the option out")
    return ImageStore.from_folder(options.data, image_size=size, labeled=False, cache=cache, **of_images.arguments())


def _probing(options: Pretrain, of_images: ImageOptions) -> list[OnlineProbe]:
    """The probes during the training, if labeled images are named for them."""
    if options.probe_data is None:
        return []
    labeled = ImageStore.from_folder(
        options.probe_data, image_size=options.size, cache=options.cache, **of_images.arguments()
    )
    return [OnlineProbe(labeled, every=options.probe_every)]


def _task_of_photos(options: Pretrain) -> PretextTask | None:
    """Creates the task for photos, so that unknown names are found before images are read; None if it needs bands."""
    try:
        return _task(options, None)
    except (ArgumentError, UnknownChannelsError):  # the request may be right for other images
        return None


def _task(options: Pretrain, bands: Channels | None) -> PretextTask:
    spec, given, _ = default_task(options.task, bands)
    arguments: dict[str, Any] = {"encoder": options.encoder, **given}
    if options.losses is not None:
        arguments["losses"] = parse_losses(options.losses)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.fit.seed)
        return create_task(spec, spaces=[] if bands is None else [bands.space], **arguments)


def _check_folder(out: Path, options: Pretrain) -> None:
    """Raises an error if the folder contains a run that these options must not resume."""
    check_no_stray_checkpoint(out)
    if not holds_run(out):
        return
    if not options.fit.resume:
        raise CheckpointError(
            f"{out} holds another pretraining run; resume it with --resume, or choose another folder with --out"
        )
    if (written := out / OPTIONS_FILE).exists():
        now = options.settings()
        before = {key: value for key, value in read_options(written).items() if key in now and key not in CHANGEABLE}
        differing = [f"{key} {value}" for key, value in before.items() if value != now[key]]
        if "epochs" in before and options.fit.can_extend(before["epochs"]):
            differing = [entry for entry in differing if not entry.startswith("epochs ")]
        if differing:
            raise CheckpointError(
                f"the run in {out} was started with other settings: {', '.join(differing)}. Resume it with them "
                f"(--config {written}), or choose another folder with --out"
            )
