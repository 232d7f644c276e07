"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cytoclr.config import AugmentSettings
from cytoclr.data.crops import CropStore
from cytoclr.tables import TREATMENT, is_control

__all__ = ["ReportInputs", "leave_out_untreated"]


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
