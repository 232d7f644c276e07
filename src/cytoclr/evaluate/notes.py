"""What a reader of the scores must know, in sentences."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cytoclr.config import LabelsSeen
from cytoclr.errors import list_some
from cytoclr.evaluate.scoring import Matched
from cytoclr.evaluate.treatments import AnnotatedTreatments
from cytoclr.tables import MECHANISM, is_control, select_enough_cells

__all__ = ["LEAKS", "take_notes"]

#: A model told one of these has seen what the score asks for, or what stands for it.
LEAKS: tuple[LabelsSeen, ...] = ("treatments", "mechanisms")


def take_notes(
    scores: Mapping[str, Any],
    wells: pd.DataFrame,
    found: Mapping[str, Matched] | None,
    labels_seen: Mapping[str, LabelsSeen],
) -> list[str]:
    """Say what the scores leave out, what they cannot tell, and what they must not be taken for.

    Parameters
    ----------
    scores
        What was found so far; ``reason`` where nothing could be scored.
    wells
        The profiles evaluated.
    found
        Their matches by ``nsc`` and ``nscb``; None where nothing could be scored.
    labels_seen
        What the model behind each table was told; the profiles evaluated come first.
    """
    return [
        *([str(scores["reason"])] if found is None else _note_scores(scores, found["nsc"].treatments, found["nscb"])),
        *_note_activity(scores["activity"], wells),
        *_note_labels(labels_seen),
        *_note_selection(scores["selection"]),
    ]


def _note_scores(scores: Mapping[str, Any], treatments: AnnotatedTreatments, nscb: Matched) -> list[str]:
    notes = []
    demanded = treatments.protocol.normalisation
    if demanded not in (None, scores["normalisation"]):
        notes.append(
            f"The protocol {treatments.protocol.name} is defined on profiles normalised by {demanded}; these were "
            f"normalised by {scores['normalisation']}, so the scores do not compare with others under its name."
        )
    if treatments.unannotated:
        notes.append(
            f"Not in the mechanism table, so neither asked nor answered with: {len(treatments.unannotated)} "
            f"treatments ({list_some(treatments.unannotated)})."
        )
    num_compounds = treatments.frame.groupby(MECHANISM)["Metadata_Compound"].nunique()
    alone = num_compounds.index[num_compounds == 1].tolist()
    if alone:
        notes.append(f"Mechanisms that have no right answer with one compound alone: {list_some(alone)}.")
    if nscb.dropped_mechanisms:
        left_out = "left out of NSCB" if treatments.protocol.single_batch_mechanisms == "drop" else "not asked in NSCB"
        notes.append(f"Mechanisms that lie in one batch, {left_out}: {list_some(nscb.dropped_mechanisms)}.")
    for name in ("nsc", "nscb"):
        if scores[name] is not None and scores[name]["unanswerable"]:
            names = scores[name]["unanswerable"]
            notes.append(
                f"{name.upper()} has no admissible neighbour for {len(names)}, not counted: {list_some(names)}."
            )
    if scores["nsc"] is None:
        notes.append("NSC needs at least two compounds with a mechanism.")
    if scores["nscb"] is None:
        notes.append("NSCB needs a mechanism in at least two batches, and compounds that lie in different ones.")
    return notes


def _note_labels(labels_seen: Mapping[str, LabelsSeen]) -> list[str]:
    """Mark models that were told what the scores ask for."""
    meaning = {
        "treatments": "it was taught to tell these treatments apart; do not rank it against models told nothing.",
        "mechanisms": "its score is that of an examination whose answers it has seen.",
    }
    notes = []
    for name, seen in labels_seen.items():
        if seen in LEAKS:
            who = "These profiles are" if name == next(iter(labels_seen)) else f"The baseline {name} is"
            notes.append(f"{who} of a model that was told {seen}: {meaning[seen]}")
    return notes


def _note_activity(activity: Mapping[str, Any] | None, wells: pd.DataFrame) -> list[str]:
    """Say what mAP could not be asked, and of what it says little."""
    if not is_control(select_enough_cells(wells)).any() and is_control(wells).any():
        return ["All untreated controls have too few cells, so replicates were not ranked against controls."]
    if not is_control(wells).any():
        compounds = sorted(wells["Metadata_Compound"].astype("str").unique())
        return [
            "No well is an untreated control, so replicates were not ranked against controls. Name the compounds of "
            f"untreated wells (screen.controls); found: {list_some(compounds)}."
        ]
    if activity is None:
        return ["No treatment has both a second well and a control on a plate, so there is no mAP of replicates."]
    notes = []
    if activity["unanswerable"]:
        notes.append(
            f"mAP of replicates was not asked of {len(activity['unanswerable'])} treatments without a second well or "
            f"without a control on their plates: {list_some(activity['unanswerable'])}."
        )
    if activity["reachable"] < activity["total"]:
        notes.append(
            f"Controls or replicates are so few that {activity['total'] - activity['reachable']} of "
            f"{activity['total']} treatments could not be called active even if every replicate came before every "
            "control: look at their mAP."
        )
    return notes


def _note_selection(selection: Mapping[str, Any] | None) -> list[str]:
    """Stamp a score that its own mechanisms helped to choose, and tell what hindsight would have given."""
    if selection is None:
        return []
    chosen = f"Epoch {selection['selected']} was chosen"
    if selection["uses_mechanisms"]:
        return [f"{chosen} by {selection['by'].upper()} on these very mechanisms: its scores are those of a fit."]
    gaps = [
        f"{name.upper()} {of['score']:.1%} at epoch {of['epoch']}, {100 * of['gap']:.1f} points above"
        for name, of in selection["oracle_gap"].items()
        if of is not None and of["gap"] > 0
    ]
    told = f" In hindsight the best would have been {'; '.join(gaps)}." if gaps else ""
    return [f"{chosen} among {len(selection['epochs'])} by {selection['by']}, without mechanisms.{told}"]
