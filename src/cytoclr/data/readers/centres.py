"""Cell centres as other programs write them: tables, CellProfiler's exports and databases, DeepProfiler's folders."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped
from pyarrow import csv

from cytoclr.data.arrays import check_gzip, check_parquet
from cytoclr.data.columns import WELL_FIELDS, is_field
from cytoclr.data.files import EMPTY, check_names, read_any_table, read_header
from cytoclr.data.readers.loaddata import read_cell_locations
from cytoclr.errors import DataError, list_some
from cytoclr.tables import SITE, Column, Table, check_table

__all__ = [
    "KINDS",
    "PLACE_FIELDS",
    "FoundCentres",
    "ObjectKind",
    "find_centres",
    "number_rows",
    "read_sqlite_locations",
]

ObjectKind = Literal["Nuclei", "Cells", "Cytoplasm"]
#: Whose centres are taken, the first that there is.
KINDS: tuple[ObjectKind, ...] = ("Nuclei", "Cells", "Cytoplasm")
#: What tells the site of an image.
PLACE_FIELDS = {name: WELL_FIELDS[name] for name in ("plate", "well", "site")}
#: CellProfiler's Location_Center is an object's centre of mass; its AreaShape_Center was, up to version 2, the pixel
#: farthest from the edge, and in version 3.0 had x and y exchanged in stacks (CellProfiler issue 3352). Both count
#: pixels from 0, as we do.
_MEASURES = ("Location_Center", "AreaShape_Center")
_CENTRE = re.compile(r"(?:Metadata_)?(?:(?P<kind>.+)_)?(?P<measure>Location_Center|AreaShape_Center)_X")
_FILES = re.compile(r"(?:Metadata_|Image_)*(?:FileName|PathName)_.+")
#: CellProfiler numbers its images from 1 in every run; cytominer-database numbers the runs besides.
_IMAGE_KEYS = ("TableNumber", "ImageNumber")
#: The column of pycytominer's cell_locations: all centres of an image, in a list.
_CENTRE_LISTS = "CellCenters"
_TABLES = (".csv", ".csv.gz", ".parquet", ".sqlite", ".sqlite3", ".db")
_CHUNK = 200_000
_NUMBERS = (
    Column("Metadata_Object", "integer", "number of the cell in its site"),
    Column("x", "number", "column of the cell's centre", unit="px", may_be_empty=True),
    Column("y", "number", "row of the cell's centre", unit="px", may_be_empty=True),
)


@dataclass(frozen=True)
class FoundCentres:
    """What one file tells: its images, a row each, under its own names; and of each cell the image, number and centre.

    `image` is a row's number in `images`. `objects` is None where the cells have no numbers. Centres are in px; one
    that is not there is NaN. `kind` is empty where the file does not tell whose centres they are.
    """

    source: Path
    kind: str
    images: pd.DataFrame
    image: Int[np.ndarray, " cell"]
    objects: Int[np.ndarray, " cell"] | None
    x: Float[np.ndarray, " cell"]
    y: Float[np.ndarray, " cell"]


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that hold the centres."""

    kind: str
    x: str
    y: str
    number: str | None

    def names(self) -> list[str]:
        return [name for name in (self.number, self.x, self.y) if name is not None]


def find_centres(path: Path, *, object: ObjectKind | None, with_files: bool) -> list[FoundCentres]:
    """Read the centres in a file or in all tables of a folder; the kind is told by what is in them.

    Parameters
    ----------
    path
        A table (CSV, plain or gzipped; Parquet; SQLite), or a folder of them.
    object
        Whose centres; None: the first of `KINDS` that there is.
    with_files
        Read the names of the image files, too.

    Raises
    ------
    DataError
        There is nothing of a known kind, or it cannot be read.
    """
    if path.is_dir():
        return _read_folder(path, object, with_files)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. Correct the path.", code="LOC001")
    return [_read_file(path, object, with_files)]


def number_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, Int[np.ndarray, " row"]]:
    """Return the different rows of a table in order of appearance, and the number among them of each row."""
    numbers = np.zeros(len(frame), dtype=np.int64)
    for name in frame.columns:
        codes, values = pd.factorize(frame[name], use_na_sentinel=False)
        numbers = pd.factorize(numbers * len(values) + codes)[0].astype(np.int64)
    first = pd.Series(numbers).drop_duplicates().index
    return frame.iloc[first].reset_index(drop=True), numbers


def _read_file(path: Path, object: ObjectKind | None, with_files: bool) -> FoundCentres:
    with path.open("rb") as file:
        start = file.read(16)
    if start == b"SQLite format 3\0":
        return read_sqlite_locations(path, object=object, with_files=with_files)
    header = _read_names(path, parquet=start[:4] == b"PAR1")
    if _CENTRE_LISTS in header:
        return _read_lists(path, object)
    columns = _choose_columns(header, object, path)
    places = _find_places(header, with_files)
    if not places and "ImageNumber" in header:
        raise DataError(
            f"{path}: its images have a number only. Expected plate, well and site in it; or pass the folder that has "
            "CellProfiler's Image.csv beside it.",
            code="LOC001",
        )
    return _read_flat(path, columns, places, {})


def _read_names(path: Path, *, parquet: bool) -> list[str]:
    """Read the names of a table's columns; what cannot be a table is refused."""
    header = read_header(path) if not parquet else _read_schema(path)
    if len(header) < 2:
        read_any_table(path)  # tells what is wrong: no text, semicolons, cut short
    check_names(header, path)
    return header


def _read_schema(path: Path) -> list[str]:
    try:
        return [str(name) for name in pq.read_schema(path).names]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}).", code="LOC001") from None


def _read_lists(path: Path, object: ObjectKind | None) -> FoundCentres:
    """Read a table of images, each with a list of its centres."""
    lists = pq.read_schema(path).field(_CENTRE_LISTS).type
    cell = lists.value_type if pa.types.is_list(lists) else lists
    names = [str(field.name) for field in cell] if pa.types.is_struct(cell) else []
    kind = _choose_columns(names, object, path).kind
    cells = read_cell_locations(path)
    images, image = number_rows(cells[SITE])
    x, y, objects = _check_numbers(cells["Metadata_Object"], cells["x"], cells["y"], str(path))
    return FoundCentres(path, kind, images, image, objects, x, y)


def _choose_columns(names: Sequence[str], object: ObjectKind | None, path: Path, *, kind: str = "") -> _Columns:
    """Find the columns of the centres; `kind` is what the name of the file or table says of them."""
    if {"x", "y"} <= set(names):
        return _Columns("", "x", "y", "Metadata_Object" if "Metadata_Object" in names else None)
    found = _match_centres(names, kind)
    for wanted in (object,) if object else (*KINDS, ""):
        for measure in _MEASURES:
            if (wanted, measure) in found:
                x, y = found[wanted, measure]
                return _Columns(wanted, x, y, _find_number(names, wanted, x))
    there = sorted({kind for kind, _ in found if kind}) or ["none"]
    if object and found:
        raise DataError(f"{path}: no centres of {object}. Found those of: {list_some(there)}.", code="LOC001")
    raise DataError(
        f"{path}: no columns of the centres. Expected x and y (px), or CellProfiler's Nuclei_Location_Center_X and "
        f"Nuclei_Location_Center_Y (or of Cells, Cytoplasm). Found: {list_some(list(names), 12)}.",
        code="LOC001",
    )


def _match_centres(names: Sequence[str], kind: str) -> dict[tuple[str, str], tuple[str, str]]:
    found: dict[tuple[str, str], tuple[str, str]] = {}
    spelled = {word.casefold(): word for word in KINDS}
    for x in names:
        match = _CENTRE.fullmatch(x)
        y = f"{x[:-1]}Y"
        if match and y in names:
            whose = match["kind"] or kind
            found.setdefault((spelled.get(whose.casefold(), whose), match["measure"]), (x, y))
    return found


def _find_number(names: Sequence[str], kind: str, x: str) -> str | None:
    """Find the column of the objects' numbers: that of the kind before one that all kinds share."""
    match = _CENTRE.fullmatch(x)
    theirs = [word for word in (match and match["kind"], kind) if word]
    spellings = [
        f"{prefix}{word}_{name}"
        for word in theirs
        for prefix in ("Metadata_", "")
        for name in ("Number_Object_Number", "ObjectNumber")
    ]
    shared = ["Metadata_Object", "Metadata_ObjectNumber", "ObjectNumber", "Number_Object_Number"]
    return next((name for name in [*spellings, *shared] if name in names), None)


def _read_flat(
    path: Path, columns: _Columns, places: Sequence[str], told: Mapping[str, str | int], keys: Sequence[str] = ()
) -> FoundCentres:
    """Read a table with a row a cell; `told` is what is known of its only image without it."""
    frame = _read_columns(path, [*places, *keys], columns.names())
    images, image = number_rows(frame[[*places, *keys]])
    if told:
        images = pd.DataFrame([told])
    number = None if columns.number is None else frame[columns.number]
    x, y, objects = _check_numbers(number, frame[columns.x], frame[columns.y], str(path))
    return FoundCentres(path, columns.kind, images, image, objects, x, y)


def _check_numbers(
    objects: pd.Series | None, x: pd.Series, y: pd.Series, source: str
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"], Int[np.ndarray, " cell"] | None]:
    frame = pd.DataFrame({"x": _empty_words(x), "y": _empty_words(y)})
    if objects is not None:
        frame = frame.assign(Metadata_Object=objects)
    wanted = tuple(column for column in _NUMBERS if column.name in frame)
    frame = check_table(frame, Table("locations", wanted, key=()), source)
    numbers = None if objects is None else frame["Metadata_Object"].to_numpy()
    return frame["x"].to_numpy(), frame["y"].to_numpy(), numbers


def _empty_words(values: pd.Series) -> pd.Series:
    return values if pd.api.types.is_numeric_dtype(values) else values.mask(values.isin(EMPTY))


def _read_columns(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a CSV or Parquet table; texts as categories, for they repeat in every row of an image."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return _read_parquet_columns(path, [*texts, *numbers])
    try:
        try:
            return _read_csv_columns(path, texts, numbers, pa.float64(), gzipped=start[:2] == b"\x1f\x8b")
        except pa.ArrowInvalid:  # a number that is none is named with its row by the check of numbers
            return _read_csv_columns(path, texts, numbers, pa.string(), gzipped=start[:2] == b"\x1f\x8b")
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{path}: not a readable CSV table ({str(error).strip()}).", code="LOC001") from None


def _read_csv_columns(
    path: Path, texts: Sequence[str], numbers: Sequence[str], number: pa.DataType, *, gzipped: bool
) -> pd.DataFrame:
    kinds = dict.fromkeys(texts, pa.dictionary(pa.int32(), pa.string())) | dict.fromkeys(numbers, number)
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(pa.OSFile(str(path)))
        if gzipped:
            check_gzip(path)
            stream = stack.enter_context(pa.CompressedInputStream(stream, "gzip"))
        table = csv.read_csv(
            stream,
            read_options=csv.ReadOptions(column_names=read_header(path), skip_rows=1),
            convert_options=csv.ConvertOptions(
                column_types=kinds, include_columns=list(kinds), null_values=list(EMPTY), strings_can_be_null=False
            ),
        )
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas()
    return frame


def _read_parquet_columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    try:
        check_parquet(path)
        schema = pq.read_schema(path)
        texts = [name for name in names if pa.types.is_string(schema.field(name).type)]
        table = pq.read_table(path, columns=list(names), read_dictionary=texts, page_checksum_verification=True)
        frame: pd.DataFrame = table.unify_dictionaries().replace_schema_metadata().to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}).", code="LOC001") from None
    return frame


def _read_folder(folder: Path, object: ObjectKind | None, with_files: bool) -> list[FoundCentres]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    exports = _find_exports(files)
    if exports:
        return [_read_export(images, kinds, object, with_files) for images, kinds in exports.items()]
    fields = _find_deepprofiler(files, folder, object)
    if fields:
        return fields
    tables = [file for file in files if file.name.lower().endswith(_TABLES)]
    if not tables:
        raise DataError(
            f"{folder}: no table in this folder ({len(files):,} files). Expected CSV, Parquet or SQLite, or "
            "CellProfiler's Image.csv and Nuclei.csv.",
            code="LOC001",
        )
    return [_read_file(file, object, with_files) for file in tables]


def _find_exports(files: Sequence[Path]) -> dict[Path, dict[ObjectKind, Path]]:
    """Find CellProfiler's exports: the table of images, and those of the objects that have the same prefix."""
    beside = {(file.parent, _strip_ending(file.name).casefold()): file for file in files if _is_csv(file)}
    exports: dict[Path, dict[ObjectKind, Path]] = {}
    for (parent, stem), file in beside.items():
        if not stem.endswith("image"):
            continue
        prefix = stem.removesuffix("image")
        kinds = {
            kind: beside[parent, f"{prefix}{kind.casefold()}"]
            for kind in KINDS
            if (parent, f"{prefix}{kind.casefold()}") in beside
        }
        if kinds:
            exports[file] = kinds
    return exports


def _is_csv(file: Path) -> bool:
    return file.name.lower().endswith((".csv", ".csv.gz"))


def _strip_ending(name: str) -> str:
    return re.sub(r"\.csv(\.gz)?$", "", name, flags=re.IGNORECASE)


def _read_export(
    path: Path, kinds: Mapping[ObjectKind, Path], object: ObjectKind | None, with_files: bool
) -> FoundCentres:
    """Read the objects of a CellProfiler export, and by their number the images."""
    if object is not None and object not in kinds:
        raise DataError(
            f"{path.parent}: no table of {object}. Found those of: {list_some(list(kinds))}.", code="LOC001"
        )
    kind: ObjectKind = next(iter(kinds)) if object is None else object
    objects = kinds[kind]
    header, image_header = _read_names(objects, parquet=False), _read_names(path, parquet=False)
    keys = [key for key in _IMAGE_KEYS if key in header and key in image_header]
    _check_keys(keys, objects, f"as {path.name}")
    columns = _choose_columns(header, kind, objects, kind=kind)
    places = _find_places(image_header, with_files)
    images = _read_columns(path, [*places, *keys], [])
    found = _read_flat(objects, columns, (), {}, keys)
    image = _look_up(images[keys], found.images, path)[found.image]
    return FoundCentres(
        objects, columns.kind, _name_by_folder(images[places], path), image, found.objects, found.x, found.y
    )


def _find_places(names: Sequence[str], with_files: bool) -> list[str]:
    """Find the columns that tell the site of an image."""
    return [name for name in names if is_field(name, PLACE_FIELDS) or (with_files and _FILES.fullmatch(name))]


def _check_keys(keys: Sequence[str], path: Path, where: str) -> None:
    if "ImageNumber" not in keys:
        raise DataError(f"{path}: no column ImageNumber, {where}. Expected it in both tables.", code="LOC001")


def _name_by_folder(images: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add to the only image of an export the plate, well and site that its folder is named by, if it lacks them.

    Runs of one site each lie in ``PLATE-WELL-SITE/`` (JUMP), not all with metadata in their tables.
    """
    match = re.fullmatch(r"(?P<plate>.+)-(?P<well>[A-Za-z]{1,2}\d{1,3})-(?P<site>\d+)", path.parent.name)
    lacking = [
        name
        for name, field in PLACE_FIELDS.items()
        if not any(is_field(str(theirs), {name: field}) for theirs in images)
    ]
    if match is None or not lacking or len(images) != 1:
        return images
    return images.assign(**{PLACE_FIELDS[name].column: match[name] for name in PLACE_FIELDS})


def _look_up(keys: pd.DataFrame, wanted: pd.DataFrame, path: Path) -> Int[np.ndarray, " image"]:
    """Find the rows of images by their numbers."""
    known, asked = (pd.MultiIndex.from_frame(frame.astype("str")) for frame in (keys, wanted))
    if known.has_duplicates:
        first = " ".join(map(str, known[known.duplicated()][0]))
        raise DataError(f"{path}: image {first} stands twice. Expected each once.", code="LOC001")
    rows = known.get_indexer(asked)
    if (rows < 0).any():
        first = " ".join(map(str, asked[int(np.flatnonzero(rows < 0)[0])]))
        raise DataError(
            f"{path}: {int((rows < 0).sum()):,} of {len(rows):,} images that have cells are not in it, first: image "
            f"{first}. Expected the table of the same run.",
            code="LOC001",
        )
    return np.asarray(rows, dtype=np.int64)


def _find_deepprofiler(files: Sequence[Path], folder: Path, object: ObjectKind | None) -> list[FoundCentres]:
    """Read DeepProfiler's ``PLATE/WELL-SITE-Nuclei.csv``, if there are any."""
    pattern = re.compile(rf"(?P<well>.+)-(?P<site>[^-]+)-(?P<kind>{'|'.join(KINDS)})\.csv", re.IGNORECASE)
    named = {file: match for file in files if (match := pattern.fullmatch(file.name)) and file.parent != folder}
    kinds = {match["kind"].capitalize() for match in named.values()}
    if object and kinds and object not in kinds:
        raise DataError(f"{folder}: no files of {object}. Found those of: {list_some(sorted(kinds))}.", code="LOC001")
    kind = object or next((kind for kind in KINDS if kind in kinds), None)
    found = []
    for file, match in named.items():
        if match["kind"].capitalize() != kind:
            continue
        columns = _choose_columns(_read_names(file, parquet=False), kind, file, kind=kind or "")
        told: dict[str, str | int] = dict(zip(SITE, (file.parent.name, match["well"], match["site"]), strict=True))
        found.append(_read_flat(file, columns, (), told))
    return found


def read_sqlite_locations(path: Path, *, object: ObjectKind | None = None, with_files: bool = True) -> FoundCentres:
    """Read the centres in a SQLite database of CellProfiler or cytominer-database: the columns needed, in pieces.

    The file is opened read-only, and taken for one that nobody writes at the time.

    Parameters
    ----------
    path
        With a table of images (``Image``, ``Per_Image``, with any prefix) and one of objects (``Nuclei``,
        ``Per_Nuclei``, ``Per_Object``; also of ``Cells`` or ``Cytoplasm``).
    object
        Whose centres; None: the first of `KINDS` that there is.
    with_files
        Read the names of the image files, too.

    Raises
    ------
    DataError
        It cannot be read, a table or a column is missing, or cells belong to images that it does not have.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as base:
            return _read_database(base, path, object, with_files)
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: not a readable SQLite database ({error}). Copy the file again.", code="LOC001"
        ) from None


def _read_database(base: sqlite3.Connection, path: Path, object: ObjectKind | None, with_files: bool) -> FoundCentres:
    log = path.with_name(f"{path.name}-wal")
    if log.is_file() and log.stat().st_size:
        raise DataError(
            f"{path}: {log.name} holds rows that are not yet in it. Close the program that writes it, or open it once "
            "with sqlite3 to have them merged.",
            code="LOC001",
        )
    names = [str(name) for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
    image_table = _find_image_table(names, path)
    table, columns = _find_object_table(base, [name for name in names if name != image_table], object, path)
    image_names, object_names = _list_columns(base, image_table), _list_columns(base, table)
    keys = [key for key in _IMAGE_KEYS if key in image_names and key in object_names]
    _check_keys(keys, path, f"of {image_table} and {table}")
    places = _find_places(image_names, with_files)
    images = pd.concat(_select(base, image_table, [*keys, *places]), ignore_index=True)
    image: list[np.ndarray] = []
    values: dict[str, list[np.ndarray]] = {name: [] for name in columns.names()}
    for piece in _select(base, table, [*keys, *columns.names()]):
        image.append(_look_up_pieces(images[keys], piece[keys], path))
        for name, pieces in values.items():
            pieces.append(_as_doubles(piece[name]))
    cells = {name: pd.Series(np.concatenate(pieces)) for name, pieces in values.items()}
    number = None if columns.number is None else cells[columns.number]
    x, y, objects = _check_numbers(number, cells[columns.x], cells[columns.y], f"{path} {table}")
    return FoundCentres(path, columns.kind, images[places], np.concatenate(image), objects, x, y)


def _as_doubles(values: pd.Series) -> Shaped[np.ndarray, " cell"]:
    """Make doubles of numbers and gaps; other values stay, to be refused with their row."""
    filled = _empty_words(values)
    try:
        return np.asarray(filled, dtype=np.float64)
    except (ValueError, TypeError):
        return np.asarray(filled, dtype=np.object_)


def _look_up_pieces(keys: pd.DataFrame, wanted: pd.DataFrame, path: Path) -> Int[np.ndarray, " cell"]:
    different, numbers = number_rows(wanted)
    rows: np.ndarray = _look_up(keys, different, path)[numbers]
    return rows


def _find_image_table(names: Sequence[str], path: Path) -> str:
    found = [name for name in names if re.fullmatch(r"(.*_)?Image", name, re.IGNORECASE)]
    if len(found) != 1:
        raise DataError(
            f"{path}: {'several tables' if found else 'no table'} of images. Expected one, Image or Per_Image. "
            f"Found: {list_some(found or list(names), 12)}.",
            code="LOC001",
        )
    return found[0]


def _find_object_table(
    base: sqlite3.Connection, names: Sequence[str], object: ObjectKind | None, path: Path
) -> tuple[str, _Columns]:
    """Find the table that has the centres: of the kind asked for, else of the first kind there is."""
    pattern = rf"(?:.*_)?(?:(?P<kind>{'|'.join(KINDS)})|Objects?)"
    found: dict[str, tuple[str, _Columns]] = {}
    for name in names:
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match is None:
            continue
        header = _list_columns(base, name)
        for kind in sorted({kind for kind, _ in _match_centres(header, (match["kind"] or "").capitalize())}):
            if kind in KINDS:
                columns = _choose_columns(header, kind, path, kind=kind)
                if kind in found:
                    raise DataError(
                        f"{path}: {found[kind][0]} and {name} both have centres of {kind}. Expected one table.",
                        code="LOC001",
                    )
                found[kind] = name, columns
    for wanted in (object,) if object else KINDS:
        if wanted in found:
            return found[wanted]
    whose = object or " or ".join(KINDS)
    raise DataError(
        f"{path}: no centres of {whose}. Expected columns as Nuclei_Location_Center_X in a table as Nuclei or "
        f"Per_Object. Found centres of: {list_some(sorted(found)) or 'none'}; tables: {list_some(list(names), 12)}.",
        code="LOC001",
    )


def _list_columns(base: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in base.execute(f"PRAGMA table_info({_quote(table)})")]


def _quote(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _select(base: sqlite3.Connection, table: str, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Read some columns, so many rows at a time; once without rows, if there are none."""
    columns = ", ".join(_quote(name) for name in names)
    cursor = base.execute(f"SELECT {columns} FROM {_quote(table)}")  # noqa: S608  (names come from the database, quoted)
    rows: list[Any] = cursor.fetchmany(_CHUNK)
    yield pd.DataFrame.from_records(rows, columns=list(names))
    while rows := cursor.fetchmany(_CHUNK):
        yield pd.DataFrame.from_records(rows, columns=list(names))
