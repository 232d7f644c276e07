"""Label masks: one image a site, nought outside cells, a cell's number inside; of any segmenter."""

import logging
import math
import re
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
from jaxtyping import Float, Int, Integer, Shaped
from scipy import ndimage

from cytoclr.data.arrays import read_npy
from cytoclr.data.planes import MAX_PIXELS
from cytoclr.data.readers.images import compile_template, find_files
from cytoclr.data.screen import name_well
from cytoclr.data.tiff import BROKEN, find_missing_pieces, refuse_entities
from cytoclr.errors import DataError, list_some
from cytoclr.tables import MASK_PATH, SITE

__all__ = ["check_labels", "find_label_centres", "find_masks", "read_mask"]

logger = logging.getLogger(__name__)

#: A label is a number of a cell; what is larger is not one, or is of another kind.
MAX_LABEL = 2**31 - 1
_SUFFIXES = (".tif", ".tiff", ".png", ".npy")
_EXPECTED = "Expected whole numbers, nought outside cells, in rows and columns: TIFF, PNG or .npy."


def find_masks(sites: pd.DataFrame, folder: Path, *, template: str, skip_missing: bool = False) -> pd.DataFrame:
    """Find the mask of every site: adds the column ``Mask`` with its absolute path.

    Parameters
    ----------
    sites
        One row a site.
    folder
        All masks lie under it: ``.tif``, ``.tiff``, ``.png`` or ``.npy``.
    template
        How they are named; see `cytoclr.data.readers.images.compile_template`. The plate may be left out where the
        sites are of one plate, the site where each well has one.
    skip_missing
        Leave out sites without a mask, unless that is all of them.

    Returns
    -------
    pandas.DataFrame
        The same rows in the same order, but for those left out. Files of other names, or of other sites, are counted
        in the log.

    Raises
    ------
    SettingsError
        NAME007: the template is not one.
    DataError
        NAME001: no file fits the template. NAME003: two files stand for one site. LOC007: a site has no mask, or the
        template does not tell the plate or the site.
    """
    pattern = compile_template(template)
    names = find_files(folder, _SUFFIXES)
    fitting = {name: match for name in names if (match := pattern.fullmatch(name))}
    if not fitting:
        raise DataError(
            f"{folder}: none of {len(names):,} files is named as {template}, first: {list_some(names, 3) or 'none'}. "
            "Expected the masks; correct crop.masks.template.",
            code="NAME001",
        )
    keys = _key_sites(sites, set(pattern.groupindex), template)
    masks: dict[tuple[str, ...], str] = {}
    wanted = set(keys)
    for name, match in fitting.items():
        key = _key_file(match, keys[0])
        if key in wanted and key in masks:
            raise DataError(
                f"{folder}: {masks[key]} and {name} are both masks of {' '.join(key)}. Expected one a site; write "
                f"more of the name into the template {template}.",
                code="NAME003",
            )
        masks[key] = name
    paths = pd.Series([masks.get(key) for key in keys], index=sites.index, dtype="object")
    if not (skip_missing and paths.notna().any()):
        _refuse_missing(sites, list(paths.isna()), folder, template, next(iter(fitting)))
    others = len(names) - paths.nunique()
    if others:
        logger.info("%s: %s of %s files are no masks of these sites", folder, f"{others:,}", f"{len(names):,}")
    found = paths.dropna()
    return sites.loc[found.index].assign(**{MASK_PATH: [str(folder.absolute() / path) for path in found]})


def _key_sites(sites: pd.DataFrame, words: set[str], template: str) -> list[tuple[str, ...]]:
    """Name each site by what the template tells; what it leaves out is told by there being one only."""
    wells = sites["Metadata_Well"].astype("object").map(lambda well: name_well(str(well)))
    plates, numbers = (sites[name].astype("str") for name in (SITE[0], SITE[2]))
    columns = {"plate": plates, "well": wells, "site": numbers}
    several_plates = len(set(plates)) > 1
    if "plate" not in words and not several_plates:
        columns["plate"] = pd.Series("", index=sites.index)
    if "site" not in words:
        columns["site"] = pd.Series("", index=sites.index)
    keys = list(zip(*columns.values(), strict=True))
    if ("plate" not in words and several_plates) or len(set(keys)) < len(keys):
        lacking = "plate" if "plate" not in words else "site"
        raise DataError(
            f"template {template!r} does not tell the {lacking}, and there are several. Expected {{{lacking}}} in it.",
            code="LOC007",
        )
    return keys


def _key_file(match: "re.Match[str]", like: tuple[str, ...]) -> tuple[str, ...]:
    parts = {word: text or "" for word, text in match.groupdict().items()}
    row, column = parts.get("row", ""), parts.get("column", "")
    well = parts.get("well") or (f"r{row}c{column}" if row.isdigit() else f"{row}{column}")
    site = parts.get("site", "")
    return (
        parts.get("plate", "") if like[0] else "",
        name_well(well),
        str(int(site)) if site.isdigit() else site,
    )


def _refuse_missing(sites: pd.DataFrame, missing: list[bool], folder: Path, template: str, found: str) -> None:
    lacking = sites.loc[missing, SITE]
    if lacking.empty:
        return
    places = [f"{plate} {well} s{site}" for plate, well, site in lacking.itertuples(index=False)]
    raise DataError(
        f"{folder}: {len(lacking):,} of {len(sites):,} sites have no mask: {list_some(places)}. Expected files named "
        f"as {template}, as {found} is. Pass --skip-missing to leave them out.",
        code="LOC007",
    )


def read_mask(path: Path) -> Int[np.ndarray, "row column"]:
    """Read a label mask: TIFF of 8, 16 or 32 bit, PNG of 8 or 16, or ``.npy``; nothing pickled.

    Raises
    ------
    DataError
        LOC007: it is missing, cannot be read, is not one plane of whole numbers, or has a number below nought or above
        2,147,483,647.
    """
    read = {".png": _read_png, ".npy": _read_npy}.get(path.suffix.lower(), _read_tiff)
    try:
        labels = read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such mask.", code="LOC007") from None
    except BROKEN as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable mask ({detail}). {_EXPECTED}", code="LOC007") from None
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise DataError(f"{path}: {labels.dtype} {labels.shape}. {_EXPECTED}", code="LOC007")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > MAX_LABEL:
        raise DataError(f"{path}: its numbers are from {low:,} to {high:,}. {_EXPECTED}", code="LOC007")
    return np.ascontiguousarray(labels, dtype=np.int32)


def _read_tiff(path: Path) -> Shaped[np.ndarray, "..."]:
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        refuse_entities(tiff.pages.first.description, str(path))
        series = tiff.series[0]
        _check_size(series.shape)
        for page in series.pages:
            missing = find_missing_pieces(page, path.stat().st_size) if page is not None else "a page is not there"
            if missing:
                raise ValueError(f"cut short: {missing}")
        return np.asarray(series.asarray()).reshape([length for length in series.shape if length > 1] or [1, 1])


def _read_png(path: Path) -> Shaped[np.ndarray, "..."]:
    content = path.read_bytes()
    # the header, before anything is decoded: width and height stand in bytes 16 to 24
    _check_size((int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")))
    return np.asarray(imagecodecs.png_decode(content))


def _read_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    with path.open("rb") as file:
        labels = read_npy(file, path.stat().st_size)
    _check_size(labels.shape)
    return labels


def _check_size(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_PIXELS:
        raise ValueError(f"it says it has {shape} pixels, more than any camera takes")


def check_labels(labels: Integer[np.ndarray, "row column"], path: str) -> None:
    """Refuse a mask that has one number in many pieces: it says where cells are, not which is which.

    Raises
    ------
    DataError
        LOC007.
    """
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    if len(numbers) != 1:
        return
    pieces = int(ndimage.label(labels)[1])
    if pieces > 1:
        raise DataError(
            f"{path}: all its {pieces:,} pieces have the number {numbers[0]}. Expected a number of its own for each "
            "cell; a mask of black and white must be labelled first (skimage.measure.label, or ask your segmenter for "
            "labels).",
            code="LOC007",
        )


def find_label_centres(
    labels: Integer[np.ndarray, "row column"],
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """Find the centre of mass of every label, all pixels weighing the same.

    Parameters
    ----------
    labels
        Nought outside cells, a cell's number inside.

    Returns
    -------
    x, y
        Columns and rows, in px.
    objects
        The labels, ascending; numbers that no pixel has are left out. A label in several pieces is one.

    Notes
    -----
    Cost: three counts over the pixels inside cells.

    Examples
    --------
    >>> find_label_centres(np.array([[0, 7, 7], [0, 0, 0]]))
    (array([1.5]), array([0.]), array([7]))
    """
    inside = np.flatnonzero(labels)
    values = labels.ravel()[inside].astype(np.int64)
    if not len(values):
        return np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    objects = None
    if values.max() > labels.size:  # few cells of huge numbers: counts by number would fill the memory
        objects, values = np.unique(values, return_inverse=True)
    rows, columns = np.divmod(inside, labels.shape[1])
    counts = np.bincount(values)
    there = np.flatnonzero(counts)
    x, y = (np.bincount(values, weights=places)[there] / counts[there] for places in (columns, rows))
    return x, y, there if objects is None else objects
