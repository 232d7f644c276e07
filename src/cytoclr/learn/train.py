"""SimCLR training: the module is ours, the loop is Lightning's."""

import contextlib
import logging
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from cytoclr.config import TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import SettingsError
from cytoclr.learn.embed import choose_device
from cytoclr.learn.keeper import Keeper, Probe
from cytoclr.learn.metrics import read_metrics
from cytoclr.learn.model import (
    CHECKPOINT_ENTRY,
    ModelDescription,
    build_untrained_networks,
    check_fine_tuning,
    describe_model,
    read_checkpoint,
    save_model,
)
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.norm import find_batch_norms, share_statistics
from cytoclr.learn.plan import Plan, make_plan
from cytoclr.learn.processes import Task, check_tasks, find_task
from cytoclr.progress import Progress, Silent
from cytoclr.stopping import check_request, patiently
from cytoclr.tables import LOCATED_CELLS, check_table

__all__ = ["Probe", "TrainReport", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What a finished training has to say of itself; losses are of the last epoch."""

    epochs: int
    steps: int
    resumed_from_epoch: int
    num_cells_trained: int
    num_cells_validated: int
    num_wells_trained: int
    num_wells_validated: int
    train_loss: float
    val_loss: float | None
    best_val_loss: float | None
    best_epoch: int | None
    collapsed_epoch: int | None
    probe: dict[str, float]
    elapsed_s: float


def train(
    crops: CropStore,
    cells: pd.DataFrame,
    settings: TrainSettings | None = None,
    *,
    folder: Path,
    seed: int = 0,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    progress: Progress | None = None,
    probe: Probe | None = None,
) -> TrainReport:
    """Train an encoder by SimCLR (Chen et al. 2020) and write it, with all that is known of it, into a folder.

    Parameters
    ----------
    crops, cells
        The crops, and their table in the same order. Treatments are used only to spread the validation wells and,
        with the balanced sampler, the minibatches; mechanisms are not known here.
    settings
        See `TrainSettings`.
    folder
        The model folder. Where it holds ``checkpoints/last.ckpt`` of the same run, training goes on from there.
    seed
        Decides the first weights, the split, the order and every view.
    device
        ``auto``: a GPU where there is one.
    progress
        Told of every step, with the loss and cells per second.
    probe
        Called before the first epoch and after every `settings.probe.every_n_epochs` with the encoder as it stands;
        what it returns is logged as ``probe_…``.

    Returns
    -------
    TrainReport
        The same is in ``metrics.jsonl`` and ``model.json``.

    Raises
    ------
    DataError
        Crops and cells differ in number, or there are too few.
    SettingsError
        A setting does not fit: the backbone, the split, the number of processes; the loss is not finite; or the
        folder holds another run's checkpoint.
    MachineError
        A GPU was asked for and there is none.
    KeyboardInterrupt
        The user stopped it. Call again to go on from the last whole epoch; under `cytoclr.stopping.listen`, as on the
        command line, it is Stopped, and training goes on from the step that was done last.

    Notes
    -----
    The model of the last epoch is kept: choosing an epoch by a score would flatter that score. ``best.ckpt`` has the
    lowest validation loss. On a CPU with a given number of threads the result is the same bit for bit, interrupted
    or not.

    Several processes train as one does with the same minibatches, to rounding. With `settings.devices` above one they
    are started here, on this machine. Where torchrun or srun has started them, all call this with the same arguments;
    the first writes, all others only read.

    References
    ----------
    arXiv:2002.05709
    """
    settings, progress = settings or TrainSettings(), progress or Silent()
    started_s = time.monotonic()
    cells = check_table(cells.reset_index(drop=True), LOCATED_CELLS, "cells")
    place, task = choose_device(device), find_task()
    check_tasks(settings, task)
    check_fine_tuning(settings, crops)
    plan = make_plan(crops, cells, settings, folder=folder, seed=seed, place=place)
    leads = task is None or task.number == 0
    with torch.random.fork_rng(devices=[]), _quiet_lightning():
        backbone, projection = build_untrained_networks(settings, len(crops.channels), seed=seed)
        module = SimClrModule(backbone, projection, plan)
        description = _describe(plan, module)
        last = plan.folder / "checkpoints" / "last.ckpt"
        first_epoch, first_step, steps_begun = _check_checkpoint(last, plan.identity) if last.is_file() else (0, 0, 0)
        module.done_before = (first_epoch, steps_begun)
        spawns = task is None and plan.num_processes > 1
        if spawns and probe is not None:
            _check_picklable(probe)
        _prepare_norms(module, plan, warn=leads)
        keeper = Keeper(
            plan, description, first_step, progress if leads and not spawns else Silent(), probe, cells=cells
        )
        if first_epoch < settings.epochs:
            _fit(module, keeper, plan, last if first_step else None, task)
        weights = read_checkpoint(last)["state_dict"]
        module.load_state_dict(weights)
    if leads:
        save_model(folder, backbone, description)
    report = _report(plan, first_epoch, time.monotonic() - started_s)
    if task is not None and torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first may move the folder now: all have read it
    return report


def _describe(plan: Plan, module: SimClrModule) -> ModelDescription:
    return describe_model(
        plan.settings,
        plan.crops,
        num_features=int(module.backbone.num_features),  # type: ignore[arg-type]
        num_cells=len(plan.rows_trained),
        wells_trained=plan.wells_trained,
        wells_validated=plan.wells_validated,
        seed=plan.seed,
        labels_seen=str(module.loss.labels_seen),
    )


def _check_checkpoint(path: Path, identity: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return a checkpoint's whole epochs, its steps, and those of an epoch that was begun.

    Its run may differ from this one; that is refused.
    """
    checkpoint = read_checkpoint(path)
    before = checkpoint[CHECKPOINT_ENTRY]["identity"]
    differing = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
    if differing:
        raise SettingsError(
            f"{path}: belongs to a run that differs in {', '.join(differing)}. Delete {path.parent} to begin "
            "anew, or go back to what it was."
        )
    told = checkpoint[CHECKPOINT_ENTRY]
    return int(told["epochs_done"]), int(checkpoint["global_step"]), int(told["steps_begun"])


def _prepare_norms(module: SimClrModule, plan: Plan, *, warn: bool) -> None:
    """See to it that batch norms take a minibatch's statistics over all processes; say where it is of chunks only."""
    settings, norms = plan.settings, find_batch_norms(module)
    if norms and plan.num_processes > 1 and settings.sync_norm:
        share_statistics(module, plan.place)
    if norms and plan.chunk_size is not None and warn:
        log.warning(
            "train.chunk_size: %s has batch norms, which take the statistics of each %d cells, not of the minibatch's "
            "%d. A backbone without them (convnext_atto, vit_tiny_patch16_224 …) trains alike in any chunks.",
            settings.backbone,
            settings.chunk_size,
            settings.minibatch_size,
        )


def _check_picklable(probe: Probe) -> None:
    """Refuse a probe that several processes could not be given."""
    try:
        pickle.dumps(probe)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"train.devices: this probe cannot be sent to other processes ({error}). Expected a function of a module."
        ) from error


def _build_trainer(keeper: Keeper, plan: Plan, task: Task | None) -> pl.Trainer:
    settings = plan.settings
    alone = "ddp_spawn" if plan.num_processes > 1 else "auto"
    return pl.Trainer(
        accelerator="cuda" if plan.place.type == "cuda" else "cpu",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=alone if task is None else "ddp",
        precision=settings.precision,
        max_epochs=settings.epochs,
        check_val_every_n_epoch=settings.validate_every_n_epochs,
        callbacks=[keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # without srun, processes of our own also in a job of SLURM, whose tasks Lightning would wait for
        plugins=[_describe_environment(task)],
    )


def _describe_environment(task: Task | None) -> ClusterEnvironment:
    if task is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if task.launcher == "torchrun" else SLURMEnvironment(auto_requeue=False)


def _fit(module: SimClrModule, keeper: Keeper, plan: Plan, checkpoint: Path | None, task: Task | None) -> None:
    """Let Lightning train; who is asked to stop hears it as Stopped, or, if nobody listens, KeyboardInterrupt."""
    trainer = _build_trainer(keeper, plan, task)
    launcher = trainer.strategy.launcher
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        # the processes that Lightning starts hear of it here; they leave together, and then so does this one
        with contextlib.nullcontext() if launcher is None else patiently(partial(launcher.kill, signal.SIGUSR1)):
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        trainer.strategy.barrier()  # the first task has written all
    except SystemExit as stop:
        # Lightning turns KeyboardInterrupt into SystemExit, and ignores Ctrl-C from then on
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except BaseException:
        # Lightning ends the other processes on Ctrl-C only; what they write is atomic
        if launcher is not None:
            launcher.kill(signal.SIGKILL)
            check_request()
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice from the user: what it says is settled here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch\.utils\.data")
            warnings.filterwarnings(
                "ignore", message=r".*(num_workers|does not have many workers|isinstance\(treespec).*"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _report(plan: Plan, first_epoch: int, elapsed_s: float) -> TrainReport:
    lines = [line for line in read_metrics(plan.folder / "metrics.jsonl") if line["event"] == "epoch"]
    validated = [line for line in lines if line.get("val_loss") is not None]
    best = min(validated, key=lambda line: float(line["val_loss"])) if validated else None
    last = lines[-1]
    return TrainReport(
        epochs=plan.settings.epochs,
        steps=last["step"],
        resumed_from_epoch=first_epoch,
        num_cells_trained=len(plan.rows_trained),
        num_cells_validated=len(plan.rows_validated),
        num_wells_trained=len(plan.wells_trained),
        num_wells_validated=len(plan.wells_validated),
        train_loss=last["train_loss"],
        val_loss=validated[-1]["val_loss"] if validated else None,
        best_val_loss=best["val_loss"] if best else None,
        best_epoch=best["epoch"] if best else None,
        collapsed_epoch=next((line["epoch"] for line in lines if line.get("collapsed")), None),
        probe={name: value for name, value in last.items() if name.startswith("probe_")},
        elapsed_s=elapsed_s,
    )
