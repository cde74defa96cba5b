"""Pretext tasks: hide part of the data, learn to predict it."""

from ssl_pretext.tasks.base import PretextTask, TaskOutput, create_task, list_tasks, register_task
from ssl_pretext.tasks.colorization import Colorization
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.cross_channel_contrast import CrossChannelContrast
from ssl_pretext.tasks.denoising import Denoising
from ssl_pretext.tasks.inpainting import Inpainting
from ssl_pretext.tasks.jigsaw import Jigsaw
from ssl_pretext.tasks.masked_patches import MaskedPatches
from ssl_pretext.tasks.relative_patch import RelativePatch
from ssl_pretext.tasks.rotation import Rotation
from ssl_pretext.tasks.split_brain import SplitBrain
from ssl_pretext.tasks.warm_start import initialize_from

__all__ = [
    "Colorization",
    "CrossChannelContrast",
    "CrossChannelPrediction",
    "Denoising",
    "Inpainting",
    "Jigsaw",
    "MaskedPatches",
    "PretextTask",
    "RelativePatch",
    "Rotation",
    "SplitBrain",
    "TaskOutput",
    "create_task",
    "initialize_from",
    "list_tasks",
    "register_task",
]
