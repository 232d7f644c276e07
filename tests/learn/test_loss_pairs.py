"""NT-Xent with further positives and fewer negatives, against loops over pairs and against peers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss import NtXent, SupCon, nt_xent


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_labels(num_cells: int, seed: int) -> CellLabels:
    """Wells lie on a plate and have a treatment; treatments are of a compound."""
    random = np.random.default_rng(seed)
    wells = random.integers(0, 6, num_cells)
    treatment_of_well, plate_of_well = random.integers(0, 3, 6), np.array([0, 0, 0, 1, 1, 1])
    treatments, plates = treatment_of_well[wells], plate_of_well[wells]
    return CellLabels(plates=plates, wells=wells, batches=plates, compounds=treatments // 2, treatments=treatments)


def compute_slowly(views: Tensor, labels: CellLabels, *, temperature: float, positives: str, negatives: str) -> float:
    """Visit all pairs of views; view i is of cell i modulo N."""
    num_cells = views.shape[1]
    flat = (views / views.norm(dim=2, keepdim=True)).flatten(0, 1)

    def is_positive(i: int, j: int) -> bool:
        a, b = i % num_cells, j % num_cells
        if a == b:
            return True
        same_treatment = labels.treatments[a] == labels.treatments[b]
        return bool(
            {
                "views": False,
                "treatment": same_treatment,
                "cross-well": same_treatment and labels.wells[a] != labels.wells[b],
                "cross-plate": same_treatment and labels.plates[a] != labels.plates[b],
            }[positives]
        )

    def is_left_out(i: int, j: int) -> bool:
        a, b = i % num_cells, j % num_cells
        shared = {
            "all": False,
            "other-wells": labels.wells[a] == labels.wells[b],
            "other-compounds": labels.compounds[a] == labels.compounds[b],
        }[negatives]
        return bool(shared) and not is_positive(i, j)

    total = 0.0
    for i in range(2 * num_cells):
        others = [j for j in range(2 * num_cells) if j != i]
        similarity = {j: float(flat[i] @ flat[j]) / temperature for j in others}
        denominator = sum(math.exp(similarity[j]) for j in others if not is_left_out(i, j))
        chosen = [j for j in others if is_positive(i, j)]
        total -= sum(math.log(math.exp(similarity[j]) / denominator) for j in chosen) / len(chosen)
    return total / (2 * num_cells)


@settings(max_examples=40, deadline=None)
@given(
    num_cells=st.integers(1, 9),
    positives=st.sampled_from(["views", "cross-well", "cross-plate"]),
    negatives=st.sampled_from(["all", "other-wells", "other-compounds"]),
    seed=st.integers(0, 1000),
)
def test_equals_loops_over_pairs(num_cells: int, positives: str, negatives: str, seed: int) -> None:
    views, labels = draw(2, num_cells, 4, seed=seed), draw_labels(num_cells, seed)
    loss = NtXent(temperature=0.3, positives=positives, negatives=negatives)
    expected = compute_slowly(views, labels, temperature=0.3, positives=positives, negatives=negatives)
    assert float(loss(views, labels)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("num_cells", [1, 5, 12])
def test_supcon_equals_equation_2(num_cells: int) -> None:
    views, labels = draw(2, num_cells, 4), draw_labels(num_cells, seed=3)
    expected = compute_slowly(views, labels, temperature=0.2, positives="treatment", negatives="all")
    assert float(SupCon(temperature=0.2)(views, labels)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_supcon_equals_pytorch_metric_learning() -> None:
    peers = pytest.importorskip("pytorch_metric_learning.losses", reason="a peer that only tests know")
    views, labels = draw(2, 12, 4).requires_grad_(), draw_labels(12, seed=3)
    ours = SupCon(temperature=0.2)(views, labels)
    theirs = peers.SupConLoss(temperature=0.2)(views.flatten(0, 1), torch.from_numpy(labels.treatments).repeat(2))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views))


@pytest.mark.parametrize("tile", [3, 7, 512])
def test_gradients_with_masks_are_those_of_small_changes(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("cytoclr.learn.loss.tiles", fromlist=["TILE"]).TILE, "cpu", tile)
    views, labels = draw(2, 5, 3).requires_grad_(), draw_labels(5, seed=1)
    loss = NtXent(temperature=0.3, positives="cross-well", negatives="other-compounds")
    assert torch.autograd.gradcheck(lambda both: loss(both, labels), views)


@pytest.mark.parametrize("temperature", [0.5, 0.001], ids=["plain exponentials", "shifted exponentials"])
def test_a_cell_that_is_left_out_is_not_pushed(temperature: float) -> None:
    """Two wells, negatives of other wells: a change in a cell's own well changes nothing for its other cells."""
    views = draw(2, 4, 3)
    wells = torch.tensor([0, 0, 1, 1])
    moved = views.clone().requires_grad_()
    loss = nt_xent(*moved, temperature=temperature, excused=wells)
    (gradient,) = torch.autograd.grad(loss, moved)
    assert torch.isfinite(gradient).all()
    alone = [nt_xent(*views[:, [first, 2, 3]], temperature=temperature, excused=wells[1:]) for first in (0, 1)]
    assert torch.isfinite(torch.stack(alone)).all()
    everyone_excused = nt_xent(*views, temperature=temperature, excused=torch.zeros(4, dtype=torch.long))
    assert float(everyone_excused) == pytest.approx(0.0, abs=1e-9)  # the positive is all that counts


def test_a_minibatch_without_further_positives_has_the_loss_of_views() -> None:
    views = draw(2, 6, 4)
    apart = CellLabels(*(np.arange(6) for _ in range(5)))
    for positives in ("cross-well", "cross-plate"):
        loss = NtXent(temperature=0.2, positives=positives)(views, apart)
        torch.testing.assert_close(loss, nt_xent(*views, temperature=0.2))
    torch.testing.assert_close(SupCon(temperature=0.2)(views, apart), nt_xent(*views, temperature=0.2))


def test_the_order_of_cells_and_of_numbers_does_not_matter() -> None:
    views, labels = draw(2, 20, 4), draw_labels(20, seed=5)
    loss = NtXent(temperature=0.2, positives="cross-plate", negatives="other-wells")
    order = np.random.default_rng(0).permutation(20)
    torch.testing.assert_close(loss(views[:, order], labels.take(order)), loss(views, labels))
    renamed = CellLabels(labels.plates, 70 - 3 * labels.wells, labels.batches, labels.compounds, labels.treatments)
    torch.testing.assert_close(loss(views, renamed), loss(views, labels))
