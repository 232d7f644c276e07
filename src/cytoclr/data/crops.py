"""Crops on disk: memory-mapped ``[cell, channel, height, width]`` files, some a plate, and what is known of them.

Crops keep the camera's numbers. What becomes 0 and 1 for an encoder (the intensity rule) is stored beside them,
per plate and channel, and applied when they are read for learning.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt

from cytoclr.errors import DamagedError, DataError
from cytoclr.storage import hash_json, open_atomic, read_json, write_json

__all__ = [
    "CropStore",
    "Shard",
    "ShardWriter",
    "open_shard",
    "plate_stem",
    "scale_crops",
    "write_crop_manifest",
]

FORMAT = 1
#: Files that a store keeps open.
MAX_OPEN = 600


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

    Nothing is read until asked for, and nothing is kept: memory stays flat whatever the number of cells.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of crops.

        Raises
        ------
        DamagedError
            The manifest is missing or unreadable, or a shard is missing or has another shape.
        """
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise DamagedError(f"{manifest}: missing. Run the crop stage again.")
        about = read_json(manifest)
        self.folder = folder
        self.channels: tuple[str, ...] = tuple(about["channels"])
        self.size_px: int = about["size_px"]
        self.pixel_size_um: float | None = about["pixel_size_um"]
        self.intensity: dict[str, Any] = about["intensity"]
        self.dtype = np.dtype(about["dtype"])
        self.shards = tuple(Shard.parse(values) for values in about["shards"])
        self.stains: dict[str, str] = about.get("stains", {})
        self.bit_depth: int | None = about.get("bit_depth")
        for shard in self.shards:
            self._open_crops(shard)
            self._open_ranges(shard)
        # each map holds a file open; a process may hold 1,024
        self._crops = lru_cache(maxsize=MAX_OPEN)(self._open_crops)
        self._ranges = lru_cache(maxsize=MAX_OPEN // 4)(self._open_ranges)
        self._ends = np.cumsum([shard.num_cells for shard in self.shards])
        self._low = np.array([shard.low for shard in self.shards], dtype=np.float32)
        self._high = np.array([shard.high for shard in self.shards], dtype=np.float32)

    def __reduce__(self) -> tuple[type["CropStore"], tuple[Path]]:
        """Reach another process as the folder's name, not as every crop in it."""
        return CropStore, (self.folder,)

    def _open_crops(self, shard: Shard) -> np.ndarray:
        return self._open(shard.file, (shard.num_cells, len(self.channels), self.size_px, self.size_px), self.dtype)

    def _open_ranges(self, shard: Shard) -> np.ndarray | None:
        if shard.ranges is None:
            return None
        return self._open(shard.ranges, (shard.num_cells, 2, len(self.channels)), np.dtype(np.float32))

    def _open(self, file: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path = self.folder / file
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path}: cannot be opened ({error}). Run the crop stage again.") from error
        if array.shape != shape or array.dtype != dtype:
            raise DamagedError(
                f"{path}: holds {array.dtype} {array.shape}, expected {dtype} {shape}. Run the crop stage again."
            )
        return array

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
        """Read the crops of these numbers, in this order, as the camera gave them."""
        shards = self._shards_of(rows)
        crops = np.empty((len(rows), len(self.channels), self.size_px, self.size_px), dtype=self.dtype)
        starts = self._ends - [shard.num_cells for shard in self.shards]
        for shard in np.unique(shards):
            here = shards == shard
            crops[here] = self._crops(self.shards[shard])[rows[here] - starts[shard]]
        return crops

    def read_ranges(
        self, rows: Int[np.ndarray, " cell"]
    ) -> tuple[Float[np.ndarray, "cell channel"], Float[np.ndarray, "cell channel"]]:
        """Return the stored values that become 0 and 1, for each of these crops and each channel."""
        shards = self._shards_of(rows)
        low, high = self._low[shards], self._high[shards]
        starts = self._ends - [shard.num_cells for shard in self.shards]
        for number in np.unique(shards):
            own = self._ranges(self.shards[number])
            if own is not None:
                here = shards == number
                low[here], high[here] = own[rows[here] - starts[number]].swapaxes(0, 1)
        return low, high

    def _shards_of(self, rows: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"crop {int(rows.max())} of {len(self)}")
        return np.searchsorted(self._ends, rows, side="right")


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
    return safe if safe == plate else f"plate_{safe}-{hash_json(plate)[:8]}"


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
