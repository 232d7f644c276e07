"""Cutting crops: fields and centres, or ready crops, become one shard a plate and the cells table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped, UInt

from cytoclr.data.crops import Shard, open_shard, shard_name, write_crop_manifest
from cytoclr.data.images import read_field, read_strip
from cytoclr.data.locations import find_nuclei
from cytoclr.errors import DataError, list_some
from cytoclr.progress import Progress
from cytoclr.storage import read_json, read_table, write_json, write_table
from cytoclr.tables import CELLS, PATH_PREFIX, SITE, WELL_METADATA, channel_names, check_table

__all__ = ["IntensityRule", "cut_crops", "cut_fields", "cut_strips"]

_CELL_COLUMNS = [column.name for column in CELLS.columns]
_LEFT_OUT_COLUMNS = [*SITE, "Metadata_Object", "reason"]
#: Pixels of a field are sub-sampled for the plate's percentiles: 1 in 64 is as good and far faster.
_STEP = 8


@dataclass(frozen=True)
class IntensityRule:
    """What becomes 0 and 1 of a plate's raw values, per channel."""

    rule: Literal["plate-percentile", "full-range"]
    percentiles: tuple[float, float]

    def find_ranges(
        self, pixels: Sequence[UInt[np.ndarray, "channel pixel"]], dtype: np.dtype
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the low and the high value of each channel; a channel that is constant gets a range of 1."""
        together = np.concatenate(pixels, axis=1)
        if self.rule == "full-range":
            low, high = np.zeros(len(together)), np.full(len(together), np.iinfo(dtype).max)
        else:
            low, high = np.percentile(together, self.percentiles, axis=1)
        return tuple(map(float, low)), tuple(map(float, np.maximum(high, low + 1)))


@dataclass(frozen=True)
class _Piece:
    """The crops of one site or of one ready cell, their table, what was left out, and pixels to learn ranges from."""

    crops: UInt[np.ndarray, "cell channel height width"]
    cells: pd.DataFrame
    left_out: pd.DataFrame
    pixels: UInt[np.ndarray, "channel pixel"]
    source: str


def cut_crops(
    field: Shaped[np.ndarray, "channel row column"],
    x: Float[np.ndarray, " cell"],
    y: Float[np.ndarray, " cell"],
    *,
    size_px: int,
) -> tuple[Shaped[np.ndarray, "inside channel height width"], Bool[np.ndarray, " cell"]]:
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

    Returns
    -------
    crops
        Of the centres whose square lies within the field, in their order.
    inside
        Which centres those are.
    """
    left = np.floor(x + 0.5) - size_px // 2
    top = np.floor(y + 0.5) - size_px // 2
    rows, columns = field.shape[1:]
    inside = (left >= 0) & (top >= 0) & (left + size_px <= columns) & (top + size_px <= rows)
    crops = np.empty((int(inside.sum()), len(field), size_px, size_px), dtype=field.dtype)
    for crop, row, column in zip(crops, top[inside].astype(int), left[inside].astype(int), strict=True):
        crop[...] = field[:, row : row + size_px, column : column + size_px]
    return crops, inside


def cut_fields(
    screen: pd.DataFrame,
    locations: Mapping[tuple[str, str, int], pd.DataFrame] | None,
    folder: Path,
    *,
    size_px: int,
    nuclei_channel: str | None,
    nucleus_diameter_px: float,
    intensity: IntensityRule,
    pixel_size_um: float | None,
    progress: Progress,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut the crops of a screen's fields into a folder, a shard a plate; plates already there are not cut again.

    Parameters
    ----------
    screen
        One row a site, path columns absolute (`cytoclr.data.readers.bbbc021.find_images`).
    locations
        Centres of each site; None: nuclei are found. A site without a row there is left out and listed.
    nuclei_channel
        Where nuclei are found; None: in the first channel.

    Returns
    -------
    cells
        The cells table; row i is crop i of the folder's `CropStore`.
    left_out
        One row a cell or site left out, with the reason.

    Raises
    ------
    DataError
        An image cannot be read, the channel for nuclei does not exist, or no cell is left.
    """
    channels = channel_names(screen)
    nuclei_channel = nuclei_channel or channels[0]
    if nuclei_channel not in channels:
        raise DataError(f"crop.nuclei_channel is {nuclei_channel!r}; the screen has {', '.join(channels)}.")

    def cut_site(row: pd.Series) -> _Piece:
        field = read_field({channel: Path(row[f"{PATH_PREFIX}{channel}"]) for channel in channels})
        site = (row["Metadata_Plate"], row["Metadata_Well"], row["Metadata_Site"])
        if locations is None:
            x, y = find_nuclei(field[channels.index(nuclei_channel)], diameter_px=nucleus_diameter_px)
            objects = np.arange(1, len(x) + 1)
        else:
            here = locations.get(site)
            x, y, objects = (
                (np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
                if here is None
                else (here["x"].to_numpy(), here["y"].to_numpy(), here["Metadata_Object"].to_numpy())
            )
        crops, inside = cut_crops(field, x, y, size_px=size_px)
        cells = pd.DataFrame({"Metadata_Object": objects, "x": x, "y": y})
        for name in [*WELL_METADATA, "Metadata_Site"]:
            cells[name] = row[name]
        reasons = np.where(_is_outside(x, y, field.shape), "centre outside the field", "crop crosses the border")
        left_out = cells.loc[~inside].assign(reason=reasons[~inside])[_LEFT_OUT_COLUMNS]
        if len(x) == 0:
            reason = "no nucleus found" if locations is None else "no location given"
            left_out = pd.DataFrame([[*site, 0, reason]], columns=_LEFT_OUT_COLUMNS)
        pixels = field[:, ::_STEP, ::_STEP].reshape(len(field), -1)
        source = "{} {} s{}".format(*site)
        return _Piece(crops, cells.loc[inside], left_out, pixels, source)

    return _cut_plates(
        screen,
        lambda sites: (cut_site(row) for _, row in sites.iterrows()),
        folder,
        channels=channels,
        size_px=size_px,
        intensity=intensity,
        pixel_size_um=pixel_size_um,
        progress=progress,
        unit="sites",
    )


def _is_outside(
    x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"], shape: tuple[int, ...]
) -> Bool[np.ndarray, " cell"]:
    inside: np.ndarray = (x >= -0.5) & (y >= -0.5) & (x < shape[2] - 0.5) & (y < shape[1] - 0.5)
    return ~inside


def cut_strips(
    cells: pd.DataFrame,
    folder: Path,
    *,
    channels: Sequence[str],
    size_px: int | None,
    intensity: IntensityRule,
    pixel_size_um: float | None,
    progress: Progress,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pack ready crops (one PNG a cell) into a folder, a shard a plate; see `cut_fields` for what is returned.

    Parameters
    ----------
    cells
        A cells table with ``Path_Crop`` absolute (`cytoclr.data.readers.single_cell.find_strips`).
    size_px
        The middle of each crop is kept; None: all of it.

    Raises
    ------
    DataError
        A PNG cannot be read, or is smaller than asked for.
    """
    if size_px is None:
        size_px = read_strip(Path(cells["Path_Crop"].iloc[0]), tuple(channels)).shape[1]

    def pack(rows: pd.DataFrame) -> _Piece:
        crops = np.stack([_cut_middle(Path(path), tuple(channels), size_px) for path in rows["Path_Crop"]])
        pixels = crops[:, :, ::2, ::2].swapaxes(0, 1).reshape(len(channels), -1)
        nothing = rows.iloc[:0].reindex(columns=_LEFT_OUT_COLUMNS)
        return _Piece(crops, rows, nothing, pixels, str(rows["Path_Crop"].iloc[0]))

    return _cut_plates(
        cells,
        lambda rows: (pack(rows.iloc[start : start + 1]) for start in range(len(rows))),
        folder,
        channels=channels,
        size_px=size_px,
        intensity=intensity,
        pixel_size_um=pixel_size_um,
        progress=progress,
        unit="cells",
    )


def _cut_middle(path: Path, channels: tuple[str, ...], size_px: int) -> UInt[np.ndarray, "channel height width"]:
    crop = read_strip(path, channels)
    margin = crop.shape[1] - size_px
    if margin < 0:
        raise DataError(
            f"{path}: {crop.shape[1]} px high. Expected at least {size_px}; set crop.size_px to null or less."
        )
    start = margin // 2
    return crop[:, start : start + size_px, start : start + size_px]


def _cut_plates(
    rows: pd.DataFrame,
    cut: Callable[[pd.DataFrame], Iterable[_Piece]],
    folder: Path,
    *,
    channels: Sequence[str],
    size_px: int,
    intensity: IntensityRule,
    pixel_size_um: float | None,
    progress: Progress,
    unit: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write one shard a plate, each finished by a note beside it; then the cells, and the manifest last."""
    progress.start("crop", len(rows), unit)
    parts = []
    for plate, plate_rows in rows.groupby("Metadata_Plate", sort=True):
        note = folder / "plates" / shard_name(str(plate)).replace(".npy", ".json")
        if not note.is_file():
            _cut_plate(str(plate), _watch(cut(plate_rows), progress), note, channels, size_px, intensity)
        else:
            progress.advance(len(plate_rows))
        parts.append(_read_plate(note))
    progress.finish()
    shards = [shard for shard, _, _, _ in parts if shard.num_cells]
    left_out = pd.concat([part[2] for part in parts], ignore_index=True)
    if not shards:
        reasons = list_some([f"{reason}: {count:,}" for reason, count in left_out["reason"].value_counts().items()])
        raise DataError(f"no crop could be cut from {len(rows):,} {unit} ({reasons}).")
    dtypes = {dtype for shard, _, _, dtype in parts if shard.num_cells}
    if len(dtypes) > 1:
        raise DataError(f"plates differ in type: {', '.join(sorted(dtypes))}. Expected 8 or 16 bit in all of them.")
    cells = pd.concat([cells for shard, cells, _, _ in parts if shard.num_cells], ignore_index=True)
    write_crop_manifest(
        folder,
        shards,
        channels=channels,
        size_px=size_px,
        pixel_size_um=pixel_size_um,
        dtype=np.dtype(dtypes.pop()),
        intensity=asdict(intensity),
    )
    return check_table(cells, CELLS, "cells"), left_out


def _watch(pieces: Iterable[_Piece], progress: Progress) -> Iterator[_Piece]:
    for piece in pieces:
        yield piece
        progress.advance()


def _cut_plate(
    plate: str,
    pieces: Iterator[_Piece],
    note: Path,
    channels: Sequence[str],
    size_px: int,
    intensity: IntensityRule,
) -> None:
    first = next(pieces)
    cells, left_out, pixels = [first.cells], [first.left_out], [first.pixels]
    file = note.parent.parent / shard_name(plate)
    with open_shard(file, len(channels), size_px, first.crops.dtype) as shard:
        shard.append(first.crops, source=first.source)
        for piece in pieces:
            shard.append(piece.crops, source=piece.source)
            cells.append(piece.cells)
            left_out.append(piece.left_out)
            pixels.append(piece.pixels)
        num_cells = shard.num_cells
    table = pd.concat(cells, ignore_index=True)
    names = table[[*SITE, "Metadata_Object"]].astype("str")
    table = table.assign(Metadata_CellID=names[SITE[0]].str.cat(names.iloc[:, 1:], sep="_"))
    low, high = intensity.find_ranges(pixels, first.crops.dtype)
    write_table(note.with_suffix(".parquet"), table[_CELL_COLUMNS])
    write_table(note.with_suffix(".left_out.parquet"), pd.concat(left_out, ignore_index=True))
    about = Shard(file=file.name, plate=plate, num_cells=num_cells, low=low, high=high)
    write_json(note, {**asdict(about), "dtype": first.crops.dtype.str})


def _read_plate(note: Path) -> tuple[Shard, pd.DataFrame, pd.DataFrame, str]:
    about = read_json(note)
    dtype = about.pop("dtype")
    return (
        Shard.parse(about),
        read_table(note.with_suffix(".parquet")),
        read_table(note.with_suffix(".left_out.parquet")),
        dtype,
    )
