"""Pretext tasks: hide part of the data, learn to predict it."""

from ssl_pretext.tasks.barlow_twins import BarlowTwins
from ssl_pretext.tasks.base import PretextTask, TaskOutput, create_task, list_tasks, register_task
from ssl_pretext.tasks.colorization import Colorization
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.cross_channel_contrast import CrossChannelContrast
from ssl_pretext.tasks.denoising import Denoising
from ssl_pretext.tasks.inpainting import Inpainting
from ssl_pretext.tasks.instance_contrast import InstanceContrast
from ssl_pretext.tasks.jigsaw import Jigsaw
from ssl_pretext.tasks.masked_patches import MaskedPatches
from ssl_pretext.tasks.multi_task import MultiTask
from ssl_pretext.tasks.relative_patch import RelativePatch
from ssl_pretext.tasks.rotation import Rotation
from ssl_pretext.tasks.simsiam import SimSiam
from ssl_pretext.tasks.split_brain import SplitBrain
from ssl_pretext.tasks.vicreg import VICReg
from ssl_pretext.tasks.warm_start import initialize_from

__all__ = [
    "BarlowTwins",
    "Colorization",
    "CrossChannelContrast",
    "CrossChannelPrediction",
    "Denoising",
    "Inpainting",
    "InstanceContrast",
    "Jigsaw",
    "MaskedPatches",
    "MultiTask",
    "PretextTask",
    "RelativePatch",
    "Rotation",
    "SimSiam",
    "SplitBrain",
    "TaskOutput",
    "VICReg",
    "create_task",
    "initialize_from",
    "list_tasks",
    "register_task",
]
