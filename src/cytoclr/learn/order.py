"""Which cells are trained on, and in which order: the split by well, and the samplers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch.utils.data import Sampler

from cytoclr.config import SamplerName
from cytoclr.errors import SettingsError
from cytoclr.learn.draws import derive_generator
from cytoclr.tables import TREATMENT, WELL

__all__ = ["EpochOrder", "deal_evenly", "gather_by_group", "split_wells"]


def split_wells(
    cells: pd.DataFrame, fraction: float, *, seed: int
) -> tuple[Int[np.ndarray, " trained_cell"], Int[np.ndarray, " validated_cell"]]:
    """Divide the cells into those to train on and those to validate on, whole wells at a time.

    Parameters
    ----------
    cells
        A row a cell, with ``Metadata_Plate``, ``Metadata_Well`` and the treatment's columns.
    fraction
        Share of the wells to validate on; at least one, unless nought. They are taken from as many treatments as
        possible, from those with several wells first.
    seed
        Decides which.

    Returns
    -------
    tuple of numpy.ndarray
        Row numbers to train on and to validate on, ascending.

    Raises
    ------
    SettingsError
        There is only one well, and `fraction` is above nought.
    """
    wells = cells[[*WELL, *TREATMENT]].drop_duplicates(WELL).reset_index(drop=True)
    if fraction == 0.0:
        return np.arange(len(cells)), np.arange(0)
    if len(wells) < 2:
        raise SettingsError(
            f"train.validation_fraction: {fraction:g} of {len(wells)} well cannot be kept from training. Set it to 0."
        )
    wells = wells.sort_values(WELL).sample(frac=1.0, random_state=derive_generator(seed, "split"))
    treatments = wells.groupby(TREATMENT, sort=False)
    order = pd.DataFrame(
        {"alone": treatments["Metadata_Well"].transform("size") == 1, "turn": treatments.cumcount()}, index=wells.index
    ).sort_values(["alone", "turn"], kind="stable")
    num_validated = min(max(1, round(fraction * len(wells))), len(wells) - 1)
    chosen = pd.MultiIndex.from_frame(wells.loc[order.index[:num_validated], WELL])
    validated = pd.MultiIndex.from_frame(cells[WELL]).isin(chosen)
    return np.flatnonzero(~validated), np.flatnonzero(validated)


class EpochOrder(Sampler[Int[np.ndarray, " cell"]]):
    """Row numbers by the minibatch, in an order that follows from the seed and the epoch set last.

    With several processes each takes its share of every minibatch, so the minibatches are those of one process.

    Parameters
    ----------
    rows
        The cells to train on: rows of the cells table.
    treatments, batches
        Codes of those cells, in the order of `rows`: equal where cells share the thing. Batches are plates made
        together, and needed by the two samplers that have them in their name.
    minibatch_size
        Of all processes together. A smaller set than one minibatch is one minibatch; what is left over of an epoch
        is not trained on in it.
    sampler
        ``random``: every cell once at most. ``balanced`` and ``batch-balanced``: as many cells, of every treatment or
        batch equally often, in the epoch (to within one) and in each minibatch (to within two); one with few cells
        gives each of them several times, one with many a random part. ``within-batch``: every cell once at most, and
        each minibatch from one batch, batches in proportion to their cells: what differs between batches then tells no
        cell from those it is compared with.
    seed
        Decides the order, together with the epoch.
    process, num_processes
        Which process of how many this is.

    Raises
    ------
    SettingsError
        ``within-batch``, and a batch is smaller than a minibatch.

    Notes
    -----
    An epoch's order takes 8 bytes a cell, and while it is drawn about 50 (balanced), 24 (within-batch) or 8.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " cell"],
        treatments: Int[np.ndarray, " cell"],
        *,
        minibatch_size: int,
        sampler: SamplerName,
        seed: int,
        batches: Int[np.ndarray, " cell"] | None = None,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        if sampler in ("batch-balanced", "within-batch") and batches is None:
            raise ValueError(f"the sampler {sampler} needs batches")
        self._rows = rows
        self._groups = {"balanced": treatments, "batch-balanced": batches, "within-batch": batches}.get(sampler)
        self._sampler = sampler
        self._seed = seed
        self._share = slice(process, None, num_processes)
        self.minibatch_size = min(minibatch_size, len(rows) // num_processes * num_processes)
        self._num_minibatches = self._count_minibatches()
        self.epoch = 0
        self._first = (0, 0)

    def _count_minibatches(self) -> int:
        if not self.minibatch_size:
            return 0
        if self._sampler != "within-batch" or self._groups is None:
            return len(self._rows) // self.minibatch_size
        sizes = np.unique(self._groups, return_counts=True)[1]
        if sizes.min() < self.minibatch_size:
            raise SettingsError(
                f"train.sampler: within-batch takes each minibatch of {self.minibatch_size} cells from one batch, but "
                f"{(sizes < self.minibatch_size).sum()} of {len(sizes)} batches have fewer to train on, the smallest "
                f"{sizes.min()}. Set train.minibatch_size to {sizes.min()} or less, or train.sampler to batch-balanced."
            )
        return int((sizes // self.minibatch_size).sum())

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def go_on(self, epoch: int, minibatches_done: int) -> None:
        """Leave out, in this epoch, the minibatches that an earlier process has trained on."""
        self._first = (epoch, minibatches_done)

    def __len__(self) -> int:
        """Count the minibatches of an epoch, also those left out."""
        return self._num_minibatches

    def __iter__(self) -> Iterator[Int[np.ndarray, " cell"]]:
        """Yield the row numbers of each minibatch."""
        order = self._draw_order(derive_generator(self._seed, "order", self.epoch))
        first_epoch, minibatches_done = self._first
        for number in range(minibatches_done if self.epoch == first_epoch else 0, len(self)):
            minibatch = order[number * self.minibatch_size : (number + 1) * self.minibatch_size]
            yield self._rows[minibatch[self._share]]

    def _draw_order(self, draw: np.random.Generator) -> Int[np.ndarray, " drawn_cell"]:
        if self._groups is None:
            return draw.permutation(len(self._rows))
        if self._sampler == "within-batch":
            return gather_by_group(self._groups, self.minibatch_size, draw)
        return deal_evenly(self._groups, draw)


def deal_evenly(groups: Int[np.ndarray, " cell"], draw: np.random.Generator) -> Int[np.ndarray, " cell"]:
    """Draw as many cells as there are, from every group equally often, dealt out like cards: one of each a round.

    Cells are 0, 1, …; `groups` has the code of each one's group. Where the number cannot be shared, some groups, other
    ones each time, give one more. No cell is given twice more often than another of its group.
    """
    members = _split_by_group(groups)
    share, rest = divmod(len(groups), len(members))
    shares = np.full(len(members), share)
    shares[draw.permutation(len(members))[:rest]] += 1
    chosen, rounds = np.empty(len(groups), dtype=np.int64), np.empty(len(groups), dtype=np.int64)
    ends = np.cumsum(shares)
    for cells, wanted, end in zip(members, shares, ends, strict=True):
        turns = [draw.permutation(cells) for _ in range(-(-wanted // len(cells)))]
        chosen[end - wanted : end] = np.concatenate(turns)[:wanted] if turns else 0
        rounds[end - wanted : end] = np.arange(wanted)
    mixed = draw.permutation(len(groups))
    return chosen[mixed[np.argsort(rounds[mixed], kind="stable")]]


def gather_by_group(
    groups: Int[np.ndarray, " cell"], minibatch_size: int, draw: np.random.Generator
) -> Int[np.ndarray, " drawn_cell"]:
    """Draw every cell once, in minibatches of one group each, but for the rest of a group that fills none."""
    whole = [
        draw.permutation(cells)[: len(cells) // minibatch_size * minibatch_size].reshape(-1, minibatch_size)
        for cells in _split_by_group(groups)
    ]
    return draw.permutation(np.concatenate(whole)).reshape(-1)


def _split_by_group(groups: Int[np.ndarray, " cell"]) -> list[np.ndarray]:
    """List the numbers of each group's cells, ascending."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
