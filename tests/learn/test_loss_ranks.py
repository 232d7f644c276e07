"""Two processes have the loss and the gradients of one, whatever the loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss import build_loss, gather_projections

CHOICES: dict[str, dict[str, Any]] = {
    "views": {},
    "masks": {"positives": "cross-plate", "negatives": "other-wells"},
    "supcon": {"loss": "supcon"},
    "spc": {"loss": "spc"},
    "vicreg": {"loss": "vicreg"},
}
NUM_CELLS, NUM_FEATURES = 12, 5
LABELS = CellLabels(
    plates=np.arange(NUM_CELLS) % 2,
    wells=np.arange(NUM_CELLS) % 6,
    batches=np.zeros(NUM_CELLS, dtype=int),
    compounds=np.arange(NUM_CELLS) % 3,
    treatments=np.arange(NUM_CELLS) % 3,
)


def take_steps(choices: dict[str, Any], share: slice, num_processes: int) -> dict[str, Tensor]:
    """Take two steps of plain descent on a share of the cells, as training does."""
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, NUM_FEATURES))
    loss = build_loss(TrainSettings(temperature=0.3, **choices), num_features=NUM_FEATURES, labels=LABELS)
    wrapped = DistributedDataParallel(network) if num_processes > 1 else network
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    found: dict[str, Tensor] = {}
    for step in range(2):
        views = torch.randn(2, NUM_CELLS, 4, generator=torch.Generator().manual_seed(step))[:, share]
        projections = wrapped(views.flatten(0, 1)).reshape(2, -1, NUM_FEATURES)
        value = loss(gather_projections(projections), LABELS)
        optimiser.zero_grad()
        (value * num_processes).backward()
        optimiser.step()
        found[f"loss {step}"] = value.detach()
    found |= {f"gradient of {name}": weights.grad for name, weights in network.named_parameters()}
    found |= dict(loss.named_buffers())
    return found


def run_process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        share = slice(rank * NUM_CELLS // 2, (rank + 1) * NUM_CELLS // 2)
        found = {name: take_steps(choices, share, 2) for name, choices in CHOICES.items()}
        torch.save(found, folder / f"{rank}.pt")
        with pytest.raises(SettingsError) as refusal:
            gather_projections(torch.zeros(2, 3 + rank, 2))
        (folder / f"{rank}.txt").write_text(str(refusal.value))
    finally:
        torch.distributed.destroy_process_group()


def run_second_process(_: int, folder: Path) -> None:
    run_process(1, folder)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This process is the first of them: a second one takes long enough to import all."""
    folder = tmp_path_factory.mktemp("ranks")
    second = torch.multiprocessing.spawn(run_second_process, (folder,), nprocs=1, join=False)
    run_process(0, folder)
    second.join()
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")
@pytest.mark.parametrize("name", CHOICES)
def test_two_processes_have_the_losses_gradients_and_vectors_of_one(name: str, two_processes: Path) -> None:
    alone = take_steps(CHOICES[name], slice(None), 1)
    for rank in (0, 1):
        shared = torch.load(two_processes / f"{rank}.pt", weights_only=True)[name]
        assert shared.keys() == alone.keys()
        for what, value in alone.items():
            torch.testing.assert_close(shared[what], value, msg=lambda text, what=what: f"{what}: {text}")


@pytest.mark.slow
def test_uneven_shares_are_refused_in_every_process(two_processes: Path) -> None:
    for rank in (0, 1):
        assert "the processes hold 3, 4 cells of a minibatch" in (two_processes / f"{rank}.txt").read_text()


def test_one_process_gathers_nothing() -> None:
    projections = torch.zeros(2, 3, 4)
    assert gather_projections(projections) is projections
