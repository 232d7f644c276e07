"""Which epoch's encoder to keep: by measures that know no mechanism, and what that choice cost against hindsight."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from cytoclr.config import EvaluateSettings, SelectBy
from cytoclr.errors import SettingsError
from cytoclr.evaluate.evaluation import choose_protocol
from cytoclr.evaluate.geometry import describe_geometry
from cytoclr.evaluate.nuisance import predict_nuisance
from cytoclr.evaluate.precision import measure_activity
from cytoclr.evaluate.scoring import score_nsc, score_nscb
from cytoclr.evaluate.treatments import annotate_treatments
from cytoclr.tables import select_enough_cells

__all__ = ["choose_epoch", "describe_selection", "measure_epoch", "score_epoch"]

#: The column of the table of epochs that a rule looks at, and whether more of it is better.
RULES: dict[SelectBy, tuple[str, bool]] = {
    "replicate-map": ("replicate_map", True),
    "rank": ("effective_rank", True),
    "batch": ("batch_accuracy", False),
    "nscb": ("nscb", True),
}
#: The one rule that looks at mechanisms.
BY_MECHANISM: SelectBy = "nscb"
Score = Literal["nsc", "nscb"]


def measure_epoch(unnormalised: pd.DataFrame, wells: pd.DataFrame, *, seed: int) -> dict[str, float | None]:
    """Measure an encoder by profiles of wells, without any mechanism.

    Returns
    -------
    ``replicate_map``: mean average precision of replicates against controls, of normalised wells;
    ``effective_rank`` of unnormalised wells; ``batch_accuracy``: how well the batch of unnormalised control wells is
    told. None where it cannot be had.
    """
    activity, _ = measure_activity(wells, seed=seed)
    batch = predict_nuisance(select_enough_cells(unnormalised), seed=seed)["batch"]
    return {
        "replicate_map": None if activity is None else activity["map"],
        "effective_rank": describe_geometry(select_enough_cells(unnormalised))["effective_rank"],
        "batch_accuracy": None if batch is None else batch["balanced_accuracy"],
    }


def score_epoch(wells: pd.DataFrame, mechanisms: pd.DataFrame, settings: EvaluateSettings) -> dict[str, float | None]:
    """NSC and NSCB of an encoder's normalised wells; None where there is no such score."""
    treatments = annotate_treatments(wells, mechanisms, choose_protocol(settings))
    if not len(treatments):
        return dict.fromkeys(get_args(Score))
    found = {"nsc": score_nsc(treatments), "nscb": score_nscb(treatments)[0]}
    return {name: float(of.correct[of.answered].mean()) if of.answered.any() else None for name, of in found.items()}


def choose_epoch(epochs: pd.DataFrame, by: SelectBy) -> int:
    """Choose an epoch; of those equally good the latest.

    Parameters
    ----------
    epochs
        A row an epoch: ``epoch``, and what `measure_epoch` (and `score_epoch`, for ``nscb``) found.
    by
        ``last``, or the rule: most replicate mAP, highest effective rank, batches least told, highest NSCB.

    Raises
    ------
    SettingsError
        The rule's measure could not be had for any epoch.
    """
    if by == "last":
        return int(epochs["epoch"].max())
    column, more_is_better = RULES[by]
    values = epochs[column].to_numpy(dtype=np.float64) * (1 if more_is_better else -1)
    if np.isnan(values).all():
        raise SettingsError(
            f"select.by: {by} needs {column}, which no epoch has: it takes replicates and controls on a plate "
            "(replicate-map), controls of two batches (batch), mechanisms (nscb). Choose another, or last."
        )
    return int(epochs.loc[values == np.nanmax(values), "epoch"].max())


def describe_selection(
    epochs: pd.DataFrame, selected: int, by: SelectBy, scores: Mapping[int, Mapping[str, float | None]]
) -> dict[str, Any]:
    """Tell which epoch was chosen, by what, and what hindsight would have given.

    Parameters
    ----------
    epochs
        As in `choose_epoch`.
    selected, by
        The choice and its rule.
    scores
        NSC and NSCB of each epoch (`score_epoch`); empty without mechanisms.

    Returns
    -------
    ``selected``, ``by``, ``uses_mechanisms``, ``epochs`` (what was measured of each) and ``oracle_gap``: for each score
    the ``epoch`` that is best in hindsight, its ``score`` and the ``gap`` to the selected one; None where not scored.
    """
    gaps: dict[str, Any] = {}
    for name in get_args(Score):
        found = {epoch: value for epoch, of in scores.items() if (value := of[name]) is not None}
        best = max(found, key=lambda epoch: (found[epoch], epoch), default=None)
        gaps[name] = None
        if best is not None and selected in found:
            gaps[name] = {"epoch": best, "score": found[best], "gap": found[best] - found[selected]}
    measures = [name for name in epochs.columns if name not in ("epoch", *get_args(Score))]
    rows = []
    for row in epochs.to_dict("records"):
        epoch = int(row["epoch"])
        measured = {name: None if pd.isna(row[name]) else float(row[name]) for name in measures}
        rows.append({"epoch": epoch, **measured, **scores.get(epoch, {})})
    return {
        "selected": selected,
        "by": by,
        "uses_mechanisms": by == BY_MECHANISM,
        "epochs": rows,
        "oracle_gap": gaps,
    }
