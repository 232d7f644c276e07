"""Public screens, fetched: BBBC021 from the Broad or the Cell Painting Gallery, and any project of the Gallery.

What is there already is not fetched again; a fetch that was stopped goes on.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from cytoclr.data.download import ask_size, check_space, download, unpack
from cytoclr.data.locations import read_locations
from cytoclr.data.readers.bbbc021 import read_image_table
from cytoclr.data.readers.loaddata import list_sources
from cytoclr.data.remote import as_s3, has_open_scheme, is_url, list_folder, list_tree
from cytoclr.data.roots import leaves
from cytoclr.errors import DamagedError, DataError, list_some
from cytoclr.progress import Progress, Silent
from cytoclr.storage import hold_run, read_json, write_json, write_table
from cytoclr.tables import PATH_PREFIX, sort_naturally

__all__ = ["BROAD_URL", "GALLERY_URL", "FetchReport", "fetch_bbbc021", "fetch_gallery"]

logger = logging.getLogger(__name__)

BROAD_URL = "https://data.broadinstitute.org/bbbc/BBBC021"
GALLERY_URL = "s3://cellpainting-gallery"
BBBC021_NOTICE = (
    "BBBC021: the images are copyright of AstraZeneca, who supplied them to the Broad Bioimage Benchmark Collection. "
    "Cite Caie et al. 2010 (doi:10.1158/1535-7163.MCT-09-1148), image set BBBC021v1, and Ljosa et al. 2012 "
    "(doi:10.1038/nmeth.2083)."
)
GALLERY_NOTICE = (
    "Cell Painting Gallery: terms of the Registry of Open Data on AWS "
    "(https://registry.opendata.aws/cellpainting-gallery). Cite Weisbart et al. 2024 "
    "(doi:10.1038/s41592-024-02399-z), and the publication of the project."
)
_TABLES = ("BBBC021_v1_image.csv", "BBBC021_v1_compound.csv", "BBBC021_v1_moa.csv")
_PLATE = re.compile(r"Week(\d+)_\w+")
_PROJECT, _INSTITUTION = "cpg0010-caie-drugresponse", "broad-az"
#: Ljosa's own cell centres, measured in 2013.
_CENTRES = (
    f"{_PROJECT}/{_INSTITUTION}/workspace/backend/ljosa_2013/analysis_batch_stable/ljosa_jbiomolscreen_2013.sqlite"
)
#: Of the tables of a plate the first that there is: with illumination functions before without, Parquet before CSV.
_LOAD_DATA = tuple(
    f"load_data{what}.{ending}" for what in ("_with_illum", "") for ending in ("parquet", "csv", "csv.gz")
)
#: Images are small: several at a time hide the time each takes to be answered.
_NUM_THREADS = 8


@dataclass(frozen=True)
class FetchReport:
    """What a fetch has done; names are relative to the folder.

    `fetched` and `kept` are files that were asked for, now and before; `left_out` says of others why they are not
    there. `num_images` counts the images and illumination functions that are there now. `tables` are the tables to go
    on with: the image table, LoadData tables, mechanisms, locations. `notice` is to be shown to whoever uses the data.
    """

    folder: Path
    tables: tuple[str, ...]
    fetched: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: Mapping[str, str]
    num_images: int
    num_bytes: int
    notice: str


class _Tally:
    """Counts what is done, and shows it; several threads may report."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.tables: list[str] = []
        self.fetched: list[str] = []
        self.kept: list[str] = []
        self.left_out: dict[str, str] = {}
        self.num_images = 0
        self.num_bytes = 0
        self._progress = progress
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._progress.advance(count)

    def fetch(self, place: str, name: str) -> None:
        """Fetch one file under its name in the folder."""
        size = download(place, self.folder / name, advance=self.advance)
        with self._lock:
            self.fetched.append(name)
            self.num_bytes += size

    def fetch_all(self, wanted: Mapping[str, tuple[str, int | None]], what: str) -> None:
        """Fetch files: by their names in the folder, place and size. Those that are there with their size are kept.

        Raises
        ------
        DataError
            NAME006: a name would leave the folder.
        """
        outside = [name for name in wanted if leaves(name)]
        if outside:
            raise DataError(
                f"{what}: the server has a file {outside[0]!r}, which would leave {self.folder}. Nothing was fetched.",
                code="NAME006",
            )
        missing = {
            name: (place, size)
            for name, (place, size) in wanted.items()
            if not (self.folder / name).is_file() or size not in (None, (self.folder / name).stat().st_size)
        }
        self.kept += [name for name in wanted if name not in missing]
        total = sum(size or 0 for _, size in missing.values())
        logger.info("%s: %s of %s files to fetch, %.2f GB", what, len(missing), len(wanted), total / 1e9)
        if not missing:
            return
        check_space(self.folder, total, what)
        self._progress.start(f"fetch {what}", total, "B")
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            tasks = [pool.submit(self.fetch, place, name) for name, (place, _) in missing.items()]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._progress.finish()

    def work(self, what: str, total: int, steps: Iterable[Callable[[], None]]) -> None:
        """Do one step after another, under one bar of bytes."""
        self._progress.start(what, total, "B")
        for step in steps:
            step()
        self._progress.finish()

    def report(self, notice: str) -> FetchReport:
        return FetchReport(
            self.folder,
            tuple(self.tables),
            tuple(sorted(self.fetched)),
            tuple(sorted(self.kept)),
            dict(self.left_out),
            self.num_images,
            self.num_bytes,
            notice,
        )


def fetch_bbbc021(
    folder: Path,
    *,
    weeks: Sequence[int] | None = None,
    plates: Sequence[str] | None = None,
    source: Literal["broad", "gallery"] = "broad",
    locations: bool = False,
    progress: Progress | None = None,
    broad_url: str = BROAD_URL,
    gallery_url: str = GALLERY_URL,
) -> FetchReport:
    """Fetch BBBC021: its tables, the images of its plates, and, if wanted, the cell centres of Ljosa et al. 2013.

    Parameters
    ----------
    folder
        Where to. From the Broad, images lie under ``images/`` as the image table names them.
    weeks, plates
        Of these only, as ``[1, 2]`` and ``["Week1_22123"]``; a plate must be of both. None: all.
    source
        The Broad's archives, one a plate, which are deleted once they are unpacked; or the Gallery's single files,
        with illumination functions where it has them.
    locations
        Fetch the database of cell centres too, and write ``locations.parquet`` from it; the database is then deleted.
    progress
        Shows how far it is, in bytes.
    broad_url, gallery_url
        Other places with the same files.

    Raises
    ------
    DataError
        A week or plate is not in the image table; a file is not on the server; an archive is damaged or hostile.
    MachineError
        A server cannot be reached; the disk is too small; another process fetches into the folder.
    """
    broad_url = broad_url.rstrip("/")
    with hold_run(folder):
        tally = _Tally(folder, progress or Silent())
        tally.fetch_all({name: _with_size(f"{broad_url}/{name}") for name in _TABLES}, "tables of BBBC021")
        tally.tables += _TABLES
        table = read_image_table(folder / _TABLES[0])
        chosen = _choose_plates(table["Metadata_Plate"].unique(), weeks, plates, folder / _TABLES[0])
        rows = table[table["Metadata_Plate"].isin(chosen)]
        if source == "broad":
            _fetch_archives(tally, rows, broad_url)
        else:
            _fetch_bbbc021_from_gallery(tally, rows, gallery_url.rstrip("/"))
        if locations:
            _fetch_centres(tally, table, f"{gallery_url.rstrip('/')}/{_CENTRES}")
        return tally.report(
            BBBC021_NOTICE if source == "broad" and not locations else f"{BBBC021_NOTICE} {GALLERY_NOTICE}"
        )


def fetch_gallery(
    project: str,
    folder: Path,
    *,
    source: str | None = None,
    batch: str | None = None,
    plates: Sequence[str] | None = None,
    progress: Progress | None = None,
    gallery_url: str = GALLERY_URL,
) -> FetchReport:
    """Fetch plates of a project of the Cell Painting Gallery: LoadData tables, images and illumination functions.

    Parameters
    ----------
    project
        As ``cpg0016-jump``.
    folder
        Where to; files keep the paths they have in the project, so that the folder can be ``screen.images``.
    source
        The institution, as ``source_4``; None: the only one.
    batch, plates
        Of these only. None: all; look first how large the project is.
    progress
        Shows how far it is, in bytes.
    gallery_url
        Another place with the same files.

    Raises
    ------
    DataError
        The project, source, batch or plate is not there, or has no LoadData tables; a table cannot be read.
    MachineError
        The gallery cannot be reached; the disk is too small; another process fetches into the folder.
    """
    root = f"{gallery_url.rstrip('/')}/{project}"
    with hold_run(folder):
        tally = _Tally(folder, progress or Silent())
        chosen = source or _choose_source(root)
        tables = _find_load_data(f"{root}/{chosen}", batch)
        if not tables:
            raise DataError(
                f"{root}/{chosen}: no LoadData tables under workspace/load_data_csv{f'/{batch}' if batch else ''}. "
                f"Found there: {_name_folders(f'{root}/{chosen}/workspace/load_data_csv')}. Correct the project, "
                "the source or the batch.",
                code="NET001",
            )
        _fetch_load_data(tally, root, chosen, tables, plates, batch)
        return tally.report(GALLERY_NOTICE)


def _with_size(place: str) -> tuple[str, int | None]:
    return place, ask_size(place)


def _choose_plates(
    names: Iterable[str], weeks: Sequence[int] | None, plates: Sequence[str] | None, table: Path
) -> list[str]:
    """Choose the plates of the weeks and names asked for; refuse those that the image table does not know."""
    known = {name: int(match[1]) for name in sort_naturally(names) if (match := _PLATE.fullmatch(name))}
    for what, asked, there in (("week", weeks, sorted(set(known.values()))), ("plate", plates, list(known))):
        absent = [str(value) for value in asked or () if value not in there]
        if absent:
            raise DataError(
                f"{table}: no {what} {', '.join(absent)}. Known {what}s: {list_some(there, 12)}.", code="META008"
            )
    chosen = [name for name, week in known.items() if (not weeks or week in weeks) and (not plates or name in plates)]
    if not chosen:
        raise DataError(
            f"{table}: none of the plates {list_some(plates or ())} is of the weeks {list_some(weeks or ())}.",
            code="META008",
        )
    return chosen


def _fetch_archives(tally: _Tally, rows: pd.DataFrame, broad_url: str) -> None:
    """Fetch and unpack the archive of each plate; what was unpacked before is known by its record."""
    images = tally.folder / "images"
    remaining = {}
    for plate in sort_naturally(rows["Metadata_Plate"].unique()):
        name = f"BBBC021_v1_images_{plate}.zip"
        if _is_unpacked(images, _record_of(tally.folder, name)):
            tally.kept.append(name)
        else:
            remaining[plate] = (name, *_with_size(f"{broad_url}/{name}"))
    total = sum(size or 0 for _, _, size in remaining.values())
    logger.info("images of BBBC021: %s plates to fetch, %.2f GB in archives", len(remaining), total / 1e9)
    # What is in an archive takes more room than the archive, and one archive stands beside it while it is unpacked.
    check_space(tally.folder, total, "the images of BBBC021")

    def fetch(plate: str, name: str, place: str, size: int | None) -> Callable[[], None]:
        return lambda: _fetch_archive(tally, plate, name, place, size)

    if remaining:
        tally.work("fetch BBBC021", total, [fetch(plate, *about) for plate, about in remaining.items()])
    for whose, files in rows.groupby("Metadata_Plate"):
        _count_images(tally, str(whose), files)


def _fetch_archive(tally: _Tally, plate: str, name: str, place: str, size: int | None) -> None:
    archive = tally.folder / name
    if archive.is_file() and size in (None, archive.stat().st_size):
        tally.advance(size or 0)  # it was fetched, but not unpacked to the end
        tally.fetched.append(name)
    else:
        tally.fetch(place, name)
    unpacked = unpack(archive, tally.folder / "images", top=plate)
    write_json(_record_of(tally.folder, name), dict(unpacked.files))
    archive.unlink()


def _record_of(folder: Path, name: str) -> Path:
    return folder / "unpacked" / f"{name}.json"


def _is_unpacked(images: Path, record: Path) -> bool:
    """Tell whether all that an archive held is there, with its size."""
    try:
        sizes = read_json(record)
    except (FileNotFoundError, DamagedError):
        return False
    return all((images / path).is_file() and (images / path).stat().st_size == size for path, size in sizes.items())


def _count_images(tally: _Tally, plate: str, rows: pd.DataFrame) -> None:
    """Count a plate's images, and say which of the table's its archive did not hold."""
    images = tally.folder / "images"
    for path in rows.filter(regex=f"^{PATH_PREFIX}").to_numpy().ravel():
        if (images / path).is_file() or (images / plate / PurePosixPath(path).name).is_file():
            tally.num_images += 1
        else:
            tally.left_out[str(path)] = "in the image table, but not in the plate's archive"


def _fetch_bbbc021_from_gallery(tally: _Tally, rows: pd.DataFrame, gallery_url: str) -> None:
    """Fetch single images: those of the gallery's own LoadData tables, or, if it has none, of the image table."""
    root = f"{gallery_url}/{_PROJECT}"
    plates = list(rows["Metadata_Plate"].unique())
    tables = _find_load_data(f"{root}/{_INSTITUTION}", None)
    if tables:
        _fetch_load_data(tally, root, _INSTITUTION, tables, plates, None)
        return
    logger.info("%s: no LoadData tables; images are found by the image table", root)
    paths = [str(path) for path in rows.filter(regex=f"^{PATH_PREFIX}").to_numpy().ravel()]
    listed = list_tree(f"{root}/{_INSTITUTION}/images")
    found = _match_ends(paths, listed)
    wanted: dict[str, tuple[str, int | None]] = {}
    for path in paths:
        if path in found and not leaves(path):
            wanted[f"images/{path}"] = (f"{root}/{_INSTITUTION}/images/{found[path]}", listed[found[path]])
        else:
            tally.left_out[path] = "in the image table, but not in the gallery"
    _fetch_images(tally, wanted, root)


def _fetch_centres(tally: _Tally, table: pd.DataFrame, place: str) -> None:
    """Fetch the database of cell centres, and keep the centres of it: those of all plates, whichever are fetched."""
    name, database = "locations.parquet", place.rpartition("/")[2]
    tally.tables.append(name)
    if (tally.folder / name).is_file():
        tally.kept.append(name)
        return
    tally.fetch_all({database: _with_size(place)}, "the database of cell centres")
    write_table(tally.folder / name, read_locations(tally.folder / database, sites=table))
    (tally.folder / database).unlink()


def _choose_source(root: str) -> str:
    folders = [name for name, is_folder in list_folder(root).items() if is_folder]
    if len(folders) == 1:
        return folders[0]
    if not folders:
        parent, _, project = root.rpartition("/")
        raise DataError(
            f"{parent}: no project {project}. Projects: https://github.com/broadinstitute/cellpainting-gallery.",
            code="NET001",
        )
    raise DataError(
        f"{root}: {len(folders)} sources: {list_some(sort_naturally(folders), 15)}. Name one (--source).",
        code="META008",
    )


def _name_folders(place: str) -> str:
    folders = sort_naturally(name for name, is_folder in list_folder(place).items() if is_folder)
    return list_some(folders, 12) if folders else "nothing"


def _find_load_data(root: str, batch: str | None) -> dict[str, tuple[str, int | None]]:
    """Find the best LoadData table of each folder: by its path in the source, its place and size."""
    top = f"workspace/load_data_csv/{batch}" if batch else "workspace/load_data_csv"
    best: dict[str, tuple[int, str, int]] = {}
    for path, size in list_tree(f"{root}/{top}").items():
        parent, _, name = path.rpartition("/")
        if name in _LOAD_DATA:
            rank = _LOAD_DATA.index(name)
            if parent not in best or rank < best[parent][0]:
                best[parent] = (rank, path, size)
    return {f"{top}/{path}": (f"{root}/{top}/{path}", size) for _, path, size in best.values()}


def _fetch_load_data(
    tally: _Tally,
    root: str,
    source: str,
    tables: Mapping[str, tuple[str, int | None]],
    plates: Sequence[str] | None,
    batch: str | None,
) -> None:
    """Fetch LoadData tables, and the files they name."""
    named = {path: about for path, about in tables.items() if plates and PurePosixPath(path).parent.name in plates}
    # Folders are named by plates, as a rule; where they are not, the tables themselves tell.
    chosen = {f"{source}/{path}": about for path, about in (named or tables).items()}
    tally.fetch_all(chosen, "LoadData tables")
    listings = _Listings(f"{root}/{source}/images" + (f"/{batch}" if batch else ""))
    wanted: dict[str, tuple[str, int | None]] = {}
    owners: dict[str, str] = {}
    for name in chosen:
        places = list_sources(str(tally.folder / name), plates=plates)
        if places:
            tally.tables.append(name)
        for place in places:
            found = listings.find(place)
            target = "" if found is None else found[0].removeprefix(f"{root}/")
            if found is None:
                tally.left_out[place] = f"in {name}, but not in the gallery"
            elif leaves(target):
                tally.left_out[place] = f"in {name}, but of another project"
            elif owners.setdefault(target, place) != place and not is_url(place):
                tally.left_out[place] = f"in {name}, but {target} is already the image {owners[target]}"
            else:
                wanted[target] = found
    if not wanted:
        raise DataError(
            f"{root}/{source}: {len(chosen):,} LoadData tables name no image of the plates {list_some(plates or ())} "
            "that is there. Correct the plates.",
            code="META008",
        )
    _fetch_images(tally, wanted, root)


def _fetch_images(tally: _Tally, wanted: Mapping[str, tuple[str, int | None]], root: str) -> None:
    if not wanted:
        raise DataError(f"{root}: none of the images is there. Correct the address.", code="NET001")
    tally.fetch_all(wanted, f"images of {root.rpartition('/')[2]}")
    tally.num_images += len(wanted)


class _Listings:
    """What the gallery has: each folder listed once, and a whole tree only for paths that are no addresses."""

    def __init__(self, images: str) -> None:
        self._images = images
        self._folders: dict[str, dict[str, int]] = {}
        self._ends: tuple[dict[str, int], dict[str, list[str]]] | None = None

    def find(self, place: str) -> tuple[str, int] | None:
        """Find the address and size of a file that a table names; None where it is not there."""
        if is_url(place) and not place.startswith("file:"):
            if not has_open_scheme(place):
                return None
            folder, _, name = as_s3(place).rpartition("/")
            if folder not in self._folders:
                self._folders[folder] = list_tree(folder)
            size = self._folders[folder].get(name)
            return None if size is None else (f"{folder}/{name}", size)
        if self._ends is None:
            listed = list_tree(self._images)
            self._ends = listed, _by_name(listed)
        listed, by_name = self._ends
        path = _match_end(place.replace("\\", "/"), by_name)
        return None if path is None else (f"{self._images}/{path}", listed[path])


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for path in paths:
        named.setdefault(path.rpartition("/")[2], []).append(path)
    return named


def _match_ends(paths: Iterable[str], listed: Iterable[str]) -> dict[str, str]:
    named = _by_name(listed)
    return {path: match for path in paths if (match := _match_end(path, named)) is not None}


def _match_end(path: str, named: Mapping[str, Sequence[str]]) -> str | None:
    """Find the file whose path ends most like this one; None if there is none, or two are as like."""
    parts = path.split("/")
    lengths = {candidate: _count_common(parts, candidate.split("/")) for candidate in named.get(parts[-1], ())}
    best = max(lengths.values(), default=0)
    nearest = [candidate for candidate, length in lengths.items() if length == best]
    # Names as r01c01f01p01-ch1 are those of every plate: the folder must agree too.
    return nearest[0] if len(nearest) == 1 and best >= min(2, len(parts)) else None


def _count_common(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
