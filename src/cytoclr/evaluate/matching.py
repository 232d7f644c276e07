"""Nearest neighbours among admissible references: one matrix product, block by block."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["Metric", "find_nearest", "match_treatments"]

Metric = Literal["cosine", "pearson", "euclidean"]
#: Similarities nearer than this are ties: a few rounding errors of a sum of doubles.
TIE = 1e-12
BLOCK_ROWS = 1024


def match_treatments(
    features: Float[np.ndarray, "treatment feature"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    batches: Bool[np.ndarray, "treatment batch"] | None = None,
    metric: Metric = "cosine",
) -> tuple[Int[np.ndarray, " treatment"], Float[np.ndarray, " treatment"]]:
    """Find each treatment's nearest neighbour among treatments of other compounds (and other batches).

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

    Returns
    -------
    The row of each treatment's neighbour, -1 where no reference is admissible; and their similarity, nan there.

    Notes
    -----
    Time grows as treatments² × features; memory as 1,024 × treatments.
    """
    shares = None if batches is None else batches.astype(np.float32)
    neighbours = np.empty(len(features), dtype=np.int64)
    similarities = np.empty(len(features))
    for start in range(0, len(features), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        refused = compounds[rows, None] == compounds
        if shares is not None:
            refused |= shares[rows] @ shares.T > 0
        neighbours[rows], similarities[rows] = find_nearest(features[rows], features, refused, metric=metric)
    return neighbours, similarities


def find_nearest(
    queries: Float[np.ndarray, "query feature"],
    references: Float[np.ndarray, "reference feature"],
    refused: Bool[np.ndarray, "query reference"],
    *,
    metric: Metric,
) -> tuple[Int[np.ndarray, " query"], Float[np.ndarray, " query"]]:
    """Find the most similar reference that is not refused.

    Parameters
    ----------
    queries, references
        Profiles.
    refused
        References that a query must not have.
    metric
        ``cosine`` of the angle between two profiles; ``pearson``, the same after taking each profile's own mean
        off its features; ``euclidean``, less the distance. The cosine with a profile of length nought is nought.

    Returns
    -------
    Row of the reference, the first of those as near but for rounding, -1 where all are refused; and the
    similarity, nan there.
    """
    similarity, tie = _compare(queries, references, metric)
    similarity[refused] = -np.inf
    best = similarity.max(axis=1)
    nearest = np.argmax(similarity >= best[:, None] - tie, axis=1)
    unanswerable = np.isneginf(best)
    best = -np.sqrt(np.maximum(-best, 0.0)) if metric == "euclidean" else np.clip(best, -1.0, 1.0)
    nearest[unanswerable], best[unanswerable] = -1, np.nan
    return nearest, best


def _compare(
    queries: Float[np.ndarray, "query feature"], references: Float[np.ndarray, "reference feature"], metric: Metric
) -> tuple[Float[np.ndarray, "query reference"], float]:
    """Similarities (for ``euclidean`` less the squared distance), and the size of a rounding error among them."""
    if metric == "euclidean":
        squares = [(profiles**2).sum(axis=1) for profiles in (queries, references)]
        similarity = 2.0 * queries @ references.T - squares[0][:, None] - squares[1]
        return similarity, TIE * float(max(square.max() for square in squares))
    if metric == "pearson":
        queries, references = (rows - rows.mean(axis=1, keepdims=True) for rows in (queries, references))
    return _scale(queries) @ _scale(references).T, TIE


def _scale(profiles: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    """Profiles of length one; one of length nought stays."""
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    scaled: np.ndarray = profiles / np.where(lengths > 0, lengths, 1.0)
    return scaled
