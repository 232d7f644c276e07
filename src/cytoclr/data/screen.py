"""Tables that describe a screen: what is in each well, and which mechanism a compound has."""

import gzip
import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from cytoclr.errors import DamagedError, DataError, list_some
from cytoclr.storage import read_table
from cytoclr.tables import (
    MECHANISM,
    MECHANISMS,
    TREATMENT,
    WELL,
    check_table,
    treatment_names,
)

__all__ = [
    "EMPTY",
    "check_wells",
    "describe_wells",
    "read_any_table",
    "read_mechanisms",
    "read_texts",
]

#: Metadata prefixes in use in the field, longest first.
_PREFIXES = ("Image_Metadata_", "Metadata_", "")
#: What stands for an empty cell among numbers: nothing, or what R, pandas and SQL write.
EMPTY = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def read_texts(path: Path) -> pd.DataFrame:
    """Read a CSV file (plain or gzipped) as texts: nothing is guessed; ``NA`` stays a name, ``00123`` keeps its zeros.

    Spaces around a cell are no part of it. Columns without a name (an index, a spreadsheet's margin) are left out.

    Raises
    ------
    DataError
        The file is missing, not UTF-8, empty, not separated by commas, or its rows have different numbers of cells.
    """
    compression: Literal["gzip"] | None = "gzip" if path.suffix == ".gz" else None
    try:
        texts = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", compression=compression)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Correct the path.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: empty. Expected a CSV table with a header.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}). Save it as CSV UTF-8.") from None
    except (pd.errors.ParserError, gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV table ({str(error).strip()}).") from None
    _check_separators(texts, path)
    named = [name for name in texts.columns if not name.startswith("Unnamed: ")]
    return pd.DataFrame({name.strip(): texts[name].str.strip() for name in named})


def _check_separators(texts: pd.DataFrame, path: Path) -> None:
    header = str(texts.columns[0])
    if len(texts.columns) == 1 and (";" in header or "\t" in header):
        separator = "semicolons" if ";" in header else "tabs"
        raise DataError(f"{path}: its cells are separated by {separator}. Expected commas: save it as CSV with commas.")
    if not isinstance(texts.index, pd.RangeIndex):  # pandas takes surplus cells at the left for an index
        raise DataError(
            f"{path}: its rows have more cells than its header has names ({len(texts.columns)}). "
            "Expected as many; is there a comma at the end of rows, or in a number?"
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
        raise DataError(f"{path}: no such file. Correct the path.")
    if path.suffix == ".parquet":
        try:
            return read_table(path)
        except DamagedError as error:
            raise DataError(f"{path}: not a readable Parquet table ({error.__cause__}).") from None
    table = read_texts(path)
    # Plate 00123 keeps its zeros. Another column is numeric if it has numbers, and nothing else but empty cells.
    others = [name for name in table.columns if not name.startswith(_PREFIXES[:2]) and name not in texts]
    numbers = table[others].apply(pd.to_numeric, errors="coerce")
    numeric = [
        name
        for name in others
        if numbers[name].notna().any() and (numbers[name].notna() | table[name].isin(EMPTY)).all()
    ]
    return table.assign(**{name: numbers[name] for name in numeric})


def read_mechanisms(path: Path) -> pd.DataFrame:
    """Read the table of mechanisms: compound, concentration (µM) and mechanism of each treatment.

    The mechanism's column may be called ``moa``, ``mechanism`` or ``Metadata_MoA``, in any case.

    Raises
    ------
    DataError
        The table is missing or empty, lacks a column, or gives a treatment twice.
    """
    texts = read_texts(path)
    wanted = {
        "Metadata_Compound": ("compound",),
        "Metadata_Concentration": ("concentration",),
        MECHANISM: ("moa", "mechanism"),
    }
    names = _find_columns(texts, path, wanted)
    if texts.empty:
        raise DataError(
            f"{path}: the mechanism table has no rows. Expected one row a treatment: compound, concentration, "
            "mechanism; or leave the table out to run without scores."
        )
    return check_table(texts.rename(columns=names)[list(names.values())], MECHANISMS, str(path))


def _find_columns(texts: pd.DataFrame, path: Path, wanted: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Find each wanted column under one of its names, with any of the prefixes in use."""
    found: dict[str, str] = {}
    for name, words in wanted.items():
        spellings = [f"{prefix}{word}".lower() for prefix in _PREFIXES for word in words]
        matches = [column for column in texts.columns if column.strip().lower() in spellings]
        if len(matches) != 1:
            problem = f"has several columns that could be it ({', '.join(matches)})" if matches else "has none"
            raise DataError(
                f"{path}: expected one column {' or '.join(words)}, the table {problem}. "
                f"Found: {list_some(list(texts.columns), 12)}."
            )
        found[matches[0]] = name
    return found


def describe_wells(
    wells: pd.DataFrame,
    *,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
    source: str,
) -> pd.DataFrame:
    """Add batch and control type to a table with plates and compounds.

    Parameters
    ----------
    wells
        Any table with ``Metadata_Plate`` and ``Metadata_Compound``.
    controls, positive_controls
        Compounds of untreated wells, and of positive controls.
    batch_pattern
        Regular expression; its first group, found in a plate's name, is the batch.

    Raises
    ------
    DataError
        The pattern does not fit a plate's name.
    """
    batches = {}
    for plate in wells["Metadata_Plate"].unique():
        match = re.search(batch_pattern, plate)
        if match is None or not match.groups():
            raise DataError(
                f"{source}: the batch of plate {plate!r} is not found by batch_pattern {batch_pattern!r}. "
                "Set screen.batch_pattern: its first group is the batch; '^(.*)$' makes each plate one."
            )
        batches[plate] = match.group(1)
    compounds = wells["Metadata_Compound"]
    kinds = pd.Series("trt", index=wells.index, dtype="str")
    kinds = kinds.mask(compounds.isin(positive_controls), "poscon").mask(compounds.isin(controls), "negcon")
    return wells.assign(Metadata_Batch=wells["Metadata_Plate"].map(batches).astype("str"), Metadata_control_type=kinds)


def check_wells(screen: pd.DataFrame, source: str) -> None:
    """Refuse a screen in which a well has two treatments.

    Raises
    ------
    DataError
        Names the first such well and its treatments.
    """
    several = screen.drop_duplicates([*WELL, *TREATMENT])
    twice = several[several.duplicated(WELL, keep=False)]
    if twice.empty:
        return
    plate, well = twice.iloc[0][WELL]
    here = twice[(twice["Metadata_Plate"] == plate) & (twice["Metadata_Well"] == well)]
    num_wells = len(twice.drop_duplicates(WELL))
    raise DataError(
        f"{source}: {num_wells} well{'s have' if num_wells > 1 else ' has'} more than one treatment, first: "
        f"{plate} {well} ({' and '.join(treatment_names(here))}). Expected one compound at one concentration a well."
    )
