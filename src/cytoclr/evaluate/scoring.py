"""NSC and NSCB: neighbours, hits, and each score with its cases, interval and chance."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.evaluate.intervals import bootstrap_score, compute_chance, permute_mechanisms
from cytoclr.evaluate.matching import find_nearest, match_treatments, vote
from cytoclr.evaluate.treatments import AnnotatedTreatments
from cytoclr.tables import MECHANISM, TREATMENT

__all__ = ["Matched", "score_nsc", "score_nscb", "summarise"]


@dataclass(frozen=True)
class Matched:
    """Treatments (or wells, if the protocol is of wells) and their nearest neighbours.

    Attributes
    ----------
    treatments
        Queries and references.
    neighbours
        Rows of each treatment's neighbours, nearest first; -1 where there is none, or where the treatment was not
        asked.
    similarities
        Their similarities; nan where there is none.
    unanswerable
        Names of the treatments without an admissible reference.
    dropped_mechanisms
        Mechanisms whose treatments were left out, being confined to one batch.
    """

    treatments: AnnotatedTreatments
    neighbours: Int[np.ndarray, "treatment neighbour"]
    similarities: Float[np.ndarray, "treatment neighbour"]
    unanswerable: tuple[str, ...]
    dropped_mechanisms: tuple[str, ...] = ()

    @property
    def answered(self) -> Bool[np.ndarray, " treatment"]:
        """Treatments that have a neighbour."""
        answered: np.ndarray = self.neighbours[:, 0] >= 0
        return answered

    @property
    def predicted(self) -> Int[np.ndarray, " treatment"]:
        """Number of the mechanism that the neighbours vote for (`vote`); -1 where there are none."""
        return vote(np.where(self.neighbours < 0, -1, self.treatments.mechanisms[self.neighbours]))

    @property
    def correct(self) -> Bool[np.ndarray, " treatment"]:
        """Treatments whose neighbours vote for their mechanism; False where there are none."""
        correct: np.ndarray = self.predicted == self.treatments.mechanisms
        return correct

    def tabulate(self) -> pd.DataFrame:
        """One row for each answered treatment: itself, its nearest neighbour, the mechanism predicted, a hit or not."""
        frame, answered = self.treatments.frame, self.answered
        own = frame.loc[answered, [*self.treatments.key, MECHANISM]].reset_index(drop=True)
        match = frame[[*TREATMENT, MECHANISM]].iloc[self.neighbours[answered, 0]].reset_index(drop=True)
        match.columns = ["Match_Compound", "Match_Concentration", "Match_MoA"]
        names = self.treatments.mechanism_names
        table: pd.DataFrame = pd.concat([own, match], axis=1)
        return table.assign(
            Predicted_MoA=[names[number] for number in self.predicted[answered]],
            similarity=self.similarities[answered, 0],
            correct=self.correct[answered],
        )


def score_nsc(treatments: AnnotatedTreatments) -> Matched:
    """NSC as `Protocol` defines it: neighbours among other compounds."""
    return _match(treatments, np.ones(len(treatments), dtype=bool), across_batches=False)


def score_nscb(treatments: AnnotatedTreatments) -> tuple[Matched, Matched]:
    """NSCB as `Protocol` defines it, and NSC on the same treatments.

    Returns
    -------
    The second has the queries that NSCB answered, and NSCB's references: the two differ in nothing but the rule
    about batches, so the difference between them is what the batches cost.
    """
    rule = treatments.protocol.single_batch_mechanisms
    dropped = [] if rule == "keep" else treatments.find_single_batch_mechanisms()
    lonely = treatments.frame[MECHANISM].isin(dropped).to_numpy()
    kept = treatments.select(~lonely) if rule == "drop" else treatments
    asked = np.ones(len(kept), dtype=bool) if rule == "drop" else ~lonely
    across, within = (_match(kept, asked, across_batches=there) for there in (True, False))
    within = replace(within, neighbours=np.where(across.answered[:, None], within.neighbours, -1), unanswerable=())
    return replace(across, dropped_mechanisms=tuple(dropped)), replace(within, dropped_mechanisms=tuple(dropped))


def summarise(matched: Matched, *, bootstraps: int, permutations: int, seed: int) -> dict[str, Any] | None:
    """Count hits and cases, and say how far the share reaches; None where no treatment could be answered.

    Returns
    -------
    ``correct``, ``total``, ``score`` (their ratio), ``interval`` (95 %, compound-cluster bootstrap), ``chance``
    (``mean``, ``p95`` and ``p_value`` over permutations of the mechanisms over compounds; ``theoretical`` in closed
    form, None where several neighbours vote), ``unanswerable``, ``by_mechanism`` and ``by_compound`` (hits and cases
    of each), ``confusion`` (``mechanisms``, and ``counts``: a row for each of them, a column for each predicted).
    The p value is (1 + permutations that score as high) / (1 + permutations).
    """
    answered, correct = matched.answered, matched.correct[matched.answered]
    if not answered.any():
        return None
    treatments, score = matched.treatments, float(correct.mean())
    low, high = bootstrap_score(
        correct, treatments.compounds[answered], bootstraps=bootstraps, rng=np.random.default_rng(seed)
    )
    frame = treatments.frame.loc[answered]
    return {
        "correct": int(correct.sum()),
        "total": int(answered.sum()),
        "score": score,
        "interval": [low, high],
        "chance": _find_chance(matched, score, permutations=permutations, seed=seed),
        "unanswerable": list(matched.unanswerable),
        "by_mechanism": _count_hits(frame[MECHANISM], correct),
        "by_compound": _count_hits(frame["Metadata_Compound"], correct),
        "confusion": _confuse(matched),
    }


def _find_chance(matched: Matched, score: float, *, permutations: int, seed: int) -> dict[str, Any]:
    treatments, answered = matched.treatments, matched.answered
    # a compound with two mechanisms counts as two, each keeping its treatments
    units = np.column_stack([treatments.compounds, treatments.mechanisms])
    pairs, codes = np.unique(units, axis=0, return_inverse=True)
    codes = codes.reshape(-1)  # NumPy 2.0 gave it a second axis
    neighbours = matched.neighbours[answered]
    shares = permute_mechanisms(
        codes[answered],
        np.where(neighbours < 0, -1, codes[neighbours]),
        pairs[:, 1],
        permutations=permutations,
        rng=np.random.default_rng(seed),
    )
    return {
        "mean": float(shares.mean()),
        "p95": float(np.percentile(shares, 95)),
        # half a hit below the score: equal shares must not differ by rounding
        "p_value": float((1 + (shares >= score - 0.5 / answered.sum()).sum()) / (1 + permutations)),
        "theoretical": compute_chance(pairs[:, 1]) if neighbours.shape[1] == 1 else None,
    }


def _count_hits(groups: pd.Series, correct: Bool[np.ndarray, " case"]) -> dict[str, dict[str, int]]:
    table = pd.Series(correct).groupby(groups.to_numpy(), sort=True).agg(["sum", "size"])
    return {str(name): {"correct": int(row["sum"]), "total": int(row["size"])} for name, row in table.iterrows()}


def _confuse(matched: Matched) -> dict[str, Any]:
    names = matched.treatments.mechanism_names
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    asked = matched.answered
    np.add.at(counts, (matched.treatments.mechanisms[asked], matched.predicted[asked]), 1)
    order = sorted(range(len(names)), key=lambda number: names[number])
    return {"mechanisms": [names[number] for number in order], "counts": counts[np.ix_(order, order)].tolist()}


def _match(treatments: AnnotatedTreatments, asked: Bool[np.ndarray, " treatment"], *, across_batches: bool) -> Matched:
    """Find the neighbours of other compounds of those asked; `across_batches`: and of other batches."""
    protocol = treatments.protocol
    if across_batches and protocol.shared_batches == "recompute":
        neighbours, similarities = _match_recomputed(treatments)
    else:
        neighbours, similarities = match_treatments(
            treatments.features,
            treatments.compounds,
            batches=treatments.find_exclusions() if across_batches else None,
            metric=protocol.metric,
            neighbours=protocol.neighbours,
        )
    neighbours = np.where(asked[:, None], neighbours, -1)
    names = (
        name
        for name, row, was_asked in zip(treatments.names, neighbours[:, 0], asked, strict=True)
        if was_asked and row < 0
    )
    return Matched(treatments, neighbours, similarities, tuple(names))


def _match_recomputed(
    treatments: AnnotatedTreatments,
) -> tuple[Int[np.ndarray, "treatment neighbour"], Float[np.ndarray, "treatment neighbour"]]:
    """Match queries that lie in the same batches together, to references made without those batches."""
    shape = (len(treatments), treatments.protocol.neighbours)
    neighbours, similarities = np.full(shape, -1), np.full(shape, np.nan)
    compounds = treatments.compounds
    for batches in np.unique(treatments.batches, axis=0):
        queries = (treatments.batches == batches).all(axis=1)
        references, exist = treatments.aggregate_without(batches)
        neighbours[queries], similarities[queries] = find_nearest(
            treatments.features[queries],
            references,
            (compounds[queries, None] == compounds) | ~exist,
            metric=treatments.protocol.metric,
            neighbours=treatments.protocol.neighbours,
        )
    return neighbours, similarities
