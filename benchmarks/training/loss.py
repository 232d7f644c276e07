"""Time and peak memory of the contrastive loss, forward and backward, by minibatch, beside its peers.

Cases, all in float32 with 128 features, temperature 0.1 and random projections:

- ``cytoclr.learn.loss.nt_xent``,
- lightly's ``NTXentLoss``,
- pytorch-metric-learning's ``NTXentLoss``, and its ``SupConLoss`` with every cell a class of its own, which is the same
  number with far less memory,
- the loss of 2020, which broadcasts every pair of views (N x N x features).

A minibatch of N cells has 2N views; both are told. Cases of one size run by turns in one process; a ratio is the
median over rounds with the lowest and the highest. The memory of each case is that of a new process that computes the
loss once, less what the process had before. A case whose tensors, by their sizes, need over 16 GiB is told and not run.
At the end: the rate of a plain product of matrices, and what share of our time the loss's own products would take at
that rate.

Run: ``python benchmarks/training/loss.py`` or ``python benchmarks/train.py loss`` (some two minutes on two cores).
"""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from training import interleave, peak_of, run_alone

NUM_FEATURES, TEMPERATURE = 128, 0.1
SIZES = (256, 1_024, 4_096, 8_192, 16_384)
GIB = 2**30
LIMIT_GIB = 16


def measure() -> None:
    """Print the tables."""
    print("| cells | views | loss | forward and backward, ms | times ours | peak memory, MiB | times ours |")
    print("|---|---|---|---|---|---|---|")
    for num_views in SIZES:
        measure_size(num_views)
    print()
    measure_machine(8_192)


def measure_size(num_views: int) -> None:
    """Print a table's rows for one size."""
    inputs = draw_views(num_views)
    run = {name: peer for name, peer in PEERS.items() if peer.needs_gib(num_views) <= LIMIT_GIB}
    rounds = 9 if num_views <= 1_024 else 5 if num_views <= 8_192 else 3
    times = interleave({name: (lambda peer=peer: step(peer.build(), inputs)) for name, peer in run.items()}, rounds)
    memory = {name: run_alone(grow, name, num_views)[0] for name in run}
    for name, peer in PEERS.items():
        start = f"| {num_views // 2:,} | {num_views:,} | {name} |"
        if name not in run:
            print(f"{start} not run: its tensors need {peer.needs_gib(num_views):,.0f} GiB | | | |", flush=True)
            continue
        low, high = times[name].spread
        took = f"{1e3 * times[name].median:.3g} ({1e3 * low:.3g} to {1e3 * high:.3g})"
        slower = "" if name == OURS else times[name].times_slower_than(times[OURS])
        larger = "" if name == OURS else f"{memory[name] / memory[OURS]:.3g} x"
        print(f"{start} {took} | {slower} | {memory[name]:,.1f} | {larger} |", flush=True)


def measure_machine(num_views: int) -> None:
    """Print how far the loss is from what its products of matrices alone would take."""
    left, right, product = torch.rand(2048, 2048), torch.rand(2048, 2048), torch.empty(2048, 2048)
    views = draw_views(num_views)
    ours = PEERS[OURS].build()
    cases = {"product": lambda: torch.mm(left, right, out=product), "loss": lambda: step(ours, views)}
    times = interleave(cases, 9)
    rate = 2 * 2048**3 / min(times["product"].seconds)
    one = 2 * num_views**2 * NUM_FEATURES / rate
    took = min(times["loss"].seconds)
    print(
        f"A product of 2,048 x 2,048 matrices runs at {rate / 1e9:.0f} GFLOP/s at best. At that rate one product of "
        f"{num_views:,} x {num_views:,} x {NUM_FEATURES} takes {1e3 * one:.0f} ms, the three of the plain way "
        f"{3e3 * one:.0f} ms, the two that ours comes to {2e3 * one:.0f} ms; ours takes {1e3 * took:.0f} ms at best: "
        f"the products are {2 * one / took:.0%} of it."
    )


def draw_views(num_views: int) -> Tensor:
    """Draw projections of both views of cells."""
    return torch.randn(2, num_views // 2, NUM_FEATURES, generator=torch.Generator().manual_seed(0)).requires_grad_()


def step(loss: Callable[[Tensor, Tensor], Tensor], views: Tensor) -> float:
    """Compute a loss and its gradient."""
    views.grad = None
    value = loss(views[0], views[1])
    value.backward()
    return float(value.detach())


def grow(name: str, num_views: int) -> float:
    """Say by how many MiB this process's peak grows in one step; a small step before has loaded all code."""
    loss = PEERS[name].build()
    step(loss, draw_views(32))
    views = draw_views(num_views)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_of()
    step(loss, views)
    return peak_of() - before


def build_ours() -> Callable[[Tensor, Tensor], Tensor]:
    """Build NT-Xent in tiles."""
    from cytoclr.learn.loss import nt_xent

    return lambda first, second: nt_xent(first, second, temperature=TEMPERATURE)


def build_lightly() -> Callable[[Tensor, Tensor], Tensor]:
    """Build lightly's."""
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def build_metric_learning(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Build one of pytorch-metric-learning's; the class of a view is its cell."""
    from pytorch_metric_learning import losses

    loss = getattr(losses, kind)(temperature=TEMPERATURE)
    return lambda first, second: loss(torch.cat([first, second]), torch.arange(len(first)).repeat(2))


def build_broadcast() -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss of 2020: cosines of all pairs by broadcasting, positives first."""

    def compare(first: Tensor, second: Tensor) -> Tensor:
        views, num_cells = torch.cat([second, first]), len(first)
        cosines = torch.cosine_similarity(views[:, None], views[None], dim=-1)
        positives = torch.cat([cosines.diagonal(num_cells), cosines.diagonal(-num_cells)])[:, None]
        itself = torch.eye(2 * num_cells, dtype=torch.bool)
        negatives = cosines[~(itself | itself.roll(num_cells, dims=1))].view(2 * num_cells, -1)
        logits = torch.cat([positives, negatives], dim=1) / TEMPERATURE
        target = torch.zeros(2 * num_cells, dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, target)

    return compare


@dataclass(frozen=True)
class Peer:
    """A loss, and the bytes of the tensors that it cannot do without at once, by number of views."""

    build: Callable[[], Callable[[Tensor, Tensor], Tensor]]
    needs_bytes: Callable[[int], int]

    def needs_gib(self, num_views: int) -> float:
        """The same in GiB."""
        return self.needs_bytes(num_views) / GIB


OURS = "cytoclr"
PEERS = {
    OURS: Peer(build_ours, lambda views: 4 * 4 * views * NUM_FEATURES),
    # similarities, the logits made of them, their softmax, their gradient
    "lightly NTXentLoss": Peer(build_lightly, lambda views: 4 * 4 * views**2),
    # similarities, masks of positives and negatives, and what is made of them: eleven of the same shape, as measured
    "pytorch-metric-learning SupConLoss": Peer(
        lambda: build_metric_learning("SupConLoss"), lambda views: 11 * 4 * views**2
    ),
    # a row for every positive pair, a column for every negative one: the mask, the similarities, their exponential
    "pytorch-metric-learning NTXentLoss": Peer(
        lambda: build_metric_learning("NTXentLoss"), lambda views: 3 * 4 * views * views * (views - 2)
    ),
    # for every pair: both sides at length one, their product by feature, its gradient
    "broadcast, as in 2020": Peer(build_broadcast, lambda views: 4 * 4 * views**2 * NUM_FEATURES),
}


if __name__ == "__main__":
    started_s = time.perf_counter()
    measure()
    print(f"\nIn {time.perf_counter() - started_s:.0f} s.")
