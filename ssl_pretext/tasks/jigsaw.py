"""Jigsaw puzzles (Noroozi and Favaro 2016): predicts the permutation of the tiles of an image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders.inspection import fixed_size
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier
from ssl_pretext.tasks.patches import crop_patches, distant_permutations, resize_patches, standardize_patches

__all__ = ["Jigsaw"]

TILE_FRACTION = 64 / 75  # size of a tile as a fraction of the size of its cell
HIDDEN_WIDTH = 512
MAX_PERMUTATIONS = 2000  # finding a permutation takes a millisecond or more, and nobody uses so many


@register_task("jigsaw")
class Jigsaw(PretextTask):
    """Predicts which of several permutations was applied to the tiles of an image (Noroozi and Favaro 2016, section 3).

    The image is divided into a grid of cells. A tile is cropped at a random position in each cell, each channel of
    each tile is standardized to mean zero and standard deviation one, and the tiles are arranged by one of the
    permutations `σ_1 … σ_N`. The loss is `-log p(i | f(tile_σ_i(1)), …, f(tile_σ_i(9)))`, with one encoder for all
    tiles. The random positions and the standardization prevent shortcuts: without them, the network could match lines
    that continue in the next tile, or tiles of similar color.

    The permutations are chosen to be far from each other (`distant_permutations`). They are saved with the task, as
    the buffer `permutations`, `(N, tiles)`.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        grid: Number of cells per row and per column, 2 or 3.
        num_permutations: Number `N` of permutations, up to 1,000 in the paper. At most 24 with a grid of 2.
        size: Height and width in pixels to which tiles are resized for the encoder. By default they keep their size,
            unless it is smaller than one position of the encoder's output, or the encoder takes only one size.

    Raises:
        ArgumentError: The grid is neither 2 nor 3, it does not have that many permutations, or the encoder does not
            fit the channels.

    Examples:
        >>> task = Jigsaw("autoencoder", num_permutations=30)
        >>> task(torch.rand(2, 3, 64, 64)).prediction.shape
        torch.Size([2, 30])
    """

    permutations: Tensor

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        grid: int = 3,
        num_permutations: int = 100,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if grid not in (2, 3):
            raise ArgumentError(f"grid of jigsaw must be 2 or 3, got {grid!r}")
        possible = math.factorial(grid**2)
        if whole_number("num_permutations of jigsaw", num_permutations, least=2) > possible:
            raise ArgumentError(
                f"num_permutations of jigsaw must be at most {possible}, since there are no more permutations of "
                f"{grid**2} tiles; got {num_permutations}"
            )
        if num_permutations > MAX_PERMUTATIONS:
            raise ArgumentError(
                f"num_permutations of jigsaw must be at most {MAX_PERMUTATIONS}, got {num_permutations}"
            )
        self.set_encoder(encoder, channels)
        self.grid, self.num_permutations = grid, num_permutations
        self.size = None if size is None else whole_number("size of jigsaw", size)
        self.pool = PooledHead(self.shape.channels)
        self.classify = classifier(grid**2 * self.pool.width, num_permutations, hidden=HIDDEN_WIDTH)
        self.register_buffer("permutations", distant_permutations(grid**2, num_permutations).clone())

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        values = self.inputs(images)
        labels = torch.randint(self.num_permutations, (len(values),), device=values.device)
        tiles = standardize_patches(self._crop_tiles(values, self.permutations[labels]))
        tiles = resize_patches(tiles, self.size or fixed_size(self.encoder), min_size=round(self.shape.reduction))
        vectors = self.pool(self.encoder(tiles.flatten(0, 1))).unflatten(0, tiles.shape[:2])  # (B, tiles, width)
        scores = self.classify(vectors.flatten(1))
        loss = F.cross_entropy(scores, labels)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, labels)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.pool, self.classify]

    def _crop_tiles(self, values: Tensor, order: Tensor) -> Tensor:
        """Crops the tiles of each image and returns them in the given order `(B, tiles)`, as `(B, tiles, n, s, s)`."""
        height, width = values.shape[-2:]
        cell = min(height, width) // self.grid
        if cell < 2:
            raise ArgumentError(
                f"jigsaw with a grid of {self.grid}×{self.grid} cells needs images of at least {2 * self.grid}×"
                f"{2 * self.grid} pixels, got {height}×{width}"
            )
        tile = round(TILE_FRACTION * cell)
        device, batch = values.device, len(values)
        # The grid as a whole also has a random position, if it is smaller than the image.
        origins = [torch.randint(size - self.grid * cell + 1, (batch, 1), device=device) for size in (height, width)]
        cells = torch.cartesian_prod(*[cell * torch.arange(self.grid, device=device)] * 2)  # (tiles, 2)
        shifts = torch.randint(cell - tile + 1, (batch, self.grid**2, 2), device=device)
        corners = torch.stack(origins, dim=-1) + cells + shifts
        return crop_patches(values, corners.take_along_dim(order[..., None], dim=1), tile)
