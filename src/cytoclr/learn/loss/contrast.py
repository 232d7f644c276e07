"""NT-Xent, the contrastive loss of SimCLR, with further positives and fewer negatives on request."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cytoclr.learn.loss.tiles import LeftOut, log_sum_exp

__all__ = ["nt_xent", "widen"]


def nt_xent(
    first_view: Float[Tensor, "cell feature"],
    second_view: Float[Tensor, "cell feature"],
    *,
    temperature: float,
    similarity: Literal["cosine", "dot"] = "cosine",
    alike: Int[Tensor, " cell"] | None = None,
    places: Int[Tensor, " cell"] | None = None,
    excused: Int[Tensor, " cell"] | None = None,
) -> Float[Tensor, ""]:
    """Compute the normalised temperature-scaled cross entropy of two views of the same cells.

    For each of the 2N views: minus the log of exp(similarity to the other view of its cell / temperature) over the
    sum of the same over all views but itself; averaged over the 2N views (Chen et al. 2020, equation 1 and
    Algorithm 1). With several positives, the mean of that over the positives, the log outside of it (Khosla et al.
    2020, equation 2, divided by the number of views).

    Parameters
    ----------
    first_view, second_view
        Projections; row i of both is the same cell. At least one cell.
    temperature
        Above nought.
    similarity
        ``cosine`` normalises the projections to length one; ``dot`` takes them as they are.
    alike
        Cells that share their number here are positives of each other.
    places
        But not where they share their number here too: their wells, for positives of other wells.
    excused
        Cells that share their number here are no negatives of each other; they stay positives where they are.

    Returns
    -------
    torch.Tensor
        Nought at best; log(2N - 1) when all views look alike.

    Notes
    -----
    Exact, in float32, or in float64 where that is given, also under autocast. The matrix of 2N x 2N similarities is
    never held: see ``cytoclr.learn.loss.tiles`` for how, and ``docs/explanation/losses.md`` for how fast. Not twice
    differentiable.

    References
    ----------
    arXiv:2002.05709, arXiv:2004.11362

    Examples
    --------
    >>> import torch
    >>> round(float(nt_xent(torch.ones(4, 2), torch.ones(4, 2), temperature=0.5)), 4)  # log 7
    1.9459
    >>> wells = torch.tensor([0, 0, 1, 1])  # a view, its partner and four views of the other well: log 5
    >>> round(float(nt_xent(torch.ones(4, 2), torch.ones(4, 2), temperature=0.5, excused=wells)), 4)
    1.6094
    """
    with torch.autocast(first_view.device.type, enabled=False):
        views = widen(torch.cat([first_view, second_view]))
        if similarity == "cosine":
            views = functional.normalize(views, dim=1)
        views = views * temperature**-0.5
        left_out = None if excused is None else LeftOut(excused, alike, places)
        positives = _average_positives(views, alike, places)
        attraction = (views * positives).sum(dim=1)
        return torch.mean(log_sum_exp(views, left_out) - attraction)


def widen(projections: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes feature"]:
    """Return half precision as float32, and leave float64 as it is."""
    return projections if projections.dtype == torch.float64 else projections.float()


def _average_positives(
    views: Float[Tensor, "view feature"], alike: Int[Tensor, " cell"] | None, places: Int[Tensor, " cell"] | None
) -> Float[Tensor, "view feature"]:
    """Average each view's positives: the mean of similarities is the similarity to the mean, so no pair is visited."""
    partners = views.roll(len(views) // 2, dims=0)
    if alike is None:
        return partners
    alike = alike.repeat(2)
    summed, counts = _sum_groups(views, alike[:, None])
    if places is None:
        return (summed - views) / (counts - 1)
    summed_here, counts_here = _sum_groups(views, torch.stack([alike, places.repeat(2)], dim=1))
    return (summed - summed_here + partners) / (counts - counts_here + 1)


def _sum_groups(
    views: Float[Tensor, "view feature"], numbers: Int[Tensor, "view kind"]
) -> tuple[Float[Tensor, "view feature"], Float[Tensor, "view 1"]]:
    """For each view, the sum and the count of the views that share all its numbers."""
    _, group, counts = torch.unique(numbers, dim=0, return_inverse=True, return_counts=True)
    sums = views.new_zeros(len(counts), views.shape[1]).index_add(0, group, views)
    return sums[group], counts[group, None].to(views.dtype)
