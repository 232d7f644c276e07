"""Crops by the minibatch: read ahead, in order, in flat memory."""

import gc
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeScreen

from cytoclr.config import SamplerName, TrainSettings
from cytoclr.data.crops import CropStore, Shard, write_crop_manifest
from cytoclr.errors import DamagedError
from cytoclr.learn.dataset import CropDataset, MinibatchLoader, build_loader, read_minibatch
from cytoclr.learn.minibatch import Minibatch, prepare_crops
from cytoclr.learn.order import EpochOrder
from cytoclr.learn.train import train
from cytoclr.progress import Silent


def order_rows(num_cells: int, **changes: Any) -> EpochOrder:
    nothing = np.zeros(num_cells, dtype=np.int64)
    values = {"minibatch_size": 8, "sampler": "random", "seed": 0}
    return EpochOrder(np.arange(num_cells), nothing, **{**values, **changes})


def count_readers() -> int:
    return sum(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_crops_are_scaled_then_transformed(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    rows = np.array([30, 2])
    expected = ((crops.read(rows).astype(np.float64) - 150) / (2500 - 150)).clip(0, 1)
    for preload in (False, True):
        minibatch = CropDataset(crops, preload=preload)[rows]
        np.testing.assert_array_equal(minibatch.rows, rows)
        np.testing.assert_allclose(prepare_crops(minibatch, "linear"), expected, atol=1e-6)
    root = prepare_crops(CropDataset(crops)[rows], "sqrt")
    torch.testing.assert_close(root, torch.from_numpy(expected).float().sqrt(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("num_workers", "preload"), [(0, False), (0, True), (1, False)])
def test_loaders_give_the_orders_minibatches(make_screen: MakeScreen, num_workers: int, preload: bool) -> None:
    crops, _ = make_screen()
    order = order_rows(len(crops))
    loader = build_loader(CropDataset(crops, preload=preload), order, num_workers=num_workers)
    assert len(loader) == len(order) == 6
    random_state = torch.get_rng_state()
    for epoch in (0, 3):
        iterator = iter(loader)
        order.set_epoch(epoch)  # as Lightning does it: the iterator first
        for rows, minibatch in zip(list(order), iterator, strict=True):
            for found, expected in zip(minibatch, read_minibatch(crops, rows), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state), "reading drew from torch's generator"


class Gate(CropDataset):
    """Notes what is read and announced; minibatches with row 40 cannot be read."""

    def __init__(self, crops: CropStore) -> None:
        super().__init__(crops)
        self.read: list[int] = []
        self.announced: list[int] = []

    def __getitem__(self, rows: np.ndarray) -> Minibatch:
        if 40 in rows:
            raise DamagedError("row 40 is damaged")
        self.read.append(int(rows[0]))
        return super().__getitem__(rows)

    def announce(self, rows: np.ndarray) -> None:
        self.announced.append(int(rows[0]))


def wait_for(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_the_next_minibatch_is_read_and_the_one_after_it_announced_while_one_is_used(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    dataset = Gate(crops)
    loader = iter(build_loader(dataset, list(np.arange(40).reshape(5, 8)), num_workers=0))
    assert not dataset.read, "something was read before it was asked for"
    for number in range(3):
        next(loader)
        wait_for(lambda number=number: len(dataset.read) == number + 2)
        time.sleep(0.02)
        assert dataset.read == [8 * i for i in range(number + 2)], "more was read ahead than one minibatch"
    assert dataset.announced == [0, 8, 16, 24, 32]


def test_what_cannot_be_read_is_raised_in_its_turn_and_the_thread_ends(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    dataset = Gate(crops)
    loader = iter(build_loader(dataset, list(np.arange(48).reshape(6, 8)), num_workers=0))
    assert [int(next(loader).rows[0]) for _ in range(5)] == [0, 8, 16, 24, 32]
    with pytest.raises(DamagedError, match="row 40 is damaged"):
        next(loader)
    assert count_readers() == 0


def test_stopping_early_ends_the_thread(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    loader = build_loader(CropDataset(crops), order_rows(len(crops)), num_workers=0)
    for _ in loader:
        assert count_readers() == 1
        break
    gc.collect()
    assert count_readers() == 0
    iterator = iter(loader)
    next(iterator)
    del iterator
    gc.collect()
    assert count_readers() == 0
    assert len(list(loader)) == 6
    assert count_readers() == 0


class Mean(pl.LightningModule):
    """Keeps the row numbers that Lightning shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown: dict[int, list[list[int]]] = {}

    def training_step(self, minibatch: Minibatch, index: int) -> torch.Tensor:
        assert isinstance(minibatch, Minibatch)
        self.shown.setdefault(self.current_epoch, []).append(minibatch.rows.tolist())
        return self.weight * minibatch.crops.float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec.*")
def test_lightning_shows_each_epochs_order_also_after_an_interruption(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, _ = make_screen()

    def fit(module: Mean, epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
        loader = build_loader(CropDataset(crops), order_rows(len(crops)), num_workers=0)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return trainer

    begun, resumed = Mean(), Mean()
    fit(begun, 2).save_checkpoint(tmp_path / "two.ckpt")
    fit(resumed, 4, tmp_path / "two.ckpt")
    order = order_rows(len(crops))
    for epoch in range(4):
        order.set_epoch(epoch)
        assert {**begun.shown, **resumed.shown}[epoch] == [rows.tolist() for rows in order]
    gc.collect()
    assert count_readers() == 0


def make_sparse_crops(folder: Path, num_cells: int) -> None:
    """Make crops of 24 kB that take no room on disk: a hole after the file's head."""
    shape = (num_cells // 4, 3, 64, 64)
    folder.mkdir()
    for plate in range(4):
        with (folder / f"P{plate}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + int(np.prod(shape)) * 2)
    shards = [Shard(f"P{plate}.npy", f"P{plate}", shape[0], (100.0,) * 3, (900.0,) * 3) for plate in range(4)]
    names, dtype = ("DNA", "Tubulin", "Actin"), np.dtype("<u2")
    write_crop_manifest(
        folder, shards, channels=names, size_px=64, pixel_size_um=None, dtype=dtype, intensity={"rule": "fixed"}
    )


def read_resident_mib() -> float:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def begin_epochs(folder: Path, samplers: tuple[SamplerName, ...]) -> dict[str, float]:
    """Begin an epoch of each sampler and read 30 minibatches; by how many MiB did resident memory grow at most?"""
    gc.collect()
    before, grown_mib = read_resident_mib(), {}
    crops = CropStore(folder)
    rows, codes = np.arange(len(crops)), np.arange(len(crops)) % 7
    for sampler in samplers:
        order = EpochOrder(rows, codes, batches=codes, minibatch_size=256, sampler=sampler, seed=0)
        loader = build_loader(CropDataset(crops), order, num_workers=0)
        resident = [read_resident_mib() - before for _ in zip(range(30), loader, strict=False)]
        grown_mib[sampler] = max(resident)
        assert len(order) > 3_900
    return grown_mib


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads resident memory as Linux tells it")
def test_an_epoch_of_a_million_crops_begins_in_the_memory_of_a_few(tmp_path: Path) -> None:
    """24 GB of crops, of which 30 minibatches are 184 MiB: neither the rest is read, nor are these kept.

    What is left is three minibatches, 18 MiB, and 8 bytes a cell for each of rows, codes and order, with what a
    balanced order needs while it is drawn.
    """
    make_sparse_crops(tmp_path / "crops", 1_000_000)
    grown_mib = begin_epochs(tmp_path / "crops", ("random", "within-batch", "balanced"))
    assert grown_mib["random"] < 80
    assert max(grown_mib.values()) < 130


class StopAfter(Silent):
    """Ctrl-C after a few steps, with the resident memory of each."""

    def __init__(self, num_steps: int) -> None:
        self.resident_mib: list[float] = []
        self._num_steps = num_steps

    def advance(self, count: int = 1, **facts: float) -> None:
        self.resident_mib.append(read_resident_mib())
        if len(self.resident_mib) == self._num_steps:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads resident memory as Linux tells it")
def test_training_on_a_million_crops_begins_without_loading_them(tmp_path: Path) -> None:
    """24 GB of crops and a table of a million cells, 385 wells each on ten plates: four steps, then Ctrl-C."""
    num_cells = 1_000_000
    make_sparse_crops(tmp_path / "crops", num_cells)
    numbers = np.arange(num_cells)
    plates, wells, treatments = numbers // 100_000, numbers // 261 % 384, numbers // 261 % 384 % 97
    name = np.vectorize("{}{:03d}".format, otypes=[object])
    cells = pd.DataFrame(
        {
            "Metadata_CellID": pd.Series(numbers.astype(str)),
            "Metadata_Plate": name("P", np.arange(10))[plates],
            "Metadata_Well": name("W", np.arange(384))[wells],
            "Metadata_Batch": name("Week", np.arange(10))[plates // 2],
            "Metadata_Compound": name("compound", np.arange(97))[treatments],
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": "trt",
            "Metadata_Site": 1,
            "Metadata_Object": numbers,
            "x": 100.0,
            "y": 100.0,
        }
    )
    settings = TrainSettings(view_size_px=16, minibatch_size=64, epochs=1)
    crops, stop, before = CropStore(tmp_path / "crops"), StopAfter(4), read_resident_mib()
    with pytest.raises(KeyboardInterrupt):
        train(crops, cells, settings, folder=tmp_path / "model", device="cpu", progress=stop)
    assert stop.resident_mib[-1] - before < 2_000  # of 24,000; the table's text is most of it
    assert stop.resident_mib[-1] - stop.resident_mib[1] < 50


def test_a_loader_is_one_that_lightning_knows(make_screen: MakeScreen) -> None:
    crops, _ = make_screen()
    order = order_rows(len(crops))
    loader = build_loader(CropDataset(crops), order, num_workers=0)
    assert isinstance(loader, MinibatchLoader)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert loader.sampler is order


@pytest.mark.gpu
def test_pinned_minibatches(make_screen: MakeScreen) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    crops, _ = make_screen()
    loader = build_loader(CropDataset(crops), order_rows(len(crops)), num_workers=0, pin_memory=True)
    for minibatch in loader:
        assert all(tensor.is_pinned() for tensor in minibatch)
