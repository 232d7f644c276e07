import numpy as np
import pytest

from cytoclr.report.maps import MIN_POINTS, lay_out_profiles


@pytest.fixture(scope="module")
def groups() -> np.ndarray:
    """Two groups of twenty profiles, far apart."""
    generator = np.random.default_rng(1)
    return np.concatenate([generator.normal(centre, 0.3, (20, 6)) for centre in (-2.0, 2.0)])


def test_pca_is_the_singular_value_decomposition(groups: np.ndarray) -> None:
    layout = lay_out_profiles(groups, neighbours=8, seed=0)[2]
    centred = groups - groups.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    share = strengths[0] ** 2 / (strengths**2).sum()
    assert layout.method == "PCA"
    np.testing.assert_allclose(np.abs(layout.x), np.abs(left[:, 0] * strengths[0]), rtol=1e-9)
    assert layout.axes[0] == f"PC 1 ({share:.0%} of variance)"


def test_neighbours_of_a_map_are_neighbours_among_profiles(groups: np.ndarray) -> None:
    for layout in lay_out_profiles(groups, neighbours=8, seed=0):
        distance = np.hypot(layout.x[:, None] - layout.x, layout.y[:, None] - layout.y)
        np.fill_diagonal(distance, np.inf)
        assert ((distance.argmin(axis=1) < 20) == (np.arange(40) < 20)).all(), layout.method


def test_a_seed_decides_the_maps(groups: np.ndarray) -> None:
    first, again, other = (lay_out_profiles(groups, neighbours=8, seed=seed) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.x, two.x)
    assert not np.array_equal(first[1].x, other[1].x)


@pytest.mark.parametrize(("num_profiles", "num_features"), [(MIN_POINTS, 3), (MIN_POINTS, 1), (12, 1)])
def test_the_smallest_tables_are_laid_out(num_profiles: int, num_features: int) -> None:
    features = np.random.default_rng(0).normal(size=(num_profiles, num_features))
    layouts = lay_out_profiles(features, neighbours=12, seed=0)
    assert [layout.method for layout in layouts] == ["t-SNE", "UMAP", "PCA"]
    assert all(np.isfinite(layout.x).all() and len(layout.x) == num_profiles for layout in layouts)


@pytest.mark.parametrize("features", [np.ones((MIN_POINTS - 1, 3)), np.ones((30, 3)), np.empty((0, 3))])
def test_nothing_is_drawn_of_too_few_or_of_equal_profiles(features: np.ndarray) -> None:
    assert lay_out_profiles(features, neighbours=12, seed=0) == ()
