"""Tables on disk: what is read of them, and what is refused."""

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.data.files import read_any_table, read_header, read_texts
from cytoclr.errors import DataError
from cytoclr.tables import feature_columns


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
@pytest.mark.promise("Bad input", "Semicolons, tabs and cp1252 are told, with how to save the table.")
def test_other_kinds_of_csv_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_texts(path)


@pytest.mark.promise("Bad input", "A damaged gzip or Parquet table is refused with its name.")
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


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_packed_if_it_is_not_if_it_is_called_so(tmp_path: Path, name: str, packed: bool) -> None:
    """pycytominer 1.7.1 writes plain CSV under the name that it is told, ``.csv.gz`` too."""
    text = b"a,b\n1,2\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    assert read_texts(tmp_path / name).to_dict("list") == {"a": ["1"], "b": ["2"]}
    assert read_header(tmp_path / name) == ["a", "b"]


def test_semicolons_with_decimal_commas_are_told(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("well;compound;concentration\nA01;DMSO;0\nA02;taxol;1,5\n")
    with pytest.raises(DataError, match="its cells are separated by semicolons"):
        read_texts(tmp_path / "map.csv")
