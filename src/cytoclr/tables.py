"""The columns of every table: name, type, unit, key; and one check that all tables pass.

Metadata columns begin with ``Metadata_``; every other numeric column of an embedding or profile table is a
feature. Mechanisms have a table of their own (`MECHANISMS`), so stages that must not see them never do.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from cytoclr.errors import DataError, list_some

__all__ = [
    "CELLS",
    "CONTROL_TYPES",
    "EMBEDDINGS",
    "FEW_CELLS",
    "ILLUMINATION_PREFIX",
    "LOCATED_CELLS",
    "LOCATIONS",
    "MASK_PATH",
    "MECHANISM",
    "MECHANISMS",
    "NUM_CELLS",
    "PATH_PREFIX",
    "PLANE_PREFIX",
    "SCREEN",
    "SITE",
    "SITE_PROFILES",
    "TRAINED",
    "TREATMENT",
    "TREATMENT_PROFILES",
    "WELL",
    "WELL_METADATA",
    "WELL_PROFILES",
    "WELL_ROWS",
    "Column",
    "Table",
    "channel_names",
    "check_table",
    "feature_columns",
    "feature_matrix",
    "is_control",
    "round_concentrations",
    "select_enough_cells",
    "sort_naturally",
    "treatment_names",
]

Kind = Literal["text", "integer", "number"]

#: What identifies a well, a site of it, and a treatment.
WELL = ["Metadata_Plate", "Metadata_Well"]
SITE = [*WELL, "Metadata_Site"]
TREATMENT = ["Metadata_Compound", "Metadata_Concentration"]
#: What is known of a well before any image is read.
WELL_METADATA = [*WELL, "Metadata_Batch", *TREATMENT, "Metadata_control_type"]
#: Column of the mechanism of action, in the one table that has it.
MECHANISM = "Metadata_MoA"
#: A screen names the file of each channel in a column ``Path_<channel>``.
PATH_PREFIX = "Path_"
#: Where a file holds several planes: which of them (from 0) is the channel's, in a column ``Plane_<channel>``.
PLANE_PREFIX = "Plane_"
#: Where the screen brings its own illumination functions: their files, in columns ``Illum_<channel>``.
ILLUMINATION_PREFIX = "Illum_"
#: The file of a site's label mask, where it has one.
MASK_PATH = "Mask"
#: What the profiles of a run's own encoder, or those that are evaluated, are called beside their baselines.
TRAINED = "trained"
#: How many cells a profile stands for.
NUM_CELLS = "Metadata_NumCells"
#: A well with fewer cells than were asked for: kept in the tables, but in no fit, treatment or score.
FEW_CELLS = "Metadata_FewCells"
#: JUMP's words: negative control (untreated), positive control, treated.
CONTROL_TYPES = ("negcon", "poscon", "trt")


@dataclass(frozen=True)
class Column:
    """One column: its name, what it holds, in which unit, and what may be in it."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    may_be_empty: bool = False


@dataclass(frozen=True)
class Table:
    """What a table must have: its columns, and the columns (if any) whose values together name a row once."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]


_PLATE = Column("Metadata_Plate", "text", "plate")
_WELL = Column("Metadata_Well", "text", "well, as B02")
_SITE = Column("Metadata_Site", "integer", "site: a field of view of the well")
_COMPOUND = Column("Metadata_Compound", "text", "compound")
_CONCENTRATION = Column("Metadata_Concentration", "number", "concentration", unit="µM", minimum=0.0)
_ABOUT_WELL = (
    _PLATE,
    _WELL,
    Column("Metadata_Batch", "text", "plates made together: a week, an experiment"),
    _COMPOUND,
    _CONCENTRATION,
    Column("Metadata_control_type", "text", "untreated, positive control or treated", allowed=CONTROL_TYPES),
)
_CELL_ID = Column("Metadata_CellID", "text", "plate_well_site_object")
_NUM_CELLS = Column("Metadata_NumCells", "integer", "cells averaged into the profile", minimum=1.0)

SCREEN = Table("screen", (*_ABOUT_WELL, _SITE), key=tuple(SITE))
LOCATIONS = Table(
    "locations",
    (
        _PLATE,
        _WELL,
        _SITE,
        Column("Metadata_Object", "integer", "number of the cell in its site"),
        Column("x", "number", "column of the cell's centre", unit="px"),
        Column("y", "number", "row of the cell's centre", unit="px"),
    ),
    key=(*SITE, "Metadata_Object"),
)
#: Cells as they are located, or ready crops as they are read.
LOCATED_CELLS = Table(
    "cells",
    (
        _CELL_ID,
        *_ABOUT_WELL,
        _SITE,
        Column("Metadata_Object", "integer", "number of the cell in its site"),
        Column("x", "number", "column of the cell's centre; empty for ready crops", unit="px", may_be_empty=True),
        Column("y", "number", "row of the cell's centre; empty for ready crops", unit="px", may_be_empty=True),
    ),
    key=("Metadata_CellID",),
)
#: Cells as they are cropped.
CELLS = Table(
    "cells",
    (
        *LOCATED_CELLS.columns,
        Column("Metadata_Flags", "text", "what may be wrong with the crop, joined by +", may_be_empty=True),
        Column("Quality_Focus", "number", "sharpness of the nuclei channel", may_be_empty=True),
        Column("Quality_Saturation", "number", "largest share of saturated pixels of a channel", may_be_empty=True),
        Column("Quality_Intensity", "number", "nuclei channel: centre above border", may_be_empty=True),
    ),
    key=("Metadata_CellID",),
)
EMBEDDINGS = Table("embeddings", (_CELL_ID, *_ABOUT_WELL, _SITE), key=("Metadata_CellID",))
SITE_PROFILES = Table("site profiles", (*_ABOUT_WELL, _SITE, _NUM_CELLS), key=tuple(SITE))
#: Rows that may be wells, sites or cells.
WELL_ROWS = Table("profiles", _ABOUT_WELL, key=())
WELL_PROFILES = Table("well profiles", _ABOUT_WELL, key=tuple(WELL))
TREATMENT_PROFILES = Table("treatment profiles", (_COMPOUND, _CONCENTRATION), key=tuple(TREATMENT))
MECHANISMS = Table(
    "mechanisms",
    (
        _COMPOUND,
        replace(_CONCENTRATION, meaning="concentration; empty: the mechanism holds for all others", may_be_empty=True),
        Column(MECHANISM, "text", "mechanism of action"),
    ),
    key=tuple(TREATMENT),
)


def check_table(frame: pd.DataFrame, table: Table, source: str) -> pd.DataFrame:
    """Return the table with the declared types, or say what is wrong with it and where.

    Parameters
    ----------
    frame
        What was read or computed. Columns beyond the declared ones are kept as they are.
    table
        The declaration to hold it against.
    source
        Where the frame came from (a file name), for the message.

    Raises
    ------
    DataError
        A column is missing, a value is empty, of another type, not finite, below its minimum or not among the
        allowed ones, or two rows have the same key. The message names the first row (counted from 1, the line
        after the header) and the column.
    """
    missing = [column.name for column in table.columns if column.name not in frame.columns]
    if missing:
        raise DataError(
            f"{source}: the {table.name} table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. "
            f"Found: {list_some(list(frame.columns), 12)}."
        )
    checked = {column.name: _check_column(frame[column.name], column, source) for column in table.columns}
    result = frame.assign(**checked)
    if not table.key:  # pandas cannot look for duplicates among no columns
        return result
    repeated = result.duplicated(subset=list(table.key), keep=False).to_numpy()
    if repeated.any():
        rows = np.flatnonzero(repeated)
        places = result.groupby(list(table.key), dropna=False).ngroup().to_numpy()
        same = rows[places[rows] == places[rows[0]]]
        values = result.iloc[rows[0]][list(table.key)]
        raise DataError(
            f"{source}: rows {same[0] + 1} and {same[1] + 1} have the same {_words(table.key)}: "
            f"{', '.join('empty' if pd.isna(value) else str(value) for value in values)}. Expected each once; "
            f"{len(rows)} rows are concerned."
        )
    return result


def _check_column(values: pd.Series, column: Column, source: str) -> pd.Series:
    empty = values.isna().to_numpy()
    if column.kind == "text":
        result = values.astype("str")
        empty = empty | (result.str.strip() == "").to_numpy()
        if column.may_be_empty:
            return result.mask(pd.Series(empty, index=values.index), "")
        _refuse(empty, values, column, source, "is empty", column.meaning)
        if column.allowed:
            wrong = ~result.isin(column.allowed).to_numpy()
            _refuse(wrong, values, column, source, "is not known", f"one of {', '.join(column.allowed)}")
        return result
    if not column.may_be_empty:
        _refuse(empty, values, column, source, "is empty", f"{column.meaning} {column.unit}".strip())
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(numbers) & ~empty
    if column.kind == "integer":
        wrong |= numbers != np.round(numbers)
    expected = "a whole number" if column.kind == "integer" else f"a number {column.unit}".strip()
    _refuse(wrong, values, column, source, "is of another kind", expected)
    if column.minimum is not None:
        low = numbers < column.minimum
        _refuse(low, values, column, source, "is too small", f"at least {column.minimum:g} {column.unit}".strip())
    dtype = np.int64 if column.kind == "integer" else np.float64
    return pd.Series(numbers.astype(dtype), index=values.index, name=column.name)


def _refuse(wrong: np.ndarray, values: pd.Series, column: Column, source: str, problem: str, expected: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows) == 0:
        return
    first = values.iloc[rows[0]]
    found = first.item() if isinstance(first, np.generic) else first  # inf, not np.float64(inf)
    raise DataError(
        f"{source}: {column.name} {problem} in {len(rows):,} of {len(values):,} rows, first in row {rows[0] + 1}: "
        f"found {found!r}, expected {expected}."
    )


def _words(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix("Metadata_") for name in names)


def channel_names(screen: pd.DataFrame) -> list[str]:
    """Names of a screen's channels, in the order of its path columns."""
    return [name.removeprefix(PATH_PREFIX) for name in screen.columns if name.startswith(PATH_PREFIX)]


def feature_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the numeric columns that are not metadata, in their order."""
    numeric = frame.select_dtypes("number").columns
    return [name for name in numeric if not name.startswith(("Metadata_", "Image_"))]


def feature_matrix(frame: pd.DataFrame) -> Float[np.ndarray, "row feature"]:
    """Copy the features of a table into one matrix of doubles."""
    return frame[feature_columns(frame)].to_numpy(dtype=np.float64, copy=True)


def is_control(frame: pd.DataFrame) -> pd.Series:
    """Tell which rows are of untreated wells."""
    return frame["Metadata_control_type"] == "negcon"


def select_enough_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the wells that are flagged for too few cells, where wells are flagged at all."""
    return frame[~frame[FEW_CELLS].astype(bool)] if FEW_CELLS in frame.columns else frame


def sort_naturally(names: Iterable[str]) -> list[str]:
    """Sort different names so that numbers in them count as numbers.

    >>> sort_naturally(["Week10", "Week2", "Week2"])
    ['Week2', 'Week10']
    """
    parts = {str(name): re.split(r"(\d+)", str(name)) for name in names}
    return sorted(parts, key=lambda name: [(int(part) if part.isdecimal() else -1, part) for part in parts[name]])


def treatment_names(frame: pd.DataFrame) -> pd.Series:
    """Name each row's treatment for people: ``taxol 0.3 µM``, ``DMSO`` where the concentration is nought."""
    doses = [f"{value:.6g}" for value in frame["Metadata_Concentration"]]
    names = [
        str(compound) if dose == "0" else f"{compound} {dose} µM"
        for compound, dose in zip(frame["Metadata_Compound"], doses, strict=True)
    ]
    return pd.Series(names, index=frame.index, name="treatment", dtype="str")


def round_concentrations(frame: pd.DataFrame) -> pd.DataFrame:
    """Round concentrations to six significant digits: tables that passed through single precision still join."""
    if "Metadata_Concentration" not in frame:
        return frame  # the check of columns says so in its own words
    doses = frame["Metadata_Concentration"]
    return frame.assign(
        Metadata_Concentration=doses.map(lambda dose: float(f"{dose:.6g}") if isinstance(dose, int | float) else dose)
    )
