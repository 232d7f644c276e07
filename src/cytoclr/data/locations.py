"""Where the cells are: centres as any program writes them, brought to the screen's sites."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.data.columns import find_columns, read_columns
from cytoclr.data.readers.centres import PLACE_FIELDS, FoundCentres, ObjectKind, find_centres, number_rows
from cytoclr.data.screen import name_well
from cytoclr.errors import DataError, list_some
from cytoclr.tables import LOCATIONS, PATH_PREFIX, SITE, Table, check_table

__all__ = ["Centres", "Locations", "read_locations", "split_locations"]

logger = logging.getLogger(__name__)

_PLACES = Table("locations", LOCATIONS.columns[:3], key=())


class Centres(NamedTuple):
    """The cells of one site: columns and rows of their centres (px), and their numbers."""

    x: Float[np.ndarray, " cell"]
    y: Float[np.ndarray, " cell"]
    objects: Int[np.ndarray, " cell"]


class Locations:
    """The centres of a screen's cells, in memory once; those of a site are views on them.

    Sites are named as the screen names them. The order of the cells of a site is that of the file.
    """

    def __init__(
        self,
        sites: pd.DataFrame,
        site: Int[np.ndarray, " cell"],
        centres: Centres,
    ) -> None:
        """Take the sites, the number of the site of each cell in ascending order, and the cells."""
        self._centres = centres
        bounds = np.searchsorted(site, np.arange(len(sites) + 1))
        names = sites[SITE].itertuples(index=False, name=None)
        self._bounds = {name: (start, end) for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True)}

    def __len__(self) -> int:
        """Count the cells."""
        return len(self._centres.x)

    def of(self, site: tuple[str, str, int]) -> Centres:
        """Return the cells of a site; none, if none was given."""
        start, end = self._bounds.get(site, (0, 0))
        return Centres(*(values[start:end] for values in self._centres))


def read_locations(path: Path, *, sites: pd.DataFrame | None = None, object: ObjectKind | None = None) -> pd.DataFrame:
    """Read cell centres: plate, well, site, object, x (column) and y (row), in px.

    The kind is told by what is in the file, not by its name:

    - a table (CSV, plain or gzipped, or Parquet) with a row a cell: plate, well and site in any spelling, and ``x``
      and ``y``, or CellProfiler's columns, as ``Nuclei_Location_Center_X`` (also CytoTable's and pycytominer's);
    - CellProfiler's export: ``Image.csv`` beside ``Nuclei.csv``, with any prefix, in a folder or folders in it;
    - a SQLite database of CellProfiler or cytominer-database;
    - DeepProfiler's ``PLATE/WELL-SITE-Nuclei.csv``;
    - pycytominer's table of images with a list ``CellCenters`` (JUMP's ``load_data_with_illum_and_cell_location``);
    - a folder of such tables.

    Parameters
    ----------
    path
        The file or folder.
    sites
        The screen, with the paths of its images. Where plates, wells and sites are not told, or none is the screen's,
        images are found by the names of their files: first together with the plate, then with the folder, then alone.
    object
        Whose centres; None: those of nuclei, else cells, else cytoplasm. A table of ``x`` and ``y`` tells none.

    Returns
    -------
    pandas.DataFrame
        `cytoclr.tables.LOCATIONS`, in the file's order; plate and well are categories, wells as ``B02``. Cells without
        a centre, and cells of images whose files are not the screen's, are left out and counted in the log.

    Raises
    ------
    DataError
        LOC001: nothing of a known kind, a file cannot be read, a value is of another kind, or no site can be told.
        LOC002: image files are named, none of them the screen's, and nothing else tells the site. LOC010: two cells of
        a site have the same number.

    Notes
    -----
    Only the columns needed are read. Location_Center comes before AreaShape_Center: it is the centre of mass in all
    versions of CellProfiler.
    """
    try:
        found = find_centres(path, object=object, with_files=sites is not None)
        screen = None if sites is None else _name_wells(sites)
        pieces = [_place(piece, screen) for piece in found]
        table = _join_pieces(pieces)
        _refuse_repeated(table, path)
        table = _leave_out_copies(table, path)
    except DataError as error:
        raise DataError(str(error), code=error.code if error.code.startswith("LOC") else "LOC001") from None
    _tell_kinds(found, table, path)
    return table


def _leave_out_copies(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Keep one of several cells at the very same place, which no segmenter makes."""
    copies = table.duplicated([*SITE, "x", "y"])
    if copies.any():
        plate, well, site = table.loc[copies, SITE].iloc[0]
        logger.warning(
            "%s: %s of %s cells lie exactly where another does, and are left out; first %s %s s%s. Is the table there "
            "twice? (LOC010)",
            path,
            f"{int(copies.sum()):,}",
            f"{len(table):,}",
            plate,
            well,
            site,
        )
    return table[~copies].reset_index(drop=True)


def split_locations(locations: pd.DataFrame, screen: pd.DataFrame, source: str) -> Locations:
    """Give each site of the screen its locations.

    Parameters
    ----------
    locations
        As `read_locations` returns them; plate and well may be texts.
    screen
        One row a site.
    source
        Where the locations came from, for the message.

    Raises
    ------
    DataError
        LOC002: no site of the screen has a location.
    """
    given, number = number_rows(locations[SITE])
    sites = pd.MultiIndex.from_frame(_name_wells(screen)[SITE])
    rows = sites.get_indexer(pd.MultiIndex.from_frame(_name_wells(given)[SITE]))
    site = rows[number]
    inside = site >= 0
    if not inside.any():
        here = "{} {} s{}".format(*sites[0])
        first = next(("{} {} s{}".format(*place) for place in given.itertuples(index=False, name=None)), "none")
        raise DataError(
            f"{source}: none of its sites is in the screen. The screen has {here}, the locations have "
            f"{first}. Expected the same names of plates, wells and sites.",
            code="LOC002",
        )
    if not inside.all():
        outside = int((~inside).sum())
        logger.info("%s: %s of %s cells are in sites that the screen lacks", source, f"{outside:,}", f"{len(inside):,}")
    order = np.flatnonzero(inside)
    if (np.diff(site[order]) < 0).any():
        order = order[np.argsort(site[order], kind="stable")]
    columns = (locations[name].to_numpy()[order] for name in ("x", "y", "Metadata_Object"))
    return Locations(screen, site[order].astype(np.int64), Centres(*columns))


def _name_wells(sites: pd.DataFrame) -> pd.DataFrame:
    """Spell all wells alike, ``b2`` as ``B02``."""
    wells = sites["Metadata_Well"].astype("object")
    names = {well: name_well(str(well)) for well in wells.unique()}
    plates = sites["Metadata_Plate"].astype("object")
    return sites.assign(Metadata_Plate=plates, Metadata_Well=wells.map(names))


class _Placed(NamedTuple):
    """Cells with the row number of their site."""

    sites: pd.DataFrame
    site: Int[np.ndarray, " cell"]
    centres: Centres


def _place(found: FoundCentres, screen: pd.DataFrame | None) -> _Placed:
    """Find the site of each image, and leave out the cells that have none, or no centre."""
    sites, known = _find_sites(found, screen)
    kept = _tell_left_out(~known[found.image], found, "belong to images whose files are not the screen's")
    kept &= _tell_left_out(np.isnan(found.x) | np.isnan(found.y), found, "have no centre")
    site = found.image[kept]
    # two images of one site are one site from here on
    different, numbers = number_rows(sites)
    site = numbers[site]
    objects = _number_cells(site) if found.objects is None else found.objects[kept]
    return _Placed(different, site, Centres(found.x[kept], found.y[kept], objects))


def _tell_left_out(wrong: Bool[np.ndarray, " cell"], found: FoundCentres, why: str) -> Bool[np.ndarray, " cell"]:
    if wrong.any():
        logger.warning(
            "%s: %s of %s cells %s, and are left out", found.source, f"{wrong.sum():,}", f"{len(wrong):,}", why
        )
    return ~wrong


def _number_cells(site: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
    """Number the cells of each site from 1, in their order."""
    numbers: np.ndarray = pd.Series(site).groupby(site).cumcount().to_numpy() + 1
    return numbers


def _find_sites(found: FoundCentres, screen: pd.DataFrame | None) -> tuple[pd.DataFrame, Bool[np.ndarray, " image"]]:
    """Return each image's site, and which images have one."""
    places = _read_places(found)
    by_files = screen is not None and bool(_path_columns(screen)) and bool(_file_columns(found.images))
    named = _check_places(places, found, may_fail=by_files)
    everywhere = np.ones(len(places), dtype=bool)
    if screen is None or not by_files or (named is not None and _agree(named, screen)):
        if named is None:
            lacking = [name for name in SITE if name not in places]
            raise DataError(
                f"{found.source}: the site of its images cannot be told: no column of {', '.join(lacking)}, and no "
                "names of image files to find in the screen. Found: "
                f"{list_some(list(found.images.columns), 12) or 'none'}."
            )
        return named, everywhere
    rows = _match_files(found, places.get("Metadata_Plate"), screen)
    if (rows >= 0).any():
        logger.info("%s: its images are found by the names of their files", found.source)
        return screen[SITE].iloc[np.maximum(rows, 0)].reset_index(drop=True), rows >= 0
    if named is not None:
        return named, everywhere  # `split_locations` tells both sides
    raise DataError(
        f"{found.source}: none of the image files that it names is the screen's. It has "
        f"{_first_file(found.images)}, the screen {_base_names(screen[_path_columns(screen)[0]]).iloc[0]}. "
        "Expected the same images, or plate, well and site.",
        code="LOC002",
    )


def _check_places(places: pd.DataFrame, found: FoundCentres, *, may_fail: bool) -> pd.DataFrame | None:
    """Return the sites as they are named; None if they are not, or not well and there is another way."""
    if set(places.columns) != set(SITE):
        return None
    try:
        return _name_wells(check_table(places, _PLACES, f"{found.source}, images"))[SITE]
    except DataError:
        if may_fail:
            return None
        raise


def _read_places(found: FoundCentres) -> pd.DataFrame:
    columns = find_columns(found.images, PLACE_FIELDS, told={}, needed=(), path=found.source)
    places = read_columns(found.images, columns)
    texts = [name for name in ("Metadata_Plate", "Metadata_Well") if name in places]
    places = places.assign(**{name: places[name].str.strip() for name in texts})
    return places.set_axis(found.images.index)


def _agree(named: pd.DataFrame, screen: pd.DataFrame) -> bool:
    theirs, ours = (pd.MultiIndex.from_frame(frame[SITE]) for frame in (named, screen))
    return bool(theirs.isin(ours).any())


def _file_columns(images: pd.DataFrame) -> list[str]:
    return [str(name) for name in images.columns if "FileName_" in str(name)]


def _path_columns(screen: pd.DataFrame) -> list[str]:
    return [name for name in screen.columns if name.startswith(PATH_PREFIX)]


def _first_file(images: pd.DataFrame) -> str:
    return str(images[_file_columns(images)[0]].iloc[0])


def _match_files(found: FoundCentres, plates: pd.Series | None, screen: pd.DataFrame) -> Int[np.ndarray, " image"]:
    """Find the row of the screen that has an image's files; -1 where none has.

    A file's name may repeat from plate to plate (Phenix names no plate), so names are looked for together with the
    plate; if that finds none, with the folder; then alone, when a name that several sites have tells none.
    """
    images = found.images
    for key in ("plate", "folder", "name"):
        known = _index_once(
            [_say_where(key, column, screen, screen["Metadata_Plate"]) for column in _path_columns(screen)]
        )
        rows = np.full(len(images), -1, dtype=np.int64)
        for column in _file_columns(images):
            names = _say_where(key, column, images, plates)
            if names is not None:
                rows = np.where(rows < 0, names.map(known).fillna(-1).to_numpy(dtype=np.int64), rows)
        if (rows >= 0).any():
            if key == "name":
                _check_names_alone(rows, found, plates, screen)
            return rows
    return rows


def _check_names_alone(
    rows: Int[np.ndarray, " image"], found: FoundCentres, plates: pd.Series | None, screen: pd.DataFrame
) -> None:
    """Refuse names that stand for several images, and tell it where plates have other names."""
    several = pd.Series(rows[rows >= 0])
    if several.duplicated().any():
        first = int(several[several.duplicated()].iloc[0])
        number = int((rows == first).sum())
        path = screen[_path_columns(screen)[0]].iloc[first]
        raise DataError(
            f"{found.source}: {number} of its images have the file name of {path}. Expected plates that are called as "
            "in the screen, or the folders of the images, to tell them apart."
        )
    if plates is not None:
        logger.warning(
            "%s: its images are found by their files' names alone: its first plate is called %s, the screen's %s. Are "
            "they the same?",
            found.source,
            plates[rows >= 0].iloc[0],
            screen["Metadata_Plate"].iloc[rows[rows >= 0][0]],
        )


def _say_where(key: str, column: str, images: pd.DataFrame, plates: pd.Series | None) -> pd.Series | None:
    """Return the names of files, behind that of the plate or the folder if asked for; None if that is not known."""
    names = _base_names(images[column])
    if key == "name":
        return names
    if key == "plate":
        return None if plates is None else plates.astype("str") + "\n" + names
    if column.startswith(PATH_PREFIX):
        return _folder_names(images[column]) + "\n" + names
    path = column.replace("FileName_", "PathName_")
    return _base_names(images[path]) + "\n" + names if path in images else None


def _base_names(paths: pd.Series) -> pd.Series:
    """Take the last part of paths or URLs, of any system."""
    return _map_once(paths, lambda path: path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def _folder_names(paths: pd.Series) -> pd.Series:
    return _map_once(paths, lambda path: f"/{path}".replace("\\", "/").rsplit("/", 2)[-2])


def _map_once(values: pd.Series, change: Callable[[str], str]) -> pd.Series:
    texts = values.astype("object").fillna("")
    return texts.map({value: change(str(value)) for value in texts.unique()})


def _index_once(parts: list[pd.Series | None]) -> dict[str, int]:
    """Number the rows by names; those that stand in several rows are not in it."""
    names = pd.concat([part.reset_index(drop=True) for part in parts if part is not None])
    pairs = pd.DataFrame({"name": names, "row": names.index}).drop_duplicates()
    once = pairs[~pairs.duplicated("name", keep=False)]
    return dict(zip(once["name"], once["row"], strict=True))


def _join_pieces(pieces: list[_Placed]) -> pd.DataFrame:
    starts = np.cumsum([0, *(len(piece.sites) for piece in pieces)])
    sites, numbers = number_rows(pd.concat([piece.sites for piece in pieces], ignore_index=True))
    site = np.concatenate([numbers[piece.site + start] for piece, start in zip(pieces, starts[:-1], strict=True)])
    x, y, objects = (np.concatenate(parts) for parts in zip(*(piece.centres for piece in pieces), strict=True))
    columns = {name: sites[name].astype("category").array.take(site) for name in SITE[:2]}
    numbered = sites["Metadata_Site"].to_numpy()[site]
    return pd.DataFrame({**columns, "Metadata_Site": numbered, "Metadata_Object": objects, "x": x, "y": y}, copy=False)


def _refuse_repeated(table: pd.DataFrame, path: Path) -> None:
    repeated = table.duplicated([*SITE, "Metadata_Object"], keep=False).to_numpy()
    if not repeated.any():
        return
    plate, well, site, number = table.loc[np.flatnonzero(repeated)[0], [*SITE, "Metadata_Object"]]
    raise DataError(
        f"{path}: {repeated.sum():,} of {len(table):,} cells have the number of another in their site, first: {plate} "
        f"{well} s{site}, object {number}. Expected each once; are two runs, or two tables of a site, in it?",
        code="LOC010",
    )


def _tell_kinds(found: list[FoundCentres], table: pd.DataFrame, path: Path) -> None:
    kinds = sorted({piece.kind for piece in found if piece.kind})
    if len(kinds) > 1:
        logger.warning("%s: centres are of %s, each from other files", path, " and of ".join(kinds))
    whose = f", centres of {kinds[0]}" if len(kinds) == 1 else ""
    logger.info("%s: %s cells%s", path, f"{len(table):,}", whose)
    if any(piece.objects is None for piece in found):
        logger.info("%s: its cells have no numbers; those of a site are numbered from 1, in their order", path)
