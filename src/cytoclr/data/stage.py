"""The crop stage: from what the settings name as the screen to crops, cells and what was left out."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cytoclr.config import Bbbc021Settings, CropSettings, SingleCellSettings
from cytoclr.data.cut import IntensityRule, cut_fields, cut_strips
from cytoclr.data.locations import read_locations, split_locations
from cytoclr.data.readers.bbbc021 import find_images, read_image_table
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.progress import Progress
from cytoclr.storage import hash_file, write_table, write_text
from cytoclr.tables import PATH_PREFIX

__all__ = ["CropPlan", "plan_crops"]

#: Height and width of a crop cut from a field, unless set.
DEFAULT_SIZE_PX = 64

_Cut = Callable[[Path, Progress], tuple[pd.DataFrame, pd.DataFrame]]


@dataclass(frozen=True)
class CropPlan:
    """What will be cut: tables are read and files found, no image is opened yet.

    `inputs` are the hashes of the tables, and the names, sizes and times of the images.
    """

    inputs: dict[str, Any]
    screen: pd.DataFrame
    missing: pd.DataFrame
    _cut: _Cut

    def cut(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Cut the crops under a folder, as ``crops/``, ``cells.parquet``, ``screen.parquet`` and ``left_out.csv``.

        If an earlier call was stopped, the plates it finished are not cut again.

        Returns
        -------
        dict
            Counts of cells, plates, wells, sites and, by reason, of what was left out.
        """
        cells, left_out = self._cut(folder / "crops", progress)
        left_out = pd.concat([self.missing, left_out], ignore_index=True)
        write_table(folder / "cells.parquet", cells)
        write_table(folder / "screen.parquet", self.screen)
        write_text(folder / "left_out.csv", left_out.to_csv(index=False))
        shutil.rmtree(folder / "crops" / "plates")
        reasons = left_out["reason"].value_counts()
        return {"num_cells": len(cells), "left_out": {str(reason): int(count) for reason, count in reasons.items()}}


def plan_crops(
    screen: Bbbc021Settings | SingleCellSettings, settings: CropSettings, *, locations: Path | None
) -> CropPlan:
    """Read a screen's tables and find its images.

    Parameters
    ----------
    screen
        Which screen, and where.
    settings
        How to cut it.
    locations
        Table of cell centres; None: nuclei are found. Ready crops need none.

    Raises
    ------
    DataError
        A table is wrong, or an image is missing and ``skip_missing`` is not set.
    """
    rule = IntensityRule(settings.intensity, settings.percentiles)
    if isinstance(screen, SingleCellSettings):
        return _plan_strips(screen, settings, rule)
    return _plan_fields(screen, settings, rule, locations)


def _plan_fields(
    screen: Bbbc021Settings, settings: CropSettings, rule: IntensityRule, locations: Path | None
) -> CropPlan:
    sites = read_image_table(
        screen.image_table,
        controls=screen.controls,
        positive_controls=screen.positive_controls,
        batch_pattern=screen.batch_pattern,
        plates=screen.plates,
    )
    found, missing = find_images(sites, screen.images, skip_missing=settings.skip_missing)
    centres = None if locations is None else split_locations(read_locations(locations), found, str(locations))

    def cut(folder: Path, progress: Progress) -> tuple[pd.DataFrame, pd.DataFrame]:
        return cut_fields(
            found,
            centres,
            folder,
            size_px=settings.size_px or DEFAULT_SIZE_PX,
            nuclei_channel=settings.nuclei_channel,
            nucleus_diameter_px=settings.nucleus_diameter_px,
            intensity=rule,
            pixel_size_um=screen.pixel_size_um,
            progress=progress,
        )

    paths = found[[name for name in found.columns if name.startswith(PATH_PREFIX)]].to_numpy().ravel()
    inputs = {
        **_describe(screen, screen.image_table, list(paths), screen.images),
        "locations": None if locations is None else hash_file(locations),
    }
    return CropPlan(inputs, found, missing, cut)


def _plan_strips(screen: SingleCellSettings, settings: CropSettings, rule: IntensityRule) -> CropPlan:
    cells = read_single_cells(
        screen.table,
        controls=screen.controls,
        positive_controls=screen.positive_controls,
        batch_pattern=screen.batch_pattern,
    )
    found, missing = find_strips(cells, screen.images, skip_missing=settings.skip_missing)

    def cut(folder: Path, progress: Progress) -> tuple[pd.DataFrame, pd.DataFrame]:
        return cut_strips(
            found,
            folder,
            channels=screen.channels,
            size_px=settings.size_px,
            intensity=rule,
            pixel_size_um=screen.pixel_size_um,
            progress=progress,
        )

    return CropPlan(_describe(screen, screen.table, list(found["Path_Crop"]), screen.images), found, missing, cut)


def _describe(
    screen: Bbbc021Settings | SingleCellSettings, table: Path, paths: list[str], images: Path
) -> dict[str, Any]:
    """All that tells whether the images are those of last time, without reading them; folders may have moved."""
    where = {"image_table", "table", "images"}
    files = [(os.path.relpath(path, images), os.stat(path)) for path in paths]
    return {
        "settings": screen.model_dump(mode="json", exclude=where),
        "table": hash_file(table),
        "images": [[name, about.st_size, about.st_mtime_ns] for name, about in files],
    }
