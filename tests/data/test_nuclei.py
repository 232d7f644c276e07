"""Nuclei: planted ones are found at their places, nothing is found in nothing, CellProfiler's are among them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from cytoclr.config import VirtualSettings
from cytoclr.data.images import read_field
from cytoclr.data.nuclei import find_nuclei, measure_nuclei
from cytoclr.data.virtual import simulate_field
from cytoclr.data.virtual.camera import draw_conditions

#: Of the virtual screen's nuclei.
DIAMETER_PX = 19.0


def place_in_rows(shape: tuple[int, int], step: float, margin: float) -> np.ndarray:
    """Centres (x, y), off the pixels' middles, ordered by row."""
    rows, columns = (np.arange(margin, length - margin, step) for length in shape)
    return np.array([(x + 0.3 * (k % 3), y + 0.2 * (k % 4)) for y in rows for k, x in enumerate(columns)])


def paint_discs(
    shape: tuple[int, int], centres: np.ndarray, diameter: float, *, light: float = 2000.0, seed: int = 0
) -> np.ndarray:
    """Discs of differing brightness, a little blurred, on a background of 700 with noise."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    reach = int(diameter / 2) + 2
    for x, y in centres:
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        window = image[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.mgrid[: window.shape[0], : window.shape[1]]
        inside = np.hypot(columns + left - x, rows + top - y) <= diameter / 2
        window[inside] = light * rng.lognormal(0.0, 0.3)
    image = ndimage.gaussian_filter(image, 1.0) + 700.0
    return np.clip(rng.normal(image, np.sqrt(image)), 0, 65535).astype(np.uint16)


def match(found: np.ndarray, true: np.ndarray, radius: float) -> np.ndarray:
    """Distances of the pairs, each found one with one true one, that lie within the radius."""
    distances = np.hypot(*(found[:, None] - true[None]).transpose(2, 0, 1))
    pairs = linear_sum_assignment(np.where(distances <= radius, distances, 1e6))
    return distances[pairs][distances[pairs] <= radius]


def find(plane: np.ndarray, diameter: float, **settings: bool) -> np.ndarray:
    return np.stack(find_nuclei(plane, diameter_px=diameter, **settings), axis=1)


@pytest.mark.parametrize("diameter", [8.0, 12.5, 24.0, 36.0, 60.0])
def test_planted_discs_are_found_within_a_pixel(diameter: float) -> None:
    centres = place_in_rows((400, 530), 1.8 * diameter, diameter)
    plane = paint_discs((400, 530), centres, diameter)

    found = find(plane, diameter)

    assert len(found) == len(centres)
    distances = match(found, centres, diameter / 2)
    assert len(distances) == len(centres)
    assert distances.max() < max(1.0, diameter / 40)
    assert np.median(distances) < 0.5
    assert measure_nuclei(plane) == pytest.approx(diameter, rel=0.15)


def test_one_nucleus_in_a_large_field_is_found() -> None:
    plane = paint_discs((1000, 1200), np.array([(700.0, 300.0)]), 30.0, light=300.0)

    np.testing.assert_allclose(find(plane, 30.0), [(700.0, 300.0)], atol=0.5)


def test_touching_nuclei_are_split() -> None:
    pairs = place_in_rows((400, 400), 90.0, 50.0)
    half = np.array([13.5, 0.0])
    centres = np.concatenate([pairs - half, pairs + half])

    assert len(match(find(paint_discs((400, 400), centres, 30.0), 30.0), centres, 5.0)) == len(centres)


def test_crowded_nuclei_are_found() -> None:
    centres = place_in_rows((512, 512), 25.0, 20.0)

    found = find(paint_discs((512, 512), centres, 22.0), 22.0)

    assert len(match(found, centres, 11.0)) >= 0.97 * len(centres)
    assert len(found) <= 1.03 * len(centres)


def test_dim_nuclei_beside_bright_ones_are_found() -> None:
    centres = place_in_rows((300, 300), 60.0, 40.0)
    bright, dim = (paint_discs((300, 300), places, 24.0) for places in (centres[::2], centres[1::2]))
    plane = (5 * (bright.astype(np.int64) - 700) + dim).clip(0).astype(np.uint16)

    assert len(match(find(plane, 24.0), centres, 6.0)) == len(centres)


@pytest.mark.parametrize("uneven", ["light", "haze"])
def test_uneven_fields_lose_no_nuclei(uneven: str) -> None:
    centres = place_in_rows((500, 700), 60.0, 40.0)
    plane = paint_discs((500, 700), centres, 24.0)
    slope = np.linspace(0.3, 1.0, 700)
    plane = (plane * slope if uneven == "light" else plane + 4000.0 * slope).astype(np.uint16)

    found = find(plane, 24.0)

    assert len(found) == len(match(found, centres, 6.0)) == len(centres)


def draw_nothing(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    shape = (400, 500)
    if kind == "flat":
        return np.full(shape, 900, dtype=np.uint16)
    if kind == "steps":
        return (rng.normal(700, 10, shape) // 16 * 16).astype(np.uint16)
    if kind == "few photons":
        return rng.poisson(0.05, shape).astype(np.uint8)
    if kind == "gradient":
        return rng.poisson(np.linspace(500, 3000, shape[1]), shape).astype(np.uint16)
    if kind == "mottled":
        hills = ndimage.gaussian_filter(rng.normal(0, 1, shape), 5.0)
        return rng.normal(1000 + 20 * hills / hills.std(), 5).astype(np.uint16)
    return rng.poisson(60, shape).astype(np.uint16)


@pytest.mark.parametrize("kind", ["flat", "noise", "steps", "few photons", "gradient", "mottled"])
def test_nothing_is_found_in_nothing(kind: str) -> None:
    plane = draw_nothing(kind)

    assert len(find(plane, 24.0)) == 0
    assert measure_nuclei(plane) is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (10, 10), (40, 17)])
def test_tiny_planes_are_no_error(shape: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)

    assert find(plane, 24.0).shape[1] == 2
    assert measure_nuclei(plane) is None or shape == (40, 17)


def test_what_touches_the_border_is_dropped_if_asked() -> None:
    centres = np.array([(2.0, 100.0), (100.0, 197.0), (100.0, 100.0)])
    plane = paint_discs((200, 200), centres, 24.0)

    np.testing.assert_allclose(find(plane, 24.0), [(100.0, 100.0)], atol=0.5)
    assert len(find(plane, 24.0, clear_border=False)) == 3


def test_debris_and_clumps_are_dropped() -> None:
    centres = place_in_rows((400, 400), 70.0, 40.0)
    debris = paint_discs((400, 400), centres + 34.0, 7.0)
    clump = paint_discs((400, 400), np.array([(200.0, 200.0)]), 120.0).astype(np.int64)

    nuclei = paint_discs((400, 400), centres, 24.0)

    assert len(find((nuclei + debris - 700).astype(np.uint16), 24.0)) == len(centres)
    assert len(find(clump.astype(np.uint16), 24.0)) == 0


def test_centres_come_by_row_and_every_time_the_same() -> None:
    plane = paint_discs((300, 300), place_in_rows((300, 300), 40.0, 30.0), 20.0)
    kept = plane.copy()

    found = find(plane, 20.0)

    np.testing.assert_array_equal(plane, kept)
    np.testing.assert_array_equal(found, find(plane, 20.0))
    np.testing.assert_array_equal(np.lexsort((found[:, 0], found[:, 1])), np.arange(len(found)))


def test_eight_bits_are_enough() -> None:
    centres = place_in_rows((300, 300), 50.0, 40.0)
    plane = (paint_discs((300, 300), centres, 24.0) // 32).clip(0, 255).astype(np.uint8)

    assert len(match(find(plane, 24.0), centres, 2.0)) == len(centres)


#: Precision and recall of the nuclei away from the border; halves of anaphases and fragments count as wrong.
@pytest.mark.parametrize(
    ("kind", "precision", "recall"), [("as is", 0.92, 0.97), ("dense", 0.94, 0.97), ("defocused", 0.92, 0.97)]
)
def test_the_virtual_screen_is_found(kind: str, precision: float, recall: float) -> None:
    settings = VirtualSettings(cells_per_site=110 if kind == "dense" else 50)
    num_found = num_true = num_matched = 0
    for number in range(4):
        conditions = draw_conditions(settings, batch=number, plate=number, well=number, row=0.5, column=-0.5)
        if kind == "defocused":
            conditions = replace(conditions, blur_px=np.full(3, 3.0))
        image, cells = simulate_field(np.random.default_rng(number), settings, conditions, {})
        found, true = find(image[0], DIAMETER_PX, clear_border=False), cells[["true_x", "true_y"]].to_numpy()
        found, true = (these[((these > 12) & (these < 499)).all(axis=1)] for these in (found, true))
        num_found += len(found)
        num_true += len(true)
        num_matched += len(match(found, true, DIAMETER_PX / 2))
        assert measure_nuclei(image[0]) == pytest.approx(DIAMETER_PX, rel=0.25)

    assert num_matched / num_found >= precision
    assert num_matched / num_true >= recall


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "column", "well"),
    [
        ("nf1", "Image_FileName_DAPI", "Image_Metadata_Well_x"),
        ("pediatric_cancer_atlas", "Image_FileName_OrigDNA", "Image_Metadata_Well"),
    ],
)
def test_real_nuclei_are_where_cellprofiler_found_them(real_data: Path, folder: str, column: str, well: str) -> None:
    cells = pd.read_parquet(real_data / folder / "cells.parquet")
    # a nucleus is cut into two halves there: it lies as far off as half its diameter
    for _, cell in cells.iterrows():
        plane = read_field({"DNA": real_data / folder / "images" / cell[column]})[0]
        diameter = measure_nuclei(plane)
        assert diameter is not None, cell[well]
        assert 0.75 * 52 < diameter < 1.35 * 52 if folder == "nf1" else diameter == pytest.approx(35.8, rel=0.25)

        x, y = find_nuclei(plane, diameter_px=diameter)

        off = np.hypot(x - cell["Nuclei_Location_Center_X"], y - cell["Nuclei_Location_Center_Y"]).min()
        assert off <= cell["Nuclei_AreaShape_EquivalentDiameter"] / 2, cell[well]
        if folder == "nf1":
            assert abs(len(x) - cell["Image_Count_Nuclei"]) <= 2, cell[well]


@pytest.mark.real_data
def test_real_fields_of_small_nuclei_are_found(real_data: Path) -> None:
    files = sorted((real_data / "bbbc021/fields/Week2_24381").glob("*_w1*.tif"))
    planes = [read_field({"DNA": file})[0] for file in files]

    # as found when the pictures were looked at: all but a few pairs that lie on each other were told apart
    assert [len(find(plane, 36.0, clear_border=False)) for plane in planes] == pytest.approx([190, 157, 65], rel=0.04)
    assert [measure_nuclei(plane) for plane in planes] == pytest.approx([34.0] * 3, rel=0.1)
