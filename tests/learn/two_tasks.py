"""What each of two processes does that torchrun starts for `test_distributed.py`: python two_tasks.py FOLDER."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from cytoclr.config import TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.learn import train
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.norm import share_statistics
from cytoclr.storage import read_json, read_table


class PowerCut(RuntimeError):
    """Stands for whatever ends a training in its midst."""


def main(folder: Path) -> None:
    """Train every case, one of them with a power cut; normalise halves of a minibatch."""
    crops, cells = CropStore(Path(read_json(folder / "crops.json"))), read_table(folder / "cells.parquet")
    for name, values in read_json(folder / "cases.json").items():
        settings = TrainSettings(**values, devices=2)
        if name == "cut":
            cut_off(lambda settings=settings, name=name: train(crops, cells, settings, folder=folder / "two" / name))
        report = train(crops, cells, settings, folder=folder / "two" / name, device="cpu")
        if torch.distributed.get_rank() == 1:
            (folder / f"{name}.json").write_text(json.dumps({"resumed_from_epoch": report.resumed_from_epoch}))
    normalise(folder)
    torch.distributed.destroy_process_group()


def cut_off(work: object) -> None:
    """Do a training that stops within its second epoch."""
    step = SimClrModule.training_step

    def stop(self: SimClrModule, *arguments: object) -> torch.Tensor:
        if self.global_step == 4:
            raise PowerCut
        return step(self, *arguments)

    SimClrModule.training_step = stop
    try:
        work()
        raise AssertionError("it was to be stopped")
    except PowerCut:
        pass
    finally:
        SimClrModule.training_step = step


def normalise(folder: Path) -> None:
    """Take this process's share of some features through a norm, and gradients of a loss that sees all back."""
    rank = torch.distributed.get_rank()
    saved = torch.load(folder / "features.pt", weights_only=True)
    norms = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, affine=False)).double()
    norms[0].load_state_dict(saved["norm"])
    share_statistics(norms, torch.device("cpu"))
    features = saved["features"][rank::2].clone().requires_grad_()
    outputs = norms(features)
    (outputs * saved["weights"][rank::2]).sum().backward()
    torch.save(
        {
            "outputs": outputs.detach(),
            "gradient": features.grad,
            "of_weight": norms[0].weight.grad,
            "of_bias": norms[0].bias.grad,
            "state": norms.state_dict(),
        },
        folder / f"normalised-{rank}.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
