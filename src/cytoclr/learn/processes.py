"""Who trains together: processes that this one starts, or tasks that torchrun or srun has started beside it."""

import os
from dataclasses import dataclass
from typing import Literal

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError

__all__ = ["Task", "check_tasks", "find_task"]


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
            f"train.nodes: {nodes}, but this is one process on one machine. Write a script that calls "
            f"cytoclr.learn.train and start it by srun, with --nodes={nodes} --ntasks-per-node={devices}, or by "
            f"torchrun, with --nnodes={nodes} --nproc-per-node={devices}; or set train.nodes to 1."
        )
    if task is not None and task.num_tasks != devices * nodes:
        raise SettingsError(
            f"train.devices x train.nodes: {devices} x {nodes}, but {task.launcher} started {task.num_tasks} "
            "processes. Expected one for each device; set train.devices to those of one machine."
        )
    if task is not None and task.launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise SettingsError(f"srun: expected --ntasks-per-node={devices}, not --ntasks alone.")
