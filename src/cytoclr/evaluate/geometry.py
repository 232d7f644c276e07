"""The shape of a cloud of profiles: how many dimensions it fills, how near replicates lie, how evenly it spreads."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cytoclr.evaluate.similarity import group_rows, order_wells, scale_profiles
from cytoclr.tables import TREATMENT, feature_matrix, is_control

__all__ = ["describe_geometry"]

BLOCK_ROWS = 512


def describe_geometry(wells: pd.DataFrame, *, max_wells: int = 4096) -> dict[str, Any]:
    """Describe the cloud of well profiles without any mechanism: a collapsed encoder shows here first.

    With the singular values s of the centred features (each feature's mean taken off): the effective rank is the
    exponential of the entropy of s / sum(s) (RankMe, Garrido et al. 2023, who do not centre; without it the common
    mean of all profiles would count as a dimension), and the participation ratio sum(s²)² / sum(s⁴). Both are 1 for a
    line and the number of features for a ball. With the profiles scaled to length one: alignment is the squared
    distance between two wells of a treatment, mean over its pairs, then over treatments (0 to 4, low is good);
    uniformity the logarithm of the mean over all pairs of wells of exp(-2 × squared distance) (-8 to 0, low is even)
    (Wang and Isola 2020). A profile of length nought stays at the origin.

    Parameters
    ----------
    wells
        Profiles, normalised or not: the columns of `WELL_PROFILES` and features.
    max_wells
        Of more wells, so many take part in all but the alignment: evenly spaced in the order of plate and well.

    Returns
    -------
    ``effective_rank``, ``participation_ratio``: None if all profiles are the same; ``alignment``: None if no treatment
    has two wells; ``uniformity``: None with fewer than two wells; ``num_features``; ``num_wells``, used of all but the
    alignment; ``num_treatments``, with replicates. Controls count as wells, but not as replicates.

    Raises
    ------
    DataError
        The table is not as declared, or a feature is empty or infinite somewhere.

    Notes
    -----
    Neither rank can exceed the number of wells less one: compare clouds of as many wells. Time grows as wells² ×
    features.

    References
    ----------
    arXiv:2210.02885 (Garrido et al. 2023), arXiv:2005.10242 (Wang and Isola 2020).
    """
    wells = order_wells(wells)
    features = feature_matrix(wells)
    directions = scale_profiles(features)
    treated = np.flatnonzero(~is_control(wells).to_numpy())
    groups = group_rows(wells.iloc[treated].groupby(TREATMENT, sort=True).ngroup().to_numpy())
    replicates = [treated[rows] for rows in groups if len(rows) > 1]
    count = min(len(wells), max_wells)
    kept = np.arange(count) * len(wells) // count  # evenly spaced, without a draw
    effective_rank, participation_ratio = _count_dimensions(features[kept])
    return {
        "effective_rank": effective_rank,
        "participation_ratio": participation_ratio,
        "num_features": features.shape[1],
        "alignment": _measure_alignment(directions, replicates),
        "uniformity": _measure_uniformity(directions[kept]),
        "num_wells": count,
        "num_treatments": len(replicates),
    }


def _count_dimensions(features: Float[np.ndarray, "well feature"]) -> tuple[float, float] | tuple[None, None]:
    centred = features - features.mean(axis=0)
    if np.abs(centred).max() <= 1e-12 * np.abs(features).max():  # nothing but rounding is left
        return None, None
    values = np.linalg.svd(centred / np.abs(centred).max(), compute_uv=False)
    shares = values / values.sum()
    entropy = -float(np.sum(shares * np.log(np.where(shares > 0, shares, 1.0))))
    return float(np.exp(entropy)), float(np.sum(values**2) ** 2 / np.sum(values**4))


def _measure_alignment(
    directions: Float[np.ndarray, "well feature"], groups: list[Int[np.ndarray, " _replicate"]]
) -> float | None:
    """Mean over groups of the mean squared distance between two members, which sums give without the pairs."""
    if not groups:
        return None
    means = []
    for rows in groups:
        members, count = directions[rows], len(rows)
        pairs_apart = count * np.sum(members**2) - np.sum(members.sum(axis=0) ** 2)
        means.append(max(float(pairs_apart), 0.0) / (count * (count - 1) / 2))
    return float(np.mean(means))


def _measure_uniformity(directions: Float[np.ndarray, "well feature"]) -> float | None:
    count = len(directions)
    if count < 2:
        return None
    squares = np.sum(directions**2, axis=1)
    total = 0.0
    for start in range(0, count, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        distances = squares[rows, None] + squares - 2.0 * directions[rows] @ directions.T
        total += float(np.exp(-2.0 * np.maximum(distances, 0.0)).sum())
    itself = count  # each well lies at distance nought from itself
    return float(np.log((total - itself) / (count * (count - 1))))
