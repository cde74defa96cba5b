"""Exact and fast search for the k nearest of a few hundred centers, the costly step of soft encoding."""

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["NearestCenters"]

PIECE = 8192  # number of points whose candidates fit into the cache of a CPU
# Number of the table's cells per distance between neighboring centers, along each axis. It is even, so that the ties of
# a regular grid fall on cell borders.
CELLS_PER_STEP = 10
# Largest number of cells, and of candidates per cell beyond k. A larger table would cost more than it saves.
MAX_CELLS, MAX_SPARE = 1 << 17, 8


class NearestCenters:
    """Finds the `k` nearest of fixed centers for each point, exactly.

    In one dimension the nearest centers are consecutive, and a binary search finds the first of them. In two dimensions
    on a CPU, a table lists for each cell of a fine lattice the few centers that can be among the `k` nearest of any
    point in the cell, and only these are compared with the point. All centers are compared on a GPU, for points outside
    of the table, and where the centers are spaced too unevenly for a table.

    Args:
        centers: Centers `(Q, D)` with `D` of 1 or 2; in one dimension in ascending order.
        k: Number of centers to find, at most `Q`.
    """

    def __init__(self, centers: Tensor, k: int) -> None:
        # Apple's GPUs have no float64.
        self.centers = centers.to(torch.float32 if centers.device.type == "mps" else torch.float64)
        self.k = k
        self.piece = PIECE if centers.device.type == "cpu" else 8 * PIECE
        use_table = centers.shape[1] == 2 and centers.device.type == "cpu" and k < len(centers)
        self._table = _table(tuple(map(tuple, self.centers.tolist())), k) if use_table else None

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the indices and squared distances, `(k, n)` each, of the centers nearest to `points` `(D, n)`.

        Pass at most `piece` points at a time, so that intermediate results stay small. The distances of NaN are NaN.
        """
        points = points.to(self.centers).clamp(-1e9, 1e9)  # only the direction matters for points this far away
        if len(points) == 1:
            return self._on_a_line(points)
        if self._table is None:
            return self._among_all(points)
        indices, distances = self._table.find(points)
        outside = self._table.outside(points)
        if outside.any():
            indices[:, outside], distances[:, outside] = self._among_all(points[:, outside])
        return indices, distances

    def _on_a_line(self, points: Tensor) -> tuple[Tensor, Tensor]:
        (centers,) = self.centers.T.contiguous()
        # The window of the k nearest centers moves up by one where the center that it loses is as far from the point as
        # the center that it gains.
        turns = (centers[: len(centers) - self.k] + centers[self.k :]) / 2
        window = torch.arange(self.k, device=points.device)
        indices = torch.bucketize(points[0], turns) + window[:, None]
        return indices, (points - centers[indices]).square()

    def _among_all(self, points: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = _squared_distances(points, self.centers).topk(self.k, largest=False)
        return indices.T, distances.T


class _CellTable:
    """A table over a lattice of cells: which 2-D centers can be among the `k` nearest of a point in each cell.

    Args:
        candidates: Indices of these centers, `(cells, m)`.
        settled: Number of the first candidates that are among the `k` nearest everywhere in their cell.
        centers: Centers `(Q, 2)`.
        k: Number of centers to find.
    """

    def __init__(self, candidates: Tensor, settled: int, centers: Tensor, k: int) -> None:
        self.low, self.width, self.shape = _lattice(centers)
        self.candidates, self.settled, self.k = candidates, settled, k
        self.first, self.second = centers.T.contiguous()
        self.index_bits = (1 << (len(centers) - 1).bit_length()) - 1

    @classmethod
    def build(cls, centers: Tensor, k: int) -> "_CellTable | None":
        """Builds the table, or returns None if it would have too many cells or candidates to be useful."""
        low, width, (rows, columns) = _lattice(centers)
        if rows * columns > MAX_CELLS:
            return None
        cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (cells, 2)
        # Seen from the middle of its cell, a candidate is at most this much farther away than the k-th nearest center:
        # between the middle and a point of the cell, each of the two distances changes by at most half of the diagonal.
        diagonal = float(width.norm())
        size = k + MAX_SPARE
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for piece in cells.split(PIECE):
            corner = low + piece * width
            distances = _squared_distances((corner + width / 2).T, centers).sqrt()
            near, order = distances.topk(min(size + 1, len(centers)), largest=False)
            if len(centers) > size and bool((near[:, size] <= near[:, k - 1] + diagonal).any()):
                return None
            found.append(_rank(order[:, :size], corner, width, centers, k))
        order, settled, needed = (torch.cat(parts) for parts in zip(*found, strict=True))
        # Two bytes per candidate keep the table in the cache too; MAX_CELLS allows at most 1,310 bins.
        return cls(order[:, : int(needed.max())].short().contiguous(), int(settled.min()), centers, k)

    def outside(self, points: Tensor) -> Tensor:
        """Returns a mask of the points that no cell contains; NaN is in no cell."""
        high = self.low + self.width * torch.tensor(self.shape)
        return ~((points >= self.low[:, None]) & (points < high[:, None])).all(0)

    def find(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Returns indices and squared distances `(k, n)` of `points` `(2, n)`; those of outside points are invalid."""
        row, column = ((points - self.low[:, None]) / self.width[:, None]).nan_to_num()
        cell = row.clamp(0, self.shape[0] - 1).long() * self.shape[1] + column.clamp(0, self.shape[1] - 1).long()
        candidates = self.candidates.index_select(0, cell).T.contiguous().long()  # (m, n)
        squares = self.first.take(candidates).sub_(points[0]).square_()
        second = self.second.take(candidates).sub_(points[1])
        squares.addcmul_(second, second)
        # The last bits of a squared distance (for 313 centers, 2^-43 of it) are replaced by the index of the center.
        # Read as integers, such numbers are in the same order, so plain minima and maxima sort distances and indices
        # together, and ties by index.
        keys = list(squares.view(torch.int64).bitwise_and_(~self.index_bits).bitwise_or_(candidates))
        for last in range(len(keys) - 1, self.k - 1, -1):  # each round moves the farthest candidate to the end
            for i in range(self.settled, last):
                left, right = keys[i], keys[i + 1]
                keys[i] = torch.minimum(left, right)
                torch.maximum(left, right, out=right)
        nearest = torch.stack(keys[: self.k])
        return nearest & self.index_bits, nearest.bitwise_and_(~self.index_bits).view(torch.float64)


@lru_cache(maxsize=8)
def _table(centers: tuple[tuple[float, ...], ...], k: int) -> _CellTable | None:
    """The table of centers, which copies of a quantizer share: building it takes about a second."""
    return _CellTable.build(torch.tensor(centers, dtype=torch.float64), k)


def _lattice(centers: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Returns lower corner, cell widths and cell counts of a lattice that extends one step beyond the centers."""
    axes = [column.unique() for column in centers.T]
    steps = [float(axis.diff().min()) if len(axis) > 1 else 1.0 for axis in axes]
    low = torch.stack([axis[0] - step for axis, step in zip(axes, steps, strict=True)])
    rows, columns = (
        math.ceil((float(axis[-1] - axis[0]) / step + 2) * CELLS_PER_STEP)
        for axis, step in zip(axes, steps, strict=True)
    )
    return low, torch.tensor(steps, dtype=centers.dtype) / CELLS_PER_STEP, (rows, columns)


def _rank(order: Tensor, corner: Tensor, width: Tensor, centers: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts the candidates `(n, m)` of cells by whether they are always, sometimes or never among the `k` nearest.

    Returns:
        The sorted candidates, the number of the first kind in each cell, and the number of the first two kinds.
    """
    corners = corner[:, None] + width * torch.cartesian_prod(*[torch.arange(2.0, dtype=width.dtype)] * 2)  # (n, 4, 2)
    squares = (centers[order][:, None] - corners[:, :, None]).square().sum(-1)  # (n, 4, m)
    # The difference of two squared distances is affine in the point, so a center that is nearer at all four corners of
    # a cell is nearer everywhere in it.
    nearer = (squares[:, :, :, None] < squares[:, :, None, :]).all(1)  # (n, m, m): [i, j] i is always nearer than j
    sometimes = nearer.sum(1) < k
    always = order.shape[1] - 1 - nearer.sum(2) < k
    position = torch.arange(order.shape[1])
    kind = 2 - sometimes.long() - always.long()
    return order.gather(1, (kind * len(position) + position).argsort(1)), always.sum(1), sometimes.sum(1)


def _squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """Returns the squared distances `(n, Q)` between points `(D, n)` and centers `(Q, D)`."""
    # Differences are taken before squaring, because expanding the square would lose half of the digits far from zero.
    squares = (points[0, :, None] - centers[:, 0]).square_()
    for i in range(1, len(points)):
        squares += (points[i, :, None] - centers[:, i]).square_()
    return squares
