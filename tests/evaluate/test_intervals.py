import itertools

import numpy as np
import pytest

from cytoclr.evaluate import bootstrap_difference, bootstrap_score, compute_chance, permute_mechanisms


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
    hits = np.array([True, False, True])
    assert bootstrap_difference(hits, hits, np.arange(3), bootstraps=100, rng=np.random.default_rng(0)) == (0.0, 0.0)


def test_a_difference_is_paired():
    """One table is right wherever the other is, and on every compound's second treatment besides."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.random(30) < 0.5, 2)
    better = base | np.tile([False, True], 30)
    compounds = np.repeat(np.arange(30), 2)
    low, high = bootstrap_difference(better, base, compounds, bootstraps=1000, rng=np.random.default_rng(1))
    assert 0 < low < (better.mean() - base.mean()) < high < 0.5
    swapped = bootstrap_difference(base, better, compounds, bootstraps=1000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(swapped, (-high, -low))


def test_chance_is_the_mean_over_all_permutations():
    mechanisms = np.array([0, 0, 1, 1, 2])
    every = [
        np.mean([order[query] == order[reference] for query, reference in [(0, 1), (1, 3), (4, 2)]])
        for order in itertools.permutations(mechanisms)
    ]
    assert compute_chance(mechanisms) == pytest.approx(np.mean(every))
    drawn = permute_mechanisms(
        np.array([0, 1, 4]), np.array([1, 3, 2]), mechanisms, permutations=4000, rng=np.random.default_rng(0)
    )
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.02)


def test_chance_of_one_compound_is_nought():
    assert compute_chance(np.array([0])) == 0.0
