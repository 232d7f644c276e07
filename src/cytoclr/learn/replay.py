"""The minibatch on which a training came to a number that is none: kept, with the networks, to be seen again."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cytoclr.config import TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DamagedError
from cytoclr.learn.minibatch import Minibatch
from cytoclr.learn.model import build_untrained_networks
from cytoclr.learn.plan import make_plan
from cytoclr.storage import open_atomic

if TYPE_CHECKING:
    from cytoclr.learn.module import SimClrModule

__all__ = ["KEPT_FILE", "keep_minibatch", "replay"]

#: Its name in the model folder.
KEPT_FILE = "not-finite.safetensors"


def keep_minibatch(module: "SimClrModule", minibatch: Minibatch, *, epoch: int, step: int) -> Path:
    """Write a minibatch and the networks before its step into the model folder; return the file."""
    plan, path = module.plan, module.plan.folder / KEPT_FILE
    tensors = {f"minibatch.{name}": part for name, part in minibatch._asdict().items()}
    tensors |= {f"module.{name}": value for name, value in module.state_dict().items()}
    settings = plan.settings.model_dump_json()
    told = {"epoch": str(epoch), "step": str(step), "seed": str(plan.seed), "settings": settings}
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with open_atomic(path) as file:
        file.write(safetensors.torch.save(kept, told))
    return path


def replay(path: Path, crops: CropStore, cells: pd.DataFrame) -> dict[str, int | float]:
    """Do the step again in which a training stopped because a number was not finite.

    Parameters
    ----------
    path
        ``not-finite.safetensors`` of the model folder.
    crops, cells
        Of the same run.

    Returns
    -------
    dict
        ``epoch`` and ``step``, both from nought; ``loss``; ``largest_projection`` and ``largest_gradient``, absolute;
        what is not finite shows where it began.

    Raises
    ------
    DamagedError
        It is not such a file.
    """
    from cytoclr.learn.module import SimClrModule

    tensors, told = _read(path)
    epoch, step = int(told["epoch"]), int(told["step"])
    settings = TrainSettings.model_validate_json(told["settings"]).model_copy(update={"chunk_size": None})
    minibatch = Minibatch(**{name: tensors[f"minibatch.{name}"] for name in Minibatch._fields})
    with torch.random.fork_rng(devices=[]):
        seed = int(told["seed"])
        networks = build_untrained_networks(settings, len(crops.channels), seed=seed)
        plan = make_plan(crops, cells, settings, folder=path.parent, seed=seed, place=torch.device("cpu"))
        module = SimClrModule(*networks, plan).train()
        module.load_state_dict(_under(tensors, "module."))
        module.seed_dropout(step)
        is_half = settings.precision == "bf16-mixed"
        with torch.autocast("cpu", torch.bfloat16) if is_half else nullcontext():
            projections, loss = module.compare_views(minibatch, epoch=epoch)
        torch.autograd.backward(loss)
    gradients = [parameter.grad.abs().max() for parameter in module.parameters() if parameter.grad is not None]
    return {
        "epoch": epoch,
        "step": step,
        "loss": float(loss.detach()),
        "largest_projection": float(projections.detach().abs().max()),
        "largest_gradient": float(torch.stack(gradients).max()),
    }


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            told: Mapping[str, Any] | None = file.metadata()
            if told is None or not {"epoch", "step", "seed", "settings"} <= told.keys():
                raise DamagedError(f"{path}: not a minibatch that training kept; its head says {json.dumps(told)}.")
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, told
    except (OSError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path}: cannot be read ({error}).") from error


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
