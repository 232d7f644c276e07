"""Cutting crops: a site's files and centres become its crops, their table, and what was left out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Integer, Shaped, UInt

from cytoclr.data.crops import plate_stem
from cytoclr.data.illumination import correct_field, expand_illumination, read_illumination
from cytoclr.data.images import read_field
from cytoclr.data.locations import Centres
from cytoclr.data.masks import check_labels, find_label_centres, read_mask
from cytoclr.data.nuclei import find_nuclei
from cytoclr.data.overlay import draw_overlay
from cytoclr.data.quality import measure_quality
from cytoclr.data.ranges import IntensityRule, count_values, find_largest, find_percentiles, scale_to_bytes
from cytoclr.errors import DataError
from cytoclr.tables import ILLUMINATION_PREFIX, MASK_PATH, PATH_PREFIX, PLANE_PREFIX, SITE, WELL_METADATA

__all__ = [
    "LEFT_OUT_COLUMNS",
    "CutRules",
    "Piece",
    "cut_crops",
    "cut_site",
    "name_cells",
    "read_light",
    "read_site",
    "scale_crops_to_rule",
]

LEFT_OUT_COLUMNS = [*SITE, "Metadata_Object", "reason"]
#: Pixels of a field are sub-sampled for the plate's percentiles: 1 in 64 is as good and far faster.
STEP = 8


@dataclass(frozen=True)
class CutRules:
    """How fields are cut, the same for every site of a screen.

    `illumination` is the folder of the plates' functions where these were estimated, ``given`` where the screen
    names its own, else None.
    """

    channels: tuple[str, ...]
    size_px: int
    nuclei_channel: str
    nucleus_diameter_px: float
    border: Literal["drop", "pad"]
    intensity: IntensityRule
    to_bytes: bool
    apply_masks: bool
    illumination: Path | Literal["given"] | None
    bit_depth: int | None
    pixel_size_um: float | None


@dataclass(frozen=True)
class Piece:
    """What was cut of one site, or of a row of ready crops.

    `cells` has a row a crop, `left_out` a row a cell or site that has none, `counts` the sub-sampled pixels by value,
    `ranges` what becomes 0 and 1 where that is each crop's own.
    """

    crops: UInt[np.ndarray, "cell channel height width"]
    cells: pd.DataFrame
    left_out: pd.DataFrame
    counts: Integer[np.ndarray, "channel value"]
    ranges: Float[np.ndarray, "cell 2 channel"] | None
    source: str
    overlay: bytes | None = None


def cut_crops(
    field: Shaped[np.ndarray, "channel row column"],
    x: Float[np.ndarray, " cell"],
    y: Float[np.ndarray, " cell"],
    *,
    size_px: int,
    fill: Shaped[np.ndarray, " channel"] | None = None,
) -> tuple[Shaped[np.ndarray, "kept channel height width"], Bool[np.ndarray, " cell"], Bool[np.ndarray, " cell"]]:
    """Cut a square around each centre, pixels unchanged.

    Parameters
    ----------
    field
        One site; whole numbers are the middles of pixels.
    x, y
        Columns and rows of the centres, in pixels. The crop covers rows ``round(y) - size_px // 2`` and on,
        `size_px` of them, and columns likewise; halves are rounded up.
    size_px
        Height and width.
    fill
        What stands beyond the field's border, for each channel; None: crops that cross it are left out.

    Returns
    -------
    crops
        Of the centres that are kept, in their order.
    kept
        Which centres those are: whose square lies within the field; with `fill`, all that lie in the field themselves.
    whole
        Whose square lies within the field.
    """
    left = np.floor(x + 0.5) - size_px // 2
    top = np.floor(y + 0.5) - size_px // 2
    rows, columns = field.shape[1:]
    whole = (left >= 0) & (top >= 0) & (left + size_px <= columns) & (top + size_px <= rows)
    kept = whole if fill is None else ~_is_outside(x, y, field.shape)
    crops = np.empty((int(kept.sum()), len(field), size_px, size_px), dtype=field.dtype)
    for crop, row, column, inside in zip(
        crops, top[kept].astype(int), left[kept].astype(int), whole[kept], strict=True
    ):
        if inside:
            crop[...] = field[:, row : row + size_px, column : column + size_px]
            continue
        assert fill is not None
        crop[...] = fill[:, None, None]
        first, before = max(row, 0), max(column, 0)
        there = field[:, first : row + size_px, before : column + size_px]
        crop[:, first - row : first - row + there.shape[1], before - column : before - column + there.shape[2]] = there
    return crops, kept, whole


def _is_outside(
    x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"], shape: tuple[int, ...]
) -> Bool[np.ndarray, " cell"]:
    inside: np.ndarray = (x >= -0.5) & (y >= -0.5) & (x < shape[2] - 0.5) & (y < shape[1] - 0.5)
    return ~inside


def read_site(row: Mapping[str, Any], channels: tuple[str, ...]) -> UInt[np.ndarray, "channel row column"]:
    """Read the field of a row of the screen."""
    paths = {channel: str(row[f"{PATH_PREFIX}{channel}"]) for channel in channels}
    if f"{PLANE_PREFIX}{channels[0]}" not in row:
        return read_field(paths)
    return read_field(paths, {channel: int(str(row[f"{PLANE_PREFIX}{channel}"])) for channel in channels})


def cut_site(
    row: Mapping[str, Any],
    centres: Centres | None,
    rules: CutRules,
    *,
    ranges: Float[np.ndarray, "2 channel"] | None = None,
    overlay: bool = False,
) -> Piece:
    """Cut the crops of one site.

    Parameters
    ----------
    row
        Of the screen table.
    centres
        Of the site's cells; None: of its mask's labels, where it has one, else nuclei are found.
    rules
        How.
    ranges
        What becomes 0 and 255 on this plate, where crops are stored as bytes by the plate's percentiles.
    overlay
        Draw the field with its cells.

    Raises
    ------
    DataError
        An image, a mask or an illumination function cannot be read, or they do not fit together.
    """
    raw = read_site(row, rules.channels)
    field = _correct(raw, row, rules)
    labels = _read_labels(row, raw.shape)
    found_in = rules.channels.index(rules.nuclei_channel)
    nothing = (
        "no location given" if centres is not None else "no nucleus found" if labels is None else "no cell in the mask"
    )
    if centres is None:
        centres = _find_centres(field[found_in], labels, rules)
    x, y, objects = centres
    counts = _count_pixels(field)
    crops, kept, whole = cut_crops(field, x, y, size_px=rules.size_px, fill=_find_fill(field, rules))
    reasons = np.where(_is_outside(x, y, field.shape), "centre outside the field", "crop crosses the border")
    about = {name: row[name] for name in [*WELL_METADATA, "Metadata_Site"]}
    table = pd.DataFrame({**about, "Metadata_Object": objects, "x": x, "y": y, "padded": ~whole, "reason": reasons})
    # measured on the camera's own numbers: corrected, a saturated pixel is no longer the largest
    originals = crops if field is raw else cut_crops(raw, x, y, size_px=rules.size_px, fill=_find_fill(raw, rules))[0]
    largest = find_largest(raw.dtype, rules.bit_depth)
    quality = measure_quality(originals, channel=found_in, largest=largest)
    cells = pd.concat([table[kept].reset_index(drop=True), quality.reset_index(drop=True)], axis=1)
    left_out = table.loc[~kept, LEFT_OUT_COLUMNS]
    if len(x) == 0:
        left_out = pd.DataFrame([[*(row[name] for name in SITE), None, nothing]], columns=LEFT_OUT_COLUMNS)
    picture = None
    if overlay:
        picture = draw_overlay(
            field,
            x,
            y,
            size_px=rules.size_px,
            nuclei_channel=found_in,
            inside=kept,
            title=_name_site(row),
            pixel_size_um=rules.pixel_size_um,
        )
    crops, own_ranges = scale_crops_to_rule(crops, counts, largest, ranges, rules)
    if rules.apply_masks and labels is not None:
        masked, has_mask = _apply_masks(crops, cells, labels, rules)
        unmasked = cells[~has_mask].assign(reason="no mask at the centre")[LEFT_OUT_COLUMNS]
        left_out = pd.concat([left_out, unmasked], ignore_index=True)
        crops, cells = masked[has_mask], cells[has_mask].reset_index(drop=True)
        own_ranges = None if own_ranges is None else own_ranges[has_mask]
    left_out = left_out.astype({"Metadata_Object": "Int64"})
    return Piece(crops, cells, left_out, counts, own_ranges, _name_site(row), picture)


def _count_pixels(field: UInt[np.ndarray, "channel row column"]) -> Integer[np.ndarray, "channel value"]:
    return count_values(field[:, ::STEP, ::STEP].reshape(len(field), -1))


def _find_fill(field: UInt[np.ndarray, "channel row column"], rules: CutRules) -> UInt[np.ndarray, " channel"] | None:
    """Find the background that crops are filled up with, where they are."""
    if rules.border == "drop":
        return None
    fill: np.ndarray = np.rint(find_percentiles(_count_pixels(field), (1.0, 1.0))[0]).astype(field.dtype)
    return fill


def _name_site(row: Mapping[str, Any]) -> str:
    return f"{row['Metadata_Plate']} {row['Metadata_Well']} s{row['Metadata_Site']}"


def _correct(
    field: UInt[np.ndarray, "channel row column"], row: Mapping[str, Any], rules: CutRules
) -> UInt[np.ndarray, "channel row column"]:
    """Divide the light out."""
    if rules.illumination is None:
        return field
    shape = (field.shape[1], field.shape[2])
    if isinstance(rules.illumination, Path):
        function = _expand(str(rules.illumination), str(row["Metadata_Plate"]), shape)
    else:
        function = read_light(row, rules.channels, shape)
    return correct_field(field, function)


def read_light(
    row: Mapping[str, Any], channels: tuple[str, ...], shape: tuple[int, int]
) -> Float[np.ndarray, "channel row column"]:
    """Read the illumination functions that a row of the screen names; channels without one stay as they are.

    Raises
    ------
    DataError
        See `cytoclr.data.illumination.read_illumination`.
    """
    named = {channel: str(row.get(f"{ILLUMINATION_PREFIX}{channel}", "")) for channel in channels}
    files = tuple((channel, path, _stamp(path)) for channel, path in named.items() if path)
    return _read_given(files, channels, shape)


def _stamp(path: str) -> int:
    """Tell one content of a file from another, for the memory of what was read."""
    return os.stat(path).st_mtime_ns if os.path.isfile(path) else 0


# A worker cuts one plate after the other: the function of the last two is kept.
@lru_cache(maxsize=2)
def _expand(folder: str, plate: str, shape: tuple[int, int]) -> Float[np.ndarray, "channel row column"]:
    return expand_illumination(np.load(Path(folder) / f"{plate_stem(plate)}.npy", allow_pickle=False), shape)


@lru_cache(maxsize=2)
def _read_given(
    files: tuple[tuple[str, str, int], ...], channels: tuple[str, ...], shape: tuple[int, int]
) -> Float[np.ndarray, "channel row column"]:
    functions = np.ones((len(channels), *shape), dtype=np.float32)
    functions[[channels.index(name) for name, _, _ in files]] = read_illumination(
        {name: path for name, path, _ in files}, shape
    )
    return functions


def _read_labels(row: Mapping[str, Any], shape: tuple[int, ...]) -> Integer[np.ndarray, "row column"] | None:
    if MASK_PATH not in row:
        return None
    labels = read_mask(Path(str(row[MASK_PATH])))
    if labels.shape != shape[1:]:
        raise DataError(
            f"{row[MASK_PATH]}: {labels.shape} (rows, columns), but the images of {_name_site(row)} are {shape[1:]}. "
            "Expected a mask of the field's size.",
            code="LOC007",
        )
    check_labels(labels, str(row[MASK_PATH]))
    return labels


def _find_centres(
    plane: UInt[np.ndarray, "row column"], labels: Integer[np.ndarray, "row column"] | None, rules: CutRules
) -> Centres:
    if labels is not None:
        return Centres(*find_label_centres(labels))
    x, y = find_nuclei(plane, diameter_px=rules.nucleus_diameter_px, clear_border=rules.border == "drop")
    return Centres(x, y, np.arange(1, len(x) + 1))


def _apply_masks(
    crops: UInt[np.ndarray, "cell channel height width"],
    cells: pd.DataFrame,
    labels: Integer[np.ndarray, "row column"],
    rules: CutRules,
) -> tuple[UInt[np.ndarray, "cell channel height width"], Bool[np.ndarray, " cell"]]:
    """Set to nought what is not of the crop's own cell, whose label lies at its centre; tell which have one."""
    x, y = (cells[name].to_numpy() for name in ("x", "y"))
    own = _labels_at(labels, x, y)
    around, _, _ = cut_crops(labels[None], x, y, size_px=rules.size_px, fill=np.zeros(1, labels.dtype))
    return crops * (around == own[:, None, None, None]).astype(crops.dtype), own > 0


def _labels_at(
    labels: Integer[np.ndarray, "row column"], x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]
) -> Int[np.ndarray, " cell"]:
    rows, columns = (np.floor(values + 0.5).astype(int) for values in (y, x))
    found: np.ndarray = labels[rows, columns].astype(np.int64)
    return found


def scale_crops_to_rule(
    crops: UInt[np.ndarray, "cell channel height width"],
    counts: Integer[np.ndarray, "channel value"],
    largest: int,
    of_plate: Float[np.ndarray, "2 channel"] | None,
    rules: CutRules,
) -> tuple[UInt[np.ndarray, "cell channel height width"], Float[np.ndarray, "cell 2 channel"] | None]:
    """Find ranges that are the field's or the crops' own; store bytes where asked for."""
    rule = rules.intensity
    own = None
    if rule.rule == "field-percentile":
        own = np.tile(np.asarray(rule.find_ranges(counts), dtype=np.float32), (len(crops), 1, 1))
    elif rule.rule == "crop-percentile":
        found = [rule.find_ranges(count_values(crop.reshape(len(crop), -1))) for crop in crops]
        own = np.asarray(found, dtype=np.float32).reshape(len(crops), 2, len(rules.channels))
    if not rules.to_bytes:
        return crops, own
    if own is not None:
        low, high = own[:, 0], own[:, 1]
    else:
        shared = of_plate if of_plate is not None else np.asarray(rule.find_fixed(rules.channels, largest))
        low, high = (np.tile(values, (len(crops), 1)) for values in shared)
    return scale_to_bytes(crops, low, high), own


def name_cells(cells: pd.DataFrame) -> pd.Series:
    """Name each cell in its screen: plate_well_site_object."""
    names = cells[[*SITE, "Metadata_Object"]].astype("str")
    joined: pd.Series = names[SITE[0]].str.cat(names.iloc[:, 1:], sep="_")
    return joined
