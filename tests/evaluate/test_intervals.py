import itertools

import numpy as np
import pytest

from cytoclr.evaluate import (
    bootstrap_difference,
    bootstrap_score,
    compute_chance,
    flip_signs,
    permute_mechanisms,
)


def test_bootstrap_equals_resampling_compounds_by_hand():
    """The same draws, written as loops: a resampled compound brings all its treatments."""
    compounds = np.array([7, 7, 7, 2, 2, 5])
    correct = np.array([True, True, False, False, False, True])
    low, high = bootstrap_score(correct, compounds, bootstraps=400, rng=np.random.default_rng(3))
    drawn = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, size=400)
    shares = []
    for times in drawn:
        hits = [
            hit
            for compound, n in zip([2, 5, 7], times, strict=True)
            for hit in list(correct[compounds == compound]) * n
        ]
        shares.append(np.mean(hits))
    np.testing.assert_allclose([low, high], np.percentile(shares, [2.5, 97.5]))


def test_the_interval_covers_the_truth_where_treatments_of_a_compound_agree():
    """Hits drawn by compound with probability 0.7: treatments as cases would give far too short an interval."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        compounds = np.repeat(np.arange(40), 3)
        correct = np.repeat(rng.random(40) < 0.7, 3)
        low, high = bootstrap_score(correct, compounds, bootstraps=300, rng=rng)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_difference_of_equal_tables_is_nought():
    hits = np.array([[1.0, 0.0, 1.0]])
    assert bootstrap_difference(hits, hits, np.arange(3), bootstraps=100, rng=np.random.default_rng(0)) == (0.0, 0.0)
    assert flip_signs(np.zeros(3), np.arange(3), permutations=100, rng=np.random.default_rng(0)) == 1.0


def test_a_difference_is_paired():
    """One table is right wherever the other is, and on every compound's second treatment besides."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.random(30) < 0.5, 2)
    better = base | np.tile([False, True], 30)
    base, better = base[None].astype(float), better[None].astype(float)
    compounds = np.repeat(np.arange(30), 2)
    low, high = bootstrap_difference(better, base, compounds, bootstraps=1000, rng=np.random.default_rng(1))
    assert 0 < low < (better.mean() - base.mean()) < high < 0.5
    swapped = bootstrap_difference(base, better, compounds, bootstraps=1000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(swapped, (-high, -low))


def test_seeds_are_resampled_too():
    """Hits that differ between seeds make the interval wider than the same hits averaged before."""
    rng = np.random.default_rng(0)
    quality = np.array([0.2, 0.5, 0.8])[:, None]
    hits = (rng.random((3, 200)) < quality).astype(float)
    none, compounds = np.zeros((1, 200)), np.arange(200)
    low, high = bootstrap_difference(hits, none, compounds, bootstraps=2000, rng=np.random.default_rng(0))
    averaged = hits.mean(axis=0, keepdims=True)
    narrow = bootstrap_difference(averaged, none, compounds, bootstraps=2000, rng=np.random.default_rng(0))
    assert high - low > 3 * (narrow[1] - narrow[0])


def test_flipping_signs_equals_all_flips():
    compounds = np.array([0, 0, 1, 2, 3, 4])
    differences = np.array([1.0, 0.0, 1.0, -1.0, 1.0, 1.0])
    sums = np.array([1.0, 1.0, -1.0, 1.0, 1.0])
    flips = np.array(list(itertools.product([-1.0, 1.0], repeat=5))) @ sums
    expected = np.mean(np.abs(flips) >= 3.0)
    found = flip_signs(differences, compounds, permutations=20_000, rng=np.random.default_rng(0))
    assert found == pytest.approx(expected, abs=0.01)


def test_flipping_signs_is_uniform_where_neither_is_better():
    rng = np.random.default_rng(0)
    compounds = np.repeat(np.arange(25), 2)
    found = [flip_signs(rng.normal(size=50), compounds, permutations=200, rng=rng) for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_chance_is_the_mean_over_all_permutations():
    mechanisms = np.array([0, 0, 1, 1, 2])
    every = [
        np.mean([order[query] == order[reference] for query, reference in [(0, 1), (1, 3), (4, 2)]])
        for order in itertools.permutations(mechanisms)
    ]
    assert compute_chance(mechanisms) == pytest.approx(np.mean(every))
    drawn = permute_mechanisms(
        np.array([0, 1, 4]), np.array([[1], [3], [2]]), mechanisms, permutations=4000, rng=np.random.default_rng(0)
    )
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.02)


def test_chance_of_one_compound_is_nought():
    assert compute_chance(np.array([0])) == 0.0
