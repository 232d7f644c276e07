"""Nearest neighbours among admissible references: one matrix product, block by block; and how neighbours vote."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from cytoclr.evaluate.similarity import TIE, scale_profiles

__all__ = ["Metric", "find_nearest", "match_treatments", "vote"]

Metric = Literal["cosine", "pearson", "euclidean"]
#: Similarities held at a time: 256 MB.
BLOCK_VALUES = 1 << 25


def match_treatments(
    features: Float[np.ndarray, "treatment feature"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    batches: Bool[np.ndarray, "treatment batch"] | None = None,
    metric: Metric = "cosine",
    neighbours: int = 1,
) -> tuple[Int[np.ndarray, "treatment neighbour"], Float[np.ndarray, "treatment neighbour"]]:
    """Find each treatment's nearest neighbours among treatments of other compounds (and other batches).

    Parameters
    ----------
    features
        Profiles, ordered by the rule that breaks ties: the first of equally near references is taken.
    compounds
        The same number for the same compound; a reference of the query's compound is not admissible.
    batches
        Which batches each treatment lies in; if given, a reference that shares any batch with the query is not
        admissible.
    metric
        See `find_nearest`.
    neighbours
        How many to find.

    Returns
    -------
    The rows of each treatment's neighbours, nearest first, -1 where no further reference is admissible; and their
    similarities, nan there.

    Notes
    -----
    Time grows as treatments² × features; memory stays below a gigabyte beside the profiles themselves.
    """
    ready = _Ready.make(features, metric)
    shares = None if batches is None else batches.astype(np.float32)
    found = np.empty((len(features), neighbours), dtype=np.int64)
    similarities = np.empty((len(features), neighbours))
    block_rows = max(1, BLOCK_VALUES // max(len(features), 1))
    for start in range(0, len(features), block_rows):
        rows = slice(start, start + block_rows)
        refused = compounds[rows, None] == compounds
        if shares is not None:
            refused |= shares[rows] @ shares.T > 0
        found[rows], similarities[rows] = _find(ready.select(rows), ready, refused, neighbours)
    return found, similarities


def find_nearest(
    queries: Float[np.ndarray, "query feature"],
    references: Float[np.ndarray, "reference feature"],
    refused: Bool[np.ndarray, "query reference"],
    *,
    metric: Metric,
    neighbours: int = 1,
) -> tuple[Int[np.ndarray, "query neighbour"], Float[np.ndarray, "query neighbour"]]:
    """Find the most similar references that are not refused.

    Parameters
    ----------
    queries, references
        Profiles.
    refused
        References that a query must not have.
    metric
        ``cosine`` of the angle between two profiles; ``pearson``, the same after taking each profile's own mean
        off its features; ``euclidean``, less the distance. The cosine with a profile of length nought is nought.
    neighbours
        How many to find.

    Returns
    -------
    Rows of the references, nearest first, of those as near but for rounding the first, -1 where all are refused;
    and the similarities, nan there.
    """
    return _find(_Ready.make(queries, metric), _Ready.make(references, metric), refused, neighbours)


def vote(labels: Int[np.ndarray, "query neighbour"]) -> Int[np.ndarray, " query"]:
    """Return each query's most frequent label, of those as frequent the nearest neighbour's; -1 without neighbours.

    Parameters
    ----------
    labels
        Of the neighbours, nearest first; -1 where there is none.

    Examples
    --------
    >>> vote(np.array([[4, 7, 7], [4, 7, -1], [-1, -1, -1]]))
    array([ 7,  4, -1])
    """
    if labels.shape[1] == 1:
        return labels[:, 0]
    same = (labels[:, :, None] == labels[:, None, :]) & (labels >= 0)[:, :, None]
    winner = same.sum(axis=2).argmax(axis=1)
    won: np.ndarray = np.take_along_axis(labels, winner[:, None], axis=1)[:, 0]
    return won


@dataclass(frozen=True)
class _Ready:
    """Profiles prepared for comparison: by one product of matrices, less the squared lengths (``euclidean``)."""

    rows: Float[np.ndarray, "row feature"]
    squares: Float[np.ndarray, " row"] | None

    @staticmethod
    def make(profiles: Float[np.ndarray, "row feature"], metric: Metric) -> "_Ready":
        if metric == "euclidean":
            return _Ready(profiles, (profiles**2).sum(axis=1))
        return _Ready(scale_profiles(profiles, metric), None)

    def select(self, rows: slice) -> "_Ready":
        return _Ready(self.rows[rows], None if self.squares is None else self.squares[rows])


def _find(
    queries: _Ready, references: _Ready, refused: Bool[np.ndarray, "query reference"], neighbours: int
) -> tuple[Int[np.ndarray, "query neighbour"], Float[np.ndarray, "query neighbour"]]:
    similarity = queries.rows @ references.rows.T
    tie: np.ndarray | float = TIE
    if queries.squares is not None and references.squares is not None:
        # less the squared distance, which orders as the distance does; its rounding error is that of the squares
        similarity *= 2.0
        similarity -= queries.squares[:, None]
        similarity -= references.squares
        tie = TIE * (queries.squares[:, None] + references.squares)
    similarity[refused] = -np.inf
    found = np.empty((len(similarity), neighbours), dtype=np.int64)
    best = np.empty((len(similarity), neighbours))
    everyone = np.arange(len(similarity))
    for place in range(neighbours):
        best[:, place] = similarity.max(axis=1)
        found[:, place] = np.argmax(similarity >= best[:, place, None] - tie, axis=1)
        similarity[everyone, found[:, place]] = -np.inf
    nobody = np.isneginf(best)
    best = -np.sqrt(np.maximum(-best, 0.0)) if queries.squares is not None else np.clip(best, -1.0, 1.0)
    found[nobody], best[nobody] = -1, np.nan
    return found, best
