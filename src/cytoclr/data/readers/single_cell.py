"""Ready crops as the 2020 project kept them: ``sc-metadata.csv`` beside one PNG a cell, the channels side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cytoclr.data.files import read_texts
from cytoclr.data.screen import check_wells, describe_wells
from cytoclr.errors import DataError, list_some
from cytoclr.tables import LOCATED_CELLS, SITE, check_table

__all__ = ["find_strips", "read_single_cells"]


def read_single_cells(
    path: Path,
    *,
    controls: Sequence[str],
    positive_controls: Sequence[str] = (),
    batch_pattern: str = r"^([^_]+)_",
) -> pd.DataFrame:
    """Read ``sc-metadata.csv``: one row a crop.

    ``Image_Name`` is plate-well-site-cell (``Week1_22123-B02-s1-44.png``), ``Class_Name`` is
    compound_concentration (``taxol_0.3``). ``Target``, a number the 2020 code gave each class, is only checked.

    Returns
    -------
    pandas.DataFrame
        A cells table; ``Path_Crop`` is the PNG's name. Centres are unknown, hence empty.

    Raises
    ------
    DataError
        A column is missing, a name cannot be taken apart, a class has two targets, a well has two treatments, or
        a cell stands twice.
    """
    texts = read_texts(path)
    missing = [name for name in ("Image_Name", "Class_Name") if name not in texts.columns]
    if missing:
        raise DataError(f"{path}: lacks {' and '.join(missing)}. Found: {list_some(list(texts.columns), 12)}.")
    if texts.empty:
        raise DataError(f"{path}: the table has no rows.")
    names = texts["Image_Name"].str.extract(r"^(?P<plate>.+)-(?P<well>[^-]+)-s(?P<site>\d+)-(?P<cell>\d+)(?:\.png)?$")
    classes = texts["Class_Name"].str.extract(r"^(?P<compound>.+)_(?P<concentration>[^_]+)$")
    _refuse_unreadable(texts["Image_Name"], names, "plate-well-s<site>-<cell>.png", path)
    _refuse_unreadable(texts["Class_Name"], classes, "compound_concentration", path)
    _check_targets(texts, path)
    cells = pd.DataFrame(
        {
            "Metadata_CellID": names["plate"] + "_" + names["well"] + "_" + names["site"] + "_" + names["cell"],
            "Metadata_Plate": names["plate"],
            "Metadata_Well": names["well"],
            "Metadata_Site": names["site"],
            "Metadata_Object": names["cell"],
            "Metadata_Compound": classes["compound"],
            "Metadata_Concentration": classes["concentration"],
            "x": float("nan"),
            "y": float("nan"),
            "Path_Crop": texts["Image_Name"].str.removesuffix(".png") + ".png",
        }
    )
    cells = describe_wells(
        cells,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=str(path),
    )
    cells = check_table(cells, LOCATED_CELLS, str(path))
    check_wells(cells, str(path))
    return cells.sort_values([*SITE, "Metadata_Object"], kind="stable", ignore_index=True)


def _refuse_unreadable(values: pd.Series, parts: pd.DataFrame, expected: str, path: Path) -> None:
    wrong = parts.isna().any(axis=1)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{path}: {values.name} cannot be read in {int(wrong.sum()):,} of {len(values):,} rows, first in row "
            f"{row + 1}: found {values.iloc[row]!r}, expected {expected}."
        )


def _check_targets(texts: pd.DataFrame, path: Path) -> None:
    if "Target" not in texts.columns:
        return
    pairs = texts[["Class_Name", "Target"]].drop_duplicates()
    for name, other in (("Class_Name", "Target"), ("Target", "Class_Name")):
        twice = pairs[pairs.duplicated(name, keep=False)]
        if len(twice):
            value = twice.iloc[0][name]
            others = list_some(list(twice.loc[twice[name] == value, other]))
            raise DataError(f"{path}: {name} {value!r} stands with {other} {others}. Expected one of each.")


def find_strips(cells: pd.DataFrame, images: Path, *, skip_missing: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find each crop's PNG; return the cells whose file is there (``Path_Crop`` absolute), and those left out.

    Raises
    ------
    DataError
        A file is missing and `skip_missing` is false, or all are, or a name would leave the images' folder.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder. Expected the folder of the PNG files.")
    outside = cells["Path_Crop"].str.contains(r"[/\\]|^\.\.")
    if outside.any():
        name = cells.loc[outside, "Path_Crop"].iloc[0]
        raise DataError(f"the image name {name!r} leaves the images' folder. Expected a plain file name in {images}.")
    present = {entry.name for entry in os.scandir(images) if entry.is_file()}
    gone = ~cells["Path_Crop"].isin(present)
    left_out = cells.loc[gone, [*SITE, "Metadata_Object"]].assign(reason="no image file").reset_index(drop=True)
    if gone.any() and (not skip_missing or gone.all()):
        advice = "Correct the path." if gone.all() else "Pass --skip-missing to leave them out."
        raise DataError(
            f"{int(gone.sum()):,} of {len(cells):,} crops have no image file, first: "
            f"{cells.loc[gone, 'Path_Crop'].iloc[0]}. Expected in {images}. {advice}"
        )
    kept = cells[~gone].reset_index(drop=True)
    return kept.assign(Path_Crop=[str(images / name) for name in kept["Path_Crop"]]), left_out
