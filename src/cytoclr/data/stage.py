"""The crop stage: from what the settings name as the screen to crops, cells, wells and what was left out."""

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cytoclr.config import CropSettings
from cytoclr.data.cluster import Cluster, Here
from cytoclr.data.cut import LEFT_OUT_COLUMNS, CutRules
from cytoclr.data.images import read_about
from cytoclr.data.locations import Locations, read_locations, split_locations
from cytoclr.data.masks import find_masks
from cytoclr.data.plates import cut_plates
from cytoclr.data.ranges import IntensityRule
from cytoclr.data.ready import read_ready
from cytoclr.data.sources import RealScreenSettings, Source, describe_source, open_screen
from cytoclr.errors import CytoclrError, SettingsError
from cytoclr.progress import Progress
from cytoclr.storage import hash_tree, read_json, write_json, write_table, write_text
from cytoclr.tables import ILLUMINATION_PREFIX, NUM_CELLS, PATH_PREFIX, SITE, WELL, WELL_METADATA

__all__ = ["CropPlan", "choose_nuclei_channel", "plan_crops"]

logger = logging.getLogger(__name__)

#: Height and width of a crop cut from a field, unless set.
DEFAULT_SIZE_PX = 64
#: How DNA is called, the surest first; nucleoli are another thing.
_DNA = tuple(
    re.compile(words, re.IGNORECASE) for words in (r"dapi|hoechst|draq|h ?33342", r"dna", r"nucle(us|i\b|ar)|\bnuc\b")
)


@dataclass(frozen=True)
class CropPlan:
    """What will be cut: tables are read and files found, no image is opened yet.

    `inputs` are the hashes of the tables, and the names, sizes and times of the images.
    """

    inputs: dict[str, Any]
    source: Source
    locations: Locations | None
    rules: CutRules
    settings: CropSettings
    stains: Mapping[str, str]

    @property
    def screen(self) -> pd.DataFrame:
        """A row a site, or a ready crop."""
        return self.source.rows

    def cut(self, folder: Path, progress: Progress, cluster: Cluster | None = None) -> dict[str, Any]:
        """Cut the crops under a folder, as ``crops/``, ``cells.parquet`` and what else `docs/reference/files.md` lists.

        What an earlier call finished is not cut again.

        Returns
        -------
        dict
            Counts of cells, of what was left out by reason, and of cells that are flagged and kept, by flag.
        """
        report = folder / "crops" / "report.json"
        if report.is_file():  # stopped after the last crop: while files were hashed, or later
            shutil.rmtree(folder / "crops" / "plates", ignore_errors=True)
            told: dict[str, Any] = read_json(report)
            return told
        estimated = self.settings.illumination == "plate"
        cells, left_out = cut_plates(
            self.source.rows,
            folder / "crops",
            rules=replace(self.rules, illumination=folder / "illumination") if estimated else self.rules,
            centres=None if self.locations is None else self.locations.of,
            drop=self.settings.drop,
            num_overlays=self.settings.overlays,
            stains=self.stains,
            cluster=cluster or Here(),
            progress=progress,
        )
        left_out = pd.concat([self.source.left_out, left_out], ignore_index=True).reindex(columns=LEFT_OUT_COLUMNS)
        left_out = left_out.astype({"Metadata_Object": "Int64"})
        write_table(folder / "cells.parquet", cells)
        write_table(folder / "wells.parquet", count_cells(self.source.rows, cells, left_out))
        write_table(folder / "screen.parquet", self.source.rows)
        write_text(folder / "left_out.csv", left_out.to_csv(index=False))
        flags = cells["Metadata_Flags"]
        told = {
            "num_cells": len(cells),
            "left_out": _count(left_out["reason"]),
            "flagged": _count(flags[flags != ""].str.split("+").explode()),
        }
        write_json(report, told)
        shutil.rmtree(folder / "crops" / "plates")
        return told


def plan_crops(screen: RealScreenSettings, settings: CropSettings, *, locations: Path | None) -> CropPlan:
    """Read a screen's tables, find its images, read where its cells are.

    Parameters
    ----------
    screen
        Which screen, and where.
    settings
        How to cut it.
    locations
        Cell centres; None: the masks', else nuclei are found. Ready crops need none.

    Raises
    ------
    SettingsError
        A setting names a channel that is not there, or asks of ready crops what needs fields.
    DataError
        A table is wrong, or an image is missing and ``skip_missing`` is not set.
    """
    source = open_screen(screen, skip_missing=settings.skip_missing)
    rules = _make_rules(screen, source, settings)
    found = None
    if source.is_ready_crops:
        _refuse_of_ready_crops(settings, locations)
    else:
        source = _add_masks(source, settings)
        if locations is not None:
            table = read_locations(locations, sites=source.rows)
            found = split_locations(table, source.rows, str(locations))
    inputs = {
        **describe_source(screen, source),
        "locations": None if locations is None else hash_tree(locations),
    }
    return CropPlan(inputs, source, found, rules, settings, screen.stains)


def _make_rules(screen: RealScreenSettings, source: Source, settings: CropSettings) -> CutRules:
    intensity = IntensityRule(settings.intensity, settings.percentiles, settings.ranges)
    intensity.check_channels(source.channels)
    _check_channels(settings.nuclei_channel, screen.stains, source.channels)
    without = [name for name in source.channels if f"{ILLUMINATION_PREFIX}{name}" not in source.rows.columns]
    given = settings.illumination == "given" and len(without) < len(source.channels)
    if given and without:
        logger.warning("%s: no illumination functions are given; they stay as they are. (IMG012)", ", ".join(without))
    return CutRules(
        channels=source.channels,
        size_px=settings.size_px or _find_size(source),
        nuclei_channel=settings.nuclei_channel or choose_nuclei_channel(source.channels, screen.stains),
        nucleus_diameter_px=settings.nucleus_diameter_px,
        border=settings.border,
        intensity=intensity,
        to_bytes=settings.bits == 8,
        apply_masks=settings.apply_masks,
        illumination="given" if given else None,
        bit_depth=screen.bit_depth,
        pixel_size_um=screen.pixel_size_um or _find_pixel_size(source),
    )


def _check_channels(nuclei_channel: str | None, stains: Mapping[str, str], channels: Sequence[str]) -> None:
    known = ", ".join(channels)
    if nuclei_channel is not None and nuclei_channel not in channels:
        raise SettingsError(f"crop.nuclei_channel is {nuclei_channel!r}; the screen has {known}.", code="CHAN002")
    unknown = [name for name in stains if name not in channels]
    if unknown:
        raise SettingsError(f"screen.stains names {', '.join(unknown)}; the screen has {known}.", code="CHAN002")


def choose_nuclei_channel(channels: Sequence[str], stains: Mapping[str, str]) -> str:
    """Choose the channel whose stain, or else whose name, is that of DNA; else the first.

    >>> choose_nuclei_channel(["Actin", "Hoechst"], {})
    'Hoechst'
    """
    for pattern in _DNA:
        for words in ({name: stains.get(name, "") for name in channels}, {name: name for name in channels}):
            found = next((name for name in channels if pattern.search(words[name])), None)
            if found is not None:
                return found
    return channels[0]


def _find_size(source: Source) -> int:
    """Find the size of crops that none was set for."""
    if not source.is_ready_crops:
        return DEFAULT_SIZE_PX
    first = {str(name): value for name, value in source.rows.iloc[0].items()}
    return int(read_ready([first], source.channels, None).shape[2])


def _find_pixel_size(source: Source) -> float | None:
    """Ask the first image; one that cannot be read says so when it is cut."""
    if source.is_ready_crops:
        return None
    try:
        return read_about(source.rows[f"{PATH_PREFIX}{source.channels[0]}"].iloc[0]).pixel_size_um
    except CytoclrError:
        return None


def _refuse_of_ready_crops(settings: CropSettings, locations: Path | None) -> None:
    asked = {
        "crop.locations": locations is not None,
        "crop.illumination: plate": settings.illumination == "plate",
        "crop.border: pad": settings.border == "pad",
        "crop.masks": settings.masks is not None,
        "crop.intensity: field-percentile": settings.intensity == "field-percentile",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise SettingsError(f"{name} needs whole fields; the screen has ready crops. Leave it out.")


def _add_masks(source: Source, settings: CropSettings) -> Source:
    if settings.masks is None:
        if settings.apply_masks:
            raise SettingsError("crop.apply_masks needs masks. Name crop.masks: {folder: …, template: …}.")
        return source
    masks = settings.masks
    masked = find_masks(source.rows, masks.folder, template=masks.template, skip_missing=settings.skip_missing)
    lacking = source.rows.loc[source.rows.index.difference(masked.index), SITE].assign(reason="no mask")
    left_out = pd.concat([source.left_out, lacking], ignore_index=True)
    return replace(source, rows=masked.reset_index(drop=True), left_out=left_out)


def count_cells(rows: pd.DataFrame, cells: pd.DataFrame, left_out: pd.DataFrame) -> pd.DataFrame:
    """Count the cells of every well that was to be cut, of none too: kept, flagged, left out; and its sites."""
    wells = rows.drop_duplicates(WELL)[WELL_METADATA].reset_index(drop=True)
    counts = {
        "NumSites": rows.drop_duplicates(SITE).groupby(WELL).size(),
        NUM_CELLS.removeprefix("Metadata_"): cells.groupby(WELL).size(),
        "NumFlagged": cells[cells["Metadata_Flags"] != ""].groupby(WELL).size(),
        "NumLeftOut": left_out[left_out["Metadata_Object"].notna()].groupby(WELL).size(),
    }
    for name, of_wells in counts.items():
        number = pd.MultiIndex.from_frame(wells[WELL]).map(of_wells.to_dict())
        wells[f"Metadata_{name}"] = pd.Series(number, index=wells.index, dtype="float64").fillna(0).astype("int64")
    return wells


def _count(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}
