"""LoadData tables: as CellProfiler, JUMP and the Gallery write them; paths of other machines; cell centres."""

import gzip
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy

from cytoclr.data.readers.loaddata import list_sources, read_cell_locations, read_loaddata
from cytoclr.errors import DataError, SettingsError
from cytoclr.tables import LOCATIONS, SITE

THERE = "/home/ubuntu/bucket/projects/2018_jump/source_4/images/2021_Batch1/images"
FOLDER = "BR00126114__2021-08-23-Measurement1/Images"


def jump_rows() -> list[dict[str, str]]:
    """Two wells of two sites, two channels, as JUMP's load_data_with_illum.csv tells them."""
    rows = []
    for well, number in (("B03", "r02c03"), ("A01", "r01c01")):
        for site in (2, 1):
            row = {"Metadata_Plate": "BR00126114", "Metadata_Well": well, "Metadata_Site": str(site)}
            for place, channel in enumerate(("DNA", "AGP"), start=1):
                row[f"FileName_Orig{channel}"] = f"{number}f{site:02d}p01-ch{place}sk1fk1fl1.tiff"
                row[f"PathName_Orig{channel}"] = f"{THERE}/{FOLDER}/"
                row[f"FileName_Illum{channel}"] = f"BR00126114_Illum{channel}.npy"
                row[f"PathName_Illum{channel}"] = f"{THERE.removesuffix('images')}illum/BR00126114"
            rows.append(row)
    return rows


def make_files(images: Path, rows: list[dict[str, str]], levels: int = 3) -> None:
    """Make every file the rows name, under `images`, with the last few folders of its path."""
    for row in rows:
        for name in row:
            if name.startswith("FileName_"):
                folder = row[name.replace("FileName", "PathName")].strip("/").split("/")[-levels:]
                path = images.joinpath(*folder, row[name])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def write(path: Path, rows: list[dict[str, str]]) -> str:
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def jump(tmp_path: Path) -> tuple[str, Path]:
    """A table with paths of another machine, and the files beside."""
    make_files(tmp_path / "here", jump_rows())
    return write(tmp_path / "load_data_with_illum.csv", jump_rows()), tmp_path / "here"


def test_paths_of_another_machine_are_found_by_their_ends(jump: tuple[str, Path]) -> None:
    table, images = jump
    sites, left_out = read_loaddata(table, images=str(images))
    assert list(sites[SITE].itertuples(index=False, name=None)) == [
        ("BR00126114", "A01", 1),
        ("BR00126114", "A01", 2),
        ("BR00126114", "B03", 1),
        ("BR00126114", "B03", 2),
    ]
    assert left_out.empty
    paths = [name for name in sites if name.startswith(("Path_", "Illum_"))]
    assert paths == ["Path_AGP", "Path_DNA", "Illum_AGP", "Illum_DNA"]
    assert sites["Path_DNA"][0] == str(images / "images" / FOLDER / "r01c01f01p01-ch1sk1fk1fl1.tiff")
    assert all(Path(place).is_file() for place in sites[paths].to_numpy().ravel())


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_however_much_of_the_path_was_kept(tmp_path: Path, levels: int) -> None:
    make_files(tmp_path / "here", jump_rows(), levels)
    sites, _ = read_loaddata(write(tmp_path / "t.csv", jump_rows()), images=str(tmp_path / "here"))
    assert all(Path(place).is_file() for place in sites["Path_AGP"])


def test_a_longer_end_comes_first(jump: tuple[str, Path]) -> None:
    table, images = jump
    (images / "Images").mkdir()
    (images / "Images" / "r01c01f01p01-ch1sk1fk1fl1.tiff").touch()
    sites, _ = read_loaddata(table, images=str(images))
    assert "BR00126114__2021" in sites["Path_DNA"][0]


def test_a_path_that_stands_is_taken_as_it_is_unless_a_folder_is_told(jump: tuple[str, Path], tmp_path: Path) -> None:
    _, images = jump
    rows = [
        row | {name: row[name].replace(THERE.removesuffix("images"), f"{images}/") for name in row}
        for row in jump_rows()
    ]
    table = write(tmp_path / "t.csv", rows)
    sites, _ = read_loaddata(table)
    assert sites["Path_DNA"][0] == str(images / "images" / FOLDER / "r01c01f01p01-ch1sk1fk1fl1.tiff")
    elsewhere = tmp_path / "elsewhere"
    make_files(elsewhere, jump_rows())
    again, _ = read_loaddata(table, images=str(elsewhere))
    assert again["Path_DNA"][0] == str(elsewhere / "images" / FOLDER / "r01c01f01p01-ch1sk1fk1fl1.tiff")


def test_windows_paths(jump: tuple[str, Path], tmp_path: Path) -> None:
    _, images = jump
    rows = [
        row | {name: "D:\\data" + row[name].replace("/", "\\") for name in row if name.startswith("PathName")}
        for row in jump_rows()
    ]
    sites, _ = read_loaddata(write(tmp_path / "t.csv", rows), images=str(images))
    assert all(Path(place).is_file() for place in sites["Path_DNA"])


def test_relative_paths_lie_beside_the_table(tmp_path: Path) -> None:
    rows = [row | {name: "raw" for name in row if name.startswith("PathName")} for row in jump_rows()]
    make_files(tmp_path, rows)
    sites, _ = read_loaddata(write(tmp_path / "t.csv", rows))
    assert sites["Path_DNA"][0] == str(tmp_path / "raw" / "r01c01f01p01-ch1sk1fk1fl1.tiff")


def as_urls(rows: list[dict[str, str]], start: str) -> list[dict[str, str]]:
    urls = []
    for row in rows:
        named = {name: row[name] for name in row if name.startswith("Metadata_")}
        for name in row:
            if name.startswith("FileName_"):
                folder = row[name.replace("FileName", "PathName")].rstrip("/")
                named[name.replace("FileName", "URL")] = f"{start}{folder}/{row[name]}"
        urls.append(named)
    return urls


@pytest.mark.parametrize("start", ["s3://cellpainting-gallery", "https://cellpainting-gallery.s3.amazonaws.com"])
def test_urls_stand_and_are_not_asked_for(tmp_path: Path, start: str) -> None:
    sites, left_out = read_loaddata(write(tmp_path / "t.csv", as_urls(jump_rows(), start)))
    assert sites["Path_DNA"][0] == f"{start}{THERE}/{FOLDER}/r01c01f01p01-ch1sk1fk1fl1.tiff"
    assert sites["Illum_DNA"][0].endswith("illum/BR00126114/BR00126114_IllumDNA.npy")
    assert left_out.empty


def test_folders_that_are_urls_as_in_jump(tmp_path: Path) -> None:
    rows = [
        row | {name: f"s3://gallery{row[name]}" for name in row if name.startswith("PathName")} for row in jump_rows()
    ]
    sites, _ = read_loaddata(write(tmp_path / "t.csv", rows))
    assert sites["Path_DNA"][0] == f"s3://gallery{THERE}/{FOLDER}/r01c01f01p01-ch1sk1fk1fl1.tiff"


@pytest.mark.parametrize("start", ["s3://gallery", "https://gallery.s3.amazonaws.com", "file:", "file://"])
def test_urls_are_found_in_a_copy(jump: tuple[str, Path], tmp_path: Path, start: str) -> None:
    _, images = jump
    sites, _ = read_loaddata(write(tmp_path / "t.csv", as_urls(jump_rows(), start)), images=str(images))
    assert all(Path(place).is_file() for place in sites["Path_DNA"])


def test_file_urls_are_paths(jump: tuple[str, Path], tmp_path: Path) -> None:
    _, images = jump
    (images / "images").rename(images / "two words")
    rows = [
        row
        | {
            name: row[name].replace(THERE, f"{images}/two%20words").replace(THERE.removesuffix("images"), f"{images}/")
            for name in row
        }
        for row in jump_rows()
    ]
    sites, _ = read_loaddata(write(tmp_path / "t.csv", as_urls(rows, "file://")))
    assert sites["Path_DNA"][0].startswith(f"{images}/two words/")


@pytest.mark.parametrize("kind", ["csv.gz", "parquet", "prefixed"])
def test_the_same_table_in_other_forms(jump: tuple[str, Path], tmp_path: Path, kind: str) -> None:
    table, images = jump
    frame = pd.DataFrame(jump_rows())
    path = tmp_path / f"other.{'csv' if kind == 'prefixed' else kind}"
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(Path(table).read_bytes()))
    elif kind == "parquet":
        frame.assign(Metadata_Site=frame["Metadata_Site"].astype(float), Cells_Area=1.5).to_parquet(path)
    else:
        frame.rename(columns=lambda name: f"Image_{name}").to_csv(path, index=False)
    pd.testing.assert_frame_equal(
        read_loaddata(str(path), images=str(images))[0], read_loaddata(table, images=str(images))[0]
    )


@pytest.mark.parametrize(
    ("row", "column", "well"), [("B", "3", "B03"), ("2", "03", "B03"), ("27", "48", "AA48"), ("2.0", "3.0", "B03")]
)
def test_wells_by_row_and_column(tmp_path: Path, row: str, column: str, well: str) -> None:
    rows = [
        {
            "metadata_plate": "P1",
            "Metadata_Row": row,
            "Metadata_col": column,
            "METADATA_SITE": "1",
            "URL_DNA": "s3://b/x.tif",
        }
    ]
    sites, _ = read_loaddata(write(tmp_path / "t.csv", rows))
    assert sites["Metadata_Well"].tolist() == [well]


@pytest.mark.parametrize(("dna", "agp"), [("OrigDNA", "AGP"), ("DNA", "OrigAGP")])
def test_channels_by_their_tokens_in_the_order_wanted(jump: tuple[str, Path], dna: str, agp: str) -> None:
    table, images = jump
    sites, _ = read_loaddata(table, images=str(images), channels={"Nuclei": dna, "Golgi": agp})
    names = [name for name in sites if name.startswith(("Path_", "Illum_"))]
    assert names == ["Path_Nuclei", "Path_Golgi", "Illum_Nuclei", "Illum_Golgi"]
    assert "ch1" in sites["Path_Nuclei"][0]
    assert sites["Illum_Golgi"][0].endswith("IllumAGP.npy")


def test_corrected_images_are_not_corrected_again(tmp_path: Path) -> None:
    row = {"Metadata_Plate": "P1", "Metadata_Well": "A01", "Metadata_Site": "1"}
    rows = [row | {f"URL_{token}": f"s3://b/{token}.tif" for token in ("CorrDNA", "OrigDNA", "IllumDNA", "Outlines")}]
    table = write(tmp_path / "t.csv", rows)
    sites, _ = read_loaddata(table)
    assert [name for name in sites if name.startswith(("Path", "Illum"))] == ["Path_DNA", "Illum_DNA"]
    assert sites["Path_DNA"][0] == "s3://b/OrigDNA.tif"
    sites, _ = read_loaddata(table, channels={"DNA": "CorrDNA"})
    assert [name for name in sites if name.startswith(("Path", "Illum"))] == ["Path_DNA"]


def test_planes_of_a_file_of_several(tmp_path: Path) -> None:
    row = {"Metadata_Plate": "P1", "Metadata_Well": "A01", "Metadata_Site": "1"}
    for plane, channel in enumerate(("DNA", "ER")):
        row |= {f"URL_{channel}": "s3://b/x.tif", f"Frame_{channel}": str(plane), f"Series_{channel}": "0"}
    sites, _ = read_loaddata(write(tmp_path / "t.csv", [row]))
    assert sites[["Plane_DNA", "Plane_ER"]].to_numpy().tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"Series_DNA is '2' in row 1; 1 of 1 rows are concerned. Expected the first"):
        read_loaddata(write(tmp_path / "t.csv", [row | {"Series_DNA": "2"}]))
    with pytest.raises(DataError, match=r"Frame_ER is 'x' in row 1"):
        read_loaddata(write(tmp_path / "t.csv", [row | {"Frame_ER": "x"}]))


def test_missing_files_are_left_out_or_refused(jump: tuple[str, Path]) -> None:
    table, images = jump
    (images / "images" / FOLDER / "r02c03f01p01-ch2sk1fk1fl1.tiff").unlink()
    with pytest.raises(DataError, match=r"1 of 4 sites lack a file, first: BR00126114 B03 s1 \(no image file: AGP\)"):
        read_loaddata(table, images=str(images))
    sites, left_out = read_loaddata(table, images=str(images), skip_missing=True)
    assert len(sites) == 3
    assert left_out.to_dict("records") == [
        dict(zip(SITE, ("BR00126114", "B03", 1), strict=True)) | {"reason": "no image file: AGP"}
    ]
    with pytest.raises(
        DataError, match=r"None of the 4 sites has all its files .* The table says /home/ubuntu/"
    ) as refused:
        read_loaddata(table, skip_missing=True)
    assert refused.value.code == "IMG001"


def test_an_empty_name_is_a_missing_file(jump: tuple[str, Path], tmp_path: Path) -> None:
    rows = jump_rows()
    rows[0]["FileName_OrigDNA"] = ""
    _, left_out = read_loaddata(write(tmp_path / "t.csv", rows), images=str(jump[1]), skip_missing=True)
    assert left_out["reason"].tolist() == ["no image file: DNA"]


def test_illumination_functions_that_are_nowhere(jump: tuple[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    table, images = jump
    for function in images.rglob("*.npy"):
        function.unlink()
    sites, _ = read_loaddata(table, images=str(images))
    assert not [name for name in sites if name.startswith("Illum_")]
    assert re.search("the illumination functions of AGP, DNA are in none", caplog.text)


def test_an_illumination_function_that_is_missing_for_a_plate(tmp_path: Path) -> None:
    other = [{name: value.replace("BR00126114", "BR00126115") for name, value in row.items()} for row in jump_rows()]
    make_files(tmp_path / "here", jump_rows() + other)
    next((tmp_path / "here").rglob("BR00126115_IllumDNA.npy")).unlink()
    table = write(tmp_path / "t.csv", jump_rows() + other)
    with pytest.raises(DataError, match=r"4 of 8 sites lack a file.*no illumination function: DNA") as refused:
        read_loaddata(table, images=str(tmp_path / "here"))
    assert refused.value.code == "IMG012"
    sites, left_out = read_loaddata(table, images=str(tmp_path / "here"), skip_missing=True)
    assert (len(sites), len(left_out)) == (4, 4)


def test_plates(jump: tuple[str, Path]) -> None:
    table, images = jump
    assert len(read_loaddata(table, images=str(images), plates=["BR00126114"])[0]) == 4
    with pytest.raises(DataError, match=r"no plate BR9. Known plates: BR00126114") as refused:
        read_loaddata(table, images=str(images), plates=["BR9"])
    assert refused.value.code == "META008"


def test_without_a_plate_map_nothing_is_known(jump: tuple[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    sites, _ = read_loaddata(jump[0], images=str(jump[1]))
    assert set(sites["Metadata_Compound"]) == {"unknown"}
    assert "META013" in caplog.text


def test_a_plate_map_tells_the_treatments(jump: tuple[str, Path], tmp_path: Path) -> None:
    wells = pd.DataFrame({"well": ["a1", "B3"], "compound": ["DMSO", "taxol"], "dose": [0, 0.3]})
    wells.to_csv(tmp_path / "map.csv", index=False)
    sites, _ = read_loaddata(
        jump[0], images=str(jump[1]), metadata=tmp_path / "map.csv", columns={"concentration": "dose"}
    )
    assert sites["Metadata_control_type"].tolist() == ["negcon", "negcon", "trt", "trt"]


def treated_rows() -> list[dict[str, str]]:
    treatments = {"A01": {"Metadata_Compound": "DMSO", "Metadata_Concentration": ""}, "B03": {}}
    treated = {"Metadata_Compound": "NA", "Metadata_Concentration": "0.3"}
    return [
        row | treated | treatments[row["Metadata_Well"]] | {"Metadata_Batch": "Batch7"}
        for row in as_urls(jump_rows(), "s3://b")
    ]


def test_the_table_itself_tells_the_treatments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sites, _ = read_loaddata(write(tmp_path / "t.csv", treated_rows()))
    assert sites["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "NA", "NA"]
    assert sites["Metadata_Concentration"].tolist() == [0, 0, 0.3, 0.3]
    assert sites["Metadata_control_type"].tolist() == ["negcon", "negcon", "trt", "trt"]
    assert set(sites["Metadata_Batch"]) == {"Batch7"}
    rows = [{name: value for name, value in row.items() if "Concentration" not in name} for row in treated_rows()]
    caplog.clear()
    sites, _ = read_loaddata(write(tmp_path / "t.csv", rows))
    assert set(sites["Metadata_Concentration"]) == {0}
    assert "tells compounds, but no concentrations" in caplog.text


def test_an_empty_well_is_left_out(tmp_path: Path) -> None:
    rows = treated_rows()
    for row in rows[:2]:
        row["Metadata_Compound"] = ""
    sites, left_out = read_loaddata(write(tmp_path / "t.csv", rows))
    assert (len(sites), left_out["reason"].tolist()) == (2, ["empty well on the plate map"] * 2)


Change = Callable[[list[dict[str, str]]], Any]


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        (
            lambda rows: rows[1].update(Metadata_Site="2"),
            r"BR00126114 B03 s2 stands in rows 1 and 2; 2 of 4",
            "META005",
        ),
        (
            lambda rows: rows[1].update(Metadata_Well="b3", Metadata_Site="2"),
            r"BR00126114 B03 s2 stands in rows 1 and 2",
            "META005",
        ),
        (
            lambda rows: rows[2].update(Metadata_Well=""),
            r"Metadata_Well is empty in 1 of 4 rows, first in row 3",
            "META003",
        ),
        (
            lambda rows: rows[3].update(Metadata_Site=""),
            r"Metadata_Site is empty in 1 of 4 rows, first in row 4",
            "META003",
        ),
        (lambda rows: [row.pop("Metadata_Site") for row in rows], r"no column of the site. Expected Meta", "META002"),
        (lambda rows: [row.pop("Metadata_Well") for row in rows], r"no column of the well", "META002"),
        (
            lambda rows: [row.pop(name) for row in rows for name in list(row) if name.startswith("FileName_Orig")],
            r"names no images. Expected columns FileName_<channel> and PathName_<channel>, or URL_<channel>",
            "META002",
        ),
        (
            lambda rows: rows[1].update(FileName_OrigDNA=rows[0]["FileName_OrigDNA"]),
            r"ch1sk1fk1fl1.tiff stands in row 1 DNA, row 2 DNA. Expected one of its own",
            "NAME003",
        ),
        (
            lambda rows: rows[0].update(PathName_OrigDNA="/data/../../etc"),
            r"the path '/data/../../etc' has '..', and could leave .*here",
            "NAME006",
        ),
        (lambda rows: rows.clear(), r"t.csv: empty. Expected a CSV table with a header", ""),
    ],
)
def test_what_is_refused(jump: tuple[str, Path], tmp_path: Path, change: Change, message: str, code: str) -> None:
    rows = jump_rows()
    change(rows)
    (tmp_path / "t.csv").write_text(pd.DataFrame(rows).to_csv(index=False) if rows else "")
    with pytest.raises(DataError, match=message) as refused:
        read_loaddata(str(tmp_path / "t.csv"), images=str(jump[1]))
    assert refused.value.code in (code, "META001")


def test_tables_and_folders_that_are_not_there(jump: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv: no such file. Correct the path") as refused:
        read_loaddata(str(tmp_path / "nowhere.csv"))
    assert refused.value.code == "META001"
    with pytest.raises(DataError, match=r"nowhere: no such folder. Expected the folder under which the images lie"):
        read_loaddata(jump[0], images=str(tmp_path / "nowhere"))
    (tmp_path / "t.csv").write_text("Metadata_Plate,Metadata_Well,Metadata_Site,URL_DNA\n")
    with pytest.raises(DataError, match=r"the table has no rows. Expected one a site"):
        read_loaddata(str(tmp_path / "t.csv"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"not a readable Parquet table|no column"):
        read_loaddata(str(tmp_path / "t.parquet"))


def test_channels_that_are_not_there(jump: tuple[str, Path]) -> None:
    with pytest.raises(DataError, match=r"no channel ER, asked for as Reticulum. The table has OrigAGP, OrigDNA") as no:
        read_loaddata(jump[0], images=str(jump[1]), channels={"Reticulum": "ER"})
    assert no.value.code == "NAME004"
    with pytest.raises(SettingsError, match="OrigDNA is named twice"):
        read_loaddata(jump[0], images=str(jump[1]), channels={"A": "DNA", "B": "OrigDNA"})
    with pytest.raises(SettingsError, match="columns: dosage is not known"):
        read_loaddata(jump[0], images=str(jump[1]), columns={"dosage": "x"})


def test_sources(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", as_urls(jump_rows(), "s3://b"))
    sources = list_sources(table)
    assert len(sources) == len(set(sources)) == 4 * 2 + 2
    assert list_sources(table, plates=["another"]) == []


def test_order_of_rows_does_not_matter(jump: tuple[str, Path], tmp_path: Path) -> None:
    rows = jump_rows()
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    pd.testing.assert_frame_equal(
        read_loaddata(write(tmp_path / "t.csv", shuffled), images=str(jump[1]))[0],
        read_loaddata(jump[0], images=str(jump[1]))[0],
    )


def write_centres(folder: Path, *, nan: bool = False) -> tuple[str, pd.DataFrame]:
    """Write JUMP's table with cell centres as pycytominer does; a site has no cells. Return the cells too."""
    from pycytominer.cyto_utils.cell_locations import CellLocation

    rng = np.random.default_rng(5)
    sites = pd.DataFrame(jump_rows())[SITE]
    images = sites.assign(TableNumber=1, ImageNumber=range(1, len(sites) + 1))
    cells = pd.DataFrame(
        [
            {"TableNumber": 1, "ImageNumber": image, "ObjectNumber": number}
            for image in (1, 2, 4)
            for number in range(1, 4 + image)
        ]
    )
    cells["Nuclei_Location_Center_X"] = rng.uniform(0, 1080, len(cells))
    cells["Nuclei_Location_Center_Y"] = rng.uniform(0, 1080, len(cells))
    if nan:
        cells.loc[3, "Nuclei_Location_Center_X"] = np.nan
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/single_cell.sqlite")
    images.to_sql("Image", engine, index=False)
    cells.to_sql("Nuclei", engine, index=False)
    engine.dispose()
    pd.DataFrame(jump_rows()).to_parquet(folder / "load_data_with_illum.parquet")
    table = str(folder / "load_data_with_illum_and_cell_location.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CellLocation(
            str(folder / "load_data_with_illum.parquet"), f"{folder}/single_cell.sqlite", table
        ).add_cell_location()
    expected = images.merge(cells, on=["TableNumber", "ImageNumber"])
    return table, expected


def test_cell_centres_as_pycytominer_writes_them(tmp_path: Path) -> None:
    table, expected = write_centres(tmp_path)
    found = read_cell_locations(table)
    assert list(found) == [column.name for column in LOCATIONS.columns]
    key = [*SITE, "Metadata_Object"]
    expected = expected.astype({"Metadata_Site": int}).rename(
        columns={
            "ObjectNumber": "Metadata_Object",
            "Nuclei_Location_Center_X": "x",
            "Nuclei_Location_Center_Y": "y",
        }
    )[[*key, "x", "y"]]
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True)
    )


def test_the_table_with_centres_is_a_screen_too(tmp_path: Path) -> None:
    make_files(tmp_path / "here", jump_rows())
    table, _ = write_centres(tmp_path)
    assert len(read_loaddata(table, images=str(tmp_path / "here"))[0]) == 4


def test_cells_without_a_centre(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table, expected = write_centres(tmp_path, nan=True)
    caplog.set_level(logging.WARNING)
    assert len(read_cell_locations(Path(table))) == len(expected) - 1
    assert "1 of 16 cells have no centre" in caplog.text


def test_tables_without_centres_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame(jump_rows())
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    with pytest.raises(DataError, match="no column CellCenters with a list") as refused:
        read_cell_locations(str(path))
    assert refused.value.code == "LOC001"
    frame.assign(CellCenters=[[{"a": 1.0}]] * 4).to_parquet(path)
    with pytest.raises(DataError, match=r"CellCenters has a. Expected ObjectNumber, and one x and y"):
        read_cell_locations(str(path))
    some: list[dict[str, float]] = [{"Nuclei_Location_Center_X": 1.0, "Nuclei_Location_Center_Y": 2.0}]
    frame.assign(CellCenters=[some, some, some, some]).iloc[:1].to_parquet(path)
    assert read_cell_locations(str(path))["Metadata_Object"].tolist() == [1]
    frame.assign(CellCenters=[some, [], [], []]).iloc[1:].to_parquet(path)
    with pytest.raises(DataError, match=r"has no cell in any|no column CellCenters"):
        read_cell_locations(str(path))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a readable Parquet table"):
        read_cell_locations(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_as_they_are_told(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame(as_urls(jump_rows(), "s3://b")).rename(columns=lambda name: name.removeprefix("Metadata_"))
    frame = frame.rename(columns={"Site": "FieldID", "Plate": "Metadata_Barcode"})
    path = tmp_path / f"t.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    sites, _ = read_loaddata(str(path), columns={"site": "FieldID", "plate": "Barcode"})
    assert sites["Metadata_Site"].tolist() == [1, 2, 1, 2]
    assert set(sites["Metadata_Plate"]) == {"BR00126114"}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "channels"),
    [("nf1", "DAPI GFP RFP"), ("pediatric_cancer_atlas", "AGP Brightfield DNA ER Mito RNA")],
)
def test_real_tables_of_other_machines(real_data: Path, tmp_path: Path, folder: str, channels: str) -> None:
    cells = pd.read_parquet(real_data / folder / "cells.parquet")
    files = cells.filter(regex="^Image_(FileName|PathName|URL|Frame)_").drop_duplicates(ignore_index=True)
    table = tmp_path / "load_data.parquet"
    places = {"Metadata_Plate": "P1", "Metadata_Well": "C03", "Metadata_Site": range(1, len(files) + 1)}
    files.assign(**places).to_parquet(table)
    sites, left_out = read_loaddata(str(table), images=str(real_data / folder / "images"))
    assert (len(sites), len(left_out)) == (len(files), 0)
    assert [name for name in sites if name.startswith("Path_")] == [f"Path_{name}" for name in channels.split()]
    assert all(Path(place).is_file() for place in sites.filter(regex="^Path_").to_numpy().ravel())
    assert not [name for name in sites if name.startswith("Illum_")]
