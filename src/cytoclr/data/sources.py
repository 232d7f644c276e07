"""From what the settings call the screen to its sites (or ready crops), whoever made the plates."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cytoclr.config import (
    Bbbc021Settings,
    DeepProfilerSettings,
    ImagesSettings,
    LoadDataSettings,
    OmeZarrSettings,
    PlateSettings,
    ScPortraitSettings,
    SingleCellSettings,
)
from cytoclr.data.readers.bbbc021 import find_images, read_image_table
from cytoclr.data.readers.deepprofiler_project import read_project
from cytoclr.data.readers.images import read_images
from cytoclr.data.readers.loaddata import read_loaddata
from cytoclr.data.readers.ome_zarr import read_ome_zarr
from cytoclr.data.readers.scportrait import read_h5sc_cells
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.data.remote import is_url
from cytoclr.errors import SettingsError
from cytoclr.tables import ILLUMINATION_PREFIX, MASK_PATH, PATH_PREFIX, channel_names

__all__ = ["RealScreenSettings", "Source", "describe_source", "open_screen"]

RealScreenSettings = (
    Bbbc021Settings
    | ImagesSettings
    | LoadDataSettings
    | OmeZarrSettings
    | DeepProfilerSettings
    | SingleCellSettings
    | ScPortraitSettings
)
#: Settings that say where something is: what is there counts, not its place.
_PLACES = {"image_table", "table", "images", "folder", "metadata"}


@dataclass(frozen=True)
class Source:
    """The rows of a screen: sites with the paths of their images, or ready crops with ``Path_Crop``.

    `left_out` has a row and a reason for each site or crop without its files.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    channels: tuple[str, ...]
    is_ready_crops: bool = False

    def list_files(self) -> list[str]:
        """List the files that hold pixels, each once."""
        columns = [name for name in self.rows.columns if name.startswith(PATH_PREFIX)]
        # str of each: NumPy's own texts are bytes to os.scandir
        return sorted({str(path) for name in columns for path in self.rows[name].unique()})


def open_screen(screen: RealScreenSettings, *, skip_missing: bool) -> Source:
    """Read a screen's tables and find its files; no image is opened.

    Raises
    ------
    SettingsError, DataError
        See the readers.
    """
    if isinstance(screen, SingleCellSettings):
        cells = read_single_cells(screen.table, **_about_wells(screen))
        return Source(
            *find_strips(cells, screen.images, skip_missing=skip_missing), screen.channels, is_ready_crops=True
        )
    if isinstance(screen, ScPortraitSettings):
        cells, left_out, channels = read_h5sc_cells(
            screen.folder, template=screen.template, channels=screen.channels, **_about_plates(screen)
        )
        return Source(cells, left_out, tuple(channels), is_ready_crops=True)
    rows, left_out = _read_sites(screen, skip_missing)
    if "Crop" in channel_names(rows):
        raise SettingsError("a channel is called Crop, which is the name of ready crops. Rename it in screen.channels.")
    return Source(rows, left_out, tuple(channel_names(rows)))


def _read_sites(screen: RealScreenSettings, skip_missing: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    if isinstance(screen, Bbbc021Settings):
        sites = read_image_table(screen.image_table, **_about_wells(screen), plates=screen.plates)
        return find_images(sites, screen.images, skip_missing=skip_missing)
    assert isinstance(screen, PlateSettings)
    shared = {**_about_plates(screen), "channels": screen.channels, "skip_missing": skip_missing}
    if isinstance(screen, ImagesSettings):
        return read_images(screen.folder, template=screen.template, plate=screen.plate, keep=screen.keep, **shared)
    if isinstance(screen, LoadDataSettings):
        return read_loaddata(screen.table, images=screen.images, **shared)
    if isinstance(screen, OmeZarrSettings):
        return read_ome_zarr(screen.folder, **shared)
    if isinstance(screen, DeepProfilerSettings):
        return read_project(screen.folder, **shared)
    raise SettingsError(f"screen.reader {type(screen).__name__}: not a reader of sites.")


def _about_wells(screen: Bbbc021Settings | SingleCellSettings | PlateSettings) -> dict[str, Any]:
    return {
        "controls": screen.controls,
        "positive_controls": screen.positive_controls,
        "batch_pattern": screen.batch_pattern,
    }


def _about_plates(screen: PlateSettings) -> dict[str, Any]:
    return {**_about_wells(screen), "metadata": screen.metadata, "columns": screen.columns, "plates": screen.plates}


def describe_source(screen: RealScreenSettings, source: Source) -> dict[str, Any]:
    """Describe all that tells whether the screen is that of last time, without reading images; folders may have moved.

    Every row counts, in its order, with all that the tables say of it. Files count by their names below the folder they
    share, their sizes and times; remote ones by their addresses alone.
    """
    return {
        "settings": screen.model_dump(mode="json", exclude=_PLACES),
        "channels": list(source.channels),
        "rows": _digest(source.rows),
        "left_out": _digest(source.left_out),
    }


def _digest(rows: pd.DataFrame) -> str:
    described = rows.copy()
    for prefix in (PATH_PREFIX, ILLUMINATION_PREFIX, MASK_PATH):
        columns = [name for name in rows.columns if name.startswith(prefix)]
        words = _describe_files({str(path) for path in rows[columns].to_numpy().ravel()})
        for name in columns:
            described[name] = [words[str(path)] for path in rows[name]]
    described = described[sorted(described.columns)].astype("str")
    return hashlib.sha256(pd.util.hash_pandas_object(described, index=False).to_numpy().tobytes()).hexdigest()


def _describe_files(paths: set[str]) -> dict[str, str]:
    local = [path for path in paths if path and not is_url(path)]
    root = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
    known = {path: f"{os.path.relpath(path, root)} {_describe_file(path)}" for path in local}
    return {path: known.get(path, path) for path in paths}


def _describe_file(path: str) -> str:
    """Tell the size and the time of a file; of a group of Zarr, those of all files in it: its own say nothing."""
    if not os.path.isdir(path):
        about = os.stat(path)
        return f"{about.st_size} {about.st_mtime_ns}"
    parts = [os.stat(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
    return f"{sum(part.st_size for part in parts)} {max((part.st_mtime_ns for part in parts), default=0)}"
