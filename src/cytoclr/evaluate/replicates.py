"""Percent replicating and percent matching: similarities against the 95th percentile of a null."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.evaluate.intervals import bootstrap_score
from cytoclr.evaluate.similarity import TIE, Similarity, group_rows, order_wells, scale_profiles
from cytoclr.evaluate.treatments import AnnotatedTreatments
from cytoclr.tables import TREATMENT, feature_matrix, is_control, treatment_names

__all__ = ["measure_matching", "measure_replicability"]

#: Percentile of the null that must be exceeded.
PERCENTILE = 95
CHANCE = 0.05
BOOTSTRAPS = 2000
#: Of a treatment with more wells (a positive control) so many are compared.
MAX_REPLICATES = 32
#: Doubles gathered at a time.
BLOCK_VALUES = 4_000_000


def measure_replicability(
    wells: pd.DataFrame, *, seed: int, null_size: int = 1000, metric: Similarity = "pearson"
) -> dict[str, Any] | None:
    """Count the treatments whose wells are more alike than wells of different treatments: percent replicating.

    A treatment's similarity is the median over pairs of its wells. Its null is the same median over as many wells, one
    each of treatments drawn at random without repetition. A treatment replicates if its similarity exceeds the 95th
    percentile of the null (Way et al. 2022, Chandrasekaran et al. 2024; there one null serves all numbers of
    replicates). Equal but for rounding does not exceed.

    Parameters
    ----------
    wells
        Normalised profiles: the columns of `WELL_PROFILES` and features. Controls take no part.
    seed
        Decides the null.
    null_size
        Sets of wells drawn for each number of replicates.
    metric
        ``pearson`` or ``cosine``.

    Returns
    -------
    ``replicating``, number of treatments that do; ``total``, number asked; ``share``, with its ``interval`` (95 %,
    resampling compounds) and ``chance``; ``median_similarity``, over
    treatments; ``thresholds``, of each number of replicates (as text); ``metric``; ``null_size``; ``unanswerable``,
    names of the treatments with a single well, or with more wells than there are treatments. None if all are.

    Raises
    ------
    DataError
        The table is not as declared, or a feature is empty or infinite somewhere.

    Notes
    -----
    By chance 5 % replicate. Wells of a treatment in the same place of each plate are alike for their place too. Of
    treatments with more than 32 wells, 32 evenly spaced in the order of plate and well are compared.

    References
    ----------
    doi:10.1016/j.cels.2022.10.001 (Way et al. 2022), doi:10.1038/s41592-024-02241-6 (Chandrasekaran et al. 2024).
    """
    wells = order_wells(wells)
    treated = wells[~is_control(wells)].reset_index(drop=True)
    groups = group_rows(treated.groupby(TREATMENT, sort=True).ngroup().to_numpy())
    members = [_space_evenly(rows, MAX_REPLICATES) for rows in groups]
    sizes = np.array([len(rows) for rows in members], dtype=np.int64)
    asked = (sizes > 1) & (sizes <= len(groups))
    if not asked.any():
        return None
    directions = scale_profiles(feature_matrix(treated), metric)
    similarities, thresholds = np.full(len(groups), np.nan), {}
    for size in np.unique(sizes[asked]).tolist():
        same = np.flatnonzero(sizes == size)
        similarities[same] = _compare_sets(directions, np.stack([members[group] for group in same]))
        null = _compare_sets(directions, _draw_strangers(groups, size, null_size, seed))
        thresholds[size] = float(np.percentile(null, PERCENTILE))
    limits = np.array([thresholds[size] for size in sizes[asked].tolist()])
    replicating = similarities[asked] > limits + TIE
    first = treated.iloc[[rows[0] for rows in groups]]
    return {
        "replicating": int(replicating.sum()),
        "total": int(asked.sum()),
        "share": float(replicating.mean()),
        "interval": _find_interval(replicating, first.loc[asked, "Metadata_Compound"], seed),
        "chance": CHANCE,
        "median_similarity": float(np.median(similarities[asked])),
        "thresholds": {str(size): threshold for size, threshold in thresholds.items()},
        "metric": metric,
        "null_size": null_size,
        "unanswerable": list(treatment_names(first[~asked])),
    }


def measure_matching(
    treatments: AnnotatedTreatments, *, seed: int, null_size: int = 1000, metric: Similarity = "pearson"
) -> dict[str, Any] | None:
    """Count the treatments more alike to other compounds of their mechanism than to compounds of others.

    The similarity of a treatment to a compound is the median over the compound's treatments. A treatment's similarity
    to its mechanism is the median over the other compounds that have it. Its null is the same median over as many
    compounds of other mechanisms, drawn at random without repetition. A treatment matches if its similarity exceeds
    the 95th percentile of its null: percent matching (Way et al. 2022), with compounds rather than their doses as
    cases, since doses of one compound are not independent, and with a null of each treatment's own. Equal but for
    rounding does not exceed.

    Parameters
    ----------
    treatments
        Profiles with a mechanism, of `annotate_treatments`.
    seed
        Decides the null.
    null_size
        Sets of compounds drawn for each treatment.
    metric
        ``pearson`` or ``cosine``.

    Returns
    -------
    ``matching``, number of treatments that do; ``total``, number asked; ``share``, with its ``interval`` (95 %,
    resampling compounds) and ``chance``; ``median_similarity`` and
    ``median_threshold``, over treatments asked; ``num_compounds`` asked; ``metric``; ``null_size``; ``unanswerable``,
    names of the treatments whose mechanism has no other compound, or more of them than all others together. None if
    all are.

    Notes
    -----
    By chance 5 % match where the null is fine enough: against few other compounds (20 or less) rather less.
    A compound with two mechanisms counts in both, and is never compared with itself. Time grows as treatments² ×
    features and treatments × `null_size` × compounds of a mechanism.

    References
    ----------
    doi:10.1016/j.cels.2022.10.001 (Way et al. 2022).
    """
    units = np.column_stack([treatments.compounds, treatments.mechanisms])
    pairs, codes = np.unique(units, axis=0, return_inverse=True)
    codes = codes.reshape(-1)  # NumPy 2.0 gave it a second axis
    members = group_rows(codes)
    directions = scale_profiles(treatments.features, metric)
    similarities, thresholds = np.full((2, len(treatments)), np.nan)
    rng = np.random.default_rng(seed)
    for rows, to_compounds in _compare_by_group(directions, members):
        compound, mechanism = pairs[codes[rows[0]]]  # queries of one compound have the same candidates
        other = pairs[:, 0] != compound
        alike = np.flatnonzero(other & (pairs[:, 1] == mechanism))
        strangers = np.flatnonzero(other & (pairs[:, 1] != mechanism))
        if not 0 < len(alike) <= len(strangers):
            continue
        similarities[rows] = np.median(to_compounds[:, alike], axis=1)
        drawn = strangers[_draw_subsets(len(strangers), len(alike), null_size, rng)]
        thresholds[rows] = np.percentile(np.median(to_compounds[:, drawn], axis=2), PERCENTILE, axis=1)
    asked = ~np.isnan(similarities)
    if not asked.any():
        return None
    matching = similarities[asked] > thresholds[asked] + TIE
    return {
        "matching": int(matching.sum()),
        "total": int(asked.sum()),
        "share": float(matching.mean()),
        "interval": _find_interval(matching, treatments.frame.loc[asked, "Metadata_Compound"], seed),
        "chance": CHANCE,
        "median_similarity": float(np.median(similarities[asked])),
        "median_threshold": float(np.median(thresholds[asked])),
        "num_compounds": len(np.unique(treatments.compounds[asked])),
        "metric": metric,
        "null_size": null_size,
        "unanswerable": [name for name, was_asked in zip(treatments.names, asked, strict=True) if not was_asked],
    }


def _compare_by_group(
    directions: Float[np.ndarray, "treatment feature"], groups: list[Int[np.ndarray, " _member"]]
) -> Iterator[tuple[Int[np.ndarray, " _member"], Float[np.ndarray, "_member group"]]]:
    """Yield each group's rows, and the median similarity of each of them to the members of every group."""
    sizes = np.array([len(members) for members in groups], dtype=np.int64)
    of_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    by_size = [(numbers, np.stack([groups[number] for number in numbers])) for numbers in of_size]
    # some groups at a time, so that one product of matrices serves many
    step = max(BLOCK_VALUES // (len(directions) * int(sizes.max())), 1)
    for start in range(0, len(groups), step):
        block = groups[start : start + step]
        similarity = directions[np.concatenate(block)] @ directions.T
        medians = np.empty((len(similarity), len(groups)))
        for numbers, members in by_size:
            medians[:, numbers] = np.median(similarity[:, members], axis=2)
        ends = np.cumsum([len(rows) for rows in block])
        yield from zip(block, np.split(medians, ends[:-1]), strict=True)


def _find_interval(found: Bool[np.ndarray, " treatment"], compounds: pd.Series, seed: int) -> list[float]:
    codes = pd.factorize(compounds)[0]
    return list(bootstrap_score(found, codes, bootstraps=BOOTSTRAPS, rng=np.random.default_rng(seed)))


def _space_evenly(rows: Int[np.ndarray, " row"], count: int) -> Int[np.ndarray, " kept"]:
    return rows if len(rows) <= count else rows[np.arange(count) * len(rows) // count]


def _compare_sets(
    directions: Float[np.ndarray, "well feature"], sets: Int[np.ndarray, "set member"]
) -> Float[np.ndarray, " set"]:
    """Median similarity over the pairs of each set."""
    first, second = np.triu_indices(sets.shape[1], k=1)
    step = max(BLOCK_VALUES // (sets.shape[1] * directions.shape[1]), 1)
    medians = np.empty(len(sets))
    for start in range(0, len(sets), step):
        members = directions[sets[start : start + step]]
        similarity = members @ members.transpose(0, 2, 1)
        medians[start : start + step] = np.median(similarity[:, first, second], axis=1)
    return medians


def _draw_strangers(
    groups: list[Int[np.ndarray, " _member"]], size: int, null_size: int, seed: int
) -> Int[np.ndarray, "set member"]:
    """Draw sets of treatments, and of each treatment a well."""
    rng = np.random.default_rng([seed, size])
    chosen = _draw_subsets(len(groups), size, null_size, rng)
    counts = np.array([len(rows) for rows in groups])
    starts = np.cumsum(counts) - counts
    drawn: np.ndarray = np.concatenate(groups)[starts[chosen] + rng.integers(counts[chosen])]
    return drawn


def _draw_subsets(total: int, size: int, draws: int, rng: np.random.Generator) -> Int[np.ndarray, "draw member"]:
    """Draw subsets of range(total), all equally likely (Floyd's algorithm): the cost does not grow with the total."""
    chosen = np.empty((draws, size), dtype=np.int64)
    for place in range(size):
        last = total - size + place
        number = rng.integers(last + 1, size=draws)
        taken = (chosen[:, :place] == number[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, last, number)
    return chosen
