from dataclasses import replace

import numpy as np
import pytest

from cytoclr.config import ReportSettings
from cytoclr.errors import DataError
from cytoclr.report import ReportInputs
from cytoclr.report.maps import MIN_POINTS, lay_out_cells, lay_out_profiles
from cytoclr.report.shown import Shown, centre_on_plates, choose_cells
from cytoclr.tables import WELL, feature_matrix


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


def test_too_many_profiles_are_not_laid_out_by_tsne(groups: np.ndarray) -> None:
    assert [of.method for of in lay_out_profiles(groups, neighbours=8, seed=0, max_tsne=39)] == ["UMAP", "PCA"]
    assert len(lay_out_profiles(groups, neighbours=8, seed=0, max_tsne=40)) == 3


SETTINGS = ReportSettings(map_cells=120)


@pytest.fixture(scope="module")
def shown(inputs: ReportInputs) -> Shown:
    embeddings = feature_matrix(inputs.embeddings)
    generator = np.random.default_rng(0)
    return choose_cells(inputs.cells, embeddings, per_well=1, pictures=60, generator=generator)


@pytest.fixture(scope="module")
def laid_out(inputs: ReportInputs, shown: Shown) -> dict:
    return lay_out_cells(inputs, shown, SETTINGS, seed=3)


def test_cells_with_pictures_are_on_the_map_and_others_by_chance(
    inputs: ReportInputs, shown: Shown, laid_out: dict
) -> None:
    assert len(laid_out["tile"]) == len(laid_out["well"]) == len(laid_out["id"]) == SETTINGS.map_cells
    rows = inputs.cells.reset_index(drop=True).reset_index().set_index("Metadata_CellID")["index"]
    tile_of = {row: tile for tile, row in enumerate(shown.rows)}
    assert [tile for tile in laid_out["tile"] if tile >= 0] == list(range(len(shown.rows)))
    for cell, tile, well in zip(laid_out["id"], laid_out["tile"], laid_out["well"], strict=True):
        assert tile_of.get(rows[cell], -1) == tile
        assert inputs.wells.iloc[well][WELL].tolist() == inputs.cells.iloc[rows[cell]][WELL].tolist()


def test_cells_are_measured_from_their_plates_controls(inputs: ReportInputs, laid_out: dict) -> None:
    pca = laid_out["layouts"][2]
    rows = [inputs.cells["Metadata_CellID"].tolist().index(cell) for cell in laid_out["id"]]
    features = centre_on_plates(inputs.cells, feature_matrix(inputs.embeddings))[rows].astype(np.float64)
    centred = features - features.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * strengths[:2]
    span = np.ptp(expected, axis=0).max()
    for values, of in zip((pca["x"], pca["y"]), expected.T, strict=True):
        told = np.array(values) / 9999 * span
        # axes of PCA have no sign
        assert min(np.abs(told - (side * of - (side * of).min())).max() for side in (1, -1)) < 2e-4 * span


def test_coordinates_of_cells_have_four_digits(laid_out: dict) -> None:
    assert [layout["method"] for layout in laid_out["layouts"]] == ["t-SNE", "UMAP", "PCA"]
    for layout in laid_out["layouts"]:
        values = layout["x"] + layout["y"]
        assert all(isinstance(value, int) for value in values)
        assert (min(values), max(values)) == (0, 9999)


def test_a_seed_decides_the_cells(inputs: ReportInputs, shown: Shown, laid_out: dict) -> None:
    assert lay_out_cells(inputs, shown, SETTINGS, seed=3) == laid_out
    other = lay_out_cells(inputs, shown, SETTINGS, seed=4)
    assert other["id"] != laid_out["id"]


def test_all_pictures_are_on_the_map(inputs: ReportInputs, shown: Shown) -> None:
    few = lay_out_cells(inputs, shown, ReportSettings(map_cells=7), seed=0)
    assert few["tile"] == list(range(len(shown.rows)))


def test_cells_of_wells_without_profile_are_left_out(inputs: ReportInputs, shown: Shown) -> None:
    wells = inputs.wells.iloc[5:]
    cells = lay_out_cells(replace(inputs, wells=wells), shown, ReportSettings(map_cells=30), seed=0)
    lost = {f"{plate}_{well}" for plate, well in inputs.wells.iloc[:5][WELL].itertuples(index=False)}
    assert {cell.rsplit("_", 2)[0] for cell in cells["id"]}.isdisjoint(lost)
    assert lay_out_cells(replace(inputs, wells=wells.iloc[:0]), shown, SETTINGS, seed=0) == {}


def test_without_embeddings_there_is_no_map_of_cells(inputs: ReportInputs, shown: Shown) -> None:
    assert lay_out_cells(replace(inputs, embeddings=None), shown, SETTINGS, seed=0) == {}


def test_few_cells_are_listed_but_not_laid_out(inputs: ReportInputs, shown: Shown) -> None:
    few = lay_out_cells(inputs, Shown(shown.rows[:2]), ReportSettings(map_cells=MIN_POINTS - 1), seed=0)
    assert (len(few["id"]), few["layouts"]) == (MIN_POINTS - 1, [])


def test_refuses_embeddings_that_are_not_finite(inputs: ReportInputs, shown: Shown) -> None:
    embeddings = inputs.embeddings.copy()
    embeddings["Cells_SSL_0003"] = np.nan
    with pytest.raises(DataError, match="not finite"):
        lay_out_cells(replace(inputs, embeddings=embeddings), shown, SETTINGS, seed=0)
