"""One table for pycytominer and copairs: metadata first, features after."""

import logging
from pathlib import Path

import pandas as pd

from cytoclr.errors import SettingsError
from cytoclr.spreadsheets import write_csv
from cytoclr.storage import write_table
from cytoclr.tables import feature_columns

__all__ = ["order_columns", "write_profile_table"]

logger = logging.getLogger(__name__)


def write_profile_table(path: Path, profiles: pd.DataFrame) -> None:
    """Write profiles as pycytominer reads them, as Parquet or CSV.

    Parameters
    ----------
    path
        By its ending: ``.parquet``, ``.csv`` or ``.csv.gz``.
    profiles
        Metadata and features, in any order.

    Raises
    ------
    SettingsError
        The ending is another.
    MachineError
        The place cannot be written.

    Notes
    -----
    pycytominer finds features by their prefix: ``Cells_``, ``Cytoplasm_``, ``Nuclei_``. A run's have ``Cells_``; others
    must be named to it. In CSV, texts that a spreadsheet would take for formulas are given an apostrophe, which the log
    counts; Parquet has them as they are.
    """
    table = order_columns(profiles)
    if path.name.endswith(".parquet"):
        write_table(path, table)
    elif path.name.endswith((".csv", ".csv.gz")):
        if changed := write_csv(path, table):
            logger.warning(
                "%s: an apostrophe was put before %d texts that look like formulas: they read back with it. "
                "Parquet keeps them as they are.",
                path,
                changed,
            )
    else:
        raise SettingsError(f"{path}: expected a name that ends in .parquet, .csv or .csv.gz.")


def order_columns(profiles: pd.DataFrame) -> pd.DataFrame:
    """Put metadata before features; both keep their order."""
    features = feature_columns(profiles)
    known = set(features)
    return profiles[[*(name for name in profiles.columns if name not in known), *features]]
