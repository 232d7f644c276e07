"""Nearest neighbours among admissible references: one matrix product, block by block."""

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["match_treatments"]

#: Cosines nearer than this are ties: a few rounding errors of a sum of doubles.
TIE = 1e-12
BLOCK_ROWS = 1024


def match_treatments(
    features: Float[np.ndarray, "treatment feature"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    batches: Bool[np.ndarray, "treatment batch"] | None = None,
) -> tuple[Int[np.ndarray, " treatment"], Float[np.ndarray, " treatment"]]:
    """Find each treatment's nearest neighbour by cosine among treatments of other compounds (and other batches).

    Parameters
    ----------
    features
        Profiles, ordered by the rule that breaks ties: the first of equally near references is taken.
        The cosine with a profile of length nought counts as nought.
    compounds
        The same number for the same compound; a reference of the query's compound is not admissible.
    batches
        Which batches each treatment lies in; if given, a reference that shares any batch with the query is not
        admissible.

    Returns
    -------
    The row of each treatment's neighbour, -1 where no reference is admissible; and their cosine, nan there.

    Notes
    -----
    Time grows as treatments² × features; memory as 1,024 × treatments.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(lengths > 0, lengths, 1.0)
    shares = None if batches is None else batches.astype(np.float32)
    neighbours = np.empty(len(features), dtype=np.int64)
    cosines = np.empty(len(features))
    for start in range(0, len(features), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        similarity = directions[rows] @ directions.T
        refused = compounds[rows, None] == compounds
        if shares is not None:
            refused |= shares[rows] @ shares.T > 0
        similarity[refused] = -np.inf
        best = similarity.max(axis=1)
        neighbours[rows] = np.argmax(similarity >= best[:, None] - TIE, axis=1)
        cosines[rows] = best
    unanswerable = np.isneginf(cosines)
    neighbours[unanswerable], cosines[unanswerable] = -1, np.nan
    return neighbours, np.clip(cosines, -1.0, 1.0)
