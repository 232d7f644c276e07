"""Random numbers that belong to a cell, not to a moment: the same whatever the minibatch, worker or interruption."""

import numpy as np
from jaxtyping import Float, Int, UInt64

__all__ = ["VALIDATION_EPOCH", "derive_generator", "derive_seed", "draw_uniforms"]

#: Stands for the epoch in the draws of validation views, so that every epoch validates on the same ones.
VALIDATION_EPOCH = 2**32 - 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw_uniforms(
    cells: Int[np.ndarray, " cell"], num: int, *, seed: int, epoch: int, view: int
) -> Float[np.ndarray, "cell number"]:
    """Draw `num` numbers in [0, 1) for each cell, decided by (seed, epoch, cell, view) and nothing else.

    A counter-based generator: the counter is hashed with the finaliser of SplitMix64 (Steele, Lea and Flood 2014,
    doi:10.1145/2660193.2660195), so any cell's numbers are had without drawing another's.

    Parameters
    ----------
    cells
        Numbers of the cells: rows of the cells table.
    num
        How many numbers a cell needs.
    seed, epoch, view
        What else decides them; whole numbers from nought.

    Returns
    -------
    numpy.ndarray
        float32, 24 random bits each.

    Examples
    --------
    >>> import numpy as np
    >>> both = draw_uniforms(np.array([7, 8]), 3, seed=0, epoch=1, view=0)
    >>> alone = draw_uniforms(np.array([8]), 3, seed=0, epoch=1, view=0)
    >>> bool((both[1] == alone[0]).all())
    True
    """
    stream = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, view):
        stream = _mix(stream * _GOLDEN + np.uint64(part) + np.uint64(1))
    of_cell = _mix(stream + cells.astype(np.uint64) * _GOLDEN)
    counters = of_cell[:, None] + np.arange(1, num + 1, dtype=np.uint64) * _GOLDEN
    uniforms: np.ndarray = (_mix(counters) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return uniforms


def _mix(values: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def derive_generator(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """Make a generator for one purpose (``"split"``, ``"order"``) and number (the epoch) from the run's seed."""
    return np.random.default_rng([seed, number, *purpose.encode()])


def derive_seed(seed: int, purpose: str, number: int = 0) -> int:
    """Make a 63-bit seed for one purpose and number from the run's seed, for libraries that want one."""
    return int(derive_generator(seed, purpose, number).integers(2**63))
