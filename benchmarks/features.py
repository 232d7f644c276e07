"""Hand-made features of single-cell crops, in the manner of CellProfiler: what an encoder is measured against.

They are not CellProfiler's own: a crop is all that is seen, so the cell is the crop, and its nucleus what Otsu's
threshold finds nearest to the middle. Of the kinds that CellProfiler measures they have those that make up most of
its tables: size and shape, intensity and its distribution, texture, granularity, correlation of channels.

Used by ``quality.py`` and ``real.py``; not a command.
"""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

from cytoclr.data.crops import CropStore, scale_crops
from cytoclr.data.stage import choose_nuclei_channel

__all__ = ["describe_cells", "find_nucleus", "measure_cooccurrence", "measure_features"]

SHAPES = {
    "Area": "area",
    "Perimeter": "perimeter",
    "Eccentricity": "eccentricity",
    "Solidity": "solidity",
    "Extent": "extent",
    "MajorAxisLength": "axis_major_length",
    "MinorAxisLength": "axis_minor_length",
}
PERCENTILES = (10, 50, 90)
NUM_RINGS = 4
#: Grey levels of a co-occurrence matrix, and the distances (px) at which pixels are paired.
LEVELS, DISTANCES = 16, (1, 4)
#: Widths (s.d., px) of the Gaussians whose differences tell how coarse the grain is.
WIDTHS_PX = (0.0, 1.0, 2.0, 4.0, 8.0)
#: An object of fewer pixels is no nucleus.
LEAST_AREA_PX = 20
TINY = 1e-9


def measure_features(crops: CropStore, cells: pd.DataFrame, *, block_cells: int = 512) -> pd.DataFrame:
    """Describe each crop by some hundred features: the cells' ``Metadata_`` columns and ``Cells_…``.

    Intensities are scaled as the encoder sees them before its square root: 0 and 1 are the plate's percentiles. No
    value is missing: where no nucleus is found, a disc in the middle stands for it.
    """
    nuclei = crops.channels.index(choose_nuclei_channel(crops.channels, crops.stains))
    blocks = []
    for start in range(0, len(crops), block_cells):
        rows = np.arange(start, min(start + block_cells, len(crops)))
        blocks.append(describe_cells(crops.read(rows), *crops.read_ranges(rows), crops.channels, nuclei=nuclei))
    return pd.concat(
        [cells.filter(like="Metadata_").reset_index(drop=True), pd.concat(blocks, ignore_index=True)], axis=1
    )


def describe_cells(
    crops: UInt[np.ndarray, "cell channel height width"],
    low: Float[np.ndarray, "cell channel"],
    high: Float[np.ndarray, "cell channel"],
    channels: Sequence[str],
    *,
    nuclei: int,
) -> pd.DataFrame:
    """Measure all features of some crops; `nuclei` is the number of the channel that shows nuclei."""
    pixels = scale_crops(crops, low, high)
    smooth = ndimage.gaussian_filter(pixels[:, nuclei], (0, 1, 1))
    found = [find_nucleus(plane) for plane in smooth]
    masks = np.stack([mask for mask, _ in found])
    columns: dict[str, np.ndarray] = {"Objects_Count": np.array([count for _, count in found])}
    columns |= _measure_shapes(masks)
    for number, channel in enumerate(channels):
        plane = pixels[:, number]
        parts = itertools.chain(
            _measure_intensities(plane, masks),
            _measure_rings(plane, masks),
            _measure_textures(plane),
            _measure_grain(plane),
        )
        columns |= {f"{name}_{channel}": values for name, values in parts}
    columns |= _correlate_channels(pixels, masks, channels)
    return pd.DataFrame({f"Cells_{name}": np.asarray(values, dtype=np.float32) for name, values in columns.items()})


def find_nucleus(plane: Float[np.ndarray, "height width"]) -> tuple[Bool[np.ndarray, "height width"], int]:
    """Return the mask of the object nearest to the middle above Otsu's threshold, and how many objects there are."""
    rows, columns = np.indices(plane.shape)
    middle = np.hypot(rows - (plane.shape[0] - 1) / 2, columns - (plane.shape[1] - 1) / 2)
    labels, num_objects = np.zeros(plane.shape, dtype=int), 0
    if plane.max() > plane.min():
        labels, num_objects = ndimage.label(plane > threshold_otsu(plane))
    areas = np.bincount(labels.ravel(), minlength=num_objects + 1)
    large = np.flatnonzero(areas >= LEAST_AREA_PX)
    large = large[large > 0]
    if not len(large):
        return middle <= min(plane.shape) / 6, 0
    nearest = large[int(np.argmin(ndimage.minimum(middle, labels, large)))]
    return ndimage.binary_fill_holes(labels == nearest), len(large)


def _measure_shapes(masks: Bool[np.ndarray, "cell height width"]) -> Mapping[str, np.ndarray]:
    shapes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a nucleus of one line has no hull
        for mask in masks:
            region = regionprops(mask.astype(np.uint8))[0]
            shapes.append([float(getattr(region, name)) for name in SHAPES.values()])
    table = np.array(shapes)
    columns = {f"AreaShape_{name}": table[:, number] for number, name in enumerate(SHAPES)}
    columns["AreaShape_FormFactor"] = 4 * np.pi * table[:, 0] / np.maximum(table[:, 1], 1.0) ** 2
    return columns


def _measure_intensities(
    plane: Float[np.ndarray, "cell height width"], masks: Bool[np.ndarray, "cell height width"]
) -> Iterator[tuple[str, np.ndarray]]:
    """Mean, s.d. and percentiles, within the nucleus and of the whole crop."""
    within = np.where(masks, plane, np.nan).reshape(len(plane), -1)
    for place, values in (("Nucleus", within), ("Crop", plane.reshape(len(plane), -1))):
        yield f"Intensity_Mean_{place}", np.nanmean(values, axis=1)
        yield f"Intensity_Std_{place}", np.nanstd(values, axis=1)
        for percent, row in zip(PERCENTILES, np.nanpercentile(values, PERCENTILES, axis=1), strict=True):
            yield f"Intensity_P{percent}_{place}", row


def _measure_rings(
    plane: Float[np.ndarray, "cell height width"], masks: Bool[np.ndarray, "cell height width"]
) -> Iterator[tuple[str, np.ndarray]]:
    """Mean in rings around the nucleus's centre, over the crop's mean."""
    rows, columns = np.indices(plane.shape[1:])
    areas = masks.sum(axis=(1, 2))
    centres = [(masks * axis).sum(axis=(1, 2)) / areas for axis in (rows, columns)]
    distances = np.hypot(rows - centres[0][:, None, None], columns - centres[1][:, None, None])
    numbers = np.minimum(distances / (plane.shape[1] / 2) * NUM_RINGS, NUM_RINGS - 0.5).astype(int)
    means = np.maximum(plane.mean(axis=(1, 2)), TINY)
    for ring in range(NUM_RINGS):
        inside = numbers == ring
        yield (
            f"RadialDistribution_{ring + 1}",
            (plane * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1) / means,
        )


def _measure_textures(plane: Float[np.ndarray, "cell height width"]) -> Iterator[tuple[str, np.ndarray]]:
    """Five of Haralick's features, each the mean over four directions."""
    grey = np.minimum(plane * LEVELS, LEVELS - 1).astype(np.int64)
    first, second = np.indices((LEVELS, LEVELS))
    for distance in DISTANCES:
        shares = measure_cooccurrence(grey, distance)
        mean = (shares * first).sum(axis=(1, 2))
        variance = (shares * first**2).sum(axis=(1, 2)) - mean**2
        product = (shares * first * second).sum(axis=(1, 2))
        # of an even grey any two pixels agree
        correlation = np.where(variance > TINY, (product - mean**2) / np.maximum(variance, TINY), 1.0)
        yield f"Texture_Contrast_{distance}", (shares * (first - second) ** 2).sum(axis=(1, 2))
        yield f"Texture_Homogeneity_{distance}", (shares / (1 + (first - second) ** 2)).sum(axis=(1, 2))
        yield f"Texture_AngularSecondMoment_{distance}", (shares**2).sum(axis=(1, 2))
        yield f"Texture_Entropy_{distance}", -(shares * np.log2(np.maximum(shares, TINY))).sum(axis=(1, 2))
        yield f"Texture_Correlation_{distance}", correlation


def measure_cooccurrence(
    grey: Int[np.ndarray, "cell height width"], distance: int
) -> Float[np.ndarray, "cell level level"]:
    """Shares of pairs of grey levels at a distance, over four directions and both orders (Haralick et al. 1973)."""
    num_cells, height, width = grey.shape
    counts = np.zeros((num_cells, LEVELS, LEVELS))
    offsets = np.arange(num_cells)[:, None, None] * LEVELS**2
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        down, right = down * distance, right * distance
        one = grey[:, : height - down, max(-right, 0) : width - max(right, 0)]
        other = grey[:, down:, max(right, 0) : width + min(right, 0)]
        pairs = np.bincount((offsets + one * LEVELS + other).ravel(), minlength=num_cells * LEVELS**2)
        counts += pairs.reshape(counts.shape)
    counts += counts.transpose(0, 2, 1)
    shares: np.ndarray = counts / counts.sum(axis=(1, 2), keepdims=True)
    return shares


def _measure_grain(plane: Float[np.ndarray, "cell height width"]) -> Iterator[tuple[str, np.ndarray]]:
    """S.d. of differences of Gaussians, over the crop's s.d."""
    spread = np.maximum(plane.std(axis=(1, 2)), TINY)
    finer = plane
    for finer_px, coarser_px in itertools.pairwise(WIDTHS_PX):
        # a Gaussian of a Gaussian: variances add up
        step = float(np.sqrt(coarser_px**2 - finer_px**2))
        coarser = ndimage.gaussian_filter(finer, (0, step, step))
        yield f"Granularity_{coarser_px:g}", (finer - coarser).std(axis=(1, 2)) / spread
        finer = coarser


def _correlate_channels(
    pixels: Float[np.ndarray, "cell channel height width"],
    masks: Bool[np.ndarray, "cell height width"],
    channels: Sequence[str],
) -> Mapping[str, np.ndarray]:
    """Pearson's correlation of each two channels, within the nucleus and of the whole crop."""
    columns = {}
    for place, weights in (("Nucleus", masks.astype(float)), ("Crop", np.ones(masks.shape))):
        total = weights.sum(axis=(1, 2))
        mean = (pixels * weights[:, None]).sum(axis=(2, 3)) / total[:, None]
        centred = (pixels - mean[..., None, None]) * np.sqrt(weights)[:, None]
        covariance = np.einsum("nahw,nbhw->nab", centred, centred, optimize=True)
        for first, second in itertools.combinations(range(len(channels)), 2):
            scale = np.sqrt(covariance[:, first, first] * covariance[:, second, second])
            values = covariance[:, first, second] / np.maximum(scale, TINY)
            columns[f"Correlation_{place}_{channels[first]}_{channels[second]}"] = values
    return columns
