"""What the features of a trained task look like, at the end of its run."""

import logging
from pathlib import Path

import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.representations.collapse import collapse_warnings, feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.system.files import write_json
from ssl_pretext.tasks import PretextTask

__all__ = ["check_features"]

log = logging.getLogger(__name__)

IMAGES = 256  # that the features are looked at on, evenly spaced


def check_features(task: PretextTask, images: ImageStore, out: Path, device: torch.device) -> None:
    """Logs how lively the features are, warns if they have collapsed, and writes the figures to `health.json`.

    Raises:
        ArgumentError: The features are not finite.
    """
    chosen = torch.linspace(0, len(images) - 1, min(IMAGES, len(images))).long().unique()
    representation = task.representation()
    found = extract_features([representation], images.subset(chosen), device=device)
    health = feature_health(representation.combine([found[part.backbone, part.layer] for part in representation.parts]))
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
