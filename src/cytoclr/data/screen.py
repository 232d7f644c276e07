"""Tables that describe a screen: what is in each well, and which mechanism a compound has."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.columns import MECHANISM_FIELDS, read_fields
from cytoclr.errors import DataError
from cytoclr.tables import MECHANISMS, TREATMENT, WELL, check_table, treatment_names

__all__ = ["check_wells", "describe_wells", "read_mechanisms"]

logger = logging.getLogger(__name__)


def read_mechanisms(path: Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the table of mechanisms: which mechanism a compound has, at one concentration or at all.

    Parameters
    ----------
    path
        Parquet if its name ends so, else CSV, plain or gzipped. A row without a concentration, and every row of a
        table that has no such column, holds for all concentrations of its compound that have no row of their own.
    columns
        The table's own name of ``compound``, ``concentration`` (in µM) or ``mechanism``, as
        ``{"compound": "Metadata_pert_iname"}``. What is not named is looked for under our name, ``compound``,
        ``concentration``, and ``moa`` or ``mechanism``, with any of the prefixes in use (``Metadata_``,
        ``Image_Metadata_``, none), in any case.

    Returns
    -------
    pandas.DataFrame
        ``Metadata_Compound``, ``Metadata_Concentration`` (µM; NaN: all) and ``Metadata_MoA``, in the table's order.

    Raises
    ------
    SettingsError
        `columns` has an unknown word.
    DataError
        The file is missing or not of its kind; a column is missing, ambiguous or named twice; there is no row; a
        compound or a mechanism is empty; a concentration is no number; a treatment stands twice, or a compound twice
        without a concentration.
    """
    table = read_fields(path, MECHANISM_FIELDS, told=columns or {}, needed=("compound", "mechanism"))
    if table.empty:
        raise DataError(
            f"{path}: the mechanism table has no rows. Expected one row a treatment: compound, concentration, "
            "mechanism; or leave the table out to run without scores."
        )
    if "Metadata_Concentration" not in table:
        logger.warning(
            "%s: no column of the concentration, so a mechanism holds for all concentrations of its compound. If the "
            "column has another name, name it in columns, as concentration: NAME.",
            path,
        )
        table = table.assign(Metadata_Concentration=np.nan)
    return check_table(table[[column.name for column in MECHANISMS.columns]], MECHANISMS, str(path))


def describe_wells(
    wells: pd.DataFrame,
    *,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
    source: str,
) -> pd.DataFrame:
    """Add batch and control type to a table with plates and compounds.

    Parameters
    ----------
    wells
        Any table with ``Metadata_Plate`` and ``Metadata_Compound``.
    controls, positive_controls
        Compounds of untreated wells, and of positive controls.
    batch_pattern
        Regular expression; its first group, found in a plate's name, is the batch.

    Raises
    ------
    DataError
        The pattern does not fit a plate's name.
    """
    batches = {}
    for plate in wells["Metadata_Plate"].unique():
        match = re.search(batch_pattern, plate)
        if match is None or not match.groups():
            raise DataError(
                f"{source}: the batch of plate {plate!r} is not found by batch_pattern {batch_pattern!r}. "
                "Set screen.batch_pattern: its first group is the batch; '^(.*)$' makes each plate one."
            )
        batches[plate] = match.group(1)
    compounds = wells["Metadata_Compound"]
    kinds = pd.Series("trt", index=wells.index, dtype="str")
    kinds = kinds.mask(compounds.isin(positive_controls), "poscon").mask(compounds.isin(controls), "negcon")
    return wells.assign(Metadata_Batch=wells["Metadata_Plate"].map(batches).astype("str"), Metadata_control_type=kinds)


def check_wells(screen: pd.DataFrame, source: str) -> None:
    """Refuse a screen in which a well has two treatments.

    Raises
    ------
    DataError
        Names the first such well and its treatments.
    """
    several = screen.drop_duplicates([*WELL, *TREATMENT])
    twice = several[several.duplicated(WELL, keep=False)]
    if twice.empty:
        return
    plate, well = twice.iloc[0][WELL]
    here = twice[(twice["Metadata_Plate"] == plate) & (twice["Metadata_Well"] == well)]
    num_wells = len(twice.drop_duplicates(WELL))
    raise DataError(
        f"{source}: {num_wells} well{'s have' if num_wells > 1 else ' has'} more than one treatment, first: "
        f"{plate} {well} ({' and '.join(treatment_names(here))}). Expected one compound at one concentration a well."
    )
