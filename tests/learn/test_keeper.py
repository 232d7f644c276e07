"""What a training leaves behind to be looked at, and what it says when it goes wrong."""

import io
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MakeScreen
from PIL import Image

from cytoclr.config import AugmentSettings, ProbeSettings, TrainSettings
from cytoclr.data.crops import CropStore, Shard, open_shard, write_crop_manifest
from cytoclr.errors import SettingsError
from cytoclr.learn import keeper as keeper_module
from cytoclr.learn import train
from cytoclr.learn.keeper import MAX_VIEWS_BYTES, VIEWS_FILE, write_views
from cytoclr.learn.metrics import EPOCH_METRICS, STEP_METRICS, read_metrics
from cytoclr.learn.module import SimClrModule
from cytoclr.storage import read_json

SMALL = TrainSettings(
    epochs=2,
    minibatch_size=16,
    view_size_px=24,
    log_every_n_steps=1,
    validation_fraction=0.2,
    projection_hidden=16,
    projection_dim=8,
)


class Listener:
    """A progress that notes what it is told."""

    def __init__(self) -> None:
        self.facts: list[dict[str, float]] = []

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, count: int = 1, **facts: float) -> None:
        self.facts.append(facts)

    def finish(self) -> None: ...


def test_every_metric_is_written_and_the_pictures_lie_in_the_folder(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen(cells_per_well=10)
    settings = SMALL.model_copy(update={"probe": ProbeSettings(every_n_epochs=2)})
    told = Listener()
    train(
        crops, cells, settings, folder=tmp_path, device="cpu", progress=told, probe=lambda encoder: {"accuracy": 0.25}
    )
    lines = read_metrics(tmp_path / "metrics.jsonl")
    about = {"event", "epoch", "step"}
    steps = [set(line) - about for line in lines if line["event"] == "step"]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert all(names == set(STEP_METRICS) for names in steps)
    assert set(epochs[0]) - about == set(EPOCH_METRICS) - {"collapsed"}
    assert set(epochs[1]) - set(epochs[0]) == {"probe_accuracy"}
    assert all(np.isfinite(value) for line in lines for name, value in line.items() if name != "event")
    assert all(0.0 <= line["wait_share"] <= 1.0 and line["grad_norm"] > 0.0 for line in epochs)
    assert set(told.facts[-1]) == {"loss", "cells_per_s", "wait_share"}
    # two channels of 24 px: crop, view and view of eight cells
    with Image.open(tmp_path / VIEWS_FILE) as picture:
        assert picture.size == (8 * 24, 2 * 3 * 24)
        assert np.asarray(picture).std() > 20.0
    places = list((tmp_path / "tensorboard").glob("*/cells/metadata.tsv"))
    assert len(places) == 1
    table = pd.read_csv(places[0], sep="\t")
    assert list(table.columns) == ["treatment", "plate", "well"]
    validated = {name.replace("/", " ") for name in _read_wells(tmp_path)}
    assert set(table["well"]) == validated


def _read_wells(folder: Path) -> list[str]:
    found: list[str] = read_json(folder / "model.json")["wells_validated"]
    return found


def test_a_healthy_training_is_not_called_collapsed(
    make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops, cells = make_screen(cells_per_well=10)
    train(crops, cells, SMALL.model_copy(update={"epochs": 8}), folder=tmp_path, device="cpu")
    assert not any("collapsed" in line for line in read_metrics(tmp_path / "metrics.jsonl"))
    assert "collapsed" not in caplog.text


def make_twins(folder: Path, cells: pd.DataFrame) -> CropStore:
    """Crops that are all the same: nothing tells their cells apart."""
    y, x = np.mgrid[:24, :24] - 12.0
    disc = (200 + 2000 * np.exp(-(x**2 + y**2) / 20)).astype(np.uint16)
    with open_shard(folder / "all.npy", 1, 24, np.dtype(np.uint16)) as writer:
        writer.append(np.broadcast_to(disc, (len(cells), 1, 24, 24)).copy())
    shard = Shard("all.npy", "P1", len(cells), low=(150.0,), high=(2500.0,))
    write_crop_manifest(
        folder, [shard], channels=["DNA"], size_px=24, pixel_size_um=None, dtype=np.dtype(np.uint16), intensity={}
    )
    return CropStore(folder)


@pytest.mark.promise("Numbers", "An encoder that tells no cells apart is said, and written down")
def test_a_collapse_is_warned_of_once_and_written_down(
    make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, cells = make_screen(cells_per_well=10)
    crops = make_twins(tmp_path / "crops", cells)
    still = AugmentSettings(min_scale=1.0, rotate=False, flip=False, strength=0.0)
    settings = SMALL.model_copy(update={"epochs": 6, "learning_rate": 1e-5, "augment": still})
    with caplog.at_level(logging.WARNING, logger="cytoclr.learn.keeper"):
        train(crops, cells, settings, folder=tmp_path / "model", device="cpu")
    epochs = [line for line in read_metrics(tmp_path / "model" / "metrics.jsonl") if line["event"] == "epoch"]
    assert [line["epoch"] for line in epochs if line.get("collapsed") == 1] == [4, 5, 6]
    warnings = [record.message for record in caplog.records if "collapsed" in record.message]
    assert len(warnings) == 1
    assert "(epoch 4). Lower train.learning_rate (now 1e-05)" in warnings[0]


@pytest.mark.promise("Numbers", "A validation loss that is not finite stops training")
def test_a_validation_loss_that_is_not_finite_stops_the_training(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, cells = make_screen(cells_per_well=10)
    monkeypatch.setattr(
        SimClrModule, "validation_step", lambda self, minibatch, index: self.validation["val_loss"].append(float("nan"))
    )
    with pytest.raises(SettingsError, match=r"the validation loss is nan after step 3 \(epoch 1\)"):
        train(crops, cells, SMALL, folder=tmp_path, device="cpu")
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 3


def test_a_missing_package_is_refused_before_anything_is_trained(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, cells = make_screen()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = SMALL.model_copy(update={"loggers": ("wandb",)})
    with pytest.raises(SettingsError, match="pip install wandb"):
        train(crops, cells, settings, folder=tmp_path, device="cpu")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_without_loggers_the_lines_are_written_all_the_same(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    train(crops, cells, SMALL.model_copy(update={"epochs": 1, "loggers": ()}), folder=tmp_path, device="cpu")
    assert read_metrics(tmp_path / "metrics.jsonl")
    assert not (tmp_path / "tensorboard").exists()


def test_a_large_picture_is_made_to_fit_the_report(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 800), dtype=np.uint8)
    write_views(tmp_path / "views.webp", noise, num_cells=8)
    written = (tmp_path / "views.webp").read_bytes()
    assert len(written) <= MAX_VIEWS_BYTES
    width, height = Image.open(io.BytesIO(written)).size
    assert height == 900
    assert width in range(100, 800, 100)  # whole cells


def test_the_clouds_of_all_processes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, projections = torch.rand(6, 4), torch.rand(2, 6, 3)
    parts = {4: embeddings.reshape(2, 3, 4), 3: projections.reshape(2, 2, 3, 3).movedim(1, 0)}

    class Module:
        trainer = type("Trainer", (), {"world_size": 2})
        last_embeddings, last_projections = parts[4][0], parts[3][0]

        def all_gather(self, part: torch.Tensor) -> torch.Tensor:
            return parts[part.shape[-1]]

    gather = keeper_module._gather_clouds
    monkeypatch.setattr(keeper_module, "SimClrModule", Module)
    found = getattr(gather, "__wrapped__", gather)(Module())
    assert torch.equal(found[0], embeddings)
    assert torch.equal(found[1], projections)
