"""Blocks: a few sites of a plate (or ready crops), the unit of work and of going on after a stop.

A block's crops, cells and counts are one file beside the plate's, which appears when it is whole. The plate's file is
put together from its blocks, whoever cut them, in their order: so it is the same to the bit wherever they were cut.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float, Integer

from cytoclr.config import Flag
from cytoclr.data.crops import Shard, open_shard, shard_name
from cytoclr.data.cut import LEFT_OUT_COLUMNS, CutRules, Piece, cut_site, name_cells
from cytoclr.data.locations import Centres
from cytoclr.data.quality import flag_crops
from cytoclr.data.ranges import add_counts
from cytoclr.errors import DataError
from cytoclr.storage import open_atomic, read_json, write_json, write_table
from cytoclr.tables import CELLS, SITE

__all__ = ["Block", "Cut", "PlateFiles", "assemble_plate", "cut_block", "cut_sites", "split_blocks", "write_part"]

#: Sites of a block: about a second of work, which is what a stop can cost.
BLOCK_SITES = 8

_CELL_COLUMNS = [column.name for column in CELLS.columns]
_FLAGS = "Metadata_Flags"


@dataclass(frozen=True)
class PlateFiles:
    """Where a plate's crops are, and what lies beside them until all plates are cut."""

    folder: Path
    plate: str

    @property
    def crops(self) -> Path:
        """The plate's file: ``[cell, channel, height, width]``."""
        return self.folder / shard_name(self.plate)

    @property
    def ranges(self) -> Path:
        """What becomes 0 and 1, where that is each crop's own: ``[cell, 2, channel]``."""
        return self.crops.with_suffix(".ranges.npy")

    @property
    def note(self) -> Path:
        """Written when the plate is finished."""
        return self.folder / "plates" / f"{self.crops.stem}.json"

    @property
    def survey(self) -> Path:
        """What was learnt of the plate before it is cut."""
        return self.note.with_suffix(".survey.json")

    def part(self, number: int) -> Path:
        """The file of a block."""
        return self.note.with_suffix("") / f"{number:06d}.safetensors"


@dataclass(frozen=True)
class Block:
    """Some rows of one plate: sites, or ready crops."""

    plate: str
    number: int
    rows: tuple[Mapping[str, Any], ...]
    centres: tuple[Centres | None, ...] = ()
    overlays: frozenset[tuple[str, str, int]] = field(default_factory=frozenset)


#: Cuts a block's rows, given what becomes 0 and 255 on its plate where crops are stored as bytes.
Cut = Callable[[Block, CutRules, Float[np.ndarray, "2 channel"] | None], Sequence[Piece]]


def split_blocks(rows: pd.DataFrame, size: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Split the rows of a plate into numbered blocks."""
    for number, start in enumerate(range(0, len(rows), size)):
        yield number, rows.iloc[start : start + size]


def cut_block(block: Block, files: PlateFiles, rules: CutRules, overlays: Path, cut: Cut) -> int:
    """Cut a block and write what became of it, unless that is done; return the number of its rows."""
    part = files.part(block.number)
    if part.is_file():
        return len(block.rows)
    ranges = np.asarray(read_json(files.survey)["ranges"], dtype=np.float64) if files.survey.is_file() else None
    pieces = cut(block, rules, ranges)
    for piece in pieces:
        if piece.overlay is not None:
            name = shard_name(piece.source.replace(" ", "_"))
            with open_atomic((overlays / name).with_suffix(".png")) as file:
                file.write(piece.overlay)
    write_part(pieces, part)
    return len(block.rows)


def cut_sites(block: Block, rules: CutRules, ranges: Float[np.ndarray, "2 channel"] | None) -> list[Piece]:
    """Cut the sites of a block."""
    return [
        cut_site(row, centres, rules, ranges=ranges, overlay=tuple(row[name] for name in SITE) in block.overlays)
        for row, centres in zip(block.rows, block.centres, strict=True)
    ]


@dataclass(frozen=True)
class _Part:
    """A block as it lies on the disk; crops are read when they are asked for."""

    path: Path
    source: str
    cells: pd.DataFrame
    left_out: pd.DataFrame
    counts: Integer[np.ndarray, "channel value"]
    ranges: Float[np.ndarray, "cell 2 channel"] | None

    def read_crops(self) -> np.ndarray:
        """Read ``[cell, channel, height, width]``."""
        with safetensors.safe_open(self.path, framework="numpy") as file:
            crops: np.ndarray = file.get_tensor("crops")
            return crops


def write_part(pieces: Sequence[Piece], path: Path) -> None:
    """Write pieces as one part of a plate."""
    counts = pieces[0].counts
    for piece in pieces[1:]:
        counts = add_counts(counts, piece.counts)
    arrays = {"crops": _stack(pieces), "counts": counts}
    ranges = [piece.ranges for piece in pieces if piece.ranges is not None]
    if ranges:
        arrays["ranges"] = np.concatenate(ranges)
    for name, tables in {"cells": [p.cells for p in pieces], "left_out": [p.left_out for p in pieces]}.items():
        buffer = io.BytesIO()
        pd.concat(tables, ignore_index=True).to_parquet(buffer, index=False)
        arrays[name] = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    with open_atomic(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata={"source": pieces[0].source}))


def _read_part(path: Path) -> _Part:
    with safetensors.safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        tables = {name: pd.read_parquet(io.BytesIO(file.get_tensor(name))) for name in ("cells", "left_out")}
        return _Part(
            path,
            file.metadata()["source"],
            tables["cells"],
            tables["left_out"],
            file.get_tensor("counts"),
            file.get_tensor("ranges") if "ranges" in names else None,
        )


def _stack(pieces: Sequence[Piece]) -> np.ndarray:
    first = pieces[0].crops
    for piece in pieces:
        _check_alike(piece.crops, first, piece.source, pieces[0].source)
    return np.concatenate([piece.crops for piece in pieces])


def _check_alike(crops: np.ndarray, first: np.ndarray, source: str, first_source: str) -> None:
    if crops.dtype != first.dtype or crops.shape[1:] != first.shape[1:]:
        raise DataError(
            f"{source}: its crops are {crops.dtype} {crops.shape[1:]}, those before ({first_source}) {first.dtype} "
            f"{first.shape[1:]} (channel, height, width). Expected one type and size on a plate.",
            code="CROP002",
        )


def assemble_plate(files: PlateFiles, num_blocks: int, rules: CutRules, drop: Sequence[Flag]) -> None:
    """Put a plate's blocks together: its crops in one file, its cells in one table; then delete the blocks.

    Crops are flagged here, since what is out of focus or empty is told by the rest of the plate.

    Raises
    ------
    DataError
        Blocks differ in type.
    """
    parts = [_read_part(files.part(number)) for number in range(num_blocks)]
    cells = pd.concat([part.cells for part in parts], ignore_index=True)
    left_out = pd.concat([part.left_out for part in parts], ignore_index=True)
    cells = cells.assign(**{_FLAGS: _flag(cells)})
    dropped = _is_dropped(cells[_FLAGS], drop)
    because = "flagged " + cells.loc[dropped, _FLAGS]
    left_out = pd.concat([left_out, cells[dropped].assign(reason=because)[LEFT_OUT_COLUMNS]], ignore_index=True)
    dtype = _copy_crops(files, parts, ~dropped)
    cells = cells[~dropped].reset_index(drop=True)
    cells = cells.assign(Metadata_CellID=name_cells(cells))
    low, high = _find_ranges(parts, rules, dtype)
    write_table(files.note.with_suffix(".parquet"), cells[_CELL_COLUMNS])
    write_table(files.note.with_suffix(".left_out.parquet"), left_out)
    shard = Shard(file=files.crops.name, plate=files.plate, num_cells=len(cells), low=low, high=high)
    if rules.intensity.rule in {"field-percentile", "crop-percentile"} and not rules.to_bytes:
        shard = replace(shard, ranges=files.ranges.name)
    write_json(files.note, {**asdict(shard), "dtype": dtype.str})
    shutil.rmtree(files.note.with_suffix(""))


def _flag(cells: pd.DataFrame) -> pd.Series:
    flags: pd.Series = flag_crops(cells.filter(like="Quality_"))
    padded = cells["padded"].astype(bool)
    return flags.mask(padded & (flags == ""), "padded").mask(padded & (flags != ""), flags + "+padded")


def _is_dropped(flags: pd.Series, drop: Sequence[Flag]) -> Bool[np.ndarray, " cell"]:
    unwanted = set(drop)
    return np.array([bool(unwanted & set(flag.split("+"))) for flag in flags], dtype=bool)


def _copy_crops(files: PlateFiles, parts: Sequence[_Part], kept: Bool[np.ndarray, " cell"]) -> np.dtype:
    """Copy the kept crops of all blocks into the plate's file, one block at a time."""
    ends = np.cumsum([len(part.cells) for part in parts])
    first = parts[0].read_crops()
    with open_shard(files.crops, first.shape[1], first.shape[2], first.dtype) as shard:
        for part, end in zip(parts, ends, strict=True):
            crops = part.read_crops()
            _check_alike(crops, first, part.source, parts[0].source)
            wanted = kept[end - len(crops) : end]
            shard.append(crops if wanted.all() else crops[wanted])
    ranges = [part.ranges for part in parts if part.ranges is not None]
    if ranges:
        with open_atomic(files.ranges) as file:
            np.save(file, np.concatenate(ranges)[kept], allow_pickle=False)
    dtype: np.dtype = first.dtype
    return dtype


def _find_ranges(
    parts: Sequence[_Part], rules: CutRules, dtype: np.dtype
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find what becomes 0 and 1 of the numbers as they are stored."""
    num_channels = len(rules.channels)
    if rules.to_bytes:
        return (0.0,) * num_channels, (255.0,) * num_channels
    largest = 2**rules.bit_depth - 1 if rules.bit_depth else int(np.iinfo(dtype).max)
    fixed = rules.intensity.find_fixed(rules.channels, largest)
    if fixed is not None:
        return fixed
    counts = parts[0].counts
    for part in parts[1:]:
        counts = add_counts(counts, part.counts)
    return rules.intensity.find_ranges(counts)
