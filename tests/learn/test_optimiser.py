"""Optimisers against their papers' steps; the learning rate by step."""

import math

import pytest
import torch
from torch import nn

from cytoclr.learn.optimiser import build_optimiser, build_schedule, learning_rate_factor


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_lars_scales_weights_by_their_norm_and_leaves_biases(weight_decay: float) -> None:
    """You et al. 2017, Algorithm 1: local rate = 0.001 |w| / (|g| + decay |w|), for weights only."""
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimiser = build_optimiser(layer, "lars", learning_rate=0.5, weight_decay=weight_decay)
    momentum = torch.zeros_like(weight)
    for _ in range(3):
        layer.weight.grad, layer.bias.grad = torch.full_like(weight, 0.3), torch.full_like(bias, 0.2)
        local = 0.001 * weight.norm() / (layer.weight.grad.norm() + weight_decay * weight.norm())
        momentum = 0.9 * momentum + local * (layer.weight.grad + weight_decay * weight)
        weight = weight - 0.5 * momentum
        optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.5 * 0.2 * (1 + 1.9 + 2.71))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
def test_weight_decay_spares_biases_and_norms(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimiser = build_optimiser(network, name, learning_rate=1e-3, weight_decay=0.5)  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    after = network.state_dict()
    assert after["0.weight"].norm() < before["0.weight"].norm()
    for key in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[key], before[key])


def test_the_rate_rises_then_falls_by_half_a_cosine() -> None:
    optimiser = build_optimiser(nn.Linear(2, 2), "sgd", learning_rate=0.1, weight_decay=0.0)
    schedule = build_schedule(optimiser, warmup_steps=4, num_steps=12)
    rates = []
    for _ in range(12):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert learning_rate_factor(100, warmup_steps=4, num_steps=12) == 0.0
    assert learning_rate_factor(0, warmup_steps=0, num_steps=3) == 1.0
