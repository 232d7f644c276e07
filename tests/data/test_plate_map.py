"""What the plate map says of the wells of the images."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cytoclr.data.profiles import read_wells
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.errors import DataError, SettingsError
from cytoclr.tables import SCREEN, SITE, WELL_METADATA, check_table

PLATE_MAP = "plate,well,compound,concentration\nP1,B2,DMSO,\nP1,B3,taxol,0.3\nP1,B4,,\nP2,b02,DMSO,0\nP2,b03,NA,1\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def sites(*places: tuple[str, str, int]) -> pd.DataFrame:
    table = pd.DataFrame(places or [("P1", "B03", 1), ("P1", "B02", 2), ("P1", "B02", 1)], columns=SITE)
    return table.assign(Path_DNA=[f"/images/{'_'.join(map(str, place))}.tif" for place in table.to_numpy()])


def join(table: pd.DataFrame, metadata: Path | None, **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    told: dict[str, Any] = {
        "columns": {},
        "controls": ["DMSO"],
        "positive_controls": ["taxol"],
        "batch_pattern": "^(.*)$",
        "source": "plates",
    }
    return join_plate_map(table, metadata, **(told | changes))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("b2", "B02"),
        ("B02", "B02"),
        ("B002", "B02"),
        ("B-2", "B02"),
        ("B - 02", "B02"),
        ("r02c03", "B03"),
        ("R2C3", "B03"),
        ("r27c48", "AA48"),
        ("aa1", "AA01"),
        ("AF48", "AF48"),
        ("P24", "P24"),
        ("AG1", "AG1"),
        ("B49", "B49"),
        ("B0", "B0"),
        ("r33c1", "r33c1"),
        ("blank", "blank"),
        ("", ""),
    ],
)
def test_wells_have_one_name(text: str, named: str) -> None:
    assert name_well(text) == named
    assert name_well(named) == named


def test_every_well_of_a_1536_well_plate_keeps_its_name() -> None:
    rows = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AA", "AB", "AC", "AD", "AE", "AF"]
    for number, row in enumerate(rows, start=1):
        for column in (1, 9, 10, 48):
            expected = f"{row}{column:02d}"
            assert {name_well(f"{row.lower()}{column}"), name_well(f"r{number:02d}c{column:02d}")} == {expected}


def test_sites_get_what_the_map_says_of_their_wells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    screen, left_out = join(sites(), write(tmp_path / "map.csv", PLATE_MAP), batch_pattern="^(P)")
    assert screen.columns.tolist() == [*WELL_METADATA, "Metadata_Site", "Path_DNA"]
    assert screen[["Metadata_Well", "Metadata_Site"]].to_numpy().tolist() == [["B02", 1], ["B02", 2], ["B03", 1]]
    assert screen["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "taxol"]
    assert screen["Metadata_Concentration"].tolist() == [0.0, 0.0, 0.3]
    assert screen["Metadata_control_type"].tolist() == ["negcon", "negcon", "poscon"]
    assert screen["Metadata_Batch"].tolist() == ["P"] * 3
    assert screen["Path_DNA"].tolist()[2] == "/images/P1_B03_1.tif"
    check_table(screen, SCREEN, "screen")
    assert left_out.empty
    [record] = caplog.records
    assert "2 of 4 wells of the plate map" in record.getMessage()
    assert "first: P2 B02. (META007)" in record.getMessage()


def test_a_map_without_plates_holds_for_all(tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "Well,drug,uM,batch\nB2,DMSO,0,x\nB3,NA,1,x\n")
    places = [("P1", "b2", 1), ("P1", "b3", 1), ("P2", "B002", 1), ("P2", "B003", 1)]
    screen, _ = join(sites(*places), path, columns={"compound": "drug", "concentration": "uM"}, batch_pattern="none")
    assert screen["Metadata_Compound"].tolist() == ["DMSO", "NA", "DMSO", "NA"]
    assert screen["Metadata_Plate"].tolist() == ["P1", "P1", "P2", "P2"]
    assert set(screen["Metadata_Batch"]) == {"x"}  # and the pattern, which fits nothing, is not looked at


def test_control_types_of_the_map_come_before_names(tmp_path: Path) -> None:
    text = "plate,well,compound,concentration,control_type\nP1,B2,DMSO,0,trt\nP1,B3,water,0,negcon\nP1,B4,x,1,empty\n"
    places = [("P1", "B02", 1), ("P1", "B03", 1), ("P1", "B04", 1)]
    screen, left_out = join(sites(*places), write(tmp_path / "map.csv", text))
    assert screen["Metadata_control_type"].tolist() == ["trt", "negcon"]
    assert left_out.to_numpy().tolist() == [["P1", "B04", 1, "empty well on the plate map"]]


def test_sites_of_empty_wells_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = [("P1", "B02", 1), ("P1", "B04", 2), ("P1", "B04", 1)]
    screen, left_out = join(sites(*places), write(tmp_path / "map.csv", PLATE_MAP))
    assert screen["Metadata_Well"].tolist() == ["B02"]
    assert left_out["Metadata_Site"].tolist() == [2, 1]
    assert "plates: 2 of 3 sites lie in empty wells and are left out." in caplog.text


def test_without_a_map_nothing_is_known(caplog: pytest.LogCaptureFixture) -> None:
    screen, _ = join(sites(), None)
    assert set(screen["Metadata_Compound"]) == {"unknown"}
    assert set(screen["Metadata_Concentration"]) == {0.0}
    assert set(screen["Metadata_control_type"]) == {"trt"}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "(META013)" in record.getMessage()


def test_what_sites_tell_themselves_stands_without_a_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = sites().assign(Metadata_Compound=["taxol", "DMSO", "DMSO"], Metadata_Concentration=["0.3", "", ""])
    screen, left_out = join(own, None)
    assert screen["Metadata_Concentration"].tolist() == [0.0, 0.0, 0.3]
    assert screen["Metadata_control_type"].tolist() == ["negcon", "negcon", "poscon"]
    assert not caplog.records
    own = own.assign(Metadata_Compound=["", "DMSO", "DMSO"], Metadata_Batch=["a", "b", "b"])
    screen, left_out = join(own, None)
    assert left_out["Metadata_Well"].tolist() == ["B03"]
    assert screen["Metadata_Batch"].tolist() == ["b", "b"]
    screen, _ = join(own, write(tmp_path / "map.csv", PLATE_MAP))  # but a map comes first
    assert screen["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "taxol"]


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ([("P1", "B02", 1), ("P1", "C05", 1)], r"1 of 2 wells are not on the plate map .*map\.csv, first: P1 C05"),
        ([("X", "B02", 1)], r"first: X B02.* Plates of the images: X; of the map: P1, P2\."),
        ([("P1", "B04", 1)], r"all of its 1 sites lie in empty wells"),
    ],
)
def test_wells_that_are_not_on_the_map_are_refused(
    tmp_path: Path, places: list[tuple[str, str, int]], match: str
) -> None:
    with pytest.raises(DataError, match=match) as caught:
        join(sites(*places), write(tmp_path / "map.csv", PLATE_MAP))
    assert caught.value.code in ("META006", "META003")


def test_maps_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    text = "plate,well,compound,concentration\nP1,B2,DMSO,0\nP1,B02,taxol,1\n"
    with pytest.raises(DataError, match=r"1 well has more than one treatment, first: P1 B02 \(DMSO and taxol 1 µM\)"):
        join(sites(("P1", "B02", 1)), write(tmp_path / "map.csv", text))
    same = text.replace("taxol,1", "DMSO,0")
    screen, _ = join(sites(("P1", "B02", 1)), write(tmp_path / "same.csv", same))
    assert len(screen) == 1
    with pytest.raises(DataError, match=r"no column of the compound\. Expected"):
        join(sites(), write(tmp_path / "other.csv", "plate,well,x\nP1,B2,1\n"))
    with pytest.raises(SettingsError, match="columns: dose is not known"):
        join(sites(), write(tmp_path / "map.csv", PLATE_MAP), columns={"dose": "x"})
    with pytest.raises(DataError, match=r"P1'? is not found by batch_pattern"):
        join(sites(), write(tmp_path / "map.csv", PLATE_MAP), batch_pattern="^(Week)")
    with pytest.raises(DataError, match="rows 1 and 2 have the same Plate, Well, Site: P1, B02, 1"):
        join(sites(("P1", "B2", 1), ("P1", "B02", 1)), write(tmp_path / "map.csv", PLATE_MAP))


def test_a_dose_in_other_units_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "map.csv").write_text("well,compound,dose_nM\nB02,DMSO,0\n")
    read_wells(tmp_path / "map.csv", columns={"plate": "well", "concentration": "dose_nM"}, controls=["DMSO"])
    assert "the numbers of dose_nM are taken as µM, though its name says otherwise" in caplog.text
