"""Tables that describe a screen: what is in each well, and which mechanism a compound has."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.columns import MECHANISM_FIELDS, check_concentrations, how_to_tell, is_empty, read_fields
from cytoclr.errors import DataError, list_some
from cytoclr.tables import CONTROL_TYPES, MECHANISMS, TREATMENT, WELL, check_table, treatment_names

__all__ = ["check_wells", "describe_wells", "read_mechanisms", "settle_wells"]

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
            "column has another name, tell it: %s.",
            path,
            how_to_tell("concentration"),
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
                "Set it, as --set 'screen.batch_pattern=^(.*)$' (screen.batch_pattern: its first group is the batch; "
                f"'^(.*)$' makes each plate one), or name the batch's column: {how_to_tell('batch')}."
            )
        batches[plate] = match.group(1)
    compounds = wells["Metadata_Compound"]
    kinds = pd.Series("trt", index=wells.index, dtype="str")
    kinds = kinds.mask(compounds.isin(positive_controls), "poscon").mask(compounds.isin(controls), "negcon")
    return wells.assign(Metadata_Batch=wells["Metadata_Plate"].map(batches).astype("str"), Metadata_control_type=kinds)


def settle_wells(
    wells: pd.DataFrame, *, controls: Collection[str], names: Mapping[str, str], source: str
) -> pd.DataFrame:
    """Settle what a table says of its treatments: what goes without saying is filled in, the rest is checked.

    A well is empty where it has no compound or its control type says ``empty``: neither treated nor a control. One
    marked ``negcon`` that names no compound (as in JUMP's pilot) is a control, and is called by its mark. An untreated
    well has no concentration: empty there is nought.

    Parameters
    ----------
    wells
        Rows, indexed by their number from 0, with ``Metadata_Compound``, perhaps ``Metadata_Concentration`` and
        ``Metadata_control_type``, as `cytoclr.data.columns.read_columns` reads them.
    controls
        Compounds of untreated wells.
    names
        What the columns are called in the file, for the messages.
    source
        The file.

    Returns
    -------
    pandas.DataFrame
        The same rows. Empty wells have the compound ``""`` (and the concentration nought and the type ``trt``, where
        there are such columns).

    Raises
    ------
    DataError
        All wells are empty; or, in one that is not, a concentration is empty or no number of µM, or a control type is
        not known.
    """
    told = {name: names.get(name, name) for name in (*TREATMENT, "Metadata_control_type")}
    compounds = wells["Metadata_Compound"].str.strip()
    types = wells.get("Metadata_control_type", pd.Series("", index=wells.index))
    nameless = (compounds == "") & (types == "negcon")
    if nameless.any():
        logger.warning(
            "%s: %s of %s rows %s marked negcon and %s no %s; it is called negcon.",
            source,
            f"{nameless.sum():,}",
            f"{len(wells):,}",
            *(("are", "have") if nameless.sum() > 1 else ("is", "has")),
            told["Metadata_Compound"],
        )
    compounds = wells["Metadata_Compound"].mask(nameless, "negcon")
    empty = (compounds.str.strip() == "") | (types == "empty")
    if empty.all():
        number = len(wells.drop_duplicates(WELL))
        raise DataError(
            f"{source}: none of its {number:,} wells has a compound ({told['Metadata_Compound']} is empty, or the well "
            f"marked so). Expected the compounds; if another column has them, name it: {how_to_tell('compound')}."
        )
    settled: dict[str, pd.Series] = {"Metadata_Compound": compounds.mask(empty, "")}
    if "Metadata_control_type" in wells:
        _check_control_types(types[~empty], told["Metadata_control_type"], source)
        settled["Metadata_control_type"] = types.mask(empty, "trt")
    if "Metadata_Concentration" in wells:
        doses = wells["Metadata_Concentration"]
        untreated = compounds.isin(controls) | (types == "negcon")
        doses = doses.mask(empty | (untreated & is_empty(doses)), 0.0)
        _check_doses(doses[~empty], wells.assign(Metadata_Compound=compounds), told["Metadata_Concentration"], source)
        settled["Metadata_Concentration"] = pd.to_numeric(doses).astype("float64")
    return wells.assign(**settled)


def _check_control_types(types: pd.Series, name: str, source: str) -> None:
    unknown = types[~types.isin(CONTROL_TYPES)]
    if len(unknown):
        counted = [
            f"{word or 'nothing'} ({number:,} row{'s' if number > 1 else ''})"
            for word, number in unknown.value_counts().items()
        ]
        raise DataError(
            f"{source}: {name} says {list_some(counted)} in {len(unknown):,} of {len(types):,} rows, first in row "
            f"{unknown.index[0] + 1}. Expected {', '.join(CONTROL_TYPES)} or empty; rename them, or name another "
            f"column: {how_to_tell('control_type')}."
        )


def _check_doses(doses: pd.Series, wells: pd.DataFrame, name: str, source: str) -> None:
    check_concentrations(doses, name, source)
    gaps = doses[is_empty(doses)]
    if len(gaps):
        first = gaps.index[0]
        plate, well, compound = wells.loc[first, [*WELL, "Metadata_Compound"]]
        raise DataError(
            f"{source}: {name} is empty in {len(gaps):,} of {len(doses):,} rows, first in row {first + 1} "
            f"({plate} {well} {compound}). Expected a number of µM; where {compound} is untreated, say so: "
            f"--set 'screen.controls=[{compound}]'."
        )


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
