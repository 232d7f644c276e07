"""Arrays and tables in files from strangers: nothing is unpickled, and no memory taken that the file could not fill."""

import gzip
import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

__all__ = [
    "MAX_RATIO",
    "UNREADABLE",
    "check_gzip",
    "check_parquet",
    "is_bomb",
    "read_member",
    "read_npy",
]

#: What reading raises when bytes are not what they should be.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # an encrypted member, or one packed in a way that is not known
    zipfile.BadZipFile,
    zlib.error,
)
#: Images and measurements shrink to a third, drawings to a hundredth, constants to a thousandth; a file that says more
#: is made to fill memory or disk.
MAX_RATIO, RATIO_FREE_BYTES = 200, 2**26


def is_bomb(claimed: int, stored: int) -> bool:
    """Tell whether so many bytes are more than the stored ones would honestly unpack to; small ones always may.

    >>> is_bomb(10**12, 10**3), is_bomb(10**6, 10**3), is_bomb(10**12, 10**11)
    (True, False, False)
    """
    return claimed > RATIO_FREE_BYTES and claimed > MAX_RATIO * stored


def read_npy(stream: IO[bytes] | io.BufferedIOBase, size: int) -> Shaped[np.ndarray, "..."]:
    """Read one array, as `numpy.save` writes it, from a stream that has so many bytes.

    Raises
    ------
    ValueError
        It is none, holds objects, or its head claims more than there is.
    """
    head = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(head)
    if read is None:
        raise ValueError(f"an array of version {head}")
    try:
        shape, is_fortran, dtype = read(stream)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:  # brackets without end
        raise ValueError(f"its head cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which could run anything")
    needed = math.prod(shape) * dtype.itemsize
    if needed > size or min(shape, default=0) < 0:
        raise ValueError(f"it says it is {dtype} {shape}: {needed:,} bytes, and has {size:,}")
    content = stream.read(needed)
    if len(content) < needed:
        raise ValueError(f"cut short: {len(content):,} bytes of {needed:,}")
    array = np.frombuffer(content, dtype=dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def read_member(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    """Read an array of an open ``.npz`` file by its name.

    Raises
    ------
    ValueError, zipfile.BadZipFile, …
        `UNREADABLE`: it is none, holds objects, or was made to fill the memory.
    """
    member = archive.getinfo(f"{name}.npy")
    if is_bomb(member.file_size, member.compress_size):
        raise ValueError(
            f"{name}: {member.compress_size:,} bytes that would unpack to {member.file_size:,}; at most {MAX_RATIO} "
            "times as many are expected"
        )
    with archive.open(member) as stream:
        return read_npy(stream, member.file_size)


def check_parquet(path: Path) -> None:
    """Refuse a Parquet table of far more cells than its bytes honestly hold: a run of one value takes next to none.

    Raises
    ------
    pyarrow.ArrowInvalid
        It is such a table, or none.
    """
    about, stored = pq.read_metadata(path), path.stat().st_size
    if is_bomb(about.num_rows * about.num_columns * 8, stored):
        raise pa.ArrowInvalid(
            f"it says it has {about.num_rows:,} rows of {about.num_columns:,} columns, in {stored:,} bytes"
        )


def check_gzip(path: Path) -> None:
    """Refuse a gzipped file that unpacks to far more than tables do; its own word for its size may be a lie.

    Raises
    ------
    OSError, EOFError, zlib.error
        It is such a file, or a damaged one.
    """
    stored, unpacked = path.stat().st_size, 0
    if not is_bomb(1032 * stored, stored):  # gzip shrinks no more than that
        return
    with gzip.open(path) as file:
        while block := file.read(2**20):
            unpacked += len(block)
            if is_bomb(unpacked, stored):
                raise gzip.BadGzipFile(f"{stored:,} bytes that unpack to more than {unpacked:,}")
