"""Illumination: blocks by the definition, planted light is found and divided out, functions read are checked."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytoclr.config import VirtualSettings
from cytoclr.data.illumination import (
    MIN_FIELDS,
    correct_field,
    expand_illumination,
    fit_illumination,
    read_illumination,
    shrink_field,
)
from cytoclr.data.virtual import simulate_field
from cytoclr.data.virtual.camera import draw_conditions
from cytoclr.errors import DataError

SHAPE = (256, 320)


def plant_light() -> np.ndarray:
    """A vignette off the middle and a slope: 0.52 in one corner."""
    y, x = np.linspace(-1, 1, SHAPE[0])[:, None], np.linspace(-1, 1, SHAPE[1])[None]
    return 1 - 0.15 * ((x - 0.2) ** 2 + (y + 0.15) ** 2) + 0.04 * x - 0.03 * y


def draw_field(rng: np.random.Generator, light: np.ndarray, density: float) -> np.ndarray:
    """Cells of 20 px and log-normal brightness on a background, debris in three of ten fields, photon noise."""
    half = 10
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    cell = np.clip(1.3 - (y**2 + x**2) / half**2, 0, 1) * 1000
    canvas = np.zeros((SHAPE[0] + 4 * half, SHAPE[1] + 4 * half))
    count = rng.poisson(-np.log(1 - density) * canvas.size / np.count_nonzero(cell))
    for bright in [*rng.lognormal(0, 0.6, count), *[20.0] * (rng.random() < 0.3)]:
        top, left = rng.integers(0, SHAPE[0] + 2 * half), rng.integers(0, SHAPE[1] + 2 * half)
        canvas[top : top + 2 * half + 1, left : left + 2 * half + 1] += bright * cell
    seen = canvas[2 * half : -2 * half, 2 * half : -2 * half] * rng.lognormal(0, 0.3) + 200 * rng.lognormal(0, 0.2)
    return np.minimum(rng.poisson(seen * light), 65535).astype(np.uint16)[None]


def draw_fields(count: int, density: float, seed: int = 0, light: np.ndarray | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    light = plant_light() if light is None else light
    return [draw_field(rng, light, density) for _ in range(count)]


def fit_fields(fields: list[np.ndarray]) -> np.ndarray:
    function = fit_illumination(np.stack([shrink_field(field) for field in fields]))
    return expand_illumination(function, fields[0].shape[1:])


def fit_plainly(fields: list[np.ndarray]) -> np.ndarray:
    """The mean of all fields and a median filter of 500 in 1,280 px."""
    mean = np.mean([shrink_field(field)[0] for field in fields], axis=0)
    smooth = ndimage.median_filter(mean, int(0.39 * max(mean.shape)), mode="reflect").astype(np.float32)
    return expand_illumination(smooth[None], SHAPE)


def largest_error(function: np.ndarray, planted: np.ndarray) -> float:
    ratio = function / planted
    return float(np.abs(ratio / np.median(ratio) - 1).max())


class TestShrink:
    @given(rows=st.integers(1, 40), columns=st.integers(1, 40), grid=st.integers(1, 20), wide=st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_blocks_are_the_definition(self, rows: int, columns: int, grid: int, wide: bool) -> None:
        dtype = np.uint16 if wide else np.uint8
        largest = int(np.iinfo(dtype).max)
        field = np.random.default_rng(0).integers(0, largest, (2, rows, columns), dtype=dtype, endpoint=True)
        longer = max(rows, columns)
        cells = min(grid, longer)
        tall, broad = (max(1, round(size * cells / longer)) for size in (rows, columns))
        slow = np.empty((2, tall, broad))
        seen = 0
        for y in range(tall):
            for x in range(broad):
                block = field[
                    :,
                    y * rows // tall : (y + 1) * rows // tall,
                    x * columns // broad : (x + 1) * columns // broad,
                ]
                slow[:, y, x] = block.mean(axis=(1, 2))
                seen += block[0].size
        assert seen == rows * columns
        np.testing.assert_allclose(shrink_field(field, grid=grid), slow, rtol=1e-6)

    def test_the_longer_side_has_grid_cells(self) -> None:
        assert shrink_field(np.zeros((3, 1024, 1280), np.uint16)).shape == (3, 102, 128)
        assert shrink_field(np.zeros((1, 50, 20), np.uint8)).shape == (1, 50, 20)

    def test_sums_do_not_overflow(self) -> None:
        white = np.full((1, 700, 700), 65535, np.uint16)
        np.testing.assert_array_equal(shrink_field(white, grid=1), 65535)


class TestExpand:
    def test_linear_between_the_middles_of_blocks(self) -> None:
        # blocks of a ramp have the ramp's values at their middles, whether or not the size divides
        ramp = np.broadcast_to(np.arange(103, dtype=np.uint16), (1, 37, 103)) + np.arange(37, dtype=np.uint16)[:, None]
        back = expand_illumination(shrink_field(ramp, grid=20), (37, 103))
        np.testing.assert_allclose(back[:, 4:-4, 4:-4], ramp[:, 4:-4, 4:-4], rtol=1e-5)
        np.testing.assert_allclose(back[0, 0, 0], back[0, 1, 1])  # beyond the outermost middle: constant

    def test_on_its_own_grid_nothing_changes(self) -> None:
        function = np.random.default_rng(0).random((2, 5, 7), dtype=np.float32)
        np.testing.assert_array_equal(expand_illumination(function, (5, 7)), function)

    def test_a_slow_loop(self) -> None:
        function = np.random.default_rng(0).random((1, 3, 4), dtype=np.float32)
        ys, xs = [1.5, 5.0, 8.5], [1.0, 4.0, 7.0, 10.0]  # middles of 10 rows in 3 blocks (3, 3, 4), 12 columns in 4
        ys = [1.0, 4.0, 7.5]
        slow = np.empty((10, 12))
        for y in range(10):
            for x in range(12):
                slow[y, x] = np.interp(y, ys, [np.interp(x, xs, line) for line in function[0]])
        np.testing.assert_allclose(expand_illumination(function, (10, 12))[0], slow, rtol=1e-5)


class TestFit:
    @pytest.mark.parametrize("density", [0.05, 0.15, 0.4])
    def test_planted_light_is_found_and_better_than_plainly(self, density: float) -> None:
        fields = draw_fields(100, density)
        light = plant_light()
        ours, plain = fit_fields(fields), fit_plainly(fields)
        assert np.corrcoef(ours.ravel(), light.ravel())[0, 1] > 0.99
        error = largest_error(ours[0], light)
        assert error < 0.04
        assert error < largest_error(plain[0], light) / 3

    def test_where_cells_are_dense_it_is_still_better_than_plainly(self) -> None:
        # little background is seen, and a percentile of cells is as noisy as a mean: 100 fields give 15 % in a corner
        fields = draw_fields(200, 0.7)
        light = plant_light()
        ours, plain = fit_fields(fields), fit_plainly(fields)
        assert np.corrcoef(ours.ravel(), light.ravel())[0, 1] > 0.95
        assert largest_error(ours[0], light) < largest_error(plain[0], light) / 1.5

    def test_the_error_falls_with_the_number_of_fields(self) -> None:
        light = plant_light()
        fields = draw_fields(200, 0.4, seed=5)
        errors = [largest_error(fit_fields(fields[-count:])[0], light) for count in (5, MIN_FIELDS, 200)]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.04

    def test_rescaled_as_cellprofiler_does(self) -> None:
        light = plant_light()
        function = fit_illumination(np.stack([shrink_field(field) for field in draw_fields(30, 0.1)]))
        below = (function < 1).mean()
        assert 0.015 < below <= 0.02
        # but the darkest corner is not raised: it would stay dark
        assert function.min() == pytest.approx(light.min() / np.quantile(light, 0.02), rel=0.03)
        assert function.max() == pytest.approx(light.max() / np.quantile(light, 0.02), rel=0.03)

    def test_bright_debris_does_not_print_through(self) -> None:
        fields = draw_fields(40, 0.1)
        clean = fit_fields(fields)
        for field in fields[::4]:  # always at the same place, in every fourth field
            field[0, 60:90, 60:90] = 60000
        assert largest_error(fit_fields(fields), clean) < 0.02

    def test_order_and_brightness_of_fields_do_not_matter(self) -> None:
        fields = np.stack([shrink_field(field) for field in draw_fields(25, 0.2)])
        scales = np.random.default_rng(0).uniform(0.5, 20, (25, 1, 1, 1)).astype(np.float32)
        np.testing.assert_allclose(fit_illumination(fields), fit_illumination((fields * scales)[::-1]), rtol=1e-4)

    def test_channels_do_not_matter_to_each_other(self) -> None:
        fields = np.stack([shrink_field(field) for field in draw_fields(25, 0.2)])
        both = fit_illumination(np.concatenate([fields, fields[:, :, ::-1]], axis=1))
        np.testing.assert_array_equal(both[:1], fit_illumination(fields))
        np.testing.assert_allclose(both[1], both[0, ::-1], rtol=2e-3)

    def test_a_parabola_is_kept_to_the_borders(self) -> None:
        y, x = np.linspace(-1, 1, 102)[:, None], np.linspace(-1, 1, 128)[None]
        bowl = (1 - 0.2 * (x**2 + y**2) + 0.05 * x * y).astype(np.float32)
        function = fit_illumination(np.stack([400 * bowl[None]] * 3))[0]
        assert largest_error(function[4:-4, 4:-4], bowl[4:-4, 4:-4]) < 0.01

    @pytest.mark.parametrize("count", [1, 5])
    def test_few_fields_are_taken(self, count: int) -> None:
        function = fit_fields(draw_fields(count, 0.05))
        assert np.isfinite(function).all()
        assert function.min() >= 0.5

    @pytest.mark.parametrize("value", [0, 130])
    def test_a_constant_channel_gives_ones_and_says_so(self, value: int, caplog: pytest.LogCaptureFixture) -> None:
        fields = np.stack([shrink_field(field) for field in draw_fields(20, 0.2)])
        flat = np.full_like(fields, value)
        with caplog.at_level(logging.WARNING):
            function = fit_illumination(np.concatenate([fields, flat], axis=1))
        np.testing.assert_array_equal(function[1], 1)
        assert function[0].max() > 1.3
        assert "channel 2 of 2: no light" in caplog.text

    def test_no_field_gives_ones(self) -> None:
        np.testing.assert_array_equal(fit_illumination(np.zeros((0, 2, 10, 12), np.float32)), 1)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (17, 16)])
    def test_tiny_grids(self, shape: tuple[int, int]) -> None:
        fields = np.random.default_rng(0).uniform(50, 60, (10, 1, *shape)).astype(np.float32)
        function = fit_illumination(fields)
        assert np.isfinite(function).all()
        assert function.min() >= 0.5

    def test_empty_wells_do_not_count(self) -> None:
        fields = np.stack([shrink_field(field) for field in draw_fields(30, 0.2)])
        dark = np.zeros_like(fields[:10])
        np.testing.assert_array_equal(fit_illumination(np.concatenate([fields, dark])), fit_illumination(fields))


class TestCorrect:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_the_definition(self, dtype: type) -> None:
        rng = np.random.default_rng(0)
        largest = int(np.iinfo(dtype).max)
        field = rng.integers(0, largest, (2, 9, 11), dtype=dtype, endpoint=True)
        light = rng.uniform(0.5, 3, field.shape).astype(np.float32)
        corrected = correct_field(field, light)
        assert corrected.dtype == dtype
        for place in np.ndindex(field.shape):
            expected = min(round(float(np.float32(field[place]) / light[place])), largest)
            assert int(corrected[place]) == expected

    def test_ones_change_no_bit(self) -> None:
        field = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
        ones = expand_illumination(np.ones((1, 100, 100), np.float32), (256, 256))
        np.testing.assert_array_equal(correct_field(field, ones), field)

    def test_the_field_is_not_changed(self) -> None:
        field = np.full((1, 4, 4), 100, np.uint16)
        assert correct_field(field, np.full((1, 4, 4), 2, np.float32)).max() == 50
        assert field.min() == 100

    def test_corrected_fields_are_flat_for_the_estimate(self) -> None:
        fields = draw_fields(100, 0.15)
        function = fit_fields(fields)
        again = fit_fields([correct_field(field, function) for field in fields])
        assert function.max() > 1.5
        assert again.max() < 1.03

    def test_intensity_no_longer_falls_with_the_radius(self) -> None:
        fields = draw_fields(200, 0.4, seed=3)
        function = fit_fields(fields)
        y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
        radius = np.hypot(y, x).ravel()

        def slope(images: list[np.ndarray]) -> float:
            mean = np.mean(images, axis=0, dtype=float).ravel()
            return float(np.polyfit(radius, mean / mean.mean(), 1)[0])

        before, after = slope(fields), slope([correct_field(field, function) for field in fields])
        assert before < -0.15
        even = slope(draw_fields(200, 0.4, seed=3, light=np.ones(SHAPE)))
        assert abs(after - even) < 0.15 * abs(before)

    def test_the_virtual_screen_is_more_even(self) -> None:
        virtual = VirtualSettings(nuisances=("illumination",), field_size_px=192, cells_per_site=9)
        fields = []
        for well in range(MIN_FIELDS):
            conditions = draw_conditions(virtual, batch=0, plate=0, well=well, row=0.0, column=0.0)
            fields.append(simulate_field(np.random.default_rng(well), virtual, conditions, {})[0])
        function = fit_fields(fields)
        ticks = np.linspace(-1, 1, 192)
        fall = conditions.vignette * (ticks[:, None] ** 2 + ticks[None, :] ** 2) / 2
        spreads = []
        for channel in range(3):
            across, down = conditions.tilt[channel]
            light = 1 + across * ticks[None, :] + down * ticks[:, None] - fall
            left = light / function[channel]
            spreads.append((left.std() / left.mean()) / (light.std() / light.mean()))
        # not to nought: half of the screen's background does not follow the light
        assert max(spreads) < 1.1
        assert np.mean(spreads) < 0.8


class TestRead:
    @staticmethod
    def write(path: Path, function: np.ndarray) -> str:
        if path.suffix == ".npy":
            np.save(path, function)
        else:
            tifffile.imwrite(path, function)
        return str(path)

    @pytest.mark.parametrize(("suffix", "dtype"), [(".npy", float), (".npy", np.float32), (".tiff", np.float32)])
    def test_read_as_they_are(self, tmp_path: Path, suffix: str, dtype: type, caplog: pytest.LogCaptureFixture) -> None:
        functions = np.random.default_rng(0).uniform(1, 2, (2, 6, 8)).astype(dtype)
        paths = {
            name: self.write(tmp_path / f"{name}{suffix}", function)
            for name, function in zip(("DNA", "ER"), functions, strict=True)
        }
        read = read_illumination(paths, (6, 8))
        np.testing.assert_array_equal(read, functions.astype(np.float32))
        assert not caplog.text

    def test_not_rescaled_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = self.write(tmp_path / "a.npy", np.full((4, 4), 0.02))
        with caplog.at_level(logging.WARNING):
            assert read_illumination({"DNA": path}, (4, 4)).max() == np.float32(0.02)
        assert "illumination function of DNA is 0.02 where it is smallest" in caplog.text

    def test_another_size(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.npy", np.ones((4, 5)))
        with pytest.raises(DataError, match=r"function of DNA is \(4, 5\), but the field is \(6, 8\)") as error:
            read_illumination({"DNA": path}, (6, 8))
        assert error.value.code == "IMG012"

    @pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (-1.0, "-1"), (np.nan, "nan"), (1e300, "inf")])
    def test_nothing_to_divide_by(self, tmp_path: Path, value: float, shown: str) -> None:
        function = np.ones((4, 5))
        function[2, 3] = value
        path = self.write(tmp_path / "a.npy", function)
        with pytest.raises(DataError, match=rf"1 of 20 values .* first {shown} in row 2, column 3"):
            read_illumination({"DNA": path}, (4, 5))

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none\.npy: no such file"):
            read_illumination({"DNA": str(tmp_path / "none.npy")}, (4, 5))

    @pytest.mark.parametrize("content", [b"", b"MATLAB 5.0", b"\x93NUMPY\x01\x00", b"II*\0rubbish"])
    def test_neither_array_nor_tiff(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.mat"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mat: not a readable illumination function .* Expected a NumPy array"):
            read_illumination({"DNA": str(path)}, (4, 5))

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="not a readable illumination function"):
            read_illumination({"DNA": str(path)}, (4, 5))

    def test_texts_are_no_numbers(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.npy", np.full((4, 5), "x"))
        with pytest.raises(DataError, match="Expected an illumination function of numbers"):
            read_illumination({"DNA": path}, (4, 5))
