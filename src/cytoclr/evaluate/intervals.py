"""How far a score reaches: compound-cluster bootstrap, chance by permutation, paired comparison.

Doses of one compound, and treatments that share a neighbour, are not independent cases. So compounds, not
treatments, are resampled; and neighbours are found once, on all treatments, and stay fixed.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from cytoclr.evaluate.matching import vote

__all__ = ["bootstrap_difference", "bootstrap_score", "compute_chance", "flip_signs", "permute_mechanisms"]

#: Ends of the percentile interval: 95 %.
ENDS = (2.5, 97.5)


def bootstrap_score(
    correct: Bool[np.ndarray, " treatment"] | Float[np.ndarray, " treatment"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    bootstraps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the share of hits (or of a mean), resampling compounds whole."""
    _, codes = np.unique(compounds, return_inverse=True)
    hits, counts = np.bincount(codes, weights=correct), np.bincount(codes)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1.0 / len(counts)), size=bootstraps)
    low, high = np.percentile((drawn @ hits) / (drawn @ counts), ENDS)
    return float(low), float(high)


def bootstrap_difference(
    first: Float[np.ndarray, "seed treatment"],
    second: Float[np.ndarray, "seed2 treatment"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    bootstraps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % interval of the first's share of hits less the second's, on the same treatments.

    The comparison is paired: each resampled compound brings the hits of both. Where a side was trained with several
    seeds, its seeds are resampled too.
    """
    _, codes = np.unique(compounds, return_inverse=True)
    sums = [np.stack([np.bincount(codes, weights=hits) for hits in side]) for side in (first, second)]
    counts = np.bincount(codes)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1.0 / len(counts)), size=bootstraps)
    shares = []
    for side in sums:
        by_seed = (drawn @ side.T) / (drawn @ counts)[:, None]
        weights = rng.multinomial(len(side), np.full(len(side), 1.0 / len(side)), size=bootstraps) / len(side)
        shares.append((by_seed * weights).sum(axis=1))
    low, high = np.percentile(shares[0] - shares[1], ENDS)
    return float(low), float(high)


def permute_mechanisms(
    queries: Int[np.ndarray, " treatment"],
    references: Int[np.ndarray, "treatment neighbour"],
    mechanisms: Int[np.ndarray, " compound"],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " permutation"]:
    """Score again with the mechanisms permuted over compounds, neighbours unmoved.

    Parameters
    ----------
    queries, references
        Number of the compound of each treatment, and of its neighbours; -1 where there is none.
    mechanisms
        Mechanism of each compound.
    permutations
        How many.
    rng
        Where they come from.

    Returns
    -------
    The share of hits under each permutation.
    """
    shares = np.empty(permutations)
    for index in range(permutations):
        shuffled = rng.permutation(mechanisms)
        shares[index] = np.mean(vote(np.where(references < 0, -1, shuffled[references])) == shuffled[queries])
    return shares


def flip_signs(
    differences: Float[np.ndarray, " treatment"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Return the two-sided p value of a mean difference: if neither table were better, each compound's could be either.

    The differences of all treatments of a compound change sign together. (1 + flips that reach as far) /
    (1 + flips).
    """
    _, codes = np.unique(compounds, return_inverse=True)
    sums = np.bincount(codes, weights=differences)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(permutations, len(sums)))
    reached = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return float((1 + reached.sum()) / (1 + permutations))


def compute_chance(mechanisms: Int[np.ndarray, " compound"]) -> float:
    """Return the probability that two different compounds drawn at random share a mechanism.

    It is what `permute_mechanisms` gives on average, in closed form: the sum of k(k - 1) over mechanisms with k
    of n compounds, over n(n - 1). Nought for a single compound.

    >>> compute_chance(np.array([0, 0, 1, 1]))
    0.3333333333333333
    """
    counts = np.bincount(mechanisms).astype(np.float64)
    num_compounds = counts.sum()
    return float((counts * (counts - 1)).sum() / max(num_compounds * (num_compounds - 1), 1.0))
