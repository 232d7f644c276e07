"""Backbones of any number of channels, by name."""

import pytest
import torch

from cytoclr.errors import SettingsError
from cytoclr.learn.encoder import build_backbone, build_projection


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
