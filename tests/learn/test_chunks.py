"""Minibatches in chunks: the gradients of the whole, the same draws both times, running statistics once a chunk."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeScreen
from torch import Tensor, nn
from torch.nn import functional

from cytoclr.config import TrainSettings
from cytoclr.learn import train
from cytoclr.learn.chunks import ChunkedProjections, split_minibatch
from cytoclr.learn.metrics import read_metrics
from cytoclr.learn.minibatch import Minibatch
from cytoclr.learn.module import SimClrModule

NUM_CELLS = 10


def make_minibatch() -> Minibatch:
    draw = np.random.default_rng(0)
    crops = torch.from_numpy(draw.integers(0, 255, (NUM_CELLS, 2, 12, 12), dtype=np.uint8))
    return Minibatch(torch.arange(NUM_CELLS), crops, torch.zeros(NUM_CELLS, 2), torch.full((NUM_CELLS, 2), 255.0))


def make_networks(norm: nn.Module, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    convolution = nn.Conv2d(2, 4, 3)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(400, 6)).double()


def project_by(networks: nn.Module) -> Callable[[Minibatch], Tensor]:
    """Project two views, the second turned."""

    def project(minibatch: Minibatch) -> Tensor:
        first = minibatch.crops.double() / 255.0
        views = torch.cat([first, first.mT])
        return networks(views).reshape(2, len(minibatch.rows), -1)

    return project


def compare(projections: Tensor) -> Tensor:
    """A loss that depends on all pairs."""
    views = functional.normalize(projections.flatten(0, 1), dim=1)
    return (views @ views.T * 5.0).logsumexp(dim=1).mean() - (projections[0] * projections[1]).mean()


def list_gradients(networks: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in networks.parameters()]


def follow_in_chunks(networks: nn.Module, chunk_size: int) -> Tensor:
    chunked = ChunkedProjections(project_by(networks), split_minibatch(make_minibatch(), chunk_size), networks)
    loss = compare(chunked.whole)
    loss.backward()
    chunked.backward(contextlib.nullcontext)
    return loss.detach()


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 10, 99])
def test_gradients_are_those_of_the_whole(chunk_size: int) -> None:
    whole, parts = make_networks(nn.GroupNorm(2, 4)), make_networks(nn.GroupNorm(2, 4))
    loss = compare(project_by(whole)(make_minibatch()))
    loss.backward()
    torch.testing.assert_close(follow_in_chunks(parts, chunk_size), loss.detach())
    for one, other in zip(list_gradients(parts), list_gradients(whole), strict=True):
        torch.testing.assert_close(one, other)


def test_both_computations_drop_the_same() -> None:
    """Against the graph of all chunks at once, whose draws are those of the first computation."""
    whole, parts = make_networks(nn.Identity(), dropout=0.5), make_networks(nn.Identity(), dropout=0.5)
    torch.manual_seed(7)
    chunks = split_minibatch(make_minibatch(), 4)
    loss = compare(torch.cat([project_by(whole)(chunk) for chunk in chunks], dim=1))
    after = torch.get_rng_state()
    loss.backward()
    torch.manual_seed(7)
    torch.testing.assert_close(follow_in_chunks(parts, 4), loss.detach())
    assert torch.equal(torch.get_rng_state(), after)
    for one, other in zip(list_gradients(parts), list_gradients(whole), strict=True):
        torch.testing.assert_close(one, other)


def test_batch_norms_see_each_chunk_once() -> None:
    whole, parts = make_networks(nn.BatchNorm2d(4)), make_networks(nn.BatchNorm2d(4))
    loss = compare(torch.cat([project_by(whole)(chunk) for chunk in split_minibatch(make_minibatch(), 4)], dim=1))
    loss.backward()
    torch.testing.assert_close(follow_in_chunks(parts, 4), loss.detach())
    for one, other in zip(list_gradients(parts), list_gradients(whole), strict=True):
        torch.testing.assert_close(one, other)
    assert int(parts[1].num_batches_tracked) == 3
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)


def test_gradients_need_those_of_the_loss() -> None:
    networks = make_networks(nn.Identity())
    chunked = ChunkedProjections(project_by(networks), split_minibatch(make_minibatch(), 4), networks)
    with pytest.raises(AssertionError, match="the loss must be followed back to the projections first"):
        chunked.backward(contextlib.nullcontext)


def test_chunks_are_views_of_their_minibatch() -> None:
    minibatch = make_minibatch()
    chunks = split_minibatch(minibatch, 4)
    assert [len(chunk.rows) for chunk in chunks] == [4, 4, 2]
    assert torch.equal(torch.cat([chunk.crops for chunk in chunks]), minibatch.crops)
    assert chunks[1].crops.untyped_storage().data_ptr() == minibatch.crops.untyped_storage().data_ptr()


SMALL = TrainSettings(
    backbone="test_efficientnet_gn",
    optimizer="sgd",
    learning_rate=0.02,
    epochs=1,
    minibatch_size=16,
    view_size_px=32,
    log_every_n_steps=1,
    validation_fraction=0.2,
    projection_hidden=16,
    projection_dim=8,
)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_in_chunks_is_training(
    make_screen: MakeScreen, tmp_path: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    crops, cells = make_screen()
    lines, weights = [], []
    for chunk_size in (None, 6):
        folder = tmp_path / str(chunk_size)
        settings = SMALL.model_copy(update={"chunk_size": chunk_size, "precision": precision})
        train(crops, cells, settings, folder=folder, device="cpu")
        lines.append(read_metrics(folder / "metrics.jsonl"))
        weights.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    close = 1e-4 if precision == "32" else 1e-2
    for whole, parts in zip(*lines, strict=True):
        assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=close)
    if precision == "32":
        assert lines[1][-1]["val_loss"] == pytest.approx(lines[0][-1]["val_loss"], rel=close)
    for name, value in weights[0].items():
        if precision == "32":
            torch.testing.assert_close(weights[1][name], value, rtol=close, atol=close / 10)
        else:  # Adam's first steps have the size of the learning rate whatever the gradient's: a sign may be rounded
            assert (weights[1][name] - value).float().norm() <= 0.05 * value.float().norm() + close, name
    assert not [record for record in caplog.records if "chunk_size" in record.getMessage()]


def test_batch_norms_are_said_to_see_chunks_only(
    make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops, cells = make_screen()
    settings = SMALL.model_copy(update={"backbone": "small-cnn", "chunk_size": 8})
    with caplog.at_level(logging.WARNING):
        train(crops, cells, settings, folder=tmp_path, device="cpu")
    said = [record.getMessage() for record in caplog.records if "train.chunk_size" in record.getMessage()]
    assert len(said) == 1
    assert "small-cnn has batch norms, which take the statistics of each 8 cells" in said[0]


def test_no_more_than_a_chunk_goes_through_the_networks(
    make_screen: MakeScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, cells = make_screen()
    passed: list[int] = []
    compute = SimClrModule._pass

    def count(self: SimClrModule, minibatch: Minibatch, *, epoch: int) -> object:
        passed.append(len(minibatch.rows))
        return compute(self, minibatch, epoch=epoch)

    monkeypatch.setattr(SimClrModule, "_pass", count)
    settings = SMALL.model_copy(update={"backbone": "seed-cnn", "chunk_size": 6})
    train(crops, cells, settings, folder=tmp_path, device="cpu")
    assert max(passed) == 6
    assert passed[:6] == [6, 6, 4] * 2
