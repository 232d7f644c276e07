"""Provisional."""

import numpy as np
import pandas as pd
from jaxtyping import UInt

__all__ = ["flag_crops", "measure_quality"]


def measure_quality(
    crops: UInt[np.ndarray, "cell channel height width"], *, channel: int, largest: int
) -> pd.DataFrame:
    """Measure."""
    saturated = (crops >= largest).mean(axis=(2, 3)).max(axis=1) if len(crops) else np.empty(0)
    return pd.DataFrame(
        {
            "Quality_Focus": crops[:, channel].std(axis=(1, 2)) if len(crops) else np.empty(0),
            "Quality_Saturation": saturated,
            "Quality_Intensity": crops[:, channel].mean(axis=(1, 2)) if len(crops) else np.empty(0),
        }
    ).astype("float64")


def flag_crops(quality: pd.DataFrame) -> pd.Series:
    """Flag."""
    return pd.Series("", index=quality.index, dtype="str")
