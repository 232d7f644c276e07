"""One step of training: views of cells in, loss out."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cytoclr.errors import SettingsError
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.chunks import ChunkedProjections, split_minibatch
from cytoclr.learn.dataset import CropDataset, build_loader
from cytoclr.learn.draws import VALIDATION_EPOCH, derive_seed
from cytoclr.learn.loss import build_loss, gather_projections, measure_alignment, measure_uniformity
from cytoclr.learn.minibatch import Minibatch
from cytoclr.learn.optimiser import build_optimiser, build_schedule
from cytoclr.learn.plan import Plan
from cytoclr.learn.replay import keep_minibatch
from cytoclr.learn.watch import refuse_not_finite

__all__ = ["SimClrModule"]

#: So many cells' views are kept of a step, for pictures.
_CELLS_SHOWN = 8


class _Passed(NamedTuple):
    """What comes of a minibatch on its way through the networks; the first two to be looked at only."""

    views: Float[Tensor, "view shown_cell channel height width"]
    embeddings: Float[Tensor, "cell feature"]
    projections: Float[Tensor, "view cell projected_feature"]


class SimClrModule(pl.LightningModule):
    """Views of cells in, loss out; what a step computed on the way stays to be looked at."""

    def __init__(self, backbone: nn.Module, projection: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = projection
        self.plan = plan
        settings = plan.settings
        self.loss = build_loss(settings, num_features=settings.projection_dim, labels=plan.labels)
        self.augmenter = Augmenter(
            settings.augment, view_size_px=settings.view_size_px, transform=settings.transform, seed=plan.seed
        )
        #: Losses of this epoch's steps, each of the whole minibatch.
        self.train_losses: list[Tensor] = []
        self.validation: dict[str, list[float]] = {}
        #: Length of the last step's gradient; with 16-mixed infinite where a step is left out.
        self.last_grad_norm = float("nan")
        #: Of the last step, in this process: the first cells' views, all cells' embeddings of the first view, and all
        #: projections.
        self.last_views: Float[Tensor, "view cell channel height width"] | None = None
        self.last_embeddings: Float[Tensor, "cell feature"] | None = None
        self.last_projections: Float[Tensor, "view cell feature"] | None = None
        #: Time that steps of this epoch waited for their crops.
        self.data_wait_s = 0.0
        self._ready_s = 0.0
        #: The epoch to go on in, and how many of its steps are done.
        self.done_before = (0, 0)
        self._chunked: ChunkedProjections | None = None
        self._minibatch: Minibatch | None = None

    def train_dataloader(self) -> Any:
        """Build the loader of training minibatches; Lightning tells its order the epoch."""
        order = self.plan.build_order(self.global_rank, self.trainer.world_size)
        order.go_on(*self.done_before)
        settings = self.plan.settings
        dataset = CropDataset(self.plan.crops, preload=settings.preload)
        on_gpu = self.plan.place.type == "cuda"
        return build_loader(dataset, order, num_workers=settings.num_workers, pin_memory=on_gpu)

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

    def on_train_start(self) -> None:
        """Compile the backbone, where that is asked for; with chunks, average gradients here instead of in each."""
        if self.plan.settings.compile:
            self.backbone.compile()  # in place: weights keep their names
        wrapped = self.trainer.strategy.model
        if self.plan.chunk_size is not None and isinstance(wrapped, DistributedDataParallel):
            wrapped.require_backward_grad_sync = False

        self._ready_s = time.monotonic()

    def on_train_epoch_start(self) -> None:
        """Begin to gather what is told of an epoch."""
        self.train_losses = []
        self.data_wait_s, self._ready_s = 0.0, time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Add up the time waited for crops; begin in a known state, whatever came before.

        Networks with dropout draw from torch's generator.
        """
        self.data_wait_s += time.monotonic() - self._ready_s
        self._minibatch = batch
        self.seed_dropout(self.current_epoch * int(self.trainer.num_training_batches) + batch_idx)

    def seed_dropout(self, step: int) -> None:
        """Let networks with dropout draw what belongs to this step and process."""
        torch.manual_seed(derive_seed(self.plan.seed, f"dropout, process {self.global_rank}", step))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start to wait for crops."""
        self._ready_s = time.monotonic()

    def training_step(self, minibatch: Minibatch, index: int) -> Tensor:
        """Compute the loss of a minibatch, the same in every process."""
        _, loss = self.compare_views(minibatch, epoch=self.current_epoch)
        if not torch.isfinite(loss):
            raise self._refuse("loss", loss.item())
        self.train_losses.append(loss.detach())
        return loss

    def compare_views(self, minibatch: Minibatch, *, epoch: int) -> tuple[Float[Tensor, "view cell feature"], Tensor]:
        """Pass a minibatch's views through the networks; return this process's projections, and the loss of all."""
        chunk_size = self.plan.chunk_size
        if chunk_size is None:
            passed = self._pass(minibatch, epoch=epoch)
            self._show([passed])
            projections = passed.projections
        else:
            self._chunked = self._pass_in_chunks(minibatch, chunk_size, epoch=epoch)
            projections = self._chunked.whole
        return projections, self._compare(*_gather(projections, minibatch.rows))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Follow the loss back into the parameters; with chunks, by way of the projections."""
        torch.autograd.backward(loss)
        if self._chunked is not None:
            self._chunked.backward(self.trainer.precision_plugin.forward_context)
            self._chunked = None
            if self.trainer.world_size > 1:
                _average_gradients(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Measure the gradient and refuse to step by one that is not finite."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.last_grad_norm = float(norm)
        # scaled float16 gradients overflow now and then: the scaler leaves such a step out and scales less
        if self.plan.settings.precision != "16-mixed" and not torch.isfinite(norm):
            raise self._refuse("gradient's length", self.last_grad_norm)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.validation = {"val_loss": [], "val_alignment": [], "val_uniformity": []}

    def validation_step(self, minibatch: Minibatch, index: int) -> None:
        """Compute the loss on views that are the same in every epoch; every process does so on all."""
        chunks = split_minibatch(minibatch, self.plan.chunk_size or len(minibatch.rows))
        passes = [self._pass(chunk, epoch=VALIDATION_EPOCH) for chunk in chunks]
        projections = torch.cat([passed.projections for passed in passes], dim=1)
        self.validation["val_loss"].append(float(self._compare(projections, minibatch.rows)))
        self.validation["val_alignment"].append(float(measure_alignment(*projections)))
        self.validation["val_uniformity"].append(float(measure_uniformity(projections[0])))

    def _pass(self, minibatch: Minibatch, *, epoch: int) -> _Passed:
        views = self.augmenter.draw_pair(minibatch, epoch=epoch)
        num_cells = len(minibatch.rows)
        embeddings = self.backbone(views.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        projections: Tensor = self.projection(embeddings)
        return _Passed(
            views[:, :_CELLS_SHOWN].clone(),
            embeddings[:num_cells].detach(),
            projections.reshape(2, num_cells, -1),
        )

    def _pass_in_chunks(self, minibatch: Minibatch, chunk_size: int, *, epoch: int) -> ChunkedProjections:
        """Do not hold all views either: they are the same when drawn again."""
        passes = list[_Passed]()

        def project(chunk: Minibatch) -> Float[Tensor, "view cell feature"]:
            passed = self._pass(chunk, epoch=epoch)
            if not torch.is_grad_enabled():
                passes.append(passed)
            return passed.projections

        chunked = ChunkedProjections(project, split_minibatch(minibatch, chunk_size), self)
        self._show(passes)
        return chunked

    def _show(self, passes: Sequence[_Passed]) -> None:
        self.last_views = passes[0].views
        self.last_embeddings = torch.cat([passed.embeddings for passed in passes])
        self.last_projections = torch.cat([passed.projections.detach() for passed in passes], dim=1)

    def _compare(self, projections: Float[Tensor, "view cell feature"], rows: Int[Tensor, " cell"]) -> Tensor:
        loss: Tensor = self.loss(projections, self.plan.labels.take(rows.cpu().numpy()))
        return loss

    def _refuse(self, what: str, value: float) -> SettingsError:
        assert self._minibatch is not None
        epoch, step = self.current_epoch, self.global_step
        kept = keep_minibatch(self, self._minibatch, epoch=epoch, step=step) if self.global_rank == 0 else None
        return refuse_not_finite(what, value, epoch=epoch + 1, step=step, settings=self.plan.settings, kept=kept)


def _gather(
    projections: Float[Tensor, "view cell feature"], rows: Int[Tensor, " cell"]
) -> tuple[Float[Tensor, "view all_cells feature"], Int[Tensor, " all_cells"]]:
    """Put together the projections of all processes, and which cells they are of, in the same order.

    Every process computes the loss of the whole, but its gradient flows into the process's own projections. Averaging
    gradients over the processes then divides by their number what should be a sum, so it is multiplied by it here:
    the loss's own parameters, whose gradient is whole in every process, stay out of that.
    """
    num_processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if num_processes == 1:
        return projections, rows
    if projections.requires_grad:
        projections.register_hook(lambda gradient: gradient * num_processes)  # type: ignore[no-untyped-call]
    gathered = [torch.empty_like(rows) for _ in range(num_processes)]
    torch.distributed.all_gather(gathered, rows)
    return gather_projections(projections), torch.cat(gathered)


def _average_gradients(networks: nn.Module) -> None:
    """Average the parameters' gradients over all processes, all in one message."""
    gradients = [parameter.grad for parameter in networks.parameters() if parameter.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(message)
    message /= torch.distributed.get_world_size()
    parts = torch.split(message, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
