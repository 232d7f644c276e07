"""Reading image files: every doubt is a sentence that names the file."""

import contextlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import UInt

from cytoclr.data.ngff import find_channel_labels, is_zarr, open_ome_zarr, read_ome_metadata
from cytoclr.data.planes import DTYPES, MAX_PIXELS, Planes
from cytoclr.data.remote import is_url, read_bytes
from cytoclr.data.tiff import open_tiff, read_tiff_channel_names
from cytoclr.errors import DataError, list_some

__all__ = ["ImageAbout", "ends_in_mask", "read_about", "read_channel_names", "read_field", "read_strip"]

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with transparency", 6: "RGB with transparency"}


@dataclass(frozen=True)
class ImageAbout:
    """What an image's header tells.

    `shape` (rows, columns) and `dtype` are those of each plane; `bits` is how many of a pixel are stored;
    `pixel_size_um` is a pixel's width, None: not told; `num_planes` are those that can be asked for.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    bits: int
    pixel_size_um: float | None
    num_planes: int


def read_field(
    paths: Mapping[str, str | Path], planes: Mapping[str, int] | None = None
) -> UInt[np.ndarray, "channel row column"]:
    """Read one site: a grey plane a channel, 8 or 16 bit, all of one size and type.

    Parameters
    ----------
    paths
        The file of each channel, by path or URL: a TIFF, a PNG (told by its name), or the group of a field in an
        OME-Zarr (its path has a folder ``….zarr``). A file that several channels share is opened once.
    planes
        Which plane of its file (from 0) a channel is: in a TIFF, of its first series; in an OME-Zarr, the channel. Not
        needed where a file has one.

    Returns
    -------
    numpy.ndarray
        The pixels as they are stored, 10, 12 and 14 bit as 16; the channels in their order.

    Raises
    ------
    DataError
        A file is missing (IMG001), cannot be read (IMG002), ends before its pixels do (IMG003), is not grey or not of
        8 to 16 bit or has several planes of which none is told (IMG004), or differs from the first channel in size
        (IMG005) or type (IMG006).
    MachineError
        A remote file cannot be reached (NET001).

    Notes
    -----
    Pixels are decoded into the array that is returned: an uncompressed 1280x1024 TIFF of 16 bit takes 0.2 ms, where a
    copy would take 2.5.
    """
    numbers = {channel: number for number, channel in enumerate(paths)}
    by_file: dict[str, list[str]] = {}
    for channel, path in paths.items():
        by_file.setdefault(str(path), []).append(channel)
    first = next(iter(paths))
    field: np.ndarray | None = None
    for place, channels in by_file.items():
        with _open_planes(place) as image:
            if field is None:
                field = np.empty((len(paths), *image.shape), dtype=image.dtype)
            _check_alike(image, field, f"{place}: {channels[0]}", first)
            for channel in channels:
                plane = _choose_plane(image, None if planes is None else planes.get(channel), place)
                image.read(plane, field[numbers[channel]])
    assert field is not None
    return field


def _open_planes(place: str) -> AbstractContextManager[Planes]:
    if place.lower().endswith(".png"):
        return _open_png(place)
    if is_zarr(place):
        return open_ome_zarr(place)
    return open_tiff(place)


def _check_alike(image: Planes, field: np.ndarray, what: str, first: str) -> None:
    if image.shape == field.shape[1:] and image.dtype == field.dtype:
        return
    raise DataError(
        f"{what} is {image.dtype} {image.shape}, but {first} is {field.dtype} {field.shape[1:]} (rows, columns). "
        "Expected one size and type for all channels of a site.",
        code="IMG006" if image.shape == field.shape[1:] else "IMG005",
    )


def _choose_plane(image: Planes, plane: int | None, place: str) -> int:
    if plane is None and image.pages == 1:
        return 0
    if plane is None:
        raise DataError(
            f"{place}: {image.pages} page(s) of {image.dtype} {image.shape}. Expected one grey plane (rows, columns) "
            "of 8 or 16 bit, or to be told which of them is the channel's.",
            code="IMG004",
        )
    if not 0 <= plane < image.number:
        raise DataError(
            f"{place}: {image.number} plane(s), but number {plane} was asked for, counted from 0.", code="IMG004"
        )
    return int(plane)


@contextlib.contextmanager
def _open_png(place: str) -> Iterator[Planes]:
    try:
        content = read_bytes(place) if is_url(place) else Path(place).read_bytes()
        yield _describe_png(content, place)
    except FileNotFoundError:
        raise DataError(f"{place}: no such image file.", code="IMG001") from None
    except (imagecodecs.PngError, ValueError, OSError, struct.error) as error:
        raise DataError(f"{place}: not a readable PNG ({error}). Copy the file again.", code="IMG002") from None


def _describe_png(content: bytes, place: str) -> Planes:
    if not content.startswith(_PNG_START):
        raise ValueError("it does not begin as one")
    width, height, bits, kind = struct.unpack(">IIBB", content[16:26])
    if kind != 0 or bits not in (8, 16):
        raise DataError(
            f"{place}: {_PNG_KINDS.get(kind, f'kind {kind}')}, {bits} bit, {(height, width)}. "
            "Expected one grey plane (rows, columns) of 8 or 16 bit.",
            code="IMG004",
        )
    if height * width > MAX_PIXELS:
        raise DataError(f"{place}: says it has {(height, width)} pixels, more than any camera takes.", code="IMG002")
    # Decoders fill what is missing with black.
    if b"IEND" not in content[-64:] and b"IEND" not in content:
        raise DataError(
            f"{place}: cut short: {len(content):,} bytes, its end is missing. Copy the file again.", code="IMG003"
        )

    def read(_: int, out: UInt[np.ndarray, "row column"]) -> None:
        out[...] = imagecodecs.png_decode(content)

    return Planes(
        shape=(height, width),
        dtype=DTYPES[bits == 16],
        bits=bits,
        number=1,
        pages=1,
        read=read,
        find_pixel_size=lambda: None,
    )


def read_channel_names(path: str | Path) -> list[str] | None:
    """Read the names of an image's channels: of OME-XML in a TIFF, of the group of a field in an OME-Zarr.

    Returns
    -------
    list of str or None
        In the order of the channels, those without a name ``channel_<number from 0>``; None: no names are told.

    Raises
    ------
    DataError
        The file or group is missing or cannot be read.
    MachineError
        It cannot be reached.
    """
    place = str(path)
    if place.lower().endswith(".png"):
        return None
    if not is_zarr(place):
        return read_tiff_channel_names(place)
    metadata = read_ome_metadata([place])[place]
    if metadata is None:
        raise DataError(f"{place}: no such OME-Zarr group.", code="IMG001")
    return find_channel_labels(metadata)


def read_about(path: str | Path) -> ImageAbout:
    """Read what an image's header tells, without its pixels.

    A pixel's width comes from OME metadata, else from what ImageJ, MetaMorph or ImageXpress note, else from the
    resolution tags of a TIFF if they say something that a microscope may have (0.01 to 25 µm).

    Raises
    ------
    DataError
        As in `read_field`, of one image; how many planes it has does not matter.
    MachineError
        It cannot be reached.
    """
    with _open_planes(str(path)) as image:
        return ImageAbout(image.shape, image.dtype, image.bits, image.find_pixel_size(), image.number)


def read_strip(path: Path, channels: tuple[str, ...]) -> UInt[np.ndarray, "channel height width"]:
    """Read one ready crop: a grey PNG, 8 or 16 bit, that holds the channels side by side.

    A mask behind them, as DeepProfiler may write (`ends_in_mask`), is left out.

    Raises
    ------
    DataError
        The file is missing, is not a grey PNG, or its width is not its height times the number of channels.
    """
    strip = _decode_strip(path)
    height, width = strip.shape
    if width == height * (len(channels) + 1) and _is_mask(strip[:, -height:]):
        width -= height
    if width != height * len(channels):
        raise DataError(
            f"{path}: {width}x{height} px. Expected {len(channels)} square channels side by side "
            f"({list_some(channels)}): {height * len(channels)}x{height} px.",
            code="CROP002",
        )
    return np.ascontiguousarray(strip[:, :width].reshape(height, len(channels), height).swapaxes(0, 1))


def ends_in_mask(path: Path) -> bool:
    """Tell whether the last square of a ready crop is no channel, but a mask: 8 bit, nought and 255 alone.

    Raises
    ------
    DataError
        The file is missing or is not a grey PNG.
    """
    strip = _decode_strip(path)
    height, width = strip.shape
    return width > height and _is_mask(strip[:, -height:])


def _decode_strip(path: Path) -> UInt[np.ndarray, "height width"]:
    try:
        strip = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file.", code="IMG001") from None
    except (imagecodecs.PngError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}). Copy the file again.", code="CROP001") from None
    if strip.ndim != 2 or strip.dtype not in DTYPES:
        raise DataError(f"{path}: {strip.dtype} {strip.shape}. Expected a grey PNG of 8 or 16 bit.", code="CROP001")
    return strip


def _is_mask(square: UInt[np.ndarray, "height width"]) -> bool:
    return square.dtype == np.uint8 and bool(np.isin(square, (0, 255)).all())
