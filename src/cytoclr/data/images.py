"""Reading image files: every doubt is a sentence that names the file."""

from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt

from cytoclr.errors import DataError, list_some

__all__ = ["read_field", "read_strip"]

#: Larger fields than any camera takes are headers gone wrong, or made to fill the memory.
MAX_PIXELS = 2**28
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def read_field(paths: Mapping[str, Path]) -> UInt[np.ndarray, "channel row column"]:
    """Read one site: one grey TIFF a channel, 8 or 16 bit, all of one size and type.

    Raises
    ------
    DataError
        A file is missing, is not a TIFF, ends before its pixels do, is not a single grey plane of 8 or 16 bit, or
        differs from the first channel in size or type.
    """
    planes = {channel: _read_tiff(path) for channel, path in paths.items()}
    first_channel, first = next(iter(planes.items()))
    for channel, plane in planes.items():
        if plane.shape != first.shape or plane.dtype != first.dtype:
            raise DataError(
                f"{paths[channel]}: {channel} is {plane.dtype} {plane.shape}, but {first_channel} is {first.dtype} "
                f"{first.shape} (rows, columns). Expected one size and type for all channels of a site."
            )
    return np.stack(list(planes.values()))


def _read_tiff(path: Path) -> UInt[np.ndarray, "row column"]:
    try:
        size = path.stat().st_size
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            if not isinstance(page, tifffile.TiffPage):
                raise DataError(f"{path}: its first page is not a full TIFF page.")
            if len(page.shape) != 2 or len(tiff.pages) != 1 or page.dtype not in _DTYPES:
                raise DataError(
                    f"{path}: {len(tiff.pages)} page(s) of {page.dtype} {page.shape}. "
                    "Expected one grey plane (rows, columns) of 8 or 16 bit."
                )
            if page.shape[0] * page.shape[1] > MAX_PIXELS:
                raise DataError(f"{path}: says it has {page.shape} pixels, more than any camera takes.")
            needed = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
            if needed > size:
                raise DataError(
                    f"{path}: cut short: {size:,} bytes, its header expects {needed:,}. Copy the file again."
                )
            plane = page.asarray()
            if plane.shape != page.shape or not plane.size:
                raise DataError(f"{path}: its header does not say where the pixels are. Copy the file again.")
            return np.ascontiguousarray(plane)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file.") from None
    except (tifffile.TiffFileError, RuntimeError, ValueError, TypeError, OSError, IndexError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable TIFF ({detail}). Copy the file again.") from None


def read_strip(path: Path, channels: tuple[str, ...]) -> UInt[np.ndarray, "channel height width"]:
    """Read one ready crop: a grey PNG, 8 or 16 bit, that holds the channels side by side.

    Raises
    ------
    DataError
        The file is missing, is not a grey PNG, or its width is not its height times the number of channels.
    """
    try:
        strip = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file.") from None
    except (imagecodecs.PngError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}). Copy the file again.") from None
    if strip.ndim != 2 or strip.dtype not in _DTYPES:
        raise DataError(f"{path}: {strip.dtype} {strip.shape}. Expected a grey PNG of 8 or 16 bit.")
    height, width = strip.shape
    if width != height * len(channels):
        raise DataError(
            f"{path}: {width}x{height} px. Expected {len(channels)} square channels side by side "
            f"({list_some(channels)}): {height * len(channels)}x{height} px."
        )
    return np.ascontiguousarray(strip.reshape(height, len(channels), height).swapaxes(0, 1))
