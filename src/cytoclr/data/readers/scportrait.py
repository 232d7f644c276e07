"""Ready crops in scPortrait's HDF5 files (``.h5sc``, an AnnData with the images in ``obsm``).

Mädler, Schmacke et al. 2025, scPortrait; the layout is that of its version 1 (``obsm/single_cell_images``), and the one
before (``single_cell_data``, ``single_cell_index``), which its predecessor SPARCSpy had.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped, UInt

from cytoclr.data.hdf5 import check_hdf5
from cytoclr.data.readers.images import compile_template
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.data.selection import choose_channels, select_plates
from cytoclr.errors import DataError, list_some
from cytoclr.tables import LOCATED_CELLS, PLANE_PREFIX, SITE, WELL_METADATA, check_table

__all__ = ["read_h5sc_cells", "read_h5sc_channels", "read_h5sc_crops"]

logger = logging.getLogger(__name__)

_SUFFIXES = (".h5sc", ".h5", ".hdf5")
_IMAGES, _OLD_IMAGES = "obsm/single_cell_images", "single_cell_data"
_CELL_IDS = ("obs/scportrait_cell_id", "obs/cell_id")
#: Images are numbers from 0 to 1; half precision may round a little beyond.
_MAX_VALUE = 1.001


def read_h5sc_cells(
    folder: Path,
    *,
    template: str,
    channels: Mapping[str, str] | None,
    plates: Sequence[str] | None,
    metadata: Path | None,
    columns: Mapping[str, str],
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """List the cells of all files under a folder; their crops are not read.

    Parameters
    ----------
    folder
        The files lie under it, at any depth.
    template
        How they are named, as ``{plate}_{well}.h5sc``; see `cytoclr.data.readers.images.compile_template`. Without a
        plate, all are of one, called as the folder; without a site, a file is one site of its well.
    channels
        Each channel's name here, and its name in the files. None: all that are no masks, in their order.
    plates
        These only; None: all.
    metadata, columns, controls, positive_controls, batch_pattern
        See `cytoclr.data.screen.join_plate_map`.

    Returns
    -------
    cells
        One row a cell (`cytoclr.tables.LOCATED_CELLS`); ``Metadata_Object`` is scPortrait's own number of it, centres
        are unknown, hence empty. ``Path_Crop`` is the file, ``Row_Crop`` the row in it, ``Plane_<channel>``
        each channel's place in it (masks are counted too).
    left_out
        One row a site of an empty well, with the reason.
    channels
        Their names here, in order.

    Raises
    ------
    SettingsError
        The template is not one (NAME007).
    DataError
        No file fits the template (NAME001); two stand for one site (NAME003); a file is not of scPortrait (CROP001);
        files differ in channels (NAME005) or size (CROP002); a channel (NAME004) or a plate (META008) is not there; a
        cell stands twice (LOC010); or what `join_plate_map` refuses.
    """
    files = select_plates(_match_files(folder, template), plates, str(folder))
    contents = {path: _read_contents(Path(path)) for path in files["Path_Crop"]}
    first = files["Path_Crop"].iloc[0]
    _check_alike(contents, first)
    chosen = choose_channels(contents[first].channels, channels, first)
    sites, left_out = join_plate_map(
        files,
        metadata,
        columns=columns,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=str(folder),
    )
    parts = [_list_cells(site, contents[str(site["Path_Crop"])]) for _, site in sites.iterrows()]
    cells = pd.concat(parts, ignore_index=True)
    if cells.empty:
        raise DataError(f"{folder}: no cell in {len(files):,} files. Expected some.", code="CROP001")
    numbers = {f"{PLANE_PREFIX}{name}": contents[first].planes[token] for name, token in chosen.items()}
    return check_table(cells.assign(**numbers), LOCATED_CELLS, str(folder)), left_out, list(chosen)


def read_h5sc_channels(path: Path) -> list[str]:
    """Read the names of a file's channels, in order; masks are none.

    Raises
    ------
    DataError
        The file is missing (IMG001) or not of scPortrait (CROP001).
    """
    with _open(path) as file:
        return list(_find_planes(file, path))


def read_h5sc_crops(
    path: Path, rows: Int[np.ndarray, " cell"], channels: Sequence[str | int]
) -> UInt[np.ndarray, "cell channel height width"]:
    """Read the crops of some rows of a file as 16 bit: 0 becomes 0 and 1 becomes 65,535.

    Parameters
    ----------
    path
        The file.
    rows
        Rows in it (from 0), in any order.
    channels
        By their names in the file, or their places in it as ``Plane_<channel>`` of `read_h5sc_cells` has them.

    Raises
    ------
    DataError
        The file is missing (IMG001) or cannot be read (CROP001); a channel is not there (NAME004); a pixel is no number
        from 0 to 1 (CROP001).

    Notes
    -----
    scPortrait sets pixels outside the cell to nought, and by default stretches each crop's channel between two
    percentiles of its own: intensities of cells then cannot be compared. Half precision has 11 significant bits.
    """
    with _open(path) as file:
        images = _find_images(file, path)
        known = _find_planes(file, path)
        absent = [name for name in channels if isinstance(name, str) and name not in known]
        if absent:
            raise DataError(
                f"{path}: no channel {list_some(absent)}. It has {list_some(list(known), 12)}.", code="NAME004"
            )
        planes = [known[name] if isinstance(name, str) else int(name) for name in channels]
        if len(rows) and not (0 <= int(rows.min()) <= int(rows.max()) < len(images)):
            raise DataError(f"{path}: row {int(rows.max())} of {len(images):,}. Copy the file again.", code="CROP001")
        ordered, places = np.unique(rows, return_inverse=True)  # HDF5 wants rows once, in increasing order
        crops = np.empty((len(rows), len(planes), *images.shape[2:]), dtype=np.uint16)
        for number, plane in enumerate(planes):
            crops[:, number] = _scale(images[_as_slice(ordered), plane], path)[places]
    return crops


def _as_slice(rows: Int[np.ndarray, " row"]) -> Any:
    """Write neighbouring rows as a slice, which HDF5 reads far faster than a list."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _scale(values: Shaped[np.ndarray, "cell height width"], path: Path) -> UInt[np.ndarray, "cell height width"]:
    if values.dtype == np.uint16:
        return values
    single = values.astype(np.float32)
    if single.size and not (float(single.min()) >= 0.0 and float(single.max()) <= _MAX_VALUE):
        raise DataError(
            f"{path}: pixels from {single.min():g} to {single.max():g}. Expected numbers from 0 to 1, as scPortrait "
            "writes them.",
            code="CROP001",
        )
    return np.rint(np.minimum(single, 1.0).astype(np.float64) * 65_535).astype(np.uint16)


def _match_files(folder: Path, template: str) -> pd.DataFrame:
    """Find the files, and take their names apart."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder of the .h5sc files.", code="NAME001")
    pattern = compile_template(template)
    names = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES
    )
    matches = {name: pattern.fullmatch(name) for name in names}
    unfit = [name for name, match in matches.items() if match is None]
    if len(unfit) == len(names):
        found = f"none of {len(names):,} files fits the template {template}, first: {list_some(names, 3)}"
        raise DataError(
            f"{folder}: {found if names else 'no .h5sc file in this folder or below'}. Expected files as {template}; "
            "tell how they are named: screen.template.",
            code="NAME001",
        )
    if unfit:
        logger.warning(
            "%s: %d of %d files do not fit the template %s and are left aside: %s. (NAME002)",
            folder,
            len(unfit),
            len(names),
            template,
            list_some(unfit, 3),
        )
    rows = [_name_place(match.groupdict(), name, folder) for name, match in matches.items() if match is not None]
    files = pd.DataFrame(rows, columns=[*SITE, "Path_Crop"])
    twice = files[files.duplicated(SITE, keep=False)]
    if len(twice):
        plate, well, site = twice.iloc[0][SITE]
        same = twice.loc[(twice[SITE] == [plate, well, site]).all(axis=1), "Path_Crop"]
        raise DataError(f"{' and '.join(same)} both stand for {plate} {well} s{site}. Expected one.", code="NAME003")
    return files


def _name_place(groups: Mapping[str, str | None], name: str, folder: Path) -> tuple[str, str, int, str]:
    well = groups.get("well") or f"r{groups.get('row')}c{groups.get('column')}"
    if not groups.get("well") and not str(groups.get("row")).isdecimal():
        well = f"{groups.get('row')}{groups.get('column')}"
    site = groups.get("site") or "1"
    if not site.isdecimal() or len(site) > 18:
        raise DataError(f"{folder / name}: the site {site!r} is no whole number.", code="NAME007")
    path = str((folder / name).absolute())
    return groups.get("plate") or folder.absolute().name, name_well(well), int(site), path


@dataclass(frozen=True)
class _Contents:
    """What is in a file: its cells' numbers, its channels with their places, and the crops' height and width."""

    cell_ids: Int[np.ndarray, " cell"]
    planes: dict[str, int]
    size: tuple[int, ...]

    @property
    def channels(self) -> list[str]:
        return list(self.planes)


def _read_contents(path: Path) -> _Contents:
    with _open(path) as file:
        images = _find_images(file, path)
        ids = _read_cell_ids(file, path)
        if len(ids) != len(images):
            raise DataError(
                f"{path}: {len(ids):,} numbers of cells for {len(images):,} crops. Copy the file again.", code="CROP001"
            )
        return _Contents(ids, _find_planes(file, path), tuple(images.shape[2:]))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path.", code="IMG001")
    try:
        with h5py.File(path, "r") as file:
            check_hdf5(file, path)
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}). Copy the file again.", code="CROP001") from None


def _find_images(file: h5py.File, path: Path) -> h5py.Dataset:
    images = file.get(_IMAGES, file.get(_OLD_IMAGES))
    if not isinstance(images, h5py.Dataset) or images.ndim != 4:
        raise DataError(
            f"{path}: no single-cell images. Expected {_IMAGES} (or {_OLD_IMAGES}), [cell, channel, height, width]. "
            f"Found: {list_some(sorted(file))}.",
            code="CROP001",
        )
    if images.dtype.kind != "f" and images.dtype != np.uint16:
        raise DataError(f"{path}: its images are {images.dtype}. Expected numbers from 0 to 1.", code="CROP001")
    return images


def _read_cell_ids(file: h5py.File, path: Path) -> Int[np.ndarray, " cell"]:
    for name in _CELL_IDS:
        if name in file:
            return np.asarray(file[name][()]).astype(np.int64)
    if "single_cell_index" in file:
        return np.asarray(file["single_cell_index"][:, 1]).astype(np.int64)
    raise DataError(f"{path}: no numbers of the cells. Expected {' or '.join(_CELL_IDS)}.", code="CROP001")


def _find_planes(file: h5py.File, path: Path) -> dict[str, int]:
    """Find the channels' places among the images; masks, which come first, are left out."""
    num_images = _find_images(file, path).shape[1]
    names, num_masks = _read_names(file, path) if _IMAGES in file else _read_old_names(file, num_images)
    if len(names) != num_images:
        raise DataError(
            f"{path}: {len(names)} names of channels for {num_images} images a cell. Expected as many; write the "
            "file with a newer scPortrait.",
            code="CROP001",
        )
    channels = names[num_masks:]
    if len(set(channels)) < len(channels):
        raise DataError(
            f"{path}: channels of the same name: {list_some(channels)}. Expected each its own.", code="NAME003"
        )
    return {name: num_masks + number for number, name in enumerate(channels)}


def _read_names(file: h5py.File, path: Path) -> tuple[list[str], int]:
    """Read the images' names, and how many of them are masks."""
    told = {**_read_group(file.get("uns/single_cell_images")), **dict(file[_IMAGES].attrs)}
    names, kinds = _as_texts(told.get("channel_names")), _as_texts(told.get("channel_mapping"))
    num_masks = kinds.count("mask") if kinds else int(told.get("n_masks", 0))
    if "mask" in kinds[num_masks:]:
        raise DataError(
            f"{path}: masks lie between channels ({list_some(kinds)}). Expected them first.", code="CROP001"
        )
    return names, num_masks


def _read_old_names(file: h5py.File, num_images: int) -> tuple[list[str], int]:
    """Read the names of the layout before, which had none for masks, nor in the beginning for channels."""
    names = _as_texts(file["channel_information"][()]) if "channel_information" in file else []
    num_masks = int(file["n_masks"][()]) if "n_masks" in file else num_images - len(names) if names else 0
    names = names or [f"channel_{number}" for number in range(num_images - num_masks)]
    return [f"mask_{number}" for number in range(num_masks)] + names, num_masks


def _read_group(group: h5py.Group | None) -> dict[str, Any]:
    return {} if group is None else {name: group[name][()] for name in group if isinstance(group[name], h5py.Dataset)}


def _as_texts(values: Any) -> list[str]:
    if values is None:
        return []
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in np.asarray(values).ravel()]


def _check_alike(contents: Mapping[str, _Contents], first: str) -> None:
    expected = contents[first]
    for path, about in contents.items():
        if about.planes != expected.planes:
            raise DataError(
                f"{path}: its channels are {list_some(about.channels, 8)}; those of {first} are "
                f"{list_some(expected.channels, 8)}. Expected the same in all files.",
                code="NAME005",
            )
        if about.size != expected.size:
            raise DataError(
                f"{path}: its crops are {about.size}, those of {first} {expected.size} (height, width). Expected one "
                "size.",
                code="CROP002",
            )


def _list_cells(site: pd.Series, contents: _Contents) -> pd.DataFrame:
    ids = contents.cell_ids
    if len(np.unique(ids)) < len(ids):
        raise DataError(f"{site['Path_Crop']}: a cell's number stands twice. Expected each once.", code="LOC010")
    about = {name: site[name] for name in (*WELL_METADATA, "Metadata_Site", "Path_Crop")}
    place = "_".join(str(site[name]) for name in SITE)
    return pd.DataFrame({"Metadata_Object": ids, "Row_Crop": np.arange(len(ids))}).assign(
        Metadata_CellID=[f"{place}_{number}" for number in ids], x=np.nan, y=np.nan, **about
    )
