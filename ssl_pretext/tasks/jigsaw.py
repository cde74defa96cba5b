"""Jigsaw puzzles (Noroozi and Favaro 2016): in which order do the tiles lie?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier
from ssl_pretext.tasks.patches import cut, distant_permutations, resized, standardized

__all__ = ["Jigsaw"]

TILE = 64 / 75  # of the side of a cell, in which the tile lies anywhere
HIDDEN = 512
MOST_PERMUTATIONS = 2000


@register_task("jigsaw")
class Jigsaw(PretextTask):
    """Tells in which of a set of orders the tiles of an image lie (Noroozi and Favaro 2016, section 3).

    An image is cut into a grid of cells, a tile is cut out anywhere in each, each channel of each tile is brought to
    mean zero and deviation one, and the tiles are laid out in one of the orders `σ_1 … σ_N`. The loss is
    `-log p(i | f(tile_σ_i(1)), …, f(tile_σ_i(9)))`, with one encoder for all tiles. The shifts and the norm keep the
    network from solving it by lines that run on and by tones that fit.

    The orders are as far from one another as they can be (`distant_permutations`); they are saved with the task, as
    the buffer `permutations`, `(N, tiles)`.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What the encoder sees, such as `"rgb"`, or bands of any number.
        grid: Cells along a side, 2 or 3.
        num_permutations: The number of orders to tell apart; up to 1,000 in the paper. At most 24 with a grid of 2.
        size: Pixels of a side that tiles are resized to for the encoder; left out, they stay as they are, unless they
            are smaller than one position of its output.

    Raises:
        ArgumentError: The grid has not so many orders, or the encoder does not fit the channels.

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
            raise ArgumentError(f"the grid of jigsaw is 2 or 3 cells a side, got {grid!r}")
        most = math.factorial(grid**2)
        if whole_number("num_permutations of jigsaw", num_permutations, least=2) > most:
            raise ArgumentError(f"{grid**2} tiles have {most} orders, got num_permutations={num_permutations}")
        if (
            num_permutations > MOST_PERMUTATIONS
        ):  # finding them takes a millisecond or more for each, and nobody uses so many
            raise ArgumentError(f"num_permutations of jigsaw is at most {MOST_PERMUTATIONS}, got {num_permutations}")
        self.set_encoder(encoder, channels)
        self.grid, self.num_permutations = grid, num_permutations
        self.size = None if size is None else whole_number("size of jigsaw", size)
        self.pool = PooledHead(self.shape.channels)
        self.classify = classifier(grid**2 * self.pool.width, num_permutations, hidden=HIDDEN)
        self.register_buffer("permutations", distant_permutations(grid**2, num_permutations).clone())

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        values = self.inputs(images)
        order = torch.randint(self.num_permutations, (len(values),), device=values.device)
        tiles = standardized(self._tiles(values, self.permutations[order]))
        tiles = resized(tiles, self.size, least=round(self.shape.reduction))
        vectors = self.pool(self.encoder(tiles.flatten(0, 1))).unflatten(0, tiles.shape[:2])  # (B, tiles, width)
        scores = self.classify(vectors.flatten(1))
        loss = F.cross_entropy(scores, order)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, order)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.pool, self.classify]

    def _tiles(self, values: Tensor, order: Tensor) -> Tensor:
        """The tiles of each image in its order `(B, tiles)`, as `(B, tiles, n, s, s)`."""
        sides = values.shape[-2:]
        cell = min(sides) // self.grid
        if cell < 2:
            raise ArgumentError(
                f"a jigsaw of {self.grid}×{self.grid} cells needs images of at least {2 * self.grid} pixels a side, "
                f"got {sides[0]}×{sides[1]}"
            )
        tile = round(TILE * cell)
        device, ahead = values.device, (len(values), 1)
        rests = [torch.randint(side - self.grid * cell + 1, ahead, device=device) for side in sides]
        cells = torch.cartesian_prod(*[cell * torch.arange(self.grid, device=device)] * 2)  # (tiles, 2)
        shifts = torch.randint(cell - tile + 1, (len(values), self.grid**2, 2), device=device)
        corners = torch.stack(rests, dim=-1) + cells + shifts
        return cut(values, corners.take_along_dim(order[..., None], dim=1), tile)
