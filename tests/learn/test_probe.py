"""The treatment probe: right where there is something to find, at chance where not, wells never on both sides."""

import numpy as np
import pandas as pd
import pytest

from cytoclr.errors import DataError
from cytoclr.learn import probe_treatments
from cytoclr.learn.probe import _hold_out_wells


def make_embeddings(*, signal: float, well_effect: float, num_wells: int = 6, num_treatments: int = 4) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for treatment in range(num_treatments):
        for well in range(num_wells):
            centre = signal * np.eye(8)[treatment] + well_effect * draw.normal(size=8)
            for _ in range(20):
                features = centre + draw.normal(size=8)
                rows.append(
                    {
                        "Metadata_Plate": f"P{well % 2}",
                        "Metadata_Well": f"{'ABCDEFGH'[treatment]}{well:02d}",
                        "Metadata_Compound": f"compound-{treatment}",
                        "Metadata_Concentration": 1.0,
                        **{f"Cells_SSL_{i:04d}": value for i, value in enumerate(features)},
                    }
                )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("classifier", ["random-forest", "linear"])
def test_signal_is_found_and_wells_are_not_mistaken_for_it(classifier: str) -> None:
    found = probe_treatments(make_embeddings(signal=6.0, well_effect=0.0), classifier=classifier)  # type: ignore[arg-type]
    assert found["accuracy"] > 0.95
    assert found["chance"] == 0.25
    # cells of a well are alike: a split by cell would find them, a split by well must not
    nothing = probe_treatments(make_embeddings(signal=0.0, well_effect=5.0), classifier=classifier)  # type: ignore[arg-type]
    assert nothing["accuracy"] < 0.5


def test_every_treatment_has_wells_on_both_sides() -> None:
    cells = make_embeddings(signal=1.0, well_effect=0.0)
    for seed in range(10):
        tested = _hold_out_wells(cells, 0.3, seed)
        for _, wells in cells.assign(tested=tested).groupby("Metadata_Compound"):
            by_well = wells.groupby("Metadata_Well")["tested"]
            assert (by_well.nunique() == 1).all()
            assert by_well.first().sum() == 2


def test_lone_wells_are_left_out_and_counted() -> None:
    cells = make_embeddings(signal=6.0, well_effect=0.0)
    lone = (cells["Metadata_Compound"] == "compound-3") & (cells["Metadata_Well"] != "D00")
    found = probe_treatments(cells[~lone].reset_index(drop=True))
    assert (found["treatments"], found["left_out"]) == (3, 1)
    with pytest.raises(DataError, match="found 0 treatments with two wells or more"):
        probe_treatments(cells[cells["Metadata_Well"].str.endswith("00")])
