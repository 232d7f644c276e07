"""The profile stage: from embeddings, or from another program's wells, to normalised profiles."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from cytoclr.config import ProfileSettings
from cytoclr.profiles.aggregate import aggregate_cells, aggregate_wells, select_finite
from cytoclr.profiles.normalise import fit_normalisation
from cytoclr.tables import WELL, WELL_PROFILES, check_table

__all__ = ["Profiles", "profile", "profile_wells"]


@dataclass(frozen=True)
class Profiles:
    """Normalised profiles, and what was counted on the way.

    Attributes
    ----------
    site, well, treatment
        One row a site (None where only wells were given), a well, a treatment; all normalised. Controls included.
    report
        Numbers, what was left out, and the report of the normalisation. Plain JSON values.
    """

    site: pd.DataFrame | None
    well: pd.DataFrame
    treatment: pd.DataFrame
    report: dict[str, Any]


def profile(embeddings: pd.DataFrame, settings: ProfileSettings) -> Profiles:
    """Make profiles of sites, wells and treatments from the embeddings of cells.

    Cells with gaps are left out (`select_finite`); the others are aggregated to sites and wells; the
    normalisation is fitted on the control wells and applied to wells and sites; normalised wells are aggregated
    to treatments.

    Parameters
    ----------
    embeddings
        One row a cell: the columns of `cytoclr.tables.EMBEDDINGS` and features.
    settings
        Aggregate and normalisation.

    Raises
    ------
    DataError
        The table is not as declared, or its controls do not allow the normalisation.
    """
    cells, left_out = select_finite(embeddings, "embeddings")
    sites = aggregate_cells(cells, "site", statistic=settings.aggregate)
    wells = aggregate_cells(cells, "well", statistic=settings.aggregate)
    about = {"num_cells": len(cells), "cells_left_out": left_out["rows_left_out"]}
    return _normalise(sites, wells, settings, {**about, "features_left_out": left_out["features_left_out"]})


def profile_wells(wells: pd.DataFrame, settings: ProfileSettings) -> Profiles:
    """Make profiles from a table that has one row a well already, as CellProfiler's per-well means.

    Parameters
    ----------
    wells
        The columns of `cytoclr.tables.WELL_PROFILES` and features. Wells with gaps are left out.
    settings
        Normalisation; the aggregate is that of wells to treatments.

    Raises
    ------
    DataError
        The table is not as declared, or its controls do not allow the normalisation.
    """
    wells = check_table(wells, WELL_PROFILES, "well profiles").sort_values(WELL)
    whole, left_out = select_finite(wells, "well profiles")
    about = {"wells_left_out": left_out["rows_left_out"], "features_left_out": left_out["features_left_out"]}
    return _normalise(None, whole, settings, about)


def _normalise(
    sites: pd.DataFrame | None, wells: pd.DataFrame, settings: ProfileSettings, about: dict[str, Any]
) -> Profiles:
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
        "normalisation": normaliser.report,
    }
    return Profiles(normal_sites, normal_wells, treatments, report)
