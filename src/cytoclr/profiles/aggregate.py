"""Aggregates: sites and wells from cells, treatments from wells."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from cytoclr.errors import DataError
from cytoclr.grouping import Statistic, check_constant, check_features, reduce_features
from cytoclr.tables import (
    CONTROL_TYPES,
    EMBEDDINGS,
    NUM_CELLS,
    SITE,
    TREATMENT,
    WELL,
    WELL_METADATA,
    WELL_PROFILES,
    WELL_ROWS,
    check_table,
    feature_columns,
    is_control,
    select_enough_cells,
)

__all__ = ["aggregate_cells", "aggregate_rows", "aggregate_wells", "select_finite"]

#: Nothing that is measured is larger; programs write such numbers for "none", and their squares are infinite.
_LARGEST_FEATURE = 1e100


def aggregate_cells(
    embeddings: pd.DataFrame, level: Literal["site", "well"], *, statistic: Statistic = "mean"
) -> pd.DataFrame:
    """Aggregate the embeddings of cells to one profile a site or a well.

    A well's profile is the mean (or median) of its cells, whichever site they lie in. The result does not depend
    on the order of the rows, to the last bit.

    Parameters
    ----------
    embeddings
        One row a cell: the columns of `EMBEDDINGS`, and features without gaps (see `select_finite`).
    level
        What becomes a row.
    statistic
        Mean or median, feature by feature.

    Returns
    -------
    pandas.DataFrame
        Sorted by plate, well (and site): metadata, ``Metadata_NumCells``, features as doubles.

    Raises
    ------
    DataError
        A column is missing or of another type, a feature is not finite, or a well has two compounds,
        concentrations, batches or control types.
    """
    embeddings = check_table(embeddings, EMBEDDINGS, "embeddings")
    check_features(embeddings, "embeddings")
    check_constant(embeddings, WELL, WELL_METADATA[2:], "embeddings")
    key = SITE if level == "site" else WELL
    groups, values = reduce_features(embeddings, key, order=["Metadata_CellID"], statistic=statistic)
    metadata = groups[[*WELL_METADATA, *key[2:]]].assign(**{NUM_CELLS: groups["rows"]})
    return _join(metadata, values, embeddings)


def aggregate_rows(table: pd.DataFrame, *, statistic: Statistic = "mean") -> pd.DataFrame:
    """Aggregate another program's table, whose rows are wells, sites or cells, to one profile a well.

    Parameters
    ----------
    table
        The columns of `WELL_PROFILES` but for their key, and features without gaps. Where a row tells how many
        cells it stands for (``Metadata_NumCells``), a mean weighs it by them and the well has their sum; without, every
        row counts the same and nothing is said of cells.
    statistic
        Mean or median, feature by feature. A median of sites is one of sites, not of cells.

    Returns
    -------
    pandas.DataFrame
        Sorted by plate and well. A table of wells comes back as it was.

    Raises
    ------
    DataError
        A column is missing or of another type, a feature is not finite, or a well has two compounds,
        concentrations, batches or control types.
    """
    if not table.duplicated(subset=WELL).any() or not set(WELL) <= set(table.columns):
        return check_table(table, WELL_PROFILES, "profiles").sort_values(WELL, ignore_index=True)
    table = check_table(table, WELL_ROWS, "profiles")
    check_features(table, "profiles")
    check_constant(table, WELL, WELL_METADATA[2:], "profiles")
    names = feature_columns(table)
    # No column is sure to number the rows of a well, so their values order them: sums are then the same, to the last
    # bit, whatever the order of the rows.
    table = table.sort_values([*WELL, *names[:3]], kind="stable", ignore_index=True)
    if NUM_CELLS in table.columns and statistic == "mean":
        counts = table[NUM_CELLS].to_numpy(dtype=np.float64)
        weighed = (
            table.drop(columns=names).join(table[names].mul(counts, axis=0)).join(pd.Series(counts, name="_cells"))
        )
        groups, means = reduce_features(weighed, WELL, order=[], statistic="mean")
        values = means[:, :-1] / means[:, -1:]
    else:
        groups, values = reduce_features(table, WELL, order=[], statistic=statistic)
    metadata = groups[WELL_METADATA]
    if NUM_CELLS in table.columns:
        num_cells = table.groupby(WELL, sort=True)[NUM_CELLS].sum().reset_index(drop=True)
        metadata = metadata.assign(**{NUM_CELLS: num_cells})
    return _join(metadata, values, table)


def aggregate_wells(wells: pd.DataFrame, *, statistic: Statistic = "mean") -> pd.DataFrame:
    """Aggregate the profiles of wells to one profile a treatment: a compound at a concentration.

    Every well counts the same, whatever its number of cells; wells flagged for too few take no part. The controls
    become a treatment too.

    Parameters
    ----------
    wells
        One row a well: the columns of `WELL_PROFILES`, features without gaps, perhaps ``Metadata_NumCells``.
    statistic
        Mean or median, feature by feature.

    Returns
    -------
    pandas.DataFrame
        Sorted by compound and concentration: ``Metadata_control_type`` (``poscon`` if any of the wells is),
        ``Metadata_NumWells``, ``Metadata_NumBatches``, ``Metadata_NumCells`` if the wells have it, features.

    Raises
    ------
    DataError
        A column is missing or of another type, a feature is not finite, or a treatment is an untreated control in
        some wells only.
    """
    wells = select_enough_cells(check_table(wells, WELL_PROFILES, "well profiles"))
    check_features(wells, "well profiles")
    untreated = is_control(wells).map({True: "negcon", False: "treated"})
    check_constant(wells.assign(Metadata_control_type=untreated), TREATMENT, ["Metadata_control_type"], "well profiles")
    groups, values = reduce_features(wells, TREATMENT, order=WELL, statistic=statistic)
    by_treatment = wells.groupby(TREATMENT, sort=True)
    rank = wells["Metadata_control_type"].map(CONTROL_TYPES.index).groupby([wells[name] for name in TREATMENT]).min()
    metadata = groups[TREATMENT].assign(
        Metadata_control_type=[CONTROL_TYPES[index] for index in rank],
        Metadata_NumWells=groups["rows"],
        Metadata_NumBatches=by_treatment["Metadata_Batch"].nunique().to_numpy(),
    )
    if NUM_CELLS in wells:
        metadata[NUM_CELLS] = by_treatment[NUM_CELLS].sum().to_numpy()
    return _join(metadata, values, wells)


def select_finite(frame: pd.DataFrame, source: str, *, max_gaps: float = 0.05) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Leave out what has gaps, features or rows, whichever loses less; and say which.

    Rows that are gaps in more than half of the features go first. Then features are kept from the fullest on; rows with
    a gap in one of them are left out. The cut is where the share of features lost and the share of rows lost add up to
    least.

    Parameters
    ----------
    frame
        A table with features, some perhaps empty, infinite or beyond 1e100: these are its gaps.
    source
        What the table is, for the message.
    max_gaps
        A feature with gaps in more than this share of the rows is left out in any case.

    Returns
    -------
    The rest, and ``{"features_left_out": [names], "rows_left_out": number, "rows_left_out_of": [plates and wells]}``.

    Raises
    ------
    DataError
        Nothing is left.
    """
    names = feature_columns(frame)
    gaps = {name: ~(np.abs(frame[name].to_numpy(dtype=np.float64)) <= _LARGEST_FEATURE) for name in names}
    # a row that is mostly gaps (a well without cells) says nothing of the features
    num_gaps = np.sum(list(gaps.values()), axis=0, dtype=np.int64)
    hollow = num_gaps > len(names) / 2
    gaps = {name: of & ~hollow for name, of in gaps.items()}
    counts = {name: int(gaps[name].sum()) for name in names}
    # the fullest first: each further feature may cost rows; the cut is where the shares lost of both are least
    most = max_gaps * max(len(frame) - hollow.sum(), 1)
    by_gaps = sorted((name for name in names if counts[name] <= most), key=lambda name: counts[name])
    bad_rows, best = hollow.copy(), (np.inf, 0)
    for num_kept, name in enumerate(by_gaps, start=1):
        bad_rows |= gaps[name]
        lost = (len(names) - num_kept) / len(names) + bad_rows.mean()
        if lost <= best[0]:
            best = (lost, num_kept)
    kept = set(by_gaps[: best[1]])
    bad_features = [name for name in names if name not in kept]
    bad_rows = np.logical_or.reduce([hollow, *(gaps[name] for name in kept)])
    places = [" ".join(pair) for pair in frame.loc[bad_rows, WELL].astype("str").drop_duplicates().to_numpy()]
    report = {"features_left_out": bad_features, "rows_left_out": int(bad_rows.sum()), "rows_left_out_of": places}
    if not kept or bad_rows.all():
        raise DataError(
            f"{source}: after leaving out features and rows with gaps (values that are empty, infinite or beyond "
            f"{_LARGEST_FEATURE:g}) nothing is left of {len(frame):,} rows and {len(names)} features. Expected "
            "numbers; look at how the table was made."
        )
    return frame.loc[~bad_rows].drop(columns=bad_features).reset_index(drop=True), report


def _join(metadata: pd.DataFrame, values: Float[np.ndarray, "group feature"], like: pd.DataFrame) -> pd.DataFrame:
    features = pd.DataFrame(values, columns=feature_columns(like))
    return pd.concat([metadata.reset_index(drop=True), features], axis=1)
