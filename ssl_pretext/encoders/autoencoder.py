"""The autoencoder of the documented Food-101 experiment, built from diffusers' blocks with the same parameter count."""

from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError

__all__ = ["AutoencoderDecoder", "AutoencoderEncoder"]

BLOCK_CHANNELS = (32, 64, 64)
LAYERS_PER_BLOCK = 2
NORM_GROUPS = 32
LATENT_CHANNELS = 4


class AutoencoderEncoder(nn.Module):
    """The VAE encoder of diffusers, and a 1×1 convolution that reduces its 8 outputs (mean and variance) to 4.

    It has 533,544 + 36 parameters for one input channel. It maps images `(B, in_channels, H, W)` to a latent
    `(B, latent_channels, H/4, W/4)`.

    Args:
        in_channels: Number of channels of the input.
        width: Factor by which the numbers of inner channels are multiplied; 0.5 for each encoder of a split brain.
        latent_channels: Number of channels of the latent; 4 in the documented experiment.

    Raises:
        ArgumentError: The width gives channels that GroupNorm cannot divide into groups, or `latent_channels` is not
            positive.
    """

    def __init__(self, in_channels: int = 1, width: float = 1.0, latent_channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        from diffusers.models.autoencoders.vae import Encoder

        channels = tuple(round(width * count) for count in BLOCK_CHANNELS)
        groups = min(NORM_GROUPS, *channels)
        if groups < 1 or any(count % groups for count in channels):
            raise ArgumentError(
                f"width={width} gives the autoencoder {', '.join(map(str, channels))} channels, which its GroupNorm "
                "layers cannot divide into equal groups; widths such as 0.25, 0.5, 1 and 2 work"
            )
        whole_number("latent_channels of the autoencoder", latent_channels)
        self.body = Encoder(
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=LAYERS_PER_BLOCK,
            norm_num_groups=groups,
            act_fn="silu",
            double_z=True,
        )
        self.to_latent = nn.Conv2d(2 * latent_channels, latent_channels, kernel_size=1)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.to_latent(self.body(images)))


class AutoencoderDecoder(nn.Module):
    """The VAE decoder of diffusers, the counterpart of `AutoencoderEncoder`.

    It has 754,051 parameters for three output channels. It maps a latent `(B, in_channels, h, w)` to a prediction
    `(B, out_channels, s h, s w)` with `s = 2**doublings`.

    Args:
        in_channels: Number of channels of the latent.
        out_channels: Number of channels of the prediction.
        doublings: Number of times that the size is doubled; 2 in the documented experiment.
    """

    def __init__(
        self, in_channels: int = LATENT_CHANNELS, out_channels: int = 3, *, doublings: int = len(BLOCK_CHANNELS) - 1
    ) -> None:
        super().__init__()
        from diffusers.models.autoencoders.vae import Decoder

        blocks = (BLOCK_CHANNELS + BLOCK_CHANNELS[-1:] * doublings)[: doublings + 1]
        self.body = Decoder(
            in_channels=in_channels,
            out_channels=out_channels,
            up_block_types=("UpDecoderBlock2D",) * len(blocks),
            block_out_channels=blocks,
            layers_per_block=LAYERS_PER_BLOCK,
            norm_num_groups=NORM_GROUPS,
            act_fn="silu",
        )

    @override
    def forward(self, latent: Tensor) -> Tensor:
        return cast(Tensor, self.body(latent))
