"""The evaluate stage: every score and measure of a table of profiles, beside its baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import pandas as pd

from cytoclr.config import EvaluateSettings, LabelsSeen
from cytoclr.errors import SettingsError, list_some
from cytoclr.evaluate.comparison import compare_matches, note_answered
from cytoclr.evaluate.geometry import describe_geometry
from cytoclr.evaluate.matching import Metric
from cytoclr.evaluate.notes import LEAKS, take_notes
from cytoclr.evaluate.nuisance import predict_nuisance
from cytoclr.evaluate.precision import measure_activity, measure_consistency
from cytoclr.evaluate.probes import Classifier, HeldOut, probe_mechanisms
from cytoclr.evaluate.protocols import PROTOCOLS, Protocol
from cytoclr.evaluate.replicates import measure_matching, measure_replicability
from cytoclr.evaluate.scoring import Matched, score_nsc, score_nscb, summarise
from cytoclr.evaluate.treatments import AnnotatedTreatments, annotate_treatments
from cytoclr.progress import Progress, Silent
from cytoclr.tables import (
    MECHANISM,
    TRAINED,
    TREATMENT,
    WELL_PROFILES,
    check_table,
    feature_columns,
    is_control,
    select_enough_cells,
)

__all__ = ["Baseline", "Evaluation", "choose_protocol", "evaluate", "score_treatments"]

FORMAT = 2
MATCHES = [
    *TREATMENT,
    MECHANISM,
    "Match_Compound",
    "Match_Concentration",
    "Match_MoA",
    "Predicted_MoA",
    "similarity",
    "correct",
]
ACTIVITY = [*TREATMENT, "num_wells", "map", "p_value", "least_p_value", "corrected_p_value", "active"]


@dataclass(frozen=True)
class Baseline:
    """Other profiles of the same wells, normalised alike, to compare with.

    Attributes
    ----------
    wells
        As the wells evaluated.
    labels_seen
        What their model was told.
    metric
        By which neighbours are found, if not the protocol's: a single feature has no angle.
    notes
        What a reader must know of them, in sentences; they stand with the scores.
    """

    wells: pd.DataFrame
    labels_seen: LabelsSeen = "none"
    metric: Metric | None = None
    notes: tuple[str, ...] = ()


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
    activity
        One row for each table of features and treatment with replicates: mean average precision, p values.
    """

    scores: dict[str, Any]
    matches: pd.DataFrame
    activity: pd.DataFrame


def choose_protocol(settings: EvaluateSettings) -> Protocol:
    """Return the protocol that the settings name, with their changes."""
    return PROTOCOLS[settings.protocol].change(settings.protocol_changes.model_dump())


def evaluate(
    wells: pd.DataFrame,
    mechanisms: pd.DataFrame | None,
    settings: EvaluateSettings,
    *,
    seed: int,
    normalisation: str,
    labels_seen: LabelsSeen = "none",
    unnormalised: pd.DataFrame | None = None,
    embeddings: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    baselines: Mapping[str, Baseline] | None = None,
    selection: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score profiles of wells against known mechanisms, and measure what needs none.

    Parameters
    ----------
    wells
        Normalised profiles: the columns of `cytoclr.tables.WELL_PROFILES`, and features.
    mechanisms
        The columns of `cytoclr.tables.MECHANISMS`; None where no mechanism is known.
    settings
        Protocol, numbers of bootstraps and permutations, whether to probe.
    seed
        Decides bootstraps, permutations and probes.
    normalisation
        What was done to the wells; recorded with the scores.
    labels_seen
        What the model was told of the wells it embedded; recorded, and marked where it leaks.
    unnormalised
        The same wells before normalisation: how well batch and plate could be told from them; None: not measured.
    embeddings
        Cells, not normalised, for the probes; None: no probe.
    notes
        What a reader must know of the profiles, in sentences; they stand with the scores.
    baselines
        Other profiles of the same wells, by name: ``{"untrained": Baseline(wells), …}``.
    selection
        How the epoch was chosen (`cytoclr.evaluate.describe_selection`); None: there was no choice.
    progress
        Told of every part: scores and measures of each table, batch and plate, probes.

    Raises
    ------
    DataError
        A table is not as declared, a feature has gaps, the mechanism table is empty, or no well is treated.
    SettingsError
        A baseline is called as the profiles are.
    """
    protocol = choose_protocol(settings)
    wells = check_table(wells, WELL_PROFILES, "well profiles")
    if TRAINED in (baselines or {}):
        raise SettingsError(
            f"evaluate: a baseline is called {TRAINED}, as the profiles themselves are. Name it otherwise."
        )
    tables = {TRAINED: Baseline(wells, labels_seen, notes=tuple(notes)), **(baselines or {})}
    scores: dict[str, Any] = {
        "format": FORMAT,
        "protocol": protocol.describe(),
        "normalisation": normalisation,
        "labels_seen": labels_seen,
        "counts": _count(wells),
    }
    annotated, reason = _annotate(tables, mechanisms, protocol)
    progress = progress or Silent()
    progress.start("evaluate", 2 * len(tables) + 2, "parts")
    results = {}
    for name, treatments in annotated.items():
        if treatments is not None:
            results[name] = score_treatments(treatments, settings, seed=seed)
        progress.advance()
    nothing: dict[str, Any] = {"nsc": None, "nscb": None, "nsc_on_nscb_treatments": None, "drop": None}
    by_table = {name: results[name][0] if name in results else nothing for name in tables}
    found = {name: matched for name, (_, matched) in results.items()}
    scores |= by_table[TRAINED]
    if reason is not None:
        scores["reason"] = reason
    measured = {}
    for name, table in tables.items():
        measured[name] = _measure(table, annotated[name], seed=seed)
        progress.advance()
    scores |= measured[TRAINED][0]
    scores["nuisance"] = {
        "before": None if unnormalised is None else predict_nuisance(select_enough_cells(unnormalised), seed=seed),
        "after": predict_nuisance(select_enough_cells(wells), seed=seed),
    }
    scores["geometry"] = describe_geometry(select_enough_cells(wells))
    progress.advance()
    scores["probes"] = []
    if settings.probe and embeddings is not None and mechanisms is not None and reason is None:
        scores["probes"] = _probe(embeddings, mechanisms, seed=seed)
    progress.advance()
    progress.finish()
    scores["baselines"] = {
        name: {**_describe_baseline(tables[name]), **by_table[name], **measured[name][0]} for name in baselines or {}
    }
    scores["comparisons"], odd = _compare(tables, found, settings, seed)
    scores["selection"] = None if selection is None else dict(selection)
    labels = {name: table.labels_seen for name, table in tables.items()}
    told = [note for table in tables.values() for note in table.notes]
    scores["notes"] = [*told, *take_notes(scores, wells, found.get(TRAINED), labels), *odd]
    active = [frame.assign(features=name) for name, (_, frame) in measured.items() if len(frame)]
    activity = pd.concat(active, ignore_index=True) if active else pd.DataFrame(columns=["features", *ACTIVITY])
    return Evaluation(scores, _tabulate(found, protocol), activity[["features", *ACTIVITY]])


def _annotate(
    tables: Mapping[str, Baseline], mechanisms: pd.DataFrame | None, protocol: Protocol
) -> tuple[dict[str, AnnotatedTreatments | None], str | None]:
    """Join mechanisms to the treatments of every table; or tell why there is nothing to score against."""
    if mechanisms is None:
        reason = "No mechanism table was given, so profiles cannot be scored against mechanisms."
        return dict.fromkeys(tables), reason
    annotated: dict[str, AnnotatedTreatments | None] = {}
    for name, table in tables.items():
        by = protocol if table.metric is None else replace(protocol, metric=table.metric)
        annotated[name] = annotate_treatments(table.wells, mechanisms, by)
    own = annotated[TRAINED]
    assert own is not None
    if len(own):
        return annotated, None
    return dict.fromkeys(tables), (
        f"None of the {len(own.unannotated)} treatments ({list_some(own.unannotated, 2)}) is among "
        f"the {len(mechanisms)} of the mechanism table. Compare the spelling of compounds, and the concentrations."
    )


def score_treatments(
    treatments: AnnotatedTreatments, settings: EvaluateSettings, *, seed: int
) -> tuple[dict[str, Any], dict[str, Matched]]:
    """Both scores of one table: as JSON (``nsc``, ``nscb``, ``nsc_on_nscb_treatments``, ``drop``), and as matches."""
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


def _measure(
    table: Baseline, treatments: AnnotatedTreatments | None, *, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What is measured of every table: replicates against controls, and mechanisms against each other.

    All of it compares directions, so nothing is measured where profiles have none (`Baseline.metric`).
    """
    measures: dict[str, Any] = dict.fromkeys(("activity", "replicating", "consistency", "matching"))
    if table.metric is not None:
        return measures, pd.DataFrame(columns=ACTIVITY)
    wells = select_enough_cells(check_table(table.wells, WELL_PROFILES, "well profiles"))
    measures["activity"], by_treatment = measure_activity(wells, seed=seed)
    measures["replicating"] = measure_replicability(wells, seed=seed)
    if treatments is not None and treatments.protocol.level == "treatment":
        measures["consistency"] = measure_consistency(treatments, seed=seed)[0]
        measures["matching"] = measure_matching(treatments, seed=seed)
    return measures, by_treatment


def _probe(embeddings: pd.DataFrame, mechanisms: pd.DataFrame, *, seed: int) -> list[dict[str, Any]]:
    """Every way to hold out by every classifier."""
    probes = (
        probe_mechanisms(embeddings, mechanisms, seed=seed, held_out=held_out, classifier=classifier)
        for held_out in get_args(HeldOut)
        for classifier in get_args(Classifier)
    )
    return [probe for probe in probes if probe is not None]


def _describe_baseline(baseline: Baseline) -> dict[str, Any]:
    return {"labels_seen": baseline.labels_seen, "metric": baseline.metric}


def _compare(
    tables: Mapping[str, Baseline],
    found: Mapping[str, Mapping[str, Matched]],
    settings: EvaluateSettings,
    seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The profiles against each baseline, on the treatments that both answered; and what is odd with that."""
    comparisons, notes = [], []
    for name in found:
        for score in ("nsc", "nscb"):
            if name == TRAINED:
                continue
            own, other = (found[side][score].tabulate() for side in (TRAINED, name))
            compared = compare_matches(
                [own], [other], bootstraps=settings.bootstraps, permutations=settings.permutations, seed=seed
            )
            notes += note_answered(score, [[own], [other]], (TRAINED, name), compared)
            if compared is not None:
                leaks = any(tables[side].labels_seen in LEAKS for side in (TRAINED, name))
                comparisons.append({"a": TRAINED, "b": name, "score": score, "leaks": leaks, **compared})
    return comparisons, notes


def _count(wells: pd.DataFrame) -> dict[str, int]:
    """What was evaluated: a glance at it tells whether controls, batches and features are those meant."""
    trusted = select_enough_cells(wells)
    treated = trusted[~is_control(trusted)]
    return {
        "wells": len(trusted),
        "plates": int(trusted["Metadata_Plate"].nunique()),
        "batches": int(trusted["Metadata_Batch"].nunique()),
        "controls": len(trusted) - len(treated),
        "treatments": len(treated.drop_duplicates(TREATMENT)),
        "compounds": int(treated["Metadata_Compound"].nunique()),
        "features": len(feature_columns(wells)),
    }


def _tabulate(found: Mapping[str, Mapping[str, Matched]], protocol: Protocol) -> pd.DataFrame:
    parts = [
        matched.tabulate().assign(features=name, score=score)
        for name, by_score in found.items()
        for score, matched in by_score.items()
    ]
    wells = ["Metadata_Plate", "Metadata_Well"] if protocol.level == "well" else []
    columns = ["features", "score", *wells, *MATCHES]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
