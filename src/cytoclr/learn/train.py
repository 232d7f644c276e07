"""SimCLR training: the module is ours, the loop is Lightning's."""

import contextlib
import copy
import logging
import pickle
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch import Tensor, nn

from cytoclr.config import TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError, MachineError, SettingsError
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.dataset import CropDataset, EpochOrder, build_loader, split_wells
from cytoclr.learn.draws import VALIDATION_EPOCH, derive_generator, derive_seed
from cytoclr.learn.embed import choose_device
from cytoclr.learn.loss import gather_projections, measure_alignment, measure_uniformity, nt_xent
from cytoclr.learn.metrics import MetricsLog, read_metrics
from cytoclr.learn.model import (
    CHECKPOINT_ENTRY,
    Encoder,
    ModelDescription,
    build_untrained_networks,
    check_fine_tuning,
    describe_model,
    read_checkpoint,
    save_model,
)
from cytoclr.learn.optimiser import build_optimiser, build_schedule
from cytoclr.progress import Progress, Silent
from cytoclr.storage import hash_json, open_atomic
from cytoclr.tables import LOCATED_CELLS, WELL, check_table, treatment_names

__all__ = ["Probe", "TrainReport", "train"]

log = logging.getLogger(__name__)

#: Given the encoder as it stands, returns what is to be logged of it: ``{"accuracy": 0.41, "chance": 0.04}``.
Probe = Callable[[Encoder], Mapping[str, float]]

#: Settings that change nothing in the result: a run may go on with others.
FREE_SETTINGS = ("num_workers", "preload", "log_every_n_steps", "checkpoint_every_n_epochs", "probe", "devices")


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
        The user stopped it. Call again to go on from the last whole epoch.

    Notes
    -----
    The model of the last epoch is kept: choosing an epoch by a score would flatter that score. ``best.ckpt`` has the
    lowest validation loss. On a CPU with a given number of threads the result is the same bit for bit, interrupted
    or not.

    References
    ----------
    arXiv:2002.05709
    """
    settings, progress = settings or TrainSettings(), progress or Silent()
    started_s = time.monotonic()
    cells = check_table(cells.reset_index(drop=True), LOCATED_CELLS, "cells")
    place = choose_device(device)
    check_fine_tuning(settings, crops)
    plan = _plan(crops, cells, settings, folder=folder, seed=seed, place=place)
    with torch.random.fork_rng(devices=[]), _quiet_lightning():
        backbone, projection = build_untrained_networks(settings, len(crops.channels), seed=seed)
        description = _describe(plan, backbone)
        last = plan.folder / "checkpoints" / "last.ckpt"
        first_epoch, first_step = _check_checkpoint(last, plan.identity) if last.is_file() else (0, 0)
        module = SimClrModule(backbone, projection, plan)
        if settings.devices > 1 and probe is not None:
            _check_picklable(probe)
        keeper = Keeper(plan, description, first_step, progress if settings.devices == 1 else Silent(), probe)
        if first_epoch < settings.epochs:
            _fit(module, keeper, plan, last if first_epoch else None)
        weights = read_checkpoint(last)["state_dict"]
        module.load_state_dict(weights)
    save_model(folder, backbone, description)
    return _report(plan, first_epoch, time.monotonic() - started_s)


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first step."""

    crops: CropStore
    settings: TrainSettings
    folder: Path
    seed: int
    place: torch.device
    rows_trained: Int[np.ndarray, " trained_cell"]
    rows_validated: Int[np.ndarray, " validated_cell"]
    treatments: Int[np.ndarray, " cell"]
    wells_trained: tuple[str, ...]
    wells_validated: tuple[str, ...]
    identity: dict[str, Any]

    def build_order(self, process: int = 0, num_processes: int = 1) -> EpochOrder:
        """Build the order of the training cells, for one of several processes."""
        return EpochOrder(
            self.rows_trained,
            self.treatments[self.rows_trained],
            minibatch_size=self.settings.minibatch_size,
            sampler=self.settings.sampler,
            seed=self.seed,
            process=process,
            num_processes=num_processes,
        )

    def split_validation(self) -> list[np.ndarray]:
        """Divide the validation cells, mixed once, into whole minibatches, or one smaller than that."""
        rows = derive_generator(self.seed, "validation").permutation(self.rows_validated)
        size = min(self.settings.minibatch_size, len(rows))
        return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)] if size > 1 else []


def _plan(
    crops: CropStore, cells: pd.DataFrame, settings: TrainSettings, *, folder: Path, seed: int, place: torch.device
) -> Plan:
    if len(crops) != len(cells):
        raise DataError(f"{crops.folder}: {len(crops):,} crops for {len(cells):,} cells. Run the crop stage again.")
    if settings.minibatch_size % settings.devices:
        raise SettingsError(
            f"train.minibatch_size: {settings.minibatch_size} cannot be shared by {settings.devices} devices. "
            "Choose a multiple."
        )
    if place.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise MachineError(f"train.devices: {settings.devices} GPUs asked for, {torch.cuda.device_count()} found.")
    trained, validated = split_wells(cells, settings.validation_fraction, seed=seed)
    if len(trained) < 2 * settings.devices:
        raise DataError(f"cells: {len(trained)} are left to train on, expected at least {2 * settings.devices}.")
    wells = cells[WELL].agg("/".join, axis=1)
    names = treatment_names(cells)
    dumped = settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    identity = {
        **{f"train.{name}": value for name, value in dumped.items()},
        "seed": seed,
        "channels": list(crops.channels),
        "cells": hash_json([cells["Metadata_CellID"].tolist(), wells.tolist(), names.tolist()]),
    }
    return Plan(
        crops,
        settings,
        folder,
        seed,
        place,
        trained,
        validated,
        names.astype("category").cat.codes.to_numpy(dtype=np.int64),
        tuple(sorted(wells.iloc[trained].unique())),
        tuple(sorted(wells.iloc[validated].unique())),
        identity,
    )


def _describe(plan: Plan, backbone: nn.Module) -> ModelDescription:
    return describe_model(
        plan.settings,
        plan.crops,
        num_features=int(backbone.num_features),  # type: ignore[arg-type]
        num_cells=len(plan.rows_trained),
        wells_trained=plan.wells_trained,
        wells_validated=plan.wells_validated,
        seed=plan.seed,
    )


def _check_checkpoint(path: Path, identity: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epochs and steps done in a checkpoint, or say in what its run differs from this one."""
    checkpoint = read_checkpoint(path)
    before = checkpoint[CHECKPOINT_ENTRY]["identity"]
    differing = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
    if differing:
        raise SettingsError(
            f"{path}: belongs to a run that differs in {', '.join(differing)}. Delete {path.parent} to begin "
            "anew, or go back to what it was."
        )
    return int(checkpoint[CHECKPOINT_ENTRY]["epochs_done"]), int(checkpoint["global_step"])


def _check_picklable(probe: Probe) -> None:
    """Refuse a probe that several processes could not be given."""
    try:
        pickle.dumps(probe)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"train.devices: this probe cannot be sent to other processes ({error}). Expected a function of a module."
        ) from error


def _fit(module: "SimClrModule", keeper: "Keeper", plan: Plan, checkpoint: Path | None) -> None:
    """Let Lightning train; Ctrl-C reaches the caller as KeyboardInterrupt."""
    settings = plan.settings
    on_gpu = plan.place.type == "cuda"
    trainer = pl.Trainer(
        accelerator="cuda" if on_gpu else "cpu",
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        sync_batchnorm=on_gpu and settings.devices > 1,
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
        # one machine, processes of our own: also as a job of SLURM, whose tasks Lightning would wait for
        plugins=[LightningEnvironment()],
    )
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        # Lightning turns KeyboardInterrupt into SystemExit, and ignores Ctrl-C from then on
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except BaseException:
        # Lightning ends the other processes on Ctrl-C only; what they write is atomic
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
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
        probe={name: value for name, value in last.items() if name.startswith("probe_")},
        elapsed_s=elapsed_s,
    )


class SimClrModule(pl.LightningModule):
    """Views of cells in, loss out."""

    def __init__(self, backbone: nn.Module, projection: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = projection
        self.plan = plan
        self.augmenter = Augmenter(plan.settings.augment, view_size_px=plan.settings.view_size_px, seed=plan.seed)
        self.train_losses: list[Tensor] = []
        self.validation: dict[str, list[float]] = {}

    def train_dataloader(self) -> Any:
        """Build the loader of training minibatches; Lightning tells its order the epoch."""
        order = self.plan.build_order(self.global_rank, self.trainer.world_size)
        settings = self.plan.settings
        dataset = CropDataset(self.plan.crops, transform=settings.transform, preload=settings.preload)
        return build_loader(dataset, order, num_workers=settings.num_workers)

    def val_dataloader(self) -> Any:
        """Build the loader of validation minibatches."""
        dataset = CropDataset(self.plan.crops, transform=self.plan.settings.transform)
        return build_loader(dataset, self.plan.split_validation(), num_workers=0)

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule by step."""
        settings = self.plan.settings
        optimiser = build_optimiser(
            self, settings.optimizer, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps_per_epoch = len(self.plan.build_order())
        schedule = build_schedule(
            optimiser,
            warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
            num_steps=settings.epochs * steps_per_epoch,
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Begin an epoch in a known state, whatever came before: networks with dropout draw from torch's generator."""
        torch.manual_seed(derive_seed(self.plan.seed, "dropout", self.current_epoch))
        self.train_losses = []

    def training_step(self, minibatch: Sequence[Tensor], index: int) -> Tensor:
        """Compute the loss of a minibatch, the same in every process."""
        projections = self._project(*minibatch, epoch=self.current_epoch)
        if self.trainer.world_size > 1:
            projections = gather_projections(projections)
        loss = self._compare(projections)
        if not torch.isfinite(loss):
            raise SettingsError(
                f"train: the loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}), expected a "
                f"finite number. Lower train.learning_rate (now {self.plan.settings.learning_rate:g}) or raise "
                f"train.temperature (now {self.plan.settings.temperature:g}); the last whole epoch is in checkpoints/."
            )
        self.train_losses.append(loss.detach())
        return loss * self.trainer.world_size

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.validation = {"val_loss": [], "val_alignment": [], "val_uniformity": []}

    def validation_step(self, minibatch: Sequence[Tensor], index: int) -> None:
        """Compute the loss on views that are the same in every epoch."""
        projections = self._project(*minibatch, epoch=VALIDATION_EPOCH)
        self.validation["val_loss"].append(float(self._compare(projections)))
        self.validation["val_alignment"].append(float(measure_alignment(*projections)))
        self.validation["val_uniformity"].append(float(measure_uniformity(projections[0])))

    def _project(
        self, rows: Int[Tensor, " cell"], crops: Float[Tensor, "cell channel height width"], *, epoch: int
    ) -> Float[Tensor, "view cell feature"]:
        cells = rows.cpu().numpy()
        views = torch.cat([self.augmenter.draw(crops, cells, epoch=epoch, view=view) for view in (0, 1)])
        projections: Tensor = self.projection(self.backbone(views.contiguous(memory_format=torch.channels_last)))
        return projections.reshape(2, len(cells), -1)

    def _compare(self, projections: Float[Tensor, "view cell feature"]) -> Tensor:
        settings = self.plan.settings
        loss: Tensor = nt_xent(*projections, temperature=settings.temperature, similarity=settings.similarity)
        return loss


class Keeper(pl.Callback):
    """Keeps what training yields: progress, metrics, the probe, checkpoints."""

    def __init__(
        self, plan: Plan, description: ModelDescription, first_step: int, progress: Progress, probe: Probe | None
    ) -> None:
        self.plan = plan
        self.description = description
        self.first_step = first_step
        self.progress = progress
        self.probe = probe if plan.settings.probe.every_n_epochs else None
        self.metrics: MetricsLog | None = None
        self.best_val_loss = float("inf")
        self.epoch_started_s = 0.0
        self.cells_in_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this."""
        return {"best_val_loss": self.best_val_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best_val_loss = state_dict["best_val_loss"]

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the run and describes the model, as plain values."""
        checkpoint[CHECKPOINT_ENTRY] = {
            "identity": self.plan.identity,
            "model": asdict(self.description),
            "epochs_done": trainer.current_epoch + 1,
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the logs, show how far it is, and probe the untrained encoder."""
        steps_per_epoch = len(self.plan.build_order())
        self.progress.start("train", self.plan.settings.epochs * steps_per_epoch, "steps")
        if self.first_step:
            self.progress.advance(self.first_step)
        if trainer.is_global_zero:
            self.metrics = MetricsLog(self.plan.folder, last_step=self.first_step)
            if self.probe is not None and not self.first_step:
                self.metrics.write("probe", 0, 0, self._probe(pl_module))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self.epoch_started_s, self.cells_in_epoch = time.monotonic(), 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show and, now and then, log a step."""
        self.cells_in_epoch += len(batch[0]) * trainer.world_size
        loss = float(pl_module.train_losses[-1])
        speed = self.cells_in_epoch / (time.monotonic() - self.epoch_started_s)
        self.progress.advance(1, loss=loss, cells_per_s=speed)
        step = trainer.global_step
        if self.metrics is not None and step % self.plan.settings.log_every_n_steps == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            values = {"train_loss": loss, "learning_rate": rate, "cells_per_s": speed}
            self.metrics.write("step", trainer.current_epoch + 1, step, values)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch, probe if it is time, and keep the checkpoints."""
        settings, epoch = self.plan.settings, trainer.current_epoch + 1
        values = {"train_loss": float(torch.stack(pl_module.train_losses).mean())}
        if epoch % settings.validate_every_n_epochs == 0:
            values |= {name: float(np.mean(found)) for name, found in pl_module.validation.items() if found}
        values["cells_per_s"] = self.cells_in_epoch / (time.monotonic() - self.epoch_started_s)
        is_best = values.get("val_loss", float("inf")) < self.best_val_loss
        self.best_val_loss = min(self.best_val_loss, values.get("val_loss", float("inf")))
        if self.metrics is not None:
            if self.probe is not None and epoch % settings.probe.every_n_epochs == 0:
                values |= self._probe(pl_module)
            self.metrics.write("epoch", epoch, trainer.global_step, values)
        self._save(trainer, epoch, is_best=is_best)

    def _probe(self, module: "SimClrModule") -> dict[str, float]:
        assert self.probe is not None
        settings = self.plan.settings
        encoder = Encoder(copy.deepcopy(module.backbone).eval(), settings.view_size_px, settings.transform)
        return {f"probe_{name}": float(value) for name, value in self.probe(encoder).items()}

    def _save(self, trainer: Any, epoch: int, *, is_best: bool) -> None:
        """Write last.ckpt, and before it its copies where this epoch is the best or due to be kept."""
        folder = self.plan.folder / "checkpoints"
        written = folder / ".written.ckpt"
        try:
            trainer.save_checkpoint(written)
        except OSError as error:
            raise MachineError(
                f"{folder}: no checkpoint could be written ({error}). Free space, and run again."
            ) from error
        if not trainer.is_global_zero:
            return
        names = [f"epoch={epoch:04d}.ckpt"] if epoch % self.plan.settings.checkpoint_every_n_epochs == 0 else []
        names += ["best.ckpt"] if is_best else []
        for name in (*names, "last.ckpt"):
            with written.open("rb") as source, open_atomic(folder / name) as copy_of_it:
                shutil.copyfileobj(source, copy_of_it)
        written.unlink()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the logs."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the logs."""
        self._close()

    def _close(self) -> None:
        self.progress.finish()
        if self.metrics is not None:
            self.metrics.close()
            self.metrics = None
