"""Crops on disk: ``[cell, channel, height, width]`` files of NumPy, some a plate, and what is known of them.

Crops keep the camera's numbers. What becomes 0 and 1 for an encoder (the intensity rule) is stored beside them,
per plate and channel, and applied when they are read for learning.
"""

import contextlib
import mmap
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt

from cytoclr.data.planes import DTYPES
from cytoclr.errors import DamagedError, DataError
from cytoclr.storage import hash_json, open_atomic, read_json, write_json

__all__ = [
    "MAX_SIZE_PX",
    "CropStore",
    "Shard",
    "ShardWriter",
    "open_shard",
    "plate_stem",
    "scale_crops",
    "write_crop_manifest",
]

FORMAT = 1
#: Height and width of a crop, at most: no cell is larger, and a description may ask for any memory.
MAX_SIZE_PX = 4096
#: Files that a store keeps open.
MAX_OPEN = 600
#: A store no larger than this, and of no more shards, is mapped: nothing is faster, and it all fits.
MAX_MAPPED_BYTES, MAX_MAPPED_SHARDS = 2 * 2**30, 100


@dataclass(frozen=True)
class Shard:
    """Crops of one plate: their file, how many, and the stored values that become 0 and 1 in each channel.

    Where these are each crop's own, `ranges` names the file that has them, ``[cell, 2, channel]``.
    """

    file: str
    plate: str
    num_cells: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    ranges: str | None = None
    #: Of the file's bytes when they were written; None: a store that others made.
    sha256: str | None = None

    @staticmethod
    def parse(values: dict[str, Any]) -> "Shard":
        """Take a shard back from what JSON made of it."""
        return Shard(**{**values, "low": tuple(values["low"]), "high": tuple(values["high"])})


class CropStore:
    """All crops of a run, read by number; crop i belongs to row i of the cells table.

    Nothing is read until asked for, and of a large store nothing is kept: memory stays flat whatever the number of
    cells.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of crops.

        Raises
        ------
        DamagedError
            The manifest is missing or unreadable or names files elsewhere, or a shard is missing or has another shape.
        """
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise DamagedError(f"{manifest}: missing. Run the crop stage again.")
        about = read_json(manifest)
        self.folder = folder
        try:
            self.channels: tuple[str, ...] = tuple(about["channels"])
            self.size_px: int = about["size_px"]
            self.pixel_size_um: float | None = about["pixel_size_um"]
            self.intensity: dict[str, Any] = about["intensity"]
            self.dtype = np.dtype(about["dtype"])
            self.shards = tuple(Shard.parse(values) for values in about["shards"])
            self.stains: dict[str, str] = about.get("stains", {})
            self.bit_depth: int | None = about.get("bit_depth")
            self._check(about["format"])
        except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:  # the last is NumPy's
            raise DamagedError(
                f"{manifest}: not that of a store of crops ({error}). Run the crop stage again."
            ) from error
        self._ends = np.cumsum([shard.num_cells for shard in self.shards])
        for number, shard in enumerate(self.shards):
            self._open_crops(number)
            if shard.ranges is not None:
                self._open_ranges(number)
        # a process may hold 1,024 files open
        self._crops = lru_cache(maxsize=MAX_OPEN)(self._open_crops)
        self._ranges = lru_cache(maxsize=MAX_OPEN // 4)(self._open_ranges)
        self._starts = self._ends - [shard.num_cells for shard in self.shards]
        self._low = np.array([shard.low for shard in self.shards], dtype=np.float32)
        self._high = np.array([shard.high for shard in self.shards], dtype=np.float32)
        self._has_ranges = np.array([shard.ranges is not None for shard in self.shards], dtype=bool)

    def _check(self, version: int) -> None:
        """Refuse what no store of ours says of itself: above all files elsewhere, whose bytes would pass for crops."""
        if version != FORMAT or self.dtype not in DTYPES or not 0 < self.size_px <= MAX_SIZE_PX:
            raise ValueError(f"format {version}, {self.dtype}, {self.size_px} px")
        for shard in self.shards:
            for name in (shard.file, shard.ranges or "ranges"):
                if Path(name).name != name or "\\" in name:
                    raise ValueError(f"the file {name!r} is not in the folder")
            if shard.num_cells < 0 or {len(shard.low), len(shard.high)} != {len(self.channels)}:
                raise ValueError(f"{shard.file}: {shard.num_cells} cells, ranges of {len(shard.low)} channels")

    def __reduce__(self) -> tuple[type["CropStore"], tuple[Path]]:
        """Reach another process as the folder's name, not as every crop in it."""
        return CropStore, (self.folder,)

    def _is_mapped(self) -> bool:
        crop_bytes = len(self.channels) * self.size_px**2 * self.dtype.itemsize
        return len(self) * crop_bytes <= MAX_MAPPED_BYTES and len(self.shards) <= MAX_MAPPED_SHARDS

    def _open_crops(self, number: int) -> "_ItemFile":
        shard = self.shards[number]
        shape = (shard.num_cells, len(self.channels), self.size_px, self.size_px)
        return self._open(shard.file, shape, self.dtype, is_mapped=self._is_mapped())

    def _open_ranges(self, number: int) -> "_ItemFile":
        shard = self.shards[number]
        return self._open(str(shard.ranges), (shard.num_cells, 2, len(self.channels)), np.dtype(np.float32))

    def _open(self, file: str, shape: tuple[int, ...], dtype: np.dtype, *, is_mapped: bool = False) -> "_ItemFile":
        path = self.folder / file
        try:
            array: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path}: cannot be opened ({error}). Run the crop stage again.") from error
        if array.shape != shape or array.dtype != dtype:
            raise DamagedError(
                f"{path}: holds {array.dtype} {array.shape}, expected {dtype} {shape}. Run the crop stage again."
            )
        if not array.flags.c_contiguous:
            raise DamagedError(f"{path}: is in Fortran order, expected C order. Run the crop stage again.")
        return _ItemFile(path, array.offset, array.strides[0], is_mapped=is_mapped)

    def describe_channels(self) -> dict[str, Any]:
        """Tell what any table made of these crops should say: channels by name, stains, depth, pixel size, rule."""
        return {
            "channels": list(self.channels),
            "stains": self.stains,
            "bit_depth": self.bit_depth,
            "pixel_size_um": self.pixel_size_um,
            "size_px": self.size_px,
            "intensity": self.intensity,
        }

    def __len__(self) -> int:
        """Count the crops."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: Int[np.ndarray, " cell"]) -> UInt[np.ndarray, "cell channel height width"]:
        """Read the crops of these numbers, in this order, as the camera gave them.

        Raises
        ------
        IndexError
            There is no crop of such a number.
        DamagedError
            A file became shorter since it was opened, or its disk fails.
        """
        crops = np.empty((len(rows), len(self.channels), self.size_px, self.size_px), dtype=self.dtype)
        self._fill(crops, rows, self._crops)
        return crops

    def announce(self, rows: Int[np.ndarray, " cell"]) -> None:
        """Let the system fetch the crops of these numbers from disk, all at once, while something else is done.

        Worth it for files that are not in memory, and nearly free for those that are; nothing where the system takes
        no such advice (Linux does).
        """
        for number, first, _, count in self._find_runs(rows):
            self._crops(number).announce(first, count)

    def read_ranges(
        self, rows: Int[np.ndarray, " cell"]
    ) -> tuple[Float[np.ndarray, "cell channel"], Float[np.ndarray, "cell channel"]]:
        """Return the stored values that become 0 and 1, for each of these crops and each channel."""
        shards = self._find_shards(rows)
        low, high = self._low[shards], self._high[shards]
        has_own = self._has_ranges[shards]
        own = np.empty((int(has_own.sum()), 2, len(self.channels)), dtype=np.float32)
        self._fill(own, rows[has_own], self._ranges)
        low[has_own], high[has_own] = own.swapaxes(0, 1)
        return low, high

    def _fill(self, items: np.ndarray, rows: Int[np.ndarray, " cell"], open_file: Callable[[int], "_ItemFile"]) -> None:
        """Read the items of these rows, in the order in which they lie on disk and neighbours at once."""
        target = items.reshape(-1).view(np.uint8).data
        item_bytes = len(target) // max(len(rows), 1)
        for number, first, place, count in self._find_runs(rows):
            part = target[place * item_bytes : (place + count) * item_bytes]
            open_file(number).read_into(part, first)

    def _find_runs(self, rows: Int[np.ndarray, " cell"]) -> Iterator[tuple[int, int, int, int]]:
        """Yield what can be read at once: shard, first item in it, its place among `rows`, and how many follow."""
        if not len(rows):
            return
        shards = self._find_shards(rows)
        order = np.argsort(rows, kind="stable")
        follows = (np.diff(rows[order]) == 1) & (np.diff(order) == 1) & (np.diff(shards[order]) == 0)
        begins = np.flatnonzero(np.concatenate([[True], ~follows]))
        counts, places = np.diff(np.append(begins, len(rows))), order[begins]
        numbers = shards[places]
        firsts = rows[places] - self._starts[numbers]
        yield from zip(numbers.tolist(), firsts.tolist(), places.tolist(), counts.tolist(), strict=True)

    def _find_shards(self, rows: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            wrong = rows[(rows < 0) | (rows >= len(self))][0]
            raise IndexError(f"crop {int(wrong)} of {len(self)}")
        return np.searchsorted(self._ends, rows, side="right")


class _ItemFile:
    """An open file whose items, all of one size, are read by number.

    What was read of a mapped file counts as the process's own memory for as long as it stays open, and a disk that
    fails under a map ends the process without a word: only small stores are mapped, for a third more crops a second.
    """

    def __init__(self, path: Path, start: int, item_bytes: int, *, is_mapped: bool) -> None:
        self._path, self._start, self._item_bytes = path, start, item_bytes
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self._map = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)) if is_mapped else None
        weakref.finalize(self, self._file.close)

    def read_into(self, target: memoryview, first: int) -> None:
        """Fill a piece of memory with bytes from where an item begins."""
        place, done = self._start + first * self._item_bytes, 0
        if self._map is not None:
            target[:] = self._map[place : place + len(target)]
            return
        while done < len(target):  # a system reads two gigabytes at a time
            try:
                count = self._read_at(place + done, target[done:])
            except OSError as error:
                raise DamagedError(f"{self._path}: cannot be read ({error}). Is its disk still there?") from error
            if not count:
                raise DamagedError(f"{self._path}: became shorter. Run the crop stage again.")
            done += count

    def _read_at(self, place: int, target: memoryview) -> int:
        if hasattr(os, "preadv"):  # moves no position that threads, or processes after a fork, would share
            return os.preadv(self._file.fileno(), [target], place)
        with self._lock:
            self._file.seek(place)
            return self._file.readinto(target) or 0

    def announce(self, first: int, count: int) -> None:
        """Let the system fetch items that will be read."""
        if hasattr(os, "posix_fadvise"):
            place, length = self._start + first * self._item_bytes, count * self._item_bytes
            os.posix_fadvise(self._file.fileno(), place, length, os.POSIX_FADV_WILLNEED)


def scale_crops(
    crops: UInt[np.ndarray, "cell channel height width"],
    low: Float[np.ndarray, "cell channel"],
    high: Float[np.ndarray, "cell channel"],
) -> Float[np.ndarray, "cell channel height width"]:
    """Map raw values to 0..1 (float32): `low` and below become 0, `high` and above 1."""
    low, high = low[..., None, None], high[..., None, None]
    scaled: np.ndarray = np.clip((crops.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    return scaled


def plate_stem(plate: str) -> str:
    """Make a file's name of a plate's: itself where that is safe, else with a hash that tells it from others.

    >>> plate_stem("Week1_22123")
    'Week1_22123'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", plate)[:80]
    is_plain = safe == plate and safe and not re.fullmatch(r"plate_.*-[0-9a-f]{8}", safe)  # as those with a hash
    return safe if is_plain else f"plate_{safe}-{hash_json(plate)[:8]}"


class ShardWriter:
    """Appends crops to a file; the number of cells need not be known beforehand."""

    def __init__(self, file: Any, num_channels: int, size_px: int, dtype: np.dtype) -> None:
        self._file = file
        self._shape = (num_channels, size_px, size_px)
        self._dtype = np.dtype(dtype)
        self.num_cells = 0
        self._header_end = self._write_header()

    def append(self, crops: UInt[np.ndarray, "cell channel height width"], *, source: str = "shard") -> None:
        """Write crops of the declared shape and type; `source` names them in the message if they are others."""
        if crops.shape[1:] != self._shape or crops.dtype != self._dtype:
            raise DataError(
                f"{source}: its crops are {crops.dtype} {crops.shape[1:]}, those before {self._dtype} {self._shape} "
                "(channel, height, width). Expected one type and size on a plate."
            )
        self._file.write(np.ascontiguousarray(crops).data)
        self.num_cells += len(crops)

    def finish(self) -> None:
        """Write the number of cells into the file's head."""
        self._file.seek(0)
        # NumPy pads the head so that the first axis can grow in place
        if self._write_header() != self._header_end:
            raise AssertionError("the .npy header changed its length")
        self._file.seek(0, 2)

    def _write_header(self) -> int:
        about = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.num_cells, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, about)
        return int(self._file.tell())


@contextlib.contextmanager
def open_shard(path: Path, num_channels: int, size_px: int, dtype: np.dtype) -> Iterator[ShardWriter]:
    """Open a file for appending crops; it appears, whole, when the block ends without an error."""
    with open_atomic(path) as file:
        writer = ShardWriter(file, num_channels, size_px, dtype)
        yield writer
        writer.finish()


def write_crop_manifest(
    folder: Path,
    shards: Sequence[Shard],
    *,
    channels: Sequence[str],
    size_px: int,
    pixel_size_um: float | None,
    dtype: np.dtype,
    intensity: dict[str, Any],
    stains: Mapping[str, str] | None = None,
    bit_depth: int | None = None,
) -> None:
    """Write ``manifest.json``, which makes a folder of shards a store."""
    about = {
        "format": FORMAT,
        "channels": list(channels),
        "stains": dict(stains or {}),
        "size_px": size_px,
        "pixel_size_um": pixel_size_um,
        "bit_depth": bit_depth,
        "dtype": np.dtype(dtype).str,
        "intensity": intensity,
        "shards": [asdict(shard) for shard in shards],
    }
    write_json(folder / "manifest.json", about)
