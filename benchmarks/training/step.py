"""A whole training step: cells a second, where its time goes, and the memory of a large minibatch in chunks.

The step is that of `cytoclr train`, Lightning's loop included, on crops of noise in a crop store of its own. Cases run
by turns; waiting for crops, drawing views, the loss (with its way back to the projections) and the optimiser (with the
gradient's norm) are timed within the step, what is left are the networks, forward and backward. Memory is the most a
process has had resident that trains two steps and does nothing else.
"""

import itertools
import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from cytoclr.config import TrainSettings
from cytoclr.data.crops import CropStore, Shard, open_shard, write_crop_manifest
from cytoclr.learn.model import build_untrained_networks
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.plan import make_plan
from training import Times, peak_of, run_alone

CASES: dict[str, dict[str, Any]] = {
    "small-cnn, 64 px, float32": {},
    "small-cnn, 64 px, bf16": {"precision": "bf16-mixed"},
    "resnet18, 96 px, float32": {"backbone": "resnet18", "view_size_px": 96, "minibatch_size": 128},
    "resnet18, 96 px, bf16": {
        "backbone": "resnet18",
        "view_size_px": 96,
        "minibatch_size": 128,
        "precision": "bf16-mixed",
    },
}
ROUNDS, STEPS = 3, 3
#: Minibatch and chunk size, each in a process of its own.
MEMORY_CASES = ((256, None), (1024, None), (4096, None), (1024, 256), (8192, 256))
PARTS = ("wait", "views", "networks", "loss", "optimiser")


def measure() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        print(compare_steps(Path(folder)).to_string(index=False), flush=True)
        print()
        print(compare_memory(Path(folder)).to_string(index=False), flush=True)


def compare_steps(folder: Path) -> pd.DataFrame:
    """Measure a few steps of every case, by turns."""
    parts: dict[str, Counter[str]] = {name: Counter() for name in CASES}
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for number, (name, values) in itertools.product(range(ROUNDS + 1), CASES.items()):
        settings = TrainSettings(**values)
        clock = train_steps(settings, make_crops(folder, 2048, settings.view_size_px), STEPS)
        if number:  # the first round does not count
            seconds[name] += clock.steps_s[1:]
            parts[name] += clock.parts_s
    return pd.DataFrame([_describe(name, Times(tuple(seconds[name])), parts[name]) for name in CASES])


def _describe(name: str, times: Times, parts: Counter[str]) -> dict[str, object]:
    size = TrainSettings(**CASES[name]).minibatch_size
    slowest, fastest = (size / value for value in reversed(times.spread))
    row: dict[str, object] = {
        "step": name,
        "minibatch": size,
        "cells/s": f"{size / times.median:.0f} ({slowest:.0f} to {fastest:.0f})",
    }
    return row | {part: f"{100 * parts[part] / parts.total():.1f} %" for part in PARTS}


def compare_memory(folder: Path) -> pd.DataFrame:
    """Train two steps in a process of its own for each case."""
    rows = []
    for minibatch_size, chunk_size in MEMORY_CASES:
        (before, speed), peak = run_alone(train_alone, make_crops(folder, 8192, 64).folder, minibatch_size, chunk_size)
        rows.append(
            {
                "minibatch": minibatch_size,
                "chunk": chunk_size or "none",
                "peak memory, MiB": round(peak),
                "of it before the first step": round(before),
                "cells/s": round(speed),
            }
        )
    return pd.DataFrame(rows)


def train_alone(crops: Path, minibatch_size: int, chunk_size: int | None) -> tuple[float, float]:
    """Train two steps; return the peak memory before them, in MiB, and the second's cells a second."""
    settings = TrainSettings(minibatch_size=minibatch_size, chunk_size=chunk_size)
    before = peak_of()
    clock = train_steps(settings, CropStore(crops), 2)
    return before, minibatch_size / clock.steps_s[1]


class Clock(pl.Callback):
    """Times steps and their parts."""

    def __init__(self) -> None:
        self.steps_s: list[float] = []
        self.parts_s: Counter[str] = Counter()
        self._step: Counter[str] = Counter()
        self._marks: dict[str, float] = {}
        self._waited_s = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Time a part of a step."""
        started_s = time.perf_counter()
        yield
        self._step[part] += time.perf_counter() - started_s

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Time each call of a function."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.time(part):
                return function(*arguments, **keywords)

        return timed

    def watch(self, module: SimClrModule) -> None:
        """Put clocks into a module."""
        module.augmenter.draw_pair = self.wrap("views", module.augmenter.draw_pair)
        module.loss.forward = self.wrap("loss", module.loss.forward)
        module.loss.register_forward_pre_hook(lambda _, inputs: self._watch_way_back(inputs[0]))

    def _watch_way_back(self, projections: torch.Tensor) -> None:
        def arrive(_: torch.Tensor) -> None:
            self._step["loss"] += time.perf_counter() - self._marks["backward"]

        if projections.requires_grad:
            projections.register_hook(arrive)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin a step."""
        self._step = Counter()
        self._marks["step"] = time.perf_counter()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Begin the way back."""
        self._marks["backward"] = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Begin the optimiser's part."""
        self._marks["optimiser"] = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End a step; the first of a training counts for nothing."""
        now = time.perf_counter()
        waited_s = pl_module.data_wait_s - self._waited_s
        self._waited_s = pl_module.data_wait_s
        self._step |= {"optimiser": now - self._marks["optimiser"], "wait": waited_s}
        total_s = now - self._marks["step"] + waited_s
        self._step["networks"] = total_s - self._step.total()
        if self.steps_s:
            self.parts_s += self._step
        self.steps_s.append(total_s)


def train_steps(settings: TrainSettings, crops: CropStore, num_steps: int) -> Clock:
    """Train a few steps by Lightning, as `cytoclr.learn.train` does, and tell how long they took."""
    settings = settings.model_copy(update={"validation_fraction": 0.0, "epochs": 1000})
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = make_plan(crops, describe_cells(len(crops)), settings, folder=crops.folder, seed=0, place=place)
    module = SimClrModule(*build_untrained_networks(settings, len(crops.channels), seed=0), plan)
    clock = Clock()
    clock.watch(module)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cuda" if place.type == "cuda" else "cpu",
            devices=1,
            precision=settings.precision,
            max_epochs=settings.epochs,
            max_steps=num_steps + 1,
            limit_val_batches=0,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module)
    return clock


def make_crops(folder: Path, num_cells: int, size_px: int) -> CropStore:
    """Write crops of three channels of noise, once."""
    place = folder / f"{num_cells}-{size_px}"
    if not place.is_dir():
        draw = np.random.default_rng(0)
        with open_shard(place / "P1.npy", 3, size_px, np.dtype(np.uint16)) as writer:
            for _ in range(num_cells // 512):
                writer.append(draw.integers(0, 4000, (512, 3, size_px, size_px), dtype=np.uint16))
        shard = Shard("P1.npy", "P1", num_cells, (0.0,) * 3, (4000.0,) * 3)
        names, rule = ["DNA", "Tubulin", "Actin"], {"rule": "fixed"}
        kind = np.dtype(np.uint16)
        write_crop_manifest(
            place, [shard], channels=names, size_px=size_px, pixel_size_um=None, dtype=kind, intensity=rule
        )
    return CropStore(place)


def describe_cells(num_cells: int) -> pd.DataFrame:
    """Spread cells over wells of one plate."""
    wells = [f"{'ABCDEFGH'[number % 8]}{number % 12 + 1:02d}" for number in range(num_cells)]
    return pd.DataFrame(
        {
            "Metadata_CellID": [str(number) for number in range(num_cells)],
            "Metadata_Plate": "P1",
            "Metadata_Well": wells,
            "Metadata_Batch": "P1",
            "Metadata_Compound": wells,
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": "trt",
        }
    )
