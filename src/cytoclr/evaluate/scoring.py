"""NSC and NSCB: neighbours, hits, and each score with its cases, interval and chance."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.evaluate.intervals import bootstrap_score, compute_chance, permute_mechanisms
from cytoclr.evaluate.matching import find_nearest, match_treatments
from cytoclr.evaluate.treatments import AnnotatedTreatments
from cytoclr.tables import MECHANISM, TREATMENT

__all__ = ["Matched", "score_nsc", "score_nscb", "summarise"]


@dataclass(frozen=True)
class Matched:
    """Treatments and their nearest neighbours.

    Attributes
    ----------
    treatments
        Queries and references.
    neighbours
        Row of each treatment's neighbour; -1 where there is none, or where the treatment was not asked.
    similarities
        Their similarity; nan where there is none.
    unanswerable
        Names of the treatments without an admissible reference.
    dropped_mechanisms
        Mechanisms whose treatments were left out, being confined to one batch.
    """

    treatments: AnnotatedTreatments
    neighbours: Int[np.ndarray, " treatment"]
    similarities: Float[np.ndarray, " treatment"]
    unanswerable: tuple[str, ...]
    dropped_mechanisms: tuple[str, ...] = ()

    @property
    def answered(self) -> Bool[np.ndarray, " treatment"]:
        """Treatments that have a neighbour."""
        answered: np.ndarray = self.neighbours >= 0
        return answered

    @property
    def correct(self) -> Bool[np.ndarray, " treatment"]:
        """Treatments whose neighbour has the same mechanism; False where there is none."""
        mechanisms = self.treatments.mechanisms
        correct: np.ndarray = self.answered & (mechanisms[self.neighbours] == mechanisms)
        return correct

    def tabulate(self) -> pd.DataFrame:
        """One row for each answered treatment: itself, its neighbour, their similarity, and whether it is a hit."""
        frame = self.treatments.frame[[*TREATMENT, MECHANISM]]
        own = frame.loc[self.answered].reset_index(drop=True)
        match = frame.iloc[self.neighbours[self.answered]].reset_index(drop=True)
        match.columns = ["Match_Compound", "Match_Concentration", "Match_MoA"]
        table: pd.DataFrame = pd.concat([own, match], axis=1)
        return table.assign(similarity=self.similarities[self.answered], correct=self.correct[self.answered])


def score_nsc(treatments: AnnotatedTreatments) -> Matched:
    """NSC as `Protocol` defines it: neighbours among other compounds."""
    return _match(treatments, across_batches=False)


def score_nscb(treatments: AnnotatedTreatments) -> tuple[Matched, Matched]:
    """NSCB as `Protocol` defines it, and NSC on the same treatments.

    Returns
    -------
    The second has the queries that NSCB answered, and NSCB's references: the two differ in nothing but the rule
    about batches, so the difference between them is what the batches cost.
    """
    dropped = treatments.find_single_batch_mechanisms() if treatments.protocol.single_batch_mechanisms == "drop" else []
    kept = treatments.select(~treatments.frame[MECHANISM].isin(dropped).to_numpy())
    across = _match(kept, across_batches=True)
    within = _match(kept, across_batches=False)
    asked = np.where(across.answered, within.neighbours, -1)
    return (
        replace(across, dropped_mechanisms=tuple(dropped)),
        replace(within, neighbours=asked, unanswerable=(), dropped_mechanisms=tuple(dropped)),
    )


def summarise(matched: Matched, *, bootstraps: int, permutations: int, seed: int) -> dict[str, Any] | None:
    """Count hits and cases, and say how far the share reaches; None where no treatment could be answered.

    Returns
    -------
    ``correct``, ``total``, ``score`` (their ratio), ``interval`` (95 %, compound-cluster bootstrap), ``chance``
    (``mean``, ``p95`` and ``p_value`` over permutations of the mechanisms over compounds; ``theoretical`` in closed
    form) and ``unanswerable``. The p value is (1 + permutations that score as high) / (1 + permutations).
    """
    answered, correct = matched.answered, matched.correct[matched.answered]
    if not answered.any():
        return None
    treatments, score = matched.treatments, float(correct.mean())
    # a compound with two mechanisms counts as two, each keeping its treatments
    units = np.column_stack([treatments.compounds, treatments.mechanisms])
    pairs, codes = np.unique(units, axis=0, return_inverse=True)
    codes = codes.reshape(-1)  # NumPy 2.0 gave it a second axis
    mechanisms = pairs[:, 1]
    low, high = bootstrap_score(
        correct, treatments.compounds[answered], bootstraps=bootstraps, rng=np.random.default_rng(seed)
    )
    shares = permute_mechanisms(
        codes[answered],
        codes[matched.neighbours[answered]],
        mechanisms,
        permutations=permutations,
        rng=np.random.default_rng(seed),
    )
    return {
        "correct": int(correct.sum()),
        "total": int(answered.sum()),
        "score": score,
        "interval": [low, high],
        "chance": {
            "mean": float(shares.mean()),
            "p95": float(np.percentile(shares, 95)),
            # half a hit below the score: equal shares must not differ by rounding
            "p_value": float((1 + (shares >= score - 0.5 / len(correct)).sum()) / (1 + permutations)),
            "theoretical": compute_chance(mechanisms),
        },
        "unanswerable": list(matched.unanswerable),
    }


def _match(treatments: AnnotatedTreatments, *, across_batches: bool) -> Matched:
    """Find every treatment's neighbour of another compound; `across_batches`: and of other batches."""
    protocol = treatments.protocol
    if across_batches and protocol.shared_batches == "recompute":
        neighbours, similarities = _match_recomputed(treatments)
    else:
        batches = treatments.batches if across_batches else None
        neighbours, similarities = match_treatments(
            treatments.features, treatments.compounds, batches=batches, metric=protocol.metric
        )
    names = tuple(name for name, row in zip(treatments.names, neighbours, strict=True) if row < 0)
    return Matched(treatments, neighbours, similarities, names)


def _match_recomputed(
    treatments: AnnotatedTreatments,
) -> tuple[Int[np.ndarray, " treatment"], Float[np.ndarray, " treatment"]]:
    """Match queries that lie in the same batches together, to references made without those batches."""
    neighbours = np.full(len(treatments), -1)
    similarities = np.full(len(treatments), np.nan)
    compounds = treatments.compounds
    for batches in np.unique(treatments.batches, axis=0):
        queries = (treatments.batches == batches).all(axis=1)
        references, exist = treatments.aggregate_without(batches)
        neighbours[queries], similarities[queries] = find_nearest(
            treatments.features[queries],
            references,
            (compounds[queries, None] == compounds) | ~exist,
            metric=treatments.protocol.metric,
        )
    return neighbours, similarities
