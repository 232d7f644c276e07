"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cytoclr.config import AugmentSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError
from cytoclr.mechanisms import join_mechanisms
from cytoclr.tables import (
    LOCATED_CELLS,
    MECHANISM,
    MECHANISMS,
    TREATMENT,
    TREATMENT_PROFILES,
    WELL_PROFILES,
    check_table,
    feature_matrix,
    is_control,
)

__all__ = [
    "ReportInputs",
    "check_inputs",
    "find_mechanisms",
    "leave_out_untreated",
    "read_finite",
    "round_treatment",
]


@dataclass(frozen=True)
class ReportInputs:
    """All that a report is made of: the tables and files of a run.

    `scores` is ``scores.json`` (``{"nsc": None, "reason": …}`` without mechanisms), `matches` one row per features,
    score and treatment (or well, if the protocol is of wells), `activity` one per features and treatment, `metrics` the
    lines of ``metrics.jsonl``, `views` the bytes of ``views.webp`` (None: of an older run) and `augment` what they
    differ by. Row i of `cells` is crop i of `crops`, and row i of `embeddings`, where they are given. `counted` is
    ``wells.parquet``: the cells of every well that was to be cut, kept and left out, of none too.
    """

    wells: pd.DataFrame
    treatments: pd.DataFrame
    cells: pd.DataFrame
    crops: CropStore
    scores: Mapping[str, Any]
    provenance: Mapping[str, Any]
    settings_text: str
    matches: pd.DataFrame | None = None
    activity: pd.DataFrame | None = None
    mechanisms: pd.DataFrame | None = None
    embeddings: pd.DataFrame | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    views: bytes | None = None
    augment: AugmentSettings | None = None
    warnings: Sequence[str] = ()
    left_out: Sequence[str] = ()
    counted: pd.DataFrame | None = None


def leave_out_untreated(treatments: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """Leave the untreated out of treatments: profiles are measured from them, so theirs points nowhere."""
    untreated = wells.loc[is_control(wells), TREATMENT].drop_duplicates()
    marked = treatments[TREATMENT].merge(untreated, on=TREATMENT, how="left", indicator=True)["_merge"]
    return treatments[(marked == "left_only").to_numpy()]


def check_inputs(inputs: ReportInputs) -> ReportInputs:
    """Check the tables, and that cells, embeddings and crops belong together.

    Raises
    ------
    DataError
        A table lacks a column, or cells, embeddings and crops differ in number.
    """
    checked = replace(
        inputs,
        wells=check_table(inputs.wells, WELL_PROFILES, "well profiles"),
        treatments=check_table(inputs.treatments, TREATMENT_PROFILES, "treatment profiles"),
        cells=check_table(inputs.cells, LOCATED_CELLS, "cells"),
        mechanisms=None if inputs.mechanisms is None else check_table(inputs.mechanisms, MECHANISMS, "mechanisms"),
    )
    if len(inputs.cells) != len(inputs.crops):
        raise DataError(
            f"the cells table has {len(inputs.cells):,} rows, the crops are {len(inputs.crops):,}. "
            "Expected a row a crop; run the crop stage again."
        )
    if inputs.embeddings is not None and len(inputs.embeddings) != len(inputs.crops):
        raise DataError(
            f"the embeddings are {len(inputs.embeddings):,}, the crops {len(inputs.crops):,}. Expected one a crop; run "
            "the embed stage again."
        )
    return checked


def find_mechanisms(frame: pd.DataFrame, mechanisms: pd.DataFrame | None) -> np.ndarray:
    """Find the mechanism of each row's treatment; None where it is not known."""
    if mechanisms is None:
        return np.full(len(frame), None, dtype=object)
    treatments = frame[TREATMENT].drop_duplicates()
    known = treatments.assign(**{MECHANISM: join_mechanisms(treatments, mechanisms)[MECHANISM].to_numpy()})
    found = frame[TREATMENT].merge(known, on=TREATMENT, how="left")[MECHANISM].astype(object)
    result: np.ndarray = found.where(found.notna(), None).to_numpy()
    return result


def read_finite(profiles: pd.DataFrame, name: str) -> Float[np.ndarray, "profile feature"]:
    """Read the features of profiles; refuse values that are not finite, under this name."""
    features: np.ndarray = feature_matrix(profiles)
    if not np.isfinite(features).all():
        raise DataError(f"{name} hold values that are not finite. Run the profile stage again.")
    return features


def round_treatment(compound: str, dose: float | int) -> tuple[str, float]:
    """Round the concentration to six significant digits, by which scores compare them."""
    return compound, float(f"{dose:.6g}")
