"""Optimisers and their learning rate by step: warm-up, then half a cosine."""

import math
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import nn

__all__ = ["build_optimiser", "build_schedule", "learning_rate_factor"]


def build_optimiser(
    networks: nn.Module, name: Literal["adam", "adamw", "lars", "sgd"], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimiser that leaves biases and the gains of norms out of weight decay and of LARS's scaling.

    SGD and LARS (You, Gitman and Ginsburg 2017, arXiv:1708.03888) have a momentum of 0.9. Parameters of one axis are
    those left out, as in Chen et al. 2020.
    """
    weights = [parameter for parameter in networks.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in networks.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "lars":
        # timm scales a group that has weight decay; here the weights, with or without
        groups[0]["always_adapt"] = True
        optimiser: torch.optim.Optimizer = Lars(groups, lr=learning_rate, momentum=0.9)
        return optimiser
    if name == "adam":
        return torch.optim.Adam(groups, lr=learning_rate)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)


def learning_rate_factor(step: int, *, warmup_steps: int, num_steps: int) -> float:
    """Compute the share of the full learning rate at a step, counted from nought.

    It rises in equal steps to one at the end of the warm-up, then falls by half a cosine towards nought at `num_steps`.

    >>> [learning_rate_factor(step, warmup_steps=2, num_steps=6) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def build_schedule(
    optimiser: torch.optim.Optimizer, *, warmup_steps: int, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Let the learning rate follow `learning_rate_factor`, step by step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, warmup_steps=warmup_steps, num_steps=num_steps)
    )
