import time

import numpy as np
import pytest
import scipy.spatial.distance
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoclr.evaluate import match_treatments
from cytoclr.evaluate.matching import vote


def match_by_loops(features, compounds, batches=None):
    """The definition: for each treatment, look at every other and keep the first with the greatest cosine."""
    neighbours = []
    for query in range(len(features)):
        best, found = -np.inf, -1
        for reference in range(len(features)):
            if compounds[query] == compounds[reference]:
                continue
            if batches is not None and any(q and r for q, r in zip(batches[query], batches[reference], strict=True)):
                continue
            lengths = np.linalg.norm(features[query]) * np.linalg.norm(features[reference])
            cosine = 0.0 if lengths == 0 else features[query] @ features[reference] / lengths
            if cosine > best + 1e-12:
                best, found = cosine, reference
        neighbours.append(found)
    return neighbours


@st.composite
def treatments(draw):
    """Small integers, so that ties, equal profiles and profiles of length nought occur."""
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    features = rng.integers(-2, 3, size=(count, 3)).astype(float)
    compounds = np.sort(rng.integers(0, 5, size=count))
    batches = rng.random((count, 4)) < draw(st.sampled_from([0.2, 0.5]))
    return features, compounds, batches


@settings(max_examples=150, deadline=None)
@given(treatments())
def test_neighbours_equal_loops(case):
    features, compounds, batches = case
    assert match_treatments(features, compounds)[0][:, 0].tolist() == match_by_loops(features, compounds)
    across, cosines = match_treatments(features, compounds, batches=batches)
    assert across[:, 0].tolist() == match_by_loops(features, compounds, batches)
    np.testing.assert_array_equal(np.isnan(cosines), across < 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["cosine", "pearson", "euclidean"]))
def test_metrics_are_scipys(seed, metric):
    rng = np.random.default_rng(seed)
    features, compounds = rng.normal(size=(9, 4)) + 3, rng.integers(0, 4, 9)
    name = {"pearson": "correlation"}.get(metric, metric)
    distances = scipy.spatial.distance.cdist(features, features, name)
    distances[compounds[:, None] == compounds] = np.inf
    neighbours, similarities = (found[:, 0] for found in match_treatments(features, compounds, metric=metric))
    answered = np.isfinite(distances).any(axis=1)
    assert (neighbours[answered] == distances.argmin(axis=1)[answered]).all()
    closest = distances.min(axis=1)[answered]
    expected = -closest if metric == "euclidean" else 1 - closest
    np.testing.assert_allclose(similarities[answered], expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(treatments(), st.integers(1, 5))
def test_several_neighbours_are_those_of_a_stable_sort(case, count):
    features, compounds, batches = case
    found, cosines = match_treatments(features, compounds, batches=batches, neighbours=count)
    lengths = np.linalg.norm(features, axis=1)
    unit = features / np.where(lengths > 0, lengths, 1)[:, None]
    for query, row in enumerate(found):
        shares = (batches[query] & batches).any(axis=1)
        admissible = np.flatnonzero((compounds != compounds[query]) & ~shares)
        order = admissible[np.argsort(-np.round(unit[admissible] @ unit[query], 9), kind="stable")][:count]
        assert row.tolist() == [*order, *[-1] * (count - len(order))]
    assert (np.isnan(cosines) == (found < 0)).all()


def test_votes():
    """The most frequent label wins; of those as frequent, that of the nearest."""
    labels = np.array([[1, 2, 2], [3, 1, 2], [4, 5, -1], [-1, -1, -1], [6, 5, 5]])
    assert vote(labels).tolist() == [2, 3, 4, -1, 5]
    assert vote(labels[:, :1]).tolist() == [1, 3, 4, -1, 6]


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    features, compounds, batches = rng.normal(size=(50, 4)), rng.integers(0, 9, 50), rng.random((50, 3)) < 0.4
    whole = match_treatments(features, compounds, batches=batches)
    monkeypatch.setattr("cytoclr.evaluate.matching.BLOCK_VALUES", 7 * 50)
    blocks = match_treatments(features, compounds, batches=batches)
    np.testing.assert_array_equal(whole[0], blocks[0])
    np.testing.assert_allclose(whole[1], blocks[1])


def test_a_reference_that_shares_any_batch_is_refused():
    """Query 0 lies in batches 0 and 1; reference 1, the nearest, shares batch 1 with it."""
    features = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 1.0]])
    batches = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=bool)
    neighbours, cosines = match_treatments(features, np.arange(3), batches=batches)
    assert neighbours.tolist() == [[2], [-1], [0]]
    assert np.isnan(cosines[1]).all()
    assert match_treatments(features, np.arange(3))[0].tolist() == [[1], [0], [0]]


def test_103_treatments_take_milliseconds():
    rng = np.random.default_rng(0)
    features, compounds = rng.normal(size=(103, 516)), rng.integers(0, 38, 103)
    batches = np.eye(10, dtype=bool)[rng.integers(0, 10, 103)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        match_treatments(features, compounds, batches=batches)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_shapes_are_checked():
    with pytest.raises(Exception, match="compounds"):
        match_treatments(np.zeros((3, 2)), np.zeros(4, dtype=int))


def test_an_outlier_does_not_make_ties_of_all_others():
    """The rounding error of a distance is that of its own two profiles."""
    rng = np.random.default_rng(0)
    features, compounds = rng.normal(size=(40, 6)), np.arange(40)
    features[7, 0] = 1e8
    neighbours = match_treatments(features, compounds, metric="euclidean")[0][:, 0]
    distances = scipy.spatial.distance.cdist(features, features)
    np.fill_diagonal(distances, np.inf)
    others = np.arange(40) != 7
    assert (neighbours[others] == distances.argmin(axis=1)[others]).all()
