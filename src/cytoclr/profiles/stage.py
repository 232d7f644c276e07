"""The profile stage: from embeddings, or from another program's table, to normalised profiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cytoclr.config import ProfileSettings
from cytoclr.errors import DataError, list_some
from cytoclr.profiles.aggregate import aggregate_cells, aggregate_rows, aggregate_wells, select_finite
from cytoclr.profiles.normalise import Normaliser, fit_normalisation
from cytoclr.tables import FEW_CELLS, NUM_CELLS, WELL

__all__ = ["Profiles", "list_warnings", "profile", "profile_wells"]


@dataclass(frozen=True)
class Profiles:
    """Normalised profiles, what they were made from, and what was counted on the way.

    Attributes
    ----------
    site, well, treatment
        One row a site (None where only wells were given), a well, a treatment; all normalised. Controls included.
    unnormalised
        Wells before normalisation.
    normaliser
        What was learnt from the controls.
    report
        Numbers, what was left out, and the report of the normalisation. Plain JSON values.
    """

    site: pd.DataFrame | None
    well: pd.DataFrame
    treatment: pd.DataFrame
    unnormalised: pd.DataFrame
    normaliser: Normaliser
    report: dict[str, Any]


def profile(embeddings: pd.DataFrame, settings: ProfileSettings) -> Profiles:
    """Make profiles of sites, wells and treatments from the embeddings of cells.

    Cells or features with gaps are left out (`select_finite`); the other cells are aggregated to sites and wells;
    wells of fewer than `min_cells_per_well` are flagged; the normalisation is fitted on the other control wells and
    applied to wells and sites; normalised wells are aggregated to treatments.

    Parameters
    ----------
    embeddings
        One row a cell: the columns of `cytoclr.tables.EMBEDDINGS` and features.
    settings
        Aggregate, normalisation, least number of cells.

    Raises
    ------
    DataError
        The table is not as declared, or its controls do not allow the normalisation.
    """
    cells, left_out = select_finite(embeddings, "embeddings")
    sites = aggregate_cells(cells, "site", statistic=settings.aggregate)
    wells = aggregate_cells(cells, "well", statistic=settings.aggregate)
    about = {"num_cells": len(cells), "cells_left_out": left_out["rows_left_out"], **left_out}
    return _normalise(sites, wells, settings, about)


def profile_wells(table: pd.DataFrame, settings: ProfileSettings, *, normaliser: Normaliser | None = None) -> Profiles:
    """Make profiles from a table of another program, as CellProfiler's per-well means or its single cells.

    Parameters
    ----------
    table
        The columns of `cytoclr.tables.WELL_PROFILES` and features; a row may be a well, a site or a cell. Rows or
        features with gaps are left out (`select_finite`), the rows of a well are aggregated.
    settings
        Aggregate, normalisation, least number of cells (where the table tells their number).
    normaliser
        One fitted before, to be applied as it is; None: fitted on this table's controls.

    Raises
    ------
    DataError
        The table is not as declared, or its controls do not allow the normalisation.
    """
    whole, left_out = select_finite(table, "profiles")
    wells = aggregate_rows(whole, statistic=settings.aggregate)
    about = {"num_rows": len(whole), **left_out}
    return _normalise(None, wells, settings, about, normaliser)


def list_warnings(report: Mapping[str, Any]) -> list[str]:
    """Say in sentences what a reader of the profiles must know, from their `Profiles.report`."""
    warnings = []
    if report["rows_left_out"]:
        warnings.append(
            f"{report['rows_left_out']:,} rows have gaps and were left out, of {len(report['rows_left_out_of']):,} "
            f"wells: {list_some(report['rows_left_out_of'])}."
        )
    if report["features_left_out"]:
        features = report["features_left_out"]
        warnings.append(f"{len(features)} features have gaps and were left out: {list_some(features)}.")
    few = report["wells_with_few_cells"]
    if few:
        least = report["min_cells_per_well"]
        why = f"have fewer than {least} cells" if least > 1 else "are flagged as having too few cells"
        warnings.append(f"{len(few)} wells {why} and take no part: {list_some(few)}.")
    return [*warnings, *report["normalisation"]["warnings"]]


def _normalise(
    sites: pd.DataFrame | None,
    wells: pd.DataFrame,
    settings: ProfileSettings,
    about: dict[str, Any],
    normaliser: Normaliser | None = None,
) -> Profiles:
    wells, few = _flag_few_cells(wells, settings.min_cells_per_well)
    if normaliser is None:
        normaliser = fit_normalisation(wells, settings.normalise, regularisation=settings.regularisation)
    normal_sites = None if sites is None else normaliser.apply(sites)
    normal_wells = normaliser.apply(wells)
    treatments = aggregate_wells(normal_wells, statistic=settings.aggregate)
    report = {
        **about,
        "num_sites": None if sites is None else len(sites),
        "num_wells": len(wells),
        "num_treatments": len(treatments),
        "aggregate": settings.aggregate,
        "min_cells_per_well": settings.min_cells_per_well,
        "wells_with_few_cells": few,
        "normalisation": dict(normaliser.report),
    }
    return Profiles(normal_sites, normal_wells, treatments, wells, normaliser, report)


def _flag_few_cells(wells: pd.DataFrame, least: int) -> tuple[pd.DataFrame, list[str]]:
    """Mark wells of fewer cells than asked for, beside those marked already; name them all."""
    marked = wells[FEW_CELLS].astype(bool) if FEW_CELLS in wells else pd.Series(False, index=wells.index)
    if least > 1:
        if NUM_CELLS not in wells:
            raise DataError(
                f"profiles: profile.min_cells_per_well is {least}, but the table does not tell the number of cells of "
                f"a well ({NUM_CELLS}). Add it, or set profile.min_cells_per_well to 1."
            )
        marked |= wells[NUM_CELLS] < least
    if marked.all():
        raise DataError(
            f"profiles: all {len(wells):,} wells have too few cells, by profile.min_cells_per_well ({least}) or by "
            f"{FEW_CELLS}. Lower the one or correct the other."
        )
    names = [" ".join(pair) for pair in wells.loc[marked, WELL].astype("str").to_numpy()]
    return (wells.assign(**{FEW_CELLS: marked}) if least > 1 or names else wells), names
