"""Whatever a table, a name or a centre is, it is taken for what it is or refused; nothing else comes of it."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings

from cytoclr.data.crops import plate_stem
from cytoclr.data.cut import cut_crops
from cytoclr.data.files import read_any_table, read_header, read_texts
from cytoclr.data.locations import read_locations
from cytoclr.data.profiles import read_profiles, read_wells
from cytoclr.data.readers.bbbc021 import read_image_table
from cytoclr.data.screen import name_well, read_mechanisms
from cytoclr.errors import CytoclrError

#: One folder serves all examples: each writes its file anew.
SHARED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
READERS: list[Callable[[Path], object]] = [
    read_texts,
    read_any_table,
    read_mechanisms,
    read_wells,
    read_profiles,
    read_locations,
    read_image_table,
]
#: What is in tables that readers look at twice.
WORDS = st.one_of(
    st.sampled_from(["plate", "well", "site", "compound", "concentration", "moa", "x", "y", "Image_FileName_DAPI"]),
    st.sampled_from(["00123", "1E5", "B02", "b2", "DMSO", "NA", "nan", "inf", "-1", "1e400", "0,3", "10µM"]),
    st.sampled_from(["_s1_w1.tif", ";", "\0", "é"]),
)
CELLS = st.one_of(WORDS, st.text(max_size=8), st.floats().map(str), st.integers().map(str))
ROWS = st.lists(st.lists(CELLS, max_size=7).map(",".join), max_size=6)


@pytest.mark.promise("Bad input", "Any bytes called .csv are read as a table or refused in a sentence.")
@SHARED
@given(
    content=st.one_of(
        st.binary(max_size=200),
        ROWS.map(lambda rows: "\n".join(rows).encode("utf-8", "replace")),
        ROWS.map(lambda rows: ("Metadata_Plate,Metadata_Well,x,y\n" + "\n".join(rows)).encode("utf-16")),
        ROWS.map(lambda rows: ("plate,well,site,compound,concentration,x,y\r\n" + "\r\n".join(rows)).encode()),
    )
)
@example(content=b"")
@example(content=bytes(64))
@example(content=b"a,b\n1\x00,2\n")
@example(content=b"a,a\n1,2\n")
@example(content=b"\x1f\x8b\x08\x00broken")
@example(content=b'plate,well\n"P,B02\n')
def test_any_table_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(content)
    for read in READERS:
        with contextlib.suppress(CytoclrError):
            read(path)


@pytest.mark.promise("Bad input", "A table of texts is read back as it was written: no cell is changed or lost.")
@SHARED
@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(str.strip)] * 3),
        min_size=1,
        max_size=8,
    )
)
@example(rows=[("00123", "1E5", "NA")])
@example(rows=[("nan", "3,3'-diaminobenzidine", 'a "quoted" name')])
@example(rows=[("null", "../../x", "10 µM")])
def test_texts_survive(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    path = tmp_path / "texts.csv"
    pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(path, index=False, quoting=1)
    assert read_header(path) == ["a", "b", "c"]
    assert list(read_texts(path).itertuples(index=False, name=None)) == rows


def spell_well(row: int, column: int) -> list[str]:
    letters = chr(64 + row) if row <= 26 else f"A{chr(38 + row)}"
    return [
        f"{letters}{column:02d}",
        f"{letters.lower()}{column}",
        f" {letters}{column:03d}",
        f"{letters} - {column}",
        f"r{row:02d}c{column:02d}",
    ]


@pytest.mark.promise("Bad input", "Every well of a plate is told under all its spellings.")
@SHARED
@given(row=st.integers(1, 32), column=st.integers(1, 48))
@example(row=32, column=48)
def test_all_spellings_are_one_well(row: int, column: int) -> None:
    expected, *others = spell_well(row, column)
    assert {name_well(text) for text in [expected, *others]} == {expected}


@pytest.mark.promise("Bad input", "What is no well keeps its name.")
@SHARED
@given(text=st.one_of(st.text(max_size=8), st.from_regex(r"[A-Za-z]{1,3}-?\d{1,4}", fullmatch=True)))
@example(text="AG01")
@example(text="A00")
@example(text="B49")
@example(text="Ａ１")
@example(text="A²")
@example(text="ſ01")
def test_what_is_no_well_keeps_its_name(text: str) -> None:
    name = name_well(text)
    assert name == text or re.fullmatch(r"(A[A-F]|[A-Z])(0[1-9]|[1-3]\d|4[0-8])", name)
    assert name_well(name) == name


@pytest.mark.promise(
    "Bad input", "A file called after a name stays in its folder, is short, and no two names share it."
)
@SHARED
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), min_size=2, max_size=4, unique=True)
)
@example(names=["../../x", "/etc/passwd", "..", "."])
@example(names=["", " ", "\0", "CON"])
@example(names=["a/b", "a\\b", "a_b", "plate_a_b-f5effa31"])
@example(names=["x" * 300, "x" * 301, "🧪", "\u202eevil"])
def test_files_of_any_names_stay_inside(tmp_path: Path, names: list[str]) -> None:
    stems = [plate_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", stem)
        assert (tmp_path / f"{stem}.npy").resolve().parent == tmp_path.resolve()


def cut_slowly(field: np.ndarray, x: float, y: float, size: int, fill: np.ndarray | None) -> np.ndarray | None:
    """Cut a crop pixel by pixel, as the definition says; None: it is left out."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return None
    left, top = int(np.floor(x + 0.5)) - size // 2, int(np.floor(y + 0.5)) - size // 2
    channels, rows, columns = field.shape
    if fill is not None and not (-0.5 <= x < columns - 0.5 and -0.5 <= y < rows - 0.5):
        return None
    crop = np.zeros((channels, size, size), field.dtype)
    for channel in range(channels):
        for row in range(size):
            for column in range(size):
                if 0 <= top + row < rows and 0 <= left + column < columns:
                    crop[channel, row, column] = field[channel, top + row, left + column]
                elif fill is None:
                    return None
                else:
                    crop[channel, row, column] = fill[channel]
    return crop


PLACES = st.one_of(
    st.integers(-20, 40).map(float),
    st.floats(-5, 25),
    st.integers(-6, 40).map(lambda number: number / 2),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e18, -1e300]),
)


@pytest.mark.promise("Bad input", "Crops at any centre (outside, NaN, infinite) are the field's own pixels, or none.")
@SHARED
@given(
    centres=st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=5),
    size=st.integers(1, 12),
    pads=st.booleans(),
)
def test_crops_at_any_centre(centres: list[tuple[float, float]], size: int, pads: bool) -> None:
    field = np.arange(1, 2 * 13 * 17 + 1, dtype=np.uint16).reshape(2, 13, 17)
    fill = np.array([1000, 2000], np.uint16) if pads else None
    x, y = (np.array(values, dtype=np.float64) for values in zip(*centres, strict=True))
    crops, kept, whole = cut_crops(field, x, y, size_px=size, fill=fill)
    slow = [cut_slowly(field, *centre, size, fill) for centre in centres]
    assert kept.tolist() == [crop is not None for crop in slow]
    expected = [crop for crop in slow if crop is not None]
    assert len(crops) == len(expected)
    for crop, other in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(crop, other)
    assert whole.tolist() == [cut_slowly(field, *centre, size, None) is not None for centre in centres]
