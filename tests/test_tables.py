import numpy as np
import pandas as pd
import pytest

from cytoclr.errors import DataError
from cytoclr.tables import LOCATED_CELLS, MECHANISM, MECHANISMS, check_table, feature_columns, treatment_names


def mechanisms(**changes: list) -> pd.DataFrame:
    columns = {
        "Metadata_Compound": ["NA", "taxol", "taxol"],
        "Metadata_Concentration": ["0.30", "1e-3", "3"],
        MECHANISM: ["DNA damage", "Microtubule", "Microtubule"],
    }
    return pd.DataFrame(columns | changes)


def test_a_good_table_gets_its_types_and_names_stay_texts() -> None:
    checked = check_table(mechanisms(), MECHANISMS, "moa.csv")
    assert checked["Metadata_Concentration"].tolist() == [0.3, 0.001, 3.0]
    assert checked["Metadata_Compound"].tolist()[0] == "NA"


def test_arguments_are_not_changed() -> None:
    frame = mechanisms()
    check_table(frame, MECHANISMS, "moa.csv")
    assert frame["Metadata_Concentration"].tolist() == ["0.30", "1e-3", "3"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"Metadata_Concentration": ["0.3", "10 uM", "3"]}, r"moa.csv: Metadata_Concentration .* row 2: found '10 uM'"),
        ({"Metadata_Concentration": ["0.3", "nan", "3"]}, r"row 2"),
        ({"Metadata_Concentration": ["0.3", "-1", "3"]}, r"too small .* at least 0 µM"),
        ({"Metadata_Concentration": ["0.3", "inf", "3"]}, r"row 2: found 'inf'"),
        ({"Metadata_Compound": ["a", " ", "b"]}, r"Metadata_Compound is empty in 1 of 3 rows, first in row 2"),
        (
            {"Metadata_Concentration": ["1", "3", "3.0"]},
            r"rows 2 and 3 have the same Compound, Concentration: taxol, 3.0",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(changes: dict, match: str) -> None:
    with pytest.raises(DataError, match=match):
        check_table(mechanisms(**changes), MECHANISMS, "moa.csv")


def test_a_missing_column_is_named_beside_those_found() -> None:
    with pytest.raises(DataError, match=r"lacks the column Metadata_MoA\. Found: Metadata_Compound"):
        check_table(mechanisms().drop(columns=MECHANISM), MECHANISMS, "moa.csv")


def test_centres_of_ready_crops_may_be_empty_but_not_infinite() -> None:
    row = {
        "Metadata_CellID": "p_B02_1_1",
        "Metadata_Plate": "p",
        "Metadata_Well": "B02",
        "Metadata_Batch": "w",
        "Metadata_Compound": "DMSO",
        "Metadata_Concentration": 0.0,
        "Metadata_control_type": "negcon",
        "Metadata_Site": 1,
        "Metadata_Object": 1,
        "x": np.nan,
        "y": np.nan,
    }
    assert check_table(pd.DataFrame([row]), LOCATED_CELLS, "cells")["x"].isna().all()
    with pytest.raises(DataError, match="x is of another kind"):
        check_table(pd.DataFrame([row | {"x": np.inf}]), LOCATED_CELLS, "cells")
    with pytest.raises(DataError, match="expected one of negcon, poscon, trt"):
        check_table(pd.DataFrame([row | {"Metadata_control_type": "DMSO"}]), LOCATED_CELLS, "cells")


def test_features_are_the_numbers_that_are_not_metadata() -> None:
    frame = pd.DataFrame({"Metadata_Site": [1], "Image_Count": [3], "Cells_A": [1.0], "note": ["x"]})
    assert feature_columns(frame) == ["Cells_A"]


def test_treatments_are_named_for_people() -> None:
    frame = pd.DataFrame({"Metadata_Compound": ["DMSO", "taxol"], "Metadata_Concentration": [0.0, 0.3]})
    assert treatment_names(frame).tolist() == ["DMSO", "taxol 0.3 µM"]
