"""The check at the end of a run whether the features of the trained task have collapsed."""

import logging
from pathlib import Path

import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.representations.collapse import collapse_warnings, feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.spacing import evenly_spaced
from ssl_pretext.system.files import write_json
from ssl_pretext.tasks import PretextTask

__all__ = ["check_features"]

log = logging.getLogger(__name__)

NUM_IMAGES = 256  # evenly spaced images that the features are computed on


def check_features(task: PretextTask, images: ImageStore, out: Path, device: torch.device) -> None:
    """Logs statistics of a task's features, warns if they have collapsed, and writes the statistics to `health.json`.

    Args:
        task: The trained task.
        images: Images to compute the features on; at most 256 of them are used.
        out: Folder to write `health.json` into.
        device: Device to compute the features on.

    Raises:
        ArgumentError: The features contain NaN or infinite values.
    """
    chosen = evenly_spaced(len(images), NUM_IMAGES)
    representation = task.representation()
    features = extract_features([representation], images.subset(chosen), device=device)
    health = feature_health(representation.combine_parts(features))
    write_json(out / "health.json", health)
    log.info(
        "features: %d channels, %d of them collapsed; effective rank %.1f; they differ between images by %.1f%%",
        health["channels"],
        health["collapsed_channels"],
        health["effective_rank"],
        100 * health["between_images"],
    )
    for sentence in collapse_warnings({task.name: health}):
        log.warning(sentence)
