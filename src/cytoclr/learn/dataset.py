"""Which cells are trained on, in which order, and their crops by the minibatch."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt
from torch.utils.data import DataLoader, Dataset, Sampler

from cytoclr.data.crops import CropStore
from cytoclr.errors import SettingsError
from cytoclr.learn.draws import derive_generator
from cytoclr.learn.minibatch import Minibatch
from cytoclr.tables import TREATMENT, WELL

__all__ = ["CropDataset", "EpochOrder", "build_loader", "order_cells", "read_minibatch", "split_wells"]


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


def order_cells(
    treatments: Int[np.ndarray, " cell"],
    sampler: Literal["random", "balanced", "batch-balanced"],
    *,
    seed: int,
    epoch: int,
) -> Int[np.ndarray, " cell"]:
    """Draw an epoch's order of the cells 0, 1, … whose treatments are given as codes.

    ``random`` takes every cell once. ``balanced`` takes as many cells, of every treatment equally often (to within
    one): a treatment with few cells gives each of them several times, one with many a random part.
    """
    draw = derive_generator(seed, "order", epoch)
    if sampler == "random":
        return draw.permutation(len(treatments))
    codes = np.unique(treatments)
    shares = np.full(len(codes), len(treatments) // len(codes))
    shares[draw.permutation(len(codes))[: len(treatments) % len(codes)]] += 1
    chosen = []
    for code, share in zip(codes, shares, strict=True):
        members = np.flatnonzero(treatments == code)
        rounds = [draw.permutation(members) for _ in range(-(-share // len(members)))]
        chosen.append(np.concatenate([np.arange(0), *rounds])[:share])
    return draw.permutation(np.concatenate(chosen))


class CropDataset(Dataset[Minibatch]):
    """Crops by the minibatch: an item is a list of row numbers, read in one go."""

    def __init__(self, crops: CropStore, *, preload: bool = False) -> None:
        self._crops = crops
        self._memory = crops.read(np.arange(len(crops))) if preload else None

    def __getitem__(self, rows: Int[np.ndarray, " cell"]) -> Minibatch:
        """Read the crops of these rows."""
        return read_minibatch(self._crops, rows, memory=self._memory)


def read_minibatch(
    crops: CropStore,
    rows: Int[np.ndarray, " cell"],
    *,
    memory: UInt[np.ndarray, "stored_cell channel height width"] | None = None,
) -> Minibatch:
    """Read crops and their ranges; from `memory`, if all are there."""
    raw = crops.read(rows) if memory is None else memory[rows]
    return Minibatch(*(torch.from_numpy(array) for array in (rows, raw, *crops.read_ranges(rows))))


class EpochOrder(Sampler[Int[np.ndarray, " cell"]]):
    """Row numbers by the minibatch, in an order that follows from the seed and the epoch set last.

    With several processes each takes its share of every minibatch, so the minibatches are those of one process.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " cell"],
        treatments: Int[np.ndarray, " cell"],
        *,
        minibatch_size: int,
        sampler: Literal["random", "balanced", "batch-balanced"],
        seed: int,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        self._rows = rows
        self._treatments = treatments
        self._sampler = sampler
        self._seed = seed
        self._share = slice(process, None, num_processes)
        #: A smaller set than one minibatch is one minibatch; what is left over of an epoch is not trained on.
        self.minibatch_size = min(minibatch_size, len(rows) // num_processes * num_processes)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the minibatches of an epoch."""
        return len(self._rows) // self.minibatch_size if self.minibatch_size else 0

    def __iter__(self) -> Iterator[Int[np.ndarray, " cell"]]:
        """Yield the row numbers of each minibatch."""
        order = self._rows[order_cells(self._treatments, self._sampler, seed=self._seed, epoch=self.epoch)]
        for start in range(0, len(self) * self.minibatch_size, self.minibatch_size):
            yield order[start : start + self.minibatch_size][self._share]


def build_loader(
    dataset: CropDataset, order: EpochOrder | Sequence[np.ndarray], *, num_workers: int
) -> DataLoader[Minibatch]:
    """Build a loader whose items are minibatches."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
    )
