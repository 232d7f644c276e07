"""Profiles of any origin, and the plate maps that say what was in their wells.

CellProfiler, pycytominer, DeepProfiler, AnnData: whatever made a table, what is read here has our metadata columns and
otherwise nothing but features.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.columns import (
    WELL_FIELDS,
    Field,
    as_plain,
    find_columns,
    is_empty,
    is_field,
    read_columns,
    read_fields,
    read_with_fields,
)
from cytoclr.data.files import METADATA_PREFIXES, read_header
from cytoclr.data.readers.deepprofiler import read_deepprofiler
from cytoclr.data.readers.h5ad import read_h5ad
from cytoclr.data.screen import check_wells
from cytoclr.errors import DataError, list_some
from cytoclr.grouping import check_constant
from cytoclr.tables import SITE, WELL, WELL_METADATA, WELL_PROFILES, Table, check_table, feature_columns

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
_OBJECT_NUMBER = re.compile(r"(\w+_)?(Number_Object_Number|ObjectNumber)")


def read_profiles(path: Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
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

    Returns
    -------
    pandas.DataFrame
        First ``Metadata_Plate`` and ``Metadata_Well``, and those of ``Metadata_Batch``, ``Metadata_Compound``,
        ``Metadata_Concentration``, ``Metadata_control_type``, ``Metadata_Site`` and ``Metadata_NumCells`` that the
        table has (texts: empty is ``""``); then its other ``Metadata_`` columns; then the features, in their order.
        A feature may have gaps.

    Raises
    ------
    SettingsError
        `columns` has a word that is none of the above; or the file is AnnData, and anndata is not installed.
    DataError
        The file is missing or not of its kind; two columns have the same name; a column that `columns` names is not
        there; several columns could be the same field and differ; there is no plate, no well, no row or no feature; a
        plate or a well is empty; a site of DeepProfiler's stands twice or has another number of features.

    Notes
    -----
    What is left out is told in the log: columns that are not all numbers; CellProfiler's numbers of images and
    measurements of whole images; and, where a row is a cell or a site, CellProfiler's numbers and positions of objects
    (``Parent``, ``Location``, ``Number_Object_Number``, ``BoundingBox``…). In a table of wells these are averages, and
    stay: the published scores of BBBC021's (Ljosa et al. 2013) are with them.

    Pickled members of ``.npz`` files, which could run anything when loaded, are not touched.
    """
    told = columns or {}
    frame = _read_rows(path, told)
    found = find_columns(frame, WELL_FIELDS, told=told, needed=("plate", "well"), path=path)
    if frame.empty:
        raise DataError(f"{path}: the table has no rows. Expected one a well, a site or a cell.")
    metadata = _read_metadata(frame, found, path)
    return pd.concat([metadata, _select_features(frame, metadata, found, path)], axis=1)


def read_wells(path: Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read a plate map: the compound and the concentration of every well.

    Parameters
    ----------
    path
        CSV or Parquet, one row a well, or several that agree (one a site).
    columns
        The map's own name of a field, as in `read_profiles`.

    Returns
    -------
    pandas.DataFrame
        One row a well, in the map's order: ``Metadata_Plate``, ``Metadata_Well``, ``Metadata_Batch`` if the map has it,
        ``Metadata_Compound``, ``Metadata_Concentration`` (µM; nought where it is empty in a well marked ``negcon``),
        ``Metadata_control_type`` if the map has it.

    Raises
    ------
    SettingsError
        `columns` has an unknown word.
    DataError
        The file is missing or not of its kind; a column is missing, ambiguous or named twice; there is no row; a value
        is empty or of another kind; a well has two treatments, batches or control types.
    """
    rows = read_fields(path, WELL_FIELDS, told=columns or {}, needed=("plate", "well", "compound", "concentration"))
    if rows.empty:
        raise DataError(f"{path}: the plate map has no rows. Expected one a well.")
    wells = rows[[name for name in WELL_METADATA if name in rows]]
    if "Metadata_control_type" in wells:
        concentrations = wells["Metadata_Concentration"]
        untreated = (wells["Metadata_control_type"] == "negcon") & is_empty(concentrations)
        wells = wells.assign(Metadata_Concentration=concentrations.mask(untreated, 0.0))
    declared = tuple(column for column in WELL_PROFILES.columns if column.name in wells)
    wells = check_table(wells, Table("plate map", declared, key=()), str(path))
    check_wells(wells, str(path))
    check_constant(wells, WELL, [name for name in wells.columns if name not in WELL], str(path))
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
        where no well has two rows.

    Raises
    ------
    DataError
        A well of the profiles is not among the wells, or these are not as declared.
    """
    about = wells.drop_duplicates(WELL)[[name for name in WELL_METADATA if name in wells.columns]]
    about = check_table(about, WELL_PROFILES, f"{source}: its plate map")[WELL_METADATA]
    known = pd.MultiIndex.from_frame(about[WELL])
    ours = profiles[WELL].drop_duplicates()
    unknown = ours[~pd.MultiIndex.from_frame(ours).isin(known)]
    if len(unknown):
        plate, well = unknown.iloc[0]
        raise DataError(
            f"{source}: {len(unknown):,} of {len(ours):,} wells are not in the screen table, first: {plate} {well}. "
            "Expected the plate and well names of both to agree."
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


def _read_metadata(frame: pd.DataFrame, found: Mapping[Field, str], path: Path) -> pd.DataFrame:
    """Take the fields, then all else that is metadata by its prefix, under our names."""
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
    return pd.concat([ours, pd.DataFrame(others, index=ours.index)], axis=1)


def _select_features(
    frame: pd.DataFrame, metadata: pd.DataFrame, found: Mapping[Field, str], path: Path
) -> pd.DataFrame:
    """Choose the columns that are features, and say which are not."""
    taken = set(found.values())
    rest = [name for name in frame.columns if name not in taken and not name.startswith(METADATA_PREFIXES)]
    averages = not _has_rows_within_wells(frame, metadata)
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
    return frame[names].astype(dict.fromkeys(nullable, "float64"))


def _has_rows_within_wells(frame: pd.DataFrame, metadata: pd.DataFrame) -> bool:
    """Tell whether a row is a cell or a site: a well has several, or a row has the number of an object."""
    if metadata.duplicated(WELL).any():
        return True
    numbers = [name for name in frame.columns if _OBJECT_NUMBER.fullmatch(name)]
    return any((pd.to_numeric(frame[name], errors="coerce") % 1 == 0).all() for name in numbers)


def _is_bookkeeping(name: str, *, averages: bool) -> bool:
    if _OF_IMAGES.fullmatch(name) or is_field(name, WELL_FIELDS):
        return True
    return not averages and _OF_OBJECTS.fullmatch(name) is not None
