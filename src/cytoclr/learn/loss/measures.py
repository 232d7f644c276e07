"""What is measured of projections and embeddings while they are trained: alignment, uniformity, rank."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cytoclr.learn.loss.contrast import widen

__all__ = ["measure_alignment", "measure_rank", "measure_uniformity"]

#: Rows of which all pairs are compared: 2 million pairs.
MAX_COMPARED = 2048


def measure_alignment(
    first_view: Float[Tensor, "cell feature"], second_view: Float[Tensor, "cell feature"]
) -> Float[Tensor, ""]:
    """Mean squared distance between two views of a cell on the unit sphere (Wang and Isola 2020, arXiv:2005.10242).

    Nought if views of a cell are the same point; 2 if they have nothing to do with each other.
    """
    difference = functional.normalize(widen(first_view), dim=1) - functional.normalize(widen(second_view), dim=1)
    return difference.square().sum(dim=1).mean()


def measure_uniformity(views: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Log of the mean of exp(-2 x squared distance) over pairs of cells on the unit sphere (Wang and Isola 2020).

    Nought if all are one point, near -4 if they are spread evenly over a sphere of many dimensions. Of more than
    2,048 cells, 2,048 evenly spaced rows are compared, without randomness. Not a number for fewer than two cells.
    """
    if len(views) > MAX_COMPARED:
        views = views[torch.linspace(0, len(views) - 1, MAX_COMPARED, device=views.device).long()]
    distances = torch.pdist(functional.normalize(widen(views), dim=1))
    return distances.square().mul(-2.0).exp().mean().log()


def measure_rank(features: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Count the directions that features make use of: RankMe, the exponential of the entropy of singular values.

    From 1 (collapsed onto a line) to the smaller side of the matrix; a fall while the loss falls is a collapse. The
    features are taken as they are, their mean included (Garrido et al. 2023, arXiv:2210.02885, equations 1 and 2).
    """
    values = torch.linalg.svdvals(widen(features))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7  # the paper's, for float32
    return torch.exp(-(shares * shares.log()).sum())
