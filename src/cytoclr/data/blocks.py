"""Blocks: some sites of a plate (or ready crops), the unit of work, of files, and of going on after a stop.

A block is cut into two files beside the plate's: its crops, and what is known of them, which is written last. When
all blocks of a plate are cut, crops are flagged against the rest of the plate, and the files of crops move to their
place. So the result is the same to the bit, whoever cut which block, and crops are written once.
"""

import io
import itertools
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float, Integer

from cytoclr.config import Flag
from cytoclr.data.crops import Shard, open_shard, plate_stem
from cytoclr.data.cut import LEFT_OUT_COLUMNS, CutRules, Piece, cut_site, name_cells
from cytoclr.data.locations import Centres
from cytoclr.data.quality import flag_crops
from cytoclr.data.ranges import add_counts, find_largest
from cytoclr.errors import DataError, MachineError
from cytoclr.storage import hash_file, open_atomic, read_json, sync_folder, write_json, write_table
from cytoclr.tables import CELLS, SITE

__all__ = [
    "MIN_READY",
    "MIN_SITES",
    "Block",
    "Cut",
    "PlateFiles",
    "cut_block",
    "cut_sites",
    "finish_plate",
    "split_blocks",
]

#: A plate has at most so many blocks, which are files: enough to share out, few enough to keep open.
MAX_BLOCKS = 16
#: Sites (or ready crops) of a block, at least.
MIN_SITES, MIN_READY = 8, 256
#: Crops copied at a time, where some are left out.
_COPY_CROPS = 1024

_CELL_COLUMNS = [column.name for column in CELLS.columns]
_FLAGS = "Metadata_Flags"


@dataclass(frozen=True)
class PlateFiles:
    """Where a plate's crops are, and what lies beside them until all plates are cut."""

    folder: Path
    plate: str

    def check_folder(self) -> None:
        """Refuse a worker that does not see the folder of whoever asked.

        Raises
        ------
        MachineError
            The folder is not there.
        """
        if not self.note.parent.is_dir():
            raise MachineError(
                f"{socket.gethostname()}: {self.note.parent} is not there. Workers must reach the run folder, and the "
                "images, under the same paths: choose an --out on a disk that they share."
            )

    @property
    def note(self) -> Path:
        """Written when the plate is finished."""
        return self.folder / "plates" / f"{plate_stem(self.plate)}.json"

    @property
    def survey(self) -> Path:
        """What was learnt of the plate before it is cut."""
        return self.note.with_suffix(".survey.json")

    @property
    def light(self) -> Path:
        """The plate's estimated illumination function."""
        return self.folder.parent / "illumination" / f"{plate_stem(self.plate)}.npy"

    def look(self, number: int) -> Path:
        """What a look at some rows of the plate has kept."""
        return self.note.with_suffix("") / f"look-{number:03d}.safetensors"

    def cut(self, number: int) -> Path:
        """A block's crops as they were cut: ``[cell, channel, height, width]``."""
        return self.note.with_suffix("") / f"{number:03d}.npy"

    def part(self, number: int) -> Path:
        """What is known of a block's crops, written last."""
        return self.cut(number).with_suffix(".safetensors")

    def crops(self, number: int) -> Path:
        """A block's crops in their place."""
        return self.folder / f"{plate_stem(self.plate)}-{number:03d}.npy"


@dataclass(frozen=True)
class Block:
    """Some rows of one plate: sites, or ready crops."""

    plate: str
    number: int
    rows: tuple[Mapping[str, Any], ...]
    centres: tuple[Centres | None, ...] = ()
    overlays: frozenset[tuple[str, str, int]] = field(default_factory=frozenset)


#: Cuts a block's rows one after the other, given what becomes 0 and 255 on its plate where crops are stored as bytes.
Cut = Callable[[Block, CutRules, Float[np.ndarray, "2 channel"] | None], Iterator[Piece]]


def split_blocks(rows: pd.DataFrame, *, least: int) -> list[pd.DataFrame]:
    """Split the rows of a plate into blocks."""
    size = max(least, -(-len(rows) // MAX_BLOCKS))
    return [rows.iloc[start : start + size] for start in range(0, len(rows), size)]


def cut_sites(block: Block, rules: CutRules, ranges: Float[np.ndarray, "2 channel"] | None) -> Iterator[Piece]:
    """Cut the sites of a block."""
    for row, centres in zip(block.rows, block.centres, strict=True):
        is_drawn = tuple(row[name] for name in SITE) in block.overlays
        yield cut_site(row, centres, rules, ranges=ranges, overlay=is_drawn)


def cut_block(block: Block, files: PlateFiles, rules: CutRules, overlays: Path, cut: Cut) -> int:
    """Cut a block and write what became of it, unless that is done; return the number of its rows."""
    files.check_folder()
    if files.part(block.number).is_file():
        return len(block.rows)
    ranges = np.asarray(read_json(files.survey)["ranges"], dtype=np.float64) if files.survey.is_file() else None
    pieces = cut(block, rules, ranges)
    first = next(pieces)
    part = _Part(first.source, first.crops.dtype, first.crops.shape[1:])
    with open_shard(files.cut(block.number), len(rules.channels), first.crops.shape[2], first.crops.dtype) as shard:
        for piece in itertools.chain([first], pieces):
            part.check_alike(piece.crops.dtype, piece.crops.shape[1:], piece.source)
            shard.append(piece.crops)
            part.add(piece)
            _draw(piece, overlays)
            del piece  # its crops are written; memory stays flat
    part.sha256 = hash_file(files.cut(block.number))  # here, where it is in memory and workers share the work
    part.write(files.part(block.number))
    return len(block.rows)


@dataclass
class _Part:
    """What is known of a block's crops, but for the crops."""

    source: str
    dtype: np.dtype
    shape: tuple[int, ...]
    cells: list[pd.DataFrame] = field(default_factory=list)
    left_out: list[pd.DataFrame] = field(default_factory=list)
    ranges: list[Float[np.ndarray, "cell 2 channel"]] = field(default_factory=list)
    counts: Integer[np.ndarray, "channel value"] | None = None
    sha256: str = ""

    def add(self, piece: Piece) -> None:
        self.cells.append(piece.cells)
        self.left_out.append(piece.left_out)
        self.counts = piece.counts if self.counts is None else add_counts(self.counts, piece.counts)
        if piece.ranges is not None:
            self.ranges.append(piece.ranges)

    def check_alike(self, dtype: np.dtype, shape: tuple[int, ...], source: str) -> None:
        """Refuse crops of another type or size."""
        if dtype != self.dtype or shape != self.shape:
            raise DataError(
                f"{source}: its crops are {dtype} {shape}, those before ({self.source}) {self.dtype} {self.shape} "
                "(channel, height, width). Expected one type and size on a plate.",
                code="CROP002",
            )

    def write(self, path: Path) -> None:
        """Write it as one file."""
        assert self.counts is not None
        arrays = {"crops": np.empty((0, *self.shape), dtype=self.dtype), "counts": self.counts}
        if self.ranges:
            arrays["ranges"] = np.concatenate(self.ranges)
        for name, tables in {"cells": self.cells, "left_out": self.left_out}.items():
            buffer = io.BytesIO()
            pd.concat(tables, ignore_index=True).to_parquet(buffer, index=False)
            arrays[name] = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
        with open_atomic(path) as file:
            file.write(safetensors.numpy.save(arrays, metadata={"source": self.source, "sha256": self.sha256}))

    @staticmethod
    def read(path: Path) -> "_Part":
        """Read what was written."""
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
            about = file.metadata()
        cells, left_out = (pd.read_parquet(io.BytesIO(arrays[name].tobytes())) for name in ("cells", "left_out"))
        ranges = [arrays["ranges"]] if "ranges" in arrays else []
        crops = arrays["crops"]
        return _Part(
            about["source"],
            crops.dtype,
            crops.shape[1:],
            [cells],
            [left_out],
            ranges,
            arrays["counts"],
            about["sha256"],
        )


def _draw(piece: Piece, folder: Path) -> None:
    if piece.overlay is not None:
        with open_atomic(folder / f"{plate_stem('_'.join(piece.source.rsplit(' ', 2)))}.png") as file:
            file.write(piece.overlay)


def finish_plate(files: PlateFiles, num_blocks: int, rules: CutRules, drop: Sequence[Flag]) -> None:
    """Flag a plate's crops, leave out those that are unwanted, and put its files in their place.

    Crops are flagged here, since what is out of focus or empty is told by the rest of the plate.

    Raises
    ------
    DataError
        Blocks differ in type.
    """
    files.check_folder()
    parts = [_Part.read(files.part(number)) for number in range(num_blocks)]
    for part in parts:
        parts[0].check_alike(part.dtype, part.shape, part.source)
    cells = pd.concat([part.cells[0] for part in parts], ignore_index=True)
    left_out = pd.concat([part.left_out[0] for part in parts], ignore_index=True)
    cells = cells.assign(**{_FLAGS: _flag(cells)})
    dropped = _is_dropped(cells[_FLAGS], drop)
    because = "flagged " + cells.loc[dropped, _FLAGS]
    left_out = pd.concat([left_out, cells[dropped].assign(reason=because)[LEFT_OUT_COLUMNS]], ignore_index=True)
    low, high = _find_ranges(parts, rules)
    shards, start = [], 0
    for number, part in enumerate(parts):
        kept = ~dropped[start : start + len(part.cells[0])]
        start += len(part.cells[0])
        shard = Shard(files.crops(number).name, files.plate, int(kept.sum()), low, high)
        if part.ranges and not rules.to_bytes:
            shard = replace(shard, ranges=files.crops(number).with_suffix(".ranges.npy").name)
        if shard.num_cells:
            _settle(files, number, kept, None if shard.ranges is None else part.ranges[0])
            sha256 = part.sha256 if kept.all() else hash_file(files.crops(number))
            shards.append(asdict(replace(shard, sha256=sha256)))
    sync_folder(files.folder)
    cells = cells[~dropped].reset_index(drop=True)
    write_table(files.note.with_suffix(".parquet"), cells.assign(Metadata_CellID=name_cells(cells))[_CELL_COLUMNS])
    write_table(files.note.with_suffix(".left_out.parquet"), left_out)
    write_json(files.note, {"shards": shards, "dtype": parts[0].dtype.str})
    shutil.rmtree(files.note.with_suffix(""))


def _settle(
    files: PlateFiles,
    number: int,
    kept: Bool[np.ndarray, " cell"],
    ranges: Float[np.ndarray, "cell 2 channel"] | None,
) -> None:
    """Move a block's crops to their place, or copy those that are kept; may be cut short and called again."""
    source, place = files.cut(number), files.crops(number)
    if not source.exists():
        return
    if ranges is not None:
        with open_atomic(place.with_suffix(".ranges.npy")) as file:
            np.save(file, ranges[kept], allow_pickle=False)
    if kept.all():
        source.replace(place)
        return
    crops = np.load(source, mmap_mode="r", allow_pickle=False)
    with open_shard(place, crops.shape[1], crops.shape[2], crops.dtype) as shard:
        for start in range(0, len(crops), _COPY_CROPS):
            shard.append(crops[start : start + _COPY_CROPS][kept[start : start + _COPY_CROPS]])
    source.unlink()


def _flag(cells: pd.DataFrame) -> pd.Series:
    flags: pd.Series = flag_crops(cells.filter(like="Quality_"))
    padded = cells["padded"].astype(bool)
    return flags.mask(padded & (flags == ""), "padded").mask(padded & (flags != ""), flags + "+padded")


def _is_dropped(flags: pd.Series, drop: Sequence[Flag]) -> Bool[np.ndarray, " cell"]:
    unwanted = set(drop)
    return np.array([bool(unwanted & set(flag.split("+"))) for flag in flags], dtype=bool)


def _find_ranges(parts: Sequence[_Part], rules: CutRules) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find what becomes 0 and 1 of the numbers as they are stored."""
    if rules.to_bytes:
        return (0.0,) * len(rules.channels), (255.0,) * len(rules.channels)
    fixed = rules.intensity.find_fixed(rules.channels, find_largest(parts[0].dtype, rules.bit_depth))
    if fixed is not None:
        return fixed
    return rules.intensity.find_ranges(reduce(add_counts, [part.counts for part in parts if part.counts is not None]))
