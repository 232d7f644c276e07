"""The logarithm of a sum of exponentials over all other views, in tiles of the matrix of similarities.

The matrix S of dot products of M views is symmetric, so only the tiles on and above its diagonal are computed, each for
both of its sides. None is kept: the backward pass computes them once more, as FlashAttention does (Dao et al. 2022,
arXiv:2205.14135), and turns each at once into its share of the gradient

    sum over j of (g_i exp(S_ij - l_i) + g_j exp(S_ij - l_j)) z_j,

l being the logarithms and g the gradients that arrive at them. That is as much work as half of S for the logarithms,
and half of S and one product of M x M with M x features for the gradient: two products of that size instead of the
three of the plain way. Memory grows with M.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["LeftOut", "log_sum_exp"]

#: Rows and columns of a tile: a tile of floats stays in a core's cache; a GPU wants larger ones to be busy.
TILE = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class LeftOut:
    """Pairs of cells that do not count, for two views of every cell: all first views, then all second ones.

    Cells that share their number in ``excused`` are left out, unless they are positives of each other: they share
    their number in ``alike`` and, if ``places`` is given, not the one in ``places``. The two views of a cell always
    count.
    """

    excused: Int[Tensor, " cell"]
    alike: Int[Tensor, " cell"] | None = None
    places: Int[Tensor, " cell"] | None = None

    def find(self, rows: slice, columns: slice) -> Bool[Tensor, "view other_view"]:
        """Tell which pairs of a tile are left out; its columns begin where its rows do, or after."""
        left_out = _share(self.excused, rows, columns)
        if self.alike is not None:
            positive = _share(self.alike, rows, columns)
            if self.places is not None:
                positive &= ~_share(self.places, rows, columns)
            left_out &= ~positive
        for distance in (len(self.excused), -len(self.excused)):
            _diagonal(left_out, rows, columns, distance=distance).fill_(False)
        return left_out


def log_sum_exp(
    views: Float[Tensor, "view feature"], left_out: LeftOut | None = None, *, tile: int | None = None
) -> Float[Tensor, " view"]:
    """For every view, the logarithm of the sum of exp(dot product) with every other view that counts.

    Parameters
    ----------
    views
        float32 or float64; divide them by the root of the temperature before.
    left_out
        Which pairs do not count; none: a view is left out for itself alone.
    tile
        Rows and columns of a tile; none: what suits the device.

    Returns
    -------
    torch.Tensor
        Minus infinity where no other view counts. Exact, with any size of tile, up to rounding.
    """
    logarithms: Tensor = _LogSumExp.apply(views, left_out, tile or TILE.get(views.device.type, TILE["cpu"]))
    return logarithms


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, views: Tensor, left_out: LeftOut | None, tile: int) -> Tensor:
        ctx.bounded = _is_bounded(views)
        total = views.new_full((len(views),), 0.0 if ctx.bounded else -math.inf)
        with torch.autocast(views.device.type, enabled=False):
            for rows, columns, similarities in _walk(views, left_out, tile):
                if ctx.bounded:
                    exponentials = similarities.exp_()
                    total[rows] += exponentials.sum(dim=1)
                    if columns != rows:
                        total[columns] += exponentials.sum(dim=0)
                else:
                    total[rows] = torch.logaddexp(total[rows], similarities.logsumexp(dim=1))
                    if columns != rows:
                        total[columns] = torch.logaddexp(total[columns], similarities.logsumexp(dim=0))
        logarithms = total.log() if ctx.bounded else total
        ctx.left_out, ctx.tile = left_out, tile
        ctx.save_for_backward(views, logarithms)
        return logarithms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, None, None]:
        views, logarithms = ctx.saved_tensors
        logarithms = logarithms.masked_fill(logarithms.isneginf(), 0.0)  # nothing counts: all its shares are nought
        gradient = torch.zeros_like(views)
        with torch.autocast(views.device.type, enabled=False):
            weights = arriving * logarithms.neg().exp() if ctx.bounded else None
            room = views.new_empty(ctx.tile, ctx.tile) if ctx.bounded else None
            for rows, columns, similarities in _walk(views, ctx.left_out, ctx.tile):
                if weights is not None and room is not None:
                    both = room.flatten()[: similarities.numel()].view_as(similarities)
                    shares = similarities.exp_().mul_(torch.add(weights[rows, None], weights[columns], out=both))
                else:
                    shares = arriving[rows, None] * (similarities - logarithms[rows, None]).exp_()
                    shares += arriving[columns] * (similarities - logarithms[columns]).exp_()
                gradient[rows].addmm_(shares, views[columns])
                if columns != rows:
                    gradient[columns].addmm_(shares.T, views[rows])
        return gradient, None, None


def _is_bounded(views: Tensor) -> bool:
    """Whether no dot product is so large, either way, that its plain exponential and sums of it leave the range.

    True for lengths of one at temperatures above 0.025 in float32; then no maximum has to be found and taken off.
    """
    if not len(views):
        return True
    room = math.log(torch.finfo(views.dtype).max) / 2 - 4.0
    return bool(views.square().sum(dim=1).max() <= room)


def _walk(views: Tensor, left_out: LeftOut | None, tile: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield tiles on and above the diagonal; the tile's memory is used again for the next one."""
    num_views = len(views)
    room = views.new_empty(min(tile, num_views) ** 2)
    for top in range(0, num_views, tile):
        rows = slice(top, min(top + tile, num_views))
        for left in range(top, num_views, tile):
            columns = slice(left, min(left + tile, num_views))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            similarities = room[: math.prod(shape)].view(shape)
            torch.mm(views[rows], views[columns].T, out=similarities)
            _diagonal(similarities, rows, columns, distance=0).fill_(-math.inf)
            if left_out is not None:
                similarities.masked_fill_(left_out.find(rows, columns), -math.inf)
            yield rows, columns, similarities


def _share(numbers: Tensor, rows: slice, columns: slice) -> Tensor:
    """Tell which views of a tile have the same number of their cell."""
    both = numbers.repeat(2)
    return both[rows, None] == both[columns]


def _diagonal(tile: Tensor, rows: slice, columns: slice, *, distance: int) -> Tensor:
    """Return, as a view into the tile, its pairs (i, i + distance); empty if there are none."""
    offset = rows.start + distance - columns.start
    if not -tile.shape[0] < offset < tile.shape[1]:
        return tile[:0, 0]
    return tile.diagonal(offset)
