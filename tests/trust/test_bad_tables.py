"""Tables as people save them, and what damage leaves of them: nothing changes, merges or goes away without a word."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.config import check_settings
from cytoclr.data.files import read_any_table, read_texts
from cytoclr.data.profiles import read_profiles, read_wells
from cytoclr.data.screen import read_mechanisms
from cytoclr.data.sources import open_screen
from cytoclr.errors import DataError

TABLE = "plate,well,compound,concentration,A\n00123,B02,DMSO,0,1.5\n1E5,B03,NA,0.3,2\n"
READERS: list[Callable[[Path], pd.DataFrame]] = [read_texts, read_any_table, read_wells, read_profiles]


@pytest.mark.promise("Bad input", "A table is read alike with a BOM, CRLF, quotes, spaces and empty cells.")
@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace("NA", '"NA"').replace("00123", '"00123"').encode(),
        TABLE.replace(",", " , ").encode(),
        TABLE.rstrip().encode(),
        (TABLE + "\n\n").encode(),
    ],
    ids=["bom", "crlf", "cr", "quotes", "spaces", "no-last-line-end", "empty-lines"],
)
def test_a_table_is_read_alike_however_it_is_saved(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plain.csv").write_text(TABLE)
    (tmp_path / "saved.csv").write_bytes(content)
    for read in READERS:
        pd.testing.assert_frame_equal(read(tmp_path / "saved.csv"), read(tmp_path / "plain.csv"))
    wells = read_wells(tmp_path / "saved.csv")
    assert wells["Metadata_Plate"].tolist() == ["00123", "1E5"]
    assert wells["Metadata_Compound"].tolist() == ["DMSO", "NA"]


@pytest.mark.promise("Bad input", "A table that is empty, in another encoding or with other separators is told so.")
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"map\.csv: empty\. Expected a CSV table with a header"),
        (b"\xef\xbb\xbf", r"map\.csv: empty"),
        (b"\n\n\n", r"map\.csv: empty"),
        (b"plate,well,compound,concentration\n", r"map\.csv: the plate map has no rows"),
        (TABLE.replace("NA", "naïve").encode("cp1252"), r"not UTF-8 text .*Save it as CSV UTF-8"),
        (TABLE.encode("utf-16"), r"not UTF-8 text"),
        (TABLE.encode("utf-16-le"), r"has a NUL byte, first in line 1\. .*is UTF-16"),
        (TABLE.replace(",", ";").encode(), r"separated by semicolons\. Expected commas"),
        (TABLE.replace(",", ";").replace(".", ",").encode(), r"separated by semicolons\. Expected commas"),
        (TABLE.replace(",", "\t").encode(), r"separated by tabs"),
        (TABLE.replace("0.3", "0,3").encode(), r"not a readable CSV table .*Expected 5 fields in line 3, saw 6"),
        (TABLE.encode() + b'"1E5,B04', r"not a readable CSV table"),
        (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n", r"no column of the plate"),
    ],
)
def test_a_table_that_is_none_is_told_so(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "map.csv").write_bytes(content)
    with pytest.raises(DataError, match=match) as refusal:
        read_wells(tmp_path / "map.csv")
    assert refusal.value.code in {"META001", "META002"}


@pytest.mark.promise(
    "Bad input", "A table with NUL bytes, as a power cut leaves, is refused; no cell is cut off at one."
)
@pytest.mark.parametrize("content", [bytes(4096), TABLE.encode() + bytes(512), TABLE.replace("0.3", "0\0.3").encode()])
def test_nul_bytes_are_refused_with_their_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map.csv").write_bytes(content)
    line = content[: content.index(0)].count(b"\n") + 1
    for read in READERS:
        with pytest.raises(DataError, match=rf"map\.csv: has a NUL byte, first in line {line}\.") as refusal:
            read(tmp_path / "map.csv")
        assert refusal.value.code == "META001"


@pytest.mark.promise("Bad input", "A column that stands twice is refused, whatever spaces are around its name.")
@pytest.mark.parametrize(
    "header", ["plate,well,compound,concentration,plate", "plate,well,compound,concentration, plate "]
)
def test_a_column_twice_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "map.csv").write_text(header + "\nP1,B02,DMSO,0,P2\n")
    for read in READERS:
        with pytest.raises(DataError, match=r"1 column name stands more than once: plate\.") as refusal:
            read(tmp_path / "map.csv")
        assert refusal.value.code == "META002"


@pytest.mark.promise(
    "Bad input", "A row with more cells than the header is refused; one with fewer ends in empty cells."
)
def test_ragged_rows(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(DataError, match="Expected 2 fields in line 3, saw 3"):
        read_texts(tmp_path / "long.csv")
    (tmp_path / "all-long.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(DataError, match="more cells than its header has names"):
        read_texts(tmp_path / "all-long.csv")
    (tmp_path / "short.csv").write_text("a,b\n1\n")
    assert read_texts(tmp_path / "short.csv").to_dict("list") == {"a": ["1"], "b": [""]}
    (tmp_path / "cut.csv").write_text("plate,well,compound,concentration\nP,B02,DMSO,0\nP,B03,tax")
    with pytest.raises(DataError, match=r"concentration is empty in 1 of 2 rows, first in row 2 \(P B03 tax\)"):
        read_wells(tmp_path / "cut.csv", controls=["DMSO"])


@pytest.mark.promise("Bad input", "Tens of thousands of columns, and cells of a million letters, are read.")
def test_wide_rows_are_read(tmp_path: Path) -> None:
    number = 10_000
    text = ",".join(f"c{column}" for column in range(number)) + "\n" + ",".join(["1"] * number) + "\n"
    (tmp_path / "wide.csv").write_text(text)
    assert read_texts(tmp_path / "wide.csv").shape == (1, number)
    (tmp_path / "long.csv").write_text(f"a,b\n{'x' * 1_000_000},2\n")
    assert len(read_texts(tmp_path / "long.csv")["a"].item()) == 1_000_000


NAMES = [
    "NA",
    "nan",
    "null",
    "3,3'-diaminobenzidine",
    "mevinolin/lovastatin",
    "../../x",
    "x" * 300,
    "🧪",
    "\u202eevilא",
]


@pytest.mark.promise("Bad input", "Compounds called NA, 3,3'-diaminobenzidine, ../../x, an emoji … keep their names.")
def test_names_of_compounds_are_kept(tmp_path: Path) -> None:
    frame = pd.DataFrame({"compound": NAMES, "concentration": 0.3, "moa": NAMES[::-1]})
    frame.to_csv(tmp_path / "moa.csv", index=False)
    found = read_mechanisms(tmp_path / "moa.csv")
    assert found["Metadata_Compound"].tolist() == NAMES
    assert found["Metadata_MoA"].tolist() == NAMES[::-1]
    frame.assign(plate=["00123", "123", "1E5", "100000", "1e5", "0123", "1.0", "1", "01"], well="B02").to_csv(
        tmp_path / "map.csv", index=False
    )
    wells = read_wells(tmp_path / "map.csv")
    assert wells["Metadata_Compound"].tolist() == NAMES
    assert wells["Metadata_Plate"].nunique() == len(NAMES)


def spoil(old: str, new: str, count: int = -1) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, count)


def repeat_a_row(text: str) -> str:
    header, first, *rest = text.splitlines()
    return "\n".join([header, first, first, *rest]) + "\n"


@pytest.mark.promise("Bad input", "A site that stands twice, or a well with two treatments, is refused with its name.")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (repeat_a_row, r"Week1_101_B02_s1_w1\.tif stands in row 1 DAPI, row 2 DAPI\. Expected one of its own"),
        (
            spoil("NA,0.30", "taxol,0.30", 1),
            r"1 well has more than one treatment, first: Week1_101 B03 \(taxol 0\.3 µM and NA",
        ),
        (spoil("NA,0.30", "NA,0.40", 1), r"1 well has more than one treatment, first: Week1_101 B03 \(NA 0\.4 µM and"),
    ],
)
def test_what_cannot_both_be_true(tiny_screen: Path, change: Callable[[str], str], match: str) -> None:
    path = tiny_screen / "image.csv"
    path.write_text(change(path.read_text()))
    screen = {"reader": "bbbc021", "image_table": str(path), "images": str(tiny_screen / "images")}
    settings = check_settings({"screen": screen}, source="test", folder=tiny_screen)
    with pytest.raises(DataError, match=match):
        open_screen(settings.screen, skip_missing=False)
