"""What training yields while it goes on: progress, metrics, the probe, checkpoints."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from cytoclr.errors import MachineError
from cytoclr.learn.metrics import MetricsLog
from cytoclr.learn.model import CHECKPOINT_ENTRY, Encoder, ModelDescription
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.plan import Plan
from cytoclr.progress import Progress
from cytoclr.storage import open_atomic

__all__ = ["Keeper", "Probe"]

#: Given the encoder as it stands, returns what is to be logged of it: ``{"accuracy": 0.41, "chance": 0.04}``.
Probe = Callable[[Encoder], Mapping[str, float]]


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

    def _probe(self, module: SimClrModule) -> dict[str, float]:
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
