"""Wells in an order of their own, and profiles of length one: what every score of similarities begins with."""

from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cytoclr.grouping import check_features
from cytoclr.tables import WELL, WELL_PROFILES, check_table, select_enough_cells

__all__ = ["TIE", "Similarity", "group_rows", "order_wells", "scale_profiles"]

#: How two profiles are compared. Pearson's correlation is the cosine once each profile's own mean is off.
Similarity = Literal["cosine", "pearson"]
#: Similarities nearer than this are ties: a few rounding errors of a sum of doubles.
TIE = 1e-12


def order_wells(wells: pd.DataFrame) -> pd.DataFrame:
    """Check a table of well profiles and sort it by plate and well; wells with too few cells are left out.

    Sums of doubles depend on the order of their terms, so a shuffled table must first be put back in order.

    Raises
    ------
    DataError
        The table is not as declared, has no features, or one is empty or infinite somewhere.
    """
    wells = select_enough_cells(check_table(wells, WELL_PROFILES, "well profiles"))
    check_features(wells, "well profiles")
    return wells.sort_values(WELL, kind="stable", ignore_index=True)


def scale_profiles(
    profiles: Float[np.ndarray, "row feature"], metric: Similarity = "cosine"
) -> Float[np.ndarray, "row feature"]:
    """Scale profiles so that the product of two is their similarity.

    A profile of length nought stays, so it has similarity nought with every profile. So does, for ``pearson``, one
    whose features are all the same but for rounding.
    """
    profiles = profiles.astype(np.float64)
    sizes = np.abs(profiles).max(axis=1, keepdims=True)
    if metric == "pearson":
        profiles -= profiles.mean(axis=1, keepdims=True)
    profiles[np.abs(profiles).max(axis=1) <= TIE * sizes[:, 0]] = 0.0
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles /= np.where(lengths > 0, lengths, 1.0)
    return profiles


def group_rows(codes: Int[np.ndarray, " row"]) -> list[Int[np.ndarray, " _member"]]:
    """List the rows of each code, codes and rows in rising order."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []
