"""Tables on disk as they stand: CSV as texts, Parquet, and the names of their columns."""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cytoclr.data.arrays import check_gzip, check_parquet
from cytoclr.errors import DamagedError, DataError, list_some
from cytoclr.storage import read_table

__all__ = ["EMPTY", "METADATA_PREFIXES", "check_names", "read_any_table", "read_header", "read_texts"]

#: Prefixes of metadata in use in the field, ours first.
METADATA_PREFIXES = ("Metadata_", "Image_Metadata_")
#: What stands for an empty cell among numbers: nothing, or what R, pandas and SQL write.
EMPTY = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def read_texts(path: Path) -> pd.DataFrame:
    """Read a CSV file (plain or gzipped) as texts: nothing is guessed; ``NA`` stays a name, ``00123`` keeps its zeros.

    Whether it is gzipped is told by its first bytes: there are tools that write plain CSV under the name ``x.csv.gz``.
    Spaces around a cell are no part of it. Columns without a name (an index, a spreadsheet's margin) are left out.

    Raises
    ------
    DataError
        The file is missing, not UTF-8, empty, not separated by commas, has NUL bytes, a column twice, or a row with
        more cells than its header. A row with fewer ends in empty cells.
    """
    try:
        compression: Literal["gzip"] | None = "gzip" if _is_gzipped(path) else None
        if compression:
            check_gzip(path)
        texts = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", compression=compression)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Correct the path.", code="META001") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: empty. Expected a CSV table with a header.", code="META001") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}). Save it as CSV UTF-8.", code="META001") from None
    except pd.errors.ParserError as error:
        # of a table with decimal commas and other separators, pandas sees rows of different lengths
        _check_separators(pd.DataFrame(columns=read_header(path)), path)
        raise DataError(f"{path}: not a readable CSV table ({str(error).strip()}).", code="META001") from None
    except (gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV table ({str(error).strip()}).", code="META001") from None
    _check_separators(texts, path)
    _refuse_nul(path)
    check_names(read_header(path), path)
    named = [name for name in texts.columns if not name.startswith("Unnamed: ")]
    return pd.DataFrame({name.strip(): texts[name].str.strip() for name in named})


def _refuse_nul(path: Path) -> None:
    """Refuse a CSV file with NUL bytes, at which pandas ends a cell without a word; a power cut or UTF-16 leaves them.

    Raises
    ------
    DataError
        Tells the line of the first.
    """
    line = 1
    with gzip.open(path) if _is_gzipped(path) else path.open("rb") as file:
        while block := file.read(2**20):
            before, nul, _ = block.partition(b"\0")
            line += before.count(b"\n")
            if nul:
                raise DataError(
                    f"{path}: has a NUL byte, first in line {line:,}. Expected text: it was not written to its end, or "
                    "is UTF-16. Write it again, as CSV UTF-8.",
                    code="META001",
                )


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _check_separators(texts: pd.DataFrame, path: Path) -> None:
    header = str(texts.columns[0]) if len(texts.columns) else ""
    if len(texts.columns) == 1 and (";" in header or "\t" in header):
        separator = "semicolons" if ";" in header else "tabs"
        raise DataError(
            f"{path}: its cells are separated by {separator}. Expected commas: save it as CSV with commas.",
            code="META001",
        )
    if not isinstance(texts.index, pd.RangeIndex):  # pandas takes surplus cells at the left for an index
        raise DataError(
            f"{path}: its rows have more cells than its header has names ({len(texts.columns)}). "
            "Expected as many; is there a comma at the end of rows, or in a number?",
            code="META001",
        )


def read_any_table(path: Path, *, texts: Collection[str] = ()) -> pd.DataFrame:
    """Read Parquet, or CSV (plain or gzipped), in which metadata stay texts and the other columns may be numbers.

    Parameters
    ----------
    path
        Parquet if its name ends so, else CSV.
    texts
        Further columns of a CSV table that stay texts.

    Raises
    ------
    DataError
        The file is missing or is neither.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path.", code="META001")
    if path.suffix == ".parquet":
        try:
            check_parquet(path)
            return read_table(path)
        except (DamagedError, pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: not a readable Parquet table ({error.__cause__ or error}).", code="META001"
            ) from None
    table = read_texts(path)
    # Plate 00123 keeps its zeros. Another column is numeric if it has numbers, and nothing else but empty cells.
    others = [name for name in table.columns if not name.startswith(METADATA_PREFIXES) and name not in texts]
    numbers = table[others].apply(pd.to_numeric, errors="coerce")
    numeric = [
        name
        for name in others
        if numbers[name].notna().any() and (numbers[name].notna() | table[name].isin(EMPTY)).all()
    ]
    # One piece for the numbers: a table in hundreds of pieces is slow, and pandas warns whoever adds a column to it.
    joined: pd.DataFrame = pd.concat([table.drop(columns=numeric), numbers[numeric].copy()], axis=1)
    return joined[list(table.columns)]


def read_header(path: Path) -> list[str]:
    """Read the names of the columns as they stand (pandas would number those that repeat); none if unreadable."""
    try:
        if path.suffix == ".parquet":
            return [name for name in pq.read_schema(path).names if not name.startswith("__index_level_")]
        opener = gzip.open if _is_gzipped(path) else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException):
        return []


def check_names(names: Sequence[str], path: Path) -> None:
    """Refuse a table in which a name stands over two columns; columns without a name do not count.

    Raises
    ------
    DataError
        Tells the names that repeat.
    """
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{path}: {len(repeated)} column name{'s stand' if len(repeated) > 1 else ' stands'} more than once: "
            f"{list_some(repeated)}. Expected each once; rename or drop the others.",
            code="META002",
        )
