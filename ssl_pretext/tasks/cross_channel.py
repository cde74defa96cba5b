"""Cross-channel prediction (Zhang et al. 2017, section 3): predicts one group of channels from another."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels, join
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import SkipDecoder, create_decoder, decoder_for
from ssl_pretext.encoders.inspection import output_and_maps
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses, WeightedLosses
from ssl_pretext.losses.weighted import as_signed_rgb
from ssl_pretext.regularizers import WeightedRegularizers
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.tasks.base import PretextTask, TaskOutput, parse_channel_pair, register_task
from ssl_pretext.tasks.gray_photos import check_colors

__all__ = ["PREDICTION", "CrossChannelPrediction"]

PREDICTION = "(prediction)"  # stands for the prediction among the layers, whose names have no parentheses
PREDICTED_AT_ONCE = 64  # images; more take more memory and no less time


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
        decoder: `"upsampling"`, `"autoencoder"` (diffusers' blocks), `"unet"`, which joins the encoder's layers and its
            input for a prediction in full detail, or a module from `(B, C, h, w)` to `(B, m, H, W)`. By default the
            decoder that belongs to the encoder.
        losses: Weight of each loss, by spec or by `Loss` instance, or a string such as `"l1=1,lpips=0.5"`.
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
        self.decoder = create_decoder(decoder, self.encoder, self.shape, outputs, output_stride=output_stride)

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        images = self._check_images(images)
        source, target = self._extract(self.source, images), self._extract(self.target, images)
        inputs, where = self._corrupt(self._fill_missing(source))
        features, output = self._run(inputs)
        prediction = self._decode(output, source)
        terms = self.losses(prediction, target, images, output, where=where) | self.regularizers(self.encoder, features)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Predicts the target channels of images, in the units of the images.

        The networks compute in eval mode, in whatever mode the task is, and on a few images at a time. Where there are
        no target channels, such as a stain that was never made, fill them with NaN; they are not read.

        Args:
            images: Images `(B, C, H, W)` as the task takes them.

        Returns:
            The predicted channels `(B, m, H, W)`, floating; `uint8` images count as values in `[0, 1]`, as everywhere.
            If the target belongs to a color space, these are RGB images `(B, 3, H, W)` in `[0, 1]`, in which the
            predicted channels are joined with the other channels of the image.

        Raises:
            ArgumentError: The shape, dtype or value range of the images does not fit the task.

        Examples:
            >>> from ssl_pretext import ChannelSpace
            >>> cells = ChannelSpace.bands("cells", ["bright field", "DNA"], center=1000.0, scale=500.0)
            >>> task = CrossChannelPrediction(
            ...     cells["bright field"], cells["DNA"], "timm/resnet10t[layer=layer1]", decoder="unet"
            ... )
            >>> task.predict(torch.full((2, 2, 40, 40), 900.0)).shape
            torch.Size([2, 1, 40, 40])
        """
        images = self._check_images(images)
        return torch.cat([self._in_image_units(self._predict(part), part) for part in images.split(PREDICTED_AT_ONCE)])

    @override
    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        inner = [layer for layer in layers if layer != PREDICTION]
        maps = super().feature_maps(images, inner) if inner else {}
        return maps if len(inner) == len(layers) else maps | {PREDICTION: self._predict(self._check_images(images))}

    def prediction_representation(self, name: str | None = None, *, pooling: str = "map") -> Representation:
        """Returns the prediction as a representation for probes, such as a predicted stain.

        Its untrained control is the prediction of the untrained task.

        Args:
            name: The name of the representation in messages.
            pooling: `"map"` for the normalized predicted channels `(B, m, H, W)`, or `"gap"` for the mean of each,
                `(B, m, 1, 1)`. For images of one size, the mean is the total in another unit.

        Raises:
            ArgumentError: There is no such pooling.

        Examples:
            >>> task = CrossChannelPrediction("lab:L", "lab:ab", "autoencoder")
            >>> task.prediction_representation(pooling="gap").features(torch.rand(2, 3, 32, 32)).shape
            torch.Size([2, 2, 1, 1])
        """
        return self.backbone().representation(PREDICTION, name, pooling=pooling)

    @override
    def backbone(self) -> Backbone:
        backbone = super().backbone()
        backbone.prediction = PREDICTION
        return backbone

    @property
    def source(self) -> Channels:
        """Channels that the encoder sees."""
        return self.channels

    @override
    def networks(self) -> list[nn.Module]:
        # For a decoder with skip connections, hooks on the encoder's layers read their maps, and compiled code ignores
        # hooks.
        return [self.decoder] if isinstance(self.decoder, SkipDecoder) else [self.encoder, self.decoder]

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

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Runs both networks and checks the number of output channels; returns the outputs of encoder and decoder."""
        features: Tensor
        output: Tensor
        if isinstance(self.decoder, SkipDecoder):
            features, maps = output_and_maps(self.encoder, inputs, self.decoder.layers)
            output = self.decoder(features, maps, inputs)
        else:
            features = self.encoder(inputs)
            output = self.decoder(features)
        logits = self.losses.logits
        expected = logits.num_outputs if logits else self.target.num_channels
        if output.shape[1] != expected:
            raise ArgumentError(
                f"the decoder of {self.name} returned {output.shape[1]} channels, but predicting {self.target!r} needs "
                f"{expected}"
            )
        return features, output

    def _predict(self, images: Tensor) -> Tensor:
        """Predicts the normalized target channels of images that were checked, in eval mode."""
        source = self._extract(self.source, images)
        with eval_mode(self):
            return self._decode(self._run(self._fill_missing(source))[1], source)

    def _in_image_units(self, prediction: Tensor, images: Tensor) -> Tensor:
        """Converts normalized target channels to the units of the images, which they were predicted from."""
        if self.target.space.is_color:
            return (as_signed_rgb(prediction, self.target, images) + 1) / 2
        # Bands are converted together, because a function of the space may need all of them.
        others = self.target.complement()
        return join({self.target: prediction, others: self._extract(others, images)})[:, self.target.indices]

    def _decode(self, output: Tensor, source: Tensor) -> Tensor:
        """Converts the network's output to normalized target channels, resized to the height and width of `source`."""
        logits = self.losses.logits
        values = output if logits is None else logits.decode(output)
        if values.shape[-2:] != source.shape[-2:]:
            values = F.interpolate(values, source.shape[-2:], mode="bilinear", align_corners=False)
        return values.tanh() if logits is None and self.target.space.is_bounded else values
