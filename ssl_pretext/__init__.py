"""Self-supervised pretext tasks that predict image channels from one another, judged by probes with controls.

Importing this package loads torch and the light modules; what needs diffusers, timm, torchvision, Lightning or
matplotlib is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssl_pretext.channels import Channels, ChannelSpace, join
from ssl_pretext.errors import PretextError

if TYPE_CHECKING:
    from ssl_pretext.data import ImageStore, ImageStream, holdout_split, sample_photos
    from ssl_pretext.encoders import create_encoder, list_encoders, register_encoder
    from ssl_pretext.fitting import FitConfig
    from ssl_pretext.losses import Loss, create_loss, list_losses, register_loss
    from ssl_pretext.probes import (
        ColorHistogram,
        Joined,
        LabelEfficiency,
        Network,
        Pixels,
        ProbeReport,
        ProbeTraining,
        Representation,
        create_probe,
        evaluate,
        label_efficiency,
        list_probes,
        load_representation,
        register_probe,
        save_representation,
    )
    from ssl_pretext.tasks import (
        Colorization,
        CrossChannelContrast,
        CrossChannelPrediction,
        Denoising,
        Inpainting,
        Jigsaw,
        MaskedPatches,
        PretextTask,
        RelativePatch,
        Rotation,
        SplitBrain,
        TaskOutput,
        create_task,
        export_encoder,
        list_tasks,
        register_task,
    )
    from ssl_pretext.training import fit

__all__ = [
    "ChannelSpace",
    "Channels",
    "ColorHistogram",
    "Colorization",
    "CrossChannelContrast",
    "CrossChannelPrediction",
    "Denoising",
    "FitConfig",
    "ImageStore",
    "ImageStream",
    "Inpainting",
    "Jigsaw",
    "Joined",
    "LabelEfficiency",
    "Loss",
    "MaskedPatches",
    "Network",
    "Pixels",
    "PretextError",
    "PretextTask",
    "ProbeReport",
    "ProbeTraining",
    "RelativePatch",
    "Representation",
    "Rotation",
    "SplitBrain",
    "TaskOutput",
    "create_encoder",
    "create_loss",
    "create_probe",
    "create_task",
    "evaluate",
    "export_encoder",
    "fit",
    "holdout_split",
    "join",
    "label_efficiency",
    "list_encoders",
    "list_losses",
    "list_probes",
    "list_tasks",
    "load_representation",
    "register_encoder",
    "register_loss",
    "register_probe",
    "register_task",
    "sample_photos",
    "save_representation",
]

_HOMES = {
    "data": ("ImageStore", "ImageStream", "holdout_split", "sample_photos"),
    "encoders": ("create_encoder", "list_encoders", "register_encoder"),
    "fitting": ("FitConfig",),
    "losses": ("Loss", "create_loss", "list_losses", "register_loss"),
    "probes": (
        "ColorHistogram",
        "Joined",
        "LabelEfficiency",
        "Network",
        "Pixels",
        "ProbeReport",
        "ProbeTraining",
        "Representation",
        "create_probe",
        "evaluate",
        "label_efficiency",
        "list_probes",
        "load_representation",
        "register_probe",
        "save_representation",
    ),
    "tasks": (
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
        "export_encoder",
        "list_tasks",
        "register_task",
    ),
    "training": ("fit",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ssl_pretext' has no attribute {name!r}")
    value = getattr(import_module(f"ssl_pretext.{_HOME[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return __all__
