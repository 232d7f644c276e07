"""A look at a plate before it is cut: the light on it, and the range of its pixels where crops become bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt

from cytoclr.data.blocks import Block, PlateFiles
from cytoclr.data.crops import plate_stem
from cytoclr.data.cut import STEP, CutRules, read_site
from cytoclr.data.illumination import correct_field, expand_illumination, fit_illumination, shrink_field
from cytoclr.data.ranges import add_counts, count_values
from cytoclr.data.ready import read_ready
from cytoclr.errors import DataError
from cytoclr.storage import open_atomic, write_json

__all__ = ["MAX_ROWS", "Look", "choose_rows", "fit_survey", "look_at_ready", "look_at_sites", "needs_survey"]

#: Sites (or ready crops) that a plate is judged by, evenly spread.
MAX_ROWS = 256


@dataclass(frozen=True)
class Look:
    """What is kept of a field: its light on a small grid, and some of its pixels."""

    light: Float32[np.ndarray, "channel grid_row grid_column"] | None
    pixels: UInt[np.ndarray, "channel row column"]
    shape: tuple[int, int]


def needs_survey(rules: CutRules) -> bool:
    """Tell whether a plate must be looked at before it is cut."""
    return isinstance(rules.illumination, Path) or (rules.to_bytes and rules.intensity.rule == "plate-percentile")


def choose_rows(num_rows: int) -> list[int]:
    """Choose rows evenly spread over a plate.

    >>> choose_rows(3)
    [0, 1, 2]
    """
    return sorted({round(place) for place in np.linspace(0, num_rows - 1, min(num_rows, MAX_ROWS))})


def look_at_sites(block: Block, rules: CutRules) -> list[Look]:
    """Look at the sites of a block."""
    looks = []
    for row in block.rows:
        field = read_site(row, rules.channels)
        light = shrink_field(field) if isinstance(rules.illumination, Path) else None
        looks.append(Look(light, field[:, ::STEP, ::STEP].copy(), (field.shape[1], field.shape[2])))
    return looks


def look_at_ready(block: Block, rules: CutRules) -> list[Look]:
    """Look at the ready crops of a block."""
    crops = read_ready(block.rows, rules.channels, rules.size_px)
    return [Look(None, crop, (crop.shape[1], crop.shape[2])) for crop in crops]


def fit_survey(looks: Sequence[Look], files: PlateFiles, rules: CutRules) -> None:
    """Learn a plate's light and the range of its corrected pixels from what was looked at; write both.

    Raises
    ------
    DataError
        The fields differ in size.
    """
    shapes = sorted({look.shape for look in looks})
    if len(shapes) > 1:
        raise DataError(
            f"plate {files.plate}: its fields are of {shapes[0]} and of {shapes[1]} px (rows, columns). Expected one "
            "size on a plate.",
            code="IMG005",
        )
    function = None
    if isinstance(rules.illumination, Path):
        fitted = fit_illumination(np.stack([look.light for look in looks if look.light is not None]))
        rules.illumination.mkdir(parents=True, exist_ok=True)
        with open_atomic(rules.illumination / f"{plate_stem(files.plate)}.npy") as file:
            np.save(file, fitted, allow_pickle=False)
        function = np.ascontiguousarray(expand_illumination(fitted, shapes[0])[:, ::STEP, ::STEP])
    counts = None
    for look in looks:
        pixels = look.pixels if function is None else correct_field(look.pixels, function)
        new = count_values(pixels.reshape(len(pixels), -1))
        counts = new if counts is None else add_counts(counts, new)
    assert counts is not None
    write_json(files.survey, {"ranges": rules.intensity.find_ranges(counts), "num_fields": len(looks)})
