"""Profiles in folders, as the Cell Painting Gallery has them: a file a plate, and plate maps beside."""

import logging
import secrets
import shutil
from pathlib import Path

import pandas as pd

from cytoclr.data.crops import plate_stem
from cytoclr.data.writers.profile_table import order_columns
from cytoclr.errors import MachineError
from cytoclr.spreadsheets import write_csv
from cytoclr.storage import replace_folder, write_table
from cytoclr.tables import WELL_PROFILES, check_table

__all__ = ["write_gallery"]

logger = logging.getLogger(__name__)

#: The Gallery's names of what it calls otherwise. Its `mmoles_per_liter` has µM in some projects and mM in others: so a
#: concentration keeps a name that says its unit.
_NAMES = {"Metadata_Compound": "Metadata_broad_sample", "Metadata_Concentration": "Metadata_concentration_uM"}
#: Columns of a plate map: what pycytominer's annotate puts `Metadata_` before.
_MAP = {
    "Metadata_Well": "well_position",
    "Metadata_broad_sample": "broad_sample",
    "Metadata_concentration_uM": "concentration_uM",
    "Metadata_control_type": "control_type",
}


def write_gallery(folder: Path, wells: pd.DataFrame) -> None:
    """Write wells as the Cell Painting Gallery lays them out; the folder appears whole or not at all.

    Parameters
    ----------
    folder
        A folder that is not there yet.
    wells
        The columns of `WELL_PROFILES`, features, and what else is known.

    Raises
    ------
    DataError
        A column is missing, or a well stands twice.
    MachineError
        The place cannot be written.

    Notes
    -----
    ``workspace/profiles/BATCH/PLATE/PLATE.parquet`` has the wells of a plate;
    ``workspace/metadata/platemaps/BATCH/barcode_platemap.csv`` names the map of each plate, and ``platemap/MAP.txt``
    (tab-separated) says what was in its wells: those that have a profile. A batch or a plate whose name is no safe name
    of a file is called otherwise there (`plate_stem`); columns have its name as it is.

    References
    ----------
    https://broadinstitute.github.io/cellpainting-gallery/data_structure.html
    """
    checked = order_columns(check_table(wells, WELL_PROFILES, "well profiles")).rename(columns=_NAMES)
    unfinished = folder.with_name(f".{folder.name[:80]}-{secrets.token_hex(4)}.tmp")
    try:
        unfinished.mkdir(parents=True)
        changed = sum(
            _write_batch(unfinished / "workspace", str(batch), rows)
            for batch, rows in checked.groupby("Metadata_Batch", sort=True)
        )
        replace_folder(unfinished, folder)
    except OSError as error:
        raise MachineError(f"{folder}: could not be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if changed:
        logger.warning(
            "%s: an apostrophe was put before %d texts of plate maps that look like formulas. The profiles, which are "
            "Parquet, have them as they are.",
            folder,
            changed,
        )


def _write_batch(workspace: Path, batch: str, wells: pd.DataFrame) -> int:
    """Write the profiles and plate maps of a batch; return how many cells of its maps were changed."""
    maps = workspace / "metadata" / "platemaps" / plate_stem(batch)
    changed, barcodes = 0, []
    for plate, rows in wells.groupby("Metadata_Plate", sort=True):
        stem = plate_stem(str(plate))
        write_table(workspace / "profiles" / plate_stem(batch) / stem / f"{stem}.parquet", rows.reset_index(drop=True))
        layout = rows[list(_MAP)].rename(columns=_MAP)
        layout.insert(0, "plate_map_name", stem)
        changed += write_csv(maps / "platemap" / f"{stem}.txt", layout, separator="\t")
        barcodes.append({"Assay_Plate_Barcode": plate, "Plate_Map_Name": stem})
    return changed + write_csv(maps / "barcode_platemap.csv", pd.DataFrame(barcodes))
