"""Minibatches larger than memory: a contrastive loss of the whole, computed and followed back a chunk at a time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cytoclr.learn.minibatch import Minibatch

__all__ = ["ChunkedProjections", "split_minibatch"]


def split_minibatch(minibatch: Minibatch, chunk_size: int) -> list[Minibatch]:
    """Divide a minibatch into chunks of so many cells; the last has what is left. Nothing is copied."""
    starts = range(0, len(minibatch.rows), chunk_size)
    return [minibatch.take(slice(start, start + chunk_size)) for start in starts]


class ChunkedProjections:
    """Projections of a minibatch that were computed without what a gradient needs, and their way back.

    A contrastive loss compares all cells of a minibatch, so gradients of parts cannot simply be added up. But the loss
    needs the projections only, which are small: they are computed chunk by chunk without a graph, the loss gives their
    gradients, and then every chunk is computed again, with a graph, and its share of these gradients followed back into
    the networks (Gao, Zhang, Han and Callan 2021). The gradients are those of the whole to rounding.

    Parameters
    ----------
    project
        Computes the projections of cells. What is random in it must come from torch's generators, or follow from the
        cells: both times the draws are the same.
    chunks
        Of `split_minibatch`.
    networks
        Whose buffers (running statistics) are to change once, not with both computations.

    Notes
    -----
    Costs a second forward pass. Batch norms take the statistics of a chunk, not of the minibatch.

    References
    ----------
    arXiv:2101.06983
    """

    def __init__(
        self,
        project: Callable[[Minibatch], Float[Tensor, "view cell feature"]],
        chunks: Sequence[Minibatch],
        networks: nn.Module,
    ) -> None:
        self._project = project
        self._chunks = chunks
        self._random_state = _read_random_state(chunks[0].rows.device)
        before = [buffer.clone() for buffer in networks.buffers()]
        with torch.no_grad():
            parts = [project(chunk) for chunk in chunks]
            for buffer, value in zip(networks.buffers(), before, strict=True):
                buffer.copy_(value)
        #: All cells' projections, in their order; the loss's gradient with respect to them gathers here.
        self.whole = torch.cat(parts, dim=1).requires_grad_()

    def backward(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Follow the gradients of `whole` back into the networks' parameters, where they are added.

        Parameters
        ----------
        context
            What to compute projections in, as the first time: that of mixed precision.
        """
        assert self.whole.grad is not None, "the loss must be followed back to the projections first"
        _write_random_state(self._chunks[0].rows.device, self._random_state)
        gradients = torch.split(self.whole.grad, [len(chunk.rows) for chunk in self._chunks], dim=1)
        for chunk, gradient in zip(self._chunks, gradients, strict=True):
            with torch.enable_grad(), context():
                projections = self._project(chunk)
            torch.autograd.backward(projections, gradient.to(projections.dtype))


def _read_random_state(place: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(place)] if place.type == "cuda" else states


def _write_random_state(place: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if place.type == "cuda":
        torch.cuda.set_rng_state(states[1], place)
