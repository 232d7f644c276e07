"""Training: it learns, it goes on bit for bit where it was stopped, and it refuses what cannot be."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import MakeScreen
from torch import nn

from cytoclr.config import AugmentSettings, ProbeSettings, TrainSettings
from cytoclr.errors import DamagedError, DataError, MachineError, SettingsError
from cytoclr.learn import Encoder, build_untrained_encoder, embed, load_encoder, train
from cytoclr.learn.metrics import read_metrics
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.replay import replay
from cytoclr.stopping import Stopped, listen

SMALL = TrainSettings(
    epochs=4,
    minibatch_size=16,
    view_size_px=24,
    log_every_n_steps=1,
    checkpoint_every_n_epochs=2,
    validation_fraction=0.2,
    projection_hidden=16,
    projection_dim=8,
)


class StopAt:
    """A progress that presses Ctrl-C (or does anything else) at a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act, self.done = step, act, 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, count: int = 1, **facts: float) -> None:
        self.done += count
        if self.done == self.step:
            self.act()

    def finish(self) -> None: ...


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def forget_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("cells_per_s", "wait_share")} for line in lines
    ]


def test_the_loss_falls_and_the_folder_is_complete(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen(cells_per_well=10)
    settings = SMALL.model_copy(update={"epochs": 8})
    watch = StopAt(-1, lambda: None)
    report = train(crops, cells, settings, folder=tmp_path / "model", device="cpu", progress=watch)
    lines = read_metrics(tmp_path / "model" / "metrics.jsonl")
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(1, 9))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.3
    assert {"val_loss", "val_alignment", "val_uniformity", "cells_per_s"} <= set(epochs[-1])
    steps = [line for line in lines if line["event"] == "step"]
    assert len(steps) == report.steps == watch.done == watch.total
    assert steps[-1]["learning_rate"] < 1e-6 < max(line["learning_rate"] for line in steps)
    checkpoints = {path.name for path in (tmp_path / "model" / "checkpoints").iterdir()}
    assert checkpoints == {"last.ckpt", "best.ckpt"} | {f"epoch={epoch:04d}.ckpt" for epoch in (2, 4, 6, 8)}
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert about["labels_seen"] == "none"
    assert not set(about["wells_trained"]) & set(about["wells_validated"])
    assert (tmp_path / "model" / "MODEL_CARD.md").read_text().startswith("# Model card")
    assert list((tmp_path / "model" / "tensorboard").glob("events*"))
    best = min(epochs, key=lambda line: line["val_loss"])
    assert (report.best_epoch, report.best_val_loss) == (best["epoch"], best["val_loss"])


@pytest.mark.parametrize(
    ("stop_at_step", "update"),
    [(5, {}), (6, {"chunk_size": 6, "precision": "bf16-mixed"})],
    ids=["within an epoch", "at its end, in chunks and bf16"],
)
def test_stopped_and_gone_on_equals_uninterrupted(
    make_screen: MakeScreen, tmp_path: Path, stop_at_step: int, update: dict[str, Any]
) -> None:
    crops, cells = make_screen(cells_per_well=10)  # 60 cells to train on: 3 steps an epoch
    settings = SMALL.model_copy(update=update)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(crops, cells, settings, folder=whole, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(crops, cells, settings, folder=parts, device="cpu", progress=StopAt(stop_at_step, press_ctrl_c))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (parts / "checkpoints" / "last.ckpt").is_file()
    assert not (parts / "model.json").exists()
    report = train(crops, cells, settings, folder=parts, device="cpu")
    assert report.resumed_from_epoch == 1
    for name, value in read_weights(whole).items():
        assert torch.equal(value, read_weights(parts)[name]), name
    assert forget_speed(read_metrics(whole / "metrics.jsonl")) == forget_speed(read_metrics(parts / "metrics.jsonl"))
    assert (whole / "encoder.safetensors").read_bytes() == (parts / "encoder.safetensors").read_bytes()


@pytest.mark.promise("Kill and power", "Asked to stop, training finishes its step and goes on there, bit for bit")
@pytest.mark.parametrize(
    ("number", "stop_at_step", "update"),
    [
        (signal.SIGINT, 2, {}),
        (signal.SIGTERM, 5, {"backbone": "test_efficientnet_gn"}),
        (signal.SIGUSR1, 6, {"chunk_size": 6, "precision": "bf16-mixed"}),
        (signal.SIGUSR1, 10, {"sampler": "balanced"}),
    ],
    ids=["in the first epoch", "within an epoch", "at its end, in chunks and bf16", "in the last"],
)
def test_asked_to_stop_the_step_is_kept(
    make_screen: MakeScreen, tmp_path: Path, number: int, stop_at_step: int, update: dict[str, Any]
) -> None:
    crops, cells = make_screen(cells_per_well=10)  # 60 cells to train on: 3 steps an epoch
    settings = SMALL.model_copy(update=update)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(crops, cells, settings, folder=whole, device="cpu")
    ask = StopAt(stop_at_step, lambda: signal.raise_signal(number))
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Stopped, match=signal.Signals(number).name), listen():
        train(crops, cells, settings, folder=parts, device="cpu", progress=ask)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    kept = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == ask.done == stop_at_step
    rest = StopAt(-1, lambda: None)
    train(crops, cells, settings, folder=parts, device="cpu", progress=rest)
    assert rest.done == rest.total == 12
    for name, value in read_weights(whole).items():
        assert torch.equal(value, read_weights(parts)[name]), name
    assert forget_speed(read_metrics(whole / "metrics.jsonl")) == forget_speed(read_metrics(parts / "metrics.jsonl"))
    assert (whole / "encoder.safetensors").read_bytes() == (parts / "encoder.safetensors").read_bytes()


def test_a_second_signal_does_not_wait_for_the_step(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()

    def ask_twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), listen():
        train(crops, cells, SMALL, folder=tmp_path, device="cpu", progress=StopAt(1, ask_twice))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_processes_that_training_starts_leave_together(make_screen: MakeScreen, tmp_path: Path) -> None:
    """They share nothing with the one that hears the signal: it tells them."""
    crops, cells = make_screen(cells_per_well=10)
    settings = SMALL.model_copy(update={"devices": 2, "epochs": 400})
    whole = tmp_path / "whole"
    main = threading.get_ident()

    def ask() -> None:
        while not (whole / "checkpoints" / "last.ckpt").is_file():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Stopped), listen():
        train(crops, cells, settings, folder=whole, device="cpu")
    kept = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    told = kept["cytoclr"]
    assert kept["global_step"] == 3 * told["epochs_done"] + told["steps_begun"] < 1200


def test_stopped_before_the_first_checkpoint_begins_anew(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    with pytest.raises(KeyboardInterrupt):
        train(crops, cells, SMALL, folder=tmp_path, device="cpu", progress=StopAt(1, press_ctrl_c))
    assert train(crops, cells, SMALL, folder=tmp_path, device="cpu").resumed_from_epoch == 0
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["event"] == "step"]
    assert steps == sorted(set(steps))


def test_a_finished_training_is_not_done_again(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    train(crops, cells, SMALL, folder=tmp_path, device="cpu")
    watch = StopAt(-1, lambda: None)
    train(crops, cells, SMALL, folder=tmp_path, device="cpu", progress=watch)
    assert watch.done == 0


def test_another_run_s_checkpoint_is_refused(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    train(crops, cells, SMALL, folder=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=r"last\.ckpt: belongs to a run that differs in seed, train\.learning_rate"):
        train(crops, cells, SMALL.model_copy(update={"learning_rate": 1e-3}), folder=tmp_path, seed=1, device="cpu")


@pytest.mark.promise("Numbers", "A loss that is not finite stops training, and the last whole epoch stays")
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"similarity": "dot", "optimizer": "sgd", "learning_rate": 1e6})
    with pytest.raises(
        SettingsError, match=r"the (loss|gradient.s length) is nan after step .* Lower train\.learning_rate"
    ):
        train(crops, cells, settings, folder=tmp_path, device="cpu")


@pytest.mark.promise("Numbers", "A gradient that is not finite stops training before the step is made")
def test_gradients_that_are_not_finite_stop(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(self: SimClrModule, loss: torch.Tensor, *arguments: object) -> None:
        loss.backward()
        next(self.parameters()).grad[0] = float("inf")

    monkeypatch.setattr(SimClrModule, "backward", poison)
    crops, cells = make_screen()
    with pytest.raises(
        SettingsError, match=r"the gradient's length is inf after step 0 \(epoch 1\), expected a finite"
    ):
        train(crops, cells, SMALL, folder=tmp_path, device="cpu")


@pytest.mark.promise(
    "Numbers",
    "A loss that is not finite stops training at once; the minibatch and the networks are kept, and show it again",
)
@pytest.mark.parametrize("update", [{}, {"chunk_size": 4, "precision": "bf16-mixed"}])
def test_the_minibatch_that_a_loss_broke_on_shows_it_again(
    make_screen: MakeScreen, tmp_path: Path, update: dict[str, Any]
) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"similarity": "dot", "optimizer": "sgd", "learning_rate": 1e6, **update})
    with pytest.raises(SettingsError, match=r"not-finite\.safetensors has the minibatch"):
        train(crops, cells, settings, folder=tmp_path, device="cpu")
    again = replay(tmp_path / "not-finite.safetensors", crops, cells)
    assert not np.isfinite([again["loss"], again["largest_gradient"]]).all()
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DamagedError, match="not a minibatch that training kept"):
        replay(tmp_path / "other.safetensors", crops, cells)


@pytest.mark.parametrize("chunk_size", [None, 6])
def test_what_a_step_leaves_to_be_looked_at(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_size: int | None
) -> None:
    seen: list[SimClrModule] = []

    def look(self: SimClrModule, *arguments: object) -> None:
        seen.append(self)
        squares = sum(float(parameter.grad.double().square().sum()) for parameter in self.parameters())
        assert self.last_grad_norm == pytest.approx(squares**0.5)

    monkeypatch.setattr(SimClrModule, "on_train_batch_end", look)
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"epochs": 1, "chunk_size": chunk_size})
    train(crops, cells, settings, folder=tmp_path, device="cpu")
    module = seen[-1]
    assert module.last_views.shape == (2, 6 if chunk_size else 8, 2, 24, 24)
    assert module.last_embeddings.shape == (16, 128)
    assert module.last_projections.shape == (2, 16, 8)
    for kept in (module.last_views, module.last_embeddings, module.last_projections, module.train_losses[0]):
        assert not kept.requires_grad
        assert torch.isfinite(kept).all()
    assert module.data_wait_s > 0.0


@pytest.mark.slow
def test_a_compiled_backbone_trains_alike_and_keeps_its_names(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = nn.Module.compile
    # without a compiler of C++: what is traced is run as it is
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    crops, cells = make_screen()
    # not ours, whose types the tests check: that cannot be compiled
    settings = SMALL.model_copy(update={"epochs": 1, "backbone": "test_efficientnet_gn", "view_size_px": 32})
    train(crops, cells, settings, folder=tmp_path / "plain", device="cpu")
    settings = settings.model_copy(update={"compile": True})
    train(crops, cells, settings, folder=tmp_path / "compiled", device="cpu")
    plain, others = read_weights(tmp_path / "plain"), read_weights(tmp_path / "compiled")
    assert list(plain) == list(others)
    for name, value in plain.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5)


def test_the_probe_sees_the_encoder_as_it_stands(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"probe": ProbeSettings(every_n_epochs=2)})
    found: list[float] = []

    def probe(encoder: Encoder) -> dict[str, float]:
        found.append(float(embed(crops, cells, encoder, device="cpu").filter(like="SSL").to_numpy().sum()))
        return {"sum": found[-1]}

    report = train(crops, cells, settings, folder=tmp_path / "probed", device="cpu", probe=probe)
    train(crops, cells, SMALL, folder=tmp_path / "alone", device="cpu")
    assert len(set(found)) == 3  # before the first epoch, after the second and the fourth
    assert report.probe == {"probe_sum": found[-1]}
    for name, value in read_weights(tmp_path / "alone").items():
        assert torch.equal(value, read_weights(tmp_path / "probed")[name]), "the probe changed the training"
    last = embed(crops, cells, load_encoder(tmp_path / "probed", crops), device="cpu")
    assert float(last.filter(like="SSL").to_numpy().sum()) == found[-1]


def test_fine_tuning_begins_with_the_weights_given(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    train(crops, cells, SMALL, folder=tmp_path / "first", device="cpu")
    for source in (tmp_path / "first", tmp_path / "first" / "checkpoints" / "last.ckpt"):
        settings = SMALL.model_copy(update={"fine_tune_from": source})
        encoder = build_untrained_encoder(settings, len(crops.channels), seed=5)
        pd.testing.assert_frame_equal(
            embed(crops, cells, encoder, device="cpu"),
            embed(crops, cells, load_encoder(tmp_path / "first", crops), device="cpu"),
        )
    wrong = SMALL.model_copy(update={"fine_tune_from": tmp_path / "first", "backbone": "seed-cnn"})
    with pytest.raises(SettingsError, match="does not fit the backbone"):
        train(crops, cells, wrong, folder=tmp_path / "second", device="cpu")
    wrong = SMALL.model_copy(update={"fine_tune_from": tmp_path / "nowhere"})
    with pytest.raises(SettingsError, match="no model there"):
        train(crops, cells, wrong, folder=tmp_path / "second", device="cpu")


def test_training_starts_from_the_untrained_encoder(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0})
    train(crops, cells, settings, folder=tmp_path, seed=3, device="cpu")
    untrained = build_untrained_encoder(settings, len(crops.channels), seed=3).network.state_dict()
    trained = read_weights(tmp_path)
    torch.testing.assert_close(trained["backbone.stem.0.weight"], untrained["stem.0.weight"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "update",
    [
        {"backbone": "seed-cnn", "optimizer": "lars"},
        {"sampler": "balanced", "precision": "bf16-mixed", "preload": True, "transform": "linear"},
    ],
)
def test_other_settings_train_too(make_screen: MakeScreen, tmp_path: Path, update: dict[str, Any]) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"epochs": 1, "validation_fraction": 0.0, **update})
    report = train(crops, cells, settings, folder=tmp_path, device="cpu")
    assert np.isfinite(report.train_loss)
    assert report.val_loss is None
    assert ("treatments" in json.loads((tmp_path / "model.json").read_text())["labels_seen"]) == ("sampler" in update)


@pytest.mark.promise("Numbers", "Processes that read crops change nothing in what is learnt")
def test_loader_processes_change_nothing(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"epochs": 1, "augment": AugmentSettings(noise=0.2)})
    train(crops, cells, settings, folder=tmp_path / "none", device="cpu")
    train(crops, cells, settings.model_copy(update={"num_workers": 1}), folder=tmp_path / "one", device="cpu")
    for name, value in read_weights(tmp_path / "none").items():
        assert torch.equal(value, read_weights(tmp_path / "one")[name])


def test_what_cannot_be_is_refused(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    with pytest.raises(DataError, match="48 crops for 47 cells"):
        train(crops, cells.iloc[:-1], SMALL, folder=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=r"minibatch_size: 16 cannot be shared by 3 devices"):
        train(crops, cells, SMALL.model_copy(update={"devices": 3}), folder=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=r"train\.chunk_size: 3 cannot be shared by 2 devices"):
        train(crops, cells, SMALL.model_copy(update={"devices": 2, "chunk_size": 3}), folder=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=r"train\.nodes: 2, but this is one process"):
        train(crops, cells, SMALL.model_copy(update={"nodes": 2}), folder=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=r"train\.precision: 16-mixed needs a GPU\. Set it to bf16-mixed"):
        train(crops, cells, SMALL.model_copy(update={"precision": "16-mixed"}), folder=tmp_path, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="torch finds no CUDA GPU"):
            train(crops, cells, SMALL, folder=tmp_path, device="gpu")
