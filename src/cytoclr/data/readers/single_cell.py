"""Ready crops: ``sc-metadata.csv`` beside one PNG a cell, the channels side by side.

The 2020 project kept them so, all in one folder; DeepProfiler's ``export-sc`` writes them so, a folder a site.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cytoclr.data.files import read_texts
from cytoclr.data.readers.deepprofiler_project import read_labels
from cytoclr.data.roots import Root, leaves
from cytoclr.data.screen import check_wells, describe_wells, name_well
from cytoclr.errors import DataError, list_some
from cytoclr.tables import LOCATED_CELLS, SITE, check_table

__all__ = ["find_strips", "is_export", "read_single_cells"]

logger = logging.getLogger(__name__)

_NAME = r"^(?P<plate>[^/\\]+)-(?P<well>[^-]+)-s(?P<site>\d+)-(?P<cell>\d+)(?:\.png)?$"
_CLASS = r"^(?P<compound>.+)_(?P<concentration>[^_]+)$"
#: DeepProfiler's names: PLATE/WELL/SITE/TARGET@XxY.png, X and Y the cell's centre.
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_EXPORTED = (
    r"^(?P<plate>[^/]+)/(?P<well>[^/]+)/[^/\d]*(?P<site>\d+)/(?P<target>[^/@]+)"
    rf"@(?P<x>{_NUMBER})x(?P<y>{_NUMBER})\.png$"
)


def read_single_cells(
    path: Path,
    *,
    controls: Sequence[str],
    positive_controls: Sequence[str] = (),
    batch_pattern: str = r"^([^_]+)_",
) -> pd.DataFrame:
    """Read ``sc-metadata.csv``: one row a crop.

    In the 2020 project's, ``Image_Name`` is plate-well-site-cell (``Week1_22123-B02-s1-44.png``) and ``Class_Name`` is
    compound_concentration (``taxol_0.3``). In DeepProfiler's, ``Image_Name`` is plate, well, site, target and centre
    (``Week1_22123/B02/1/7@310.5x42.png``); the label stands in ``Class_Name``, or in the column behind ``Target``, and
    is taken apart where all are compound_concentration. ``Target``, a number given to each class, is only checked.

    Returns
    -------
    pandas.DataFrame
        A cells table; ``Path_Crop`` is the PNG's name. In the 2020 project's centres are unknown, hence empty;
        DeepProfiler's cells have no numbers, and are counted in each site from 1.

    Raises
    ------
    DataError
        A column is missing, a name cannot be taken apart, a class has two targets, a well has two treatments, or
        a cell stands twice.
    """
    texts = read_texts(path)
    if "Image_Name" not in texts.columns:
        _refuse_columns(["Image_Name"], texts, path)
    if texts.empty:
        raise DataError(f"{path}: the table has no rows.", code="META001")
    cells = _read_export(texts, path) if is_export(list(texts.columns)) else _read_flat(texts, path)
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


def is_export(names: Sequence[str]) -> bool:
    """Tell by its columns whether a table is DeepProfiler's.

    >>> is_export(["Key", "Target", "Treatment", "Image_Name"]), is_export(["Image_Name", "Class_Name", "Target"])
    (True, False)
    """
    return {"Image_Name", "Key", "Target"} <= set(names)


def _refuse_columns(missing: Sequence[str], texts: pd.DataFrame, path: Path) -> None:
    raise DataError(
        f"{path}: lacks {' and '.join(missing)}. Found: {list_some(list(texts.columns), 12)}.", code="META002"
    )


def _read_flat(texts: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Read the 2020 project's table."""
    if "Class_Name" not in texts.columns:
        _refuse_columns(["Class_Name"], texts, path)
    names = texts["Image_Name"].str.extract(_NAME)
    classes = texts["Class_Name"].str.extract(_CLASS)
    _refuse_unreadable(texts["Image_Name"], names, "plate-well-s<site>-<cell>.png", path)
    _refuse_unreadable(texts["Class_Name"], classes, "compound_concentration", path)
    _check_targets(texts, "Class_Name", path)
    return pd.DataFrame(
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


def _read_export(texts: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Read DeepProfiler's table: the plate's own names of sites are numbers, perhaps behind letters."""
    label = _find_label(texts, path)
    names = texts["Image_Name"].str.extract(_EXPORTED)
    _refuse_unreadable(texts["Image_Name"], names, "PLATE/WELL/SITE/TARGET@XxY.png", path)
    _check_targets(texts, label, path)
    twice = texts.duplicated("Image_Name")
    if twice.any():
        # two cells of one centre are one file
        logger.warning("%s: %s of %s rows repeat another's image and are not counted.", path, twice.sum(), len(texts))
    texts, names = texts[~twice].reset_index(drop=True), names[~twice].reset_index(drop=True)
    wells = names["well"].map(name_well)
    site = pd.to_numeric(names["site"])
    number = names.assign(well=wells, site=site).groupby(["plate", "well", "site"]).cumcount() + 1
    treatments = {"Metadata_Concentration": 0.0, **read_labels(texts[label], path)}
    return pd.DataFrame(
        {
            "Metadata_CellID": names["plate"] + "_" + wells + "_" + site.astype("str") + "_" + number.astype("str"),
            "Metadata_Plate": names["plate"],
            "Metadata_Well": wells,
            "Metadata_Site": site,
            "Metadata_Object": number,
            **treatments,
            "x": names["x"],
            "y": names["y"],
            "Path_Crop": texts["Image_Name"],
        }
    )


def _find_label(texts: pd.DataFrame, path: Path) -> str:
    """Find the column of the label: DeepProfiler writes it behind the number of its class, under its own name."""
    names = [str(name) for name in texts.columns]
    if "Class_Name" in names:
        return "Class_Name"
    behind = names[names.index("Target") + 1 :]
    if not behind or behind[0] in ("Image_Name", "Key"):
        _refuse_columns(["the label's column (Class_Name, or the one behind Target)"], texts, path)
    return behind[0]


def _refuse_unreadable(values: pd.Series, parts: pd.DataFrame, expected: str, path: Path) -> None:
    wrong = parts.isna().any(axis=1)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{path}: {values.name} cannot be read in {int(wrong.sum()):,} of {len(values):,} rows, first in row "
            f"{row + 1}: found {values.iloc[row]!r}, expected {expected}.",
            code="META003",
        )


def _check_targets(texts: pd.DataFrame, label: str, path: Path) -> None:
    if "Target" not in texts.columns:
        return
    pairs = texts[[label, "Target"]].drop_duplicates()
    for name, other in ((label, "Target"), ("Target", label)):
        twice = pairs[pairs.duplicated(name, keep=False)]
        if len(twice):
            value = twice.iloc[0][name]
            others = list_some(list(twice.loc[twice[name] == value, other]))
            raise DataError(
                f"{path}: {name} {value!r} stands with {other} {others}. Expected one of each.", code="META003"
            )


def find_strips(cells: pd.DataFrame, images: Path, *, skip_missing: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find each crop's PNG; return the cells whose file is there (``Path_Crop`` absolute), and those left out.

    Raises
    ------
    DataError
        A file is missing and `skip_missing` is false, or all are, or a name or a link leaves the images' folder.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder. Expected the folder of the PNG files.", code="IMG001")
    _refuse_outside(cells["Path_Crop"], images)
    folders = {name.rpartition("/")[0] for name in cells["Path_Crop"]}
    present = {name for folder in folders for name in _list_files(images, folder)}
    gone = ~cells["Path_Crop"].isin(present)
    left_out = cells.loc[gone, [*SITE, "Metadata_Object"]].assign(reason="no image file").reset_index(drop=True)
    if gone.any() and (not skip_missing or gone.all()):
        advice = "Correct the path." if gone.all() else "Pass --skip-missing to leave them out."
        raise DataError(
            f"{int(gone.sum()):,} of {len(cells):,} crops have no image file, first: "
            f"{cells.loc[gone, 'Path_Crop'].iloc[0]}. Expected in {images}. {advice}",
            code="IMG001",
        )
    kept = cells[~gone].reset_index(drop=True)
    root = Root(images)
    for name in kept["Path_Crop"]:
        folder, _, file = name.rpartition("/")
        root.check_links(images / folder, file)
    return kept.assign(Path_Crop=[str(images / name) for name in kept["Path_Crop"]]), left_out


def _refuse_outside(names: pd.Series, images: Path) -> None:
    # a backslash is a folder elsewhere, and here a letter
    outside = names[[leaves(name) or "\\" in name for name in names]]
    if len(outside):
        raise DataError(
            f"the image name {outside.iloc[0]!r} leaves the images' folder. Expected a file in {images}.",
            code="NAME006",
        )


def _list_files(images: Path, folder: str) -> list[str]:
    """List the files in a folder below the images by their names in the table."""
    place = images / folder
    start = f"{folder}/" if folder else ""
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return [f"{start}{entry.name}" for entry in entries if entry.is_file()]
