"""Views: of their cell alone, for any number of channels, with every nuisance on its own switch."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cytoclr.config import AugmentSettings
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.augment.nuisances import Nuisances, draw_nuisances
from cytoclr.learn.minibatch import Minibatch

STILL = {"min_scale": 1.0, "rotate": False, "flip": False}
PLAIN = {"gain": 0.0, "offset": 0.0, "gamma": 0.0, "blur_px": 0.0, "noise": 0.0}
OFF = {**STILL, **PLAIN}
BACKENDS = ("numba", "torch")


def draw_crops(num_cells: int, num_channels: int, size_px: int = 20) -> Tensor:
    return torch.rand(num_cells, num_channels, size_px, size_px, generator=torch.Generator().manual_seed(0))


def pack(crops: Tensor, cells: np.ndarray | None = None, dtype: torch.dtype = torch.uint16) -> Minibatch:
    """Store intensities 0..1 as numbers between 5 and the type's largest."""
    high = {torch.uint8: 255.0, torch.uint16: 65535.0}[dtype]
    rows = torch.from_numpy(np.arange(len(crops)) if cells is None else cells)
    ranges = torch.full(crops.shape[:2], 5.0), torch.full(crops.shape[:2], high)
    return Minibatch(rows, (5 + crops * (high - 5)).round().to(dtype), *ranges)


def augment(
    crops: Tensor,
    cells: np.ndarray | None = None,
    *,
    view_size_px: int | None = None,
    epoch: int = 0,
    view: int = 0,
    backend: Literal["numba", "torch"] | None = None,
    dtype: torch.dtype = torch.uint16,
    **values: object,
) -> Tensor:
    augmenter = Augmenter(
        AugmentSettings(**values),
        view_size_px=view_size_px or crops.shape[-1],
        transform="linear",
        seed=0,
        backend=backend,
    )
    return augmenter.draw(pack(crops, cells, dtype), epoch=epoch, view=view)


# A view belongs to its cell.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_a_view_does_not_depend_on_the_minibatch(num_channels: int, backend: Literal["numba", "torch"]) -> None:
    crops, cells = draw_crops(6, num_channels), np.array([5, 900, 17, 2, 3, 44])
    together = augment(crops, cells, view_size_px=16, backend=backend, preset="strong")
    assert together.shape == (6, num_channels, 16, 16)
    chosen = [4, 1]
    apart = augment(crops[chosen], cells[chosen], view_size_px=16, backend=backend, preset="strong")
    torch.testing.assert_close(apart, together[chosen], rtol=0, atol=0 if backend == "numba" else 1e-6)


def test_views_epochs_cells_and_seeds_differ_and_repeat() -> None:
    crops = draw_crops(1, 2)
    cells = np.array([3])
    base = augment(crops, cells)
    torch.testing.assert_close(augment(crops, cells), base, rtol=0, atol=0)
    for other in (augment(crops, cells, view=1), augment(crops, cells, epoch=1), augment(crops, np.array([4]))):
        assert (other - base).abs().mean() > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pair_is_views_0_and_1(backend: Literal["numba", "torch"]) -> None:
    augmenter = Augmenter(AugmentSettings(preset="strong"), view_size_px=17, transform="sqrt", seed=4, backend=backend)
    minibatch = pack(draw_crops(5, 2))
    pair = augmenter.draw_pair(minibatch, epoch=2)
    for view in (0, 1):
        torch.testing.assert_close(pair[view], augmenter.draw(minibatch, epoch=2, view=view), rtol=0, atol=0)


@pytest.mark.promise("Numbers", "The number of threads changes no view of a cell")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = draw_crops(50, 2)
    views = []
    for num_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda num_threads=num_threads: num_threads)
        views.append(augment(crops, preset="strong", backend="numba"))
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_channel_never_changes_another(backend: Literal["numba", "torch"]) -> None:
    crops = draw_crops(8, 3)
    other = crops.clone()
    other[:, 1] = 1.0 - other[:, 1]
    values = {"preset": "strong", "drop": 0.0, "backend": backend}
    first, second = augment(crops, **values), augment(other, **values)
    assert torch.equal(first[:, [0, 2]], second[:, [0, 2]])
    assert ((first - second)[:, 1].abs().mean(dim=(1, 2)) > 0.01).all()


def test_switching_a_nuisance_leaves_the_others_as_they_were() -> None:
    def draw(num_channels: int, **values: object) -> Nuisances:
        return draw_nuisances(
            np.arange(9),
            AugmentSettings(**values),
            num_channels=num_channels,
            crop_shape=(20, 20),
            view_size_px=16,
            tape_length=1000,
            seed=0,
            epoch=0,
            view=0,
        )

    base = draw(2)
    more = draw(3, elastic=0.1, gradient=0.1, drop=0.1, cut_out=0.1, photon_noise=0.1)
    for name in ("matrices", "blurs", "noise_variances"):
        np.testing.assert_array_equal(getattr(base, name), getattr(more, name))
    for name in ("gammas", "offsets", "noise_starts"):
        np.testing.assert_array_equal(getattr(base, name), getattr(more, name)[:, :2])


def test_what_cannot_be_kept_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = pytest.importorskip("cytoclr.learn.augment.compiled")

    asked = []

    def compile_unless_kept(*, cache: bool = False, **_: object) -> Callable[[object], object]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled.numba, "njit", compile_unless_kept)
    assert compiled._compile(draw_crops) is draw_crops
    assert asked == [True, False]


# The compiled back end makes what torch makes.

EVERYTHING = {
    "elastic": 0.1,
    "gradient": 0.5,
    "drop": 0.3,
    "cut_out": 0.5,
    "photon_noise": 0.2,
    "noise": 0.1,
    "blur_px": 2.5,
    "gamma": 0.5,
}
SWITCHES: list[dict[str, object]] = [
    OFF,
    {**OFF, "min_scale": 0.1},
    {**OFF, "rotate": True},
    {**OFF, "flip": True},
    {**OFF, "elastic": 0.25},
    {**OFF, "gain": 0.5},
    {**OFF, "offset": 0.3},
    {**OFF, "gamma": 1.0},
    {**OFF, "gain": 0.5, "gamma": 0.5, "jitter_probability": 0.5},
    {**OFF, "blur_px": 0.8},
    {**OFF, "blur_px": 3.0, "blur_probability": 0.5},
    {**OFF, "gradient": 0.7},
    {**OFF, "drop": 0.5},
    {**OFF, "cut_out": 1.0},
    {**OFF, "noise": 0.2},
    {**OFF, "photon_noise": 0.2},
    {"strength": 0.0},
    {"strength": 2.0, "preset": "strong"},
    {},
    {"preset": "seed-2020"},
    EVERYTHING,
]


@pytest.mark.parametrize("values", SWITCHES, ids=lambda values: ",".join(sorted(set(values) - set(OFF))) or "few")
def test_both_back_ends_make_the_same_views(values: dict[str, object]) -> None:
    crops = draw_crops(12, 2, size_px=23)
    compiled, reference = (augment(crops, view_size_px=19, backend=backend, **values) for backend in BACKENDS)
    torch.testing.assert_close(compiled, reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("transform", ["sqrt", "linear"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize(
    ("num_channels", "crop_px", "view_px"), [(1, 31, 16), (3, 16, 31), (5, 24, 24), (2, 17, 48), (7, 40, 21)]
)
def test_both_back_ends_for_any_channels_sizes_and_types(
    num_channels: int, crop_px: int, view_px: int, dtype: torch.dtype, transform: Literal["sqrt", "linear"]
) -> None:
    minibatch = pack(draw_crops(4, num_channels, crop_px), dtype=dtype)
    settings = AugmentSettings(**EVERYTHING)
    compiled, reference = (
        Augmenter(settings, view_size_px=view_px, transform=transform, seed=1, backend=backend).draw_pair(
            minibatch, epoch=0
        )
        for backend in BACKENDS
    )
    assert compiled.shape == (2, 4, num_channels, view_px, view_px)
    torch.testing.assert_close(compiled, reference, rtol=0, atol=1e-4)


def test_crops_that_are_no_squares_or_not_in_order_in_memory() -> None:
    wide = pack(torch.rand(3, 2, 18, 27, generator=torch.Generator().manual_seed(1)))
    turned = wide._replace(crops=wide.crops.transpose(2, 3))
    for minibatch in (wide, turned):
        made = [
            Augmenter(AugmentSettings(), view_size_px=16, transform="sqrt", seed=0, backend=backend).draw(
                minibatch, epoch=0, view=0
            )
            for backend in BACKENDS
        ]
        torch.testing.assert_close(*made, rtol=0, atol=1e-4)


def test_eight_bits_are_sixteen_bits() -> None:
    crops = draw_crops(4, 2)
    views = [augment(crops, dtype=dtype, noise=0.0) for dtype in (torch.uint8, torch.uint16)]
    torch.testing.assert_close(*views, rtol=0, atol=0.01)


# Each switch does what its name says.


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_off_is_the_crop_itself(backend: Literal["numba", "torch"]) -> None:
    crops = draw_crops(3, 2)
    torch.testing.assert_close(augment(crops, backend=backend, **OFF), crops, rtol=0, atol=2e-5)


def test_strength_nought_leaves_geometry_only() -> None:
    crops = torch.full((4, 2, 20, 20), 0.25)
    values = {"gradient": 0.5, "photon_noise": 0.2, "strength": 0.0}
    torch.testing.assert_close(augment(crops, **values), crops, rtol=0, atol=2e-5)


def test_mirrors_are_the_crop_s_four_mirrors() -> None:
    crops = draw_crops(40, 1)
    views = augment(crops, **{**OFF, "flip": True})
    seen = set()
    for crop, view in zip(crops, views, strict=True):
        mirrors = {axes: crop.flip(axes) for axes in ((), (1,), (2,), (1, 2))}
        found = [axes for axes, mirror in mirrors.items() if torch.allclose(mirror, view, atol=1e-4)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 4


def draw_maps(num_cells: int, size_px: int) -> Tensor:
    """Crops whose two channels are their pixels' own x and y, 0..1 from border to border."""
    y, x = torch.meshgrid(torch.arange(size_px), torch.arange(size_px), indexing="ij")
    return ((torch.stack([x, y]).float() + 0.5) / size_px).expand(num_cells, 2, -1, -1).contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resized_crop_lies_anywhere_within_and_has_any_area(backend: Literal["numba", "torch"]) -> None:
    size_px = 32
    values = {**OFF, "min_scale": 0.25, "backend": backend}
    views = augment(draw_maps(1000, size_px), **values)
    width, height = views[:, 0, 16, 27] - views[:, 0, 16, 4], views[:, 1, 27, 16] - views[:, 1, 4, 16]
    torch.testing.assert_close(width, height, rtol=0, atol=1e-4)  # without change of aspect
    area = (width * size_px / 23) ** 2
    assert area.min() > 0.24
    assert area.max() < 1.01
    assert np.histogram(area.numpy(), bins=5, range=(0.25, 1.0))[0].min() > 150
    assert views.min() >= 0.5 / size_px - 1e-4  # and stays inside its crop
    assert views.max() <= 1.0 - 0.5 / size_px + 1e-4
    middle = views[:, :, 15:17, 15:17].mean(dim=(2, 3))
    assert abs(float(np.corrcoef(middle.numpy().T)[0, 1])) < 0.15
    free = (1.0 - area.sqrt()[:, None]).clamp(min=0.05)
    place = ((middle - 0.5) / free + 0.5)[area.sqrt() < 0.9]
    assert np.histogram(place.numpy(), bins=4, range=(0.0, 1.0))[0].min() > 0.2 * place.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_turning_is_by_any_angle_and_keeps_lengths(backend: Literal["numba", "torch"]) -> None:
    turned = augment(draw_maps(1000, 32), **{**OFF, "rotate": True, "backend": backend})
    along_x = turned[:, :, 16, 18] - turned[:, :, 16, 13]
    along_y = turned[:, :, 18, 16] - turned[:, :, 13, 16]
    torch.testing.assert_close(along_y, torch.stack([-along_x[:, 1], along_x[:, 0]], dim=1), rtol=0, atol=1e-3)
    torch.testing.assert_close(along_x.norm(dim=1), torch.full((1000,), 5 / 32), rtol=0, atol=1e-3)
    angle = torch.atan2(along_x[:, 1], along_x[:, 0])
    assert np.histogram(angle.numpy(), bins=4, range=(-np.pi, np.pi))[0].min() > 200


def test_beyond_its_border_a_crop_is_mirrored() -> None:
    """Every pixel of turned views is found by slow loops over a crop that was padded by its mirror image."""
    size_px = 16
    crops = draw_crops(6, 1, size_px)
    maps = augment(torch.cat([draw_maps(6, size_px)]), **{**OFF, "rotate": True})
    turned = augment(crops, **{**OFF, "rotate": True})[:, 0].numpy()
    padded = np.pad(crops[:, 0].numpy(), ((0, 0), (size_px, size_px), (size_px, size_px)), mode="symmetric")
    for cell in range(6):
        # the angle by two pixels in the middle, where nothing is mirrored
        step = (maps[cell, :, 8, 11] - maps[cell, :, 8, 5]).double().numpy() / 6 * size_px
        cos, sin = step / np.hypot(*step)
        for row in range(size_px):
            for column in range(size_px):
                x = cos * (column - 7.5) - sin * (row - 7.5) + 7.5 + size_px
                y = sin * (column - 7.5) + cos * (row - 7.5) + 7.5 + size_px
                left, top = int(np.floor(x)), int(np.floor(y))
                corner, right, down = padded[cell, top : top + 2, left : left + 2], x - left, y - top
                expected = np.array([1 - down, down]) @ corner @ np.array([1 - right, right])
                assert abs(expected - turned[cell, row, column]) < 2e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bend_moves_pixels_smoothly_and_no_further_than_it_may(backend: Literal["numba", "torch"]) -> None:
    size_px, largest = 64, 0.05
    maps = draw_maps(200, size_px)
    moved = (augment(maps, **{**OFF, "elastic": largest, "backend": backend}) - maps)[:, :, 8:-8, 8:-8]
    assert moved.abs().max() <= largest + 1e-4
    assert moved.abs().amax(dim=(1, 2, 3)).min() > 0.1 * largest
    assert abs(float(moved.mean())) < 0.1 * largest
    assert moved.diff(dim=2).abs().max() < 6 * largest / size_px  # Bernstein: slope at most 3 x a step of 2 x largest
    assert abs(float(np.corrcoef(moved[:, :, 24, 24].numpy().T)[0, 1])) < 0.2


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    crops = draw_crops(8, 2, size_px=32)
    views = augment(crops, **{**OFF, "blur_px": 2.0})
    widths = []
    for crop, view in zip(crops.numpy(), views.numpy(), strict=True):
        errors = {
            width: np.abs(gaussian_filter(crop, (0, width, width), mode="nearest", radius=6) - view).max()
            for width in np.arange(0.01, 2.02, 0.01)
        }
        widths.append(min(errors, key=errors.__getitem__))
        assert errors[widths[-1]] < 0.02
    assert max(widths) - min(widths) > 0.5


def test_blur_and_jitter_have_their_probabilities() -> None:
    crops = draw_crops(400, 2)
    blurred = augment(crops, **{**OFF, "blur_px": 2.0, "blur_probability": 0.3})
    assert 0.2 < float(((blurred - crops).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()) < 0.4
    values = {**OFF, "gain": 0.5, "offset": 0.2, "gamma": 0.3, "jitter_probability": 0.8}
    changed = (augment(crops, **values) - crops).abs().amax(dim=(2, 3)) > 1e-3
    assert 0.7 < float(changed.float().mean()) < 0.9
    assert torch.equal(changed[:, 0], changed[:, 1])  # a view's channels are changed together, each its own way


def test_stain_changes_channels_on_their_own_and_within_bounds() -> None:
    crops = torch.full((500, 2, 16, 16), 0.5)
    gains = augment(crops, **{**OFF, "gain": 0.4})[:, :, 0, 0] / 0.5
    assert np.exp(-0.4) - 1e-4 <= gains.min() < 0.75
    assert 1.4 < gains.max() <= np.exp(0.4) + 1e-4
    assert abs(float(np.corrcoef(gains.numpy().T)[0, 1])) < 0.15
    offsets = augment(crops, **{**OFF, "offset": 0.1, "strength": 2.0})[:, :, 0, 0]
    assert 0.3 - 1e-4 <= offsets.min() < 0.32
    assert 0.68 < offsets.max() <= 0.7 + 1e-4
    gammas = augment(crops, **{**OFF, "gamma": 0.2})[:, :, 0, 0]
    assert 0.5 ** np.exp(0.2) - 1e-4 <= gammas.min() < 0.45
    assert 0.55 < gammas.max() <= 0.5 ** np.exp(-0.2) + 1e-4


@pytest.mark.parametrize("strength", [1.0, 6.0])
def test_gamma_is_a_power_for_every_intensity(strength: float) -> None:
    """One row of crops has all intensities; the exponent is known from one of them."""
    ramp = torch.linspace(0.0, 1.0, 64).expand(20, 1, 64, -1)
    views = augment(ramp, backend="numba", **{**OFF, "gamma": 0.3, "strength": strength})[:, 0, 0].double()
    stored = ((5 + ramp[0, 0, 0] * 65530).round().double() - 5) / 65530
    exponents = views[:, 32].log() / stored[32].log()
    torch.testing.assert_close(views, stored ** exponents[:, None], rtol=0, atol=1e-4)
    assert (exponents.log().abs() <= 0.3 * strength + 1e-4).all()
    assert exponents.log().abs().max() > 0.2 * strength


@pytest.mark.parametrize("backend", BACKENDS)
def test_light_falls_off_along_a_direction(backend: Literal["numba", "torch"]) -> None:
    views = augment(torch.full((300, 2, 32, 32), 0.5), **{**OFF, "gradient": 0.5, "backend": backend})
    assert torch.equal(views[:, 0], views[:, 1])
    log_light = (views[:, 0] / 0.5).log()
    assert log_light.mean(dim=(1, 2)).abs().max() < 1e-3
    slopes = torch.stack([log_light.diff(dim=2).mean(dim=(1, 2)), log_light.diff(dim=1).mean(dim=(1, 2))], dim=1) * 16
    assert slopes.norm(dim=1).max() <= 0.5 + 1e-3
    assert slopes.norm(dim=1).max() > 0.45
    assert log_light.diff(dim=2).std(dim=(1, 2)).max() < 1e-4
    angles = torch.atan2(slopes[:, 1], slopes[:, 0]).numpy()
    assert np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0].min() > 40


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_channels", [1, 2, 5])
def test_channels_are_dropped_but_never_all(num_channels: int, backend: Literal["numba", "torch"]) -> None:
    crops = torch.full((500, num_channels, 16, 16), 0.5)
    kept = augment(crops, **{**OFF, "drop": 0.4, "backend": backend})[:, :, 0, 0] > 0.25
    assert kept.any(dim=1).all()
    expected = 1.0 - 0.4 + 0.4**num_channels / num_channels  # one that would be dropped with all others stays
    assert abs(float(kept.float().mean()) - expected) < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_square_is_cut_out_inside_the_view(backend: Literal["numba", "torch"]) -> None:
    views = augment(torch.full((500, 2, 32, 32), 0.5), **{**OFF, "cut_out": 0.5, "backend": backend})
    empty = views == 0.0
    assert torch.equal(empty[:, 0], empty[:, 1])
    heights, widths = empty[:, 0].any(dim=2).sum(dim=1), empty[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(heights, widths)
    assert torch.equal(empty[:, 0].sum(dim=(1, 2)), heights * widths)
    assert heights.min() == 0
    assert heights.max() == 16
    assert (empty[:, 0].float().mean(dim=0)[[0, 0, 31, 31], [0, 31, 0, 31]] > 0).all()


def test_noise_is_normal_and_its_own_in_each_view_and_channel() -> None:
    views = augment(torch.zeros(300, 2, 16, 16), **{**OFF, "noise": 0.05})
    spread = views.flatten(1).std(dim=1)
    assert spread.min() < 0.005
    assert 0.045 < spread.max() < 0.06
    flat = (views.flatten(0, 1).flatten(1) / spread.repeat_interleave(2)[:, None]).numpy()
    assert np.abs(np.corrcoef(flat) - np.eye(600)).max() < 0.45
    assert abs(float((flat**4).mean()) - 3.0) < 0.2


@pytest.mark.parametrize("backend", BACKENDS)
def test_photon_noise_grows_with_the_root_of_light(backend: Literal["numba", "torch"]) -> None:
    values = {**OFF, "photon_noise": 0.1, "backend": backend}
    dark, bright = (
        augment(torch.full((300, 1, 32, 32), light), **values).flatten(1).var(dim=1) for light in (0.2, 0.8)
    )
    torch.testing.assert_close(bright / dark, torch.full((300,), 4.0), rtol=0.05, atol=0)
    assert 0.08 < float((bright / 0.8).sqrt().max()) < 0.11
    assert augment(torch.zeros(3, 1, 16, 16), **values).abs().max() == 0.0
    both = augment(torch.full((300, 1, 32, 32), 0.8), **{**values, "noise": 0.2}).flatten(1).var(dim=1)
    alone = augment(torch.full((300, 1, 32, 32), 0.8), **{**OFF, "noise": 0.2}).flatten(1).var(dim=1)
    torch.testing.assert_close(both, alone + bright, rtol=0.15, atol=1e-4)


# Settings.


def test_a_preset_fills_what_is_not_set_and_is_told_in_full() -> None:
    strong = AugmentSettings(preset="strong", gain=0.25)
    assert strong.cut_out > 0
    assert strong.gain == 0.25
    assert AugmentSettings(**strong.model_dump()) == strong
    assert AugmentSettings() == AugmentSettings(preset="fluorescence")
    new = {"elastic", "gradient", "drop", "cut_out", "photon_noise"}
    assert all(getattr(AugmentSettings(), name) == 0.0 for name in new)
    assert all(getattr(strong, name) > 0.0 for name in new)
    seed = AugmentSettings(preset="seed-2020")
    assert (seed.min_scale, seed.jitter_probability, seed.rotate, seed.noise) == (0.08, 0.8, False, 0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "weak"}, "'fluorescence', 'strong' or 'seed-2020'"),
        ({"preset": ["strong"]}, "'fluorescence', 'strong' or 'seed-2020'"),
        ({"hue": 0.1}, "Extra inputs are not permitted"),
        ({"elastic": 0.5}, "less than or equal to 0.25"),
        ({"drop": 1.0}, "less than 1"),
    ],
)
def test_settings_that_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentSettings(**values)
