"""What may be wrong with a crop: nothing in it, out of focus, saturated."""

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt
from scipy import ndimage

__all__ = ["flag_crops", "measure_quality"]

#: Crops measured at a time: their numbers stay in the processor's cache.
_CROPS_AT_ONCE = 64
#: Smoothing (px) before slopes are taken.
_SIGMA_PX = 1.0
#: The steepest slope, and what is dark and what bright: percentiles, since single pixels are noise.
_STEEPEST, _DARK, _BRIGHT = 98.0, 10.0, 99.5
#: Brightness that a slope is compared with at least, as part of the rise: beneath it the noise would be steep.
_OWN_LEAST = 1 / 3
#: From dark to bright, smoothed noise alone rises by 4 of its standard deviations: what rises less than this is empty.
_NOISE_RISE = 8.0


def measure_quality(
    crops: UInt[np.ndarray, "cell channel height width"], *, channel: int, largest: int
) -> pd.DataFrame:
    """Measure how sharp, how saturated and how bright crops are.

    ``Quality_Focus``
        The steepest slope in the middle of the nuclei channel, as part of the brightness above the dark where it
        is, per pixel: the inverse of how many pixels an edge is wide. The middle is half as wide as the crop; it is
        smoothed by 1 px; dark is its 10th percentile; to the brightness is added a third of the rise from there to
        the 99.5th; the 98th percentile of these ratios is taken. Empty where nothing rises above the noise.
    ``Quality_Saturation``
        The share of pixels with the camera's largest number, in the channel where it is largest.
    ``Quality_Intensity``
        Mean of the middle of the nuclei channel (a quarter as wide as the crop) above the 5th percentile of the crop's
        border, in the camera's numbers: neighbours on the border do not change it.

    Parameters
    ----------
    crops
        As the camera gave them.
    channel
        Number of the channel of nuclei.
    largest
        The largest number that the camera gives.

    Returns
    -------
    pandas.DataFrame
        A row a crop.

    Notes
    -----
    Neither the stain's brightness nor the background changes the focus, nor the size of the nucleus. The variance of
    the Laplacian changes with all three, and the slope of the logarithm of the power spectrum, which was made for
    whole fields, takes the noise of a dim crop for sharpness. 64x64 pixels of three channels take 30 µs.

    References
    ----------
    Bray et al. 2012 (measures of focus in screens), doi:10.1177/1087057111420292; Pertuz et al. 2013 (those measures
    compared), doi:10.1016/j.patcog.2012.11.011.
    """
    starts = range(0, len(crops), _CROPS_AT_ONCE)
    parts = [crops[start : start + _CROPS_AT_ONCE] for start in starts]
    measures = {
        "Quality_Focus": [_measure_focus(part[:, channel]) for part in parts],
        "Quality_Saturation": [_measure_saturation(part, largest) for part in parts],
        "Quality_Intensity": [_measure_intensity(part[:, channel]) for part in parts],
    }
    nothing = [np.empty(0, dtype=np.float32)]
    return pd.DataFrame({name: np.concatenate(nothing + values) for name, values in measures.items()})


def flag_crops(
    quality: pd.DataFrame,
    *,
    empty_below: float = 0.1,
    unsharp_below: float = 0.55,
    saturated_above: float = 0.01,
    deviations: float = 2.5,
) -> pd.Series:
    """Tell what is wrong with crops, measured against the other crops of their plate.

    ``empty``: nothing in the middle rises above the noise, or the intensity is a small part of the plate's median.
    ``out-of-focus``: the focus is both a small part of the plate's median and further below it than sharp crops lie
    (on the logarithm, in standard deviations, by the median absolute deviation); an empty crop is none.
    ``saturated``: too many pixels have the camera's largest number.

    Where all crops are good none is flagged, though one must be the worst.

    Parameters
    ----------
    quality
        As `measure_quality` returns it, of all crops of a plate. A row without any number, as of crops that were never
        measured, is not flagged.
    empty_below, unsharp_below
        Parts of the median of the plate's crops that are not empty.
    saturated_above
        Share of a channel's pixels.
    deviations
        How many standard deviations below the median.

    Returns
    -------
    pandas.Series
        Texts, in the order and with the index of the table: "", "empty", "out-of-focus", "saturated", joined by +.

    Notes
    -----
    A plate that is out of focus as a whole is its own measure, and has no flags: compare the plates' medians.

    Examples
    --------
    >>> quality = pd.DataFrame({"Quality_Focus": [0.2, 0.2, 0.05, 0.2, np.nan], "Quality_Saturation": [0, 0, 0, 0.1, 0],
    ...     "Quality_Intensity": [900.0, 1100.0, 1000.0, 1000.0, 2.0]})
    >>> flag_crops(quality).to_list()
    ['', '', 'out-of-focus', 'saturated', 'empty']
    """
    intensity, focus = quality["Quality_Intensity"], quality["Quality_Focus"]
    is_empty = focus.isna() & intensity.notna()
    is_empty |= intensity < empty_below * intensity[~is_empty].dropna().median()
    flagged = {
        "empty": is_empty,
        "out-of-focus": _is_far_below(focus.mask(is_empty), unsharp_below, deviations),
        "saturated": quality["Quality_Saturation"] > saturated_above,
    }
    texts = pd.Series("", index=quality.index, dtype="object")
    for name, wrong in flagged.items():
        texts[wrong] = texts[wrong].map(lambda text, name=name: f"{text}+{name}" if text else name)
    return texts


def _is_far_below(values: pd.Series, part: float, deviations: float) -> pd.Series:
    """Tell which values are both a small part of the median and outliers on the logarithm."""
    below = np.log(values.clip(lower=1e-30) / values.dropna().median())
    spread = 1.4826 * below.abs().dropna().median()
    wrong: pd.Series = (below < np.log(part)) & (below < -deviations * spread)
    return wrong


def _measure_focus(planes: UInt[np.ndarray, "cell height width"]) -> Float32[np.ndarray, " cell"]:
    middle = _take_middle(planes, 0.5).astype(np.float32)
    smooth = ndimage.gaussian_filter(middle, (0.0, _SIGMA_PX, _SIGMA_PX), truncate=3.0)
    dark, bright = (level[:, None, None] for level in _find_levels(smooth, (_DARK, _BRIGHT)))
    rise = bright - dark
    across = smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]
    down = smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]
    slopes = np.sqrt(across**2 + down**2) / 2
    # a nucleus beside a brighter one has its own edges: each slope is part of the brightness where it is
    own = np.maximum(smooth[:, 1:-1, 1:-1] - dark, 0.0) + _OWN_LEAST * rise
    relative = np.divide(slopes, own, out=np.zeros_like(slopes), where=own > 0)
    focus: np.ndarray = _find_levels(relative, (_STEEPEST,))[0]
    focus[rise[:, 0, 0] <= _NOISE_RISE * _measure_noise(middle)] = np.nan
    return focus


def _measure_noise(middle: Float32[np.ndarray, "cell height width"]) -> Float32[np.ndarray, " cell"]:
    """Measure what is left of the noise after smoothing, by the differences of neighbours."""
    differences = np.abs(middle[:, ::2, 1:] - middle[:, ::2, :-1])
    of_pixels = 1.4826 / np.sqrt(2) * _find_levels(differences, (50.0,))[0]
    noise: np.ndarray = of_pixels / (2 * np.sqrt(np.pi) * _SIGMA_PX)
    return noise.astype(np.float32)


def _find_levels(
    values: Float32[np.ndarray, "cell height width"], percentiles: tuple[float, ...]
) -> list[Float32[np.ndarray, " cell"]]:
    """Find percentiles of each crop's pixels, the nearest pixel below: numpy's own way takes twice as long."""
    flat = values.reshape(len(values), -1)
    ranks = [int(percent / 100 * (flat.shape[1] - 1)) for percent in percentiles]
    ordered = np.partition(flat, ranks, axis=1)
    return [ordered[:, rank].copy() for rank in ranks]


def _measure_saturation(
    crops: UInt[np.ndarray, "cell channel height width"], largest: int
) -> Float32[np.ndarray, " cell"]:
    shares: np.ndarray = (crops >= largest).mean(axis=(2, 3), dtype=np.float32).max(axis=1)
    return shares


def _measure_intensity(planes: UInt[np.ndarray, "cell height width"]) -> Float32[np.ndarray, " cell"]:
    border = np.concatenate([planes[:, 0], planes[:, -1], planes[:, 1:-1, 0], planes[:, 1:-1, -1]], axis=1)
    middle = _take_middle(planes, 0.25).mean(axis=(1, 2))
    above: np.ndarray = middle - np.percentile(border, 5.0, axis=1)
    return above.astype(np.float32)


def _take_middle(
    planes: UInt[np.ndarray, "cell height width"], part: float
) -> UInt[np.ndarray, "cell middle_height middle_width"]:
    """Cut out the middle, a part as wide and high as the crop, but 3 px at least."""
    starts = [max(0, min(round(length * (1 - part) / 2), (length - 3) // 2)) for length in planes.shape[1:]]
    rows, columns = (slice(start, length - start) for start, length in zip(starts, planes.shape[1:], strict=True))
    return planes[:, rows, columns]
