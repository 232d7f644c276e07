"""Means and medians of groups of rows, the same whatever the order of the rows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from cytoclr.errors import DataError, list_some
from cytoclr.tables import feature_columns

__all__ = ["Statistic", "check_constant", "check_features", "reduce_features"]

Statistic = Literal["mean", "median"]
BLOCK_FEATURES = 64


def reduce_features(
    frame: pd.DataFrame, key: Sequence[str], *, order: Sequence[str], statistic: Statistic
) -> tuple[pd.DataFrame, Float[np.ndarray, "group feature"]]:
    """Reduce the features of all rows with the same key to their mean or median.

    Parameters
    ----------
    frame
        A table whose feature columns are all finite.
    key
        Columns that name a group.
    order
        Columns that name a row within its group. Sums of doubles depend on the order of their terms, so rows are
        first sorted by key and order: a shuffled table gives the same bits.
    statistic
        ``mean`` or ``median``, feature by feature.

    Returns
    -------
    The rows of the frame that come first in each group, sorted by key, with the number of rows of each group in
    the column ``rows``; and the reduced features.
    """
    metadata = frame[frame.columns.difference(feature_columns(frame), sort=False)]
    ordered = metadata.assign(_row=np.arange(len(frame))).sort_values([*key, *order], kind="stable")
    rows = ordered.pop("_row").to_numpy()
    starts = np.flatnonzero(~ordered.duplicated(subset=list(key)).to_numpy())
    counts = np.diff(np.append(starts, len(rows)))
    names = feature_columns(frame)
    reduced = np.empty((len(starts), len(names)))
    for first in range(0, len(names), BLOCK_FEATURES):  # never a second copy of the whole table
        block = slice(first, first + BLOCK_FEATURES)
        values = frame[names[block]].to_numpy(dtype=np.float64)[rows]
        if statistic == "mean":
            reduced[:, block] = np.add.reduceat(values, starts, axis=0) / counts[:, None]
        else:
            for group, start in enumerate(starts):
                reduced[group, block] = np.median(values[start : start + counts[group]], axis=0)
    groups = ordered.iloc[starts].reset_index(drop=True).assign(rows=counts)
    return groups, reduced


def check_features(frame: pd.DataFrame, source: str) -> None:
    """Refuse a table without features or with features that are empty or infinite.

    Raises
    ------
    DataError
        The message names the first such column and row.
    """
    names = feature_columns(frame)
    if not names or frame.empty:
        raise DataError(
            f"{source}: found {len(frame):,} rows and {len(names)} features (numeric columns that are not metadata). "
            "Expected at least one of each."
        )
    for name in names:
        wrong = np.flatnonzero(~np.isfinite(frame[name].to_numpy(dtype=np.float64)))
        if len(wrong):
            raise DataError(
                f"{source}: {name} is empty or infinite in {len(wrong):,} of {len(frame):,} rows, first in row "
                f"{wrong[0] + 1}. Expected numbers; leave such features or rows out (the profile stage does)."
            )


def check_constant(frame: pd.DataFrame, key: Sequence[str], columns: Sequence[str], source: str) -> None:
    """Refuse a table in which rows of the same key differ in what belongs to the key.

    Raises
    ------
    DataError
        For instance a well with two compounds; the message names it and both values.
    """
    pairs = frame[[*key, *columns]].drop_duplicates()
    twice = pairs[pairs.duplicated(subset=list(key), keep=False)]
    if twice.empty:
        return
    same = twice[(twice[list(key)] == twice.iloc[0][list(key)]).all(axis=1)]
    column = next(name for name in columns if len(same[name].unique()) > 1)
    place = " ".join(str(value) for value in same.iloc[0][list(key)])
    raise DataError(
        f"{source}: {place} has more than one {column.removeprefix('Metadata_')}: "
        f"{list_some(list(same[column].unique()))}. Expected one; {twice[list(key)].drop_duplicates().shape[0]} "
        "such places."
    )
