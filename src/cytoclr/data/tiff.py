"""TIFF files: grey planes of 8 or 16 bit, and what their headers tell."""

import contextlib
import math
import re
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from jaxtyping import UInt

from cytoclr.data.planes import DTYPES, MAX_PIXELS, Planes
from cytoclr.data.remote import is_url, read_bytes
from cytoclr.errors import DataError

__all__ = ["BROKEN", "find_missing_pieces", "open_tiff", "read_tiff_channel_names", "refuse_entities"]

#: What tifffile and the decoders raise when bytes are not what they should be.
BROKEN = (
    tifffile.TiffFileError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_GREY = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
#: Number of planes of a MetaMorph stack, which has one page for all.
_UIC2 = 33629
_UIC1 = 33628
_MICROMETRES = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    "inch": 25_400.0,
}
#: Pixels (µm) that a microscope may have: resolution tags often say 72 dots an inch, which is for printers.
_SENSIBLE_UM = (0.01, 25.0)


@contextlib.contextmanager
def open_tiff(place: str) -> Iterator[Planes]:
    """Open a TIFF (classic or Big, either byte order, any compression that imagecodecs knows) by path or URL.

    A file with one page is one plane. Of others, the planes are those of the first series as tifffile finds it (pages
    of one size and type, an OME or ImageJ hyperstack, a MetaMorph stack), the last axis before rows and columns
    running fastest. Of an OME series over several files these are the file's own pages.

    Raises
    ------
    DataError
        The file is missing (IMG001), cannot be read (IMG002), is cut short (IMG003), or its planes are not grey or
        not of 8 to 16 bit (IMG004).
    """
    source = BytesIO(read_bytes(place)) if is_url(place) else place
    try:
        # Without _multifile=False the XML of one file could make us open others.
        with tifffile.TiffFile(source, _multifile=False) as tiff:
            yield _describe(tiff, place)
    except FileNotFoundError:
        raise DataError(f"{place}: no such image file.", code="IMG001") from None
    except IsADirectoryError:
        raise DataError(f"{place}: a folder. Expected an image file, or a group of OME-Zarr.", code="IMG002") from None
    except BROKEN as error:
        _refuse_cut(source, place)
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{place}: not a readable TIFF ({detail}). Copy the file again.", code="IMG002") from None


def _refuse_cut(source: str | BytesIO, place: str) -> None:
    """Tell a file that ends before its directory of pages, which many microscopes write last."""
    head = source.getvalue() if isinstance(source, BytesIO) else _read_head(place)
    size = len(head) if isinstance(source, BytesIO) else Path(place).stat().st_size
    order: Any = {b"II": "little", b"MM": "big"}.get(head[:2])
    if order is None or len(head) < 16:
        return
    big = int.from_bytes(head[2:4], order) == 43
    first = int.from_bytes(head[8:16] if big else head[4:8], order)
    if first >= size:
        raise _cut_short(place, size, f"begins its list of pages at {first:,}")


def _read_head(place: str) -> bytes:
    with contextlib.suppress(OSError), Path(place).open("rb") as file:
        return file.read(16)
    return b""


def _cut_short(place: str, size: int, expected: str) -> DataError:
    return DataError(f"{place}: cut short: {size:,} bytes, its header {expected}. Copy the file again.", code="IMG003")


def _describe(tiff: tifffile.TiffFile, place: str) -> Planes:
    page = tiff.pages[0]
    if not isinstance(page, tifffile.TiffPage):
        raise DataError(f"{place}: its first page is not a full TIFF page.", code="IMG002")
    alone = len(tiff.pages) == 1
    series = None if alone and not _has_planes_in_one_page(page) else _read_series(tiff, place)
    number = 1 if series is None else math.prod(series.shape) // max(1, math.prod(page.shape))
    _check_page(page, len(tiff.pages) if series is None else max(number, len(tiff.pages)), place)

    def read(plane: int, out: UInt[np.ndarray, "row column"]) -> None:
        if series is None:
            _read_page(page, tiff, out, place)
        elif alone:
            _read_from_stack(series, plane, tiff, out, place)
        else:
            _read_page(series[plane], tiff, out, place)

    return Planes(
        shape=(page.shape[0], page.shape[1]),
        dtype=np.dtype(page.dtype).newbyteorder("="),
        bits=page.bitspersample,
        number=number,
        pages=len(tiff.pages) if series is None else max(number, len(tiff.pages)),
        read=read,
        find_pixel_size=lambda: _find_pixel_size(tiff, page, place),
    )


def _has_planes_in_one_page(page: tifffile.TiffPage) -> bool:
    """Tell a file of MetaMorph, ImageJ or tifffile whose planes all lie behind a single page."""
    stack = page.tags.get(_UIC2)
    if stack is not None:
        return bool(stack.count > 1)
    if page.is_imagej:
        images = re.search(r"^images=(\d+)", page.description, re.MULTILINE)
        return images is not None and int(images[1]) > 1
    shape = re.search(r'"shape":\s*\[([\d,\s]+)\]', page.description) if page.is_shaped else None
    return shape is not None and math.prod(map(int, shape[1].split(","))) > math.prod(page.shape)


def _read_series(tiff: tifffile.TiffFile, place: str) -> tifffile.TiffPageSeries:
    refuse_entities(tiff.pages.first.description, place)
    series = tiff.series[0]
    if series.keyframe is not tiff.pages[0] and series.keyframe.index != 0:
        raise DataError(f"{place}: its first series does not begin with its first page.", code="IMG004")
    return series


def _check_page(page: tifffile.TiffPage, pages: int, place: str) -> None:
    grey = page.photometric in _GREY and page.samplesperpixel == 1
    if len(page.shape) != 2 or not grey or page.dtype not in DTYPES or not 8 <= page.bitspersample <= 16:
        kind = "" if grey else f"{getattr(page.photometric, 'name', page.photometric)} "
        bits = "" if page.bitspersample >= 8 else f" in {page.bitspersample} bit"
        raise DataError(
            f"{place}: {pages} page(s) of {kind}{page.dtype} {page.shape}{bits}. "
            "Expected one grey plane (rows, columns) of 8 or 16 bit.",
            code="IMG004",
        )
    if max(page.shape[0] * page.shape[1], page.tilewidth * page.tilelength) > MAX_PIXELS:
        raise DataError(f"{place}: says it has {page.shape} pixels, more than any camera takes.", code="IMG002")


def _read_page(
    page: tifffile.TiffPage | tifffile.TiffFrame | None,
    tiff: tifffile.TiffFile,
    out: UInt[np.ndarray, "row column"],
    place: str,
) -> None:
    if page is None or page.shape != out.shape:
        found = "nothing" if page is None else str(page.shape)
        raise DataError(f"{place}: its planes differ in size: {out.shape} and {found}.", code="IMG005")
    if not page.dataoffsets:
        raise DataError(f"{place}: its header does not say where the pixels are. Copy the file again.", code="IMG002")
    missing = find_missing_pieces(page, tiff.filehandle.size)
    if missing:
        raise DataError(f"{place}: cut short: {missing}. Copy the file again.", code="IMG003")
    page.asarray(out=out)


def find_missing_pieces(page: tifffile.TiffPage | tifffile.TiffFrame, size: int) -> str:
    """Say which of a page's bytes a file of `size` bytes lacks; nothing if it has them all.

    tifffile leaves what a piece (a strip, a tile) that is not there should fill as it was: black, or any bytes.
    """
    offsets, counts, keyframe = page.dataoffsets, page.databytecounts, page.keyframe
    if keyframe is None or len(offsets) != len(counts):
        return "its header counts its pieces in two ways"
    needed = max(map(sum, zip(offsets, counts, strict=True)), default=0)
    if needed > size:
        return f"{size:,} bytes, its header expects {needed:,}"
    if not all(counts) or not all(offsets):
        return "some of its pieces were never written"
    if keyframe.is_contiguous:
        return (
            "" if sum(counts) >= keyframe.nbytes else f"{sum(counts):,} bytes of pixels, expected {keyframe.nbytes:,}"
        )
    expected = math.prod(keyframe.chunked)
    return "" if len(offsets) >= expected else f"{len(offsets):,} of its {expected:,} pieces are there"


def _read_from_stack(
    series: tifffile.TiffPageSeries,
    plane: int,
    tiff: tifffile.TiffFile,
    out: UInt[np.ndarray, "row column"],
    place: str,
) -> None:
    """Read a plane of those that lie one after the other behind a single page."""
    start = series.dataoffset
    if start is None:
        raise DataError(f"{place}: its stack is compressed. Expected a page for each plane.", code="IMG004")
    start, needed = start + plane * out.nbytes, start + len(series) * out.nbytes
    if start + out.nbytes > tiff.filehandle.size:
        raise _cut_short(place, tiff.filehandle.size, f"expects {needed:,}")
    stored = out.dtype.newbyteorder(tiff.byteorder)
    out[...] = tiff.filehandle.read_array(stored, count=out.size, offset=start).reshape(out.shape)


def read_tiff_channel_names(place: str) -> list[str] | None:
    """Read the channels' names from the OME-XML of a TIFF; None: it has none.

    Raises
    ------
    DataError
        As in `open_tiff`; or the XML declares entities, which could be made to fill the memory.
    """
    source = BytesIO(read_bytes(place)) if is_url(place) else place
    try:
        with tifffile.TiffFile(source, _multifile=False) as tiff:
            root = _parse_ome(tiff.pages.first, place)
    except FileNotFoundError:
        raise DataError(f"{place}: no such image file.", code="IMG001") from None
    except BROKEN as error:
        raise DataError(f"{place}: not a readable TIFF ({error}). Copy the file again.", code="IMG002") from None
    pixels = None if root is None else root.find("{*}Image/{*}Pixels")
    channels = [] if pixels is None else pixels.findall("{*}Channel")
    names = [channel.get("Name") or channel.get("Fluor") or "" for channel in channels]
    return [name or f"channel_{number}" for number, name in enumerate(names)] if any(names) else None


def refuse_entities(text: str, place: str) -> None:
    """Refuse XML that declares entities or names other files: no microscope writes such."""
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):  # wherever: XML may begin with a mark of its bytes' order
        raise DataError(
            f"{place}: its XML has a DOCTYPE, which no microscope writes. Expected plain OME-XML.", code="IMG002"
        )


def _parse_xml(text: str, place: str) -> ElementTree.Element | None:
    refuse_entities(text, place)
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - no entities, as was just checked
    except ElementTree.ParseError:
        return None


def _parse_ome(page: tifffile.TiffPage, place: str) -> ElementTree.Element | None:
    return _parse_xml(page.description, place) if page.is_ome else None


def _find_pixel_size(tiff: tifffile.TiffFile, page: tifffile.TiffPage, place: str) -> float | None:
    """Find a pixel's width (µm): as OME, ImageJ, MetaMorph or ImageXpress tell it, else by a sensible resolution."""
    found = _find_ome_size(page, place) if page.is_ome else None
    if found is None and page.is_imagej:
        found = _find_imagej_size(tiff, page)
    if found is None and page.tags.get(_UIC1) is not None:
        about = dict(tiff.stk_metadata or {})
        if about.get("SpatialCalibration"):
            found = _in_micrometres(about.get("XCalibration"), about.get("CalibrationUnits"))
    if found is None and page.is_metaseries:
        found = _find_metaseries_size(page, place)
    return found if found is not None else _find_resolution(page)


def _in_micrometres(size: Any, unit: Any) -> float | None:
    try:
        number = float(size) * _MICROMETRES[str(unit).strip().strip("\x00").lower()]
    except (TypeError, ValueError, KeyError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _find_ome_size(page: tifffile.TiffPage, place: str) -> float | None:
    root = _parse_ome(page, place)
    pixels = None if root is None else root.find("{*}Image/{*}Pixels")
    if pixels is None:
        return None
    return _in_micrometres(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm"))


def _find_imagej_size(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    per_unit = page.resolution[0]
    return _in_micrometres(1 / per_unit, unit) if per_unit > 0 else None


def _find_metaseries_size(page: tifffile.TiffPage, place: str) -> float | None:
    root = _parse_xml(page.description, place)
    if root is None:
        return None
    properties = {entry.get("id"): entry.get("value") for entry in root.iter("prop")}
    if str(properties.get("spatial-calibration-state", "on")).lower() != "on":
        return None
    return _in_micrometres(properties.get("spatial-calibration-x"), properties.get("spatial-calibration-units", "um"))


def _find_resolution(page: tifffile.TiffPage) -> float | None:
    per_unit = page.resolution[0]
    unit = {2: "inch", 3: "cm"}.get(int(page.resolutionunit))
    found = _in_micrometres(1 / per_unit, unit) if per_unit > 0 else None
    return found if found is not None and _SENSIBLE_UM[0] <= found <= _SENSIBLE_UM[1] else None
