"""The autoencoder of the documented Food-101 experiment, out of diffusers' blocks, to the exact parameter."""

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
    """Diffusers' VAE encoder and a 1×1 convolution from its 8 outputs (mean and variance of a VAE) to 4.

    533,544 + 36 parameters for one input channel; the latent has a quarter of the input's size.

    Args:
        in_channels: Channels of the input, `(B, in_channels, H, W)` to `(B, latent_channels, H/4, W/4)`.
        width: Factor of the channels inside; 0.5 for the halves of a split brain.
        latent_channels: Of the output; 4 in the documented one.

    Raises:
        ArgumentError: The width does not fit the groups of the norms, or the latent has no channels.
    """

    def __init__(self, in_channels: int = 1, width: float = 1.0, latent_channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        from diffusers.models.autoencoders.vae import Encoder

        channels = tuple(round(width * count) for count in BLOCK_CHANNELS)
        groups = min(NORM_GROUPS, *channels)
        if groups < 1 or any(count % groups for count in channels):
            raise ArgumentError(
                f"width={width} gives the autoencoder {', '.join(map(str, channels))} channels, which its norms cannot "
                "part into equal groups; 0.25, 0.5, 1 and 2 are widths that fit"
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
    """Diffusers' VAE decoder, the mirror of `AutoencoderEncoder`; 754,051 parameters for three output channels.

    Args:
        in_channels: Channels of the latent.
        out_channels: Channels of the prediction, `(B, in_channels, h, w)` to `(B, out_channels, s h, s w)`.
        doublings: How often the size is doubled, `s = 2**doublings`; twice in the documented one.
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
