"""Who trains together: processes that this one starts, or tasks that torchrun or srun has started beside it.

Of several tasks the first does the run; the others come in for its training. It tells them where, by torch's store.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cytoclr.config import TrainSettings
from cytoclr.errors import MachineError, SettingsError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = ["Task", "await_leader", "check_tasks", "find_task", "tell_followers"]

#: So long may the first task crop before it trains.
_PATIENCE = timedelta(days=7)
_KEY = "cytoclr/train"


@dataclass(frozen=True)
class Task:
    """This process, one of several that were started to train together; the first of them, number 0, writes."""

    launcher: Literal["torchrun", "srun"]
    number: int
    num_tasks: int


def find_task() -> Task | None:
    """Find out whether this process was started as one of several; None: it is alone, and starts others itself.

    A job of SLURM is alone, too, until `srun` starts it as several tasks.
    """
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told and int(told["WORLD_SIZE"]) > 1:
        return Task("torchrun", int(told["RANK"]), int(told["WORLD_SIZE"]))
    if int(told.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return Task("srun", int(told["SLURM_PROCID"]), int(told["SLURM_STEP_NUM_TASKS"]))
    return None


def check_tasks(settings: TrainSettings, task: Task | None) -> None:
    """Refuse settings that ask for other processes than were started.

    Raises
    ------
    SettingsError
        Several machines are asked for and nobody started processes on them, or their number is another.
    """
    devices, nodes = settings.devices, settings.nodes
    if task is None and nodes > 1:
        raise SettingsError(
            f"train.nodes: {nodes}, but this is one process on one machine. Start the same command by srun, with "
            f"--nodes={nodes} --ntasks-per-node={devices}, or by torchrun, with --nnodes={nodes} "
            f"--nproc-per-node={devices}; or set train.nodes to 1."
        )
    if task is not None and task.num_tasks != devices * nodes:
        raise SettingsError(
            f"train.devices x train.nodes: {devices} x {nodes}, but {task.launcher} started {task.num_tasks} "
            "processes. Expected one for each device; set train.devices to those of one machine."
        )
    if task is not None and task.launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise SettingsError(f"srun: expected --ntasks-per-node={devices}, not --ntasks alone.")


def tell_followers(task: Task, place: Path | None) -> "Store":
    """Tell the other tasks in which folder the first trains now; None: there is nothing to train.

    The store must live as long as others may ask.
    """
    store = _open_store(task)
    store.set(_KEY, "" if place is None else str(place.absolute()))
    return store


def await_leader(task: Task) -> Path | None:
    """Wait until the first task says in which folder it trains; None: there is nothing to train.

    Raises
    ------
    MachineError
        It has stopped without a word.
    """
    from torch.distributed import DistError

    try:
        told = _open_store(task).get(_KEY).decode()
    except (DistError, RuntimeError) as error:
        raise MachineError(f"task {task.number}: the first of {task.num_tasks} tasks has stopped ({error}).") from error
    return Path(told) if told else None


def _open_store(task: Task) -> "Store":
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if task.launcher == "torchrun":  # its agent has one
        address, port, is_host = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), False
    else:
        from pytorch_lightning.plugins.environments import SLURMEnvironment  # type: ignore[attr-defined]

        nodes = SLURMEnvironment(auto_requeue=False)
        # Lightning's own store will be at the port itself
        address, port, is_host = nodes.main_address, nodes.main_port + 1, task.number == 0
    return TCPStore(address, port, is_master=is_host, timeout=_PATIENCE, wait_for_workers=False)
