"""Ready crops: one picture a cell, or a file of many; their middle is kept."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt

from cytoclr.data.blocks import Block
from cytoclr.data.cut import LEFT_OUT_COLUMNS, CutRules, Piece, scale_crops_to_rule
from cytoclr.data.images import read_strip
from cytoclr.data.quality import measure_quality
from cytoclr.data.ranges import count_values, find_largest
from cytoclr.data.readers.scportrait import read_h5sc_crops
from cytoclr.errors import DataError
from cytoclr.tables import PLANE_PREFIX

__all__ = ["pack_ready", "read_ready"]

#: Crops are sub-sampled for the plate's percentiles, less than fields: there are fewer pixels.
STEP = 2
_CROPS_AT_ONCE = 256


def pack_ready(block: Block, rules: CutRules, ranges: Float[np.ndarray, "2 channel"] | None) -> Iterator[Piece]:
    """Read the ready crops of a block, and keep their middle."""
    for start in range(0, len(block.rows), _CROPS_AT_ONCE):
        yield _pack(block.rows[start : start + _CROPS_AT_ONCE], rules, ranges)


def _pack(rows: Sequence[Mapping[str, Any]], rules: CutRules, ranges: Float[np.ndarray, "2 channel"] | None) -> Piece:
    crops = read_ready(rows, rules.channels, rules.size_px)
    counts = count_values(crops[:, :, ::STEP, ::STEP].swapaxes(0, 1).reshape(len(rules.channels), -1))
    largest = find_largest(crops.dtype, rules.bit_depth)
    quality = measure_quality(crops, channel=rules.channels.index(rules.nuclei_channel), largest=largest)
    cells = pd.concat([pd.DataFrame(list(rows)), quality.reset_index(drop=True)], axis=1).assign(padded=False)
    scaled, own = scale_crops_to_rule(crops, counts, largest, ranges, rules)
    return Piece(
        scaled,
        cells,
        pd.DataFrame(columns=LEFT_OUT_COLUMNS).astype({"Metadata_Object": "Int64"}),
        counts,
        own,
        str(rows[0]["Path_Crop"]),
    )


def read_ready(
    rows: Sequence[Mapping[str, Any]], channels: tuple[str, ...], size_px: int | None
) -> UInt[np.ndarray, "cell channel height width"]:
    """Read the crops of some rows of a cells table with ``Path_Crop`` (and ``Row_Crop``, where a file has many).

    Raises
    ------
    DataError
        A file cannot be read, crops differ in type or size, or are smaller than asked for.
    """
    crops = [_cut_middle(crop, size_px, str(row["Path_Crop"])) for row, crop in _read(rows, channels)]
    for row, crop in zip(rows, crops, strict=True):
        if crop.dtype != crops[0].dtype or crop.shape != crops[0].shape:
            raise DataError(
                f"{row['Path_Crop']}: {crop.dtype} {crop.shape}, but {rows[0]['Path_Crop']} is {crops[0].dtype} "
                f"{crops[0].shape} (channel, height, width). Expected crops of one type and size.",
                code="CROP002",
            )
    return np.stack(crops)


def _read(
    rows: Sequence[Mapping[str, Any]], channels: tuple[str, ...]
) -> list[tuple[Mapping[str, Any], UInt[np.ndarray, "channel height width"]]]:
    if "Row_Crop" not in rows[0]:
        return [(row, read_strip(Path(row["Path_Crop"]), channels)) for row in rows]
    planes = [int(rows[0][f"{PLANE_PREFIX}{name}"]) for name in channels]
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(str(row["Path_Crop"]), []).append(number)
    found: dict[int, UInt[np.ndarray, "channel height width"]] = {}
    for path, of_file in numbers.items():
        wanted = np.array([int(rows[number]["Row_Crop"]) for number in of_file])
        found |= dict(zip(of_file, read_h5sc_crops(Path(path), wanted, planes), strict=True))
    return [(row, found[number]) for number, row in enumerate(rows)]


def _cut_middle(
    crop: UInt[np.ndarray, "channel height width"], size_px: int | None, source: str
) -> UInt[np.ndarray, "channel size size"]:
    size_px = size_px or crop.shape[1]
    margin = crop.shape[1] - size_px
    if margin < 0:
        raise DataError(
            f"{source}: {crop.shape[1]} px high. Expected at least {size_px}; set crop.size_px to null or less.",
            code="CROP002",
        )
    start = margin // 2
    return crop[:, start : start + size_px, start : start + size_px]
