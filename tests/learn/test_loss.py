"""NT-Xent against the paper's algorithm written as slow loops, against peers, its symmetries, and closed forms."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cytoclr.learn.loss import measure_alignment, measure_rank, measure_uniformity, nt_xent
from cytoclr.learn.loss.tiles import log_sum_exp


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


def compute_as_in_2020(first_view: Tensor, second_view: Tensor, temperature: float) -> Tensor:
    """The 2020 project: cosines of all pairs by broadcasting, cross entropy of rows that begin with their positive."""
    views = torch.cat([second_view, first_view])
    cosines = functional.cosine_similarity(views[:, None], views[None], dim=-1)
    num_cells = len(first_view)
    positives = torch.cat([cosines.diagonal(num_cells), cosines.diagonal(-num_cells)])[:, None]
    neither = torch.eye(2 * num_cells) + torch.eye(2 * num_cells).roll(num_cells, dims=1)
    negatives = cosines[neither == 0].view(2 * num_cells, -1)
    logits = torch.cat([positives, negatives], dim=1) / temperature
    target = torch.zeros(2 * num_cells, dtype=torch.long)
    return functional.cross_entropy(logits, target, reduction="sum") / (2 * num_cells)


def test_equals_the_definition_of_2020() -> None:
    views = draw(2, 7, 5)
    torch.testing.assert_close(nt_xent(*views, temperature=0.5), compute_as_in_2020(*views, temperature=0.5))


def test_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly is a peer that only tests know")
    ours, theirs = draw(2, 21, 8).requires_grad_(), draw(2, 21, 8).requires_grad_()
    loss, peer = nt_xent(*ours, temperature=0.2), lightly.NTXentLoss(temperature=0.2)(*theirs)
    torch.testing.assert_close(loss, peer)
    torch.testing.assert_close(*(torch.autograd.grad(one, of)[0] for one, of in ((loss, ours), (peer, theirs))))


@pytest.mark.parametrize("tile", [1, 5, 8, 9, 24, 512])
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["plain exponentials", "shifted exponentials"])
def test_tiles_change_neither_logarithms_nor_gradients(tile: int, scale: float) -> None:
    """24 views; tiles that divide them, do not divide them and exceed them, against the plain formula."""
    views = (scale * draw(24, 6, dtype=torch.float64)).requires_grad_()
    weights = draw(24, seed=1, dtype=torch.float64)
    others = (views @ views.T).masked_fill(torch.eye(24, dtype=torch.bool), -math.inf)
    plain = torch.logsumexp(others, dim=1)
    tiled = log_sum_exp(views, tile=tile)
    torch.testing.assert_close(tiled, plain)
    found, expected = (torch.autograd.grad(one @ weights, views)[0] for one in (tiled, plain))
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_small_changes() -> None:
    views = draw(2, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda both: nt_xent(*both, temperature=0.3), views)
    assert nt_xent(*views, temperature=0.3).dtype == torch.float64


def test_a_view_without_others_has_an_empty_sum_and_no_gradient() -> None:
    view = torch.ones(1, 3, requires_grad=True)
    assert float(log_sum_exp(view).detach()) == -math.inf
    (gradient,) = torch.autograd.grad(torch.logaddexp(log_sum_exp(view), torch.ones(1)).sum(), view)
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_half_precision_and_autocast_are_accumulated_in_float32() -> None:
    views = draw(2, 64, 16).bfloat16()
    expected = nt_xent(*views.float(), temperature=0.1)
    assert expected.dtype == torch.float32
    assert torch.equal(nt_xent(*views, temperature=0.1), expected)
    inputs = views.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(*inputs, temperature=0.1)
        (under_autocast,) = torch.autograd.grad(loss, inputs)
    assert torch.equal(loss, expected)
    plain = views.float().requires_grad_()
    assert torch.equal(under_autocast, torch.autograd.grad(nt_xent(*plain, temperature=0.1), plain)[0])


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = function(*arguments, **(named or {}))
        for one in made if isinstance(made, tuple) else (made,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def test_memory_does_not_grow_with_the_square_of_the_minibatch() -> None:
    saved: list[int] = []

    def measure(num_cells: int) -> tuple[int, int]:
        saved.clear()
        views = draw(2, num_cells, 4).requires_grad_()
        cells = torch.arange(num_cells)
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one.numel()) or one, lambda one: one)
        with LargestTensor() as largest, hooks:
            nt_xent(*views, temperature=0.1, alike=cells // 4, places=cells // 2, excused=cells // 3).backward()
        return largest.numbers, sum(saved)

    largest, kept = measure(600)
    largest_of_twice, kept_of_twice = measure(1200)
    assert largest == largest_of_twice == 512 * 512  # a tile
    assert kept_of_twice <= 2.01 * kept


def test_alignment_and_uniformity_by_hand() -> None:
    first, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert float(measure_alignment(first, second)) == pytest.approx(1.0)  # squared distances 2 and 0
    assert float(measure_uniformity(first)) == pytest.approx(-4.0)


def test_uniformity_of_many_cells_is_that_of_evenly_spaced_ones() -> None:
    views = draw(5000, 8)
    spaced = views[torch.linspace(0, 4999, 2048).long()]
    assert measure_uniformity(views) == measure_uniformity(spaced)
    with LargestTensor() as largest:
        measure_uniformity(draw(20_000, 8))
    assert largest.numbers <= 2048 * 2047 // 2
    assert float(measure_uniformity(views)) == pytest.approx(
        float(torch.pdist(functional.normalize(views, dim=1)).square().mul(-2).exp().mean().log()), abs=0.02
    )


def test_rank_counts_the_directions_in_use() -> None:
    assert float(measure_rank(torch.eye(6)[:, :4])) == pytest.approx(4.0, rel=1e-4)
    assert float(measure_rank(draw(50, 1) @ draw(1, 9))) == pytest.approx(1.0, rel=1e-3)
    assert float(measure_rank(torch.zeros(5, 3))) == pytest.approx(1.0, rel=1e-3)
    values = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)  # entropy of 1/2, 1/4, 1/8, 1/8: 1.75 bits
    rotation = torch.linalg.qr(draw(4, 4, dtype=torch.float64))[0]
    assert float(measure_rank(rotation @ torch.diag(values) @ rotation.T)) == pytest.approx(2**1.75, rel=1e-5)
