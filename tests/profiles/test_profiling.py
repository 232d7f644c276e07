import json

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import ProfileSettings
from cytoclr.errors import DataError
from cytoclr.profiles import (
    aggregate_cells,
    aggregate_wells,
    fit_normalisation,
    list_warnings,
    profile,
    profile_wells,
)
from cytoclr.tables import SITE_PROFILES, TREATMENT_PROFILES, WELL_PROFILES, check_table


@pytest.mark.parametrize("method", ["none", "plate-zscore", "whitening", "tvn"])
def test_the_stage_is_its_steps(cells, method):
    profiles = profile(cells, ProfileSettings(normalise=method))
    wells = aggregate_cells(cells, "well")
    normaliser = fit_normalisation(wells, method)
    pd.testing.assert_frame_equal(profiles.well, normaliser.apply(wells))
    pd.testing.assert_frame_equal(profiles.site, normaliser.apply(aggregate_cells(cells, "site")))
    pd.testing.assert_frame_equal(profiles.treatment, aggregate_wells(normaliser.apply(wells)))
    check_table(profiles.site, SITE_PROFILES, "sites")
    check_table(profiles.well, WELL_PROFILES, "wells")
    check_table(profiles.treatment, TREATMENT_PROFILES, "treatments")
    assert json.loads(json.dumps(profiles.report, allow_nan=False)) == profiles.report
    assert profiles.report["num_cells"] == len(cells)


def test_what_was_left_out_is_reported(cells):
    cells.loc[:, "Cells_SSL_0001"] = np.nan
    cells.loc[5, "Cells_SSL_0000"] = np.nan
    report = profile(cells, ProfileSettings(normalise="none")).report
    assert report["cells_left_out"] == 1
    assert report["features_left_out"] == ["Cells_SSL_0001"]


def test_wells_of_another_program(wells):
    shuffled = wells.sample(frac=1, random_state=1)
    profiles = profile_wells(shuffled, ProfileSettings(normalise="plate-zscore", aggregate="median"))
    assert profiles.site is None
    pd.testing.assert_frame_equal(profiles.well, fit_normalisation(wells, "plate-zscore").apply(wells))
    assert profiles.report["num_wells"] == len(wells)


def test_wells_flagged_before_stay_flagged_and_are_told_of(wells):
    marked = wells.assign(Metadata_FewCells=wells["Metadata_Well"] == "B05", Metadata_NumCells=range(1, len(wells) + 1))
    none = ProfileSettings(normalise="none")
    report = profile_wells(marked, none).report
    assert report["wells_with_few_cells"] == ["P0 B05", "P1 B05", "P2 B05", "P3 B05"]
    assert list_warnings(report)[0].startswith("4 wells are flagged as having too few cells and take no part: P0 B05")
    profiles = profile_wells(marked, ProfileSettings(normalise="none", min_cells_per_well=3))
    assert profiles.report["wells_with_few_cells"] == ["P0 B00", "P0 B01", "P0 B05", "P1 B05", "P2 B05", "P3 B05"]
    assert "6 wells have fewer than 3 cells" in list_warnings(profiles.report)[0]
    with pytest.raises(DataError, match="all 36 wells have too few cells"):
        profile_wells(marked, ProfileSettings(normalise="none", min_cells_per_well=99))
    few = ProfileSettings(normalise="whitening", min_cells_per_well=36)
    with pytest.raises(
        DataError, match=r"found 0 control wells .* and 20 with too few cells\. .*lower profile\.min_cells"
    ):
        profile_wells(marked, few)
