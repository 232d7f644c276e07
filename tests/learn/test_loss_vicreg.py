"""VICReg against loops, and against lightly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cytoclr.learn.loss import vicreg


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compute_slowly(first: np.ndarray, second: np.ndarray) -> float:
    num_cells, num_features = first.shape
    invariance = variance = covariance = 0.0
    for i in range(num_cells):
        for k in range(num_features):
            invariance += (first[i, k] - second[i, k]) ** 2 / (num_cells * num_features)
    for view in (first, second):
        for k in range(num_features):
            spread = np.sqrt(np.var(view[:, k], ddof=1) + 1e-4)
            variance += max(0.0, 1.0 - spread) / num_features / 2
            for m in range(num_features):
                if m != k:
                    covariance += np.cov(view[:, k], view[:, m])[0, 1] ** 2 / num_features
    return 25 * invariance + 25 * variance + covariance


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_equals_loops(scale: float) -> None:
    first, second = scale * draw(2, 7, 4)
    assert float(vicreg(first, second)) == pytest.approx(compute_slowly(first.numpy(), second.numpy()), rel=1e-9)


def test_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly is a peer that only tests know")
    views = (0.8 * draw(2, 9, 5)).requires_grad_()
    ours, theirs = vicreg(*views), lightly.VICRegLoss()(*views)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views))


def test_views_and_cells_may_change_places() -> None:
    first, second = draw(2, 9, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(vicreg(second[order], first[order]), vicreg(first, second))


def test_half_precision_is_computed_in_float32() -> None:
    views = draw(2, 32, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vicreg(*views)
    assert torch.equal(found, vicreg(*views.float()))
