"""A DeepProfiler project: ``inputs/metadata/index.csv`` and the images below ``inputs/images``.

The handbook: https://cytomining.github.io/DeepProfiler-handbook.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.columns import WELL_FIELDS, find_columns, read_columns
from cytoclr.data.files import METADATA_PREFIXES, check_names, read_header, read_texts
from cytoclr.data.roots import Root
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.data.selection import choose_channels, refuse_unless_skipped, select_plates
from cytoclr.errors import DataError, list_some
from cytoclr.tables import PATH_PREFIX, SITE

__all__ = ["read_labels", "read_project"]

logger = logging.getLogger(__name__)

_IMAGE = re.compile(r".+\.(tiff?|png)", re.IGNORECASE)
_SITE = re.compile(r"\D*(\d+)")
_CLASS = r"(?P<compound>.+)_(?P<concentration>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
#: What the index may tell of a well beside its place.
_TREATMENT_WORDS = ("compound", "concentration", "batch", "control_type")


def read_project(
    folder: Path,
    *,
    channels: Mapping[str, str] | None,
    plates: Sequence[str] | None,
    skip_missing: bool,
    metadata: Path | None,
    columns: Mapping[str, str],
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the index of a project, and find the images of its sites.

    Parameters
    ----------
    folder
        The project: it has ``inputs/metadata/index.csv`` and ``inputs/images``.
    channels
        Each channel's name here, and the index's column of its files. None: those that a configuration in
        ``inputs/config`` names, else all columns in which only names of images stand.
    plates
        These only; None: all.
    skip_missing
        Leave out the sites that lack an image.
    metadata, columns, controls, positive_controls, batch_pattern
        See `cytoclr.data.screen.join_plate_map`. Without a plate map, the index may tell compound and concentration:
        in columns of that name or those that `columns` tells; else the configuration's ``label_field`` is the
        compound, its last part the concentration where it reads ``taxol_0.3`` in all rows.

    Returns
    -------
    sites
        A screen table with ``Path_<channel>``; a site is called by the number in its name (``s2``, ``f02``: 2).
    left_out
        One row a site left out, with the reason.

    Raises
    ------
    SettingsError
        `columns` has an unknown word.
    DataError
        The index or a configuration cannot be read (META001); a column (META002), a channel (NAME004) or a plate
        (META008) is not there; a site has no number (META003); a path leaves the images (NAME006); an image is missing
        (IMG001) and `skip_missing` is false, or no site has all; or what `join_plate_map` refuses.
    """
    index = folder / "inputs" / "metadata" / "index.csv"
    if not index.is_file():
        raise DataError(f"{index}: no such file. Expected the folder of a DeepProfiler project.", code="META001")
    check_names(read_header(index), index)
    texts = read_texts(index)
    if texts.empty:
        raise DataError(f"{index}: the index has no rows.", code="META001")
    about = _read_configs(folder / "inputs" / "config", list(texts.columns))
    chosen = choose_channels(_find_channels(texts, about, index), channels, str(index))
    told = {word: name for word, name in columns.items() if metadata is None or name in texts.columns}
    sites = _read_sites(texts, told, about.get("label_field", ""), index, has_map=metadata is not None)
    files = {f"{PATH_PREFIX}{name}": texts[column] for name, column in chosen.items()}
    sites = select_plates(_drop_copies(sites.assign(**files), index), plates, str(index))
    found, left_out = _find_images(sites, list(chosen), folder / "inputs" / "images")
    refuse_unless_skipped(left_out, len(sites), str(folder), skip_missing=skip_missing)
    screen, empty = join_plate_map(
        found,
        metadata,
        columns=columns,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=str(index),
    )
    parts = [part for part in (left_out, empty) if len(part)]
    return screen, pd.concat(parts, ignore_index=True) if parts else left_out


def _read_configs(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Read what configurations say of the index's columns: ``channels`` (a column a line), ``label_field``.

    Of several, the first (by name) whose channels are all in the index counts.
    """
    for file in sorted(folder.glob("*.json")):
        try:
            dataset = json.loads(file.read_text(encoding="utf-8"))["dataset"]
            channels = [str(name) for name in dataset["images"]["channels"]]
            label = str(dataset.get("metadata", {}).get("label_field", ""))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}: not a readable configuration ({error}).", code="META001") from None
        except (KeyError, TypeError):
            continue  # a configuration of something else
        absent = [name for name in channels if name not in names]
        if channels and not absent:
            return {"channels": "\n".join(channels), "label_field": label if label in names else ""}
        logger.warning("%s: its channels %s are not in the index; it is not used.", file, list_some(absent))
    return {}


def _find_channels(texts: pd.DataFrame, about: Mapping[str, str], index: Path) -> list[str]:
    if about.get("channels"):
        return about["channels"].split("\n")
    others = [name for name in texts.columns if not name.startswith(METADATA_PREFIXES)]
    found = [name for name in others if texts[name].map(lambda text: _IMAGE.fullmatch(text) is not None).all()]
    if not found:
        raise DataError(
            f"{index}: no column with only names of images (.tif, .tiff, .png), and no configuration that names the "
            f"channels (dataset.images.channels). Found: {list_some(list(texts.columns), 12)}.",
            code="META002",
        )
    return found


def _read_sites(
    texts: pd.DataFrame, told: Mapping[str, str], label: str, index: Path, *, has_map: bool
) -> pd.DataFrame:
    """Read plate, well and site, and what is in the well where the index tells it and no map does."""
    found = find_columns(texts, WELL_FIELDS, told=told, needed=("plate", "well", "site"), path=index)
    words = ("plate", "well") if has_map else ("plate", "well", *_TREATMENT_WORDS)
    fields = {WELL_FIELDS[word]: found[WELL_FIELDS[word]] for word in words if WELL_FIELDS[word] in found}
    sites = read_columns(texts, fields)
    names = texts[found[WELL_FIELDS["site"]]]
    matches = [_SITE.fullmatch(name) for name in names]
    wrong = np.flatnonzero([match is None for match in matches])
    if len(wrong):
        raise DataError(
            f"{index}: {names.name} has no number in {len(wrong):,} of {len(names):,} rows, first in row "
            f"{wrong[0] + 1}: found {names.iloc[wrong[0]]!r}, expected as 2, s2 or f02.",
            code="META003",
        )
    sites["Metadata_Well"] = sites["Metadata_Well"].map(name_well)
    sites["Metadata_Site"] = [int(match[1]) for match in matches if match is not None]
    if not has_map and "Metadata_Compound" not in sites and label:
        sites = sites.assign(**read_labels(texts[label], index))
    return sites


def read_labels(labels: pd.Series, index: Path) -> dict[str, pd.Series]:
    """Take the labels that DeepProfiler learns for compounds, and apart where all are ``compound_concentration`` (µM).

    Returns
    -------
    dict
        ``Metadata_Compound``, and ``Metadata_Concentration`` where it is told; the log says how they were read.
    """
    parts = labels.str.extract(f"^{_CLASS}$")
    if parts.notna().all(axis=None):
        numbers = pd.to_numeric(parts["concentration"]).astype("float64")
        logger.warning("%s: %s is read as compound_concentration (µM).", index, labels.name)
        return {"Metadata_Compound": parts["compound"], "Metadata_Concentration": numbers}
    logger.warning("%s: %s is read as the compound; no concentration is told.", index, labels.name)
    return {"Metadata_Compound": labels}


def _drop_copies(sites: pd.DataFrame, index: Path) -> pd.DataFrame:
    """Count rows that say the same of the same site once; refuse those that do not."""
    once = sites.drop_duplicates(ignore_index=True)
    if len(once) < len(sites):
        logger.warning("%s: %s rows repeat another and are not counted.", index, f"{len(sites) - len(once):,}")
    twice = once[once.duplicated(SITE, keep=False)]
    if len(twice):
        plate, well, site = twice.iloc[0][SITE]
        raise DataError(
            f"{index}: {len(twice):,} rows share their site with another and differ from it, first: {plate} {well} "
            f"s{site}. Expected one row a site.",
            code="META005",
        )
    return once


def _find_images(sites: pd.DataFrame, channels: Sequence[str], images: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not images.is_dir():
        raise DataError(f"{images}: no such folder. Expected the project's images.", code="IMG001")
    root = Root(images)
    paths = {
        f"{PATH_PREFIX}{channel}": [_find_image(name, images, root) for name in sites[f"{PATH_PREFIX}{channel}"]]
        for channel in channels
    }
    absent: np.ndarray = np.array([[path == "" for path in column] for column in paths.values()]).T
    incomplete = np.asarray(absent.any(axis=1))
    reasons = [
        "no image file: " + ", ".join(name for name, gone in zip(channels, row, strict=True) if gone)
        for row in absent[incomplete]
    ]
    left_out = sites.loc[incomplete, SITE].assign(reason=reasons).sort_values(SITE, kind="stable", ignore_index=True)
    return sites.assign(**paths)[~incomplete].reset_index(drop=True), left_out


def _find_image(name: str, images: Path, root: Root) -> str:
    """Find an image by its path below the images; ``""``: it is not there."""
    relative = root.split(name)
    folder = images / relative.parent
    return str((folder / relative.name).absolute()) if root.has_file(folder, relative.name) else ""
