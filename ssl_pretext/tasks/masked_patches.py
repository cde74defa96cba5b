"""Masked patches (He et al. 2022, masked autoencoders): restores patches hidden from a vision transformer."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders.from_timm import TimmEncoder
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task

__all__ = ["MaskedPatches"]

HEAD_WIDTH = 32  # width of an attention head of the decoder
EPSILON = 1e-6  # added to the variance under the root, as in the paper's code
TOKEN_STD = 0.02  # standard deviation of the initial mask token


@register_task("masked_patches")
class MaskedPatches(PretextTask):
    """Restores the patches of an image that are hidden from the encoder (He et al. 2022, section 3).

    A vision transformer sees a random subset of the patches, a fraction of `1 - mask_ratio`. The hidden patches are
    left out of its sequence of tokens, not set to zero. A small decoder gets the encoder's tokens at the positions of
    the visible patches and one learned token at all other positions, and predicts the pixels. The loss is the mean of
    `(x̂ - (x - μ) / σ)²` over the pixels of the hidden patches, where `μ` and `σ` are the mean and the standard
    deviation of each patch. Missing values are ignored.

    The encoder must be a plain vision transformer of timm, because only that can leave tokens out. For a convolutional
    network use `Inpainting`.

    Args:
        encoder: Name of a vision transformer, such as `"timm/vit_tiny_patch16_224[img_size=64;patch_size=8]"`, or a
            module that `create_encoder` returned.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        mask_ratio: Fraction of the patches that are hidden.
        depth: Number of blocks of the decoder; 8 in the paper, for images of 224 pixels.
        width: Width of the decoder's tokens, a multiple of 32; 512 in the paper.

    Raises:
        ArgumentError: The encoder is not a plain vision transformer of timm, or an argument is out of its range.

    Examples:
        >>> task = MaskedPatches("timm/vit_tiny_patch16_224[img_size=32;patch_size=8;depth=2]")
        >>> task(torch.rand(2, 3, 32, 32)).prediction.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        mask_ratio: float = 0.75,
        depth: int = 2,
        width: int = 128,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ArgumentError(f"mask_ratio of masked_patches must be between 0 and 1, got {mask_ratio}")
        whole_number("depth of masked_patches", depth)
        if whole_number("width of masked_patches", width) % HEAD_WIDTH:
            raise ArgumentError(f"width of masked_patches must be a multiple of {HEAD_WIDTH}, got {width}")
        self.set_encoder(encoder, channels)
        self.mask_ratio, self.depth, self.width = mask_ratio, depth, width
        self.patch: tuple[int, int] = self._body.patch_embed.patch_size
        self.decoder = TokenDecoder(
            self.shape.channels, self.channels.num_channels * self.patch[0] * self.patch[1], depth=depth, width=width
        )

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        images = self._check_images(images)
        values = self._extract(self.channels, images)
        target = self._to_patches(values)  # (B, patches, n p q), NaN where values are missing or outside the image
        height, width = self._grid(values)
        count = height * width
        if count < 2:
            raise ArgumentError(
                f"masked_patches needs images of at least two patches of {self.patch[0]}×{self.patch[1]} pixels, got "
                f"{values.shape[-2]}×{values.shape[-1]}; choose larger images or an encoder with a smaller patch_size"
            )
        visible = min(max(1, round((1 - self.mask_ratio) * count)), count - 1)
        order = torch.rand(len(values), count, device=values.device).argsort(dim=1)
        tokens = self._encode(self._fill_missing(values), order[:, :visible])
        predicted = self.decoder(tokens, order.argsort(dim=1), (height, width))
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :visible], False)[..., None]
        filled = target.nan_to_num(nan=0.0)
        variance, mean = torch.var_mean(filled, dim=-1, keepdim=True)
        deviation = (variance + EPSILON).sqrt()
        where = hidden & target.isfinite()
        errors = (predicted - (filled - mean) / deviation).square() * where
        loss = errors.sum() / where.sum().clamp(min=1)
        prediction = torch.where(hidden, predicted * deviation + mean, filled)
        return TaskOutput(loss, {"l2": loss}, self._to_image(prediction, values), values)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.decoder]  # training does not call the encoder's `forward`, which is all that `fit` could compile

    @property
    def _body(self) -> Any:
        return _transformer(self.encoder)

    def _encode(self, values: Tensor, visible: Tensor) -> Tensor:
        """Computes the tokens `(B, k, C)` of the patches with the indices `visible`, `(B, k)`, and of no others."""
        body, prefix = self._body, self._body.num_prefix_tokens

        def drop_hidden(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            return torch.cat([tokens[:, :prefix], _take_tokens(tokens[:, prefix:], visible)], dim=1)

        # At this point, after the position embedding, timm can drop random patches itself, but it does not report
        # which ones it dropped.
        with body.patch_drop.register_forward_hook(drop_hidden):
            return cast(Tensor, body.forward_features(values)[:, prefix:])

    def _grid(self, values: Tensor) -> tuple[int, int]:
        """Returns the number of rows and columns of patches."""
        return cast("tuple[int, int]", self._body.patch_embed.dynamic_feat_size(tuple(values.shape[-2:])))

    def _to_patches(self, values: Tensor) -> Tensor:
        """Arranges pixels by patch, `(B, patches, n p q)`, with NaN where the encoder pads the image."""
        height, width = (count * size for count, size in zip(self._grid(values), self.patch, strict=True))
        padded = F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=float("nan"))
        p, q = self.patch
        return cast(Tensor, rearrange(padded, "b n (h p) (w q) -> b (h w) (n p q)", p=p, q=q))

    def _to_image(self, patches: Tensor, values: Tensor) -> Tensor:
        """Arranges patches as an image of the height and width of `values`; the inverse of `_to_patches`."""
        height, _ = self._grid(values)
        p, q = self.patch
        image = rearrange(patches, "b (h w) (n p q) -> b n (h p) (w q)", h=height, p=p, q=q)
        return cast(Tensor, image[..., : values.shape[-2], : values.shape[-1]])


class TokenDecoder(nn.Module):
    """Predicts the pixels of all patches from the tokens of some, with timm's transformer blocks.

    Args:
        in_channels: Width of the encoder's tokens.
        outputs: Number of pixel values per patch.
        depth: Number of blocks.
        width: Width of the decoder's tokens.
    """

    def __init__(self, in_channels: int, outputs: int, *, depth: int, width: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(in_channels, width)
        self.token = nn.Parameter(TOKEN_STD * torch.randn(width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)))
        self.predict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predicts the pixels `(B, patches, outputs)`.

        Args:
            tokens: Tokens of the visible patches, `(B, k, in_channels)`.
            indices: Index of each patch of the image in the sequence of visible patches followed by hidden patches,
                `(B, patches)`.
            grid: Number of rows and columns of patches.
        """
        from timm.layers import build_sincos2d_pos_embed

        embedded = self.embed(tokens)
        hidden = self.token.to(embedded.dtype).expand(len(tokens), indices.shape[1] - tokens.shape[1], -1)
        positions = build_sincos2d_pos_embed(list(grid), self.token.shape[0], device=tokens.device)
        sequence = _take_tokens(torch.cat([embedded, hidden], dim=1), indices) + positions.to(self.token)
        return cast(Tensor, self.predict(self.blocks(sequence)))


def _take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def _transformer(encoder: nn.Module) -> Any:
    """Returns the vision transformer of timm inside an encoder, and raises if the encoder is another network."""
    from timm.models.vision_transformer import VisionTransformer

    body = encoder.body if isinstance(encoder, TimmEncoder) else None
    if not isinstance(body, VisionTransformer) or not isinstance(body.patch_drop, nn.Identity):
        what = encoder.name if isinstance(encoder, TimmEncoder) else type(encoder).__name__
        raise ArgumentError(
            "masked_patches needs a plain vision transformer of timm, such as 'timm/vit_tiny_patch16_224', because "
            f"other networks cannot leave out tokens; got {what}. The task inpainting takes any encoder"
        )
    return body
