"""The base class of tasks that bring the vectors of differently augmented views of an image close to each other."""

import os
from abc import abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.tasks.base import PretextTask, TaskOutput

__all__ = ["JointEmbedding", "lightly"]

PHOTO_AUGMENTATION = "random_resized_crop,horizontal_flip,color_jitter,grayscale,blur"
BAND_AUGMENTATION = "random_resized_crop,horizontal_flip,noise"


class JointEmbedding(PretextTask):
    """Base class of tasks on two views of each image.

    The encoder's feature map is averaged over its positions, and a head maps the mean to a vector. Losses and heads are
    those of lightly, which is an optional dependency. Probes use the features of the encoder. A subclass implements
    `terms`.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        embed_dim: Number of dimensions of the vectors.

    Raises:
        ArgumentError: The encoder does not fit the channels, or `embed_dim` is not a positive whole number.
        MissingDependencyError: lightly is not installed.
    """

    num_views = 2
    head: nn.Module

    def __init__(self, encoder: str | nn.Module, channels: str | Channels, embed_dim: int) -> None:
        super().__init__()
        whole_number(f"embed_dim of {self.name}", embed_dim)
        self.embed_dim = embed_dim
        self.set_encoder(encoder, channels)

    @property
    @override
    def default_augmentation(self) -> str:
        return PHOTO_AUGMENTATION if self.image_space.is_color else BAND_AUGMENTATION

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        """Computes the loss of a batch `(B, 2, C, H, W)` of two views of each image.

        Raises:
            ArgumentError: There are no views, or there is only one image, with which no other can be compared.
        """
        if images.dim() != 5 or len(images) < 2:
            raise ArgumentError(
                f"{self.name} compares two views of at least two images and needs batches (B, 2, C, H, W), as fit() "
                f"makes them with an augmentation; got {tuple(images.shape)}"
            )
        # In one pass, so that BatchNorm normalizes both views with the same statistics.
        maps = self.encoder(self.inputs(torch.cat(self.views(images))))
        vectors = self.head(maps.mean((2, 3)))
        # Not in bfloat16, because the losses divide by small temperatures and deviations.
        with torch.autocast(vectors.device.type, enabled=False):
            first, second = vectors.to(maps.dtype if maps.dtype == images.dtype else torch.float32).chunk(2)
            terms = self.terms(first, second)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, first, second)

    @abstractmethod
    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Computes the loss terms from the vectors `(B, embed_dim)` of the two views."""

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.head]


def lightly(module: str) -> Any:
    """Imports a module of lightly, such as `"loss"`.

    Raises:
        MissingDependencyError: lightly is not installed.
    """
    os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # it would ask its server for newer versions
    try:
        return import_module(f"lightly.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "tasks that compare views of images use the losses and heads of lightly, which is not installed: "
            "pip install 'ssl-pretext[joint]'"
        ) from error
