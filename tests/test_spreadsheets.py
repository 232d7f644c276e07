import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.spreadsheets import neutralise_formulas, write_csv

HARMFUL = ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", '=HYPERLINK("x")']


@pytest.mark.parametrize("text", HARMFUL)
def test_a_formula_becomes_text(text: str) -> None:
    for values in (pd.Series([text, "taxol"]), pd.Series([text, "taxol"], dtype="category"), pd.Series([text, 3])):
        safe, changed = neutralise_formulas(pd.DataFrame({"a": values}))
        assert (safe["a"].tolist()[0], changed) == (f"'{text}", 1)
        assert safe["a"].tolist()[1] in ("taxol", 3)


def test_numbers_stay_numbers_and_the_table_is_not_changed() -> None:
    frame = pd.DataFrame(
        {"n": [-1.5, np.nan], "m": [-3, 4], "t": ["-1e-3", "B02"], "g": [None, "x"], "b": [True, False]}
    )
    before = frame.copy()
    safe, changed = neutralise_formulas(frame)
    assert changed == 0
    pd.testing.assert_frame_equal(safe, before)
    neutralise_formulas(pd.DataFrame({"t": (texts := pd.Series(["=1"]))}))
    assert texts.tolist() == ["=1"]


def test_names_of_columns_are_cells_too() -> None:
    safe, changed = neutralise_formulas(pd.DataFrame({"=a": [1], "b": ["=2"]}))
    assert (list(safe.columns), changed) == (["'=a", "b"], 2)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_no_cell_of_a_written_file_begins_as_a_formula(texts: list[str]) -> None:
    safe, changed = neutralise_formulas(pd.DataFrame({"t": texts}))
    for text in safe["t"]:
        if text.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(text)  # only numbers are left
    assert sum(text != before for text, before in zip(safe["t"], texts, strict=True)) == changed


def test_a_file_reads_back_as_it_was_but_for_apostrophes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"well": ["B02", "AA01"], "x": [0.1 + 0.2, -1e-17], "name": ['a"b,c\nd', "=1"]})
    assert write_csv(tmp_path / "a.csv", frame) == 1
    back = pd.read_csv(tmp_path / "a.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(back, frame.assign(name=['a"b,c\nd', "'=1"]))
    assert write_csv(tmp_path / "a.tsv", frame, separator="\t") == 1
    rows = list(csv.reader(io.StringIO((tmp_path / "a.tsv").read_text()), delimiter="\t"))
    assert rows[2] == ["AA01", "-1e-17", "'=1"]


def test_the_same_table_is_the_same_gzipped_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5]})
    for name in ("a.csv.gz", "b.csv.gz"):
        write_csv(tmp_path / name, frame)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv.gz"), frame)
