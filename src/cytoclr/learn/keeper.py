"""What training yields while it goes on: progress, metrics, pictures, the probe, checkpoints."""

import contextlib
import copy
import io
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from cytoclr.errors import MachineError
from cytoclr.learn.dataset import read_minibatch
from cytoclr.learn.draws import derive_generator
from cytoclr.learn.embed import resize_crops
from cytoclr.learn.loggers import check_loggers
from cytoclr.learn.metrics import MetricsLog
from cytoclr.learn.minibatch import Minibatch, prepare_crops
from cytoclr.learn.model import CHECKPOINT_ENTRY, Encoder, ModelDescription
from cytoclr.learn.module import SimClrModule
from cytoclr.learn.plan import Plan
from cytoclr.learn.watch import explain_collapse, lay_out_views, measure_clouds, refuse_not_finite
from cytoclr.progress import Progress
from cytoclr.stopping import Stopped, find_request, is_listening, listen, patiently
from cytoclr.storage import open_atomic
from cytoclr.tables import treatment_names

__all__ = ["Keeper", "Probe"]

#: Given the encoder as it stands, returns what is to be logged of it: ``{"accuracy": 0.41, "chance": 0.04}``.
Probe = Callable[[Encoder], Mapping[str, float]]

log = logging.getLogger(__name__)

#: Views of cells as the encoder sees them, in the model folder.
VIEWS_FILE = "views.webp"
#: The largest such file: the report holds it.
MAX_VIEWS_BYTES = 200_000
#: Cells that TensorBoard's projector shows, at most, and how large: its browser page holds them all.
MAX_PROJECTED = 500
PROJECTED_PX = 32


class Keeper(pl.Callback):
    """Keeps what training yields: progress, metrics, pictures, the probe, checkpoints.

    `cells` is the cells' table, whose plates and treatments the projector colours by.
    """

    def __init__(
        self,
        plan: Plan,
        description: ModelDescription,
        first_step: int,
        progress: Progress,
        probe: Probe | None,
        *,
        cells: pd.DataFrame,
    ) -> None:
        check_loggers(plan.settings.loggers)
        self.plan = plan
        self.description = description
        self.first_step = first_step
        self.progress = progress
        self.probe = probe if plan.settings.probe.every_n_epochs else None
        self.cells = cells
        self.metrics: MetricsLog | None = None
        self.best_val_loss = float("inf")
        self.has_warned = False
        self.last_minibatch: Minibatch | None = None
        self.epoch_started_s = self.trained_s = 0.0
        self.cells_in_epoch = 0
        self.grad_norms: list[float] = []
        #: Losses of the steps done in an epoch that was not finished.
        self.train_losses: list[float] = []
        self.listens = is_listening()
        self.listening = contextlib.ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this."""
        return {
            "best_val_loss": self.best_val_loss,
            "train_losses": self.train_losses,
            "grad_norms": self.grad_norms if self.train_losses else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best_val_loss = state_dict["best_val_loss"]
        self.train_losses, self.grad_norms = state_dict["train_losses"], state_dict["grad_norms"]

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the run and describes the model, as plain values."""
        checkpoint[CHECKPOINT_ENTRY] = {
            "identity": self.plan.identity,
            "model": asdict(self.description),
            "epochs_done": trainer.current_epoch + (0 if self.train_losses else 1),
            "steps_begun": len(self.train_losses),
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen to signals, open the logs, show how far it is, and probe the untrained encoder."""
        settings = self.plan.settings
        if self.listens:  # Lightning has taken SIGTERM for itself, and processes of its own listen to nothing
            self.listening.enter_context(listen())
            self.listening.enter_context(patiently())
        pl_module.train_losses = [torch.tensor(loss, device=pl_module.device) for loss in self.train_losses]
        self._start_clock()
        steps_per_epoch = len(self.plan.build_order())
        self.progress.start("train", settings.epochs * steps_per_epoch, "steps")
        if self.first_step:
            self.progress.advance(self.first_step)
        if trainer.is_global_zero:
            about = {**settings.model_dump(mode="json"), "seed": self.plan.seed}
            self.metrics = MetricsLog(
                self.plan.folder, last_step=self.first_step, loggers=settings.loggers, about=about
            )
            if self.probe is not None and not self.first_step:
                self.metrics.write("probe", 0, 0, self._probe(pl_module))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._start_clock()
        self.train_losses, self.grad_norms = [], []

    def _start_clock(self) -> None:
        self.epoch_started_s, self.trained_s, self.cells_in_epoch = time.monotonic(), 0.0, 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show and, now and then, log a step; keep it and leave, if that was asked.

        After the last step of an epoch its end comes first: what an epoch is told by needs its validation.
        """
        self.cells_in_epoch += len(batch.rows) * trainer.world_size
        self.trained_s = time.monotonic() - self.epoch_started_s
        self.last_minibatch = batch
        self.grad_norms.append(pl_module.last_grad_norm)
        speed = self._measure_speed(pl_module)
        loss = float(pl_module.train_losses[-1])
        self.progress.advance(1, loss=loss, **speed | {"wait_share": round(speed["wait_share"], 3)})
        step = trainer.global_step
        if self.metrics is not None and step % self.plan.settings.log_every_n_steps == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            values = {"train_loss": loss, "learning_rate": rate, "grad_norm": pl_module.last_grad_norm, **speed}
            self.metrics.write("step", trainer.current_epoch + 1, step, values)
        if batch_idx + 1 < trainer.num_training_batches and (request := _agree_to_stop(trainer)):
            self.train_losses = torch.stack(pl_module.train_losses).tolist()
            self._save(trainer)
            _stop(trainer, request)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Refuse to go on if the validation loss is not finite."""
        for loss in pl_module.validation["val_loss"]:
            if not math.isfinite(loss):
                epoch, step = trainer.current_epoch + 1, trainer.global_step
                raise refuse_not_finite("validation loss", loss, epoch=epoch, step=step, settings=self.plan.settings)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch, probe if it is time, and keep the pictures and checkpoints."""
        settings, epoch = self.plan.settings, trainer.current_epoch + 1
        values = {"train_loss": float(torch.stack(pl_module.train_losses).mean())}
        if epoch % settings.validate_every_n_epochs == 0:
            values |= {name: float(np.mean(found)) for name, found in pl_module.validation.items() if found}
        values |= measure_clouds(*_gather_clouds(pl_module))
        finite = [norm for norm in self.grad_norms if math.isfinite(norm)]
        values |= {"grad_norm": float(np.mean(finite)) if finite else float("nan"), **self._measure_speed(pl_module)}
        is_best = values.get("val_loss", float("inf")) < self.best_val_loss
        self.best_val_loss = min(self.best_val_loss, values.get("val_loss", float("inf")))
        if self.metrics is not None:
            if self._warn_of_collapse(values, epoch):
                values["collapsed"] = 1.0
            if self.probe is not None and epoch % settings.probe.every_n_epochs == 0:
                values |= self._probe(pl_module)
            self.metrics.write("epoch", epoch, trainer.global_step, values)
            self._show_pictures(self.metrics, pl_module, epoch, trainer.global_step)
        names = [f"epoch={epoch:04d}.ckpt"] if epoch % settings.checkpoint_every_n_epochs == 0 else []
        self.train_losses = []
        self._save(trainer, *names, *(["best.ckpt"] if is_best else []))
        if request := _agree_to_stop(trainer):
            _stop(trainer, request)

    def _measure_speed(self, module: SimClrModule) -> dict[str, float]:
        """Of this epoch so far, without validation."""
        trained_s = max(self.trained_s, 1e-9)
        return {"cells_per_s": self.cells_in_epoch / trained_s, "wait_share": min(module.data_wait_s / trained_s, 1.0)}

    def _warn_of_collapse(self, values: Mapping[str, float], epoch: int) -> bool:
        """Tell whether the encoder tells no cells apart; the first time, warn of it."""
        settings, num_cells = self.plan.settings, self.plan.build_order().minibatch_size
        reason = explain_collapse(values, epoch=epoch, num_cells=num_cells, settings=settings)
        if reason is not None and not self.has_warned:
            self.has_warned = True
            log.warning(
                "train: the encoder has collapsed, it tells no cells apart: %s (epoch %d). Lower train.learning_rate "
                "(now %g), strengthen train.augment (preset %s), or raise train.minibatch_size (now %d).",
                reason,
                epoch,
                settings.learning_rate,
                settings.augment.preset,
                settings.minibatch_size,
            )
        return reason is not None

    def _show_pictures(self, metrics: MetricsLog, module: SimClrModule, epoch: int, step: int) -> None:
        """Draw views once into a file, for the loggers with every kept epoch; and at the end hand over the cells."""
        settings, file = self.plan.settings, self.plan.folder / VIEWS_FILE
        assert self.last_minibatch is not None
        assert module.last_views is not None
        if epoch == 1 or epoch % settings.checkpoint_every_n_epochs == 0 or not file.is_file():
            shown = self.last_minibatch.take(slice(module.last_views.shape[1]))
            crops = resize_crops(prepare_crops(shown, settings.transform), settings.view_size_px)
            picture = lay_out_views(crops, module.last_views.float())
            metrics.show_views(picture, step)
            if epoch == 1 or not file.is_file():
                write_views(file, picture, num_cells=len(crops))
        if epoch == settings.epochs and "tensorboard" in settings.loggers:
            metrics.show_cells(*self._embed_some(module), step)

    def _embed_some(
        self, module: SimClrModule
    ) -> tuple[Float[Tensor, "cell feature"], Float[Tensor, "cell channel height width"], dict[str, list[str]]]:
        """Embed some cells, of wells not trained on where there are any: for the projector, with small pictures."""
        plan, settings = self.plan, self.plan.settings
        of = plan.rows_validated if len(plan.rows_validated) else plan.rows_trained
        rows = np.sort(derive_generator(plan.seed, "projector").permutation(of)[:MAX_PROJECTED])
        network = copy.deepcopy(module.backbone).eval()
        embeddings, pictures = [], []
        for some in np.array_split(rows, -(-len(rows) // 100)):
            crops = prepare_crops(read_minibatch(plan.crops, some).move_to(plan.place), settings.transform)
            with torch.inference_mode():
                views = resize_crops(crops, settings.view_size_px).contiguous(memory_format=torch.channels_last)
                embeddings.append(network(views).float().cpu())
            pictures.append(resize_crops(crops, PROJECTED_PX).cpu())
        shown = self.cells.iloc[rows]
        wells = shown["Metadata_Plate"] + " " + shown["Metadata_Well"]
        columns = {"treatment": treatment_names(shown), "plate": shown["Metadata_Plate"], "well": wells}
        names = {name: column.astype(str).tolist() for name, column in columns.items()}
        return torch.cat(embeddings), torch.cat(pictures), names

    def _probe(self, module: SimClrModule) -> dict[str, float]:
        assert self.probe is not None
        settings = self.plan.settings
        encoder = Encoder(copy.deepcopy(module.backbone).eval(), settings.view_size_px, settings.transform)
        return {f"probe_{name}": float(value) for name, value in self.probe(encoder).items()}

    def _save(self, trainer: Any, *copies: str) -> None:
        """Write last.ckpt, and before it its copies where an epoch is the best or due to be kept."""
        folder = self.plan.folder / "checkpoints"
        written = folder / ".written.tmp"  # if this process is killed, the next sweeps it
        try:
            trainer.save_checkpoint(written)
            for name in (*copies, "last.ckpt") if trainer.is_global_zero else ():
                with written.open("rb") as source, open_atomic(folder / name) as copy_of_it:
                    shutil.copyfileobj(source, copy_of_it)
        except OSError as error:
            raise MachineError(
                f"{folder}: no checkpoint could be written ({error}). Free space, and run again."
            ) from error
        finally:
            if trainer.is_global_zero:
                written.unlink(missing_ok=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the logs."""
        self._close(succeeded=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the logs."""
        self._close(succeeded=False)

    def _close(self, *, succeeded: bool) -> None:
        self.listening.close()
        self.progress.finish()
        if self.metrics is not None:
            self.metrics.close(succeeded=succeeded)
            self.metrics = None


def _agree_to_stop(trainer: Any) -> int | None:
    """Return the signal by which any process was asked to stop; all must ask at the same step, to leave together."""
    number = find_request() or 0
    if trainer.world_size > 1:
        told = torch.tensor(number, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        number = int(told)
    return number or None


def _stop(trainer: Any, request: int) -> NoReturn:
    if trainer.strategy.launcher is not None:  # a process that training started: its end is all it can tell
        raise SystemExit(Stopped(request).exit_code)
    raise Stopped(request)


def _gather_clouds(
    module: SimClrModule,
) -> tuple[Float[Tensor, "cell feature"], Float[Tensor, "view cell projected_feature"]]:
    """Put together the last minibatch's embeddings and projections of all processes; every process must call it."""
    embeddings, projections = module.last_embeddings, module.last_projections
    assert embeddings is not None
    assert projections is not None
    if module.trainer.world_size == 1:
        return embeddings, projections
    gathered: list[Any] = [module.all_gather(part.contiguous()) for part in (embeddings, projections)]
    return gathered[0].flatten(0, 1), gathered[1].movedim(0, 1).flatten(1, 2)


def write_views(path: Path, picture: UInt8[np.ndarray, "height width"], *, num_cells: int) -> None:
    """Write a picture of `lay_out_views`: less finely, then with fewer cells, until `MAX_VIEWS_BYTES` hold it."""
    px = picture.shape[1] // num_cells
    tries = ((count, quality) for count in range(num_cells, 0, -1) for quality in (85, 60, 40))
    for count, quality in tries:
        encoded = _encode_webp(picture[:, : count * px], quality)
        if len(encoded) <= MAX_VIEWS_BYTES:
            break
    with open_atomic(path) as file:
        file.write(encoded)


def _encode_webp(picture: UInt8[np.ndarray, "height width"], quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(file, format="WEBP", quality=quality, method=4)
    return file.getvalue()
