"""Profiles and plate maps of any origin: the tools of the field write and read them, for real."""

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pycytominer
import pytest
from copairs import map as copairs_map
from pycytominer.cyto_utils import output

from cytoclr.data.profiles import is_image_table, join_wells, read_profiles, read_wells
from cytoclr.data.readers.bbbc021 import read_image_table
from cytoclr.errors import DataError, SettingsError
from cytoclr.storage import write_table
from cytoclr.tables import TREATMENT, WELL, WELL_METADATA, feature_columns


def test_pycytominer_and_copairs_take_our_tables_as_they_are(tmp_path: Path, wells: pd.DataFrame) -> None:
    write_table(tmp_path / "well.parquet", wells)
    theirs = pd.read_parquet(tmp_path / "well.parquet")
    normal = pycytominer.normalize(
        tmp_path / "well.parquet", method="standardize", samples="Metadata_control_type == 'negcon'"
    )
    chosen = pycytominer.feature_select(normal, operation=["variance_threshold", "drop_na_columns"])
    assert feature_columns(chosen) == feature_columns(wells)
    controls = chosen[chosen["Metadata_control_type"] == "negcon"][feature_columns(wells)]
    np.testing.assert_allclose(controls.mean(), 0.0, atol=1e-9)
    treatments = pycytominer.aggregate(theirs, strata=TREATMENT)
    assert len(treatments) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copairs' own
        found = copairs_map.average_precision(
            theirs.filter(regex="^Metadata_"),
            theirs[feature_columns(wells)].to_numpy(),
            pos_sameby=["Metadata_Compound"],
            pos_diffby=[],
            neg_sameby=[],
            neg_diffby=["Metadata_Compound"],
        )
    assert found["average_precision"].between(0, 1).all()


@pytest.mark.parametrize("name", ["wells.csv", "wells.csv.gz", "wells.parquet", "wells.h5ad"])
def test_tables_of_pycytominer_are_read(tmp_path: Path, wells: pd.DataFrame, name: str) -> None:
    kinds = {".h5ad": "anndata_h5ad", ".parquet": "parquet"}
    path = tmp_path / name
    compression = {"method": "gzip"} if path.suffix == ".gz" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns pycytominer of its index
        output(wells, str(path), output_type=kinds.get(path.suffix, "csv"), compression_options=compression)
    pd.testing.assert_frame_equal(read_profiles(path), wells)


@pytest.mark.real_data
def test_published_profiles_keep_all_their_features(real_data: Path) -> None:
    profiles = read_profiles(real_data / "bbbc021/profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    header = pd.read_csv(real_data / "bbbc021/profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz", nrows=0)
    assert len(profiles) == 632
    assert feature_columns(profiles) == [name for name in header.columns if not name.startswith("Image_")]
    assert len(feature_columns(profiles)) == 516
    screen = read_image_table(real_data / "bbbc021/metadata/BBBC021_v1_image.csv.gz")
    assert len(join_wells(profiles, screen, "profiles")) == 632


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "num_features", "num_wells"), [("nf1", 1645, 5), ("pediatric_cancer_atlas", 2860, 1)]
)
def test_cells_of_cellprofiler_are_read(
    real_data: Path, caplog: pytest.LogCaptureFixture, folder: str, num_features: int, num_wells: int
) -> None:
    path = real_data / folder / "cells.parquet"
    caplog.set_level(logging.INFO)
    cells = read_profiles(path)
    assert len(cells) == 5
    assert len(cells.drop_duplicates(WELL)) == num_wells
    assert cells["Metadata_Site"].dtype == np.int64
    names = feature_columns(cells)
    assert len(names) == num_features
    assert {"Cells_AreaShape_Area", "Nuclei_Children_Cells_Count", "Cells_Neighbors_NumberOfNeighbors_Adjacent"} <= {
        *names
    }
    groups = {tuple(name.split("_")[:2]) for name in names}
    assert {compartment for compartment, _ in groups} == {"Cells", "Cytoplasm", "Nuclei"}
    assert {group for _, group in groups}.isdisjoint({"Location", "Parent", "Number"})
    assert "Metadata_Cells_Number_Object_Number" in cells
    theirs = pd.read_parquet(path)
    numeric = theirs.select_dtypes("number").columns
    left_out = [name for name in numeric if name not in names and not name.startswith(("Metadata_", "Image_Metadata_"))]
    images = [name for name in theirs.select_dtypes(exclude="number") if name.startswith("Image_")]
    images = [name for name in images if not name.startswith("Image_Metadata_")]
    assert f"{len(left_out) + len(images)} columns describe images or places of objects" in caplog.text


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.promise("Bad input", "Names in a table of profiles stay as they were written.")
def test_names_stay_as_they_were_written_under_any_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "plate,WELL,Compound,Batch,A\n00123,B02,NA,01,1\n00123,B03,0815,01,2\n")
    assert read_profiles(path).to_dict("list") == {
        "Metadata_Plate": ["00123", "00123"],
        "Metadata_Well": ["B02", "B03"],
        "Metadata_Batch": ["01", "01"],
        "Metadata_Compound": ["NA", "0815"],
        "A": [1, 2],
    }
    path = write(
        tmp_path / "b.csv",
        "Image_Metadata_Plate_DAPI,Image_Metadata_Plate_Actin,Image_Metadata_Well_DAPI,Image_Metadata_Dose,Metadata_Dose,A\n"
        "00123,00123,B02,01,02,1\n",
    )
    profiles = read_profiles(path)
    assert profiles.columns.tolist() == [*WELL, "Metadata_Dose", "Metadata_Plate_Actin", "A"]
    assert profiles["Metadata_Dose"].item() == "02"


def test_a_field_is_what_one_says_it_is(tmp_path: Path) -> None:
    text = (
        "Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_pert_iname,Metadata_mmoles_per_liter,ImageNumber,n,A\n"
        "P,B02,BRD-1,taxol,0.3,7,12,1\nP,B03,BRD-2,DMSO,,8,13,2\n"
    )
    path = write(tmp_path / "a.csv", text)
    told = {
        "compound": "Metadata_pert_iname",
        "concentration": "Metadata_mmoles_per_liter",
        "batch": "Metadata_Plate",
        "site": "ImageNumber",
        "num_cells": "n",
    }
    profiles = read_profiles(path, columns=told)
    pd.testing.assert_frame_equal(
        profiles,
        pd.DataFrame(
            {
                "Metadata_Plate": ["P", "P"],
                "Metadata_Well": ["B02", "B03"],
                "Metadata_Batch": ["P", "P"],
                "Metadata_Compound": ["taxol", "DMSO"],
                "Metadata_Concentration": [0.3, np.nan],
                "Metadata_Site": [7, 8],
                "Metadata_NumCells": [12, 13],
                "A": [1, 2],
            }
        ),
        check_dtype=False,
    )
    untold = read_profiles(path)
    assert untold["Metadata_Compound"].tolist() == ["BRD-1", "BRD-2"]
    assert "Metadata_Concentration" not in untold
    assert feature_columns(untold) == ["n", "A"]
    with pytest.raises(SettingsError, match=r"columns: dose is not known\. Expected some of plate, well, batch"):
        read_profiles(path, columns={"dose": "n"})
    with pytest.raises(DataError, match=r"no column Metadata_JCP2022, told as the compound\. Found: Me"):
        read_profiles(path, columns={"compound": "Metadata_JCP2022"})


def test_numbers_that_are_names_are_read_as_names(tmp_path: Path) -> None:
    """A table that went through pandas has its plates as floats where a row once had none."""
    table = pd.DataFrame(
        {
            "Metadata_Plate": [22123.0, 22124.0],
            "Metadata_Well": pd.Categorical(["B02", "B03"]),
            "Metadata_Site": [1.0, 2],
        }
    )
    table = table.assign(Metadata_Batch=[1, 2], A=pd.array([1, None], dtype="Int64"), Metadata_Compound=[None, "a"])
    table.set_index(WELL).to_parquet(tmp_path / "a.parquet")
    profiles = read_profiles(tmp_path / "a.parquet")
    assert profiles["Metadata_Plate"].tolist() == ["22123", "22124"]
    assert profiles["Metadata_Batch"].tolist() == ["1", "2"]
    assert profiles["Metadata_Compound"].tolist() == ["", "a"]
    assert profiles["Metadata_Site"].dtype == np.int64
    assert profiles["A"].dtype == np.float64
    assert profiles["A"].isna().tolist() == [False, True]


def test_features_may_be_called_by_numbers(tmp_path: Path) -> None:
    index = pd.MultiIndex.from_tuples([("P", "B02"), ("P", "B03")], names=WELL)
    pd.DataFrame(np.ones((2, 3)), index=index).to_parquet(tmp_path / "a.parquet")
    assert feature_columns(read_profiles(tmp_path / "a.parquet")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("Metadata_control_type", ["negcon", "poscon_diverse", ""], ["negcon", "poscon", "trt"]),
        ("Metadata_control_type", ["negcon", "trt", ""], ["negcon", "trt", ""]),
        ("Metadata_pert_type", ["negcon", "poscon", "trt"], ["negcon", "poscon", "trt"]),
        ("Metadata_pert_type", ["NegCon", "poscon_cp", "poscon_orf", "TRT"], ["negcon", "poscon", "poscon", "trt"]),
        ("Metadata_pert_type", ["negcon", "trt", "empty", ""], ["negcon", "trt", "empty", ""]),
        ("Metadata_control_type", ["NegCon", "Poscon", "trt"], ["negcon", "poscon", "trt"]),
        ("Metadata_pert_type", ["control", "control", "trt"], None),
    ],
)
def test_control_types_are_jumps(tmp_path: Path, name: str, values: list[str], expected: list[str] | None) -> None:
    rows = [f"P,B{row:02d},{value},{row}" for row, value in enumerate(values)]
    profiles = read_profiles(write(tmp_path / "a.csv", "\n".join([f"Metadata_Plate,Metadata_Well,{name},A", *rows])))
    if expected is None:
        assert profiles["Metadata_pert_type"].tolist() == values
        assert "Metadata_control_type" not in profiles
    else:
        assert profiles["Metadata_control_type"].tolist() == expected


CELLPROFILER = (
    "Metadata_Plate,Metadata_Well,ImageNumber,Plate,Image_Count_Cells,Cells_Parent_Nuclei,Cells_Location_Center_X,A"
)


def test_bookkeeping_of_single_rows_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = read_profiles(
        write(tmp_path / "wells.csv", f"{CELLPROFILER}\nP,B02,1,9,10,4.5,100.5,1\nP,B03,2,9,10,4,90,2\n")
    )
    assert feature_columns(one) == ["Cells_Parent_Nuclei", "Cells_Location_Center_X", "A"]
    assert (
        "3 columns describe images or places of objects, are no features and are left out: ImageNumber" in caplog.text
    )
    several = write(tmp_path / "cells.csv", f"{CELLPROFILER}\nP,B02,1,9,10,4,100.5,1\nP,B02,1,9,10,5,90,2\n")
    assert feature_columns(read_profiles(several)) == ["A"]
    assert "5 columns describe images or places of objects" in caplog.text


def test_columns_that_are_no_features_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.csv", "Metadata_Plate,Metadata_Well,Metadata_Note,A,B\nP,B02,x,1,2\nP,B03,x,3,oops\n")
    assert read_profiles(path).columns.tolist() == [*WELL, "Metadata_Note", "A"]
    assert "columns that are not all numbers are no features: B" in caplog.text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "Metadata_Plate,A,A\nP,1,2\n",
            r"1 column name stands more than once: A\. Expected each once; rename or drop the others",
        ),
        ("Metadata_Plate,A,B, A,B\nP,1,2,3,4\n", r"2 column names stand more than once: A, B"),
        (
            "Metadata_Plate,Position,A\nP,B02,1\n",
            r"no column of the well\. Expected Metadata_Well; if it has another name, tell it: --column well=NAME "
            r"\(in a config, screen\.columns: \{well: NAME\}\)\. Found: Metadata_Plate, Position, A",
        ),
        ("A\n1\n", r"no column of the plate and the well\. Expected Metadata_Plate, Metadata_Well; if"),
        ("Metadata_Plate,Metadata_Well,A\n", r"the table has no rows\. Expected one a well, a site or a cell"),
        (
            "Metadata_Plate,Metadata_Well,ImageNumber\nP,B02,1\n",
            r"no numeric column that could be a feature\. Found: Me",
        ),
        (
            "Metadata_Plate,Metadata_Well,A\nP,B02,1\nP, ,1\n",
            r"Metadata_Well is empty in 1 of 2 rows, first in row 2\. Expected the well of every row",
        ),
        (
            "Plate,Image_Metadata_Plate,Well,A\nP,P,B02,1\nP,Q,B02,1\n",
            r"Plate and Image_Metadata_Plate could both be Metadata_Plate, and differ in 1 of 2 rows\. Name the right "
            r"one: --column plate=NAME",
        ),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_profiles(write(tmp_path / "a.csv", text))


def test_a_parquet_with_two_columns_of_a_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([["P"], ["B"], [1], [2]], names=[*WELL, "A", "A"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: 1 column name stands more than once: A\."):
        read_profiles(tmp_path / "a.parquet")


def test_a_plate_map_is_read(tmp_path: Path) -> None:
    sites = "00123,B02,1,NA,0.30,x\n00123,B02,2,NA,.3,x\n00123,B03,1,DMSO,0,"
    header = "Plate,well,Site,COMPOUND,Metadata_Concentration,moa"
    wells = read_wells(write(tmp_path / "map.csv", f"{header}\n{sites}"))
    assert wells.to_dict("list") == {
        "Metadata_Plate": ["00123", "00123"],
        "Metadata_Well": ["B02", "B03"],
        "Metadata_Compound": ["NA", "DMSO"],
        "Metadata_Concentration": [0.3, 0.0],
    }
    full = "barcode,well,name,dose_uM,week,kind\n7,B02,taxol,1,1,trt\n7,B03,DMSO,,1,negcon\n"
    told = {
        "plate": "barcode", "compound": "name", "concentration": "dose_uM", "batch": "week", "control_type": "kind"
    }  # fmt: skip
    pd.read_csv(write(tmp_path / "full.csv", full)).to_parquet(tmp_path / "full.parquet")
    for name in ("full.csv", "full.parquet"):
        assert read_wells(tmp_path / name, columns=told).to_numpy().tolist() == [
            ["7", "B02", "1", "taxol", 1.0, "trt"],
            ["7", "B03", "1", "DMSO", 0.0, "negcon"],
        ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("plate,well,compound,concentration\n", r"the plate map has no rows\. Expected one a well"),
        (
            "plate,well,compound\nP,B02,a\n",
            r"no column of the concentration\. Expected Metadata_Concentration; if it has",
        ),
        (
            "plate,well,compound,concentration\nP,B02,a,1 uM\n",
            r"concentration is no number of µM in 1 of 1 rows, first in row 1: '1 uM'\. Write 1\.",
        ),
        (
            "plate,well,compound,concentration\nP,B02,a,\n",
            r"concentration is empty in 1 of 1 rows, first in row 1 \(P B02 a\)",
        ),
        ("plate,well,compound,concentration\nP,B02,,1\n", r"none of its 1 wells has a compound \(compound is empty"),
        (
            "plate,well,compound,concentration\nP,B02,a,1\nP,B02,b,1\n",
            r"1 well has more than one treatment, first: P B02 \(a 1 µM and b 1 µM\)\. Expected one compound",
        ),
        ("plate,well,compound,concentration,batch\nP,B02,a,1,1\nP,B02,a,1,2\n", r"P B02 has more than one Batch: 1, 2"),
        (
            "plate,well,compound,concentration,control_type\nP,B02,a,1,x\n",
            r"control_type says x \(1 row\) in 1 of 1 rows, first in row 1\. Expected negcon, poscon, trt or empty",
        ),
        ("plate,well,compound,well,concentration\nP,B02,a,B03,1\n", r"1 column name stands more than once: well"),
    ],
)
def test_wrong_plate_maps_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_wells(write(tmp_path / "map.csv", text))


def test_image_tables_are_told_from_plate_maps(tiny_screen: Path) -> None:
    assert is_image_table(tiny_screen / "image.csv")
    table = pd.read_csv(tiny_screen / "image.csv")
    table.to_csv(tiny_screen / "image.csv.gz", index=False)
    table.to_parquet(tiny_screen / "image.parquet")
    assert is_image_table(tiny_screen / "image.csv.gz")
    assert is_image_table(tiny_screen / "image.parquet")
    (tiny_screen / "bad.parquet").write_bytes(b"x")
    (tiny_screen / "bad.csv.gz").write_bytes(b"x")
    for name in ("locations.csv", "absent.csv", "bad.parquet", "bad.csv.gz"):
        assert not is_image_table(tiny_screen / name)


def test_foreign_profiles_join_their_screen(tiny_screen: Path) -> None:
    path = tiny_screen / "wells.csv.gz"
    table = pd.DataFrame({"Image_Metadata_Plate": ["Week1_101"], "Image_Metadata_Well": ["B03"], "Cells_A": [1.5]})
    table.assign(Metadata_Site=1, Metadata_Compound="?").to_csv(path, index=False)
    screen = read_image_table(tiny_screen / "image.csv")
    wells = join_wells(read_profiles(path), screen, str(path))
    assert wells.columns.tolist() == [*WELL_METADATA, "Cells_A"]
    assert wells[TREATMENT].iloc[0].tolist() == ["NA", 0.3]
    table.assign(Image_Metadata_Well="Z99").to_csv(path, index=False)
    with pytest.raises(DataError, match="1 of 1 wells are not in the screen table, first: Week1_101 Z99"):
        join_wells(read_profiles(path), screen, str(path))


def test_cells_join_their_wells(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    text = "Metadata_Plate,Metadata_Well,Metadata_Site,A\nWeek2_202,B02,2,5\nWeek1_101,B03,1,1\nWeek2_202,B02,1,3\n"
    path = write(tiny_screen / "cells.csv", text)
    cells = join_wells(read_profiles(path), screen, str(path))
    assert cells.columns.tolist() == [*WELL_METADATA, "Metadata_Site", "A"]
    assert cells[["Metadata_Compound", "Metadata_Site", "A"]].to_numpy().tolist() == [
        ["NA", 1, 1], ["DMSO", 2, 5], ["DMSO", 1, 3]
    ]  # fmt: skip
    path.write_text(text.replace("Week1_101,B03", "Week2_202,Z9"))
    with pytest.raises(DataError, match=r"1 of 2 wells are not in the screen table, first: Week2_202 Z9\. Expected"):
        join_wells(read_profiles(path), screen, str(path))
    with pytest.raises(DataError, match=r"its plate map: the well profiles table lacks the columns? Metadata_Batch"):
        join_wells(read_profiles(path), screen.drop(columns="Metadata_Batch"), str(path))


def test_a_folder_of_tables_is_one_table_whichever_plates_they_hold(tmp_path: Path) -> None:
    rows = [f"{plate},{well},{number}.5" for plate in ("1", "2") for number, well in enumerate(("A01", "A02", "A03"))]
    whole = tmp_path / "whole.csv"
    whole.write_text("\n".join(["Metadata_Plate,Metadata_Well,Cells_A", *rows]))
    folder = tmp_path / "plates"
    folder.mkdir()
    for name, part in (("a.csv", rows[:2]), ("b.csv", rows[2:])):  # plate 1 lies in both
        (folder / name).write_text("\n".join(["Metadata_Plate,Metadata_Well,Cells_A", *part]))
    pd.testing.assert_frame_equal(read_profiles(folder), read_profiles(whole))
    (folder / "c.csv").write_text("Metadata_Plate,Metadata_Well,Cells_B\n3,A01,1\n")
    with pytest.raises(DataError, match=r"c\.csv: has other columns than a\.csv beside it, 2 differ: Cells_A, Cells_B"):
        read_profiles(folder)


def write_wells(path: Path, *, wells: int = 8, extra: str = "") -> Path:
    """Write a table of wells, with a position that only a table of wells may keep as a feature."""
    rows = [f"P,B{row:02d},{row}.5,{row}.25" for row in range(wells)]
    return write(path, "\n".join(["Metadata_Plate,Metadata_Well,Cells_Location_Center_X,A", *rows]) + "\n" + extra)


def test_a_copied_row_does_not_make_wells_into_cells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    once = read_profiles(write_wells(tmp_path / "once.csv"))
    twice = read_profiles(
        write_wells(tmp_path / "twice.csv", extra="P,B03,3.50,3.25\nP,B03,3.5,3.25\nP,B01,1.5,1.25\n")
    )
    pd.testing.assert_frame_equal(twice, once)
    assert feature_columns(once) == ["Cells_Location_Center_X", "A"]
    assert "twice.csv: 3 of 11 rows are copies, in every column, of a row above, and left out" in caplog.text
    assert "first row 9 (P B03)" in caplog.text
    assert "once.csv" not in caplog.text


def test_rows_with_gaps_can_be_copies_too(tmp_path: Path) -> None:
    table = pd.DataFrame({"Metadata_Plate": "P", "Metadata_Well": ["A", "A", "B"], "A": [np.nan, np.nan, 1], "B": 1.0})
    table.to_parquet(tmp_path / "a.parquet")
    assert len(read_profiles(tmp_path / "a.parquet")) == 2


def test_a_few_wells_with_several_rows_are_neither_wells_nor_cells(tmp_path: Path) -> None:
    path = write_wells(tmp_path / "a.csv", extra="P,B03,3.5,7\nP,B04,3.5,7\nP,B04,3.5,8\n")
    with pytest.raises(
        DataError,
        match=r"a.csv: 8 wells, of which 2 have rows that differ, first P B03 \(rows 4 and 9, in A\); expected one row "
        r"a well, or several for all \(sites, cells\)\. Leave out .* or name the column .* --column site=NAME",
    ):
        read_profiles(path)


def test_sites_may_be_few_if_they_are_numbered(tmp_path: Path) -> None:
    rows = [f"P,B{row:02d},1,{row}" for row in range(8)]
    path = write(tmp_path / "a.csv", "\n".join(["plate,well,site,A", *rows, "P,B03,2,7"]))
    assert len(read_profiles(path)) == 9
    with pytest.raises(DataError, match=r"8 wells, of which 1 has rows that differ"):
        read_profiles(write(path, path.read_text().replace("P,B03,2,7", "P,B03,1,7")))


@pytest.mark.parametrize("number", ["ObjectNumber", "Metadata_Cells_Number_Object_Number", "Metadata_CellID"])
def test_a_cell_is_one_cell(tmp_path: Path, number: str) -> None:
    path = write(tmp_path / "a.csv", f"Metadata_Plate,Metadata_Well,{number},A\nP,B02,1,1\nP,B02,2,3\nP,B03,3,4\n")
    cells = read_profiles(path)
    assert cells["Metadata_NumCells"].tolist() == [1, 1, 1]
    assert cells.columns[:3].tolist() == [*WELL, "Metadata_NumCells"]
    counted = path.read_text().replace("Well,", "Well,Metadata_Object_Count,").replace("B02,", "B02,5,")
    own = read_profiles(write(path, counted.replace("B03,", "B03,6,")))
    assert own["Metadata_NumCells"].tolist() == [5, 5, 6]


def test_rows_that_may_be_sites_are_not_counted_as_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Metadata_Plate,Metadata_Well,A\nP,B02,1\nP,B02,3\n")
    assert "Metadata_NumCells" not in read_profiles(path)


@pytest.mark.parametrize("found", ["12 cells", "-5", "1.5", "", "inf"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_number_of_cells_is_one(tmp_path: Path, found: str, suffix: str) -> None:
    path = write(tmp_path / "a.csv", f"Metadata_Plate,Metadata_Well,Metadata_NumCells,A\nP,B02,7,1\nP,B03,{found},1\n")
    if suffix == ".parquet":
        pd.read_csv(path).to_parquet(tmp_path / "a.parquet")
    told = {"-5": r"-5(\.0)?", "": "empty", "1.5": r"1\.5"}.get(found, found)
    with pytest.raises(
        DataError,
        match=rf"a{suffix}: Metadata_NumCells is no number of cells in 1 of 2 rows, first in row 2: found '?{told}'?\. "
        r"Expected whole numbers, at least 0",
    ):
        read_profiles(tmp_path / f"a{suffix}")


def test_rows_of_no_cells_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "Metadata_Plate,Metadata_Well,Metadata_NumCells,A\nP,B02,7,1\nP,B03,0,0\nP,B04,5,1\n"
    profiles = read_profiles(write(tmp_path / "a.csv", text))
    assert profiles["Metadata_Well"].tolist() == ["B02", "B04"]
    assert profiles.index.tolist() == [0, 1]
    assert "a.csv: 1 of 3 rows has 0 cells by Metadata_NumCells, first row 2 (P B03)" in caplog.text
    with pytest.raises(DataError, match=r"Metadata_NumCells is 0 in all 3 rows"):
        read_profiles(write(tmp_path / "b.csv", text.replace(",7,", ",0,").replace(",5,", ",0,")))


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_flags_come_back_from_csv(tmp_path: Path, yes: str, no: str) -> None:
    text = f"Metadata_Plate,Metadata_Well,Metadata_FewCells,A\nP,B02,{no},1\nP,B03,{yes},1\n"
    flags = read_profiles(write(tmp_path / "a.csv", text))["Metadata_FewCells"]
    assert flags.dtype == bool
    assert flags.tolist() == [False, True]
    for wrong in ("maybe", ""):
        with pytest.raises(
            DataError, match=r"a.csv: Metadata_FewCells is neither True nor False in 1 of 2 rows, first in row 2: found"
        ):
            read_profiles(write(tmp_path / "a.csv", text.replace(yes, wrong)))


def test_flags_that_are_flags_stay(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"Metadata_Plate": "P", "Metadata_Well": ["A", "B"], "Metadata_FewCells": [True, False], "A": 1}
    )
    table.to_parquet(tmp_path / "a.parquet")
    assert read_profiles(tmp_path / "a.parquet")["Metadata_FewCells"].tolist() == [True, False]


def test_unknown_perturbations_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "Metadata_Plate,Metadata_Well,Metadata_pert_type,A\nP,B02,control,1\nP,B03,control,2\nP,B04,trt,3\n"
    profiles = read_profiles(write(tmp_path / "a.csv", rows))
    assert "Metadata_control_type" not in profiles
    assert "a.csv: Metadata_pert_type says control (2 rows)" in caplog.text
    assert "--column control_type=NAME" in caplog.text
    assert "--set 'screen.controls=[NAME]'" in caplog.text


JUMP = """Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_Concentration,Metadata_pert_type,A
P,A01,water,,negcon,1
P,A02,taxol,1,poscon_cp,2
P,A03,,,empty,3
P,A04,,,trt,4
P,A05,nothing,,empty,5
P,A06,a,2,trt,6
P,A07,DMSO,,trt,7
"""


def test_empty_wells_are_left_out_and_untreated_ones_have_no_dose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(io.StringIO(JUMP)).assign(Metadata_Site=1, Metadata_NumCells=9)
    path = tmp_path / "a.csv"
    pd.concat([table, table[:1]]).to_csv(path, index=False)
    assert len(read_profiles(path)) == 7  # a plate map may know better
    profiles = read_profiles(path, controls=["DMSO"])
    assert profiles["Metadata_Well"].tolist() == ["A01", "A02", "A06", "A07"]
    assert profiles["Metadata_Concentration"].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert profiles["Metadata_Site"].dtype == profiles["Metadata_NumCells"].dtype == np.int64
    assert "a.csv: 3 of 7 wells are empty (no Metadata_Compound, or empty by Metadata_pert_type)" in caplog.text
    assert "first in row 3 (P A03)" in caplog.text
    assert profiles.index.tolist() == [0, 1, 2, 3]


def test_controls_without_a_name_are_called_by_their_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """JUMP's pilot marks its DMSO wells as negcon and leaves their compound empty."""
    path = write(tmp_path / "a.csv", JUMP.replace("water", ""))
    profiles = read_profiles(path, controls=["DMSO"])
    assert profiles["Metadata_Compound"].tolist() == ["negcon", "taxol", "a", "DMSO"]
    assert "a.csv: 1 of 7 rows is marked negcon and has no Metadata_Compound; it is called negcon" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "a,2",
            "a,0.3 uM",
            r"a.csv: Metadata_Concentration is no number of µM in 1 of 4 rows, first in row 6: '0\.3 uM'\. Write 0\.3",
        ),
        ("a,2", "a,300 nM", r"first in row 6: '300 nM'\. Write 0\.3"),
        ("a,2", '"a","0,3"', r"first in row 6: '0,3'\. Write 0\.3"),
        ("a,2", "a,high", r"first in row 6: 'high'\. Expected"),
        ("a,2", "a,-1", r"first in row 6: '-1'\. Expected"),
        (
            "a,2",
            "a,",
            r"a.csv: Metadata_Concentration is empty in 1 of 4 rows, first in row 6 \(P A06 a\)\. Expected a number of "
            r"µM; where a is untreated, say so: --set 'screen.controls=\[a\]'",
        ),
        ("2,trt", "2,other", r"a.csv: Metadata_control_type says other \(1 row\) in 1 of 4 rows, first in row 6"),
        ("2,trt", "2,", r"a.csv: Metadata_control_type says nothing \(1 row\) in 1 of 4 rows, first in row 6"),
    ],
)
def test_what_a_table_tells_of_its_treatments_is_checked(tmp_path: Path, old: str, new: str, match: str) -> None:
    text = JUMP.replace("pert_type", "control_type").replace(old, new)
    with pytest.raises(DataError, match=match):
        read_profiles(write(tmp_path / "a.csv", text), controls=["DMSO"])


def test_messages_name_the_tables_own_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", JUMP.replace("Metadata_Concentration", "dose").replace("a,2", "a,"))
    with pytest.raises(DataError, match=r"dose is empty in 1 of 4 rows"):
        read_profiles(path, columns={"concentration": "dose"}, controls=["DMSO"])
    empty = "Metadata_Plate,Metadata_Well,pert,A\nP,A01,,1\n"
    with pytest.raises(DataError, match=r"none of its 1 wells has a compound \(pert is empty"):
        read_profiles(write(path, empty), columns={"compound": "pert"}, controls=["DMSO"])


def test_wells_that_a_plate_map_knows_as_empty_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wells = read_wells(write(tmp_path / "map.csv", JUMP), controls=["DMSO"])
    assert wells["Metadata_Compound"].tolist() == ["water", "taxol", "", "", "", "a", "DMSO"]
    assert wells["Metadata_Concentration"].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    profiles = read_profiles(write_wells(tmp_path / "a.csv").parent / "a.csv")
    profiles = profiles.assign(Metadata_Well=[f"A{row:02d}" for row in range(1, 9)]).iloc[:7]
    joined = join_wells(profiles, wells.assign(Metadata_Batch="1"), "a.csv")
    assert joined["Metadata_Well"].tolist() == ["A01", "A02", "A06", "A07"]
    assert "a.csv: 3 of 7 wells are empty by the plate map and left out, first: P A03" in caplog.text
    with pytest.raises(DataError, match=r"none of its 1 wells has a compound by the plate map"):
        join_wells(profiles.iloc[2:3], wells.assign(Metadata_Batch="1"), "a.csv")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_of_many_features_is_one_piece(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(4, 400)), columns=[f"Cells_{number}" for number in range(400)])
    table = pd.concat([pd.DataFrame({"Metadata_Plate": "P", "Metadata_Well": list("ABCD")}), table], axis=1)
    if name.endswith("csv"):
        table.to_csv(tmp_path / name, index=False)
    else:
        table.to_parquet(tmp_path / name)
    profiles = read_profiles(tmp_path / name)
    profiles["Cells_new"] = 1.0  # pandas warns of a table in pieces
    assert profiles.shape == (4, 403)


def test_cells_that_nothing_numbers_may_be_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wells = [f"A{number:02d}" for number in range(1, 5) for _ in range(50)]
    table = pd.DataFrame({"Metadata_Plate": "1", "Metadata_Well": wells, "Cells_A": rng.integers(0, 2, 200)})
    table.to_csv(tmp_path / "cells.csv", index=False)
    assert len(read_profiles(tmp_path / "cells.csv")) == 200
    # numbered, a row that is there twice is a copy
    table.assign(ObjectNumber=list(range(50)) * 4).iloc[[*range(200), 7]].to_csv(tmp_path / "numbered.csv", index=False)
    assert len(read_profiles(tmp_path / "numbered.csv")) == 200
