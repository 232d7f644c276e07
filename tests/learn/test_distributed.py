"""Two processes train as one does: same losses, same weights, to rounding; and go on bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeScreen
from toys import SMALL_SCREEN

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn import train
from cytoclr.learn.metrics import read_metrics
from cytoclr.learn.processes import Task, check_tasks, find_task
from cytoclr.storage import read_json, read_table, write_json, write_table

#: Plain SGD: its steps show any wrong scale of gradients.
COMMON = {
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "epochs": 1,
    "minibatch_size": 16,
    "view_size_px": 32,
    "log_every_n_steps": 1,
    "validation_fraction": 0.2,
    "projection_hidden": 16,
    "projection_dim": 8,
}
#: Each case as two processes have it, and what one process has otherwise.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "group norm": ({"backbone": "test_efficientnet_gn"}, {}),
    "transformer": ({"backbone": "test_vit"}, {}),
    "ConvNeXt, in chunks": ({"backbone": "test_convnext", "chunk_size": 6}, {"chunk_size": None}),
    "timm's batch norm": ({"backbone": "test_efficientnet"}, {}),
    "batch norm": ({"backbone": "small-cnn"}, {}),
    "batch norm, in chunks": ({"backbone": "small-cnn", "chunk_size": 8}, {}),
}
GOING_ON = {**COMMON, "backbone": "small-cnn", "epochs": 2, "precision": "bf16-mixed", "chunk_size": 8}


#: Where two processes have trained all cases, once for all tests.
_TRAINED: list[Path] = []


@pytest.fixture
def two(make_screen: MakeScreen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes did that torchrun started: see `two_tasks.py`."""
    if not _TRAINED:
        _TRAINED.append(train_in_two(make_screen, tmp_path_factory.mktemp("two")))
    return _TRAINED[0]


def train_in_two(make_screen: MakeScreen, folder: Path) -> Path:
    crops, cells = make_screen(cells_per_well=10)  # 60 cells to train on: 3 steps an epoch
    write_json(folder / "crops.json", str(crops.folder))
    write_table(folder / "cells.parquet", cells)
    cases = {name: {**COMMON, **values} for name, (values, _) in CASES.items()}
    apart = {"apart": {**COMMON, "backbone": "small-cnn", "sync_norm": False}}
    write_json(folder / "cases.json", {**cases, **apart, "whole": GOING_ON, "cut": GOING_ON})
    torch.save(make_features(), folder / "features.pt")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(Path(__file__).with_name("two_tasks.py")), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def make_features() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    norm = torch.nn.BatchNorm2d(3, momentum=None).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    # far from nought, and its halves apart: a variance by a sum of squares, or of a half, would show
    features = 1000.0 + torch.randn(6, 3, 4, 5, dtype=torch.float64, generator=draw)
    features[::2] *= 1.1
    weights = torch.randn(features.shape, dtype=torch.float64, generator=draw)
    return {"norm": norm.state_dict(), "features": features, "weights": weights}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_losses_and_gradients_of_one(
    two: Path, make_screen: MakeScreen, tmp_path: Path, case: str
) -> None:
    crops, cells = make_screen(cells_per_well=10)
    values, otherwise = CASES[case]
    train(crops, cells, TrainSettings(**{**COMMON, **values, **otherwise}), folder=tmp_path / "one", device="cpu")
    one, shared = read_metrics(tmp_path / "one" / "metrics.jsonl"), read_metrics(two / "two" / case / "metrics.jsonl")
    assert len(one) == len(shared) > 2
    for alone, both in zip(one, shared, strict=True):
        assert both["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        if alone["event"] == "epoch":
            assert both["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
    weights, others = read_weights(tmp_path / "one"), read_weights(two / "two" / case)
    assert list(weights) == list(others)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: name + text)


@pytest.mark.slow
def test_the_statistics_of_a_minibatch_are_those_of_both_processes(two: Path) -> None:
    """Against PyTorch's norm with the whole minibatch: outputs, gradients, running statistics."""
    saved = make_features()
    norms = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=None), torch.nn.BatchNorm2d(3, affine=False)).double()
    norms[0].load_state_dict(saved["norm"])
    features = saved["features"].clone().requires_grad_()
    outputs = norms(features)
    (outputs * saved["weights"]).sum().backward()
    halves = [torch.load(two / f"normalised-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half["outputs"], outputs.detach()[rank::2], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(half["gradient"], features.grad[rank::2], rtol=1e-6, atol=1e-9)
        for name, value in norms.state_dict().items():
            torch.testing.assert_close(half["state"][name], value, msg=name)
    for name, whole in (("of_weight", norms[0].weight.grad), ("of_bias", norms[0].bias.grad)):
        torch.testing.assert_close(halves[0][name] + halves[1][name], whole, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_norms_may_keep_to_their_process(two: Path) -> None:
    losses = [read_metrics(two / "two" / name / "metrics.jsonl")[-1]["train_loss"] for name in ("apart", "batch norm")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(two: Path) -> None:
    """In bf16, in chunks, with shared norms, after a power cut in the second epoch."""
    assert read_json(two / "cut.json") == {"resumed_from_epoch": 1}
    weights, others = (read_weights(two / "two" / name) for name in ("whole", "cut"))
    for name, value in weights.items():
        assert torch.equal(others[name], value), name
    files = [(two / "two" / name / "encoder.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_one_of_several_tasks_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of a job whose script did not use srun
    assert find_task() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert find_task() == Task("srun", 3, 4)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert find_task() == Task("torchrun", 1, 2)


def test_other_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"train\.nodes: 2, but this is one process .* --ntasks-per-node=4"):
        check_tasks(TrainSettings(devices=4, nodes=2), None)
    with pytest.raises(SettingsError, match=r"1 x 1, but torchrun started 2 processes"):
        check_tasks(TrainSettings(), Task("torchrun", 0, 2))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(SettingsError, match=r"srun: expected --ntasks-per-node=2"):
        check_tasks(TrainSettings(devices=2), Task("srun", 0, 2))
    check_tasks(TrainSettings(devices=2, nodes=2), Task("torchrun", 3, 4))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
def test_processes_are_started_here_where_nobody_did(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    settings = TrainSettings(**{**COMMON, "backbone": "small-cnn"})
    train(crops, cells, settings, folder=tmp_path / "one", device="cpu")
    train(crops, cells, settings.model_copy(update={"devices": 2}), folder=tmp_path / "two", device="cpu")
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["train_loss"] for line in two] == pytest.approx([line["train_loss"] for line in one], rel=1e-4)
    for name, value in read_weights(tmp_path / "one").items():
        torch.testing.assert_close(read_weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-5)


def test_a_probe_that_cannot_be_sent_is_refused(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    with pytest.raises(SettingsError, match="this probe cannot be sent to other processes"):
        train(crops, cells, TrainSettings(devices=2), folder=tmp_path, device="cpu", probe=lambda encoder: {})


@pytest.mark.slow
def test_the_command_line_trains_as_several_tasks(tmp_path: Path) -> None:
    """The first task does the run, the other comes in for the training; again, nothing is left to do."""
    values = {
        "screen": SMALL_SCREEN,
        "device": "cpu",
        "train": {"epochs": 1, "devices": 2, "minibatch_size": 16, "augment": {"preset": "fluorescence"}},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cytoclr"]
    out = tmp_path / "run"
    for _ in range(2):
        done = subprocess.run(
            [*launch, "embed", str(tmp_path / "config.yaml"), "--out", str(out)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert read_json(out / "model" / "model.json")["epochs"] == 1
        assert not (out / "unfinished").exists() or not any((out / "unfinished").iterdir())
    assert len(read_table(out / "embeddings.parquet")) == len(read_table(out / "cells.parquet"))
