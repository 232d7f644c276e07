"""Backbones of any number of channels, by name."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from cytoclr.errors import SettingsError
from cytoclr.learn.encoder import build_backbone, build_imagenet, build_projection


@pytest.mark.parametrize("num_channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["small-cnn", "seed-cnn", "resnet10t", "vit_tiny_patch16_224"])
def test_backbones_embed_any_number_of_channels(name: str, num_channels: int) -> None:
    backbone = build_backbone(name, num_channels, view_size_px=48).eval()
    embeddings = backbone(torch.zeros(2, num_channels, 48, 48))
    assert embeddings.shape == (2, backbone.num_features)


def test_the_seed_s_network_has_its_layers() -> None:
    shapes = [tuple(value.shape) for value in build_backbone("seed-cnn", 3, view_size_px=96).parameters()]
    assert shapes[::2] == [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]


def test_projection_is_linear_relu_linear() -> None:
    shapes = [tuple(value.shape) for value in build_projection(8, 6, 4).parameters()]
    assert shapes == [(6, 8), (6,), (4, 6), (4,)]


def test_wrong_names_are_refused_with_close_ones() -> None:
    with pytest.raises(SettingsError, match=r"'resnet-18' is neither .* Did you mean .*resnet18"):
        build_backbone("resnet-18", 3, view_size_px=64)
    with pytest.raises(SettingsError, match="names them all"):
        build_backbone("§§§", 3, view_size_px=64)
    with pytest.raises(SettingsError, match="small-cnn has no pretrained weights"):
        build_backbone("small-cnn", 3, view_size_px=64, pretrained=True)
    with pytest.raises(SettingsError, match="timm has no weights for resnet200"):
        build_backbone("resnet200", 3, view_size_px=64, pretrained=True)
    with pytest.raises(SettingsError, match="levit_128s does not take views of 50 px"):
        build_backbone("levit_128s", 3, view_size_px=50)


def test_imagenet_weights_come_from_a_file_for_any_channels(tmp_path):
    torch.manual_seed(0)
    teacher = timm.create_model("resnet10t.c3_in1k")
    weights = tmp_path / "resnet10t.safetensors"
    safetensors.torch.save_file(teacher.state_dict(), weights)
    network, size_px = build_imagenet("resnet10t", 3, weights=weights)
    about = timm.get_pretrained_cfg("resnet10t")
    assert size_px == about.input_size[-1]
    views = torch.rand(2, 3, 64, 64)
    teacher.reset_classifier(0)
    mean, deviation = np.mean(about.mean), np.mean(about.std)
    expected = teacher.eval()((views - mean) / deviation)
    torch.testing.assert_close(network.eval()(views), expected)
    five, _ = build_imagenet("resnet10t", 5, weights=weights)
    assert five.eval()(torch.rand(2, 5, 64, 64)).shape == (2, five.num_features)


def test_imagenet_weights_that_are_none_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"weights.pth: expected a .safetensors file"):
        build_imagenet("resnet10t", 3, weights=tmp_path / "weights.pth")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(SettingsError, match="not timm's weights of resnet10t"):
        build_imagenet("resnet10t", 3, weights=tmp_path / "other.safetensors")
    with pytest.raises(SettingsError, match="neither small-cnn, seed-cnn nor a timm model"):
        build_imagenet("resnet10x", 3)
