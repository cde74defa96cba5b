"""Cross-channel prediction (Zhang et al. 2017, section 3): one group of channels from another."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.channels import Channels, as_images
from ssl_pretext.encoders import create_decoder, create_encoder, feature_layers, measure_encoder
from ssl_pretext.encoders.inspection import capture
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Loss, WeightedLosses
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task

__all__ = ["CrossChannelPrediction"]


@register_task("cross_channel")
class CrossChannelPrediction(PretextTask):
    """Predicts the `target` channels of an image from its `source` channels.

    Equal channels make a plain autoencoder; `input_noise` and `input_drop` a denoising one. Predictions of colour
    channels pass a tanh, since normalised colours live in `[-1, 1]`; those of other bands are unbounded.

    Args:
        source: Channels that the encoder sees, such as `"lab:L"`.
        target: Channels to predict, such as `"lab:ab"` or `"rgb"`, of the same images.
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        decoder: A module from there to `(B, m, H, W)`; the one that fits the encoder if left out.
        losses: Weight of each loss, by spec or by `Loss` instance.
        input_noise: Standard deviation of Gaussian noise on the encoder's input while training.
        input_drop: Share of the encoder's input pixels set to zero while training.

    Raises:
        ArgumentError: The parts do not fit together; the message says which.

    Examples:
        >>> task = CrossChannelPrediction("lab:L", "lab:ab", "autoencoder", losses={"smooth_l1": 1.0})
        >>> task.features(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        source: str | Channels,
        target: str | Channels,
        encoder: str | nn.Module,
        *,
        decoder: nn.Module | None = None,
        losses: Mapping[str | Loss, float] | Mapping[str, float] | None = None,
        input_noise: float = 0.0,
        input_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.source, self.target = Channels.parse(source), Channels.parse(target)
        if self.source.space.image_channels != self.target.space.image_channels:
            raise ArgumentError(f"{self.source} and {self.target} are read from different images")
        if not self.source.names or not self.target.names:
            raise ArgumentError("source and target must have channels")
        if not input_noise >= 0 or not 0 <= input_drop < 1:
            raise ArgumentError(f"input_noise >= 0 and 0 <= input_drop < 1, got {input_noise} and {input_drop}")
        self.input_noise, self.input_drop = input_noise, input_drop
        self._encoder_name = encoder if isinstance(encoder, str) else None
        self.encoder = create_encoder(encoder, in_channels=self.source.num_channels)
        self.shape = measure_encoder(self.encoder, self.source.num_channels)
        self._own_decoder = decoder is not None
        self.decoder = decoder or create_decoder(self.encoder, self.shape, self.target.num_channels)
        self.losses = WeightedLosses(losses or {"smooth_l1": 1.0})
        self.losses.check(self.target)

    def forward(self, images: Tensor) -> TaskOutput:
        images = self._checked(images)
        source, target = self._pick(self.source, images), self._pick(self.target, images)
        prediction = self.predict(source)
        terms = self.losses(prediction, target, self.target, images)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    def predict(self, source: Tensor) -> Tensor:
        """Normalised target channels `(B, m, H, W)` from normalised source channels `(B, n, H, W)`."""
        prediction: Tensor = self.decoder(self.encoder(self._corrupted(source)))
        if prediction.shape[1] != self.target.num_channels:
            raise ArgumentError(f"the decoder gave {prediction.shape[1]} channels for {self.target!r}")
        if prediction.shape[-2:] != source.shape[-2:]:
            prediction = F.interpolate(prediction, source.shape[-2:], mode="bilinear", align_corners=False)
        return prediction.tanh() if self.target.space.is_color else prediction

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        source = self._pick(self.source, self._checked(images))
        features: Tensor = self.encoder(source) if layer is None else capture(self.encoder, source, layer)
        return features

    def layers(self) -> list[str]:
        return feature_layers(self.encoder, self.source.num_channels)

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "source": str(self.source),
            "target": str(self.target),
            "encoder": self._encoder_name,
            "losses": self.losses.specs,
            "input_noise": self.input_noise,
            "input_drop": self.input_drop,
        }
        return options | ({"decoder": None} if self._own_decoder else {})

    def _checked(self, images: Tensor) -> Tensor:
        images = as_images(images, self.source.space)
        smallest = max(1, round(self.shape.reduction))
        if min(images.shape[-2:]) < smallest:
            raise ArgumentError(
                f"{self.name} reduces images by {smallest} and needs at least {smallest}×{smallest} pixels, got "
                f"{tuple(images.shape[-2:])}; choose a larger image size"
            )
        return images

    @staticmethod
    def _pick(channels: Channels, images: Tensor) -> Tensor:
        return channels.select(channels.space.extract(images))

    def _corrupted(self, source: Tensor) -> Tensor:
        if self.training and self.input_noise:
            source = source + self.input_noise * torch.randn_like(source)
        if self.training and self.input_drop:
            source = source * (torch.rand_like(source[:, :1]) >= self.input_drop)
        return source
