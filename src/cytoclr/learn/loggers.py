"""Who else is told how training goes: TensorBoard, Weights & Biases, MLflow, all through Lightning's loggers."""

import importlib.util
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from cytoclr.config import LoggerName
from cytoclr.errors import SettingsError
from cytoclr.storage import read_json, write_json

__all__ = ["check_loggers", "finish_logger", "log_cells", "log_picture", "start_loggers"]

#: Under this name runs of ours are found; ``WANDB_PROJECT`` and ``MLFLOW_EXPERIMENT_NAME`` change it.
PROJECT = "cytoclr"
#: Which runs of W&B and MLflow a training belongs to, to go on with them.
RUNS_FILE = "loggers.json"


def check_loggers(names: Sequence[LoggerName]) -> None:
    """See to it that the packages are there.

    Raises
    ------
    SettingsError
        One is missing; says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SettingsError(
                f"train.loggers: {name} asked for, but its package is not installed. Run pip install {name}, or leave "
                "it out: metrics.jsonl is written in any case."
            )


def start_loggers(
    names: Sequence[LoggerName], folder: Path, *, last_step: int, about: Mapping[str, Any]
) -> list[Logger]:
    """Start loggers, or go on with those of a training that was stopped.

    Parameters
    ----------
    folder
        The model folder: they write under it, unless ``WANDB_DIR`` or ``MLFLOW_TRACKING_URI`` says where to.
    last_step
        The step to go on from; nought begins new runs.
    about
        Settings, to be shown beside the metrics.

    Notes
    -----
    W&B sends what it is told to its server, unless ``WANDB_MODE=offline`` is set; MLflow sends nothing unless
    ``MLFLOW_TRACKING_URI`` names a server.
    """
    file = folder / RUNS_FILE
    runs = read_json(file) if last_step and file.is_file() else {}
    loggers: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            loggers.append(_start_tensorboard(folder, last_step))
            continue
        logger = _start_wandb(folder, runs.get(name)) if name == "wandb" else _start_mlflow(folder, runs.get(name))
        runs[name] = logger.version
        write_json(file, runs)
        logger.log_hyperparams(dict(about))
        loggers.append(logger)
    return loggers


def _start_tensorboard(folder: Path, last_step: int) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=last_step + 1)


def _start_wandb(folder: Path, run: str | None) -> WandbLogger:
    return WandbLogger(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        save_dir=os.environ.get("WANDB_DIR", str(folder)),
        version=run or secrets.token_hex(8),
    )


def _start_mlflow(folder: Path, run: str | None) -> MLFlowLogger:
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow").resolve().as_uri(),
        run_id=run,
    )


def log_picture(logger: Logger, name: str, picture: UInt8[np.ndarray, "height width"], step: int) -> None:
    """Show a grey picture."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HW")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, f"{name}/{step:08d}.png")


def log_cells(
    logger: Logger,
    embeddings: Float[Tensor, "cell feature"],
    crops: Float[Tensor, "cell channel height width"],
    columns: Mapping[str, Sequence[str]],
    step: int,
) -> None:
    """Hand cells to TensorBoard's projector, in place of those that it had; other loggers have none.

    Parameters
    ----------
    crops
        Shown at the cells' places: the mean of their channels, in grey.
    columns
        What the projector may colour by, a name a cell.
    """
    if not isinstance(logger, TensorBoardLogger):
        return
    shutil.rmtree(Path(logger.log_dir) / f"{step:05d}", ignore_errors=True)  # of a training that was stopped here
    lines = [[_clean(name) for name in line] for line in zip(*columns.values(), strict=True)]
    pictures = crops.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    logger.experiment.add_embedding(
        embeddings.to("cpu", torch.float32),
        metadata=lines,
        metadata_header=list(columns),
        label_img=pictures.cpu(),
        global_step=step,
        tag="cells",
    )


def _clean(name: str) -> str:
    """Keep a name within its column of a table that tabs and ends of lines divide."""
    return " ".join(name.split())


def finish_logger(logger: Logger, *, succeeded: bool) -> None:
    """Bring all to the disk or the server."""
    logger.finalize("success" if succeeded else "failed")
    if isinstance(logger, WandbLogger):  # Lightning leaves the run open for what else the process may do
        logger.experiment.finish(exit_code=0 if succeeded else 1)
