"""Mean average precision: which treatments do anything at all, and which mechanisms hold together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from cytoclr.evaluate.intervals import bootstrap_score
from cytoclr.evaluate.similarity import TIE, group_rows, order_wells, scale_profiles
from cytoclr.evaluate.treatments import AnnotatedTreatments
from cytoclr.tables import MECHANISM, TREATMENT, feature_matrix, is_control, treatment_names

__all__ = ["measure_activity", "measure_consistency"]

#: A corrected p value below it counts.
THRESHOLD = 0.05
BLOCK_ROWS = 512
BOOTSTRAPS = 2000
#: Random numbers drawn at a time for the null.
BLOCK_DRAWS = 4_000_000


@dataclass(frozen=True)
class _Rankings:
    """Of each query: its average precision (nan where it has no ranking), its positives and its negatives."""

    precision: Float[np.ndarray, " query"]
    positives: Int[np.ndarray, " query"]
    negatives: Int[np.ndarray, " query"]

    @property
    def answered(self) -> Bool[np.ndarray, " query"]:
        answered: np.ndarray = (self.positives > 0) & (self.negatives > 0)
        return answered


def measure_activity(
    wells: pd.DataFrame, *, permutations: int = 10_000, seed: int
) -> tuple[dict[str, Any] | None, pd.DataFrame]:
    """Tell for each treatment whether its wells find each other before the untreated wells of their plates.

    It is the phenotypic activity of Kalinin et al. 2025. Each treated well asks. Its positives are the other wells of
    its treatment, on any plate; its negatives the untreated wells of its own plate; both are ranked together by
    cosine. Average precision is the mean over the positives of (positives so far) / (rank). A treatment's mean average
    precision (mAP) is the mean over its wells. Of a positive and a negative equally near (but for rounding) the
    negative is put first, so profiles that are all alike score lowest.

    Parameters
    ----------
    wells
        Normalised profiles: the columns of `WELL_PROFILES` and features. Wells flagged for too few cells take no part.
    permutations
        Random rankings that make up the null of each pair of numbers of positives and negatives.
    seed
        Decides them.

    Returns
    -------
    The summary, None where no treatment can be asked: ``map``, mean over treatments, with its ``interval`` (95 %,
    resampling compounds) and ``chance`` (the mean of random rankings); ``normalised_map``, the same
    with each well's average precision scaled so that 0 is the mean of random rankings and 1 a perfect one; ``active``,
    number of treatments with a corrected p value below ``threshold``; ``total``, number of treatments asked;
    ``share``, active of total; ``reachable``, number of treatments for which a perfect ranking would have an
    uncorrected p value below the threshold: with few controls the others cannot be active whatever they do;
    ``permutations``; ``unanswerable``, names of the treatments none of whose wells has both a replicate and a control
    on its plate. And one row for each treatment asked: compound, concentration, ``num_wells`` that asked, ``map``,
    ``normalised_map``, ``p_value``, ``least_p_value`` (of a perfect ranking), ``corrected_p_value`` (Benjamini and
    Hochberg 1995), ``active``.

    Raises
    ------
    DataError
        The table is not as declared, or a feature is empty or infinite somewhere.

    Notes
    -----
    Values of mAP are those of copairs, but for ties: there a positive stands before a negative as near, so an encoder
    that has collapsed to a point would score 1. The p value is (1 + random rankings that score as high) / (1 +
    permutations), and differs from copairs 0.5.5 in two points. There only rankings that score *higher* are counted,
    and with few controls a perfect score is common by chance: of two replicates and six controls a plate, 7 % of
    treatments without any effect came out active. And there wells that differ in their number of controls are
    given independent nulls, though they rank the same pairs. Here the wells of a treatment stand and fall together,
    as in copairs where the numbers are the same, so p values are rather too large than too small.

    Few controls cannot prove much: with two other replicates and six controls a perfect score has p = 1/28, so either
    hardly any treatment is left after correction or, if nearly all are perfect, nearly all are; look at the mAP there.
    A well without a control on its plate does not ask. Controls neither ask nor are positives of one another.
    Time grows as treated wells × (replicates + controls of a plate) × features.

    References
    ----------
    doi:10.1038/s41467-025-60306-2 (Kalinin et al. 2025), doi:10.1111/j.2517-6161.1995.tb02031.x (Benjamini and
    Hochberg 1995).
    """
    wells = order_wells(wells)
    control = is_control(wells).to_numpy()
    directions = scale_profiles(feature_matrix(wells))
    plates = pd.factorize(wells["Metadata_Plate"])[0]
    treated = wells.loc[~control, TREATMENT].reset_index(drop=True)
    groups = group_rows(treated.groupby(TREATMENT, sort=True).ngroup().to_numpy())
    negatives = [directions[control & (plates == plate)] for plate in range(plates.max() + 1)]
    rankings = _rank_replicates(directions[~control], groups, plates[~control], negatives)
    frame = _test_groups(rankings, groups, permutations, seed, "active")
    first = treated.iloc[[rows[0] for rows in groups]].reset_index(drop=True)
    frame = pd.concat([first, frame], axis=1)
    asked = frame["num_asked"] > 0
    table = frame[asked].reset_index(drop=True).rename(columns={"num_asked": "num_wells"})
    compounds = pd.factorize(table["Metadata_Compound"])[0]
    unanswerable = list(treatment_names(frame[~asked]))
    return _summarise(table, "active", compounds, permutations, seed, unanswerable), table


def measure_consistency(
    treatments: AnnotatedTreatments, *, permutations: int = 10_000, across_batches: bool = False, seed: int
) -> tuple[dict[str, Any] | None, pd.DataFrame]:
    """Tell for each mechanism whether its treatments find each other before treatments of other mechanisms.

    It is the phenotypic consistency of Kalinin et al. 2025. Each treatment asks. Its positives are the treatments of
    the same mechanism and of other compounds, its negatives those of other mechanisms and other compounds, ranked
    together by cosine. Average precision, ties and p values are those of `measure_activity`; a mechanism's mAP is the
    mean over its treatments.

    Parameters
    ----------
    treatments
        Profiles with a mechanism, of `annotate_treatments`.
    permutations
        Random rankings that make up the null of each pair of numbers of positives and negatives.
    across_batches
        Treatments that share a batch with the one that asks are neither positives nor negatives, as in NSCB.
    seed
        Decides the random rankings.

    Returns
    -------
    The summary, None where no treatment can be asked: ``map``, ``interval`` (resampling mechanisms), ``chance``,
    ``normalised_map``, ``consistent``, ``total``, ``share``, ``reachable``, ``threshold``, ``permutations`` as in
    `measure_activity`, of mechanisms; ``across_batches``; ``num_treatments`` that asked; ``unanswerable``, names of
    the treatments without a positive or a negative. And one row for each mechanism asked: its name,
    ``num_treatments`` that asked, and the other columns of `measure_activity`, ``consistent`` for ``active``.

    Notes
    -----
    The null ranks treatments as if each were a case of its own. Doses of one compound are not, so p values are somewhat
    too small, as in copairs: with the mechanisms of BBBC021 permuted over its compounds, 7 % fell below 0.05. NSC's
    chance permutes compounds and has not this flaw. Of more than 1,000 negatives, three digits decide the null.
    Time grows as treatments² × features; memory as 512 × treatments.

    References
    ----------
    doi:10.1038/s41467-025-60306-2 (Kalinin et al. 2025).
    """
    groups = group_rows(np.unique(treatments.frame[MECHANISM].to_numpy(dtype=str), return_inverse=True)[1])
    rankings = _rank_treatments(treatments, across_batches)
    frame = _test_groups(rankings, groups, permutations, seed, "consistent")
    frame.insert(0, MECHANISM, [str(treatments.frame[MECHANISM].iloc[rows[0]]) for rows in groups])
    table = frame[frame["num_asked"] > 0].reset_index(drop=True).rename(columns={"num_asked": "num_treatments"})
    unanswerable = [name for name, asked in zip(treatments.names, rankings.answered, strict=True) if not asked]
    summary = _summarise(table, "consistent", np.arange(len(table)), permutations, seed, unanswerable)
    if summary is not None:
        summary |= {"across_batches": across_batches, "num_treatments": int(rankings.answered.sum())}
    return summary, table


def _rank_replicates(
    directions: Float[np.ndarray, "well feature"],
    groups: Sequence[Int[np.ndarray, " _member"]],
    plates: Int[np.ndarray, " well"],
    controls: Sequence[Float[np.ndarray, "_control feature"]],
) -> _Rankings:
    """Rank for each treated well its replicates among the controls of its plate."""
    precision = np.full(len(directions), np.nan)
    num_positives = np.zeros(len(directions), dtype=np.int64)
    num_negatives = np.array([len(controls[plate]) for plate in plates], dtype=np.int64)
    against: list[np.ndarray] = [np.empty(0)] * len(directions)
    for plate in np.unique(plates):
        rows = np.flatnonzero(plates == plate)
        for row, similarity in zip(rows, directions[rows] @ controls[plate].T, strict=True):
            against[row] = similarity
    for rows in groups:
        num_positives[rows] = len(rows) - 1
        own = directions[rows]
        for start in range(0, len(rows), BLOCK_ROWS):
            for member, similarity in enumerate(own[start : start + BLOCK_ROWS] @ own.T, start):
                row = rows[member]
                if num_positives[row] and num_negatives[row]:
                    precision[row] = _compute_precision(np.delete(similarity, member), against[row])
    return _Rankings(precision, num_positives, num_negatives)


def _rank_treatments(treatments: AnnotatedTreatments, across_batches: bool) -> _Rankings:
    """Rank for each treatment those of its mechanism among those of others."""
    directions = scale_profiles(treatments.features)
    compounds, mechanisms = treatments.compounds, treatments.mechanisms
    batches = treatments.batches.astype(np.float32)
    precision = np.full(len(treatments), np.nan)
    num_positives, num_negatives = np.zeros((2, len(treatments)), dtype=np.int64)
    for start in range(0, len(treatments), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        similarities = directions[rows] @ directions.T
        admitted = compounds[rows, None] != compounds
        if across_batches:
            admitted &= batches[rows] @ batches.T == 0
        same = mechanisms[rows, None] == mechanisms
        num_positives[rows], num_negatives[rows] = (admitted & same).sum(axis=1), (admitted & ~same).sum(axis=1)
        for row, similarity in enumerate(similarities, start):
            if num_positives[row] and num_negatives[row]:
                allowed, alike = admitted[row - start], same[row - start]
                precision[row] = _compute_precision(similarity[allowed & alike], similarity[allowed & ~alike])
    return _Rankings(precision, num_positives, num_negatives)


def _compute_precision(positives: Float[np.ndarray, " positive"], negatives: Float[np.ndarray, " negative"]) -> float:
    """Average precision of one query from its similarities; a negative as near as a positive stands before it."""
    falling = np.sort(positives)[::-1]
    passed = len(negatives) - np.searchsorted(np.sort(negatives), falling - TIE)
    found = np.arange(1, len(falling) + 1)
    return float(np.mean(found / (found + passed)))


def _test_groups(
    rankings: _Rankings, groups: Sequence[Int[np.ndarray, " _member"]], permutations: int, seed: int, verdict: str
) -> pd.DataFrame:
    """One row a group: the mean over its queries, and what random rankings of as many pairs would give."""
    counts = np.column_stack([rankings.positives, _round_down(rankings.negatives)])
    pairs, codes = np.unique(counts[rankings.answered], axis=0, return_inverse=True)
    which = np.full(len(counts), -1)
    which[rankings.answered] = codes.reshape(-1)  # NumPy 2.0 gave it a second axis
    nulls = np.array([np.sort(_draw_null(pair[0], pair[1], permutations, seed)) for pair in pairs.tolist()])
    expected = _compute_expected(rankings.positives, rankings.negatives)
    rows = []
    for members in groups:
        asked = members[rankings.answered[members]]
        if not len(asked):
            rows.append((0, *[np.nan] * 5))
            continue
        precision, kind = rankings.precision[asked], which[asked]
        score = float(precision.mean())
        kinds, shares = np.unique(kind, return_counts=True)
        # sorted nulls are added: queries that rank the same pairs stand and fall together
        null = (shares / len(asked)) @ nulls[kinds]
        as_high, perfect = len(null) - np.searchsorted(null, [score - 1e-9, 1.0 - 1e-9])
        normalised = float(((precision - expected[asked]) / (1.0 - expected[asked])).mean())
        p_values = [(1 + count) / (1 + permutations) for count in (as_high, perfect)]
        rows.append((len(asked), score, float(expected[asked].mean()), normalised, *p_values))
    names = ["num_asked", "map", "chance", "normalised_map", "p_value", "least_p_value"]
    frame = pd.DataFrame(rows, columns=names)
    known = frame["p_value"].notna().to_numpy()
    corrected = np.full(len(frame), np.nan)
    if known.any():
        corrected[known] = false_discovery_control(frame["p_value"].to_numpy()[known])
    return frame.assign(corrected_p_value=corrected, **{verdict: corrected < THRESHOLD})


def _draw_null(positives: int, negatives: int, permutations: int, seed: int) -> Float[np.ndarray, " permutation"]:
    """Average precision of random rankings.

    Positives at random places cut the line into intervals as an exponential variable each, and negatives fall into
    them by their lengths: the same distribution as a shuffled list, at a cost that does not grow with the negatives.
    """
    rng = np.random.default_rng([seed, positives, negatives])
    found = np.arange(1, positives + 1)
    step = max(BLOCK_DRAWS // (positives + 1), 1)
    null = np.empty(permutations)
    for start in range(0, permutations, step):
        part = null[start : start + step]
        intervals = rng.standard_exponential((len(part), positives + 1))
        intervals /= intervals.sum(axis=1, keepdims=True)
        passed = np.cumsum(rng.multinomial(negatives, intervals), axis=1)[:, :positives]
        part[:] = np.mean(found / (found + passed), axis=1)
    return null


def _round_down(counts: Int[np.ndarray, " query"]) -> Int[np.ndarray, " query"]:
    """Keep three significant digits: thousands of nulls that hardly differ become few, none of them narrower."""
    unit = 10 ** np.maximum(np.floor(np.log10(np.maximum(counts, 1))).astype(np.int64) - 2, 0)
    rounded: np.ndarray = counts // unit * unit
    return rounded


def _compute_expected(
    positives: Int[np.ndarray, " query"], negatives: Int[np.ndarray, " query"]
) -> Float[np.ndarray, " query"]:
    """Mean average precision of all rankings of so many positives and negatives; nan of fewer than two."""
    length = positives + negatives
    sums = np.append(0.0, np.cumsum(1.0 / np.arange(1, length.max(initial=0) + 1)))
    harmonic = sums[length]
    several = np.where(length > 1, length, np.nan)
    expected: np.ndarray = ((positives - 1) / (several - 1) * (several - harmonic) + harmonic) / several
    return expected


def _summarise(
    table: pd.DataFrame,
    verdict: str,
    clusters: Int[np.ndarray, " row"],
    permutations: int,
    seed: int,
    unanswerable: list[str],
) -> dict[str, Any] | None:
    """Average over the rows; the interval resamples clusters of rows that are not independent."""
    if table.empty:
        return None
    rng = np.random.default_rng(seed)
    interval = bootstrap_score(table["map"].to_numpy(dtype=np.float64), clusters, bootstraps=BOOTSTRAPS, rng=rng)
    return {
        "map": float(table["map"].mean()),
        "interval": list(interval),
        "chance": float(table["chance"].mean()),
        "normalised_map": float(table["normalised_map"].mean()),
        verdict: int(table[verdict].sum()),
        "total": len(table),
        "share": float(table[verdict].mean()),
        "reachable": int((table["least_p_value"] < THRESHOLD).sum()),
        "threshold": THRESHOLD,
        "permutations": permutations,
        "unanswerable": unanswerable,
    }
