"""Embedding: turned views, statistics of each plate's controls, and half the precision."""

import copy
import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MakeScreen
from torch import nn

from cytoclr.config import EmbedSettings, TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import SettingsError
from cytoclr.learn import Encoder, build_untrained_encoder, embed
from cytoclr.learn.dataset import read_minibatch
from cytoclr.learn.embed import MIN_CONTROL_CELLS, find_uncalibrated_plates
from cytoclr.learn.encoder import build_backbone, build_lean
from cytoclr.learn.minibatch import prepare_crops

SETTINGS = TrainSettings(view_size_px=24)
CALIBRATED = EmbedSettings(recalibrate="plate-controls")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these wait for threads more than they gain by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_encoder(num_channels: int = 2, backbone: str = "small-cnn") -> Encoder:
    """An encoder whose batch norms have seen something."""
    settings = SETTINGS.model_copy(update={"backbone": backbone})
    encoder = build_untrained_encoder(settings, num_channels, seed=1)
    torch.manual_seed(0)
    encoder.network.train()(torch.rand(32, num_channels, 24, 24))
    encoder.network.eval()
    return encoder


def read_features(crops: CropStore, cells: pd.DataFrame, encoder: Encoder, settings: EmbedSettings) -> np.ndarray:
    return embed(crops, cells, encoder, settings, device="cpu").filter(like="SSL").to_numpy()


def read_views(crops: CropStore, rows: np.ndarray) -> torch.Tensor:
    return prepare_crops(read_minibatch(crops, rows), "sqrt")


@pytest.mark.parametrize("rotations", [1, 2, 4, 8])
def test_views_are_averaged_over_exact_turns(make_screen: MakeScreen, rotations: int) -> None:
    crops, cells = make_screen()
    encoder = build_encoder()
    found = read_features(crops, cells, encoder, EmbedSettings(rotations=rotations, minibatch_size=20))
    views = read_views(crops, np.arange(len(crops))).numpy()
    turned = [np.rot90(views, quarters, axes=(2, 3)) for quarters in {1: [0], 2: [0, 2]}.get(rotations, range(4))]
    if rotations == 8:
        turned += [np.rot90(views[..., ::-1], quarters, axes=(2, 3)) for quarters in range(4)]
    assert len(turned) == rotations
    with torch.inference_mode():
        expected = sum(encoder.network(torch.tensor(view.copy())) for view in turned) / rotations
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_average_over_all_turns_does_not_know_the_way_up(make_screen: MakeScreen) -> None:
    crops, cells = make_screen()

    turned = copy.copy(crops)
    turned.read = lambda rows: np.rot90(crops.read(rows), axes=(2, 3)).copy()  # type: ignore[method-assign]
    found = [read_features(store, cells, build_encoder(), EmbedSettings(rotations=4)) for store in (crops, turned)]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_each_plate_s_controls(make_screen: MakeScreen) -> None:
    crops, cells = make_screen(cells_per_well=12)
    encoder = build_encoder()
    before = copy.deepcopy(encoder.network.state_dict())
    found = read_features(crops, cells, encoder, CALIBRATED)
    assert all(torch.equal(value, before[name]) for name, value in encoder.network.state_dict().items())
    for plate, rows in cells.groupby("Metadata_Plate").indices.items():
        controls = rows[(cells["Metadata_control_type"].iloc[rows] == "negcon").to_numpy()]
        assert len(controls) == 24, plate
        network = copy.deepcopy(encoder.network)
        means: dict[str, torch.Tensor] = {}

        def measure(layer: nn.Module, inputs: tuple[torch.Tensor, ...], means: dict[str, torch.Tensor] = means) -> None:
            """The definition: a norm's statistics are those of what enters it, once those before it are set."""
            features = inputs[0]
            layer.running_mean = features.mean(dim=(0, 2, 3))
            layer.running_var = features.var(dim=(0, 2, 3), correction=0)  # by which the pass itself normalises
            means[str(id(layer))] = features.var(dim=(0, 2, 3), correction=1)

        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        handles = [norm.register_forward_pre_hook(measure) for norm in norms]
        with torch.inference_mode():
            network(read_views(crops, controls))
            for norm, handle in zip(norms, handles, strict=True):
                handle.remove()
                norm.running_var = means[str(id(norm))]  # unbiased, as batch norms keep it
            expected = network(read_views(crops, rows))
        np.testing.assert_allclose(found[rows], expected, rtol=1e-3, atol=1e-4)


def test_statistics_undo_what_a_plate_does_to_all_its_cells(make_screen: MakeScreen) -> None:
    crops, cells = make_screen(cells_per_well=12)
    second = (cells["Metadata_Plate"] == "P2").to_numpy()
    ranges = crops.read_ranges(np.arange(len(crops)))
    high = np.where(second[:, None], 2 * ranges[1], ranges[1])  # the second plate looks half as bright
    dimmed = copy.copy(crops)
    dimmed.read_ranges = lambda rows: (ranges[0][rows], high[rows])  # type: ignore[method-assign]
    encoder = build_encoder()
    controls = (cells["Metadata_control_type"] == "negcon").to_numpy()

    def measure_shift(settings: EmbedSettings) -> float:
        """How far the plates' controls lie apart, for the spread within them."""
        features = read_features(dimmed, cells, encoder, settings)
        first, other = features[controls & ~second], features[controls & second]
        return float(np.linalg.norm(first.mean(0) - other.mean(0)) / np.linalg.norm(first.std(0)))

    assert measure_shift(CALIBRATED) < 0.5 * measure_shift(EmbedSettings())


def test_the_minibatch_changes_nothing_of_recalibrated_embeddings(make_screen: MakeScreen) -> None:
    crops, cells = make_screen(cells_per_well=12)
    encoder = build_encoder()
    some, more = (
        read_features(crops, cells, encoder, CALIBRATED.model_copy(update={"minibatch_size": size, "rotations": 2}))
        for size in (31, 64)
    )
    np.testing.assert_allclose(some, more, rtol=1e-4, atol=1e-5)


def test_a_plate_with_few_controls_keeps_the_statistics_of_training(
    make_screen: MakeScreen, caplog: pytest.LogCaptureFixture
) -> None:
    crops, cells = make_screen(cells_per_well=12)
    second = cells["Metadata_Plate"] == "P2"
    cells = cells.copy()
    spare = cells.index[second & (cells["Metadata_control_type"] == "negcon")][MIN_CONTROL_CELLS - 1 :]
    cells.loc[spare, "Metadata_control_type"] = "trt"
    assert find_uncalibrated_plates(cells) == {"P2": MIN_CONTROL_CELLS - 1}
    encoder = build_encoder()
    plain = read_features(crops, cells, encoder, EmbedSettings())
    with caplog.at_level(logging.WARNING):
        found = read_features(crops, cells, encoder, CALIBRATED)
    assert r"1 of 2 plates have fewer than 16 control cells" in caplog.text
    assert "P2 (15)" in caplog.text
    np.testing.assert_allclose(found[second], plain[second], rtol=1e-5, atol=1e-6)
    assert np.abs(found[~second] - plain[~second]).max() > 0.01


def test_a_network_without_batch_norms_is_refused(make_screen: MakeScreen) -> None:
    crops, cells = make_screen()
    with pytest.raises(SettingsError, match=r"this backbone has none\. Set it to none"):
        embed(crops, cells, build_encoder(backbone="seed-cnn"), CALIBRATED, device="cpu")


@pytest.mark.parametrize("backbone", ["small-cnn", "seed-cnn", "test_resnet", "test_vit", "test_convnext"])
def test_half_the_precision_points_the_same_way(make_screen: MakeScreen, backbone: str) -> None:
    crops, cells = make_screen(size_px=32)
    encoder = build_untrained_encoder(SETTINGS.model_copy(update={"backbone": backbone, "view_size_px": 32}), 2, seed=0)
    whole = read_features(crops, cells, encoder, EmbedSettings())
    half = read_features(crops, cells, encoder, EmbedSettings(precision="bf16"))
    cosines = (whole * half).sum(axis=1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(half, axis=1)
    assert cosines.min() > 0.999


class NormAfterTheSum(nn.Module):
    """Declares a norm just after a convolution, and uses it elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 3
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        features = self.conv(views)
        return (features + self.norm(features.relu())).mean(dim=(2, 3))


def test_norms_are_folded_only_where_nothing_changes() -> None:
    torch.manual_seed(0)
    views = torch.rand(16, 2, 24, 24)
    for network, folds in ((build_backbone("small-cnn", 2, view_size_px=24), True), (NormAfterTheSum(), False)):
        network.train()(views)
        network.eval()
        with torch.inference_mode():
            lean = build_lean(network, views)
            expected, found = network(views), lean(views.bfloat16()).float()
        norms = [layer for layer in lean.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert (not norms) == folds
        assert all(norm.running_mean.dtype == torch.float32 for norm in norms)
        assert torch.cosine_similarity(found, expected).min() > 0.999
