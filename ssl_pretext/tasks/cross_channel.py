"""Cross-channel prediction (Zhang et al. 2017, section 3): predicts one group of channels from another."""

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
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses, WeightedLosses
from ssl_pretext.regularizers import WeightedRegularizers
from ssl_pretext.tasks.base import PretextTask, TaskOutput, parse_channel_pair, register_task
from ssl_pretext.tasks.gray_photos import check_colors

__all__ = ["CrossChannelPrediction"]


@register_task("cross_channel")
class CrossChannelPrediction(PretextTask):
    """Predicts the `target` channels of an image from its `source` channels.

    If source and target are equal, this is an autoencoder, and with `input_noise` or `input_drop` a denoising
    autoencoder. Predicted channels of a bounded space pass through a tanh, because its normalized values are in
    `[-1, 1]`, as in `rgb` and `lab`; predictions of stains and bands are not bounded. A loss on logits, such as
    `color_classification`, determines the number of output channels of the network, and decodes the logits to the
    target channels.

    Missing values are NaN in the images. The encoder sees them as 0, the normalized center of their band, and the
    losses ignore them.

    Args:
        source: Channels that the encoder sees, such as `"lab:L"`.
        target: Channels of the same images to predict, such as `"lab:ab"` or `"rgb"`.
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        decoder: `"upsampling"`, `"autoencoder"` (diffusers' blocks), or a module from `(B, C, h, w)` to
            `(B, m, H, W)`. By default the decoder that belongs to the encoder.
        losses: Weight of each loss, by spec or by `Loss` instance.
        regularizers: Weight of each regularizer of the encoder, by spec.
        output_stride: Pixels of the image per pixel of the network's output, 4 in Zhang et al. 2016. Predictions are
            resized to the size of the image.
        input_noise: Standard deviation of the Gaussian noise that is added to the encoder's input during training.
        input_drop: Fraction of the pixels of the encoder's input that are set to zero during training.

    Raises:
        ArgumentError: An argument is out of its range, or the channels, encoder, decoder and losses do not fit
            together.

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
        source, self.target = parse_channel_pair(source, target)
        if not source.names or not self.target.names:
            raise ArgumentError(
                f"{self.name} needs at least one channel in source and in target, got {source!r} and {self.target!r}"
            )
        if not input_noise >= 0 or not 0 <= input_drop < 1:
            raise ArgumentError(
                f"{self.name} needs input_noise >= 0 and 0 <= input_drop < 1, got {input_noise} and {input_drop}"
            )
        self.input_noise, self.input_drop, self.output_stride = input_noise, input_drop, output_stride
        self.losses = WeightedLosses(self.default_losses if losses is None else losses, self.target)
        self.regularizers = WeightedRegularizers(regularizers or {})
        self.set_encoder(encoder, source)
        if not 1 <= output_stride <= max(1, round(self.shape.reduction)):
            raise ArgumentError(
                f"output_stride of {self.name} must be at least 1 and at most the factor by which the encoder reduces "
                f"images, {self.shape.reduction:g}; got {output_stride}"
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
        images = self._check_images(images)
        source, target = self._extract(self.source, images), self._extract(self.target, images)
        inputs, where = self._corrupt(self._fill_missing(source))
        features = self.encoder(inputs)
        output = self._output(features)
        prediction = self._decode(output, source)
        terms = self.losses(prediction, target, images, output, where=where) | self.regularizers(self.encoder, features)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    def predict(self, source: Tensor) -> Tensor:
        """Predicts normalized target channels `(B, m, H, W)` from normalized source channels `(B, n, H, W)`.

        The networks compute in eval mode, in whatever mode the task is.
        """
        with eval_mode(self):
            return self._decode(self._output(self.encoder(self._fill_missing(source))), source)

    @property
    def source(self) -> Channels:
        """Channels that the encoder sees."""
        return self.channels

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    @override
    def prepare(self, images: ImageStore) -> None:
        if self.source != self.target and self.source.space.is_color and self.source.space.image_channels == 3:
            check_colors(images, self.name)
        self.losses.prepare(images)

    def _converted_options(self) -> dict[str, Any]:
        return super()._converted_options() | {
            "decoder": self.decoder_name,
            "losses": self.losses.specs,
            "regularizers": self.regularizers.specs,
        }

    def _used_channels(self) -> Sequence[Channels]:
        return [self.source, self.target]

    def _corrupt(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the corrupted input of the encoder, and a mask `(B, 1, H, W)` of the pixels that the losses use.

        The mask is None if the losses use all pixels.
        """
        if self.training and self.input_noise:
            source = source + self.input_noise * torch.randn_like(source)
        if self.training and self.input_drop:
            source = source * (torch.rand_like(source[:, :1]) >= self.input_drop)
        return source, None

    def _output(self, features: Tensor) -> Tensor:
        """Runs the decoder and checks the number of its output channels."""
        output: Tensor = self.decoder(features)
        logits = self.losses.logits
        expected = logits.num_outputs if logits else self.target.num_channels
        if output.shape[1] != expected:
            raise ArgumentError(
                f"the decoder of {self.name} returned {output.shape[1]} channels, but predicting {self.target!r} needs "
                f"{expected}"
            )
        return output

    def _decode(self, output: Tensor, source: Tensor) -> Tensor:
        """Converts the network's output to normalized target channels, resized to the height and width of `source`."""
        logits = self.losses.logits
        values = output if logits is None else logits.decode(output)
        if values.shape[-2:] != source.shape[-2:]:
            values = F.interpolate(values, source.shape[-2:], mode="bilinear", align_corners=False)
        return values.tanh() if logits is None and self.target.space.is_bounded else values
