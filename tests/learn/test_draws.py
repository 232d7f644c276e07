"""Numbers that belong to a cell."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from cytoclr.learn.draws import derive_generator, derive_seed, draw_uniforms


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.integers(0, 2**31), st.integers(0, 5000))
def test_a_cell_s_numbers_do_not_depend_on_the_others(cells: list[int], seed: int, epoch: int) -> None:
    together = draw_uniforms(np.array(cells), 5, seed=seed, epoch=epoch, view=1)
    for row, cell in zip(together, cells, strict=True):
        np.testing.assert_array_equal(draw_uniforms(np.array([cell]), 5, seed=seed, epoch=epoch, view=1)[0], row)


def test_uniform_and_unrelated_between_cells_columns_views_epochs_and_seeds() -> None:
    cells = np.arange(4000)
    base = draw_uniforms(cells, 4, seed=0, epoch=0, view=0)
    assert base.min() >= 0.0
    assert base.max() < 1.0
    assert kstest(base.ravel(), "uniform").pvalue > 0.001
    neighbours = [
        (base[:-1, 0], base[1:, 0]),
        (base[:, 0], base[:, 1]),
        (base[:, 0], draw_uniforms(cells, 4, seed=0, epoch=0, view=1)[:, 0]),
        (base[:, 0], draw_uniforms(cells, 4, seed=0, epoch=1, view=0)[:, 0]),
        (base[:, 0], draw_uniforms(cells, 4, seed=1, epoch=0, view=0)[:, 0]),
    ]
    for one, other in neighbours:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_purposes_and_numbers_have_streams_of_their_own() -> None:
    seeds = {derive_seed(seed, purpose, number) for seed in (0, 1) for purpose in ("a", "b") for number in (0, 1)}
    assert len(seeds) == 8
    assert derive_generator(3, "split").integers(1000) == derive_generator(3, "split").integers(1000)
