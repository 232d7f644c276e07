"""Overlays: cells are drawn where they are, in colours that tell what is kept, beside a caption and a scale bar."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cytoclr.data.overlay import draw_overlay

KEPT = np.array([0, 200, 165])
LEFT_OUT = np.array([240, 140, 0])
CAPTION_PX = 34


def draw(field: np.ndarray, centres: list[tuple[float, float]], inside: list[bool], **changes: Any) -> np.ndarray:
    x, y = np.array(centres, dtype=float).reshape(-1, 2).T
    settings = {"size_px": 40, "nuclei_channel": 0, "title": "P1 B02 s1", "pixel_size_um": None} | changes
    png = draw_overlay(field, x, y, inside=np.array(inside, dtype=bool), **settings)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def make_field(shape: tuple[int, int] = (200, 300)) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 200, (2, *shape)).astype(np.uint16)


def find_colour(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Columns and rows (x, y) of what is drawn in a colour, caption left out."""
    near = np.abs(picture[:-CAPTION_PX] - colour).sum(axis=2) < 30
    return np.argwhere(near)[:, ::-1]


def test_circles_lie_at_the_centres_in_the_colour_of_their_fate() -> None:
    picture = draw(make_field(), [(80.0, 60.0), (200.0, 150.0)], [True, False])

    for colour, centre in ((KEPT, (80.0, 60.0)), (LEFT_OUT, (200.0, 150.0))):
        pixels = find_colour(picture, colour)
        assert len(pixels) > 8
        np.testing.assert_allclose(pixels.mean(axis=0), centre, atol=1.0)


def test_squares_are_as_wide_as_crops() -> None:
    field = np.zeros((1, 200, 300), dtype=np.uint16)

    picture = draw(field, [(100.0, 80.0)], [True])

    rows, columns = np.nonzero(picture[:-CAPTION_PX].sum(axis=2) > 0)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == pytest.approx((80, 120, 60, 100), abs=1)


def test_the_nuclei_channel_is_shown_by_the_root_of_its_values() -> None:
    field = np.zeros((2, 100, 100), dtype=np.uint16)
    field[1, :, 50:] = 4000
    field[1, :, 25:50] = 1000

    picture = draw(field, [], [], nuclei_channel=1)

    assert picture[50, [10, 30, 80], 0].tolist() == [0, 127, 255]
    assert (draw(field, [], [], nuclei_channel=0)[:-CAPTION_PX] == 0).all()


def test_wide_fields_are_made_smaller_and_cells_stay_in_place() -> None:
    picture = draw(make_field((1000, 2800)), [(1400.0, 500.0)], [True])

    assert picture.shape == (500 + CAPTION_PX, 1400, 3)
    np.testing.assert_allclose(find_colour(picture, KEPT).mean(axis=0), (700.0, 250.0), atol=1.0)


@pytest.mark.parametrize(("pixel_size_um", "length_px"), [(0.5, 100), (0.7, 71), (1.3, 77)])
def test_the_scale_bar_has_a_round_length(pixel_size_um: float, length_px: int) -> None:
    field = np.zeros((1, 200, 500), dtype=np.uint16)

    bar = draw(field, [], [], pixel_size_um=pixel_size_um)[:-CAPTION_PX] - draw(field, [], [])[:-CAPTION_PX]

    longest = (bar[..., 0] > 200).sum(axis=1).max()
    assert longest == pytest.approx(length_px, abs=1)


def test_nothing_found_is_drawn_too() -> None:
    picture = draw(make_field((20, 30)), [], [], pixel_size_um=100.0)

    assert picture.shape == (20 + CAPTION_PX, 30, 3)
    # the caption is there
    assert picture[20:].std() > 5


def test_the_field_is_not_changed_and_eight_bits_are_fine() -> None:
    field = make_field().astype(np.uint8)
    kept = field.copy()

    draw(field, [(50.0, 50.0)], [True])

    np.testing.assert_array_equal(field, kept)
