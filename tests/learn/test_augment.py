"""Views: of their cell alone, for any number of channels, with every nuisance on its own switch."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cytoclr.config import AugmentSettings
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.minibatch import Minibatch

STILL = {"min_scale": 1.0, "rotate": False, "flip": False}
PLAIN = {"gain": 0.0, "offset": 0.0, "gamma": 0.0, "blur_px": 0.0, "noise": 0.0}


def draw_crops(num_cells: int, num_channels: int, size_px: int = 20) -> Tensor:
    return torch.rand(num_cells, num_channels, size_px, size_px, generator=torch.Generator().manual_seed(0))


def augment(
    crops: Tensor, cells: np.ndarray, *, view_size_px: int = 20, epoch: int = 0, view: int = 0, **values: object
) -> Tensor:
    augmenter = Augmenter(AugmentSettings(**values), view_size_px=view_size_px, transform="linear", seed=0)
    ranges = torch.zeros(crops.shape[:2]), torch.full(crops.shape[:2], 65535.0)
    raw = (crops * 65535).round().to(torch.uint16)
    return augmenter.draw(Minibatch(torch.from_numpy(cells), raw, *ranges), epoch=epoch, view=view)


@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_a_view_does_not_depend_on_the_minibatch(num_channels: int) -> None:
    crops, cells = draw_crops(6, num_channels), np.array([5, 900, 17, 2, 3, 44])
    together = augment(crops, cells, view_size_px=16)
    assert together.shape == (6, num_channels, 16, 16)
    chosen = [4, 1]
    apart = augment(crops[chosen], cells[chosen], view_size_px=16)
    torch.testing.assert_close(apart, together[chosen], rtol=0, atol=1e-6)


def test_views_epochs_cells_and_seeds_differ_and_repeat() -> None:
    crops = draw_crops(1, 2)
    cells = np.array([3])
    base = augment(crops, cells)
    torch.testing.assert_close(augment(crops, cells), base, rtol=0, atol=0)
    for other in (augment(crops, cells, view=1), augment(crops, cells, epoch=1), augment(crops, np.array([4]))):
        assert (other - base).abs().mean() > 0.01


def test_everything_off_is_the_crop_itself() -> None:
    crops = draw_crops(3, 2)
    torch.testing.assert_close(augment(crops, np.arange(3), **STILL, **PLAIN), crops, rtol=0, atol=1e-5)


def test_strength_nought_leaves_geometry_only() -> None:
    crops = torch.full((4, 2, 20, 20), 0.25)
    torch.testing.assert_close(augment(crops, np.arange(4), strength=0.0), crops)


def test_mirrors_are_the_crop_s_four_mirrors() -> None:
    crops = draw_crops(40, 1)
    values = {**STILL, **PLAIN, "flip": True}
    views = augment(crops, np.arange(40), **values)
    seen = set()
    for crop, view in zip(crops, views, strict=True):
        mirrors = {axes: crop.flip(axes) for axes in ((), (1,), (2,), (1, 2))}
        found = [axes for axes, mirror in mirrors.items() if torch.allclose(mirror, view, atol=1e-4)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 4


def test_resampling_samples_where_the_formula_says() -> None:
    """A crop whose two channels are its own x and y tells where each pixel of a view was taken."""
    size_px = 32
    y, x = torch.meshgrid(torch.arange(size_px), torch.arange(size_px), indexing="ij")
    crops = ((torch.stack([x, y]).float() + 0.5) / size_px * 2 - 1).expand(1000, 2, -1, -1).contiguous()
    views = augment(crops, np.arange(1000), view_size_px=size_px, min_scale=0.25, rotate=False, flip=False, **PLAIN)
    width = views[:, 0, 16, -1] - views[:, 0, 16, 0]
    area = (width * size_px / (size_px - 1) / 2) ** 2
    assert area.min() > 0.24
    assert area.max() < 1.01
    assert abs(float(area.mean()) - 0.625) < 0.05
    assert views.abs().max() <= 1.0  # without rotation a view stays inside its crop
    middle = views[:, :, 15:17, 15:17].mean(dim=(2, 3))
    assert abs(float(np.corrcoef(middle.numpy().T)[0, 1])) < 0.2
    turned = augment(crops, np.arange(1000), view_size_px=size_px, min_scale=1.0, flip=False, **PLAIN)
    along_x = turned[:, :, 16, 18] - turned[:, :, 16, 13]
    along_y = turned[:, :, 18, 16] - turned[:, :, 13, 16]
    torch.testing.assert_close(along_y, torch.stack([-along_x[:, 1], along_x[:, 0]], dim=1), rtol=0, atol=1e-3)
    angle = torch.atan2(*(turned[:, :, 16, 18] - turned[:, :, 16, 13]).flip(1).T)
    assert np.histogram(angle.numpy(), bins=4, range=(-np.pi, np.pi))[0].min() > 200


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    crops = draw_crops(8, 2, size_px=32)
    views = augment(crops, np.arange(8), view_size_px=32, **STILL, **{**PLAIN, "blur_px": 2.0})
    for crop, view in zip(crops.numpy(), views.numpy(), strict=True):
        errors = [
            np.abs(gaussian_filter(crop, (0, s, s), mode="nearest", radius=6) - view).max()
            for s in np.arange(0.01, 2.02, 0.01)
        ]
        assert min(errors) < 0.02


def test_stain_changes_channels_on_their_own_and_within_bounds() -> None:
    crops = torch.full((500, 2, 4, 4), 0.5)
    values = {**STILL, **PLAIN}
    gains = augment(crops, np.arange(500), view_size_px=4, **{**values, "gain": 0.4})[:, :, 0, 0] / 0.5
    assert np.exp(-0.4) <= gains.min() < 0.75
    assert 1.4 < gains.max() <= np.exp(0.4) + 1e-6
    assert abs(float(np.corrcoef(gains.numpy().T)[0, 1])) < 0.15
    offsets = augment(crops, np.arange(500), view_size_px=4, **{**values, "offset": 0.1, "strength": 2.0})[:, :, 0, 0]
    assert 0.3 <= offsets.min() < 0.32
    assert 0.68 < offsets.max() <= 0.7 + 1e-6
    gammas = augment(crops, np.arange(500), view_size_px=4, **{**values, "gamma": 0.2})[:, :, 0, 0]
    assert 0.5 ** np.exp(0.2) - 1e-6 <= gammas.min()
    assert gammas.max() <= 0.5 ** np.exp(-0.2) + 1e-6


def test_noise_is_normal_and_its_own_in_each_view() -> None:
    crops = torch.zeros(300, 1, 16, 16)
    views = augment(crops, np.arange(300), view_size_px=16, **STILL, **{**PLAIN, "noise": 0.05})
    spread = views.flatten(1).std(dim=1)
    assert spread.min() < 0.005
    assert 0.045 < spread.max() < 0.06
    flat = (views.flatten(1) / spread[:, None]).numpy()
    assert np.abs(np.corrcoef(flat) - np.eye(300)).max() < 0.4
