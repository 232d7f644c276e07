"""How far a score reaches: compound-cluster bootstrap, chance by permutation, paired comparison.

Doses of one compound, and treatments that share a neighbour, are not independent cases. So compounds, not
treatments, are resampled; and neighbours are found once, on all treatments, and stay fixed.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["bootstrap_difference", "bootstrap_score", "compute_chance", "permute_mechanisms"]

#: Ends of the percentile interval: 95 %.
ENDS = (2.5, 97.5)


def bootstrap_score(
    correct: Bool[np.ndarray, " treatment"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    bootstraps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the share of hits, resampling compounds with all their treatments."""
    return _bootstrap_mean(correct.astype(np.float64), compounds, bootstraps, rng)


def bootstrap_difference(
    first: Bool[np.ndarray, " treatment"],
    second: Bool[np.ndarray, " treatment"],
    compounds: Int[np.ndarray, " treatment"],
    *,
    bootstraps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % interval of the first's share of hits less the second's, on the same treatments.

    The comparison is paired: each resampled compound brings the hits of both.
    """
    return _bootstrap_mean(first.astype(np.float64) - second.astype(np.float64), compounds, bootstraps, rng)


def _bootstrap_mean(
    values: Float[np.ndarray, " treatment"],
    compounds: Int[np.ndarray, " treatment"],
    bootstraps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    _, codes = np.unique(compounds, return_inverse=True)
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1.0 / len(counts)), size=bootstraps)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), ENDS)
    return float(low), float(high)


def permute_mechanisms(
    queries: Int[np.ndarray, " treatment"],
    references: Int[np.ndarray, " treatment"],
    mechanisms: Int[np.ndarray, " compound"],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " permutation"]:
    """Score again with the mechanisms permuted over compounds, neighbours unmoved.

    Parameters
    ----------
    queries, references
        Number of the compound of each treatment, and of its neighbour.
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
        shares[index] = np.mean(shuffled[queries] == shuffled[references])
    return shares


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
