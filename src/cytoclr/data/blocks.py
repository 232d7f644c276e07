"""Blocks: a few sites of a plate (or ready crops), the unit of work and of going on after a stop.

A block's crops, cells and counts are written beside the plate's file; its note, written last, says it is finished. The
plate's file is put together from its blocks, whoever cut them, in their order: so it is the same to the bit wherever
they were cut.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer

from cytoclr.config import Flag
from cytoclr.data.crops import Shard, open_shard, shard_name
from cytoclr.data.cut import LEFT_OUT_COLUMNS, CutRules, Piece, cut_site, name_cells
from cytoclr.data.locations import Centres
from cytoclr.data.quality import flag_crops
from cytoclr.data.ranges import add_counts
from cytoclr.errors import DataError
from cytoclr.storage import open_atomic, read_json, read_table, write_json, write_table
from cytoclr.tables import CELLS, SITE

__all__ = ["Block", "Cut", "PlateFiles", "assemble_plate", "cut_block", "cut_sites", "split_blocks", "write_pieces"]

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
        """The note of a block; its files lie beside it."""
        return self.note.with_suffix("") / f"{number:06d}.json"


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
    note = files.part(block.number)
    if note.is_file():
        return len(block.rows)
    ranges = np.asarray(read_json(files.survey)["ranges"], dtype=np.float64) if files.survey.is_file() else None
    pieces = cut(block, rules, ranges)
    for piece in pieces:
        if piece.overlay is not None:
            name = shard_name(piece.source.replace(" ", "_"))
            with open_atomic((overlays / name).with_suffix(".png")) as file:
                file.write(piece.overlay)
    write_pieces(pieces, note)
    return len(block.rows)


def cut_sites(block: Block, rules: CutRules, ranges: Float[np.ndarray, "2 channel"] | None) -> list[Piece]:
    """Cut the sites of a block."""
    return [
        cut_site(row, centres, rules, ranges=ranges, overlay=tuple(row[name] for name in SITE) in block.overlays)
        for row, centres in zip(block.rows, block.centres, strict=True)
    ]


def write_pieces(pieces: Sequence[Piece], note: Path) -> None:
    """Write pieces as one part of a plate, its note last."""
    crops = _stack(pieces)
    counts = pieces[0].counts
    for piece in pieces[1:]:
        counts = add_counts(counts, piece.counts)
    _write_array(note.with_suffix(".npy"), crops)
    _write_array(note.with_suffix(".counts.npy"), counts)
    if pieces[0].ranges is not None:
        ranges = [piece.ranges for piece in pieces if piece.ranges is not None]
        _write_array(note.with_suffix(".ranges.npy"), np.concatenate(ranges))
    write_table(note.with_suffix(".parquet"), pd.concat([piece.cells for piece in pieces], ignore_index=True))
    left_out = pd.concat([piece.left_out for piece in pieces], ignore_index=True)
    write_json(note, {"source": pieces[0].source, "left_out": left_out.to_dict("list")})


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


def _write_array(path: Path, array: np.ndarray) -> None:
    with open_atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def assemble_plate(files: PlateFiles, num_blocks: int, rules: CutRules, drop: Sequence[Flag]) -> None:
    """Put a plate's blocks together: its crops in one file, its cells in one table; then delete the blocks.

    Crops are flagged here, since what is out of focus or empty is told by the rest of the plate.

    Raises
    ------
    DataError
        Blocks differ in type.
    """
    parts = [files.part(number) for number in range(num_blocks)]
    notes = [read_json(part) for part in parts]
    cells = pd.concat([read_table(part.with_suffix(".parquet")) for part in parts], ignore_index=True)
    left_out = pd.concat([pd.DataFrame(note["left_out"], columns=LEFT_OUT_COLUMNS) for note in notes])
    cells = cells.assign(**{_FLAGS: _flag(cells)})
    dropped = _is_dropped(cells[_FLAGS], drop)
    because = "flagged " + cells.loc[dropped, _FLAGS]
    left_out = pd.concat([left_out, cells[dropped].assign(reason=because)[LEFT_OUT_COLUMNS]], ignore_index=True)
    dtype = _copy_crops(files, parts, notes, ~dropped)
    cells = cells[~dropped].reset_index(drop=True)
    cells = cells.assign(Metadata_CellID=name_cells(cells))
    low, high = _find_ranges(files, parts, rules, dtype)
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


def _copy_crops(
    files: PlateFiles, parts: Sequence[Path], notes: Sequence[Mapping[str, Any]], kept: Bool[np.ndarray, " cell"]
) -> np.dtype:
    """Copy the kept crops of all blocks into the plate's file, one block at a time."""
    arrays: list[np.ndarray] = [
        np.load(part.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for part in parts
    ]
    first = arrays[0]
    starts = np.cumsum([0, *map(len, arrays)])
    of_parts = [kept[start:end] for start, end in itertools.pairwise(starts)]
    with open_shard(files.crops, first.shape[1], first.shape[2], first.dtype) as shard:
        for array, note, wanted in zip(arrays, notes, of_parts, strict=True):
            _check_alike(array, first, note["source"], notes[0]["source"])
            shard.append(array if wanted.all() else array[wanted])
    own_ranges = [part.with_suffix(".ranges.npy") for part in parts]
    if own_ranges[0].is_file():
        together = np.concatenate([np.load(path, allow_pickle=False) for path in own_ranges])
        _write_array(files.ranges, together[kept])
    return first.dtype


def _find_ranges(
    files: PlateFiles, parts: Sequence[Path], rules: CutRules, dtype: np.dtype
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find what becomes 0 and 1 of the numbers as they are stored."""
    num_channels = len(rules.channels)
    if rules.to_bytes:
        return (0.0,) * num_channels, (255.0,) * num_channels
    largest = 2**rules.bit_depth - 1 if rules.bit_depth else int(np.iinfo(dtype).max)
    fixed = rules.intensity.find_fixed(rules.channels, largest)
    return rules.intensity.find_ranges(sum_counts(parts)) if fixed is None else fixed


def sum_counts(parts: Sequence[Path]) -> Integer[np.ndarray, "channel value"]:
    """Add up the pixels that all blocks of a plate counted."""
    together: np.ndarray = np.load(parts[0].with_suffix(".counts.npy"), allow_pickle=False)
    for part in parts[1:]:
        together = add_counts(together, np.load(part.with_suffix(".counts.npy"), allow_pickle=False))
    return together
