"""A look at a plate before it is cut: the light on it, and the range of its pixels where crops become bytes."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import safetensors.numpy

from cytoclr.data.blocks import Block, PlateFiles
from cytoclr.data.cut import STEP, CutRules, read_site
from cytoclr.data.illumination import correct_field, expand_illumination, fit_illumination, shrink_field
from cytoclr.data.ranges import add_counts, count_values
from cytoclr.data.ready import read_ready
from cytoclr.errors import DataError
from cytoclr.storage import open_atomic, write_json

__all__ = ["choose_rows", "finish_survey", "look_at_ready", "look_at_sites", "needs_survey"]

#: Sites (or ready crops) that a plate is judged by, evenly spread.
MAX_ROWS = 256


def needs_survey(rules: CutRules) -> bool:
    """Tell whether a plate must be looked at before it is cut."""
    return isinstance(rules.illumination, Path) or (rules.to_bytes and rules.intensity.rule == "plate-percentile")


def choose_rows(num_rows: int) -> list[int]:
    """Choose rows evenly spread over a plate.

    >>> choose_rows(3)
    [0, 1, 2]
    """
    return sorted({round(place) for place in np.linspace(0, num_rows - 1, min(num_rows, MAX_ROWS))})


def look_at_sites(block: Block, files: PlateFiles, rules: CutRules) -> None:
    """Look at the sites of a block, and write what is kept of them: their light on a small grid, and some pixels."""
    files.check_folder()
    if files.look(block.number).is_file():
        return
    fields = [read_site(row, rules.channels) for row in block.rows]
    _check_shapes([field.shape[1:] for field in fields], files.plate)
    kept = {"pixels": np.stack([field[:, ::STEP, ::STEP] for field in fields]), "shape": np.array(fields[0].shape[1:])}
    if isinstance(rules.illumination, Path):
        kept["light"] = np.stack([shrink_field(field) for field in fields])
    _write(files.look(block.number), kept)


def look_at_ready(block: Block, files: PlateFiles, rules: CutRules) -> None:
    """Look at the ready crops of a block, and write their pixels."""
    files.check_folder()
    crops = read_ready(block.rows, rules.channels, rules.size_px)
    _write(files.look(block.number), {"pixels": crops, "shape": np.array(crops.shape[2:])})


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open_atomic(path) as file:
        file.write(safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _check_shapes(shapes: Sequence[tuple[int, ...]], plate: str) -> None:
    different = sorted(set(shapes))
    if len(different) > 1:
        raise DataError(
            f"plate {plate}: its fields are of {different[0]} and of {different[1]} px (rows, columns). Expected one "
            "size on a plate.",
            code="IMG005",
        )


def finish_survey(files: PlateFiles, num_blocks: int, rules: CutRules) -> None:
    """Learn a plate's light, and the range of its corrected pixels, from what was kept of it; write both.

    Raises
    ------
    DataError
        The fields differ in size.
    """
    looks = [safetensors.numpy.load_file(files.look(number)) for number in range(num_blocks)]
    shapes = [(int(look["shape"][0]), int(look["shape"][1])) for look in looks]
    _check_shapes(shapes, files.plate)
    function = None
    if isinstance(rules.illumination, Path):
        fitted = fit_illumination(np.concatenate([look["light"] for look in looks]))
        with open_atomic(files.light) as file:
            np.save(file, fitted, allow_pickle=False)
        function = np.ascontiguousarray(expand_illumination(fitted, shapes[0])[:, ::STEP, ::STEP])
    counts = []
    for pixels in (pixels for look in looks for pixels in look["pixels"]):
        corrected = pixels if function is None else correct_field(pixels, function)
        counts.append(count_values(corrected.reshape(len(corrected), -1)))
    write_json(files.survey, {"ranges": rules.intensity.find_ranges(reduce(add_counts, counts))})
