"""The base class of tasks and of networks from elsewhere: layers as representations, and embeddings of images."""

from collections.abc import Sequence
from typing import Any

from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.embedding import Embeddings, embed
from ssl_pretext.system.compute_format import CONTIGUOUS, FLOAT32

__all__ = ["BackboneOwner"]


class BackboneOwner:
    """Base class of objects that hold a network and offer its layers as representations."""

    def backbone(self) -> Backbone:
        """Returns the frozen network with its layers and its output."""
        raise NotImplementedError

    def layers(self) -> list[str]:
        """Returns the names of the layers that give feature maps, in running order."""
        raise NotImplementedError

    def representation(
        self, layer: str | None = None, name: str | None = None, *, pooling: str = "map"
    ) -> Representation:
        """Returns the frozen features of one layer, by default of the output; see `Backbone.representation`."""
        return self.backbone().representation(layer, name, pooling=pooling)

    def representations(self, layers: Sequence[str] | None = None) -> dict[str, Representation]:
        """Returns the frozen features of several layers, by default of all; see `Backbone.representations`."""
        return self.backbone().representations(layers)

    def embed(
        self,
        images: Any,
        *,
        layer: str | None = None,
        pooling: str = "gap",
        device: str = "auto",
        precision: str = FLOAT32,
        memory_format: str = CONTIGUOUS,
    ) -> Embeddings:
        """Computes a feature vector of each image with the frozen network.

        Args:
            images: Images `(N, C, H, W)` as a tensor or an array, an `ImageStore`, an `ImageStream`, which is read
                once, a pair `(images, labels)`, or a dataset or a loader.
            layer: Name of a layer, one of `layers()`; the output if left out.
            pooling: What is read from the layer: `"gap"` for its mean over all positions, `"cls"` for the class token,
                `"gap+cls"` for both, or `"map"` for all positions, flattened to `C * h * w` values.
            device: `"auto"`, `"cpu"`, `"cuda"`, a numbered GPU such as `"cuda:1"`, or `"mps"`.
            precision: `"32-true"`, `"bf16-mixed"`, or `"auto"` for the faster one, which is found by timing a batch if
                there are at least 6,400 images.
            memory_format: `"contiguous"`, `"channels_last"`, or `"auto"` for the faster one.

        Returns:
            The features `(N, F)` with the names and, if the images have some, the labels.

        Raises:
            UnknownNameError: The network has no such layer.
            ArgumentError: The images do not fit the network, the pooling is unknown, or features are not finite.
        """
        representation = self.representation(layer, pooling=pooling)
        return embed(representation, images, device=device, precision=precision, memory_format=memory_format)
