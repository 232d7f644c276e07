"""Uneven light: a plate's illumination function is estimated from its fields, or read, and divided out."""

import io
import logging
import math
from collections.abc import Mapping

import numpy as np
import tifffile
from jaxtyping import Float, Float32, Integer, UInt

from cytoclr.data.arrays import UNREADABLE, read_npy
from cytoclr.data.planes import MAX_PIXELS
from cytoclr.data.remote import read_bytes
from cytoclr.data.tiff import BROKEN, refuse_entities
from cytoclr.errors import DataError

__all__ = [
    "MIN_FIELDS",
    "correct_field",
    "expand_illumination",
    "fit_illumination",
    "read_illumination",
    "shrink_field",
]

logger = logging.getLogger(__name__)

#: Of fewer fields the function tells where their cells lie as well as where the light falls.
MIN_FIELDS = 20
#: Values are pooled in squares, so many along the longer side.
SQUARES = 16
#: The percentile of a square's values. Light falls on cells and background alike: a percentile somewhat below the
#: middle is background where there is much of it, cells where they grow densely, and debris nowhere.
PERCENTILE = 40.0
#: Standard deviation of the smoothing, as a share of the longer side: wider than cells and their clumps.
SMOOTHING = 0.3
#: CellProfiler's: the function is divided by the value below which its darkest 2 % lie.
DARKEST = 0.02
#: A corner that comes out darker than this part of that value was not seen, but extrapolated.
FLOOR = 0.5
#: A read function whose smallest value is further than this from 1 was rescaled in another way, or not at all.
FAR_FROM_ONE = 0.2


def shrink_field(
    field: UInt[np.ndarray, "channel row column"], *, grid: int = 128
) -> Float32[np.ndarray, "channel gy gx"]:
    """Average a field in blocks, on a small grid of the same aspect.

    Parameters
    ----------
    field
        One site.
    grid
        Blocks along the longer side; of a field that is smaller, each pixel is a block there.

    Returns
    -------
    numpy.ndarray
        Block means. Where the size does not divide, blocks differ by one pixel: block ``i`` of ``n`` covers the
        pixels from ``i * size // n`` up to the next one's first, so that every pixel counts once.
    """
    channels, rows, columns = field.shape
    tall, wide = _grid_shape((rows, columns), grid)
    top, left = _block_starts(rows, tall), _block_starts(columns, wide)
    heights, widths = np.diff(top, append=rows), np.diff(left, append=columns)
    exact = int(np.iinfo(field.dtype).max) * int(heights.max()) * int(widths.max()) < 2**32
    sums = np.empty((tall, columns), dtype=np.uint32 if exact else np.float64)
    means = np.empty((channels, tall, wide), dtype=np.float32)
    for plane, into in zip(field, means, strict=True):
        # block by block: three times as fast as reduceat, which converts the whole plane first
        for first, height, line in zip(top, heights, sums, strict=True):
            np.add.reduce(plane[first : first + height], axis=0, dtype=sums.dtype, out=line)
        into[...] = np.add.reduceat(sums, left, axis=1) / np.outer(heights, widths)
    return means


def _grid_shape(shape: tuple[int, int], grid: int) -> tuple[int, int]:
    longer = max(shape)
    cells = min(grid, longer)
    tall, wide = (max(1, round(size * cells / longer)) for size in shape)
    return tall, wide


def _block_starts(size: int, blocks: int) -> Integer[np.ndarray, " block"]:
    return np.arange(blocks) * size // blocks


def fit_illumination(fields: Float32[np.ndarray, "site channel gy gx"]) -> Float32[np.ndarray, "channel gy gx"]:
    """Estimate the illumination function of a plate: how much light each place of the field gets.

    As Singh et al. (2014): all fields of a plate and channel are averaged, the average is smoothed at a large scale and
    rescaled as CellProfiler's CorrectIlluminationCalculate does. Here each field is first divided by its own median;
    the average is a percentile (`PERCENTILE`) of what all fields have within a square (`SQUARES`); the smoothing is a
    local quadratic regression with Gaussian weights (`SMOOTHING`; Cleveland & Devlin 1988).

    Parameters
    ----------
    fields
        Of one plate, shrunk by `shrink_field`. Better no fewer than `MIN_FIELDS`; any number is taken.

    Returns
    -------
    numpy.ndarray
        By what a field is divided: 1 where it is dark, less in the darkest 2 %, more elsewhere. A channel without
        fields, without light or with the same value everywhere gets ones, and a warning in the log unless it has no
        field.

    Notes
    -----
    Departures from Singh et al., who take the mean of all fields and a median filter: bright cells and debris print
    through a mean, and a wide median filter is flat at the borders, where light falls most; so would be the darkest
    2 %, which CellProfiler raises to 1 (``docs/explanation/illumination.md`` has the figures). A constant that the
    camera adds is not taken off: without an image taken in the dark it cannot be told from faint light. 0.3 s for 400
    fields of three channels.

    References
    ----------
    Singh et al. 2014, doi:10.1111/jmi.12178. Cleveland & Devlin 1988, doi:10.1080/01621459.1988.10478639.

    Examples
    --------
    >>> light = np.linspace(1, 2, 64, dtype=np.float32)
    >>> fields = np.broadcast_to(300 * light, (30, 1, 48, 64)).astype(np.float32)
    >>> function = fit_illumination(fields)[0, 0]
    >>> round(float(function[0]), 2), round(float(function[-1]), 2)
    (0.98, 1.98)
    """
    channels, tall, wide = fields.shape[1:]
    function = np.ones((channels, tall, wide), dtype=np.float32)
    deviation = SMOOTHING * max(tall, wide)
    squares = _grid_shape((tall, wide), SQUARES)
    rows, columns = _block_starts(tall, squares[0]), _block_starts(wide, squares[1])
    down, across = _smoothing_matrix(rows, tall, deviation), _smoothing_matrix(columns, wide, deviation)
    for channel in range(channels if len(fields) else 0):
        pooled = _pool_fields(fields[:, channel], rows, columns)
        if pooled is None:
            logger.warning(
                "channel %d of %d: no light to estimate an illumination function from (half of each field is dark, or "
                "all of it the same). It is left as it is.",
                channel + 1,
                channels,
            )
        else:
            function[channel] = _rescale(down @ pooled @ across.T)
    return function


def _pool_fields(
    fields: Float32[np.ndarray, "site gy gx"],
    rows: Integer[np.ndarray, " sy"],
    columns: Integer[np.ndarray, " sx"],
) -> Float[np.ndarray, "sy sx"] | None:
    """Average all fields square by square, so that bright things do not count; None where there is nothing to be seen.

    Where there are few fields, a percentile of single blocks jumps between background and cells; of a square it does
    so less.
    """
    medians = np.median(fields, axis=(1, 2))
    lit = np.isfinite(medians) & (medians > 0)
    if not lit.any():
        return None
    scaled = fields[lit] / medians[lit, None, None]
    pooled = np.array(
        [
            [np.percentile(square, PERCENTILE) for square in np.split(strip, columns[1:], axis=2)]
            for strip in np.split(scaled, rows[1:], axis=1)
        ]
    )
    return pooled if 0 < pooled.max() != pooled.min() else None


def _smoothing_matrix(
    starts: Integer[np.ndarray, " square"], size: int, deviation: float
) -> Float[np.ndarray, "size square"]:
    """Return the matrix that fits a parabola around each block, weighted by a Gaussian, and takes its value there.

    Once along rows and once along columns it is the regression in the plane: the weights are a product. Unlike an
    average or a median over a window, a parabola has no pull towards the middle at the borders.
    """
    middles = _find_middles(starts, size)
    degree = min(2, len(starts) - 1)
    matrix = np.empty((size, len(starts)))
    for block in range(size):
        distance = (middles - block) / deviation
        terms = distance[:, None] ** np.arange(degree + 1)
        weighted = terms * np.exp(-(distance**2) / 2)[:, None]
        matrix[block] = np.linalg.solve(terms.T @ weighted, weighted.T)[0]
    return matrix


def _find_middles(starts: Integer[np.ndarray, " block"], size: int) -> Float[np.ndarray, " block"]:
    middles: np.ndarray = (starts + np.append(starts[1:], size) - 1) / 2
    return middles


def _rescale(function: Float[np.ndarray, "gy gx"]) -> Float32[np.ndarray, "gy gx"]:
    """Divide by a minimum that does not hang on a corner: it is 1 or more but for the darkest few places.

    CellProfiler raises these to 1; under a vignette they are the corners, which would stay dark.
    """
    positive = np.sort(function[function > 0])
    smallest = positive[int(len(positive) * DARKEST)]
    rescaled: np.ndarray = np.maximum(function / smallest, FLOOR).astype(np.float32)
    return rescaled


def expand_illumination(
    function: Float32[np.ndarray, "channel gy gx"], shape: tuple[int, int]
) -> Float32[np.ndarray, "channel row column"]:
    """Bring a function from its grid to the size of the field, by lines between the middles of blocks.

    Parameters
    ----------
    function
        On the grid that `shrink_field` makes of a field of this size.
    shape
        Rows and columns of the field. Beyond the outermost middles the nearest line goes on as a constant.
    """
    tall, wide = function.shape[1:]
    # 1,024 x 1,280 x 3 takes some 20 to 70 ms, once a plate
    down, across = _interpolation_matrix(shape[0], tall), _interpolation_matrix(shape[1], wide)
    return np.ascontiguousarray(down @ function @ across.T)


def _interpolation_matrix(size: int, blocks: int) -> Float32[np.ndarray, "size blocks"]:
    middles = _find_middles(_block_starts(size, blocks), size)
    lines = [np.interp(np.arange(size), middles, unit) for unit in np.eye(blocks)]
    return np.stack(lines, axis=1).astype(np.float32)


def correct_field(
    field: UInt[np.ndarray, "channel row column"], illumination: Float32[np.ndarray, "channel row column"]
) -> UInt[np.ndarray, "channel row column"]:
    """Divide the light out: what the field would be where the light is everywhere as where it is dark.

    Parameters
    ----------
    field
        One site.
    illumination
        Of the field's size, positive.

    Returns
    -------
    numpy.ndarray
        Of the field's type, rounded (halves to even); where the function is below 1, cut off at the type's largest
        value.
    """
    largest = np.iinfo(field.dtype).max
    corrected = np.empty_like(field)
    # Plane by plane: what is computed stays in the processor's cache.
    quotient = np.empty(field.shape[1:], dtype=np.float32)
    for plane, light, into in zip(field, illumination, corrected, strict=True):
        np.divide(plane, light, out=quotient, dtype=np.float32, casting="unsafe")
        np.rint(quotient, out=quotient)
        np.minimum(quotient, largest, out=quotient)
        np.copyto(into, quotient, casting="unsafe")
    return corrected


def read_illumination(paths: Mapping[str, str], shape: tuple[int, int]) -> Float32[np.ndarray, "channel row column"]:
    """Read the illumination functions that a screen brings along.

    Parameters
    ----------
    paths
        By channel: a path or URL of a NumPy array (``.npy``, as in the Cell Painting Gallery) or a TIFF of one plane.
    shape
        Rows and columns of the fields they are for.

    Returns
    -------
    numpy.ndarray
        The functions as they are: CellProfiler has rescaled its own, and to do so again would give other intensities
        than their authors measured. Where the smallest value is far from 1, the log says so.

    Raises
    ------
    DataError
        A file is missing, is neither, has not the field's size, or holds values that are not finite and positive.
    """
    functions = [_read_function(channel, path, shape) for channel, path in paths.items()]
    for (channel, path), function in zip(paths.items(), functions, strict=True):
        smallest = float(function.min())
        if abs(smallest - 1) > FAR_FROM_ONE:
            logger.warning(
                "%s: the illumination function of %s is %.3g where it is smallest; CellProfiler's are 1 there. "
                "It is divided by as it is: intensities change by that factor.",
                path,
                channel,
                smallest,
            )
    return np.stack(functions)


def _read_function(channel: str, path: str, shape: tuple[int, int]) -> Float32[np.ndarray, "row column"]:
    function = _decode(path, read_bytes(path))
    if function.shape != tuple(shape):
        raise DataError(
            f"{path}: the illumination function of {channel} is {function.shape}, but the field is {tuple(shape)} "
            "(rows, columns). Expected one of the field's size, made from these images.",
            code="IMG012",
        )
    # a number too large for 32 bit becomes infinite, and is refused as such
    with np.errstate(over="ignore"):
        function = np.asarray(function, dtype=np.float32)
    wrong = ~(np.isfinite(function) & (function > 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: the illumination function of {channel} has {int(wrong.sum()):,} of {wrong.size:,} values that "
            f"are not finite and positive, first {function[row, column]:g} in row {row}, column {column}. Expected "
            "numbers to divide by.",
            code="IMG012",
        )
    return function


def _decode(path: str, content: bytes) -> np.ndarray:
    """Read an array by what the file's first bytes say it is."""
    try:
        if content.startswith(b"\x93NUMPY"):
            array = read_npy(io.BytesIO(content), len(content))
        elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            array = _read_tiff(content, path)
        else:
            raise ValueError("neither .npy nor TIFF")
    except (*UNREADABLE, *BROKEN) as error:
        raise DataError(
            f"{path}: not a readable illumination function ({str(error).splitlines()[0] if str(error) else error!r}). "
            "Expected a NumPy array (.npy) or a TIFF of one plane.",
            code="IMG012",
        ) from None
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {array.dtype}. Expected an illumination function of numbers.", code="IMG012")
    decoded: np.ndarray = array
    return decoded


def _read_tiff(content: bytes, path: str) -> np.ndarray:
    # without _multifile=False the XML of one file could make us open others
    with tifffile.TiffFile(io.BytesIO(content), _multifile=False) as tiff:
        refuse_entities(tiff.pages.first.description, path)
        shape = tiff.series[0].shape
        if not 0 < math.prod(shape) <= MAX_PIXELS:
            raise ValueError(f"it says it has {shape} pixels")
        return np.asarray(tiff.asarray())
