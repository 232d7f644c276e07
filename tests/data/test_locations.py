"""Cell centres as each program writes them: real files, made here, all of the same six cells."""

import gzip
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.data.locations import Locations, read_locations, split_locations
from cytoclr.errors import DataError
from cytoclr.tables import LOCATIONS, SITE, check_table

# two plates; the images of each are numbered from 1, as every run of CellProfiler does
CELLS = pd.DataFrame(
    [
        ("00123", "B02", 1, 1, 10.5, 20.0),
        ("00123", "B02", 1, 2, 30.0, 25.25),
        ("00123", "B02", 2, 1, 11.0, 21.0),
        ("00123", "C11", 1, 4, 12.0, 22.0),
        ("NA", "B02", 1, 1, 13.0, 23.0),
        ("NA", "B02", 1, 2, 14.0, 24.0),
    ],
    columns=[*SITE, "Metadata_Object", "x", "y"],
)
IMAGES = CELLS[SITE].drop_duplicates().reset_index(drop=True)


def phenix_name(well: str, site: int, channel: int) -> str:
    """Name a file as Phenix does: no plate in it, so that names repeat from plate to plate."""
    return f"r{ord(well[0]) - 64:02d}c{well[1:]}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"


def screen_of(folder: str = "/images") -> pd.DataFrame:
    """The sites as a reader of images gives them."""
    paths = {
        f"Path_{name}": [
            f"{folder}/{plate}/{phenix_name(well, site, channel)}"
            for plate, well, site in IMAGES.itertuples(index=False)
        ]
        for channel, name in enumerate(("DNA", "Actin"), 1)
    }
    return IMAGES.assign(**paths)


def plain(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(dict.fromkeys(SITE[:2], "object"))


def assert_same(table: pd.DataFrame, expected: pd.DataFrame = CELLS) -> None:
    columns = list(CELLS.columns)
    check_table(table, LOCATIONS, "test")
    assert list(table.columns) == columns
    left, right = (plain(frame).sort_values(columns, ignore_index=True) for frame in (table, expected))
    pd.testing.assert_frame_equal(left, right)


def cellprofiler_tables(*, prefix: str = "", files: bool = False, places: bool = True) -> dict[str, pd.DataFrame]:
    """CellProfiler's tables of one run; `prefix` as databases have it before the names of columns."""
    image = IMAGES.reset_index(names="ImageNumber").assign(ImageNumber=lambda frame: frame["ImageNumber"] + 1)
    objects = CELLS.merge(image, on=SITE)
    before = "Image_" if prefix else ""
    names = {name: f"{before}{name}" for name in SITE}
    if files:
        image = image.assign(
            **{
                f"{before}FileName_OrigDNA": [phenix_name(row[1], row[2], 1) for row in IMAGES.itertuples(index=False)],
                f"{before}PathName_OrigDNA": [rf"D:\scratch\{plate}" for plate in IMAGES["Metadata_Plate"]],
                f"{before}FileName_IllumDNA": "IllumDNA.npy",
            }
        )
    image = image.rename(columns=names) if places else image.drop(columns=SITE)
    tables = {"Image": image}
    for kind, shift in (("Nuclei", 0.0), ("Cells", 100.0)):
        column = f"{kind}_" if prefix else ""
        tables[kind] = pd.DataFrame(
            {
                "ImageNumber": objects["ImageNumber"],
                "ObjectNumber": objects["Metadata_Object"],
                f"{column}AreaShape_Center_X": -1.0,
                f"{column}AreaShape_Center_Y": -1.0,
                f"{column}Location_Center_X": objects["x"] + shift,
                f"{column}Location_Center_Y": objects["y"],
                f"{column}Texture_Contrast_DNA_3_00_256": 0.5,
            }
        )
    return tables


def write_export(folder: Path, tables: dict[str, pd.DataFrame], prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{prefix}{name}.csv", index=False)
    return folder


def write_database(path: Path, tables: dict[str, pd.DataFrame], names: dict[str, str] | None = None) -> Path:
    base = sqlite3.connect(path)
    for name, table in tables.items():
        table.to_sql((names or {}).get(name, name), base, index=False)
    base.close()
    return path


def per_cell_table(plate: str = "Image_Metadata_Plate_x") -> pd.DataFrame:
    """CytoTable's join: a row a cell, the image's columns twice, numbers of two kinds."""
    return pd.DataFrame(
        {
            "Metadata_ImageNumber": 1,
            plate: CELLS["Metadata_Plate"],
            "Image_Metadata_Well_x": CELLS["Metadata_Well"],
            "Image_Metadata_Site_x": CELLS["Metadata_Site"].astype("str"),
            "Image_Metadata_Site_y": CELLS["Metadata_Site"].astype("str"),
            "Metadata_Cells_Number_Object_Number": CELLS["Metadata_Object"] + 7,
            "Metadata_Nuclei_Number_Object_Number": CELLS["Metadata_Object"],
            "Cells_Location_Center_X": CELLS["x"] + 100,
            "Cells_Location_Center_Y": CELLS["y"],
            "Nuclei_AreaShape_Center_X": 0.0,
            "Nuclei_AreaShape_Center_Y": 0.0,
            "Nuclei_Location_Center_X": CELLS["x"],
            "Nuclei_Location_Center_Y": CELLS["y"],
            "Image_FileName_DAPI": [phenix_name(*row, 1) for row in CELLS[SITE[1:]].itertuples(index=False)],
        }
    )


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_table_of_ours_is_read_whatever_it_is_called(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"centres.{ending}"
    CELLS.to_parquet(path) if ending == "parquet" else CELLS.to_csv(path, index=False)
    assert_same(read_locations(path))
    renamed = path.rename(tmp_path / "centres.txt")
    assert_same(read_locations(renamed))


def test_other_spellings_spaces_and_wells_without_noughts(tmp_path: Path) -> None:
    path = tmp_path / "centres.csv"
    path.write_text("Plate, well ,Site,x , y\n00123,b2,1,20,24\n00123, B02,1,30,24.5\n", encoding="utf-8-sig")
    table = read_locations(path)
    assert table["Metadata_Well"].tolist() == ["B02", "B02"]
    assert table["Metadata_Plate"].tolist() == ["00123", "00123"]
    assert table["Metadata_Object"].tolist() == [1, 2]
    assert table["y"].tolist() == [24.0, 24.5]


@pytest.mark.parametrize("prefix", ["", "MyExpt_"])
def test_cellprofilers_export_is_joined_by_the_images_number(tmp_path: Path, prefix: str) -> None:
    assert_same(read_locations(write_export(tmp_path / "export", cellprofiler_tables(), prefix)))


def test_plates_in_folders_number_their_images_anew(tmp_path: Path) -> None:
    tables = cellprofiler_tables()
    for plate, image in tables["Image"].groupby("Metadata_Plate"):
        first = image["ImageNumber"].min() - 1
        parts = {
            name: table[table["ImageNumber"].isin(image["ImageNumber"])].assign(
                ImageNumber=lambda frame, first=first: frame["ImageNumber"] - first
            )
            for name, table in tables.items()
        }
        folder = write_export(tmp_path / "out" / str(plate), parts)
        (folder / "Experiment.csv").write_text("Key,Value\nVersion,4\n")
        for file in ("Image.csv", "Nuclei.csv"):
            (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
            (folder / file).unlink()
    assert_same(read_locations(tmp_path / "out"))


def test_a_site_told_by_the_name_of_its_runs_folder(tmp_path: Path) -> None:
    """JUMP's folders of one site each, of which some have no metadata in their tables."""
    tables = cellprofiler_tables(places=False)
    for number, (plate, well, site) in enumerate(IMAGES.itertuples(index=False), 1):
        parts = {name: table[table["ImageNumber"] == number] for name, table in tables.items()}
        write_export(tmp_path / "analysis" / f"{plate}-{well}-{site}", parts)
    assert_same(read_locations(tmp_path / "analysis"))


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"Image": "Per_Image", "Nuclei": "Per_Nuclei", "Cells": "Per_Cells"},
        {"Image": "MyExpt_Per_Image", "Nuclei": "MyExpt_Per_Nuclei", "Cells": "MyExpt_Per_Cells"},
    ],
)
def test_databases_of_cellprofiler(tmp_path: Path, names: dict[str, str]) -> None:
    path = write_database(tmp_path / "plate.sqlite", cellprofiler_tables(prefix="yes"), names)
    before = path.read_bytes()
    assert_same(read_locations(path))
    cells = read_locations(path, object="Cells")
    assert_same(cells.assign(x=cells["x"] - 100))
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plate.sqlite"]


def test_a_database_is_read_without_a_lock(tmp_path: Path) -> None:
    """File shares often have none; and no name of a file may be taken for an option."""
    path = write_database(tmp_path / "plate 1?mode=rw#%20.sqlite", cellprofiler_tables(prefix="yes"))
    base = sqlite3.connect(path)
    base.execute("BEGIN EXCLUSIVE")
    assert_same(read_locations(path))
    base.close()


def test_one_table_of_all_objects(tmp_path: Path) -> None:
    tables = cellprofiler_tables(prefix="yes")
    joined = tables["Nuclei"].merge(tables["Cells"], on=["ImageNumber", "ObjectNumber"])
    joined = joined.assign(Nuclei_Number_Object_Number=joined["ObjectNumber"])
    path = write_database(tmp_path / "a.db", {"supplement_Image": tables["Image"], "supplement_Object": joined})
    assert_same(read_locations(path))
    assert read_locations(path, object="Cells")["x"].min() > 100


def cytominer_tables() -> dict[str, pd.DataFrame]:
    """cytominer-database: a number of the run besides that of the image, which repeats."""
    tables = cellprofiler_tables(prefix="yes")
    numbers = tables["Image"]["ImageNumber"]
    return {
        name: table.assign(TableNumber=(table["ImageNumber"] > 2) * 10**14 + 7, ImageNumber=table["ImageNumber"] % 2)
        for name, table in tables.items()
        if len(numbers)
    }


def test_cytominer_databases_number_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_database(tmp_path / "plate.sqlite", cytominer_tables())
    assert_same(read_locations(path))
    monkeypatch.setattr("cytoclr.data.readers.centres._CHUNK", 2)
    assert_same(read_locations(path))


def test_pycytominer_reads_the_same_centres(tmp_path: Path) -> None:
    from pycytominer.cyto_utils.cells import SingleCells

    tables = cytominer_tables()
    tables["Cytoplasm"] = tables["Cells"].rename(columns=lambda name: name.replace("Cells_", "Cytoplasm_"))
    path = write_database(tmp_path / "plate.sqlite", tables)
    with pytest.warns(DeprecationWarning, match="SingleCells"):
        peer = SingleCells(
            f"sqlite:///{path}",
            image_cols=["TableNumber", "ImageNumber"],
            strata=[f"Image_{name}" for name in SITE[:2]],
        )
    theirs = peer.load_compartment("nuclei").merge(tables["Image"], on=["TableNumber", "ImageNumber"])
    expected = theirs.rename(columns=lambda name: name.removeprefix("Image_")).rename(
        columns={
            "ObjectNumber": "Metadata_Object",
            "Nuclei_Location_Center_X": "x",
            "Nuclei_Location_Center_Y": "y",
        }
    )
    assert_same(
        read_locations(path), expected[list(CELLS.columns)].astype({"Metadata_Object": int, "x": float, "y": float})
    )


def test_sites_are_found_by_the_names_of_image_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ljosa's database of BBBC021 has plates and wells but no sites; Phenix's names repeat from plate to plate."""
    tables = cellprofiler_tables(prefix="yes", files=True)
    image = tables["Image"].drop(columns="Image_Metadata_Site")
    image = image.rename(columns=lambda name: f"{name}_DAPI" if "Metadata_" in name else name)
    path = write_database(tmp_path / "ljosa.sqlite", {**tables, "Image": image})
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        assert_same(read_locations(path, sites=screen_of()))
    assert "found by the names of their files" in caplog.text
    with pytest.raises(DataError, match="site of its images cannot be told: no column of Metadata_Site") as told:
        read_locations(path)
    assert told.value.code == "LOC001"


def test_names_that_repeat_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    tables = cellprofiler_tables(files=True, places=False)
    folder = write_export(tmp_path / "out", tables)
    assert_same(read_locations(folder, sites=screen_of("s3://bucket/run")))
    alone = {**tables, "Image": tables["Image"].drop(columns="PathName_OrigDNA")}
    folder = write_export(tmp_path / "alone", alone)
    table = read_locations(folder, sites=screen_of())  # B02 s1 is on both plates: which, cannot be told
    assert_same(table, CELLS[~((CELLS["Metadata_Well"] == "B02") & (CELLS["Metadata_Site"] == 1))])
    with pytest.raises(DataError, match="2 of its images have the file name of /images/NA/r02c02f01p01-ch1"):
        read_locations(folder, sites=screen_of().iloc[1:])


def test_images_that_the_screen_lacks_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_export(tmp_path / "out", cellprofiler_tables(files=True, places=False))
    table = read_locations(folder, sites=screen_of().iloc[1:])
    assert_same(table, CELLS.iloc[2:])
    assert "2 of 6 cells belong to images whose files are not the screen's, and are left out" in caplog.text
    other = screen_of().assign(Path_DNA="/other/a.tif", Path_Actin="/other/b.tif")
    with pytest.raises(
        DataError, match=r"none of the image files that it names is the screen's. It has r02c02f01"
    ) as told:
        read_locations(folder, sites=other)
    assert told.value.code == "LOC002"


def test_other_names_of_plates_are_seen_through_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cells.parquet"
    table = per_cell_table()
    table.assign(Image_Metadata_Plate_x="Run_" + table["Image_Metadata_Plate_x"]).iloc[2:4].to_parquet(path)
    assert_same(read_locations(path, sites=screen_of()), CELLS.iloc[2:4])
    assert "its first plate is called Run_00123, the screen's 00123. Are they the same?" in caplog.text
    with pytest.raises(DataError, match="none of its sites is in the screen") as told:
        split_locations(read_locations(path), screen_of(), str(path))
    assert told.value.code == "LOC002"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_of_cells(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"cells.{ending}"
    table = per_cell_table()
    table.to_parquet(path) if ending == "parquet" else table.to_csv(path, index=False)
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        assert_same(read_locations(path))
        assert_same(read_locations(path, sites=screen_of()))
    assert "6 cells, centres of Nuclei" in caplog.text
    cells = read_locations(path, object="Cells")
    assert_same(cells.assign(x=cells["x"] - 100, Metadata_Object=cells["Metadata_Object"] - 7))
    with pytest.raises(DataError, match=r"no centres of Cytoplasm. Found those of: Cells, Nuclei"):
        read_locations(path, object="Cytoplasm")


def test_centre_of_mass_comes_first_but_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    table = per_cell_table().drop(columns=["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"])
    table.assign(Nuclei_AreaShape_Center_X=CELLS["x"], Nuclei_AreaShape_Center_Y=CELLS["y"]).to_parquet(path)
    assert_same(read_locations(path))
    meta = {f"Nuclei_Location_Center_{axis}": f"Metadata_Nuclei_Location_Center_{axis}" for axis in "XY"}
    per_cell_table().rename(columns=meta).to_parquet(path)  # as pycytominer keeps them
    assert_same(read_locations(path))


def test_deepprofilers_folder(tmp_path: Path) -> None:
    for (plate, well, site), cells in CELLS.groupby(SITE):
        file = tmp_path / "locations" / plate / f"{well}-{site}-Nuclei.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        names = {"x": "Nuclei_Location_Center_X", "y": "Nuclei_Location_Center_Y"}
        cells[["x", "y"]].rename(columns=names).to_csv(file, index=False)
    empty = tmp_path / "locations" / "NA" / "D04-1-Nuclei.csv"
    empty.write_text("Nuclei_Location_Center_X,Nuclei_Location_Center_Y\n")
    expected = CELLS.assign(Metadata_Object=CELLS.groupby(SITE).cumcount() + 1)
    assert_same(read_locations(tmp_path / "locations"), expected)
    with pytest.raises(DataError, match=r"no files of Cells. Found those of: Nuclei"):
        read_locations(tmp_path / "locations", object="Cells")


def test_jumps_lists_of_centres(tmp_path: Path) -> None:
    for plate, images in CELLS.groupby("Metadata_Plate"):
        names = {"x": "Nuclei_Location_Center_X", "y": "Nuclei_Location_Center_Y"}
        table = pd.DataFrame(
            [
                dict(zip(SITE, site, strict=True))
                | {
                    "FileName_OrigDNA": "a.tiff",
                    "PathName_OrigDNA": "s3://bucket",
                    "CellCenters": cells[["x", "y"]].rename(columns=names).to_dict("records"),
                }
                for site, cells in images.groupby(SITE)
            ]
        )
        folder = tmp_path / "load_data" / str(plate)
        folder.mkdir(parents=True)
        table.to_parquet(folder / "load_data_with_illum_and_cell_location.parquet")
    expected = CELLS.assign(Metadata_Object=CELLS.groupby(SITE).cumcount() + 1)
    assert_same(read_locations(tmp_path / "load_data"), expected)
    with pytest.raises(DataError, match=r"no centres of Cells. Found those of: Nuclei"):
        read_locations(tmp_path / "load_data", object="Cells")


@pytest.mark.parametrize("kind", ["csv", "parquet", "sqlite"])
def test_a_table_a_plate_in_a_folder(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "plates"
    folder.mkdir()
    for plate, cells in CELLS.groupby("Metadata_Plate"):
        path = folder / f"{plate}.{kind}"
        if kind == "csv":
            cells.to_csv(path, index=False)
        elif kind == "parquet":
            cells.to_parquet(path)
        else:
            tables = cellprofiler_tables(prefix="yes")
            image = tables["Image"].query("Image_Metadata_Plate == @plate")
            rest = {
                name: tables[name][tables[name]["ImageNumber"].isin(image["ImageNumber"])]
                for name in ("Nuclei", "Cells")
            }
            write_database(path, {"Image": image, **rest})
    (folder / "README.md").write_text("plates")
    assert_same(read_locations(folder))
    shutil.copy(folder / f"NA.{kind}", folder / f"NA-copy.{kind}")
    with pytest.raises(
        DataError, match="4 of 8 cells have the number of another in their site, first: NA B02 s1"
    ) as told:
        read_locations(folder)
    assert told.value.code == "LOC010"


@pytest.mark.promise("Bad input", "An empty table of locations is told where cells are needed.")
def test_no_cells_are_no_error_until_they_are_needed(tmp_path: Path) -> None:
    for ending in ("csv", "parquet"):
        path = tmp_path / f"none.{ending}"
        CELLS.iloc[:0].to_parquet(path) if ending == "parquet" else CELLS.iloc[:0].to_csv(path, index=False)
        table = read_locations(path, sites=screen_of())
        assert len(table) == 0
        with pytest.raises(DataError, match="the locations have none") as told:
            split_locations(table, screen_of(), str(path))
        assert told.value.code == "LOC002"


def test_sites_without_files_are_matched_by_name(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "out", cellprofiler_tables(files=True))
    assert_same(read_locations(folder, sites=IMAGES))
    unnamed = write_export(tmp_path / "unnamed", cellprofiler_tables(files=True, places=False))
    with pytest.raises(DataError, match="cannot be told: no column of Metadata_Plate, Metadata_Well, Metadata_Site"):
        read_locations(unnamed, sites=IMAGES)


def test_a_site_that_is_no_number_is_found_by_its_files(tmp_path: Path) -> None:
    tables = cellprofiler_tables(files=True)
    image = tables["Image"].assign(Metadata_Site=lambda frame: "f" + frame["Metadata_Site"].astype("str"))
    folder = write_export(tmp_path / "out", {**tables, "Image": image})
    assert_same(read_locations(folder, sites=screen_of()))
    with pytest.raises(DataError, match="Metadata_Site is of another kind in 4 of 4 rows"):
        read_locations(folder)


def test_centres_of_other_kinds_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tables = cellprofiler_tables()
    first, second = ({name: t[t["ImageNumber"] % 2 == odd] for name, t in tables.items()} for odd in (0, 1))
    write_export(tmp_path / "out" / "a", first)
    write_export(tmp_path / "out" / "b", {name: second[name] for name in ("Image", "Cells")})
    assert len(read_locations(tmp_path / "out")) == len(CELLS)
    assert "centres are of Cells and of Nuclei, each from other files" in caplog.text


def test_cells_without_a_centre_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lost = CELLS.assign(x=CELLS["x"].where(CELLS.index > 0), y=CELLS["y"].where(CELLS.index != 5))
    lost.to_csv(tmp_path / "lost.csv", index=False, na_rep="nan")
    assert_same(read_locations(tmp_path / "lost.csv"), CELLS.iloc[1:5])
    assert "2 of 6 cells have no centre, and are left out" in caplog.text
    tables = cellprofiler_tables(prefix="yes")
    nuclei = tables["Nuclei"].astype({"Nuclei_Location_Center_X": "object"})
    nuclei.loc[0, "Nuclei_Location_Center_X"] = "nan"
    nuclei.loc[1, "Nuclei_Location_Center_X"] = None
    path = write_database(tmp_path / "lost.sqlite", {**tables, "Nuclei": nuclei})
    assert_same(read_locations(path), CELLS.iloc[2:])


def write(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def database_without(table: str) -> Callable[[Path], Path]:
    tables = {name: frame for name, frame in cellprofiler_tables(prefix="yes").items() if name != table}
    return lambda folder: write_database(folder / "a.sqlite", {**tables, "Notes": pd.DataFrame({"a": [1]})})


def truncated_database(folder: Path) -> Path:
    path = write_database(folder / "a.sqlite", cellprofiler_tables(prefix="yes"))
    path.write_bytes(path.read_bytes()[:5000])
    return path


def export_with(image: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], Path]:
    tables = cellprofiler_tables()
    return lambda folder: write_export(folder / "out", {**tables, "Image": image(tables["Image"])})


HEADER = "Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_Object,x,y\n"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder / "nowhere", "nowhere: no such file or folder"),
        (lambda folder: folder, "no table in this folder"),
        (write("a.csv", "Metadata_Plate,Metadata_Well\nA,B02\n"), "no columns of the centres. Expected x and y"),
        (write("a.csv", "Metadata_Plate;x;y\nA;1;2\n"), "separated by semicolons"),
        (write("a.csv", b"\xff\xfe\x00"), "not UTF-8"),
        (write("a.csv", ""), "empty. Expected a CSV table"),
        (write("a.csv", "x,x,y\n1,2,3\n"), "1 column name stands more than once: x"),
        (
            write("a.csv", HEADER + "A,B02,1,1,left,2\n"),
            "x is of another kind in 1 of 1 rows, first in row 1: found 'left'",
        ),
        (write("a.csv", HEADER + "A,B02,1,1,inf,2\n"), "x is of another kind"),
        (write("a.csv", HEADER + "A,B02,1,1.5,1,2\n"), "Metadata_Object is of another kind"),
        (write("a.csv", HEADER + "A,B02,1,,1,2\n"), "Metadata_Object is empty"),
        (write("a.csv", HEADER + "A,,1,1,1,2\n"), "Metadata_Well is empty"),
        (write("a.csv", HEADER + "A,B02,one,1,1,2\n"), "Metadata_Site is of another kind"),
        (write("a.csv", HEADER + "A,B02,1,1,1,2,3\n"), "not a readable CSV table"),
        (write("a.csv", "ImageNumber,Location_Center_X,Location_Center_Y\n1,2,3\n"), "its images have a number only"),
        (write("a.csv", "Metadata_Plate,Metadata_Well,x,y\nA,B02,1,2\n"), "cannot be told: no column of Metadata_Site"),
        (write("a.parquet", b"PAR1" + bytes(99)), "not a readable Parquet table"),
        (write("a.sqlite", b"SQLite format 3\0" + bytes(99)), "not a readable SQLite database"),
        (truncated_database, "not a readable SQLite database"),
        (
            database_without("Image"),
            "no table of images. Expected one, Image or Per_Image. Found: Nuclei, Cells, Notes",
        ),
        (export_with(lambda image: image.iloc[:-1]), "1 of 4 images that have cells are not in it, first: image 4"),
        (export_with(lambda image: pd.concat([image, image.iloc[:1]])), "image 1 stands twice"),
        (export_with(lambda image: image.drop(columns="ImageNumber")), "no column ImageNumber"),
    ],
)
@pytest.mark.promise("Bad input", "Locations of some twenty wrong kinds are refused with the code LOC001.")
def test_what_cannot_be_read_is_refused(tmp_path: Path, make: Callable[[Path], Path], match: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(DataError, match=match) as told:
        read_locations(make(folder))
    assert told.value.code == "LOC001"


def test_kinds_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", cellprofiler_tables(prefix="yes"))
    with pytest.raises(DataError, match=r"no centres of Cytoplasm.*Found centres of: Cells, Nuclei"):
        read_locations(path, object="Cytoplasm")
    folder = write_export(tmp_path / "out", cellprofiler_tables())
    with pytest.raises(DataError, match=r"no table of Cytoplasm. Found those of: Nuclei, Cells"):
        read_locations(folder, object="Cytoplasm")
    (folder / "Nuclei.csv").unlink()
    assert read_locations(folder)["x"].min() > 100


def test_a_database_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", cellprofiler_tables(prefix="yes"))
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("INSERT INTO Nuclei (ImageNumber) VALUES (1)")
    base.commit()
    with pytest.raises(DataError, match=r"a.sqlite-wal holds rows that are not yet in it"):
        read_locations(path)
    base.close()


def test_a_site_has_its_cells_in_the_files_order() -> None:
    shuffled = CELLS.sample(frac=1.0, random_state=3)
    given = split_locations(shuffled, screen_of().assign(Metadata_Well=["b2", "b2", "C11", "B02"]), "test")
    assert isinstance(given, Locations)
    assert len(given) == 6
    here = given.of(("00123", "b2", 1))
    expected = shuffled.query("Metadata_Plate == '00123' and Metadata_Well == 'B02' and Metadata_Site == 1")
    np.testing.assert_array_equal(here.x, expected["x"])
    np.testing.assert_array_equal(here.y, expected["y"])
    np.testing.assert_array_equal(here.objects, expected["Metadata_Object"])
    assert [len(values) for values in given.of(("00123", "D04", 1))] == [0, 0, 0]


def test_cells_of_other_sites_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        given = split_locations(CELLS, screen_of().iloc[:1], "centres.csv")
    assert len(given) == 2
    assert "centres.csv: 4 of 6 cells are in sites that the screen lacks" in caplog.text


@pytest.mark.real_data
def test_cytotables_tables(real_data: Path) -> None:
    nf1 = read_locations(real_data / "nf1" / "cells.parquet")
    assert nf1.iloc[0].tolist() == ["Plate_2", "B07", 3, 8, 401.3699633699634, 229.46959706959706]
    assert len(nf1) == 5
    atlas = read_locations(real_data / "pediatric_cancer_atlas" / "cells.parquet", object="Cells")
    assert atlas.iloc[0].tolist() == ["BR00143976", "C03", 3, 1, 262.67282717282717, 58.06343656343656]


@pytest.mark.real_data
def test_cytotables_tables_by_the_names_of_the_images(real_data: Path) -> None:
    files = sorted((real_data / "nf1" / "images").glob("*_DAPI_*.tif"))
    sites = pd.DataFrame(
        {
            "Metadata_Plate": "nf1",
            "Metadata_Well": [file.name.split("_")[0] for file in files],
            "Metadata_Site": [int(file.name.split("_")[3]) for file in files],
            "Path_DAPI": [str(file) for file in files],
        }
    )
    table = read_locations(real_data / "nf1" / "cells.parquet", sites=sites)
    assert set(table["Metadata_Plate"]) == {"nf1"}
    given = split_locations(table, sites, "nf1")
    assert [len(given.of(site).x) for site in sites[SITE].itertuples(index=False, name=None)] == [1] * 5
    np.testing.assert_allclose(given.of(("nf1", "B7", 3)).x, [401.36996337])


def test_cells_at_the_very_same_place_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "P,B02,1,10.5,20\nP,B02,1,30,40\n"
    (tmp_path / "centres.csv").write_text(f"Metadata_Plate,Metadata_Well,Metadata_Site,x,y\n{rows}{rows}")
    assert read_locations(tmp_path / "centres.csv")["x"].tolist() == [10.5, 30.0]
    assert "2 of 4 cells lie exactly where another does, and are left out; first P B02 s1" in caplog.text
