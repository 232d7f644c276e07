"""DeepProfiler's features: a folder with one ``.npz`` file a site, one row a cell."""

import logging
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Num

from cytoclr.data.arrays import UNREADABLE, read_member
from cytoclr.errors import DataError, list_some
from cytoclr.tables import SITE

__all__ = ["read_deepprofiler"]

logger = logging.getLogger(__name__)

_WELL_SITE = re.compile(r"(?:(?P<plate>.+)_)?(?P<well>[A-Za-z]{1,2}\d{1,3})_(?P<site>[^_]+)")


class _Place(NamedTuple):
    plate: str
    well: str
    site: str


def read_deepprofiler(folder: Path) -> pd.DataFrame:
    """Read the features of every cell, with the cell's number and centre (px) where it has one.

    Files are ``PLATE/WELL/SITE.npz``, ``PLATE/WELL_SITE.npz`` or ``PLATE_WELL_SITE.npz``, at any depth. Their pickled
    members, which could run anything when loaded, are not touched. Sites without cells are counted in the log.

    Raises
    ------
    DataError
        There is no file or no cell; a file cannot be read, or its place not be told; a site stands twice or has
        another number of features.
    """
    sites = {file: (place, *_read_site(file)) for place, file in _find_sites(folder).items()}
    filled = {file: site for file, site in sites.items() if len(site[1])}
    if len(filled) < len(sites):
        logger.warning("%s: %d of %d sites have no cells", folder, len(sites) - len(filled), len(sites))
    if not filled:
        raise DataError(f"{folder}: none of its {len(sites):,} sites has a cell. Expected some.")
    features = _stack_features({file: site[1] for file, site in filled.items()})
    metadata = [
        pd.DataFrame(dict(zip(SITE, place, strict=True)), index=range(len(matrix))).assign(**about)
        for place, matrix, about in filled.values()
    ]
    return pd.concat([pd.concat(metadata, ignore_index=True), features], axis=1)


def _find_sites(folder: Path) -> dict[_Place, Path]:
    """Find the file of each site."""
    files = sorted(file for file in folder.rglob("*.npz") if not file.name.startswith("."))
    if not files:
        raise DataError(
            f"{folder}: no .npz file in this folder. Expected DeepProfiler's PLATE/WELL/SITE.npz, or a table."
        )
    sites: dict[_Place, Path] = {}
    for file in files:
        place = _find_place(file.relative_to(folder), folder)
        if place in sites:
            raise DataError(f"{file}: {' '.join(place)} stands in {sites[place]} too. Expected one file a site.")
        sites[place] = file
    return sites


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
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "features" not in names:
                raise DataError(f"{file}: no array 'features'. Found: {list_some(names)}.")
            features = read_member(archive, "features")
            if features.shape[:1] == (0,):
                return np.empty((0, 0)), {}
            centres = _read_centres(archive) if "locations" in names else None
    except UNREADABLE as error:
        raise DataError(
            f"{file}: its features cannot be read ({error}). Expected an .npz file with the array 'features'."
        ) from None
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


def _read_centres(archive: zipfile.ZipFile) -> Float[np.ndarray, "..."] | None:
    """Read the optional locations; None where they are pickled (an empty table was)."""
    try:
        return np.asarray(read_member(archive, "locations"), dtype=np.float64)
    except ValueError:
        return None


def _stack_features(matrices: dict[Path, Num[np.ndarray, "cell feature"]]) -> pd.DataFrame:
    first, like = next(iter(matrices.items()))
    for file, matrix in matrices.items():
        if matrix.shape[1] != like.shape[1]:
            raise DataError(
                f"{file}: {matrix.shape[1]} features, but {first} has {like.shape[1]}. Expected those of one model."
            )
    names = [f"Cells_DeepProfiler_{number:04d}" for number in range(like.shape[1])]
    return pd.DataFrame(np.concatenate(list(matrices.values())), columns=names)
