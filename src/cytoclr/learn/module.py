"""One step of training: views of cells in, loss out."""

from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cytoclr.errors import SettingsError
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.dataset import CropDataset, build_loader
from cytoclr.learn.draws import VALIDATION_EPOCH, derive_seed
from cytoclr.learn.loss import gather_projections, measure_alignment, measure_uniformity, nt_xent
from cytoclr.learn.minibatch import Minibatch
from cytoclr.learn.optimiser import build_optimiser, build_schedule
from cytoclr.learn.plan import Plan

__all__ = ["SimClrModule"]


class SimClrModule(pl.LightningModule):
    """Views of cells in, loss out."""

    def __init__(self, backbone: nn.Module, projection: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = projection
        self.plan = plan
        settings = plan.settings
        self.augmenter = Augmenter(
            settings.augment, view_size_px=settings.view_size_px, transform=settings.transform, seed=plan.seed
        )
        self.train_losses: list[Tensor] = []
        self.validation: dict[str, list[float]] = {}

    def train_dataloader(self) -> Any:
        """Build the loader of training minibatches; Lightning tells its order the epoch."""
        order = self.plan.build_order(self.global_rank, self.trainer.world_size)
        settings = self.plan.settings
        dataset = CropDataset(self.plan.crops, preload=settings.preload)
        return build_loader(dataset, order, num_workers=settings.num_workers)

    def val_dataloader(self) -> Any:
        """Build the loader of validation minibatches."""
        dataset = CropDataset(self.plan.crops)
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

    def training_step(self, minibatch: Minibatch, index: int) -> Tensor:
        """Compute the loss of a minibatch, the same in every process."""
        projections = self._project(minibatch, epoch=self.current_epoch)
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

    def validation_step(self, minibatch: Minibatch, index: int) -> None:
        """Compute the loss on views that are the same in every epoch."""
        projections = self._project(minibatch, epoch=VALIDATION_EPOCH)
        self.validation["val_loss"].append(float(self._compare(projections)))
        self.validation["val_alignment"].append(float(measure_alignment(*projections)))
        self.validation["val_uniformity"].append(float(measure_uniformity(projections[0])))

    def _project(self, minibatch: Minibatch, *, epoch: int) -> Float[Tensor, "view cell feature"]:
        views = torch.cat([self.augmenter.draw(minibatch, epoch=epoch, view=view) for view in (0, 1)])
        projections: Tensor = self.projection(self.backbone(views.contiguous(memory_format=torch.channels_last)))
        return projections.reshape(2, len(minibatch.rows), -1)

    def _compare(self, projections: Float[Tensor, "view cell feature"]) -> Tensor:
        settings = self.plan.settings
        loss: Tensor = nt_xent(*projections, temperature=settings.temperature, similarity=settings.similarity)
        return loss
