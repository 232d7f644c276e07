"""Quality: each measure is what it says, none changes with the stain, and a plate of good crops has no flags."""

import itertools
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cytoclr.data.quality import flag_crops, measure_quality

SIZE = 64
LARGEST = 4095


def paint_nucleus(radius: float = 11.0, blur: float = 1.0, light: float = 1000.0) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    disc = np.square(rows / 0.8) + np.square(columns) < radius**2
    return ndimage.gaussian_filter(disc.astype(float), blur) * light


def expose(
    rng: np.random.Generator, light: np.ndarray, *, background: float = 300.0, noise: float = 15.0
) -> np.ndarray:
    """Two channels: the nucleus, and a flat one."""
    planes = np.stack([light + background, np.full((SIZE, SIZE), background)])
    return np.clip(np.rint(planes + rng.normal(0.0, noise, planes.shape)), 0, LARGEST).astype(np.uint16)


def draw_plate(rng: np.random.Generator, blurs: list[float]) -> np.ndarray:
    """Cells of differing size and brightness."""
    lights = [paint_nucleus(rng.uniform(8, 13), blur, 1000.0 * rng.lognormal(0.0, 0.3)) for blur in blurs]
    return np.stack([expose(rng, light) for light in lights])


def measure(crops: np.ndarray, channel: int = 0) -> pd.DataFrame:
    return measure_quality(crops, channel=channel, largest=LARGEST)


def test_saturation_is_the_share_in_the_worst_channel() -> None:
    crops = np.full((3, 2, 20, 20), 100, dtype=np.uint16)
    crops[1, 0, :2] = LARGEST
    crops[1, 1, :5] = LARGEST
    crops[2, 1, 0, 0] = LARGEST - 1

    found = measure(crops)["Quality_Saturation"]

    np.testing.assert_allclose(found, [0.0, 5 / 20, 0.0])


def test_intensity_is_the_middle_above_the_dark_border() -> None:
    crops = np.full((2, 2, SIZE, SIZE), 50, dtype=np.uint16)
    crops[0, 1, 24:40, 24:40] = 450
    # a neighbour at the border
    crops[0, 1, :30, :10] = 4000
    crops[1, 1, 24:40, 24:32] = 450

    found = measure(crops, channel=1)["Quality_Intensity"]

    np.testing.assert_allclose(found, [400.0, 200.0])


@pytest.mark.parametrize("crop_like", [np.uint8, np.uint16])
def test_neither_gain_nor_background_changes_focus(crop_like: type) -> None:
    light = paint_nucleus(light=60.0)[None, None]
    dim, bright = (np.rint(light * gain + offset).astype(crop_like) for gain, offset in ((1.0, 5.0), (3.0, 50.0)))

    first, second = (measure_quality(crops, channel=0, largest=255) for crops in (dim, bright))

    np.testing.assert_allclose(first["Quality_Focus"], second["Quality_Focus"], rtol=0.02)


def test_focus_falls_with_blur_whatever_the_size() -> None:
    rng = np.random.default_rng(0)
    by_blur = [
        measure(np.stack([expose(rng, paint_nucleus(radius, blur)) for radius in (8.0, 10.0, 12.0)]))["Quality_Focus"]
        for blur in (0.7, 1.5, 2.5, 4.0)
    ]

    for sharper, softer in itertools.pairwise(by_blur):
        assert sharper.min() > 1.1 * softer.max()


def test_a_nucleus_beside_a_bright_one_is_as_sharp() -> None:
    rng = np.random.default_rng(0)
    neighbour = np.roll(paint_nucleus(light=3000.0), (22, 0), axis=(0, 1))
    alone, beside = (expose(rng, paint_nucleus(9.0) + light) for light in (0.0, neighbour))

    focus = measure(np.stack([alone, beside]))["Quality_Focus"]

    assert focus[1] > 0.8 * focus[0]


def test_what_does_not_rise_above_the_noise_has_no_focus() -> None:
    rng = np.random.default_rng(0)
    crops = np.stack([expose(rng, np.zeros((SIZE, SIZE))), expose(rng, paint_nucleus(light=60.0))])
    flat = np.full((1, 2, SIZE, SIZE), 7, dtype=np.uint16)

    focus = measure(np.concatenate([crops, flat]))["Quality_Focus"]

    assert focus.isna().to_list() == [True, False, True]


def test_the_order_and_number_of_crops_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    crops = draw_plate(rng, [1.0] * 150)

    together = measure(crops)
    alone = pd.concat([measure(crops[row : row + 1]) for row in (149, 63, 64)], ignore_index=True)

    pd.testing.assert_frame_equal(together.iloc[[149, 63, 64]].reset_index(drop=True), alone)


@pytest.mark.parametrize("shape", [(0, 1, 64, 64), (2, 3, 3, 3), (2, 1, 8, 5)])
def test_no_crops_and_tiny_ones_have_measures(shape: tuple[int, ...]) -> None:
    found = measure(np.zeros(shape, dtype=np.uint16))

    assert list(found.columns) == ["Quality_Focus", "Quality_Saturation", "Quality_Intensity"]
    assert len(found) == shape[0] == len(flag_crops(found))


def test_a_plate_of_good_crops_has_no_flags() -> None:
    rng = np.random.default_rng(0)
    quality = measure(draw_plate(rng, list(rng.uniform(0.8, 1.3, 300))))

    assert set(flag_crops(quality)) == {""}


def test_planted_flags_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    good = draw_plate(rng, list(rng.uniform(0.8, 1.3, 200)))
    unsharp = draw_plate(rng, [4.0] * 20)
    nothing = np.stack([expose(rng, np.zeros((SIZE, SIZE))) for _ in range(30)])
    saturated = expose(rng, paint_nucleus(light=9000.0))[None]

    flags = flag_crops(measure(np.concatenate([good, unsharp, nothing, saturated])))

    assert set(flags[:200]) == {""}
    assert (flags[200:220] == "out-of-focus").mean() >= 0.9
    assert set(flags[220:250]) == {"empty"}
    assert flags.iloc[-1] == "saturated"


def test_empty_crops_are_found_where_they_are_most() -> None:
    rng = np.random.default_rng(0)
    nothing = np.stack([expose(rng, np.zeros((SIZE, SIZE))) for _ in range(30)])

    flags = flag_crops(measure(np.concatenate([nothing, draw_plate(rng, [1.0] * 10)])))

    assert flags.to_list() == ["empty"] * 30 + [""] * 10


def test_flags_are_joined_and_keep_the_index() -> None:
    quality = pd.DataFrame(
        {
            "Quality_Focus": [0.3, 0.31, 0.05, 0.3, np.nan, np.nan],
            "Quality_Saturation": [0.0, 0.0, 0.2, 0.0, 0.0, np.nan],
            "Quality_Intensity": [900.0, 1000.0, 1100.0, 60.0, 500.0, np.nan],
        },
        index=[5, 3, 9, 1, 7, 2],
    )

    flags = flag_crops(quality)

    # a row that was never measured is not flagged
    assert flags.to_dict() == {5: "", 3: "", 9: "out-of-focus+saturated", 1: "empty", 7: "empty", 2: ""}
    assert flag_crops(quality, empty_below=0.01, saturated_above=0.3)[9] == "out-of-focus"
    assert flag_crops(quality, empty_below=0.01)[1] == ""
    assert flag_crops(quality, unsharp_below=0.1)[9] == "saturated"


@pytest.mark.real_data
@pytest.mark.parametrize("plate", ["Week2_24381", "Week7_34381", "Week10_40111", "Week2_24361"])
def test_real_crops_without_a_nucleus_are_flagged_and_few_others(real_data: Path, plate: str) -> None:
    folder = real_data / "bbbc021/single-cell"
    files = sorted(folder.glob(f"{plate}-*.png"))
    crops = np.stack([imagecodecs.imread(file).reshape(68, 3, 68).swapaxes(0, 1) for file in files])

    flags = flag_crops(measure_quality(crops, channel=0, largest=65520))

    # looked at: where there is no nucleus in sight the pixels spread by less than 50, elsewhere by more than 200
    blank = crops[:, 0].reshape(len(crops), -1).std(axis=1) < 100
    assert set(flags[blank]) <= {"empty"}
    assert (flags[~blank] != "").sum() <= 1 + 0.02 * len(crops)
