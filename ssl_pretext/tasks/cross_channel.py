"""Cross-channel prediction (Zhang et al. 2017, section 3): one group of channels from another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import create_decoder, decoder_for
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses, WeightedLosses
from ssl_pretext.regularizers import WeightedRegularizers
from ssl_pretext.tasks.base import PretextTask, TaskOutput, channels_of_one_image, register_task

__all__ = ["CrossChannelPrediction"]


@register_task("cross_channel")
class CrossChannelPrediction(PretextTask):
    """Predicts the `target` channels of an image from its `source` channels.

    Equal channels make a plain autoencoder; `input_noise` and `input_drop` a denoising one. Predictions of color
    channels pass a tanh, since normalized colors live in `[-1, 1]`; those of other bands are unbounded. A loss on
    logits, such as `color_classification`, decides the outputs of the network and how they decode to channels.

    Missing values, NaN in the images, reach the encoder as the center of their band, and no loss counts them.

    Args:
        source: Channels that the encoder sees, such as `"lab:L"`.
        target: Channels to predict, such as `"lab:ab"` or `"rgb"`, of the same images.
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        decoder: `"upsampling"`, `"autoencoder"` (diffusers' blocks), or a module `(B, C, h, w)` to `(B, m, H, W)`; the
            one that fits the encoder if left out.
        losses: Weight of each loss, by spec or by `Loss` instance.
        regularizers: Weight of each regularizer of the encoder, by spec.
        output_stride: Pixels of the image per pixel of the network's output; 4 in Zhang et al. 2016. Predictions are
            resized to the image.
        input_noise: Standard deviation of Gaussian noise on the encoder's input while training.
        input_drop: Share of the encoder's input pixels set to zero while training.

    Raises:
        ArgumentError: The parts do not fit together; the message says which.

    Examples:
        >>> task = CrossChannelPrediction("lab:L", "lab:ab", "autoencoder", losses={"smooth_l1": 1.0})
        >>> task.features(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
    """

    default_losses: ClassVar[Losses] = {"smooth_l1": 1.0}

    def __init__(
        self,
        source: str | Channels,
        target: str | Channels,
        encoder: str | nn.Module,
        *,
        decoder: str | nn.Module | None = None,
        losses: Losses | None = None,
        regularizers: Mapping[str, float] | None = None,
        output_stride: int = 1,
        input_noise: float = 0.0,
        input_drop: float = 0.0,
    ) -> None:
        super().__init__()
        source, self.target = channels_of_one_image(source, target)
        if not source.names or not self.target.names:
            raise ArgumentError("source and target must have channels")
        if not input_noise >= 0 or not 0 <= input_drop < 1:
            raise ArgumentError(f"input_noise >= 0 and 0 <= input_drop < 1, got {input_noise} and {input_drop}")
        self.input_noise, self.input_drop, self.output_stride = input_noise, input_drop, output_stride
        self.losses = WeightedLosses(self.default_losses if losses is None else losses, self.target)
        self.regularizers = WeightedRegularizers(regularizers or {})
        self.set_encoder(encoder, source)
        if not 1 <= output_stride <= max(1, round(self.shape.reduction)):
            raise ArgumentError(
                f"output_stride lies between 1 and the encoder's reduction, {self.shape.reduction:g}; "
                f"got {output_stride}"
            )
        logits = self.losses.logits
        outputs = logits.num_outputs if logits else self.target.num_channels
        if decoder is None:
            decoder = decoder_for(self.encoder)
        self.decoder_name = decoder if isinstance(decoder, str) else None
        self.decoder = create_decoder(
            decoder, replace(self.shape, reduction=self.shape.reduction / output_stride), outputs
        )

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        images = self._checked(images)
        source, target = self._pick(self.source, images), self._pick(self.target, images)
        shown, judged = self._corrupted(self._filled(source))
        features = self.encoder(shown)
        output = self._output(features)
        prediction = self._decoded(output, source)
        terms = self.losses(prediction, target, images, output, where=judged) | self.regularizers(
            self.encoder, features
        )
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    def predict(self, source: Tensor) -> Tensor:
        """Normalized target channels `(B, m, H, W)` from normalized source channels `(B, n, H, W)`."""
        return self._decoded(self._output(self.encoder(self._filled(source))), source)

    @property
    def source(self) -> Channels:
        """The channels that the encoder sees."""
        return self.channels

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    @override
    def prepare(self, images: ImageStore) -> None:
        self.losses.prepare(images)

    def _converted_options(self) -> dict[str, Any]:
        return super()._converted_options() | {
            "decoder": self.decoder_name,
            "losses": self.losses.specs,
            "regularizers": self.regularizers.specs,
        }

    def _used_channels(self) -> Sequence[Channels]:
        return [self.source, self.target]

    def _corrupted(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the encoder is shown in place of `source`, and the pixels `(B, 1, H, W)` that alone are judged."""
        if self.training and self.input_noise:
            source = source + self.input_noise * torch.randn_like(source)
        if self.training and self.input_drop:
            source = source * (torch.rand_like(source[:, :1]) >= self.input_drop)
        return source, None

    def _output(self, features: Tensor) -> Tensor:
        output: Tensor = self.decoder(features)
        logits = self.losses.logits
        expected = logits.num_outputs if logits else self.target.num_channels
        if output.shape[1] != expected:
            raise ArgumentError(f"the decoder gave {output.shape[1]} channels where {self.target!r} needs {expected}")
        return output

    def _decoded(self, output: Tensor, source: Tensor) -> Tensor:
        """The network's output as normalized target channels in the size of the image."""
        logits = self.losses.logits
        values = output if logits is None else logits.decode(output)
        if values.shape[-2:] != source.shape[-2:]:
            values = F.interpolate(values, source.shape[-2:], mode="bilinear", align_corners=False)
        return values.tanh() if logits is None and self.target.space.is_color else values
