"""Which cells are trained on, and in which order."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.config import SamplerName
from cytoclr.errors import SettingsError
from cytoclr.learn.order import EpochOrder, deal_evenly, split_wells


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


SAMPLERS: tuple[SamplerName, ...] = ("random", "balanced", "batch-balanced", "within-batch")


def draw_epoch(
    groups: list[int] | np.ndarray, sampler: SamplerName, *, epoch: int = 0, seed: int = 0, minibatch_size: int = 4
) -> list[np.ndarray]:
    """Draw an epoch of cells 0, 1, … whose treatments and batches are these; the other codes say nothing."""
    codes, nothing = np.array(groups), np.zeros(len(groups), dtype=np.int64)
    is_by_batch = sampler in ("batch-balanced", "within-batch")
    order = EpochOrder(
        np.arange(len(codes)),
        nothing if is_by_batch else codes,
        batches=codes if is_by_batch else nothing,
        minibatch_size=minibatch_size,
        sampler=sampler,
        seed=seed,
    )
    order.set_epoch(epoch)
    minibatches = list(order)
    assert len(minibatches) == len(order)
    return minibatches


@given(groups=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 50))
def test_dealing_takes_groups_equally_often_and_no_cell_twice_before_all_once(groups: list[int], seed: int) -> None:
    codes = np.array(groups)
    order = deal_evenly(codes, np.random.default_rng(seed))
    assert len(order) == len(codes)
    counts = Counter(codes[order].tolist())
    assert max(counts.values()) - min(counts[code] for code in set(groups)) <= 1
    for code in set(groups):
        uses = Counter(order[codes[order] == code].tolist())
        assert max(uses.values(), default=0) - min(uses[cell] for cell in np.flatnonzero(codes == code)) <= 1


@given(groups=st.lists(st.integers(0, 4), min_size=20, max_size=60), seed=st.integers(0, 50))
@pytest.mark.parametrize("sampler", ["balanced", "batch-balanced"])
def test_balanced_minibatches_hold_every_group_equally_often(
    sampler: SamplerName, groups: list[int], seed: int
) -> None:
    for cells in draw_epoch(groups, sampler, seed=seed, minibatch_size=10):
        counts = Counter(np.array(groups)[cells].tolist())
        assert max(counts.values()) - min(counts[code] for code in set(groups)) <= 2


@given(sizes=st.lists(st.integers(4, 20), min_size=1, max_size=6), seed=st.integers(0, 50))
def test_within_batch_takes_each_minibatch_from_one_batch_and_batches_by_their_size(
    sizes: list[int], seed: int
) -> None:
    batches = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    minibatches = draw_epoch(batches, "within-batch", seed=seed)
    assert {len(set(batches[cells])) for cells in minibatches} == {1}
    taken = Counter(int(batches[cells[0]]) for cells in minibatches)
    assert taken == {number: size // 4 for number, size in enumerate(sizes)}
    assert max(Counter(np.concatenate(minibatches).tolist()).values()) == 1


def test_within_batch_mixes_batches_over_the_epoch() -> None:
    batches = np.repeat(np.arange(4), 40)
    sequence = [int(batches[cells[0]]) for cells in draw_epoch(batches, "within-batch")]
    assert sequence != sorted(sequence)


def test_a_batch_too_small_for_a_minibatch_is_refused() -> None:
    expected = r"minibatch of 4 cells from one batch, but 2 of 3 batches have fewer to train on, the smallest 2\. Set "
    with pytest.raises(SettingsError, match=expected):
        draw_epoch([0] * 9 + [1] * 3 + [2] * 2, "within-batch")
    with pytest.raises(ValueError, match="needs batches"):
        EpochOrder(np.arange(4), np.zeros(4, dtype=np.int64), minibatch_size=2, sampler="within-batch", seed=0)


@given(num_cells=st.integers(1, 60), seed=st.integers(0, 50))
def test_random_takes_every_cell_once_at_most(num_cells: int, seed: int) -> None:
    taken = np.concatenate(draw_epoch([0] * num_cells, "random", seed=seed))
    assert len(set(taken.tolist())) == len(taken) == max(num_cells // 4 * 4, min(num_cells, 3))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seed_and_epoch_decide_the_order_and_nothing_else(sampler: SamplerName) -> None:
    groups = np.arange(80) % 4
    first = draw_epoch(groups, sampler, seed=1, epoch=2)
    np.testing.assert_array_equal(draw_epoch(groups, sampler, seed=1, epoch=2), first)
    for other in ({"seed": 1, "epoch": 3}, {"seed": 2, "epoch": 2}):
        assert (np.array(draw_epoch(groups, sampler, **other)) != np.array(first)).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_processes", [2, 3])
def test_shares_of_processes_interleave_to_the_minibatches_of_one(sampler: SamplerName, num_processes: int) -> None:
    rows, groups = np.arange(100, 137), np.arange(37) % 2
    values = {"batches": groups, "minibatch_size": 12, "sampler": sampler, "seed": 0}
    alone = EpochOrder(rows, groups, **values)
    shares = [EpochOrder(rows, groups, **values, process=i, num_processes=num_processes) for i in range(num_processes)]
    for order in (alone, *shares):
        order.set_epoch(3)
    assert {len(order) for order in (alone, *shares)} == {3 if sampler != "within-batch" else 2}
    for whole, *parts in zip(alone, *shares, strict=True):
        assert len(whole) == 12
        assert set(whole) <= set(rows)
        np.testing.assert_array_equal(np.stack(parts, axis=1).reshape(-1), whole)


def test_a_small_set_is_one_minibatch_and_none_is_none() -> None:
    order = EpochOrder(np.arange(5), np.zeros(5, dtype=np.int64), minibatch_size=256, sampler="random", seed=0)
    assert [len(rows) for rows in order] == [5]
    nothing = np.arange(0)
    assert list(EpochOrder(nothing, nothing, minibatch_size=256, sampler="random", seed=0)) == []
