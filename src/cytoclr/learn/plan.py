"""All of a training that is decided before its first step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from cytoclr.config import HOW_FAST, TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError, MachineError, SettingsError
from cytoclr.learn.draws import derive_generator
from cytoclr.learn.labels import CellLabels, encode_labels
from cytoclr.learn.order import EpochOrder, split_wells
from cytoclr.storage import hash_json
from cytoclr.tables import treatment_names

__all__ = ["Plan", "make_plan"]

#: Settings that change nothing in the result: a run may go on with others.
FREE_SETTINGS = (*HOW_FAST, "log_every_n_steps", "checkpoint_every_n_epochs", "probe")


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first step."""

    crops: CropStore
    settings: TrainSettings
    folder: Path
    seed: int
    place: torch.device
    rows_trained: Int[np.ndarray, " trained_cell"]
    rows_validated: Int[np.ndarray, " validated_cell"]
    labels: CellLabels
    wells_trained: tuple[str, ...]
    wells_validated: tuple[str, ...]
    identity: dict[str, Any]

    @property
    def num_processes(self) -> int:
        """Processes that share each minibatch, on all machines."""
        return self.settings.devices * self.settings.nodes

    @property
    def chunk_size(self) -> int | None:
        """Cells of a chunk in one process; None where a minibatch is not divided."""
        whole = self.settings.chunk_size
        return None if whole is None or whole >= self.settings.minibatch_size else whole // self.num_processes

    def build_order(self, process: int = 0, num_processes: int = 1) -> EpochOrder:
        """Build the order of the training cells, for one of several processes."""
        return EpochOrder(
            self.rows_trained,
            self.labels.treatments[self.rows_trained],
            minibatch_size=self.settings.minibatch_size,
            sampler=self.settings.sampler,
            seed=self.seed,
            batches=self.labels.batches[self.rows_trained],
            process=process,
            num_processes=num_processes,
        )

    def split_validation(self) -> list[np.ndarray]:
        """Divide the validation cells, mixed once, into whole minibatches, or one smaller than that."""
        rows = derive_generator(self.seed, "validation").permutation(self.rows_validated)
        size = min(self.settings.minibatch_size, len(rows))
        return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)] if size > 1 else []


def make_plan(
    crops: CropStore, cells: pd.DataFrame, settings: TrainSettings, *, folder: Path, seed: int, place: torch.device
) -> Plan:
    """Decide it.

    Raises
    ------
    DataError
        Crops and cells differ in number, or too few are left to train on.
    SettingsError, MachineError
        The minibatch or its chunks cannot be shared by the devices, there are fewer of them, or they do not compute in
        this precision.
    """
    if len(crops) != len(cells):
        raise DataError(f"{crops.folder}: {len(crops):,} crops for {len(cells):,} cells. Run the crop stage again.")
    _check_devices(settings, place)
    trained, validated = split_wells(cells, settings.validation_fraction, seed=seed)
    num_processes = settings.devices * settings.nodes
    if len(trained) < 2 * num_processes:
        raise DataError(f"cells: {len(trained)} are left to train on, expected at least {2 * num_processes}.")
    wells = cells["Metadata_Plate"] + "/" + cells["Metadata_Well"]
    names = treatment_names(cells)
    dumped = settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    identity = {
        **{f"train.{name}": value for name, value in dumped.items()},
        "seed": seed,
        "channels": list(crops.channels),
        "cells": hash_json([cells["Metadata_CellID"].tolist(), wells.tolist(), names.tolist()]),
    }
    return Plan(
        crops,
        settings,
        folder,
        seed,
        place,
        trained,
        validated,
        encode_labels(cells),
        tuple(sorted(wells.iloc[trained].unique())),
        tuple(sorted(wells.iloc[validated].unique())),
        identity,
    )


def _check_devices(settings: TrainSettings, place: torch.device) -> None:
    num_devices = settings.devices * settings.nodes
    for name in ("minibatch_size", "chunk_size"):
        size = getattr(settings, name)
        if size is not None and size % num_devices:
            raise SettingsError(f"train.{name}: {size} cannot be shared by {num_devices} devices. Choose a multiple.")
    if settings.precision == "16-mixed" and place.type != "cuda":
        raise SettingsError("train.precision: 16-mixed needs a GPU. Set it to bf16-mixed, or to 32.")
    if place.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise MachineError(f"train.devices: {settings.devices} GPUs asked for, {torch.cuda.device_count()} found.")
