"""Profiles of any origin, and the plate maps that say what was in their wells.

CellProfiler, pycytominer, DeepProfiler, AnnData: whatever made a table, what is read here has our metadata columns and
otherwise nothing but features.
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cytoclr.data.columns import (
    WELL_FIELDS,
    Field,
    as_plain,
    find_columns,
    how_to_tell,
    is_field,
    read_columns,
    read_with_fields,
    show_value,
)
from cytoclr.data.files import METADATA_PREFIXES, read_header
from cytoclr.data.readers.deepprofiler import read_deepprofiler
from cytoclr.data.readers.h5ad import read_h5ad
from cytoclr.data.screen import check_wells, settle_wells
from cytoclr.errors import DataError, list_some
from cytoclr.grouping import check_constant
from cytoclr.tables import (
    FEW_CELLS,
    NUM_CELLS,
    SITE,
    WELL,
    WELL_METADATA,
    WELL_PROFILES,
    Table,
    check_table,
    feature_columns,
)

__all__ = ["is_image_table", "join_wells", "read_profiles", "read_wells"]

logger = logging.getLogger(__name__)

#: Names of tables in a folder end so.
_TABLES = (".parquet", ".csv", ".csv.gz", ".h5ad")

#: CellProfiler's numbers of images, and measurements of whole images: none is a feature of a well's cells.
_OF_IMAGES = re.compile(r"(Image|Object|Table)Number|Image_.*")
#: CellProfiler's columns that say which object a cell is and where it lies, not how it looks.
_OF_OBJECTS = re.compile(
    r"\w+?_(Number_Object_Number|Parent_\w+|Location_\w+|AreaShape_(Center|BoundingBox(Minimum|Maximum))_[XYZ]"
    r"|Neighbors_(First|Second)ClosestObjectNumber_\w+)"
)
#: The number of a cell, as CellProfiler and pycytominer call it, and we.
_OBJECT_NUMBER = re.compile(r"(\w+_)?(Number_Object_Number|ObjectNumber)|Metadata_Object")
_CELL_ID = "Metadata_CellID"


def read_profiles(
    path: Path, *, columns: Mapping[str, str] | None = None, controls: Collection[str] | None = None
) -> pd.DataFrame:
    """Read someone's table of profiles: metadata get our names, every other column of numbers is a feature.

    A row may be a well, a site or a single cell.

    Parameters
    ----------
    path
        By its name: Parquet (``.parquet``); AnnData (``.h5ad``: ``obs`` are metadata, ``X`` the features); a folder of
        such tables with the same columns, as one a plate; a folder of DeepProfiler's features (``PLATE/WELL/SITE.npz``,
        ``PLATE/WELL_SITE.npz`` or ``PLATE_WELL_SITE.npz``, one row a cell); anything else is read as CSV, plain or
        gzipped.
    columns
        The table's own name of ``plate``, ``well``, ``site``, ``batch``, ``compound``, ``concentration`` (in µM: its
        numbers are taken as they stand), ``control_type`` or ``num_cells``, as
        ``{"compound": "Metadata_pert_iname"}``. What is not named is looked for under our name, with any of the
        prefixes in use (``Metadata_``, ``Image_Metadata_``, none), in any case.
    controls
        Compounds of untreated wells, where no plate map but the table itself says what is in its wells: that is then
        checked, empty wells are left out, and an untreated well's empty concentration is nought (see
        `cytoclr.data.screen.settle_wells`). None: it is taken as it stands.

    Returns
    -------
    pandas.DataFrame
        First ``Metadata_Plate`` and ``Metadata_Well``, and those of ``Metadata_Batch``, ``Metadata_Compound``,
        ``Metadata_Concentration``, ``Metadata_control_type``, ``Metadata_Site`` and ``Metadata_NumCells`` that the
        table has (texts: empty is ``""``); then its other ``Metadata_`` columns; then the features, in their order.
        A feature may have gaps. Where a row is known to be one cell (it has an object's number, or is DeepProfiler's),
        ``Metadata_NumCells`` is 1 unless the table tells it.

    Raises
    ------
    SettingsError
        `columns` has a word that is none of the above; or the file is AnnData, and anndata is not installed.
    DataError
        The file is missing or not of its kind; two columns have the same name; a column that `columns` names is not
        there; several columns could be the same field and differ; there is no plate, no well, no row or no feature; a
        plate or a well is empty; some wells have several rows that differ, but not most, and nothing numbers them; a
        number of cells is none, or nought in all rows; ``Metadata_FewCells`` is neither true nor false; a site of
        DeepProfiler's stands twice or has another number of features; with `controls`, what `settle_wells` refuses.

    Notes
    -----
    What is left out is told in the log: rows that are copies of another in every column; rows of no cells, whose
    features describe nothing; empty wells; columns that are not all numbers; CellProfiler's numbers of images and
    measurements of whole images; and, where a row is a cell or a site, CellProfiler's numbers and positions of objects
    (``Parent``, ``Location``, ``Number_Object_Number``, ``BoundingBox``…). In a table of wells these are averages, and
    stay: the published scores of BBBC021's (Ljosa et al. 2013) are with them.

    Pickled members of ``.npz`` files, which could run anything when loaded, are not touched.
    """
    told = columns or {}
    frame = _read_rows(path, told)
    found = find_columns(frame, WELL_FIELDS, told=told, needed=("plate", "well"), path=path)
    if frame.empty:
        raise DataError(f"{path}: the table has no rows. Expected one a well, a site or a cell.", code="META001")
    names = {field.column: theirs for field, theirs in found.items()}
    ours, others = _read_metadata(frame, found, path)
    ours = _leave_out_copies(frame, ours, names, path)
    if controls is not None and "Metadata_Compound" in ours:
        ours = settle_wells(ours, controls=controls, names=names, source=str(path))
        ours = _leave_out_empty_wells(ours, names, path)
    if NUM_CELLS in ours:
        ours = _leave_out_no_cells(ours, names[NUM_CELLS], path)
    if len(ours) < len(frame):
        frame, others = frame.loc[ours.index], others.loc[ours.index]
    if FEW_CELLS in others:
        others = others.assign(**{FEW_CELLS: _read_flags(others[FEW_CELLS], path)})
    rows = _tell_rows(frame, ours, path)
    if rows == "cells" and NUM_CELLS not in ours:
        ours = ours.assign(**{NUM_CELLS: 1})
    features = _select_features(frame, found, path, averages=rows == "wells")
    return pd.concat([ours, others, features], axis=1).reset_index(drop=True)


def read_wells(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    controls: Collection[str] = (),
    needs_doses: bool = True,
) -> pd.DataFrame:
    """Read a plate map: the compound and the concentration of every well.

    Parameters
    ----------
    path
        CSV or Parquet, one row a well, or several that agree (one a site).
    columns
        The map's own name of a field, as in `read_profiles`.
    controls
        Compounds of untreated wells.
    needs_doses
        Refuse a map without a column of the concentration; else all its wells have nought, and the log says so.

    Returns
    -------
    pandas.DataFrame
        One row a well, in the map's order: ``Metadata_Plate``, ``Metadata_Well``, ``Metadata_Batch`` if the map has it,
        ``Metadata_Compound`` (``""``: an empty well, which `join_wells` leaves out), ``Metadata_Concentration`` (µM;
        nought where it is empty in an untreated well), ``Metadata_control_type`` if the map has it.

    Raises
    ------
    SettingsError
        `columns` has an unknown word.
    DataError
        The file is missing or not of its kind; a column is missing, ambiguous or named twice; there is no row; a value
        is empty or of another kind (see `cytoclr.data.screen.settle_wells`); a well has two treatments, batches or
        control types.
    """
    told = columns or {}
    frame = read_with_fields(path, WELL_FIELDS, told=told)
    needed = ("plate", "well", "compound", *(("concentration",) if needs_doses else ()))
    found = find_columns(frame, WELL_FIELDS, told=told, needed=needed, path=path)
    if frame.empty:
        raise DataError(f"{path}: the plate map has no rows. Expected one a well.", code="META001")
    rows = read_columns(frame, found)
    if "Metadata_Concentration" not in rows:
        logger.warning(
            "%s: no column of the concentration: each compound counts as one treatment. If there is one under another "
            "name, tell it: %s. (META002)",
            path,
            how_to_tell("concentration"),
        )
        rows = rows.assign(Metadata_Concentration=0.0)
    names = {field.column: theirs for field, theirs in found.items()}
    wells = settle_wells(
        rows[[name for name in WELL_METADATA if name in rows]], controls=controls, names=names, source=str(path)
    )
    declared = tuple(column for column in WELL_PROFILES.columns if column.name in wells)
    empty = wells["Metadata_Compound"] == ""
    wells = wells.assign(Metadata_Compound=wells["Metadata_Compound"].mask(empty, "no compound"))  # to pass the check
    wells = check_table(wells, Table("plate map", declared, key=()), str(path))
    check_wells(wells, str(path))
    check_constant(wells, WELL, [name for name in wells.columns if name not in WELL], str(path))
    wells = wells.assign(Metadata_Compound=wells["Metadata_Compound"].mask(empty, ""))
    return wells.drop_duplicates(WELL, ignore_index=True)


def is_image_table(path: Path) -> bool:
    """Tell an image table (``Image_FileName_<channel>``, as BBBC021's) from a plate map, by its header.

    A file that cannot be read is none; who reads it next says what is wrong with it.
    """
    return any(name.startswith("Image_FileName_") for name in read_header(path))


def join_wells(profiles: pd.DataFrame, wells: pd.DataFrame, source: str) -> pd.DataFrame:
    """Give every profile the metadata that the plate map or the screen has of its well.

    Parameters
    ----------
    profiles
        One row a well, a site or a cell, with ``Metadata_Plate`` and ``Metadata_Well``.
    wells
        The columns of `cytoclr.tables.WELL_METADATA`, one or several rows a well; the first counts.
    source
        Where the profiles came from, for the message.

    Returns
    -------
    pandas.DataFrame
        The columns of `cytoclr.tables.WELL_METADATA`, which replace those of the profiles, then the rest. Wells in the
        order of `wells`, rows of a well in their own. Wells without a profile are left out; a site's number too,
        where no well has two rows. Wells that are empty (no compound) are left out and counted in the log.

    Raises
    ------
    DataError
        A well of the profiles is not among the wells, all of them are empty, or the wells are not as declared.
    """
    about = wells.drop_duplicates(WELL)[[name for name in WELL_METADATA if name in wells.columns]]
    known = pd.MultiIndex.from_frame(about[WELL])
    empty = about["Metadata_Compound"] == "" if "Metadata_Compound" in about else pd.Series(False, index=about.index)
    about = check_table(about[~empty], WELL_PROFILES, f"{source}: its plate map")[WELL_METADATA]
    ours = profiles[WELL].drop_duplicates()
    unknown = ours[~pd.MultiIndex.from_frame(ours).isin(known)]
    if len(unknown):
        plate, well = unknown.iloc[0]
        raise DataError(
            f"{source}: {len(unknown):,} of {len(ours):,} wells are not in the screen table, first: {plate} {well}. "
            "Expected the plate and well names of both to agree."
        )
    unfilled = ours[pd.MultiIndex.from_frame(ours).isin(known[empty.to_numpy()])]
    if len(unfilled):
        if len(unfilled) == len(ours):
            raise DataError(
                f"{source}: none of its {len(ours):,} wells has a compound by the plate map. Expected some."
            )
        logger.warning(
            "%s: %s of %s wells are empty by the plate map and left out, first: %s %s.",
            source,
            f"{len(unfilled):,}",
            f"{len(ours):,}",
            *unfilled.iloc[0],
        )
    replaced = set(WELL_METADATA[2:])
    if len(ours) == len(profiles):
        replaced |= set(SITE[2:])
    rest = profiles[[name for name in profiles.columns if name not in replaced]]
    return about.merge(rest, on=WELL, how="inner", validate="1:m")


def _read_rows(path: Path, told: Mapping[str, str]) -> pd.DataFrame:
    """Read a file or folder of any kind as it stands, its column names each once."""
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if file.name.endswith(_TABLES))
        return _read_tables(tables, told) if tables else read_deepprofiler(path)
    if path.suffix == ".h5ad":
        return read_h5ad(path)
    return read_with_fields(path, WELL_FIELDS, told=told)


def _read_tables(paths: Sequence[Path], told: Mapping[str, str]) -> pd.DataFrame:
    """Read tables of one kind, as one a plate, as one table."""
    frames: list[pd.DataFrame] = []
    for path in paths:
        frame = _read_rows(path, told)
        differing = sorted(set(frame.columns) ^ set(frames[0].columns if frames else frame.columns))
        if differing:
            raise DataError(
                f"{path}: has other columns than {paths[0].name} beside it, {len(differing)} differ: "
                f"{list_some(differing)}. Expected the tables of a folder to have the same."
            )
        frames.append(frame)
    logger.info("%s: read %d tables as one", paths[0].parent, len(frames))
    return pd.concat(frames, ignore_index=True)


def _read_metadata(frame: pd.DataFrame, found: Mapping[Field, str], path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the fields, and all else that is metadata by its prefix, under our names."""
    ours = read_columns(frame, found)
    for word in ("plate", "well"):
        field = WELL_FIELDS[word]
        empty = np.flatnonzero(ours[field.column].str.strip() == "")
        if len(empty):
            raise DataError(
                f"{path}: {found[field]} is empty in {len(empty):,} of {len(frame):,} rows, first in row "
                f"{empty[0] + 1}. Expected the {word} of every row."
            )
    taken = set(found.values())
    others: dict[str, pd.Series] = {}
    for prefix in METADATA_PREFIXES:  # in this order: who has our prefix has the name
        for theirs in frame.columns:
            name = f"Metadata_{theirs.removeprefix(prefix)}"
            if theirs.startswith(prefix) and theirs not in taken and name not in ours and name not in others:
                others[name] = as_plain(frame[theirs])
    return ours, pd.DataFrame(others, index=ours.index)


def _leave_out_copies(frame: pd.DataFrame, ours: pd.DataFrame, names: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Keep the first of rows that are alike in every column; count the others.

    Cells that nothing numbers may well be alike, so these stay: copies are left out where rows are numbered, or where
    without them there is one row a well.
    """
    # Most rows are told apart by a few numbers: only those that are not are compared in full, as texts.
    places, numbers = [names[name] for name in WELL], list(frame.select_dtypes("number").columns)
    alike = frame.index
    for start in range(0, len(numbers), 8):
        rows = frame.loc[alike, list(dict.fromkeys([*places, *numbers[start : start + 8]]))]
        alike = rows.index[rows.duplicated(keep=False)]
    texts = frame.loc[alike].astype("str")
    copies = ours.loc[texts.index[texts.duplicated()], WELL]
    kept = ours.drop(index=copies.index)
    is_numbered = "Metadata_Site" in ours or any(_OBJECT_NUMBER.fullmatch(str(name)) for name in frame.columns)
    if copies.empty or (kept.duplicated(WELL).any() and not is_numbered):
        return ours
    logger.warning(
        "%s: %s of %s rows %s, in every column, of a row above, and left out; first row %d (%s %s).",
        path,
        f"{len(copies):,}",
        f"{len(frame):,}",
        "are copies" if len(copies) > 1 else "is a copy",
        copies.index[0] + 1,
        *copies.iloc[0],
    )
    return kept


def _leave_out_empty_wells(ours: pd.DataFrame, names: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Keep the rows of wells that have a compound; count the others."""
    empty = ours["Metadata_Compound"] == ""
    if empty.any():
        wells = ours.loc[empty, WELL].drop_duplicates()
        marked = names.get("Metadata_control_type")
        logger.warning(
            "%s: %s of %s wells are empty (no %s%s): neither treated nor controls, they are left out; first in row %d "
            "(%s %s).",
            path,
            f"{len(wells):,}",
            f"{len(ours.drop_duplicates(WELL)):,}",
            names["Metadata_Compound"],
            f", or empty by {marked}" if marked else "",
            wells.index[0] + 1,
            *wells.iloc[0],
        )
    return ours[~empty]


def _leave_out_no_cells(ours: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    """Keep the rows of one cell or more; count those of none, and refuse a number of cells that is no number."""
    counts = ours[NUM_CELLS]
    numbers = pd.to_numeric(counts, errors="coerce").astype("float64")
    wrong = counts[~((numbers % 1 == 0) & (numbers >= 0))]
    if len(wrong):
        found = "empty" if pd.isna(wrong.iloc[0]) else f"'{show_value(wrong.iloc[0])}'"
        raise DataError(
            f"{path}: {name} is no number of cells in {len(wrong):,} of {len(counts):,} rows, first in row "
            f"{wrong.index[0] + 1}: found {found}. Expected whole numbers, at least 0; if it is something else, rename "
            f"it, or name the right column: {how_to_tell('num_cells')}."
        )
    none = numbers == 0
    if none.all():
        raise DataError(
            f"{path}: {name} is 0 in all {len(counts):,} rows, so their features describe nothing. Expected numbers of "
            "cells; correct the column or drop it."
        )
    if none.any():
        wells = ours.loc[none, WELL]
        logger.warning(
            "%s: %s of %s rows %s 0 cells by %s, first row %d (%s %s): their features describe nothing, and they are "
            "left out.",
            path,
            f"{len(wells):,}",
            f"{len(counts):,}",
            "have" if len(wells) > 1 else "has",
            name,
            wells.index[0] + 1,
            *wells.iloc[0],
        )
    return ours[~none].astype({NUM_CELLS: "int64"})


def _read_flags(values: pd.Series, path: Path) -> pd.Series:
    """Read flags, which CSV has as texts: ``False`` would else be true, as any text."""
    flags = values.astype("str").str.lower().map({"true": True, "false": False})
    wrong = values[flags.isna()]
    if len(wrong):
        raise DataError(
            f"{path}: {FEW_CELLS} is neither True nor False in {len(wrong):,} of {len(values):,} rows, first in row "
            f"{wrong.index[0] + 1}: found '{show_value(wrong.iloc[0])}'. Expected True where a well has too few cells, "
            "else False; or drop the column."
        )
    return flags.astype("bool")


def _tell_rows(frame: pd.DataFrame, ours: pd.DataFrame, path: Path) -> Literal["wells", "parts", "cells"]:
    """Tell for the table as a whole whether a row is a well, a known cell, or some part of a well: a site or a cell."""
    if _are_cells(frame):
        return "cells"
    repeated = ours.duplicated(WELL, keep=False)
    if not repeated.any():
        return "wells"
    num_wells, num_repeated = len(ours.drop_duplicates(WELL)), len(ours[repeated].drop_duplicates(WELL))
    numbered = set(SITE) <= set(ours.columns) and not ours.duplicated(SITE).any()
    if numbered or num_repeated > num_wells / 2:
        return "parts"
    plate, well = ours.loc[repeated, WELL].iloc[0]
    first, second = ours.index[(ours["Metadata_Plate"] == plate) & (ours["Metadata_Well"] == well)][:2]
    pair = frame.loc[[first, second]].astype("str").fillna("")
    differing = [name for name in pair.columns if pair.loc[first, name] != pair.loc[second, name]]
    raise DataError(
        f"{path}: {num_wells:,} wells, of which {num_repeated:,} {'have' if num_repeated > 1 else 'has'} rows that "
        f"differ, first {plate} {well} (rows {first + 1} and {second + 1}, in {list_some(differing, 3)}); expected one "
        "row a well, or several for all (sites, cells). Leave out the rows that are wrong, or name the column that "
        f"numbers the sites: {how_to_tell('site')}."
    )


def _are_cells(frame: pd.DataFrame) -> bool:
    """Tell whether rows are known to be cells: they have the numbers of objects (averages are seldom whole)."""
    if _CELL_ID in frame and frame[_CELL_ID].is_unique:
        return True
    numbers = [name for name in frame.columns if _OBJECT_NUMBER.fullmatch(name)]
    return any((pd.to_numeric(frame[name], errors="coerce") % 1 == 0).all() for name in numbers)


def _select_features(frame: pd.DataFrame, found: Mapping[Field, str], path: Path, *, averages: bool) -> pd.DataFrame:
    """Choose the columns that are features, and say which are not."""
    taken = set(found.values())
    rest = [name for name in frame.columns if name not in taken and not name.startswith(METADATA_PREFIXES)]
    bookkeeping = [name for name in rest if _is_bookkeeping(name, averages=averages)]
    if bookkeeping:
        logger.info(
            "%s: %d columns describe images or places of objects, are no features and are left out: %s",
            path,
            len(bookkeeping),
            list_some(bookkeeping),
        )
    others = frame[[name for name in rest if name not in set(bookkeeping)]]
    names = feature_columns(others)
    texts = [name for name in others.columns if name not in set(names)]
    if texts:
        logger.warning("%s: columns that are not all numbers are no features: %s", path, list_some(texts))
    if not names:
        raise DataError(
            f"{path}: no numeric column that could be a feature. Found: {list_some(list(frame.columns), 12)}."
        )
    nullable = [name for name in names if not isinstance(frame[name].dtype, np.dtype)]
    return frame[names].astype(dict.fromkeys(nullable, "float64")).copy()  # a copy is in one piece


def _is_bookkeeping(name: str, *, averages: bool) -> bool:
    if _OF_IMAGES.fullmatch(name) or is_field(name, WELL_FIELDS):
        return True
    return not averages and _OF_OBJECTS.fullmatch(name) is not None
