"""Masked patches (He et al. 2022, masked autoencoders): the patches that a vision transformer was not given."""

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

HEAD_WIDTH = 32  # of the decoder's attention
LEAST_VARIANCE = 1e-6  # the paper's code has it under the root as well
SPREAD = 0.02  # of the mask token at first


@register_task("masked_patches")
class MaskedPatches(PretextTask):
    """Restores the patches of an image that the encoder was not given (He et al. 2022, section 3).

    A vision transformer sees `1 - mask_ratio` of the patches, drawn at random; the others are left out, not blanked. A
    light decoder is given its tokens in their places and one learned token in all others, and restores the pixels. The
    loss is the mean of `(x̂ - (x - μ) / σ)²` over the pixels of the hidden patches, with mean and deviation of each
    patch. Missing values are not counted.

    The encoder must be able to leave tokens out: a plain vision transformer of timm. A convolutional network cannot,
    and gets `inpainting` instead.

    Args:
        encoder: Such as `"timm/vit_tiny_patch16_224[img_size=64;patch_size=8]"`; a name, or a module of
            `create_encoder`.
        channels: What the encoder sees, such as `"rgb"`, or bands of any number.
        mask_ratio: Share of the patches that are hidden.
        depth: Blocks of the decoder; 8 in the paper, for images of 224 pixels.
        width: Of its tokens, a multiple of 32; 512 in the paper.

    Raises:
        ArgumentError: The encoder is another one, or an argument is out of its range.

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
            raise ArgumentError(f"the share that masked_patches hides lies between 0 and 1, got {mask_ratio}")
        whole_number("depth of masked_patches", depth)
        if whole_number("width of masked_patches", width) % HEAD_WIDTH:
            raise ArgumentError(f"the width of masked_patches is a multiple of {HEAD_WIDTH}, got {width}")
        self.set_encoder(encoder, channels)
        self.mask_ratio, self.depth, self.width = mask_ratio, depth, width
        self.patch: tuple[int, int] = self._body.patch_embed.patch_size
        self.decoder = TokenDecoder(
            self.shape.channels, self.channels.num_channels * self.patch[0] * self.patch[1], depth=depth, width=width
        )

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        images = self._checked(images)
        values = self._pick(self.channels, images)
        target = self._patches(values)  # (B, patches, n p q), NaN where missing or beyond the image
        height, width = self._grid(values)
        count = height * width
        if count < 2:
            raise ArgumentError(
                f"masked_patches needs images of several patches of {self.patch[0]}×{self.patch[1]} pixels, got "
                f"{values.shape[-2]}×{values.shape[-1]}; choose larger images or an encoder with a smaller patch_size"
            )
        kept = min(max(1, round((1 - self.mask_ratio) * count)), count - 1)
        order = torch.rand(len(values), count, device=values.device).argsort(dim=1)
        tokens = self._encoded(self._filled(values), order[:, :kept])
        found = self.decoder(tokens, order.argsort(dim=1), (height, width))
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :kept], False)[..., None]
        filled = target.nan_to_num(nan=0.0)
        variance, mean = torch.var_mean(filled, dim=-1, keepdim=True)
        deviation = (variance + LEAST_VARIANCE).sqrt()
        judged = hidden & target.isfinite()
        errors = (found - (filled - mean) / deviation).square() * judged
        loss = errors.sum() / judged.sum().clamp(min=1)
        prediction = torch.where(hidden, found * deviation + mean, filled)
        return TaskOutput(loss, {"l2": loss}, self._image(prediction, values), values)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.decoder]  # what the encoder runs while it is trained is not its forward

    @property
    def _body(self) -> Any:
        return _transformer(self.encoder)

    def _encoded(self, values: Tensor, kept: Tensor) -> Tensor:
        """Tokens `(B, k, C)` of an encoder that is given the patches `kept`, `(B, k)`, alone."""
        body, prefix = self._body, self._body.num_prefix_tokens

        def leave_out(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            return torch.cat([tokens[:, :prefix], _chosen(tokens[:, prefix:], kept)], dim=1)

        # Where timm would drop patches at random, after the position embedding; its own does not say which.
        with body.patch_drop.register_forward_hook(leave_out):
            return cast(Tensor, body.forward_features(values)[:, prefix:])

    def _grid(self, values: Tensor) -> tuple[int, int]:
        return cast("tuple[int, int]", self._body.patch_embed.dynamic_feat_size(tuple(values.shape[-2:])))

    def _patches(self, values: Tensor) -> Tensor:
        """Pixels by patch, `(B, patches, n p q)`; NaN beyond the image, where an encoder pads it."""
        height, width = (count * side for count, side in zip(self._grid(values), self.patch, strict=True))
        padded = F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=float("nan"))
        p, q = self.patch
        return cast(Tensor, rearrange(padded, "b n (h p) (w q) -> b (h w) (n p q)", p=p, q=q))

    def _image(self, patches: Tensor, values: Tensor) -> Tensor:
        """The inverse of `_patches`."""
        height, _ = self._grid(values)
        p, q = self.patch
        image = rearrange(patches, "b (h w) (n p q) -> b n (h p) (w q)", h=height, p=p, q=q)
        return cast(Tensor, image[..., : values.shape[-2], : values.shape[-1]])


class TokenDecoder(nn.Module):
    """Tokens of some patches to the pixels of all, through timm's transformer blocks.

    Args:
        in_channels: Of the tokens.
        outputs: Pixel values of a patch.
        depth: Blocks.
        width: Of the tokens inside.
    """

    def __init__(self, in_channels: int, outputs: int, *, depth: int, width: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(in_channels, width)
        self.token = nn.Parameter(SPREAD * torch.randn(width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)))
        self.predict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, tokens: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels `(B, patches, outputs)`.

        Args:
            tokens: Of the patches that the encoder was given, `(B, k, in_channels)`.
            places: Where each patch of the image stands among them and the missing that follow, `(B, patches)`.
            grid: Patches down and across.
        """
        from timm.layers import build_sincos2d_pos_embed

        embedded = self.embed(tokens)
        missing = self.token.to(embedded.dtype).expand(len(tokens), places.shape[1] - tokens.shape[1], -1)
        positions = build_sincos2d_pos_embed(list(grid), self.token.shape[0], device=tokens.device)
        all_ = _chosen(torch.cat([embedded, missing], dim=1), places) + positions.to(self.token)
        return cast(Tensor, self.predict(self.blocks(all_)))


def _chosen(tokens: Tensor, places: Tensor) -> Tensor:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def _transformer(encoder: nn.Module) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    body = encoder.body if isinstance(encoder, TimmEncoder) else None
    if not isinstance(body, VisionTransformer) or not isinstance(body.patch_drop, nn.Identity):
        what = encoder.name if isinstance(encoder, TimmEncoder) else type(encoder).__name__
        raise ArgumentError(
            f"masked_patches leaves tokens out, which a plain vision transformer of timm can, such as "
            f"'timm/vit_tiny_patch16_224', and {what} cannot; inpainting hides parts of the image from any encoder"
        )
    return body
