"""What is written while training goes on: finite numbers, whole lines, and the same for every logger."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cytoclr.errors import SettingsError
from cytoclr.learn.loggers import check_loggers
from cytoclr.learn.metrics import EPOCH_METRICS, STEP_METRICS, MetricsLog, read_metrics

ROOT = Path(__file__).parents[2]


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_what_is_not_finite_becomes_null_and_no_event(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, last_step=0, loggers=("tensorboard",))
    log.write("step", 1, 1, {"train_loss": 2.0, "grad_norm": float("inf")})
    log.write("step", 1, 2, {"train_loss": float("nan"), "grad_norm": 0.5})
    log.close(succeeded=True)
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first) == {"event": "step", "epoch": 1, "step": 1, "train_loss": 2.0, "grad_norm": None}
    assert "NaN" not in second
    assert read_events(tmp_path) == {"step/train_loss": [(1, 2.0)], "step/grad_norm": [(2, 0.5)]}


def test_a_line_is_in_the_file_as_soon_as_it_is_written_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, last_step=0)
    for step in (1, 2, 3):
        log.write("step", 1, step, {"train_loss": 2.0})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == step  # a process killed here has lost nothing
    log.close(succeeded=False)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    again = MetricsLog(tmp_path, last_step=2)
    again.write("epoch", 1, 3, {"train_loss": 1.0})
    again.close(succeeded=True)
    assert [(line["event"], line["step"]) for line in read_metrics(path)] == [("step", 1), ("step", 2), ("epoch", 3)]


def test_on_going_on_later_lines_and_events_are_dropped(tmp_path: Path) -> None:
    for last_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        log = MetricsLog(tmp_path, last_step=last_step, loggers=("tensorboard",))
        for step in steps:
            log.write("step", 1, step, {"train_loss": float(step + last_step)})
        log.close(succeeded=True)
    expected = [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0)]
    assert [(line["step"], line["train_loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == expected
    assert sorted(read_events(tmp_path)["step/train_loss"]) == expected


def test_the_projector_has_the_newest_cells_with_their_names(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, last_step=0, loggers=("tensorboard",))
    embeddings, crops = torch.rand(3, 4), torch.rand(3, 2, 8, 8)
    names = {"treatment": ["DMSO", "a\tb\nc", "taxol"], "plate": ["P1", "P1", "P2"]}
    for _ in range(2):  # the second time as after a power cut
        log.show_cells(embeddings, crops, names, 12)
    log.show_views(np.zeros((8, 8), dtype=np.uint8), 12)
    log.close(succeeded=True)
    place = tmp_path / "tensorboard" / "00012" / "cells"
    assert (place / "metadata.tsv").read_text().splitlines() == [
        "treatment\tplate",
        "DMSO\tP1",
        "a b c\tP1",
        "taxol\tP2",
    ]
    np.testing.assert_allclose(np.loadtxt(place / "tensors.tsv"), embeddings.numpy(), rtol=1e-6)
    assert (place / "sprite.png").is_file()
    assert "00012/cells/tensors.tsv" in (tmp_path / "tensorboard" / "projector_config.pbtxt").read_text()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["views"]


def test_every_metric_stands_in_the_documents() -> None:
    page = (ROOT / "docs/explanation/training.md").read_text(encoding="utf-8")
    for name in {**STEP_METRICS, **EPOCH_METRICS, "probe_accuracy": "", "probe_chance": ""}:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == name else object())
    with pytest.raises(SettingsError, match=rf"train\.loggers: {name} asked for, .* Run pip install {name}, or leave"):
        check_loggers(("tensorboard", name))
    check_loggers(("tensorboard",))


class Recorder:
    """Stands for a run of W&B, and for MLflow's client: notes what it is told."""

    def __init__(self, **about: Any) -> None:
        self.about, self.told, self.ended = about, [], None
        self.id, self.config = about.get("id"), self
        self.info = types.SimpleNamespace(run_id="run-1", experiment_id="7")

    def log(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def update(self, values: dict[str, Any], **_: Any) -> None:
        self.settings = values

    def finish(self, exit_code: int) -> None:
        self.ended = exit_code

    def get_experiment_by_name(self, name: str) -> None:
        self.name = name

    def create_experiment(self, **_: Any) -> str:
        return "7"

    def create_run(self, **_: Any) -> "Recorder":
        return self

    def get_run(self, run_id: str) -> "Recorder":
        self.found = run_id
        return self

    def log_batch(self, run_id: str, params: Any = (), metrics: Any = ()) -> None:
        self.told.append({"params": params, "metrics": metrics})

    def log_image(self, run_id: str, image: np.ndarray, file: str) -> None:
        self.told.append({file: image.shape})

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended = status


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(parts)
    monkeypatch.setitem(sys.modules, name, module)


def write_a_little(folder: Path, logger: Any, *, last_step: int, succeeded: bool) -> None:
    log = MetricsLog(folder, last_step=last_step, loggers=(logger,), about={"epochs": 3})
    log.write("epoch", 1, last_step + 5, {"train_loss": 2.0, "val_loss": float("nan")})
    log.show_views(np.zeros((6, 4), dtype=np.uint8), 5)
    log.show_cells(torch.rand(2, 2), torch.rand(2, 1, 4, 4), {"plate": ["P1", "P2"]}, 5)
    log.close(succeeded=succeeded)


def test_wandb_is_told_the_same_and_its_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Recorder] = []

    def init(**about: Any) -> Recorder:
        runs.append(Recorder(**about))
        return runs[-1]

    pretend(monkeypatch, "wandb", init=init, run=None, Image=lambda pixels: pixels.shape)
    pretend(monkeypatch, "wandb.sdk")
    pretend(monkeypatch, "wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
    pretend(monkeypatch, "wandb.wandb_run", Run=type("Run", (), {}))
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    write_a_little(tmp_path, "wandb", last_step=0, succeeded=False)
    write_a_little(tmp_path, "wandb", last_step=5, succeeded=True)
    first, second = runs
    assert (first.about["project"], first.about["dir"], first.about["resume"]) == ("cytoclr", str(tmp_path), "allow")
    assert first.about["id"] == second.about["id"]
    assert first.settings == {"epochs": 3}
    assert first.told == [
        {"epoch/train_loss": 2.0, "trainer/global_step": 5},
        {"views": [(6, 4)], "trainer/global_step": 5},
    ]
    assert (first.ended, second.ended) == (1, 0)
    write_a_little(tmp_path, "wandb", last_step=0, succeeded=True)
    assert runs[-1].about["id"] != first.about["id"]  # begun anew


def test_mlflow_is_told_the_same_and_its_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[Recorder] = []

    def connect(uri: str) -> Recorder:
        clients.append(Recorder(uri=uri))
        return clients[-1]

    plain = {
        "Metric": lambda **of: (of["key"], of["value"], of["step"]),
        "Param": lambda **of: (of["key"], of["value"]),
    }
    pretend(monkeypatch, "mlflow", set_tracking_uri=lambda uri: None)
    pretend(monkeypatch, "mlflow.entities", **plain)
    pretend(monkeypatch, "mlflow.tracking", MlflowClient=connect)
    context = types.SimpleNamespace(resolve_tags=lambda tags: tags)
    sys.modules["mlflow.tracking"].__dict__["context"] = context
    pretend(monkeypatch, "mlflow.tracking.context", resolve_tags=lambda tags: tags)
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", True)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    write_a_little(tmp_path, "mlflow", last_step=0, succeeded=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    write_a_little(tmp_path, "mlflow", last_step=5, succeeded=True)
    first, second = clients
    assert (first.about["uri"], first.name) == ((tmp_path / "mlflow").resolve().as_uri(), "cytoclr")
    assert second.about["uri"] == "http://tracking.example"
    assert first.told == [
        {"params": [("epochs", "3")], "metrics": ()},
        {"params": (), "metrics": [("epoch/train_loss", 2.0, 5)]},
        {"views/00000005.png": (6, 4)},
    ]
    assert second.found == "run-1"
    assert (first.ended, second.ended) == ("FAILED", "FINISHED")


@pytest.mark.slow
def test_wandb_itself_takes_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_a_little(tmp_path, "wandb", last_step=0, succeeded=True)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_mlflow_itself_takes_it_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_a_little(tmp_path, "mlflow", last_step=0, succeeded=True)
    assert list((tmp_path / "mlflow").rglob("train_loss"))
