"""Centres that are none, lie elsewhere, or stand twice: each is counted, listed or refused; every crop is a cell's."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import Bbbc021Settings, CropSettings
from cytoclr.data.crops import CropStore
from cytoclr.data.stage import plan_crops
from cytoclr.errors import DataError
from cytoclr.progress import Silent
from cytoclr.storage import read_table


def crop(screen: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> tuple[dict[str, int], pd.DataFrame]:
    """Crop the screen with changed locations; return what was left out and why, and the cells."""
    path = screen / "locations.csv"
    change(pd.read_csv(path)).to_csv(path, index=False, na_rep="NaN")
    settings = Bbbc021Settings(
        reader="bbbc021", image_table=screen / "image.csv", images=screen / "images", positive_controls=()
    )
    plan = plan_crops(settings, CropSettings.model_validate({"size_px": 16}), locations=path)
    told = plan.cut(screen / "run", Silent())
    cells = read_table(screen / "run/cells.parquet")
    assert len(CropStore(screen / "run/crops")) == len(cells)
    left_out: dict[str, int] = told["left_out"]
    return left_out, cells


def put(column: str, value: float, row: int = 0) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(**{column: table[column].astype(float).mask(table.index == row, value)})


#: Each site has two cells whose crops lie inside, and one at the border.
INSIDE, BORDER = 16, 8


@pytest.mark.promise("Bad input", "A centre outside its field, negative or far away is left out, and counted.")
@pytest.mark.parametrize("value", [-20.0, 48.0, 4000.0, 1e18, -1e300])
@pytest.mark.parametrize("column", ["x", "y"])
def test_centres_outside_are_counted(tiny_screen: Path, column: str, value: float) -> None:
    left_out, cells = crop(tiny_screen, put(column, value))
    assert left_out["centre outside the field"] == 1
    assert left_out["crop crosses the border"] == BORDER
    assert len(cells) == INSIDE - 1


@pytest.mark.promise("Bad input", "A cell without a centre (NaN) is left out, and counted.")
def test_centres_that_are_none_are_counted(tiny_screen: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, cells = crop(tiny_screen, put("x", np.nan))
    assert len(cells) == INSIDE - 1
    assert "1 of 24 cells have no centre, and are left out" in caplog.text


@pytest.mark.promise("Bad input", "Locations that stand twice, infinite ones or a table of none are refused, or told.")
@pytest.mark.parametrize(
    ("change", "code", "match"),
    [
        (put("x", np.inf), "LOC001", r"x is of another kind in 1 of 24 rows, first in row 1: found inf, expected"),
        (put("y", -np.inf, 3), "LOC001", r"y is of another kind in 1 of 24 rows, first in row 4"),
        (put("Metadata_Object", 1.5), "LOC001", r"Metadata_Object is of another kind"),
        (lambda table: table.iloc[:0], "LOC002", r"the locations have none"),
        (
            lambda table: table.assign(Metadata_Site=9, Metadata_Object=table.index),
            "LOC002",
            r"none of its sites is in",
        ),
        (
            lambda table: table.assign(Metadata_Plate="other " + table["Metadata_Plate"]),
            "LOC002",
            r"none of its sites is in the screen",
        ),
        (lambda table: pd.concat([table, table.head(1)]), "LOC010", r"have the number of another"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    tiny_screen: Path, change: Callable[[pd.DataFrame], pd.DataFrame], code: str, match: str
) -> None:
    with pytest.raises(DataError, match=match) as refusal:
        crop(tiny_screen, change)
    assert refusal.value.code == code


@pytest.mark.promise("Bad input", "Cells of sites that the screen lacks, and sites without cells, are counted.")
def test_sites_that_do_not_match_are_counted(tiny_screen: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        left_out, cells = crop(
            tiny_screen, lambda table: table.assign(Metadata_Site=table["Metadata_Site"].mask(table.index < 3, 77))
        )
    assert "3 of 24 cells are in sites that the screen lacks" in caplog.text
    assert left_out["no location given"] == 1
    assert len(cells) == INSIDE - 2


@pytest.mark.promise("Bad input", "A cell at the very place of another is left out, and counted.")
def test_copies_of_cells_are_counted(tiny_screen: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, cells = crop(
        tiny_screen, lambda table: pd.concat([table, table.assign(Metadata_Object=table["Metadata_Object"] + 10)])
    )
    assert "24 of 48 cells lie exactly where another does, and are left out" in caplog.text
    assert len(cells) == INSIDE


@pytest.mark.promise("Bad input", "One cell alone is cropped.")
def test_one_cell_is_cropped(tiny_screen: Path) -> None:
    left_out, cells = crop(tiny_screen, lambda table: table.head(1))
    assert len(cells) == 1
    assert left_out["no location given"] == 7
