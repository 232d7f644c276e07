"""Profiles of any origin, and the plate maps that say what was in their wells; AnnData out.

CellProfiler, pycytominer, DeepProfiler, AnnData: whatever made a table, what is read here has our metadata columns and
otherwise nothing but features.
"""

import csv
import gzip
import json
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Num
from scipy import sparse

from cytoclr.data.screen import EMPTY, check_wells, read_any_table
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.grouping import check_constant
from cytoclr.storage import open_atomic
from cytoclr.tables import (
    SITE,
    WELL,
    WELL_METADATA,
    WELL_PROFILES,
    Kind,
    Table,
    check_table,
    feature_columns,
)

__all__ = ["is_image_table", "join_wells", "read_profiles", "read_wells", "write_h5ad"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Field:
    """A metadata column of ours, and the words it goes by in tables of others."""

    column: str
    kind: Kind
    words: tuple[str, ...]

    def match(self, name: str) -> int | None:
        """Rank a column's name: 0 is ours, 1 has a word with any prefix, 2 CellProfiler's suffix (``…_DAPI``) too."""
        words = "|".join(self.words)
        patterns = (rf"(image_metadata_|metadata_|)({words})", rf"image_metadata_({words})_[^_]+")
        if name == self.column:
            return 0
        ranks = (rank for rank, pattern in enumerate(patterns, 1) if re.fullmatch(pattern, name, re.IGNORECASE))
        return next(ranks, None)


#: The fields that `columns` can name. A compound or a concentration goes by many names and units: what is not spelled
#: out is not guessed.
_FIELDS = {
    "plate": _Field("Metadata_Plate", "text", ("plate",)),
    "well": _Field("Metadata_Well", "text", ("well",)),
    "batch": _Field("Metadata_Batch", "text", ("batch",)),
    "compound": _Field("Metadata_Compound", "text", ("compound",)),
    "concentration": _Field("Metadata_Concentration", "number", ("concentration",)),
    "control_type": _Field("Metadata_control_type", "text", ("control_type",)),
    "site": _Field("Metadata_Site", "integer", ("site",)),
    "num_cells": _Field("Metadata_NumCells", "integer", ("numcells", "num_cells", "object_count")),
}
_CONTROL = "Metadata_control_type"
#: Part of JUMP's and LINCS's vocabulary too, but there it may say no more than "control".
_PERTURBATION = _Field("Metadata_pert_type", "text", ("pert_type",))

#: CellProfiler's numbers of images, and measurements of whole images: none is a feature of a well's cells.
_OF_IMAGES = re.compile(r"(Image|Object|Table)Number|Image_.*")
#: CellProfiler's columns that say which object a cell is and where it lies, not how it looks.
_OF_OBJECTS = re.compile(
    r"\w+?_(Number_Object_Number|Parent_\w+|Location_\w+|AreaShape_(Center|BoundingBox(Minimum|Maximum))_[XYZ]"
    r"|Neighbors_(First|Second)ClosestObjectNumber_\w+)"
)
_OBJECT_NUMBER = re.compile(r"(\w+_)?(Number_Object_Number|ObjectNumber)")

_COMPARTMENTS = ("Cells", "Cytoplasm", "Nuclei")
_WELL_SITE = re.compile(r"(?:(?P<plate>.+)_)?(?P<well>[A-Za-z]{1,2}\d{1,3})_(?P<site>[^_]+)")


def read_profiles(path: Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read someone's table of profiles: metadata get our names, every other column of numbers is a feature.

    A row may be a well, a site or a single cell.

    Parameters
    ----------
    path
        By its name: Parquet (``.parquet``); AnnData (``.h5ad``: ``obs`` are metadata, ``X`` the features); a folder of
        DeepProfiler's features (``PLATE/WELL/SITE.npz``, ``PLATE/WELL_SITE.npz`` or ``PLATE_WELL_SITE.npz``, one row a
        cell); anything else is read as CSV, plain or gzipped.
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
    frame = _read_rows(path, columns or {})
    found = _find_fields(frame, columns or {}, ("plate", "well"), path)
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
    frame = _read_table(path, columns or {})
    found = _find_fields(frame, columns or {}, ("plate", "well", "compound", "concentration"), path)
    if frame.empty:
        raise DataError(f"{path}: the plate map has no rows. Expected one a well.")
    wells = pd.DataFrame(
        {
            field.column: _read_field(frame[found[field.column]], field)
            for field in _FIELDS.values()
            if field.column in found and field.column in WELL_METADATA
        }
    )
    if _CONTROL in wells:
        untreated = (wells[_CONTROL] == "negcon") & _is_empty(wells["Metadata_Concentration"])
        wells["Metadata_Concentration"] = wells["Metadata_Concentration"].mask(untreated, 0.0)
    declared = tuple(column for column in WELL_PROFILES.columns if column.name in wells)
    wells = check_table(wells, Table("plate map", declared, key=()), str(path))
    check_wells(wells, str(path))
    check_constant(wells, WELL, [name for name in wells.columns if name not in WELL], str(path))
    return wells.drop_duplicates(WELL, ignore_index=True)


def is_image_table(path: Path) -> bool:
    """Tell an image table (``Image_FileName_<channel>``, as BBBC021's) from a plate map, by its header.

    A file that cannot be read is none; who reads it next says what is wrong with it.
    """
    return any(name.startswith("Image_FileName_") for name in _read_header(path))


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


def write_h5ad(path: Path, profiles: pd.DataFrame, *, about: Mapping[str, Any]) -> None:
    """Write profiles as AnnData, for scanpy and its kin; pycytominer and `read_profiles` read it back as it was.

    Parameters
    ----------
    path
        The file; it appears whole or not at all.
    profiles
        Metadata and features: at least one of these.
    about
        What else to tell of them; plain JSON values.

    Raises
    ------
    SettingsError
        anndata is not installed.
    DataError
        There is no feature.
    MachineError
        The place cannot be written.

    Notes
    -----
    The layout is pycytominer's: ``obs`` has the metadata under their names with the prefix ``Metadata_`` and is
    numbered from 0; ``X`` has the features (single precision where all are, else double); ``var`` is their names, with
    ``compartment``, ``feature_group`` and ``channel`` where CellProfiler's way of naming tells them; and
    ``uns["cytoclr"]`` is `about` as JSON text.
    """
    anndata, _ = _import_anndata(path)
    names = feature_columns(profiles)
    if not names:
        raise DataError(f"{path}: no feature to write. Found: {list_some(list(profiles.columns), 12)}.")
    numbers = profiles[names]
    single = all(dtype == np.float32 for dtype in numbers.dtypes)
    metadata = profiles[[name for name in profiles.columns if name not in set(names)]]
    data = anndata.AnnData(
        X=numbers.to_numpy(dtype=np.float32 if single else np.float64),
        obs=_make_storable(metadata).set_axis(pd.RangeIndex(len(profiles)).astype("str"), axis="index"),
        var=_describe_features(names),
        uns={"cytoclr": json.dumps(dict(about), ensure_ascii=False, allow_nan=False)},
    )
    with open_atomic(path) as file:
        # HDF5 wants a name, not a file: it fills the same temporary file, which is then flushed and renamed as any.
        data.write_h5ad(file.name)


def _make_storable(metadata: pd.DataFrame) -> pd.DataFrame:
    """Make categories of texts, as pycytominer does: AnnData stores no plain texts with gaps, and no dates."""
    texts = [name for name in metadata.columns if not pd.api.types.is_numeric_dtype(metadata[name])]
    written = metadata[texts].astype("object").map(str, na_action="ignore")
    return metadata.assign(**{name: written[name].astype("category") for name in texts})


def _describe_features(names: list[str]) -> pd.DataFrame:
    """Take CellProfiler's names apart: ``Cells_Texture_Contrast_DNA_3_00_256`` is of cells, Texture, DNA."""
    measured = re.compile(rf"(?:{'|'.join(_COMPARTMENTS)})_Intensity_[^_]+_(.+)")
    channels = {match.group(1) for match in map(measured.fullmatch, names) if match}
    longest_first = sorted(map(re.escape, channels), key=lambda channel: (-len(channel), channel))
    anywhere = re.compile(rf"(?<=_)(?:{'|'.join(longest_first)})(?=_|$)") if channels else None
    rows = []
    for name in names:
        compartment, _, rest = name.partition("_")
        known = compartment in _COMPARTMENTS and rest != ""
        found = anywhere.findall(rest) if known and anywhere else []
        rows.append((compartment, rest.split("_")[0], "+".join(found)) if known else ("", "", ""))
    parts = pd.DataFrame(rows, columns=["compartment", "feature_group", "channel"], index=pd.Index(names, dtype="str"))
    return parts.astype("category")


def _import_anndata(path: Path) -> tuple[ModuleType, ModuleType]:
    try:
        import anndata
        import anndata.io
        import h5py
    except ImportError:
        raise SettingsError(
            f"{path}: AnnData files need the package anndata, which is not installed. "
            "Install it: pip install 'cytoclr[h5ad]'."
        ) from None
    return anndata, h5py


def _read_rows(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read a file or folder of any kind as it stands, its column names each once."""
    if path.is_dir():
        return _read_deepprofiler(path)
    if path.suffix == ".h5ad":
        frame = _read_anndata(path)
        _check_names(list(frame.columns), path)
        return frame
    return _read_table(path, columns)


def _read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read CSV or Parquet; in CSV, a column that is a field stays text, whatever its prefix."""
    header = _read_header(path)
    _check_names(header, path)
    fields = [name for name in header if any(field.match(name) is not None for field in _FIELDS.values())]
    frame = read_any_table(path, texts=[*fields, *columns.values()])
    named_index = any(name is not None for name in frame.index.names)
    frame = frame.reset_index(drop=not named_index)
    return frame.set_axis(frame.columns.astype("str"), axis="columns")


def _read_header(path: Path) -> list[str]:
    """Read the names of the columns as they stand (pandas would number those that repeat); none if unreadable."""
    try:
        if path.suffix == ".parquet":
            return [name for name in pq.read_schema(path).names if not name.startswith("__index_level_")]
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException):
        return []


def _check_names(names: list[str], path: Path) -> None:
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{path}: {len(repeated)} column name{'s stand' if len(repeated) > 1 else ' stands'} more than once: "
            f"{list_some(repeated)}. Expected each once; rename or drop the others."
        )


def _read_anndata(path: Path) -> pd.DataFrame:
    _, h5py = _import_anndata(path)
    from anndata.io import read_elem

    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path.")
    try:
        with h5py.File(path, "r") as file:
            if "anndata" not in str(file.attrs.get("encoding-type")):
                raise DataError(f"{path}: HDF5, but not AnnData as written since its version 0.8. Save it again.")
            obs, var, matrix = (read_elem(file[name]) for name in ("obs", "var", "X"))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a readable AnnData file with obs, var and X ({error}).") from None
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    features = pd.DataFrame(dense, columns=var.index.astype("str"))
    ours = [name if name.startswith(("Metadata_", "Image_")) else f"Metadata_{name}" for name in obs.columns]
    metadata: pd.DataFrame = obs.set_axis(ours, axis="columns").reset_index(drop=True)
    return pd.concat([metadata, features], axis=1)


class _Place(NamedTuple):
    plate: str
    well: str
    site: str


def _read_deepprofiler(folder: Path) -> pd.DataFrame:
    """Read DeepProfiler's features, one row a cell, with the cell's number and centre (px) where it has one."""
    files = sorted(file for file in folder.rglob("*.npz") if not file.name.startswith("."))
    if not files:
        raise DataError(
            f"{folder}: no .npz file in this folder. Expected DeepProfiler's PLATE/WELL/SITE.npz, or a table."
        )
    places: dict[_Place, Path] = {}
    matrices: dict[Path, Num[np.ndarray, "cell feature"]] = {}
    rows: list[pd.DataFrame] = []
    for file in files:
        place = _find_place(file.relative_to(folder), folder)
        if place in places:
            raise DataError(f"{file}: {' '.join(place)} stands in {places[place]} too. Expected one file a site.")
        places[place] = file
        matrix, numbers = _read_site(file)
        if len(matrix) == 0:
            continue
        first, like = next(iter(matrices.items()), (file, matrix))
        if matrix.shape[1] != like.shape[1]:
            raise DataError(
                f"{file}: {matrix.shape[1]} features, but {first} has {like.shape[1]}. Expected those of one model."
            )
        matrices[file] = matrix
        about = dict(zip(SITE, place, strict=True))
        rows.append(pd.DataFrame(about, index=range(len(matrix))).assign(**numbers))
    if len(matrices) < len(files):
        logger.warning("%s: %d of %d sites have no cells", folder, len(files) - len(matrices), len(files))
    if not matrices:
        raise DataError(f"{folder}: none of its {len(files):,} sites has a cell. Expected some.")
    cells = np.concatenate(list(matrices.values()))
    names = [f"Cells_DeepProfiler_{number:04d}" for number in range(cells.shape[1])]
    return pd.concat([pd.concat(rows, ignore_index=True), pd.DataFrame(cells, columns=names)], axis=1)


def _find_place(file: Path, folder: Path) -> _Place:
    """Tell plate, well and site by the file's place in the folder."""
    match = _WELL_SITE.fullmatch(file.stem)
    if match and match["plate"]:
        return _Place(match["plate"], match["well"], match["site"])
    if match and len(file.parts) > 1:
        return _Place(file.parts[-2], match["well"], match["site"])
    if not match and len(file.parts) > 2:
        return _Place(file.parts[-3], file.parts[-2], file.stem)
    raise DataError(
        f"{folder}: plate, well and site of {file.as_posix()} cannot be told. Expected PLATE/WELL/SITE.npz, "
        "PLATE/WELL_SITE.npz or PLATE_WELL_SITE.npz in the folder."
    )


def _read_site(file: Path) -> tuple[Num[np.ndarray, "cell feature"], dict[str, Any]]:
    """Read the features of a site's cells, their numbers and centres; never what is pickled beside them."""
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{file}: a single array. Expected an .npz file with the array 'features'.")
            if "features" not in archive.files:
                raise DataError(f"{file}: no array 'features'. Found: {list_some(archive.files)}.")
            features = archive["features"]
            if features.shape[:1] == (0,):
                return np.empty((0, 0)), {}
            centres = _read_centres(archive)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: its features cannot be read ({error}). Expected an .npz file of arrays.") from None
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: its features are of shape {features.shape} and type {features.dtype}. "
            "Expected numbers, [cell, feature]."
        )
    about: dict[str, Any] = {"Metadata_Object": np.arange(1, len(features) + 1)}
    if centres is not None:
        if centres.shape != (len(features), 2):
            raise DataError(
                f"{file}: {len(features):,} cells, but locations of shape {centres.shape}. "
                "Expected x and y of every cell."
            )
        about |= {"Metadata_x": centres[:, 0], "Metadata_y": centres[:, 1]}
    return features, about


def _read_centres(archive: np.lib.npyio.NpzFile) -> Float[np.ndarray, "..."] | None:
    """Read the optional locations; None too where they are pickled (an empty table was)."""
    if "locations" not in archive.files:
        return None
    try:
        return np.asarray(archive["locations"], dtype=np.float64)
    except ValueError:
        return None


def _find_fields(
    frame: pd.DataFrame, columns: Mapping[str, str], needed: tuple[str, ...], path: Path
) -> dict[str, str]:
    """Find the table's column for each of ours: as told, else by its spelling."""
    unknown = [name for name in columns if name not in _FIELDS]
    if unknown:
        raise SettingsError(f"columns: {list_some(unknown)} is not known. Expected some of {', '.join(_FIELDS)}.")
    found: dict[str, str] = {}
    for name, field in _FIELDS.items():
        theirs = _find_named(frame, name, columns[name], path) if name in columns else _find_spelled(frame, field, path)
        if theirs is not None:
            found[field.column] = theirs
    if _CONTROL not in found:
        theirs = _find_spelled(frame, _PERTURBATION, path)
        if theirs is not None and set(_as_texts(frame[theirs])) <= {"negcon", "poscon", "trt"}:
            found[_CONTROL] = theirs
    missing = [name for name in needed if _FIELDS[name].column not in found]
    if missing:
        ours = ", ".join(_FIELDS[name].column for name in missing)
        raise DataError(
            f"{path}: no column of the {' and the '.join(missing)}. Expected {ours}; if it has another name, name it "
            f"in columns, as {missing[0]}: NAME. Found: {list_some(list(frame.columns), 12)}."
        )
    return found


def _find_named(frame: pd.DataFrame, name: str, told: str, path: Path) -> str:
    for theirs in (told, f"Metadata_{told}"):  # AnnData's obs have no prefix in the file
        if theirs in frame.columns:
            return theirs
    raise DataError(
        f"{path}: no column {told}, which columns names as the {name}. Found: {list_some(list(frame.columns), 12)}."
    )


def _find_spelled(frame: pd.DataFrame, field: _Field, path: Path) -> str | None:
    """Find the field by its nearest spelling; several columns as near as that must agree."""
    ranks = {name: field.match(name) for name in frame.columns}
    best = min((rank for rank in ranks.values() if rank is not None), default=None)
    if best is None:
        return None
    first, *others = (name for name, rank in ranks.items() if rank == best)
    texts = _as_texts(frame[first])
    for other in others:
        differing = int((_as_texts(frame[other]) != texts).sum())
        if differing:
            raise DataError(
                f"{path}: {first} and {other} could both be {field.column}, and differ in {differing:,} of "
                f"{len(frame):,} rows. Name the right one in columns."
            )
    return str(first)


def _read_metadata(frame: pd.DataFrame, found: Mapping[str, str], path: Path) -> pd.DataFrame:
    fields = {field.column: field for field in _FIELDS.values()}
    ours = {name: _read_field(frame[theirs], fields[name]) for name, theirs in found.items()}
    for name in WELL:
        empty = np.flatnonzero(ours[name].str.strip() == "")
        if len(empty):
            raise DataError(
                f"{path}: {found[name]} is empty in {len(empty):,} of {len(frame):,} rows, first in row "
                f"{empty[0] + 1}. Expected the {name.removeprefix('Metadata_').lower()} of every row."
            )
    taken = set(found.values())
    for prefix in ("Metadata_", "Image_Metadata_"):  # in this order: who has our prefix has the name
        for theirs in frame.columns:
            name = f"Metadata_{theirs.removeprefix(prefix)}"
            if theirs.startswith(prefix) and theirs not in taken and name not in ours:
                ours[name] = _as_plain(frame[theirs])
    return pd.DataFrame(ours)


def _read_field(values: pd.Series, field: _Field) -> pd.Series:
    if field.column == _CONTROL:
        return _read_control_types(values)
    return _as_texts(values) if field.kind == "text" else _as_numbers(values, whole=field.kind == "integer")


def _read_control_types(values: pd.Series) -> pd.Series:
    """Read control types as JUMP writes them: ``poscon_diverse`` is a positive control.

    Where no well is called ``trt``, those that are called nothing are the treated ones.
    """
    texts = _as_texts(values)
    texts = texts.mask(texts.str.startswith("poscon_"), "poscon")
    return texts if (texts == "trt").any() else texts.mask(texts == "", "trt")


def _as_plain(values: pd.Series) -> pd.Series:
    """Undo categories."""
    return values.astype("object").infer_objects() if isinstance(values.dtype, pd.CategoricalDtype) else values


def _as_texts(values: pd.Series) -> pd.Series:
    """Write values as texts; 22123.0 as ``22123``, which it was before a gap made it a float; a gap as ``""``."""
    plain = _as_plain(values)
    if pd.api.types.is_float_dtype(plain) and (plain.dropna() % 1 == 0).all():
        plain = plain.astype("Int64")
    return plain.astype("object").map(str).mask(plain.isna(), "").astype("str")


def _as_numbers(values: pd.Series, *, whole: bool) -> pd.Series:
    """Read numbers; values that are none stay as they are, for `check_table` to name them."""
    plain = _as_plain(values)
    numbers = pd.to_numeric(plain, errors="coerce").astype("float64")
    if (numbers.isna() & ~_is_empty(plain)).any():
        return plain
    return numbers.astype("int64") if whole and np.isfinite(numbers).all() and (numbers % 1 == 0).all() else numbers


def _is_empty(values: pd.Series) -> pd.Series:
    return values.isna() | values.isin(EMPTY)


def _select_features(frame: pd.DataFrame, metadata: pd.DataFrame, found: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Choose the columns that are features, and say which are not."""
    taken = set(found.values())
    rest = [
        name for name in frame.columns if name not in taken and not name.startswith(("Metadata_", "Image_Metadata_"))
    ]
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
    if _OF_IMAGES.fullmatch(name) or any(field.match(name) is not None for field in _FIELDS.values()):
        return True
    return not averages and _OF_OBJECTS.fullmatch(name) is not None
