"""Batch norms that share their statistics: alone they are what they were made of. Two: test_distributed.py."""

import pytest
import timm
import torch
from torch import nn

from cytoclr.errors import SettingsError
from cytoclr.learn.encoder import SmallCnn
from cytoclr.learn.norm import SharedBatchNorm, find_batch_norms, share_statistics

CPU = torch.device("cpu")


@pytest.mark.parametrize("training", [True, False])
def test_alone_nothing_changes(training: bool) -> None:
    """Of a network of timm whose norms have the activation within them."""
    torch.manual_seed(0)
    networks = [timm.create_model("test_efficientnet", in_chans=2, num_classes=0) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    share_statistics(networks[1], CPU)
    assert sum(isinstance(layer, SharedBatchNorm) for layer in networks[1].modules()) == len(
        find_batch_norms(networks[0])
    )
    views = torch.rand(4, 2, 32, 32)
    outputs = [network.train(training)(views) for network in networks]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (name, one), (other_name, other) in zip(*(network.named_parameters() for network in networks), strict=True):
        assert name == other_name
        assert torch.equal(one.grad, other.grad)
    states = [network.state_dict() for network in networks]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_parameters_are_taken_over() -> None:
    network = SmallCnn(2)
    before = dict(network.named_parameters())
    share_statistics(network, CPU)
    share_statistics(network, CPU)  # done twice, it is done once
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    assert not any(type(layer) is nn.BatchNorm2d for layer in network.modules())


def test_networks_without_minibatch_statistics_are_known() -> None:
    for name, has_norms in {"test_vit": False, "test_convnext": False, "test_efficientnet_gn": False}.items():
        assert bool(find_batch_norms(timm.create_model(name))) == has_norms
    assert find_batch_norms(SmallCnn(1))[0] == "stem.1"


def test_norms_of_unknown_kinds_are_refused() -> None:
    networks = nn.Sequential(nn.Sequential(nn.BatchNorm3d(2)))
    with pytest.raises(SettingsError, match=r"train\.sync_norm: statistics of BatchNorm3d \(0\) cannot be shared"):
        share_statistics(networks, CPU)


def test_features_are_the_second_axis() -> None:
    norm = SharedBatchNorm(nn.BatchNorm1d(3))
    assert norm(torch.rand(4, 3)).shape == (4, 3)
    with pytest.raises(ValueError, match="expected features as the second axis, got 1 axes"):
        norm(torch.rand(3))
