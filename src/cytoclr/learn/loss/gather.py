"""Projections of all processes, put together so that the loss sees every negative."""

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

from cytoclr.errors import SettingsError

__all__ = ["gather_projections"]


def gather_projections(projections: Float[Tensor, "view cell feature"]) -> Float[Tensor, "view all_cells feature"]:
    """Put together the projections of all processes, in their order; the gradient flows into this process's own.

    Returns
    -------
    torch.Tensor
        The projections themselves where there is one process.

    Raises
    ------
    SettingsError
        If processes hold different numbers of cells: gradients averaged over processes would weigh cells unequally.

    Notes
    -----
    The loss of the whole is computed in every process. Its gradient with respect to a process's own projections is
    complete there; distributed training then averages the parameters' gradients over the processes, so the gradient of
    the projections must be multiplied by their number (`learn/module.py`) to be that of one process with all cells.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return projections
    num_processes = torch.distributed.get_world_size()
    if num_processes == 1:
        return projections
    _check_shares(projections, num_processes)
    gathered = [torch.empty_like(projections, memory_format=torch.contiguous_format) for _ in range(num_processes)]
    torch.distributed.all_gather(gathered, projections.detach().contiguous())
    gathered[torch.distributed.get_rank()] = projections
    return torch.cat(gathered, dim=1)


def _check_shares(projections: Tensor, num_processes: int) -> None:
    """Refuse uneven shares in every process alike, so that none waits for another."""
    share = torch.tensor([projections.shape[1]], device=projections.device)
    shares = [torch.empty_like(share) for _ in range(num_processes)]
    torch.distributed.all_gather(shares, share)
    found = [int(one) for one in shares]
    if len(set(found)) > 1:
        raise SettingsError(
            f"train: the processes hold {', '.join(map(str, found))} cells of a minibatch, expected as many each. "
            f"Choose a train.minibatch_size that {num_processes} processes can share evenly."
        )
