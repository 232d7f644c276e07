"""NT-Xent against the paper's algorithm written as slow loops, its symmetries, and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cytoclr.learn.loss import measure_alignment, measure_uniformity, nt_xent


def compute_slowly(first_view: Tensor, second_view: Tensor, temperature: float, similarity: str) -> float:
    """Algorithm 1 of Chen et al. 2020: views 2k - 1 and 2k are of cell k."""
    views = [view.double() for pair in zip(first_view, second_view, strict=True) for view in pair]
    total = 0.0
    for i, view in enumerate(views):
        partner = i + 1 if i % 2 == 0 else i - 1
        similarities = {}
        for k, other in enumerate(views):
            similarities[k] = float(view @ other)
            if similarity == "cosine":
                similarities[k] /= float(view.norm()) * float(other.norm())
        numerator = math.exp(similarities[partner] / temperature)
        denominator = sum(math.exp(value / temperature) for k, value in similarities.items() if k != i)
        total -= math.log(numerator / denominator)
    return total / len(views)


@settings(max_examples=30, deadline=None)
@given(
    num_cells=st.integers(1, 7),
    num_features=st.integers(1, 5),
    temperature=st.floats(0.2, 2.0),
    similarity=st.sampled_from(["cosine", "dot"]),
    seed=st.integers(0, 1000),
)
def test_equals_algorithm_1(num_cells: int, num_features: int, temperature: float, similarity: str, seed: int) -> None:
    views = torch.randn(2, num_cells, num_features, generator=torch.Generator().manual_seed(seed))
    found = nt_xent(*views, temperature=temperature, similarity=similarity)
    assert float(found) == pytest.approx(compute_slowly(*views, temperature, similarity), rel=1e-4, abs=1e-5)


def test_views_and_cells_may_change_places() -> None:
    first, second = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    loss = nt_xent(first, second, temperature=0.3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent(second, first, temperature=0.3), loss)
    torch.testing.assert_close(nt_xent(first[order], second[order], temperature=0.3), loss)
    assert not torch.isclose(nt_xent(first[order], second, temperature=0.3), loss)


def test_views_all_alike_give_the_log_of_the_others() -> None:
    views = torch.ones(5, 3)
    assert float(nt_xent(views, views, temperature=0.1)) == pytest.approx(math.log(9))


def test_orthogonal_cells_have_a_closed_form() -> None:
    views = torch.eye(4)
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 6))
    assert float(nt_xent(views, views, temperature=0.5)) == pytest.approx(expected, rel=1e-5)


def test_cosine_forgets_lengths_and_dot_does_not() -> None:
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(3 * first, second, temperature=0.5), nt_xent(first, second, temperature=0.5))
    assert not torch.isclose(
        nt_xent(3 * first, second, temperature=0.5, similarity="dot"),
        nt_xent(first, second, temperature=0.5, similarity="dot"),
    )


def test_tiny_temperatures_do_not_overflow() -> None:
    views = (1000 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = nt_xent(*views, temperature=1e-4, similarity="dot")
    (gradient,) = torch.autograd.grad(loss, views)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_alignment_and_uniformity_by_hand() -> None:
    first, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert float(measure_alignment(first, second)) == pytest.approx(1.0)  # squared distances 2 and 0
    assert float(measure_uniformity(first)) == pytest.approx(-4.0)
