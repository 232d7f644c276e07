"""Which mechanism a compound has, as tables say it."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.data.screen import describe_wells, read_mechanisms
from cytoclr.errors import DataError, SettingsError
from cytoclr.tables import MECHANISM, TREATMENT


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_mechanisms_are_read_under_any_prefix(tmp_path: Path) -> None:
    path = tmp_path / "moa.csv"
    path.write_text(
        '\ufeffMetadata_Compound,Image_Metadata_Concentration,MoA\n"mevinolin/lovastatin",5,"Cholesterol"\n'
    )
    assert read_mechanisms(path).iloc[0].tolist() == ["mevinolin/lovastatin", 5.0, "Cholesterol"]


def test_a_mechanism_may_hold_for_all_concentrations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "some.csv", "compound,concentration,moa\ntaxol,,Microtubule\nNA,NA,Actin\ntaxol,3,Toxic\n")
    some = read_mechanisms(path)
    assert some["Metadata_Compound"].tolist() == ["taxol", "NA", "taxol"]
    assert some["Metadata_Concentration"].isna().tolist() == [True, True, False]
    assert not caplog.records
    path = write(tmp_path / "none.csv", "compound,moa,dose\n0815,Microtubule,1\nNA,Actin,1\n")
    none = read_mechanisms(path)
    assert none.columns.tolist() == [*TREATMENT, MECHANISM]
    assert none["Metadata_Compound"].tolist() == ["0815", "NA"]
    assert none["Metadata_Concentration"].isna().all()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "none.csv: no column of the concentration, so a mechanism holds for all" in record.getMessage()
    assert "--column concentration=NAME" in record.getMessage()


@pytest.mark.parametrize("name", ["moa.csv", "moa.csv.gz", "moa.parquet"])
def test_mechanisms_are_read_under_any_name_from_csv_and_parquet(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {
            "pert": pd.Categorical(["0815", "007"]),
            "uM": [0.3, None],
            "target": ["NA", "Microtubule"],
            "Metadata_Compound": ["BRD-1", "BRD-2"],
        }
    )
    path = tmp_path / name
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    told = {"compound": "pert", "concentration": "uM", "mechanism": "target"}
    mechanisms = read_mechanisms(path, columns=told)
    assert mechanisms.columns.tolist() == [*TREATMENT, MECHANISM]
    assert mechanisms.fillna(-1.0).to_numpy().tolist() == [["0815", 0.3, "NA"], ["007", -1.0, "Microtubule"]]


def test_wrong_names_of_columns_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "moa.csv", "compound,moa\na,b\n")
    with pytest.raises(
        SettingsError, match=r"plate is not known\. Expected some of compound, concentration, mechanism"
    ):
        read_mechanisms(path, columns={"plate": "compound"})
    with pytest.raises(DataError, match=r"no column uM, told as the concentration\. Found: compound, moa"):
        read_mechanisms(path, columns={"concentration": "uM"})


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    for name in ("moa.csv", "moa.parquet"):
        with pytest.raises(DataError, match=rf"{name}: no such file"):
            read_mechanisms(tmp_path / name)
    (tmp_path / "moa.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"moa.parquet: not a readable Parquet table"):
        read_mechanisms(tmp_path / "moa.parquet")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("compound,concentration,moa\n", "the mechanism table has no rows"),
        ("", "empty"),
        (
            "compound,dose\na,1\n",
            r"no column of the mechanism\. Expected Metadata_MoA; if .* --column mechanism=NAME\. Found",
        ),
        ("name,moa\na,b\n", r"no column of the compound\. Expected Metadata_Compound; if it has another name"),
        (
            "compound,moa,MOA\na,b,b\na,b,c\n",
            r"moa and MOA could both be Metadata_MoA, and differ in 1 of 2 rows\. Name the right one: --column mech",
        ),
        ("compound,moa,moa\na,b,b\n", r"1 column name stands more than once: moa\. Expected each once"),
        ("compound,concentration,moa\na,1,b\na,1.0,c\n", "rows 1 and 2 have the same Compound, Concentration: a, 1.0"),
        (
            "compound,concentration,moa\nb,,x\na,,b\na,1,c\na,NA,d\n",
            r"rows 2 and 4 have the same Compound, Concentration: a, empty\. Expected each once; 2 rows are concerned",
        ),
        ("compound,moa\na,b\na,c\n", "rows 1 and 2 have the same Compound, Concentration: a, empty"),
        (
            "compound,concentration,moa\na,,b\nc,1 uM,d\n",
            r"concentration is no number of µM in 1 of 2 rows, first in row 2: '1 uM'\. Write 1\.",
        ),
        (
            "compound,concentration,moa\na,-1,b\n",
            r"concentration is no number of µM in 1 of 1 rows, first in row 1: '-1'\. Expected",
        ),
        ("compound,moa\na,b\n,c\n", r"Metadata_Compound is empty in 1 of 2 rows, first in row 2"),
        ("compound,moa\na,b\nc,\n", r"Metadata_MoA is empty in 1 of 2 rows, first in row 2"),
    ],
)
def test_a_wrong_mechanism_table_is_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_mechanisms(write(tmp_path / "moa.csv", text))


def test_a_batch_that_is_not_found_says_how_to_tell_it() -> None:
    wells = pd.DataFrame({"Metadata_Plate": ["101"], "Metadata_Compound": ["a"]})
    with pytest.raises(
        DataError,
        match=r"map.csv: the batch of plate '101' is not found by batch_pattern '\^\(\[\^_\]\+\)_'\. Set it, as --set "
        r"'screen\.batch_pattern=\^\(\.\*\)\$' .* or name the batch's column: --column batch=NAME",
    ):
        describe_wells(wells, controls=(), positive_controls=(), batch_pattern="^([^_]+)_", source="map.csv")
