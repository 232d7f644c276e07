"""Two processes train as one does."""

from pathlib import Path

import pytest
import torch
from conftest import MakeScreen

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn import train
from cytoclr.learn.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
def test_two_processes_have_the_loss_and_gradients_of_one(make_screen: MakeScreen, tmp_path: Path) -> None:
    """The network has no norms, whose statistics are a process's own; plain SGD shows any wrong scale of gradients."""
    crops, cells = make_screen()
    settings = TrainSettings(
        backbone="seed-cnn",
        optimizer="sgd",
        learning_rate=0.1,
        epochs=2,
        minibatch_size=16,
        view_size_px=24,
        log_every_n_steps=1,
        validation_fraction=0.2,
        projection_hidden=16,
        projection_dim=8,
    )
    train(crops, cells, settings, folder=tmp_path / "one", device="cpu")
    train(crops, cells, settings.model_copy(update={"devices": 2}), folder=tmp_path / "two", device="cpu")
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two)
    for alone, shared in zip(one, two, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
    weights = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_probe_that_cannot_be_sent_is_refused(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    with pytest.raises(SettingsError, match="this probe cannot be sent to other processes"):
        train(crops, cells, TrainSettings(devices=2), folder=tmp_path, device="cpu", probe=lambda encoder: {})
