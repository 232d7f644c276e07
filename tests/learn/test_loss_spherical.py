"""SPC against loops; its class vectors follow their cells and are only ever attracted."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss import SphericalClasses

STEP = math.pi / 160


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label(treatments: list[int]) -> CellLabels:
    codes = np.array(treatments)
    return CellLabels(codes, codes, codes, codes, codes)


def compute_slowly(views: Tensor, vectors: Tensor, treatments: list[int], temperature: float) -> float:
    """Each cell against the class vectors of all cells and against all other cells, one view at a time."""
    total = 0.0
    for view in views / views.norm(dim=2, keepdim=True):
        for i, cell in enumerate(view):
            to_class = [math.exp(float(cell @ vectors[treatment]) / temperature) for treatment in treatments]
            to_cells = [math.exp(float(cell @ other) / temperature) for j, other in enumerate(view) if j != i]
            total -= math.log(to_class[i] / (sum(to_class) + sum(to_cells)))
    return total / views.shape[0] / views.shape[1]


@pytest.mark.parametrize("treatments", [[0], [2, 2, 2], [0, 3, 1], [1, 1, 0, 3, 1, 0]])
def test_equals_loops(treatments: list[int]) -> None:
    loss = SphericalClasses(4, 5, temperature=0.2)
    vectors = loss.class_vectors.double()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4, dtype=torch.float64))
    views = draw(2, len(treatments), 5).requires_grad_()
    found = loss(views, label(treatments))
    assert float(found.detach()) == pytest.approx(compute_slowly(views.detach(), vectors, treatments, 0.2), rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(found, views)[0]).all()


def test_gradients_are_those_of_small_changes() -> None:
    loss = SphericalClasses(3, 4, temperature=0.3).eval()
    assert torch.autograd.gradcheck(lambda views: loss(views, label([0, 2, 2, 1])), draw(2, 4, 4).requires_grad_())


def test_a_class_vector_turns_by_its_angle_for_each_cell() -> None:
    loss = SphericalClasses(3, 2, temperature=0.2)
    loss.class_vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    cells = torch.tensor([[0.0, 2.0], [0.0, 5.0], [0.0, 3.0]])
    loss(torch.stack([cells, cells]), label([0, 0, 2]))
    expected = torch.tensor([[math.cos(2 * STEP), math.sin(2 * STEP)], [0.0, 1.0]])
    torch.testing.assert_close(loss.class_vectors[:2], expected)  # two cells of class 0, none of class 1
    assert loss.class_vectors[2].norm() == pytest.approx(1.0)  # opposite its cell: either way would do


def test_a_class_vector_does_not_go_past_its_cells() -> None:
    loss = SphericalClasses(1, 3, temperature=0.2)
    cells = draw(2, 400, 3).float() + torch.tensor([5.0, 0.0, 0.0])
    loss(cells, label([0] * 400))
    centre = torch.nn.functional.normalize(cells, dim=2).sum(dim=(0, 1))
    torch.testing.assert_close(loss.class_vectors[0], centre / centre.norm())


def test_the_order_of_cells_does_not_matter() -> None:
    treatments = [0, 1, 1, 2, 0, 1]
    order = [3, 1, 5, 0, 2, 4]
    views, losses = draw(2, 6, 4), [SphericalClasses(3, 4, temperature=0.2) for _ in range(2)]
    found = losses[0](views, label(treatments)), losses[1](views[:, order], label([treatments[i] for i in order]))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(losses[0].class_vectors, losses[1].class_vectors)


def test_validation_moves_nothing_and_checkpoints_keep_the_vectors() -> None:
    loss = SphericalClasses(3, 4, temperature=0.2)
    views = draw(2, 3, 4)
    before = loss.class_vectors.clone()
    loss.eval()(views, label([0, 1, 2]))
    assert torch.equal(loss.class_vectors, before)
    loss.train()(views, label([0, 1, 2]))
    assert not torch.equal(loss.class_vectors, before)
    resumed = SphericalClasses(3, 4, temperature=0.2)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed.class_vectors, loss.class_vectors)
    assert not list(loss.parameters())  # no optimiser turns them, no weight decay shrinks them
