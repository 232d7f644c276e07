"""Crops by the minibatch: read from disk ahead of the step that needs them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt
from torch.utils.data import DataLoader, Dataset

from cytoclr.data.crops import CropStore
from cytoclr.learn.minibatch import Minibatch
from cytoclr.learn.order import EpochOrder

__all__ = ["CropDataset", "MinibatchLoader", "build_loader", "read_minibatch"]


class CropDataset(Dataset[Minibatch]):
    """Crops by the minibatch: an item is a list of row numbers, read in one go."""

    def __init__(self, crops: CropStore, *, preload: bool = False) -> None:
        self._crops = crops
        self._memory = crops.read(np.arange(len(crops))) if preload else None

    def __getitem__(self, rows: Int[np.ndarray, " cell"]) -> Minibatch:
        """Read the crops of these rows."""
        return read_minibatch(self._crops, rows, memory=self._memory)

    def announce(self, rows: Int[np.ndarray, " cell"]) -> None:
        """Let the system fetch the crops of these rows from disk."""
        if self._memory is None:
            self._crops.announce(rows)


def read_minibatch(
    crops: CropStore,
    rows: Int[np.ndarray, " cell"],
    *,
    memory: UInt[np.ndarray, "stored_cell channel height width"] | None = None,
) -> Minibatch:
    """Read crops and their ranges; from `memory`, if all are there."""
    raw = crops.read(rows) if memory is None else memory[rows]
    return Minibatch(*(torch.from_numpy(array) for array in (rows, raw, *crops.read_ranges(rows))))


def build_loader(
    dataset: CropDataset, order: EpochOrder | Sequence[np.ndarray], *, num_workers: int, pin_memory: bool = False
) -> "MinibatchLoader":
    """Build a loader whose items are minibatches, in the order given.

    Parameters
    ----------
    dataset, order
        The crops, and the row numbers of each minibatch.
    num_workers
        Processes that read. Nought: a thread of this process reads the next minibatch while one is used, and lets the
        system fetch the one after it; crops on disk or in memory need no more.
    pin_memory
        Put minibatches where a GPU fetches them without waiting; needs one.
    """
    return MinibatchLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # else torch's own generator is drawn from, and dropout would depend on who reads
        generator=torch.Generator(),
    )


class MinibatchLoader(DataLoader[Minibatch]):
    """PyTorch's loader, which Lightning knows how to treat, except that one process reads ahead as well."""

    def __iter__(self) -> Iterator[Minibatch]:  # type: ignore[override]
        """Yield the minibatches. What fails in reading is raised here, when its turn comes."""
        # a generator, so that nothing is read at once: Lightning asks for this before it tells the order the epoch
        yield from super().__iter__() if self.num_workers else self._read_ahead()

    def _read_ahead(self) -> Iterator[Minibatch]:
        """Yield a minibatch while the next is read and the one after that is announced."""
        assert isinstance(self.dataset, CropDataset)
        reader = ThreadPoolExecutor(1, "read-ahead", **self._follow_gpu())
        reading: deque[Future[Minibatch]] = deque()
        try:
            for rows, later_rows in pairwise(chain([None], self.sampler, [None])):
                if later_rows is not None:
                    reader.submit(self.dataset.announce, later_rows)
                if rows is not None:
                    reading.append(reader.submit(self._read, rows))
                if len(reading) > 1:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            reader.shutdown(cancel_futures=True)

    def _read(self, rows: np.ndarray) -> Minibatch:
        minibatch: Minibatch = self.dataset[rows]
        return Minibatch(*(tensor.pin_memory() for tensor in minibatch)) if self.pin_memory else minibatch

    def _follow_gpu(self) -> dict[str, Any]:
        """Let the thread use the GPU of its process: pinning on another would hold memory there."""
        if not self.pin_memory:
            return {}
        return {"initializer": torch.cuda.set_device, "initargs": (torch.cuda.current_device(),)}
