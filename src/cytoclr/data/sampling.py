"""What is seen of a sample of a screen's images, before anything is cut."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt

from cytoclr.data.cut import cut_crops, read_light, read_site
from cytoclr.data.images import read_about
from cytoclr.data.locations import Centres
from cytoclr.data.masks import check_labels, read_mask
from cytoclr.data.nuclei import find_nuclei, measure_nuclei
from cytoclr.data.quality import flag_crops, measure_quality
from cytoclr.data.ready import read_ready
from cytoclr.errors import CytoclrError, DataError
from cytoclr.tables import ILLUMINATION_PREFIX, MASK_PATH, PATH_PREFIX, SITE

__all__ = ["Glance", "Plane", "choose_sample", "glance_at_crop", "glance_at_site"]

#: Of a site's centres, so many are looked at.
_NUM_CENTRES = 20


@dataclass(frozen=True)
class Plane:
    """One channel of a site: its largest value, the share of pixels that have the camera's largest, its content."""

    largest: int
    saturated: float
    is_constant: bool
    digest: bytes


@dataclass(frozen=True)
class Glance:
    """What was seen of one site, or of one ready crop.

    `errors` are the refusals of what reads its files; without `planes` the pixels could not be read. `num_nuclei` and
    `diameter_px` are None where nuclei were not looked for, or none was. Of `num_centres` that were looked at,
    `num_empty` show nothing.
    """

    place: str
    plate: str
    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    planes: Mapping[str, Plane] = field(default_factory=dict)
    pixel_size_um: float | None = None
    num_nuclei: int | None = None
    diameter_px: float | None = None
    errors: tuple[CytoclrError, ...] = ()
    num_centres: int = 0
    num_empty: int = 0


def choose_sample(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Choose rows spread over all plates, and over the wells of each; always the same ones.

    Of each plate there is one at least; of more than four times as many plates as rows are wanted, some have none.
    """
    plates = [np.asarray(places) for places in rows.groupby("Metadata_Plate", sort=True).indices.values()]
    number = min(len(rows), max(number, min(len(plates), 4 * number)))
    if len(plates) > number:
        plates = [plates[place] for place in np.linspace(0, len(plates) - 1, number).round().astype(int)]
    order = np.concatenate([_spread(places, -(-number // len(plates)), shift) for shift, places in enumerate(plates)])
    surplus = len(order) - number
    if surplus > 0:
        order = np.delete(order, np.linspace(0, len(order) - 1, surplus).round().astype(int))
    return rows.iloc[np.sort(order)]


def _spread(places: np.ndarray, number: int, shift: int) -> np.ndarray:
    """Choose some of a plate's rows evenly; on each plate others."""
    number = min(number, len(places))
    steps = (np.arange(number) + (0.5 + 0.618 * shift) % 1) * len(places) / number
    chosen: np.ndarray = places[np.unique(steps.astype(int))]
    return chosen


def glance_at_site(
    row: Mapping[str, Any],
    channels: tuple[str, ...],
    *,
    bit_depth: int | None,
    with_light: bool,
    nuclei_channel: str | None,
    nucleus_diameter_px: float,
    centres: Centres | None = None,
    crop_channel: str | None = None,
) -> Glance:
    """Look at one site: its pixels, its illumination functions, its mask and, if a channel is told, its nuclei.

    Where `centres` are told, some are looked at in `crop_channel`: is anything there?
    """
    place, plate = " ".join([str(row[SITE[0]]), str(row[SITE[1]]), f"s{row[SITE[2]]}"]), str(row[SITE[0]])
    try:
        pixels = read_site(row, channels)
        about = read_about(str(row[f"{PATH_PREFIX}{channels[0]}"]))
    except CytoclrError as error:
        return Glance(place, plate, errors=(error,))
    shape = (pixels.shape[1], pixels.shape[2])
    errors = [*_try(lambda: _check_light(row, channels, shape) if with_light else None)]
    errors += _try(lambda: _check_mask(row, shape, place))
    number = diameter = None
    if nuclei_channel is not None:
        plane = pixels[channels.index(nuclei_channel)]
        number = len(find_nuclei(plane, diameter_px=nucleus_diameter_px)[0])
        diameter = measure_nuclei(plane)
    num_centres = num_empty = 0
    if centres is not None and crop_channel is not None:
        plane = pixels[channels.index(crop_channel)][None]
        num_centres, num_empty = _count_empty(plane, centres, nucleus_diameter_px)
    planes = _describe_planes(pixels, channels, bit_depth)
    return Glance(
        place,
        plate,
        shape,
        str(pixels.dtype),
        planes,
        about.pixel_size_um,
        number,
        diameter,
        tuple(errors),
        num_centres,
        num_empty,
    )


def _count_empty(
    plane: UInt[np.ndarray, "channel row column"], centres: Centres, nucleus_diameter_px: float
) -> tuple[int, int]:
    """Count some of a site's cells, and those of them with nothing at their centre."""
    size_px = max(8, 2 * round(nucleus_diameter_px))
    chosen = np.unique(np.linspace(0, len(centres.x) - 1, min(len(centres.x), _NUM_CENTRES)).astype(int))
    crops, _, _ = cut_crops(plane, centres.x[chosen], centres.y[chosen], size_px=size_px)
    quality = measure_quality(crops, channel=0, largest=int(np.iinfo(plane.dtype).max))
    return len(crops), int((flag_crops(quality) == "empty").sum())


def glance_at_crop(
    row: Mapping[str, Any], channels: tuple[str, ...], *, size_px: int | None, bit_depth: int | None
) -> Glance:
    """Look at one ready crop."""
    place, plate = str(row.get("Metadata_CellID", row["Path_Crop"])), str(row[SITE[0]])
    try:
        pixels = read_ready([row], channels, size_px)[0]
    except CytoclrError as error:
        return Glance(place, plate, errors=(error,))
    shape = (pixels.shape[1], pixels.shape[2])
    return Glance(place, plate, shape, str(pixels.dtype), _describe_planes(pixels, channels, bit_depth))


def _describe_planes(
    pixels: UInt[np.ndarray, "channel row column"], channels: tuple[str, ...], bit_depth: int | None
) -> dict[str, Plane]:
    stored = 8 * pixels.dtype.itemsize
    most = 2 ** min(bit_depth or stored, stored) - 1
    planes = {}
    for channel, plane in zip(channels, pixels, strict=True):
        low, high = int(plane.min()), int(plane.max())
        saturated = float((plane >= most).mean()) if high >= most else 0.0
        digest = hashlib.blake2b(plane.tobytes(), digest_size=16).digest()
        planes[channel] = Plane(high, saturated, low == high, digest)
    return planes


def _try(work: Callable[[], None]) -> list[CytoclrError]:
    try:
        work()
    except CytoclrError as error:
        return [error]
    return []


def _check_light(row: Mapping[str, Any], channels: tuple[str, ...], shape: tuple[int, int]) -> None:
    if not any(row.get(f"{ILLUMINATION_PREFIX}{channel}") for channel in channels):
        return
    try:
        read_light(row, channels, shape)
    except DataError as error:
        raise DataError(str(error), code="IMG012") from None


def _check_mask(row: Mapping[str, Any], shape: tuple[int, int], place: str) -> None:
    if MASK_PATH not in row:
        return
    labels = read_mask(Path(str(row[MASK_PATH])))
    if labels.shape != shape:
        raise DataError(
            f"{row[MASK_PATH]}: {labels.shape} (rows, columns), but the images of {place} are {shape}. Expected a mask "
            "of the field's size.",
            code="LOC007",
        )
    check_labels(labels, str(row[MASK_PATH]))
