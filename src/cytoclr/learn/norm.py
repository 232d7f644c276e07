"""Batch normalisation over all processes: those that share a minibatch normalise as one that has all of it."""

from typing import Any

import torch
import torch.distributed
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cytoclr.errors import SettingsError

__all__ = ["SharedBatchNorm", "find_batch_norms", "share_statistics"]


def find_batch_norms(networks: nn.Module) -> list[str]:
    """Name the layers that normalise by the statistics of a minibatch, in their order."""
    return [name for name, layer in networks.named_modules() if isinstance(layer, _BatchNorm)]


def share_statistics(networks: nn.Module, place: torch.device) -> None:
    """Let the batch norms below a module take their statistics over all processes; parameters and names stay.

    On GPUs PyTorch's own synchronised norm stands in, which refuses tensors of the CPU; there `SharedBatchNorm` does.

    Raises
    ------
    SettingsError
        A layer is a batch norm of a kind that is not known, and so is what else it does.
    """
    if place.type == "cuda":
        # not torch's conversion, by which timm's norms would lose the activation that is part of them
        convert_sync_batchnorm(networks)
        return
    for name, child in networks.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d):
            setattr(networks, name, SharedBatchNorm(child))
        elif isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
            raise SettingsError(
                f"train.sync_norm: statistics of {type(child).__name__} ({name}) cannot be shared between processes, "
                "those of BatchNorm1d, BatchNorm2d and timm's BatchNormAct2d can. Set it to false, or train.devices to "
                "1."
            )
        else:
            share_statistics(child, place)


class SharedBatchNorm(_BatchNorm):
    """A batch norm, with its parameters and buffers, whose minibatch is that of all processes.

    Where no other process takes part, and in evaluation, it is the norm it was made of.

    Parameters
    ----------
    norm
        Its parameters and buffers are taken over, not copied; and the activation, if it is timm's with one.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167
    """

    def __init__(self, norm: Any) -> None:
        super().__init__(
            norm.num_features,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise; features are the second axis."""
        if self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            normalised, mean, variance, count = _Normalise.apply(features, self.weight, self.bias, self.eps)
            self._track(mean, variance, count)
        else:
            normalised = super().forward(features)
        activated: Tensor = self.act(self.drop(normalised))
        return activated

    def _check_input_dim(self, features: Tensor) -> None:
        if features.ndim < 2:
            raise ValueError(f"expected features as the second axis, got {features.ndim} axes")

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics as PyTorch does: with the unbiased variance."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """Normalisation by the mean and variance of all processes' values; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        dtype = torch.promote_types(features.dtype, torch.float32)
        variance, mean = torch.var_mean(features.to(dtype), dim=_list_axes(features), correction=0)
        count = mean.new_full((1,), features.numel() // features.shape[1])
        gathered = _gather(torch.cat([count, mean, variance]))
        counts, means, variances = torch.split(gathered, [1, len(mean), len(mean)], dim=1)
        # of parts to that of the whole (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        variance = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        normalised = functional.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(features, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        features, weight, mean, rate, count = ctx.saved_tensors
        shape = [1, -1, *[1] * (features.ndim - 2)]
        gradient = gradients[0].to(mean.dtype)
        standardised = (features.to(mean.dtype) - mean.view(shape)) * rate.view(shape)
        axes = _list_axes(features)
        of_bias, of_weight = gradient.sum(dim=axes), (gradient * standardised).sum(dim=axes)
        # parameters' gradients are this process's part: distributed training adds them up
        shared = torch.stack([of_bias, of_weight])
        torch.distributed.all_reduce(shared)
        mean_gradient, mean_product = (shared / count).unbind()
        of_features = gradient - mean_gradient.view(shape) - standardised * mean_product.view(shape)
        of_features = of_features * (rate if weight is None else rate * weight).view(shape)
        return (
            of_features.to(features.dtype),
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            None,
        )


def _list_axes(features: Tensor) -> list[int]:
    """All axes but that of features."""
    return [0, *range(2, features.ndim)]


def _gather(values: Tensor) -> Tensor:
    """Put the values of all processes below each other."""
    gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, values)
    return torch.stack(gathered)
