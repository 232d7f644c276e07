"""The intensity rule: which raw values become 0 and 1, counted exactly in flat memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer, Num, UInt

from cytoclr.errors import DataError, SettingsError

__all__ = ["IntensityRule", "add_counts", "count_values", "find_largest", "find_percentiles", "scale_to_bytes"]

Range = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class IntensityRule:
    """What becomes 0 and 1 of raw values, per channel.

    ``plate-percentile``: two percentiles of the plate's pixels; ``field-percentile`` and ``crop-percentile``: of the
    field's, of the crop's; ``full-range``: nought and the camera's largest value; ``fixed``: `ranges`, by channel.
    """

    rule: Literal["plate-percentile", "full-range", "fixed", "field-percentile", "crop-percentile"]
    percentiles: tuple[float, float]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def check_channels(self, channels: Sequence[str]) -> None:
        """Refuse fixed ranges that are not those of the channels.

        Raises
        ------
        SettingsError
            A channel has no range, an empty one, or a range has no channel.
        """
        if self.rule != "fixed":
            return
        differing = sorted(set(channels) ^ set(self.ranges))
        if differing:
            raise SettingsError(
                f"crop.ranges has {', '.join(self.ranges) or 'nothing'}; the screen's channels are "
                f"{', '.join(channels)}. Expected a range for each, as {{{channels[0]}: [100, 4000]}}.",
                code="CHAN002",
            )
        for channel, (low, high) in self.ranges.items():
            if low >= high:
                raise SettingsError(f"crop.ranges: {channel} from {low:g} to {high:g}. Expected the lower value first.")

    def find_fixed(self, channels: Sequence[str], largest: int) -> Range | None:
        """Return the range that no pixel decides; None where pixels do."""
        if self.rule == "full-range":
            return (0.0,) * len(channels), (float(largest),) * len(channels)
        if self.rule == "fixed":
            low, high = zip(*(self.ranges[channel] for channel in channels), strict=True)
            return tuple(map(float, low)), tuple(map(float, high))
        return None

    def find_ranges(self, counts: Integer[np.ndarray, "channel value"]) -> Range:
        """Return the two percentiles of counted pixels; a channel that is constant gets a range of 1."""
        low, high = find_percentiles(counts, self.percentiles)
        return tuple(map(float, low)), tuple(map(float, np.maximum(high, low + 1)))


def find_largest(dtype: np.dtype, bit_depth: int | None) -> int:
    """Find the largest number that the camera gives.

    Raises
    ------
    DataError
        The depth that was told is more than the images hold.
    """
    stored = 8 * dtype.itemsize
    if bit_depth is not None and bit_depth > stored:
        raise DataError(
            f"screen.bit_depth is {bit_depth}; the images hold {stored} bit. Expected at most that.", code="IMG010"
        )
    return int(2 ** (bit_depth or stored) - 1)


def count_values(pixels: UInt[np.ndarray, "channel pixel"]) -> Integer[np.ndarray, "channel value"]:
    """Count how often each value stands in each channel, up to the largest that does."""
    length = int(pixels.max(initial=0)) + 1
    return np.stack([np.bincount(values, minlength=length) for values in pixels])


def add_counts(
    first: Integer[np.ndarray, "channel first"], second: Integer[np.ndarray, "channel second"]
) -> Integer[np.ndarray, "channel value"]:
    """Add two tables of counts, of different length perhaps."""
    longer, shorter = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    together = longer.astype(np.int64)
    together[:, : shorter.shape[1]] += shorter
    return together


def find_percentiles(
    counts: Integer[np.ndarray, "channel value"], percentiles: tuple[float, float]
) -> Float[np.ndarray, "2 channel"]:
    """Find percentiles of counted values, as `numpy.percentile` (linear) does of the values themselves; 0 of none."""
    found = np.zeros((2, len(counts)))
    for channel, of_channel in enumerate(counts):
        ends = np.cumsum(of_channel)
        if ends[-1] == 0:
            continue
        places = np.asarray(percentiles) / 100 * (ends[-1] - 1)
        below, above = (np.searchsorted(ends, rounded(places), side="right") for rounded in (np.floor, np.ceil))
        found[:, channel] = below + (above - below) * (places - np.floor(places))
    return found


def scale_to_bytes(
    crops: Num[np.ndarray, "cell channel height width"],
    low: Float[np.ndarray, "cell channel"],
    high: Float[np.ndarray, "cell channel"],
) -> UInt[np.ndarray, "cell channel height width"]:
    """Store 0..1 as 0..255: `low` and below become 0, `high` and above 255."""
    low, high = (values.astype(np.float32)[..., None, None] for values in (low, high))
    scaled = (crops.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
