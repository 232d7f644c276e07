"""What the readers of image formats hand on: an open image, its planes alike, each to be read on its own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["DTYPES", "MAX_PIXELS", "Planes"]

#: Larger fields than any camera takes are headers gone wrong, or made to fill the memory.
MAX_PIXELS = 2**28
DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


@dataclass(frozen=True)
class Planes:
    """An open image.

    `number` planes of `shape` (rows, columns), `bits` of each pixel are stored. `pages` counts what else is in the
    file too (thumbnails). `read` fills an array with the plane of a number (from 0). `find_pixel_size` looks for a
    pixel's width, in µm.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    bits: int
    number: int
    pages: int
    read: Callable[[int, np.ndarray], None]
    find_pixel_size: Callable[[], float | None]
