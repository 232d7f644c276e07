import base64
import io

import numpy as np
import pandas as pd
import pytest
from conftest import draw_views
from PIL import Image

from cytoclr.data.crops import scale_crops
from cytoclr.errors import DataError
from cytoclr.report import ReportInputs
from cytoclr.report.cells import (
    BLUE,
    COLUMNS,
    DISPLAY_GAMMA,
    GREEN,
    RED,
    choose_hues,
    cut_views,
    draw_cells,
    make_strips,
    pack_tiles,
)


def decode(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")).astype(float)


def test_cells_are_drawn_once_and_no_more_than_asked_of_each_group() -> None:
    cells = pd.DataFrame({"Metadata_Well": list("AAAAABBC")})
    drawn = draw_cells(cells, ["Metadata_Well"], per_group=2, generator=np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn)
    assert cells["Metadata_Well"].iloc[drawn].value_counts().to_dict() == {"A": 2, "B": 2, "C": 1}


def test_every_cell_is_as_likely_to_be_drawn() -> None:
    cells = pd.DataFrame({"Metadata_Well": ["A"] * 5})
    generator = np.random.default_rng(0)
    draws = [draw_cells(cells, ["Metadata_Well"], per_group=1, generator=generator)[0] for _ in range(500)]
    assert np.bincount(draws, minlength=5).min() > 70


@pytest.mark.parametrize(
    ("channels", "hues"),
    [
        (["DNA", "Tubulin", "Actin"], [BLUE, GREEN, RED]),
        (["Actin", "Hoechst 33342"], [RED, BLUE]),
        (["a", "b", "c"], [BLUE, GREEN, RED]),
        (["only"], [(1.0, 1.0, 1.0)]),
    ],
)
def test_channels_get_their_customary_colours(channels: list[str], hues: list) -> None:
    assert choose_hues(channels) == hues


@pytest.mark.parametrize("num_channels", [2, 5, 6, 9])
def test_colours_differ(num_channels: int) -> None:
    assert len(set(choose_hues([f"channel {i}" for i in range(num_channels)]))) == num_channels


def test_a_tile_is_the_crop_of_its_number(inputs: ReportInputs) -> None:
    crops, rows = inputs.crops, np.arange(1100)[::-1].copy()
    tiles = pack_tiles(crops, rows)
    assert [len(sheet) for sheet in tiles.sheets] == [3, 3]
    assert tiles.um_a_px == 0.5
    px = tiles.tile_px
    for tile in (0, 1, 40, 1023, 1024, 1099):
        scaled = scale_crops(crops.read(rows[[tile]]), *crops.read_ranges(rows[[tile]]))[0] ** DISPLAY_GAMMA
        row, column = divmod(tile % 1024, COLUMNS)
        for channel, expected in enumerate(scaled):
            sheet = decode(tiles.sheets[tile // 1024][channel])[..., 0]
            found = sheet[row * px : (row + 1) * px, column * px : (column + 1) * px]
            assert np.abs(found - 255 * np.clip(expected, 0, 1)).mean() < 6


def test_strips_show_each_channel_and_all_together(inputs: ReportInputs) -> None:
    strips = make_strips(inputs.crops, np.array([3, 5]), choose_hues(inputs.crops.channels))
    assert [strip.name for strip in strips] == ["DNA", "Tubulin", "Actin", "together"]
    dna = decode(strips[0].picture)
    assert dna.shape == (32, 64, 3)
    np.testing.assert_allclose(dna[..., 0], dna[..., 2], atol=3)


def test_contrast_is_common_to_cells(inputs: ReportInputs) -> None:
    """A cell that is twice as bright is shown brighter: no cell is stretched to its own range."""
    strip = decode(make_strips(inputs.crops, np.arange(40), choose_hues(inputs.crops.channels))[0].picture)
    raw = inputs.crops.read(np.arange(40))[:, 0].mean(axis=(1, 2))
    shown = strip[..., 0].reshape(32, 40, 32).mean(axis=(0, 2))
    assert np.corrcoef(raw, shown)[0, 1] > 0.95


def test_the_picture_of_views_is_cut_where_its_parts_meet() -> None:
    parts = dict(cut_views(draw_views(), ("DNA", "Tubulin", "Actin"), [BLUE, GREEN, RED]))
    assert list(parts) == ["DNA", "Tubulin", "Actin", "together"]
    for channel, name in enumerate(("DNA", "Tubulin", "Actin")):
        assert [strip.name for strip in parts[name]] == ["crops", "a view", "another view"]
        for row, strip in enumerate(parts[name]):
            pixels = decode(strip.picture)
            assert (pixels.shape, strip.num_cells) == ((16, 80, 3), 5)
            assert pixels.mean() == pytest.approx(25 * (3 * channel + row) + 10, abs=2.0)
    for row, strip in enumerate(parts["together"]):
        light = np.array([25 * (3 * channel + row) + 10 for channel in range(3)]) @ np.array([BLUE, GREEN, RED])
        np.testing.assert_allclose(decode(strip.picture).mean(axis=(0, 1)), np.minimum(light, 255), atol=4.0)


def test_one_channel_has_no_colours() -> None:
    file = io.BytesIO()
    Image.new("L", (16, 24)).save(file, format="PNG")
    assert [name for name, _ in cut_views(file.getvalue(), ("DNA",), [(1.0, 1.0, 1.0)])] == ["DNA"]


def test_a_picture_of_other_channels_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"views\.webp is 80 x 144 px, expected square tiles in three rows for each of 2"
    ):
        cut_views(draw_views(), ("DNA", "Tubulin"), [BLUE, GREEN])
