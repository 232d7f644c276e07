import json

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import ProfileSettings
from cytoclr.profiles import aggregate_cells, aggregate_wells, fit_normalisation, profile, profile_wells
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
