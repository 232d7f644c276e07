import numpy as np
import pandas as pd
import pytest

from cytoclr.errors import DataError
from cytoclr.profiles import aggregate_cells, aggregate_rows, aggregate_wells, select_finite
from cytoclr.tables import SITE, TREATMENT, WELL, feature_columns


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("level", ["site", "well"])
def test_profiles_equal_loops_over_cells(cells, level, statistic):
    key = SITE if level == "site" else WELL
    profiles = aggregate_cells(cells, level, statistic=statistic)
    expected = {}
    for row in range(len(cells)):
        expected.setdefault(tuple(cells.loc[row, key]), []).append(cells.loc[row, feature_columns(cells)])
    assert [tuple(values) for values in profiles[key].itertuples(index=False)] == sorted(expected)
    for row, group in enumerate(sorted(expected)):
        values = np.array(expected[group], dtype=float)
        reduced = values.mean(axis=0) if statistic == "mean" else np.median(values, axis=0)
        np.testing.assert_allclose(profiles.loc[row, feature_columns(profiles)].astype(float), reduced, rtol=1e-12)
        assert profiles.loc[row, "Metadata_NumCells"] == len(values)


@pytest.mark.promise("Numbers", "The order of cells changes no bit of a profile")
@pytest.mark.parametrize("seed", range(5))
def test_row_order_does_not_change_a_bit(cells, seed):
    shuffled = cells.sample(frac=1, random_state=seed)
    for level in ("site", "well"):
        pd.testing.assert_frame_equal(aggregate_cells(cells, level), aggregate_cells(shuffled, level), check_exact=True)
    wells = aggregate_cells(cells, "well")
    again = aggregate_wells(wells.sample(frac=1, random_state=seed))
    pd.testing.assert_frame_equal(aggregate_wells(wells), again, check_exact=True)


def test_arguments_are_not_changed(cells):
    before = cells.copy(deep=True)
    aggregate_cells(cells, "well")
    pd.testing.assert_frame_equal(cells, before)


def test_every_well_of_a_treatment_counts_the_same(wells):
    treatments = aggregate_wells(wells.assign(Metadata_NumCells=range(1, len(wells) + 1)))
    assert treatments[TREATMENT].duplicated().sum() == 0
    for _, row in treatments.iterrows():
        own = wells[wells["Metadata_Compound"] == row["Metadata_Compound"]]
        np.testing.assert_allclose(row[feature_columns(wells)].astype(float), own[feature_columns(wells)].mean())
        assert row["Metadata_NumWells"] == len(own)
        assert row["Metadata_NumBatches"] == own["Metadata_Batch"].nunique() == 2
        assert row["Metadata_NumCells"] == sum(own.index + 1)
    assert set(treatments["Metadata_control_type"]) == {"negcon", "trt"}


def test_a_treatment_is_a_positive_control_if_any_well_is(wells):
    first = wells.index[wells["Metadata_Compound"] == "compound6"][0]
    wells.loc[first, "Metadata_control_type"] = "poscon"
    treatments = aggregate_wells(wells).set_index("Metadata_Compound")
    assert treatments.loc["compound6", "Metadata_control_type"] == "poscon"
    assert treatments.loc["compound7", "Metadata_control_type"] == "trt"


def test_a_treatment_that_is_control_in_some_wells_is_refused(wells):
    wells.loc[0, "Metadata_control_type"] = "trt"
    with pytest.raises(DataError, match=r"DMSO 0\.0 has more than one control_type: treated, negcon"):
        aggregate_wells(wells)


@pytest.mark.promise("Bad input", "A well with two compounds is refused, also among embeddings.")
def test_a_well_with_two_compounds_is_refused(cells):
    well = cells.index[cells.duplicated(WELL)][0]
    cells.loc[well, "Metadata_Compound"] = "other"
    with pytest.raises(DataError, match=r"P0 B0\d has more than one Compound: DMSO, other"):
        aggregate_cells(cells, "well")


def test_gaps_are_refused_with_their_place(cells):
    cells.loc[3, "Cells_SSL_0002"] = np.inf
    with pytest.raises(DataError, match=r"Cells_SSL_0002 is empty or infinite in 1 of .* row 4"):
        aggregate_cells(cells, "well")


def test_a_table_without_features_is_refused(cells):
    with pytest.raises(DataError, match="0 features"):
        aggregate_cells(cells.drop(columns=feature_columns(cells)), "well")


def test_gaps_are_left_out_and_counted(cells):
    cells.loc[:, "Cells_SSL_0001"] = np.nan
    cells.loc[[3, 8], "Cells_SSL_0002"] = np.inf
    whole, report = select_finite(cells, "embeddings")
    places = [" ".join(pair) for pair in cells.loc[[3, 8], WELL].drop_duplicates().to_numpy()]
    assert report == {"features_left_out": ["Cells_SSL_0001"], "rows_left_out": 2, "rows_left_out_of": places}
    assert len(whole) == len(cells) - 2
    assert "Cells_SSL_0001" not in whole
    assert np.isfinite(whole[feature_columns(whole)].to_numpy()).all()


@pytest.mark.promise("Bad input", "Features that are all NaN are refused.")
def test_nothing_left_is_refused(cells):
    cells[feature_columns(cells)] = np.nan
    with pytest.raises(DataError, match="nothing is left"):
        select_finite(cells, "embeddings")


def make_rows(rng, wells):
    """Three sites of each well, of different numbers of cells."""
    rows = wells.loc[wells.index.repeat(3)].reset_index(drop=True)
    rows["Metadata_NumCells"] = rng.integers(1, 50, len(rows))
    rows[feature_columns(wells)] += rng.normal(size=(len(rows), 3))
    return rows


def test_rows_that_stand_for_several_cells_are_weighed_by_them(rng, wells):
    rows = make_rows(rng, wells)
    found = aggregate_rows(rows)
    for plate, well in zip(found["Metadata_Plate"], found["Metadata_Well"], strict=True):
        of = rows[(rows["Metadata_Plate"] == plate) & (rows["Metadata_Well"] == well)]
        here = found[(found["Metadata_Plate"] == plate) & (found["Metadata_Well"] == well)]
        assert here["Metadata_NumCells"].item() == of["Metadata_NumCells"].sum()
        expected = np.average(of[feature_columns(rows)], axis=0, weights=of["Metadata_NumCells"])
        np.testing.assert_allclose(here[feature_columns(rows)].to_numpy()[0], expected)
    middle = aggregate_rows(rows, statistic="median")
    assert middle["Metadata_NumCells"].tolist() == found["Metadata_NumCells"].tolist()
    first = rows[(rows["Metadata_Plate"] == "P0") & (rows["Metadata_Well"] == "B00")]
    assert middle.loc[0, "Cells_F0"] == np.median(first["Cells_F0"])


@pytest.mark.parametrize("counted", [True, False])
def test_rows_in_another_order_give_the_same_bits(rng, wells, counted):
    rows = make_rows(rng, wells)
    rows = rows.loc[rows.index.repeat(20)].reset_index(drop=True)
    rows[feature_columns(rows)] *= 10.0 ** rng.integers(-6, 6, (len(rows), 1))
    rows = rows if counted else rows.drop(columns="Metadata_NumCells")
    expected = aggregate_rows(rows)
    for seed in range(3):
        pd.testing.assert_frame_equal(
            aggregate_rows(rows.sample(frac=1, random_state=seed)), expected, check_exact=True
        )


def test_wells_come_back_as_they_are_and_cells_must_agree_on_their_well(rng, wells):
    shuffled = wells.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(aggregate_rows(shuffled), wells.sort_values(WELL, ignore_index=True))
    rows = make_rows(rng, wells)
    rows.loc[1, "Metadata_Compound"] = "other"
    with pytest.raises(DataError, match="P0 B00 has more than one Compound: DMSO, other"):
        aggregate_rows(rows)


def test_features_are_left_out_where_that_loses_less_than_rows(rng, wells):
    """A third of the wells are not given up for a few features of many."""
    wide = pd.concat(
        [wells, pd.DataFrame(rng.normal(size=(len(wells), 97)), columns=[f"F{i}" for i in range(97)])], axis=1
    )
    names = feature_columns(wide)
    assert len(names) == 100
    for number in range(6):  # each in a well of its own: a sixth of the wells for 6 of 100 features
        wide.loc[6 * number, f"F{number}"] = np.nan
    whole, report = select_finite(wide, "wells", max_gaps=0.1)
    assert report["features_left_out"] == [f"F{number}" for number in range(6)]
    assert (len(whole), report["rows_left_out"]) == (len(wide), 0)
    wide.loc[12, names[:50]] = np.inf  # one well with many gaps goes, its features stay
    whole, report = select_finite(wide, "wells", max_gaps=0.1)
    assert report["rows_left_out_of"] == ["P1 B03"]
    assert len(report["features_left_out"]) == 5


def test_a_number_of_rows_is_not_a_number_of_cells(rng, wells):
    rows = make_rows(rng, wells).drop(columns="Metadata_NumCells")
    assert "Metadata_NumCells" not in aggregate_rows(rows)


def test_wells_that_are_empty_do_not_cost_the_features(rng, wells):
    """CellProfiler writes a row of gaps for a well without cells; here a sixth of the wells are so."""
    names = feature_columns(wells)
    wells.loc[::6, names[1:]] = np.nan
    whole, report = select_finite(wells, "wells")
    assert report["features_left_out"] == []
    assert report["rows_left_out"] == 6
    assert len(whole) == len(wells) - 6
