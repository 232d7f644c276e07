"""The evaluate stage: every score of a table of profiles, beside its baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.config import EvaluateSettings
from cytoclr.errors import list_some
from cytoclr.evaluate.intervals import bootstrap_difference
from cytoclr.evaluate.probes import probe_mechanisms
from cytoclr.evaluate.protocols import PROTOCOLS
from cytoclr.evaluate.scoring import Matched, score_nsc, score_nscb, summarise
from cytoclr.evaluate.treatments import AnnotatedTreatments, annotate_treatments
from cytoclr.tables import MECHANISM, TREATMENT

__all__ = ["Evaluation", "evaluate"]

FORMAT = 1
TRAINED = "trained"
MATCHES = [*TREATMENT, MECHANISM, "Match_Compound", "Match_Concentration", "Match_MoA", "similarity", "correct"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    scores
        Plain JSON values, as ``scores.json`` holds them; a score that could not be computed is None, and ``reason``
        or ``notes`` tell why.
    matches
        One row for each table of features, score and answered treatment: its neighbour, and whether it is a hit.
    """

    scores: dict[str, Any]
    matches: pd.DataFrame


def evaluate(
    wells: pd.DataFrame,
    mechanisms: pd.DataFrame | None,
    settings: EvaluateSettings,
    *,
    seed: int,
    normalisation: str,
    embeddings: pd.DataFrame | None = None,
    baselines: Mapping[str, pd.DataFrame] | None = None,
) -> Evaluation:
    """Score profiles of wells against known mechanisms.

    Parameters
    ----------
    wells
        Normalised profiles: the columns of `cytoclr.tables.WELL_PROFILES`, and features.
    mechanisms
        The columns of `cytoclr.tables.MECHANISMS`; None where no mechanism is known.
    settings
        Protocol, numbers of bootstraps and permutations, whether to probe.
    seed
        Decides bootstraps, permutations and the probe.
    normalisation
        What was done to the wells; recorded with the scores.
    embeddings
        Cells, not normalised, for the probe; None: no probe.
    baselines
        Other profiles of the same wells, normalised alike, to compare with: ``{"untrained": wells, …}``.

    Raises
    ------
    DataError
        A table is not as declared, a feature has gaps, the mechanism table is empty, or no well is treated.
    """
    protocol = PROTOCOLS[settings.protocol]
    scores: dict[str, Any] = {"format": FORMAT, "protocol": protocol.describe(), "normalisation": normalisation}
    if mechanisms is None:
        return _explain_absence(
            scores, "No mechanism table was given, so profiles cannot be scored against mechanisms."
        )
    treatments = annotate_treatments(wells, mechanisms, protocol)
    if not len(treatments):
        return _explain_absence(
            scores,
            f"None of the {len(treatments.unannotated)} treatments ({list_some(treatments.unannotated, 2)}) is among "
            f"the {len(mechanisms)} of the mechanism table. Compare the spelling of compounds, and the concentrations.",
        )
    tables = {TRAINED: treatments}
    for name, table in (baselines or {}).items():
        tables[name] = annotate_treatments(table, mechanisms, protocol)
    results = {name: _score(table, settings, seed) for name, table in tables.items()}
    found = {name: matched for name, (_, matched) in results.items()}
    scores |= results[TRAINED][0]
    scores["probe"] = None
    if settings.probe and embeddings is not None:
        scores["probe"] = probe_mechanisms(embeddings, mechanisms, seed=seed)
    scores["baselines"] = {
        name: {"nsc": results[name][0]["nsc"], "nscb": results[name][0]["nscb"]} for name in baselines or {}
    }
    scores["comparisons"] = _compare(found, settings.bootstraps, seed)
    scores["notes"] = _take_notes(treatments, found[TRAINED]["nscb"], scores)
    return Evaluation(scores, _tabulate(found))


def _explain_absence(scores: dict[str, Any], reason: str) -> Evaluation:
    nothing = {"nsc": None, "nscb": None, "nsc_on_nscb_treatments": None, "drop": None, "probe": None}
    empty: dict[str, Any] = {"baselines": {}, "comparisons": [], "notes": [reason]}
    matches = pd.DataFrame(columns=["features", "score", *MATCHES])
    return Evaluation({**scores, **nothing, "reason": reason, **empty}, matches)


def _score(
    treatments: AnnotatedTreatments, settings: EvaluateSettings, seed: int
) -> tuple[dict[str, Any], dict[str, Matched]]:
    """Both scores of one table, as JSON and as matches."""
    matched = score_nsc(treatments)
    across, within = score_nscb(treatments)
    nsc, nscb, nsc_there = (
        summarise(one, bootstraps=settings.bootstraps, permutations=settings.permutations, seed=seed)
        for one in (matched, across, within)
    )
    if nscb is not None:
        nscb["dropped_mechanisms"] = list(across.dropped_mechanisms)
    drop = None if nscb is None or nsc_there is None else nsc_there["score"] - nscb["score"]
    scores = {"nsc": nsc, "nscb": nscb, "nsc_on_nscb_treatments": nsc_there, "drop": drop}
    return scores, {"nsc": matched, "nscb": across}


def _compare(found: Mapping[str, Mapping[str, Matched]], bootstraps: int, seed: int) -> list[dict[str, Any]]:
    """The trained features against each baseline, on the treatments that both answered."""
    comparisons = []
    for name in found:
        for score in ("nsc", "nscb"):
            if name == TRAINED:
                continue
            both = found[TRAINED][score].tabulate().merge(found[name][score].tabulate(), on=TREATMENT)
            if both.empty:
                continue
            first, second = both["correct_x"].to_numpy(), both["correct_y"].to_numpy()
            compounds = pd.factorize(both["Metadata_Compound"])[0]
            rng = np.random.default_rng(seed)
            low, high = bootstrap_difference(first, second, compounds, bootstraps=bootstraps, rng=rng)
            comparisons.append(
                {
                    "a": TRAINED,
                    "b": name,
                    "score": score,
                    "gain": float(first.mean() - second.mean()),
                    "interval": [low, high],
                    "num_treatments": len(both),
                }
            )
    return comparisons


def _take_notes(treatments: AnnotatedTreatments, nscb: Matched, scores: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores must know, in sentences."""
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
        notes.append(f"Mechanisms that lie in one batch, left out of NSCB: {list_some(nscb.dropped_mechanisms)}.")
    if scores["nsc"] is None:
        notes.append("NSC needs at least two compounds with a mechanism.")
    if scores["nscb"] is None:
        notes.append("NSCB needs a mechanism in at least two batches, and compounds that lie in different ones.")
    return notes


def _tabulate(found: Mapping[str, Mapping[str, Matched]]) -> pd.DataFrame:
    parts = [
        matched.tabulate().assign(features=name, score=score)
        for name, by_score in found.items()
        for score, matched in by_score.items()
    ]
    return pd.concat(parts, ignore_index=True)[["features", "score", *MATCHES]]
