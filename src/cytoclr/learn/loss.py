"""NT-Xent, the contrastive loss of SimCLR, and two measures of what it pulls together and spreads."""

from typing import Literal

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["gather_projections", "measure_alignment", "measure_uniformity", "nt_xent"]


def nt_xent(
    first_view: Float[Tensor, "cell feature"],
    second_view: Float[Tensor, "cell feature"],
    *,
    temperature: float,
    similarity: Literal["cosine", "dot"] = "cosine",
) -> Float[Tensor, ""]:
    """Compute the normalised temperature-scaled cross entropy of two views of the same cells.

    For each of the 2N views: minus the log of exp(similarity to the other view of its cell / temperature) over the
    sum of the same over all views but itself; averaged over the 2N views (Chen et al. 2020, equation 1 and
    Algorithm 1).

    Parameters
    ----------
    first_view, second_view
        Projections; row i of both is the same cell. At least one cell.
    temperature
        Above nought.
    similarity
        ``cosine`` normalises the projections to length one; ``dot`` takes them as they are.

    Returns
    -------
    torch.Tensor
        Nought at best; log(2N - 1) when all views look alike.

    Notes
    -----
    Computed in float32 with the logarithm of a sum of exponentials shifted by its maximum, so no temperature
    overflows. Holds one matrix of 2N x 2N numbers.

    References
    ----------
    arXiv:2002.05709

    Examples
    --------
    >>> import torch
    >>> round(float(nt_xent(torch.ones(4, 2), torch.ones(4, 2), temperature=0.5)), 4)  # log 7
    1.9459
    """
    views = torch.cat([first_view, second_view]).float()
    if similarity == "cosine":
        views = functional.normalize(views, dim=1)
    num_cells = len(first_view)
    with torch.autocast(views.device.type, enabled=False):
        logits = views @ views.T / temperature
    itself = torch.eye(2 * num_cells, dtype=torch.bool, device=views.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partners = torch.arange(2 * num_cells, device=views.device).roll(num_cells)
    return functional.cross_entropy(logits, partners)


def gather_projections(projections: Float[Tensor, "view cell feature"]) -> Float[Tensor, "view all_cells feature"]:
    """Put together the projections of all processes; the gradient flows into this process's own.

    The loss of the whole is computed in every process. Its gradient with respect to a process's own projections is
    complete there; distributed training then averages the parameters' gradients over the processes, so the loss
    must be multiplied by their number to be that of one process with the whole minibatch.
    """
    num_processes = torch.distributed.get_world_size()
    gathered = [torch.empty_like(projections) for _ in range(num_processes)]
    torch.distributed.all_gather(gathered, projections.detach().contiguous())
    gathered[torch.distributed.get_rank()] = projections
    return torch.cat(gathered, dim=1)


def measure_alignment(
    first_view: Float[Tensor, "cell feature"], second_view: Float[Tensor, "cell feature"]
) -> Float[Tensor, ""]:
    """Mean squared distance between two views of a cell on the unit sphere (Wang and Isola 2020, arXiv:2005.10242)."""
    difference = functional.normalize(first_view.float(), dim=1) - functional.normalize(second_view.float(), dim=1)
    return difference.square().sum(dim=1).mean()


def measure_uniformity(views: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Log of the mean of exp(-2 x squared distance) over pairs of cells on the unit sphere (Wang and Isola 2020)."""
    distances = torch.pdist(functional.normalize(views.float(), dim=1))
    return distances.square().mul(-2.0).exp().mean().log()
