"""BBBC021's image table, the seed's single-cell table and mechanisms."""

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.data.readers.bbbc021 import find_images, read_image_table
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.data.screen import read_any_table, read_mechanisms, read_texts
from cytoclr.errors import DataError
from cytoclr.tables import TREATMENT, WELL, feature_columns


@pytest.mark.real_data
def test_the_official_tables_have_the_published_facts(real_data: Path) -> None:
    folder = real_data / "bbbc021" / "metadata"
    screen = read_image_table(folder / "BBBC021_v1_image.csv.gz", positive_controls=("taxol",))
    mechanisms = read_mechanisms(folder / "BBBC021_v1_moa.csv")
    assert len(screen) == 13_200
    assert len(screen.drop_duplicates(WELL)) == 3_300
    assert screen["Metadata_Plate"].nunique() == 55
    assert screen["Metadata_Batch"].nunique() == 10
    treated = mechanisms[mechanisms["Metadata_Compound"] != "DMSO"]
    assert len(treated) == 103
    assert treated["Metadata_Compound"].nunique() == 38
    assert treated["Metadata_MoA"].nunique() == 12
    wells = screen.drop_duplicates(WELL).merge(treated, on=TREATMENT)
    assert wells.groupby(TREATMENT).size().value_counts().to_dict() == {3: 95, 2: 7, 333: 1}
    weeks = wells.groupby("Metadata_MoA")["Metadata_Batch"].unique()
    assert {name: list(found) for name, found in weeks.items() if len(found) == 1} == {
        "Cholesterol-lowering": ["Week9"],
        "Kinase inhibitors": ["Week7"],
    }


def test_names_stay_texts_and_controls_are_marked(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv", positive_controls=("NA",))
    assert screen["Metadata_Compound"].unique().tolist() == ["DMSO", "NA"]
    assert screen.drop_duplicates("Metadata_Well")["Metadata_control_type"].tolist() == ["negcon", "poscon"]
    assert screen["Metadata_Batch"].unique().tolist() == ["Week1", "Week2"]
    assert screen["Path_DAPI"].iloc[0] == "Week1/Week1_101/Week1_101_B02_s1_w1.tif"


def edit(path: Path, **changes: tuple[int, str]) -> Path:
    """Change single cells of a table: column=(row, value)."""
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    for column, (row, value) in changes.items():
        table.loc[row, column] = value
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"Image_Metadata_Compound": (1, "taxol")},
            r"1 well has more than one treatment, first: Week1_101 B02 \(DMSO and taxol\)",
        ),
        ({"Image_FileName_DAPI": (3, "a.tif")}, r"row 4: no site number in the file name 'a.tif'"),
        (
            {"Image_FileName_Tubulin": (0, "Week1_101_B02_s1_w1.tif")},
            r"Week1/Week1_101/Week1_101_B02_s1_w1.tif stands in row 1 DAPI, row 1 Tubulin\. Expected one of its own",
        ),
        ({"Image_FileName_DAPI": (1, "x_s1_w1.tif")}, r"rows 1 and 2 have the same Plate, Well, Site"),
        ({"Image_Metadata_Plate_DAPI": (0, "plate")}, r"the batch of plate 'plate' is not found by batch_pattern"),
        ({"Image_Metadata_Concentration": (0, "10 uM")}, r"found '10 uM', expected a number µM"),
    ],
)
def test_a_wrong_image_table_is_refused(tiny_screen: Path, changes: dict, match: str) -> None:
    path = edit(tiny_screen / "image.csv", **changes)
    with pytest.raises(DataError, match=match):
        read_image_table(path)


def test_spaces_around_a_name_are_no_part_of_it(tiny_screen: Path) -> None:
    path = edit(tiny_screen / "image.csv", Image_Metadata_Compound=(0, " DMSO "))
    assert read_image_table(path)["Metadata_control_type"].iloc[0] == "negcon"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a;b\n1;2,5\n", "separated by semicolons. Expected commas"),
        (b"a;b\n1;2\n", "separated by semicolons. Expected commas"),
        (b"a\tb\n1\t2\n", "separated by tabs"),
        (b"a,b\n0,30,x\n", r"more cells than its header has names \(2\)"),
        ("a,b\ncafé,1\n".encode("cp1252"), "not UTF-8 text .* Save it as CSV UTF-8"),
    ],
)
def test_other_kinds_of_csv_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_texts(path)


def test_damaged_and_other_archives_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n3,4\n" * 40)
    for name, content in {"a.csv.gz": whole[:16] + bytes(12) + whole[28:], "a.csv.zip": b"PK\x03\x04\xff"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(name)):
            read_texts(path)
    parquet = tmp_path / "a.parquet"
    parquet.write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet table") as caught:
        read_any_table(parquet)
    assert "Delete it" not in str(caught.value)


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["1"], "b": ["2"]}).to_csv(tmp_path / "index.csv")
    assert list(read_texts(tmp_path / "index.csv").columns) == ["a", "b"]


def test_metadata_stay_texts_and_empty_cells_do_not_make_a_feature_a_text(tmp_path: Path) -> None:
    path = tmp_path / "wells.csv"
    path.write_text("Metadata_Plate,Metadata_Well,A,B,C,D\n00123,B02,1,NA,,x\n00123,B03,2,3,,4\n")
    table = read_any_table(path)
    assert table["Metadata_Plate"].tolist() == ["00123", "00123"]
    assert feature_columns(table) == ["A", "B"]


def test_missing_files_stop_or_are_listed(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    (tiny_screen / "images/Week1/Week1_101/Week1_101_B02_s2_w2.tif").unlink()
    with pytest.raises(DataError, match=r"1 of 8 sites lack an image file, first: Week1_101 B02 s2 \(Tubulin\)"):
        find_images(screen, tiny_screen / "images", skip_missing=False)
    found, left_out = find_images(screen, tiny_screen / "images", skip_missing=True)
    assert len(found) == 7
    assert left_out.iloc[0].tolist() == ["Week1_101", "B02", 2, "no image file: Tubulin"]


def test_images_may_lie_in_the_plates_folder_alone(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv", plates=["Week2_202"])
    found, _ = find_images(screen, tiny_screen / "images" / "Week2", skip_missing=False)
    assert len(found) == 4


def test_images_may_lie_in_the_images_folder_itself(tiny_screen: Path) -> None:
    table = pd.read_csv(tiny_screen / "image.csv", dtype="str", keep_default_na=False)
    table.assign(Image_PathName_DAPI="", Image_PathName_Tubulin=".").to_csv(tiny_screen / "flat.csv", index=False)
    for path in (tiny_screen / "images").rglob("*.tif"):
        path.rename(tiny_screen / "images" / path.name)
    found, _ = find_images(read_image_table(tiny_screen / "flat.csv"), tiny_screen / "images", skip_missing=False)
    assert len(found) == 8


def test_a_folder_is_no_image(tiny_screen: Path) -> None:
    table = edit(tiny_screen / "image.csv", Image_FileName_Tubulin=(0, ""))
    edit(table, Image_FileName_Tubulin=(1, ""), Image_PathName_Tubulin=(1, ""))
    _, left_out = find_images(read_image_table(table), tiny_screen / "images", skip_missing=True)
    assert left_out["reason"].tolist() == ["no image file: Tubulin"] * 2


@pytest.mark.parametrize("folder", ["../..", "/etc", "C:/images", "a/../../b"])
def test_paths_cannot_leave_the_images_folder(tiny_screen: Path, folder: str) -> None:
    screen = read_image_table(edit(tiny_screen / "image.csv", Image_PathName_DAPI=(0, folder)))
    with pytest.raises(DataError, match="leaves the images' folder"):
        find_images(screen, tiny_screen / "images", skip_missing=True)


def test_no_image_at_all_is_an_error_even_when_skipping(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    (tiny_screen / "empty").mkdir()
    with pytest.raises(DataError, match="None of the 8 sites has all its image files"):
        find_images(screen, tiny_screen / "empty", skip_missing=True)


def test_an_unknown_plate_is_named(tiny_screen: Path) -> None:
    with pytest.raises(DataError, match=r"no plate Week3\. Known plates: Week1_101, Week2_202"):
        read_image_table(tiny_screen / "image.csv", plates=["Week3"])


def test_mechanisms_are_read_under_any_prefix(tmp_path: Path) -> None:
    path = tmp_path / "moa.csv"
    path.write_text(
        '\ufeffMetadata_Compound,Image_Metadata_Concentration,MoA\n"mevinolin/lovastatin",5,"Cholesterol"\n'
    )
    assert read_mechanisms(path).iloc[0].tolist() == ["mevinolin/lovastatin", 5.0, "Cholesterol"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("compound,concentration,moa\n", "the mechanism table has no rows"),
        ("", "empty"),
        ("compound,dose,moa\na,1,b\n", "expected one column concentration, the table has none"),
        ("compound,concentration,moa,Mechanism\na,1,b,c\n", r"several columns that could be it \(moa, Mechanism\)"),
        ("compound,concentration,moa\na,1,b\na,1.0,c\n", "rows 1 and 2 have the same Compound, Concentration"),
    ],
)
def test_a_wrong_mechanism_table_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "moa.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_mechanisms(path)


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    (tmp_path / "sc-metadata.csv").write_text(
        "Image_Name,Class_Name,Target\nWeek1_1-B02-s1-3.png,DMSO_0.0,0\nWeek1_1-B03-s2-11.png,NA_0.3,1\n"
    )
    return tmp_path


def test_the_single_cell_table_is_taken_apart(strips: Path) -> None:
    cells = read_single_cells(strips / "sc-metadata.csv", controls=("DMSO",))
    assert cells["Metadata_CellID"].tolist() == ["Week1_1_B02_1_3", "Week1_1_B03_2_11"]
    assert cells["Metadata_control_type"].tolist() == ["negcon", "trt"]
    assert cells["Metadata_Concentration"].tolist() == [0.0, 0.3]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("Week1_1-B02-s1-3", "Week1", r"Image_Name cannot be read in 1 of 2 rows, first in row 1: found 'Week1.png'"),
        ("NA_0.3", "NA", r"Class_Name cannot be read .* expected compound_concentration"),
        ("0.3,1", "0.3,0", r"Target '0' stands with Class_Name DMSO_0.0, NA_0.3"),
        ("B03-s2-11", "B02-s1-3", r"same CellID"),
        ("B03-s2-11", "B02-s2-11", r"1 well has more than one treatment"),
        ("Class_Name", "Klass", r"lacks Class_Name"),
    ],
)
def test_a_wrong_single_cell_table_is_refused(strips: Path, old: str, new: str, match: str) -> None:
    path = strips / "sc-metadata.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=match):
        read_single_cells(path, controls=("DMSO",))


def test_missing_strips_stop_or_are_listed(strips: Path) -> None:
    cells = read_single_cells(strips / "sc-metadata.csv", controls=("DMSO",))
    (strips / "Week1_1-B02-s1-3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 crops have no image file, first: Week1_1-B03-s2-11.png"):
        find_strips(cells, strips, skip_missing=False)
    found, left_out = find_strips(cells, strips, skip_missing=True)
    assert len(found) == len(left_out) == 1
