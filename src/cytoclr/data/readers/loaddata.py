"""CellProfiler's LoadData tables: one row a site, the files of its channels and of their illumination functions.

JUMP and the Cell Painting Gallery describe their plates so. Their paths are those of the machine that made the table;
where the images lie elsewhere, they are looked for under that folder by the end of their paths.
"""

import contextlib
import logging
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cytoclr.data.arrays import check_parquet
from cytoclr.data.columns import WELL_FIELDS, check_concentrations, find_columns, how_to_tell, is_field, read_columns
from cytoclr.data.files import EMPTY, METADATA_PREFIXES, check_names, read_header, read_texts
from cytoclr.data.remote import expand_pattern, has_open_scheme, is_url, list_folder, read_bytes, split_address
from cytoclr.data.roots import Root
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.tables import (
    ILLUMINATION_PREFIX,
    LOCATIONS,
    PATH_PREFIX,
    PLANE_PREFIX,
    SITE,
    check_table,
    sort_naturally,
)

__all__ = ["list_sources", "read_cell_locations", "read_loaddata"]

logger = logging.getLogger(__name__)

_FIELDS = {name: known for name, known in WELL_FIELDS.items() if name != "num_cells"}
_FILE_COLUMN = re.compile(r"(?:Image_)?(FileName|PathName|URL|Frame|Series)_(.+)")
_ROW_COLUMN = re.compile(rf"(?:{'|'.join(METADATA_PREFIXES)})(?:WellRow|Row)", re.IGNORECASE)
_COLUMN_COLUMN = re.compile(rf"(?:{'|'.join(METADATA_PREFIXES)})(?:WellColumn|WellCol|Column|Col)", re.IGNORECASE)
#: CellProfiler's names of raw and of corrected images begin so; what follows is the channel's.
_ORIGINAL, _CORRECTED, _ILLUMINATION = "Orig", "Corr", "Illum"
#: The column of all centres of a site, as pycytominer's cell_locations writes it, and what it calls their parts.
_CENTRES = "CellCenters"
_CENTRE_PARTS = {"Metadata_Object": r"(.*_)?ObjectNumber", "x": r"(.*_)?Center_X", "y": r"(.*_)?Center_Y"}


@dataclass(frozen=True)
class _Sources:
    """Where the files of one channel are told: the table's columns for name and folder, address, plane and series."""

    columns: dict[str, str] = field(default_factory=dict)

    def read(self, texts: pd.DataFrame, *, prefer_url: bool) -> pd.Series:
        """Put the places together, as the table has them; ``""`` where it names no file."""
        named = texts[self.columns["FileName"]] if "FileName" in self.columns else None
        if "URL" in self.columns and (prefer_url or named is None):
            return texts[self.columns["URL"]]
        assert named is not None
        if "PathName" not in self.columns:
            return named
        folders = texts[self.columns["PathName"]]
        starts = folders.map({folder: f"{folder.rstrip('/' + chr(92))}/" if folder else "" for folder in set(folders)})
        return (starts + named).mask(named == "", "")


def read_loaddata(
    table: str,
    *,
    images: str | None = None,
    channels: Mapping[str, str] | None = None,
    plates: Sequence[str] | None = None,
    skip_missing: bool = False,
    metadata: Path | None = None,
    columns: Mapping[str, str] | None = None,
    controls: Sequence[str] = ("DMSO",),
    positive_controls: Sequence[str] = (),
    batch_pattern: str = r"^(.*)$",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a LoadData table: one row a site, the files of its channels and illumination functions.

    Parameters
    ----------
    table
        CSV (plain or gzipped) or Parquet; a path, or a URL; with ``*`` or ``**`` several, as one a plate, that are read
        as one. Files stand in ``FileName_X`` and ``PathName_X``, or in
        ``URL_X``, which comes first unless `images` is told. ``Frame_X`` is the plane of a file of several.
    images
        Folder or URL where the images lie, if not where the table says: of each path, the longest end that is a file
        under `images`. Nothing outside is read, whatever the table says and links lead to.
    channels
        Our name of each channel, and X in the table: ``{"DNA": "OrigDNA"}`` or ``{"DNA": "DNA"}``. None: all, in
        natural order; ``OrigDNA`` is then called DNA, and where there are such names, channels without are left aside.
    plates
        These only; None: all.
    skip_missing
        Leave out sites that lack a file, rather than refuse the table. Files at URLs are not looked for.
    metadata
        Plate map; None: what the table itself tells of compounds, or nothing.
    columns
        The plate map's own names (the table's own, where there is no map), as in `cytoclr.data.columns.find_columns`.
    controls, positive_controls, batch_pattern
        See `cytoclr.data.screen.describe_wells`.

    Returns
    -------
    sites
        As `cytoclr.tables.SCREEN`, sorted by site, with ``Path_<channel>``; ``Plane_<channel>`` where the table has
        planes; ``Illum_<channel>`` where it names illumination functions (``FileName_IllumX`` …) that are there, and
        the channel is not corrected already (``CorrX``).
    left_out
        Plate, well, site and the reason of each site left out.

    Raises
    ------
    SettingsError
        `columns` has an unknown word, or two channels are the same X.
    DataError
        The table cannot be read; a column, a plate or a channel that is needed or asked for is not there; plate, well
        or site is empty; a site or a file stands twice; under `images` a path has ``..``, or a link leads out; an
        address is neither of the web nor of a bucket; a file is missing and `skip_missing` is false; or a well has two
        treatments.
    """
    texts = _read_tables(table, told=(columns or {}).values())
    sources = _find_sources(texts.columns, table)
    chosen = _choose_channels(sources, channels, table)
    told = {word: name for word, name in (columns or {}).items() if metadata is None or name in texts.columns}
    sites = _read_sites(texts, told, table)
    kept = _select_plates(sites["Metadata_Plate"], plates, table)
    sites, texts = sites[kept], texts[kept]
    _check_unique(sites, table)
    finder = _Finder(images, table)
    files, reasons = _find_files(texts, sources, chosen, finder)
    _check_files(files, table)
    sites = pd.concat([sites, files], axis=1)
    left_out = _tell_missing(sites, reasons, finder, skip_missing=skip_missing)
    _warn_of_doses(sites, metadata, table)
    screen, empty = join_plate_map(
        sites[reasons == ""].reset_index(drop=True),
        metadata,
        columns=columns or {},
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=table,
    )
    return screen, pd.concat([left_out, empty], ignore_index=True)


def list_sources(table: str, *, plates: Sequence[str] | None = None) -> list[str]:
    """List the images and illumination functions that a LoadData table names, each once, as it names them.

    Parameters
    ----------
    table
        A path or a URL.
    plates
        Of these plates only; those that are not in the table do not matter. None: all.

    Raises
    ------
    DataError
        The table cannot be read, or names no files.
    """
    texts = _read_columns(table)
    sources = _find_sources(texts.columns, table)
    if plates is not None:
        texts = texts[_read_sites(texts, {}, table)["Metadata_Plate"].isin(plates)]
    places = [found.read(texts, prefer_url=True) for found in sources.values()]
    return [place for place in pd.unique(pd.concat(places)) if place]


def read_cell_locations(table: str | Path) -> pd.DataFrame:
    """Read the cell centres out of a LoadData table that has them in a list a site (``CellCenters``).

    JUMP's ``load_data_with_illum_and_cell_location.parquet`` is one. Sites without cells have no rows; cells without a
    centre are left out and counted in the log.

    Returns
    -------
    pandas.DataFrame
        As `cytoclr.tables.LOCATIONS`, x and y in px.

    Raises
    ------
    DataError
        The table cannot be read or has no such lists; plate, well or site is missing or empty; a cell stands twice.
    """
    source = str(table)
    with _read_copy(source) as path:
        lists = _read_lists(path)
        names = [name for name in read_header(path) if is_field(name, _FIELDS) or _is_place(name)]
        texts = _read_parquet(path, names)
    rows = np.asarray(pc.list_parent_indices(lists))
    if not len(rows):
        raise DataError(f"{source}: {_CENTRES} has no cell in any of its {len(lists):,} rows.", code="LOC001")
    sites = _read_sites(texts, {}, source)[SITE].take(rows).reset_index(drop=True)
    cells = pd.concat([sites, _read_centres(pc.list_flatten(lists), source)], axis=1)
    if "Metadata_Object" not in cells:
        cells["Metadata_Object"] = cells.groupby(SITE).cumcount() + 1
    without = cells[["x", "y"]].isna().any(axis=1)
    if without.any():
        logger.warning("%s: %s of %s cells have no centre, and are left out.", source, without.sum(), len(cells))
    return check_table(cells[~without].reset_index(drop=True), LOCATIONS, source)[
        [column.name for column in LOCATIONS.columns]
    ]


def _read_lists(path: Path) -> pa.ListArray:
    try:
        check_parquet(path)
        names = pq.read_schema(path).names
        lists = pq.read_table(path, columns=[_CENTRES])[_CENTRES].combine_chunks() if _CENTRES in names else None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}).", code="LOC001") from None
    if lists is None or not pa.types.is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        raise DataError(
            f"{path}: no column {_CENTRES} with a list of cell centres for each site. Expected a Parquet table as "
            f"pycytominer's cell_locations writes it. Found: {list_some(names, 12)}.",
            code="LOC001",
        )
    return lists


def _read_centres(cells: pa.StructArray, source: str) -> pd.DataFrame:
    names = [part.name for part in cells.type]
    found = {ours: [name for name in names if re.fullmatch(pattern, name)] for ours, pattern in _CENTRE_PARTS.items()}
    if len(found["x"]) != 1 or len(found["y"]) != 1 or len(found["Metadata_Object"]) > 1:
        raise DataError(
            f"{source}: {_CENTRES} has {list_some(names)}. Expected ObjectNumber, and one x and y of each cell "
            "(Nuclei_Location_Center_X and …_Y).",
            code="LOC001",
        )
    return pd.DataFrame({ours: cells.field(theirs[0]).to_pandas() for ours, theirs in found.items() if theirs})


@contextlib.contextmanager
def _read_copy(place: str) -> Iterator[Path]:
    """Give a table's path: its own, or that of a passing copy of what is at the URL, which messages do not name."""
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (PurePosixPath(split_address(place).path).name or "table.csv")
        try:
            content = read_bytes(place)
        except DataError as error:
            raise DataError(str(error), code="META001") from None
        path.write_bytes(content)
        try:
            yield path
        except DataError as error:
            raise DataError(str(error).replace(str(path), place), code=error.code) from None


def _read_tables(table: str, *, told: Collection[str] = ()) -> pd.DataFrame:
    """Read one table, or all that a pattern names, as one."""
    if "*" not in table:
        return _read_columns(table, told=told)
    places = expand_pattern(table)
    if not places:
        raise DataError(f"{table}: no file fits this pattern. Correct screen.table.", code="META001")
    parts = [_read_columns(place, told=told) for place in places]
    for place, part in zip(places, parts, strict=True):
        differing = sorted(set(part.columns) ^ set(parts[0].columns))
        if differing:
            raise DataError(
                f"{place}: has other columns than {places[0]}, {len(differing)} differ: {list_some(differing)}. "
                "Expected tables of one kind; name those that are in screen.table.",
                code="META002",
            )
    logger.info("%s: read %s tables as one", table, f"{len(places):,}")
    return pd.concat(parts, ignore_index=True)


def _read_columns(table: str, *, told: Collection[str] = ()) -> pd.DataFrame:
    """Read the columns that matter as texts, ``""`` where they are empty; `told` are some of which this was said."""
    with _read_copy(table) as path:
        if not path.is_file():
            raise DataError(f"{table}: no such file. Correct the path.", code="META001")
        header = read_header(path)
        check_names(header, path)
        if path.suffix == ".parquet":
            # Not all of it: cell centres and measurements may stand beside.
            names = [name for name in header if _is_place(name) or is_field(name, _FIELDS)]
            names += [
                name
                for name in header
                if (name in told or name.removeprefix("Metadata_") in told) and name not in names
            ]
            texts = _read_parquet(path, names)
        else:
            texts = read_texts(path)
    if texts.empty:
        raise DataError(f"{table}: the table has no rows. Expected one a site.", code="META001")
    return texts


def _is_place(name: str) -> bool:
    """Tell whether a column says where a file or its well is."""
    return any(pattern.fullmatch(name) for pattern in (_FILE_COLUMN, _ROW_COLUMN, _COLUMN_COLUMN))


def _read_parquet(path: Path, names: Sequence[str]) -> pd.DataFrame:
    try:
        check_parquet(path)
        table = pq.read_table(path, columns=list(names)).replace_schema_metadata()  # notes for pandas may be anything
        frame = table.to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}).", code="META001") from None
    return pd.DataFrame({name: _as_texts(frame[name]) for name in names})


def _as_texts(values: pd.Series) -> pd.Series:
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # 1.0 was 1 before a gap made it a float
    return values.astype("object").map(str).mask(values.isna(), "").astype("str").str.strip()


def _find_sources(names: Iterable[str], table: str) -> dict[str, _Sources]:
    """Find which columns tell the files of which X; Image_FileName_X is FileName_X."""
    sources: dict[str, _Sources] = {}
    for name in names:
        match = _FILE_COLUMN.fullmatch(name)
        if match:
            sources.setdefault(match[2], _Sources()).columns.setdefault(match[1], name)
    sources = {token: found for token, found in sources.items() if {"FileName", "URL"} & set(found.columns)}
    if not any(not token.startswith(_ILLUMINATION) for token in sources):
        raise DataError(
            f"{table}: names no images. Expected columns FileName_<channel> and PathName_<channel>, or URL_<channel>. "
            f"Found: {list_some(list(names), 12)}.",
            code="META002",
        )
    return sources


def _choose_channels(sources: Mapping[str, _Sources], channels: Mapping[str, str] | None, table: str) -> dict[str, str]:
    """Choose our name of each channel, and its X."""
    tokens = sort_naturally(token for token in sources if not token.startswith(_ILLUMINATION))
    if channels is None:
        originals = [token for token in tokens if token.startswith(_ORIGINAL)]
        aside = [token for token in tokens if token not in originals]
        if originals and aside:
            logger.info("%s: the raw images are Orig…; not used: %s", table, list_some(aside))
        return {_strip(token): token for token in originals or tokens}
    chosen: dict[str, str] = {}
    for ours, theirs in channels.items():
        spellings = (theirs, f"{_ORIGINAL}{theirs}", f"{_CORRECTED}{theirs}")
        token = next((spelling for spelling in spellings if spelling in tokens), None)
        if token is None:
            raise DataError(
                f"{table}: no channel {theirs}, asked for as {ours}. The table has {list_some(tokens, 12)}. "
                "Correct screen.channels.",
                code="NAME004",
            )
        if token in chosen.values():
            raise SettingsError(f"screen.channels: {token} is named twice. Expected each channel of the table once.")
        chosen[ours] = token
    return chosen


def _strip(token: str) -> str:
    return token.removeprefix(_ORIGINAL) or token


def _read_sites(texts: pd.DataFrame, told: Mapping[str, str], table: str) -> pd.DataFrame:
    """Read plate, well and site, and what the table tells of treatments, under our names."""
    if "well" not in told:
        texts = _add_wells(texts)
    try:
        found = find_columns(texts, _FIELDS, told=told, needed=("plate", "well", "site"), path=Path(table))
    except DataError as error:
        raise DataError(str(error).replace(str(Path(table)), table), code=error.code or "META002") from None
    sites = read_columns(texts, found)
    for known in found:
        if known.column == "Metadata_Concentration":
            check_concentrations(sites[known.column], found[known], table)
    for name in SITE:
        empty = sites[name].isna() | (sites[name].astype("str").str.strip() == "")
        if empty.any():
            raise DataError(
                f"{table}: {name} is empty in {empty.sum():,} of {len(sites):,} rows, first in row "
                f"{int(np.flatnonzero(empty)[0]) + 1}. Expected plate, well and site of every row.",
                code="META003",
            )
    names = {well: name_well(well) for well in sites["Metadata_Well"].unique()}
    return sites.assign(Metadata_Well=sites["Metadata_Well"].map(names).astype("str"))


def _add_wells(texts: pd.DataFrame) -> pd.DataFrame:
    """Name the wells by row and column where the table has no names for them."""
    row, column = (
        next((name for name in texts.columns if pattern.fullmatch(name)), None)
        for pattern in (_ROW_COLUMN, _COLUMN_COLUMN)
    )
    if row is None or column is None or any(WELL_FIELDS["well"].match(name) is not None for name in texts.columns):
        return texts
    letters = {text: _name_row(text) for text in texts[row].unique()}
    rows = texts[row].map(letters)
    numbers = texts[column].str.removesuffix(".0")
    return texts.assign(Metadata_Well=(rows + numbers).mask((rows == "") | (numbers == ""), ""))


def _name_row(text: str) -> str:
    """Name a row of a plate: 2 is B, 27 is AA; letters stay."""
    text = text.removesuffix(".0")
    if not text.isdecimal() or not 1 <= int(text) <= 52:
        return text
    number = int(text) - 1
    return chr(ord("A") + number) if number < 26 else "A" + chr(ord("A") + number - 26)


def _select_plates(names: pd.Series, plates: Sequence[str] | None, table: str) -> pd.Series:
    if plates is None:
        return pd.Series(True, index=names.index)
    absent = sorted(set(plates) - set(names))
    if absent:
        known = list_some(sort_naturally(names.unique()))
        raise DataError(f"{table}: no plate {', '.join(absent)}. Known plates: {known}.", code="META008")
    return names.isin(plates)


def _check_unique(sites: pd.DataFrame, table: str) -> None:
    twice = sites.duplicated(SITE, keep=False)
    if twice.any():
        rows = sites.index[twice]
        plate, well, site = sites.loc[rows[0], SITE]
        same = sites.index[(sites[SITE] == sites.loc[rows[0], SITE]).all(axis=1)]
        raise DataError(
            f"{table}: {plate} {well} s{site} stands in rows {same[0] + 1} and {same[1] + 1}; {len(rows):,} of "
            f"{len(sites):,} rows are concerned. Expected one row a site.",
            code="META005",
        )


class _Finder:
    """Looks for files: as the table says, and by the ends of their paths under `images`; lists each folder once."""

    def __init__(self, images: str | None, table: str) -> None:
        self.images = None if images is None else images.rstrip("/\\") or "/"
        #: The first file that was looked for and not found, as the table has it.
        self.lost = ""
        self._table = table
        self._listings: dict[str, dict[str, bool]] = {}
        self._searched: dict[str, list[tuple[str, frozenset[str]]]] = {}
        self._root = None if self.images is None or is_url(self.images) else Root(self.images)
        if self.images is not None and not is_url(self.images) and not Path(self.images).is_dir():
            raise DataError(
                f"{self.images}: no such folder. Expected the folder under which the images lie (screen.images).",
                code="IMG001",
            )

    def find(self, places: pd.Series) -> list[str | None]:
        """Find each place: a path or URL; None where there is no such file."""
        codes, unique = pd.factorize(pd.Series(places, dtype="object"))
        found = np.array([self._find(place) for place in unique], dtype=object)
        return list(found[codes])

    def _find(self, place: str) -> str | None:
        folder, name = _split(place)
        if not name:
            return None
        if folder not in self._searched:
            self._searched[folder] = list(self._search(folder))
        for start, names in self._searched[folder]:
            if name in names:
                if self._root is not None:
                    self._root.check_links(start, name)
                return start + name
        self.lost = self.lost or place
        return None

    def _search(self, folder: str) -> Iterator[tuple[str, frozenset[str]]]:
        """Go through the folders in which the files of the table's folder may be, the likeliest first."""
        if self.images is None:
            here = folder if _is_absolute(folder) else self._beside_table(folder)
            self._check_scheme(here)
            # A URL is taken at its word: asking for each of a hundred thousand files would take hours.
            yield _end(here), _Anything() if is_url(here) else self._files(here)
            return
        parts = [part for part in _path_of(folder).split("/") if part not in ("", ".")]
        if ".." in parts:
            raise DataError(
                f"{self._table}: the path {folder!r} has '..', and could leave {self.images}. Expected none.",
                code="NAME006",
            )
        for start in range(len(parts) + 1):
            if start < len(parts) and not self._list(self.images).get(parts[start], False):
                continue
            here = "/".join([self.images, *parts[start:]])
            yield _end(here), self._files(here)

    def _check_scheme(self, folder: str) -> None:
        """Refuse addresses that need no server: others than the table's own could name files of this machine."""
        if is_url(folder) and not has_open_scheme(folder) and not folder.startswith(_scheme_of(self._table)):
            raise DataError(
                f"{self._table}: the address {folder!r}. Expected one that begins with https://, http:// or s3://, or "
                "a path.",
                code="NAME006",
            )

    def _beside_table(self, folder: str) -> str:
        parent = self._table.rpartition("/")[0] if is_url(self._table) else str(Path(self._table).absolute().parent)
        return f"{parent}/{folder}" if folder else parent

    def _files(self, folder: str) -> frozenset[str]:
        return frozenset(name for name, is_folder in self._list(folder).items() if not is_folder)

    def _list(self, folder: str) -> dict[str, bool]:
        if folder not in self._listings:
            self._listings[folder] = list_folder(folder)
        return self._listings[folder]


class _Anything(frozenset[str]):
    """The listing of a folder that is not listed: whatever is asked for is taken to be there."""

    def __contains__(self, name: object) -> bool:
        return True


def _split(place: str) -> tuple[str, str]:
    """Split a place into folder and name; Windows paths have backslashes, ``file:`` URLs are paths."""
    if place.startswith("file:"):
        place = re.sub(r"^/(?=[A-Za-z]:)", "", unquote(split_address(place).path))
    if not is_url(place):
        place = place.replace("\\", "/")
    folder, slash, name = place.rpartition("/")
    return ("/" if slash and not folder else folder), name


def _scheme_of(place: str) -> str:
    """``memory://`` of an address; of a path something that no address begins with."""
    return place.partition("://")[0] + "://" if is_url(place) else "\0"


def _end(folder: str) -> str:
    return f"{folder.rstrip('/')}/"


def _is_absolute(folder: str) -> bool:
    return is_url(folder) or folder.startswith("/") or re.match(r"[A-Za-z]:", folder) is not None


def _path_of(folder: str) -> str:
    """Take the path out of a URL, and the drive off a Windows path."""
    if is_url(folder):
        parts = split_address(folder)
        # A bucket is no web server: it may be a folder of a copy, as `aws s3 sync` of several makes them.
        return f"{parts.netloc}/{unquote(parts.path)}"
    return re.sub(r"^[A-Za-z]:", "", folder)


def _find_files(
    texts: pd.DataFrame, sources: Mapping[str, _Sources], channels: Mapping[str, str], finder: _Finder
) -> tuple[pd.DataFrame, pd.Series]:
    """Find the files of all sites: columns of paths, planes and illumination functions, and what each site lacks."""
    prefer_url = finder.images is None
    paths = {ours: finder.find(sources[token].read(texts, prefer_url=prefer_url)) for ours, token in channels.items()}
    functions = {
        ours: finder.find(sources[theirs].read(texts, prefer_url=prefer_url))
        for ours, token in channels.items()
        if (theirs := f"{_ILLUMINATION}{_strip(token)}") in sources and not token.startswith(_CORRECTED)
    }
    nowhere = [ours for ours, found in functions.items() if all(place is None for place in found)]
    if nowhere:
        logger.warning(
            "the illumination functions of %s are in none of the places that the table says, and not used. Put them "
            "beside the images (screen.images), or set crop.illumination to plate or none. (IMG012)",
            list_some(nowhere),
        )
    functions = {ours: found for ours, found in functions.items() if ours not in nowhere}
    columns: dict[str, object] = {f"{PATH_PREFIX}{ours}": found for ours, found in paths.items()}
    for ours, token in channels.items():
        planes = _read_planes(texts, sources[token])
        if planes is not None:
            columns[f"{PLANE_PREFIX}{ours}"] = planes
    columns |= {f"{ILLUMINATION_PREFIX}{ours}": found for ours, found in functions.items()}
    reasons = _list_missing("no image file", paths, texts.index)
    lacks = _list_missing("no illumination function", functions, texts.index)
    joined = reasons + pd.Series("; ", index=texts.index).where((reasons != "") & (lacks != ""), "") + lacks
    return pd.DataFrame(columns, index=texts.index), joined


def _list_missing(what: str, found: Mapping[str, list[str | None]], index: pd.Index) -> pd.Series:
    """Say of each row what it lacks; ``""`` where nothing is missing."""
    reasons = np.full(len(index), "", dtype=object)
    for name, places in found.items():
        absent = np.array([place is None for place in places], dtype=bool)
        reasons[absent] = [f"{reason}, {name}" if reason else f"{what}: {name}" for reason in reasons[absent]]
    return pd.Series(reasons, index=index, dtype="str")


def _read_planes(texts: pd.DataFrame, found: _Sources) -> np.ndarray | None:
    """Read which plane of the file is the channel's, from nought; refuse a series, of which we read the first only."""
    for kind in ("Series", "Frame"):
        if kind not in found.columns:
            continue
        name = found.columns[kind]
        values = texts[name].mask(texts[name].isin(EMPTY), "0")
        numbers = pd.to_numeric(values, errors="coerce")
        wrong = ~(numbers >= 0) | (numbers % 1 != 0) | ((numbers != 0) & (kind == "Series"))
        if wrong.any():
            row = wrong.index[np.flatnonzero(wrong)[0]]
            expected = "the first series (0) only" if kind == "Series" else "a whole number from 0"
            raise DataError(
                f"{name} is {texts[name][row]!r} in row {row + 1}; {wrong.sum():,} of {len(wrong):,} rows are "
                f"concerned. Expected {expected}.",
                code="META003",
            )
        if kind == "Frame":
            return numbers.to_numpy(dtype=np.int64)
    return None


def _check_files(files: pd.DataFrame, table: str) -> None:
    """Refuse a plane that stands for two channels or two sites."""
    channels = [name.removeprefix(PATH_PREFIX) for name in files.columns if name.startswith(PATH_PREFIX)]
    places = pd.concat(
        {
            channel: pd.DataFrame(
                {"file": files[f"{PATH_PREFIX}{channel}"], "plane": files.get(f"{PLANE_PREFIX}{channel}", 0)}
            )
            for channel in channels
        }
    ).dropna(subset="file")
    twice = places if places.empty else places[places.duplicated(keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice["file"] == first["file"]) & (twice["plane"] == first["plane"])]
        where = [f"row {row + 1} {channel}" for channel, row in same.index]
        raise DataError(
            f"{table}: the file {first['file']} stands in {list_some(where)}. Expected one of its own for each image.",
            code="NAME003",
        )


def _tell_missing(sites: pd.DataFrame, reasons: pd.Series, finder: _Finder, *, skip_missing: bool) -> pd.DataFrame:
    """List the sites that lack files, or refuse them."""
    incomplete = reasons != ""
    left_out = sites.loc[incomplete, SITE].assign(reason=reasons[incomplete])
    left_out = left_out.sort_values(SITE, kind="stable", ignore_index=True)
    if left_out.empty:
        return left_out
    first = left_out.iloc[0]
    where = f"under {finder.images}" if finder.images else "there; if they lie elsewhere, tell it (screen.images)"
    example = f"The table says {finder.lost}. Expected {where}." if finder.lost else f"Expected {where}."
    code = "IMG001" if "no image file" in first["reason"] else "IMG012"
    if len(left_out) == len(sites):
        raise DataError(
            f"None of the {len(sites):,} sites has all its files ({first['reason']}). {example} Correct the path.",
            code=code,
        )
    if not skip_missing:
        raise DataError(
            f"{len(left_out):,} of {len(sites):,} sites lack a file, first: {first['Metadata_Plate']} "
            f"{first['Metadata_Well']} s{first['Metadata_Site']} ({first['reason']}). {example} "
            "Pass --skip-missing to leave them out.",
            code=code,
        )
    return left_out


def _warn_of_doses(sites: pd.DataFrame, metadata: Path | None, table: str) -> None:
    if metadata is None and "Metadata_Compound" in sites and "Metadata_Concentration" not in sites:
        logger.warning(
            "%s: tells compounds, but no concentrations: nought for all. If a column has them, name it: %s.",
            table,
            how_to_tell("concentration"),
        )
