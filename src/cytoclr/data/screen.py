"""Tables that describe a screen: what is in each well, and which mechanism a compound has."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.columns import (
    MECHANISM_FIELDS,
    WELL_FIELDS,
    check_concentrations,
    find_columns,
    how_to_tell,
    is_empty,
    read_fields,
    read_with_fields,
)
from cytoclr.errors import DataError, list_some
from cytoclr.tables import (
    CONTROL_TYPES,
    MECHANISMS,
    SCREEN,
    SITE,
    TREATMENT,
    WELL,
    WELL_METADATA,
    check_table,
    treatment_names,
)

__all__ = [
    "check_wells",
    "describe_wells",
    "join_plate_map",
    "name_well",
    "read_mechanisms",
    "settle_wells",
]

logger = logging.getLogger(__name__)

#: Plates have up to 32 rows (A to AF) and 48 columns.
_NUM_ROWS, _NUM_COLUMNS = 32, 48
_WELL_NAME = re.compile(
    r"\s*(?:r(?P<number>\d+)\s*c(?P<beside>\d+)|(?P<row>[a-z]{1,2})\s*[-_]?\s*(?P<column>\d+))\s*", re.I
)


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
            "mechanism; or leave the table out to run without scores.",
            code="META001",
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
                f"'^(.*)$' makes each plate one), or name the batch's column: {how_to_tell('batch')}.",
                code="META011",
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
            f"marked so). Expected the compounds; if another column has them, name it: {how_to_tell('compound')}.",
            code="META003",
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
            f"column: {how_to_tell('control_type')}.",
            code="META003",
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
            f"--set 'screen.controls=[{compound}]'.",
            code="META003",
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
        f"{plate} {well} ({' and '.join(treatment_names(here))}). Expected one compound at one concentration a well.",
        code="META004",
    )


def name_well(text: str) -> str:
    """Name a well as all tables here do: the row's letters, and the column in two digits.

    A name that is no well of a plate of up to 1,536 stays as it is.

    >>> [name_well(text) for text in ("b2", "B002", "B - 2", "r02c03", "AA1", "B49", "blank")]
    ['B02', 'B02', 'B02', 'B03', 'AA01', 'B49', 'blank']
    """
    match = _WELL_NAME.fullmatch(text)
    if match is None:
        return text
    row = int(match["number"]) if match["number"] else _count_row(match["row"])
    column = int(match["beside"] or match["column"])
    if not (1 <= row <= _NUM_ROWS and 1 <= column <= _NUM_COLUMNS):
        return text
    letters = chr(64 + row) if row <= 26 else f"A{chr(64 + row - 26)}"
    return f"{letters}{column:02d}"


def _count_row(letters: str) -> int:
    count = 0
    for letter in letters.upper():
        count = 26 * count + ord(letter) - 64
    return count


def _name_wells(wells: pd.Series) -> pd.Series:
    texts = wells.astype("str")
    return texts.map({text: name_well(text) for text in texts.unique()}).astype("str")


def join_plate_map(
    sites: pd.DataFrame,
    metadata: Path | None,
    *,
    columns: Mapping[str, str],
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
    source: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give every site what the plate map says of its well: all that a screen table has is then there.

    Parameters
    ----------
    sites
        ``Metadata_Plate``, ``Metadata_Well`` and ``Metadata_Site``, and what else the reader found (paths). It may
        have ``Metadata_Compound``, ``Metadata_Concentration``, ``Metadata_Batch`` and ``Metadata_control_type`` of
        its own, which stand where there is no plate map.
    metadata
        The plate map, CSV or Parquet (see `cytoclr.data.profiles.read_wells`). One without a column of the plate holds
        for all plates. None: the compound is ``unknown`` unless the sites tell it.
    columns
        The map's own names of the fields.
    controls, positive_controls
        Compounds of untreated wells, and of positive controls; a control type that is told comes first.
    batch_pattern
        Regular expression; its first group, found in a plate's name, is the batch. A batch that is told comes first.
    source
        Where the sites came from, for the messages.

    Returns
    -------
    sites
        A screen table (`cytoclr.tables.SCREEN`) sorted by plate, well and site; wells are named by `name_well`.
    left_out
        One row a site in an empty well, with the reason.

    Raises
    ------
    SettingsError
        `columns` has an unknown word.
    DataError
        The map is not one; a well of the images is not on it (META006); all are empty; the batch of a plate is not
        told; a well has two treatments; a site stands twice.

    Notes
    -----
    Wells of the map that have no images are counted in the log (META007), and that there is no map at all (META013).
    """
    named = sites.assign(Metadata_Well=_name_wells(sites["Metadata_Well"])).reset_index(drop=True)
    if metadata is not None:
        joined = _join_map(named, _read_map(metadata, columns, controls), metadata, source)
    elif "Metadata_Compound" in named:
        joined = settle_wells(
            named if "Metadata_Concentration" in named else named.assign(Metadata_Concentration=0.0),
            controls=controls,
            names={},
            source=source,
        )
    else:
        logger.warning(
            "%s: no plate map, so what is in the wells is not known: all are called unknown, and none is a control. "
            "Name the map's file as screen.metadata. (META013)",
            source,
        )
        joined = named.assign(Metadata_Compound="unknown", Metadata_Concentration=0.0)
    empty = joined["Metadata_Compound"] == ""
    if empty.all():
        raise DataError(
            f"{source}: all of its {len(joined):,} sites lie in empty wells: none has a compound. Expected some; if "
            f"another column has the compounds, name it: {how_to_tell('compound')}.",
            code="META003",
        )
    left_out = joined.loc[empty, SITE].assign(reason="empty well on the plate map").reset_index(drop=True)
    if len(left_out):
        logger.warning(
            "%s: %s of %s sites lie in empty wells and are left out.", source, f"{len(left_out):,}", f"{len(joined):,}"
        )
    screen = _describe_told_wells(
        joined[~empty],
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=source,
    )
    screen = check_table(screen, SCREEN, source)
    check_wells(screen, source)
    first = [*WELL_METADATA, "Metadata_Site"]
    screen = screen[[*first, *(name for name in screen.columns if name not in first)]]
    return screen.sort_values(SITE, kind="stable", ignore_index=True), left_out


def _describe_told_wells(
    wells: pd.DataFrame,
    *,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
    source: str,
) -> pd.DataFrame:
    """Do as `describe_wells`, but what a table says of batches and control types stands."""
    told = {name: wells[name] for name in ("Metadata_Batch", "Metadata_control_type") if name in wells}
    return describe_wells(
        wells,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=r"^(.*)$" if "Metadata_Batch" in told else batch_pattern,
        source=source,
    ).assign(**told)


def _read_map(path: Path, columns: Mapping[str, str], controls: Sequence[str]) -> pd.DataFrame:
    """Read a plate map, its wells under their names here; without ``Metadata_Plate`` where it has no such column."""
    from cytoclr.data.profiles import read_wells  # it imports this module

    frame = read_with_fields(path, WELL_FIELDS, told=columns)
    found = find_columns(frame, WELL_FIELDS, told=columns, needed=("well", "compound"), path=path)
    has_plates = WELL_FIELDS["plate"] in found
    # read_wells wants plates: where one layout holds for all, each well is a plate of its own.
    told = columns if has_plates else {**columns, "plate": found[WELL_FIELDS["well"]]}
    wells = read_wells(path, columns=told, controls=controls, needs_doses=False)
    wells = wells.assign(Metadata_Well=_name_wells(wells["Metadata_Well"]))
    if not has_plates:
        wells = wells.assign(Metadata_Plate="all plates")
    check_wells(wells, str(path))  # once more: B2 and B02 are the same well
    wells = wells.drop_duplicates(WELL, ignore_index=True)
    return wells if has_plates else wells.drop(columns="Metadata_Plate")


def _join_map(sites: pd.DataFrame, wells: pd.DataFrame, path: Path, source: str) -> pd.DataFrame:
    """Join every site's well; refuse wells that are not on the map, count those that have no site."""
    key = [name for name in WELL if name in wells]
    imaged, mapped = (pd.MultiIndex.from_frame(table[key].drop_duplicates()) for table in (sites, wells))
    unknown = imaged[~imaged.isin(mapped)]
    if len(unknown):
        plates = ""
        if "Metadata_Plate" in key:
            ours, theirs = (list(table["Metadata_Plate"].unique()) for table in (sites, wells))
            plates = f" Plates of the images: {list_some(ours)}; of the map: {list_some(theirs)}."
        raise DataError(
            f"{source}: {len(unknown):,} of {len(imaged):,} wells are not on the plate map {path}, first: "
            f"{' '.join(map(str, unknown[0]))}. Expected every well of the images, under the same names; a well in "
            f"which is nothing has an empty compound.{plates}",
            code="META006",
        )
    filled = pd.MultiIndex.from_frame(wells.loc[wells["Metadata_Compound"] != "", key])
    without = filled[~filled.isin(imaged)]
    if len(without):
        logger.warning(
            "%s: %s of %s wells of the plate map %s have no images, first: %s. (META007)",
            source,
            f"{len(without):,}",
            f"{len(filled):,}",
            path,
            " ".join(map(str, without[0])),
        )
    about = {name for name in wells.columns if name not in WELL} | set(TREATMENT)
    rest = sites[[name for name in sites.columns if name not in about]]
    return rest.merge(wells, on=key, how="left", validate="m:1")
