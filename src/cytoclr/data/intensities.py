"""Plain intensities of every crop: the baseline that an encoder must beat."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import UInt

from cytoclr.data.crops import CropStore
from cytoclr.progress import Progress, Silent

__all__ = ["measure_intensities", "summarise_pixels"]

PERCENTILES = (5, 25, 50, 75, 95)


def measure_intensities(
    crops: CropStore, cells: pd.DataFrame, *, block_cells: int = 1024, progress: Progress | None = None
) -> pd.DataFrame:
    """Describe each crop by the mean, the standard deviation and five percentiles of each channel, in raw values.

    Parameters
    ----------
    crops, cells
        The crops, and their table in the same order.
    block_cells
        Crops in memory at a time.

    Returns
    -------
    pandas.DataFrame
        The cells' metadata and ``Cells_Intensity_<what>_<channel>``, in camera units: an embedding table.
    """
    progress = progress or Silent()
    blocks = []
    progress.start("intensities", len(crops), "cells")
    for start in range(0, len(crops), block_cells):
        rows = np.arange(start, min(start + block_cells, len(crops)))
        blocks.append(summarise_pixels(crops.read(rows), crops.channels))
        progress.advance(len(rows))
    progress.finish()
    metadata = cells.filter(like="Metadata_").reset_index(drop=True)
    return pd.concat([metadata, pd.concat(blocks, ignore_index=True)], axis=1)


def summarise_pixels(crops: UInt[np.ndarray, "cell channel height width"], channels: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and percentiles of the pixels, a row a crop."""
    pixels = crops.reshape(*crops.shape[:2], -1).astype(np.float32)
    measures = {"Mean": pixels.mean(axis=2), "Std": pixels.std(axis=2)}
    for percent, values in zip(PERCENTILES, np.percentile(pixels, PERCENTILES, axis=2), strict=True):
        measures[f"P{percent:02d}"] = values.astype(np.float32)
    return pd.DataFrame(
        {
            f"Cells_Intensity_{name}_{channel}": values[:, index]
            for name, values in measures.items()
            for index, channel in enumerate(channels)
        }
    )
