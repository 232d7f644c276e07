"""Which cells are trained on, and in which order."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MakeScreen
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.errors import SettingsError
from cytoclr.learn.dataset import CropDataset, EpochOrder, order_cells, split_wells
from cytoclr.learn.minibatch import prepare_crops


def describe_cells(wells: list[int], num_cells: int) -> pd.DataFrame:
    """Wells on two plates by turns, each with the treatment given, every one with `num_cells` cells."""
    rows = [
        {
            "Metadata_Plate": f"P{number % 2}",
            "Metadata_Well": f"W{number}",
            "Metadata_Compound": f"compound-{treatment}",
            "Metadata_Concentration": 1.0,
        }
        for number, treatment in enumerate(wells)
        for _ in range(num_cells)
    ]
    return pd.DataFrame(rows)


@given(
    wells=st.lists(st.integers(0, 6), min_size=2, max_size=40),
    num_cells=st.integers(1, 4),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_no_well_is_on_both_sides(wells: list[int], num_cells: int, fraction: float, seed: int) -> None:
    cells = describe_cells(wells, num_cells)
    trained, validated = split_wells(cells, fraction, seed=seed)
    assert sorted([*trained, *validated]) == list(range(len(cells)))
    on_sides = [set(cells["Metadata_Well"].iloc[rows]) for rows in (trained, validated)]
    assert not on_sides[0] & on_sides[1]
    assert len(on_sides[1]) == min(max(1, round(fraction * len(wells))), len(wells) - 1)
    shuffled = cells.sample(frac=1.0, random_state=seed)
    again = shuffled["Metadata_Well"].iloc[split_wells(shuffled, fraction, seed=seed)[1]]
    assert set(again) == on_sides[1], "the order of the cells decided the split"


def test_validation_is_spread_over_treatments_and_leaves_lone_wells() -> None:
    cells = describe_cells([0] * 10 + [1] * 3 + [2] * 3 + [3], num_cells=2)
    _, validated = split_wells(cells, 3 / 17, seed=4)
    assert set(cells["Metadata_Compound"].iloc[validated]) == {"compound-0", "compound-1", "compound-2"}


def test_seeds_decide_the_split_and_nought_means_none() -> None:
    cells = describe_cells([0] * 30, num_cells=1)
    splits = {tuple(split_wells(cells, 0.2, seed=seed)[1]) for seed in range(5)}
    assert len(splits) == 5
    assert len(split_wells(cells, 0.0, seed=0)[1]) == 0
    with pytest.raises(SettingsError, match=r"validation_fraction: 0\.5 of 1 well cannot be kept"):
        split_wells(cells.iloc[:1], 0.5, seed=0)


@given(
    treatments=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 50), epoch=st.integers(0, 50)
)
def test_balanced_takes_treatments_equally_often(treatments: list[int], seed: int, epoch: int) -> None:
    codes = np.array(treatments)
    order = order_cells(codes, "balanced", seed=seed, epoch=epoch)
    assert len(order) == len(codes)
    counts = pd.Series(codes[order]).value_counts()
    assert set(counts.index) <= set(treatments)
    assert counts.reindex(sorted(set(treatments)), fill_value=0).max() - counts.min() <= 1
    for code in set(treatments):
        uses = pd.Series(order[codes[order] == code]).value_counts()
        assert uses.max() - uses.reindex(np.flatnonzero(codes == code), fill_value=0).min() <= 1 or uses.empty


def test_random_takes_every_cell_once_in_another_order_each_epoch() -> None:
    codes = np.zeros(50, dtype=np.int64)
    first, second = (order_cells(codes, "random", seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any()
    np.testing.assert_array_equal(order_cells(codes, "random", seed=0, epoch=1), second)


def test_processes_share_each_minibatch_of_one() -> None:
    rows = np.arange(100, 137)
    values = {"minibatch_size": 12, "sampler": "random", "seed": 0}
    alone = EpochOrder(rows, np.zeros(37, dtype=np.int64), **values)
    shares = [EpochOrder(rows, np.zeros(37, dtype=np.int64), **values, process=i, num_processes=2) for i in (0, 1)]
    for order in (alone, *shares):
        order.set_epoch(3)
    assert len(alone) == len(shares[0]) == 3
    for whole, one, other in zip(alone, *shares, strict=True):
        assert sorted(whole) == sorted([*one, *other])
        assert len(one) == len(other) == 6


def test_a_small_set_is_one_minibatch() -> None:
    order = EpochOrder(np.arange(5), np.zeros(5, dtype=np.int64), minibatch_size=256, sampler="random", seed=0)
    assert [len(rows) for rows in order] == [5]


def test_crops_are_scaled_then_transformed(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    rows = np.array([30, 2])
    expected = ((crops.read(rows).astype(np.float64) - 150) / (2500 - 150)).clip(0, 1)
    for preload in (False, True):
        minibatch = CropDataset(crops, preload=preload)[rows]
        np.testing.assert_array_equal(minibatch.rows, rows)
        np.testing.assert_allclose(prepare_crops(minibatch, "linear"), expected, atol=1e-6)
    root = prepare_crops(CropDataset(crops)[rows], "sqrt")
    torch.testing.assert_close(root, torch.from_numpy(expected).float().sqrt(), rtol=0, atol=1e-6)
