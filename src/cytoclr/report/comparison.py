"""Two or more runs on one page: what differs in their settings, scores, training and maps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cytoclr.report.inputs import read_finite, round_treatment
from cytoclr.report.maps import MIN_POINTS, lay_out_profiles, write_layout
from cytoclr.report.measures import MEASURES, MeasureRow, list_measures
from cytoclr.report.page import render_page
from cytoclr.report.training import Curve, list_curves, thin_steps
from cytoclr.report.wording import describe_protocol, format_count, format_percent, list_stamps
from cytoclr.storage import write_text
from cytoclr.tables import (
    MECHANISM,
    TRAINED,
    TREATMENT,
    TREATMENT_PROFILES,
    check_table,
    treatment_names,
)

__all__ = ["ComparedRun", "write_comparison"]

SCRIPTS = ("base.js", "plots.js", "points.js", "comparison.js")
STYLES = ("base.css", "map.css", "treatments.css", "comparison.css", "small.css", "print.css")
SCORES: tuple[Literal["nscb", "nsc"], ...] = ("nscb", "nsc")


@dataclass(frozen=True)
class ComparedRun:
    """One run: its name on the page, ``scores.json``, treatments without the untreated, and what else there is of it.

    `matches` and `metrics` may be empty, as they are of a scored table; `settings` is flat: ``{"train.epochs": 20}``.
    """

    name: str
    scores: Mapping[str, Any]
    treatments: pd.DataFrame
    matches: pd.DataFrame
    metrics: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] | None = None


def write_comparison(
    path: Path,
    runs: Sequence[ComparedRun],
    comparisons: Sequence[Mapping[str, Any]],
    *,
    title: str,
    neighbours: int = 12,
    seed: int = 0,
) -> None:
    """Write one HTML file that compares runs; like a report it opens anywhere, without a network.

    Parameters
    ----------
    path
        The file to write, atomically.
    runs
        At least two.
    comparisons
        Of the first run with each of the others, in order: what `cytoclr.evaluate.compare_runs` found.
    title
        Its heading.
    neighbours, seed
        Of the maps; see `cytoclr.config.ReportSettings`.

    Raises
    ------
    DataError
        Profiles lack a column, or hold values that are not finite.
    MachineError
        The file cannot be written.
    """
    tables = [check_table(run.treatments, TREATMENT_PROFILES, f"treatment profiles of {run.name}") for run in runs]
    told = [say_comparison(runs[0].name, run.name, of) for run, of in zip(runs[1:], comparisons, strict=True)]
    curves = _join_curves([list_curves(run.metrics) for run in runs])
    facts = {
        "title": title,
        "runs": [_state(run) for run in runs],
        "told": told,
        "notes": list(dict.fromkeys(note for of in comparisons for note in of["notes"])),
        "protocol": describe_protocol(runs[0].scores),
        "columns": MEASURES,
        "differing": list_differing(runs),
        "curves": curves,
        "min_points": MIN_POINTS,
        "disagreements": {score: list_disagreements(runs, score) for score in SCORES},
    }
    data = {
        "runs": [
            {
                "name": run.name,
                "treatments": _list_points(table, run.matches),
                "layouts": _lay_out(table, run.name, neighbours=neighbours, seed=seed),
                "training": thin_steps(run.metrics),
            }
            for run, table in zip(runs, tables, strict=True)
        ],
        "curves": [asdict(curve) for curve in curves],
        "treatments": [],
        "wells": [],
        "matches": {},
        "asked": "treatments",
    }
    write_text(path, render_page("comparison.html.j2", facts, data, scripts=SCRIPTS, styles=STYLES))


def _state(run: ComparedRun) -> dict[str, Any]:
    rows: list[MeasureRow] = list_measures(run.scores)
    return {
        "name": run.name,
        "scores": {score: run.scores.get(score) for score in SCORES},
        "figures": next(row for row in rows if row.features == TRAINED).figures,
        "counts": run.scores.get("counts") or {},
        "normalisation": run.scores.get("normalisation"),
        "stamps": list_stamps(run.scores),
    }


def say_comparison(first: str, second: str, comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Say of each score whether the two are told apart, and by how much."""
    told = []
    for score in SCORES:
        of = comparison[score]
        if of is None:
            told.append({"score": score, "verdict": "undecided", "text": f"{score.upper()}: not answered by both."})
            continue
        words = {
            "a": f"{first} is better than {second}",
            "b": f"{second} is better than {first}",
            "undecided": f"{first} and {second} are not told apart",
        }
        shares = [sum(shares) / len(shares) for shares in of["scores"].values()]
        low, high = of["interval"]
        told.append(
            {
                "score": score,
                "verdict": of["verdict"],
                "text": f"{score.upper()}: {words[of['verdict']]}. On the same {format_count(of['num_treatments'])} "
                f"treatments of {format_count(of['num_compounds'])} compounds {format_percent(shares[0])} and "
                f"{format_percent(shares[1])}: {100 * of['gain']:+.1f} points, 95 % interval "
                f"{100 * low:+.1f} to {100 * high:+.1f}, p = {of['p_value']:.2g}.",
            }
        )
    return told


def list_differing(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """List the settings in which runs differ; nothing of runs whose settings are not known."""
    known = [run.settings for run in runs]
    if any(settings is None for settings in known):
        return []
    keys = sorted({key for settings in known if settings is not None for key in settings})
    rows = []
    for key in keys:
        values = ["–" if settings is None or key not in settings else str(settings[key]) for settings in known]
        if len(set(values)) > 1:
            rows.append({"key": key, "values": values})
    return rows


def list_disagreements(runs: Sequence[ComparedRun], score: str) -> list[dict[str, Any]]:
    """List the treatments that some runs get right and others wrong, with the neighbour that each finds.

    Empty where a run has no matches, or a protocol that asks wells: a treatment then has no one answer.
    """
    answers = [_read_answers(run.matches, score) for run in runs]
    rows = []
    for key in sorted(set.intersection(*map(set, answers))):
        of = [found[key] for found in answers]
        if len({answer["right"] for answer in of}) == 2:
            rows.append({"name": of[0]["name"], "mechanism": of[0]["mechanism"], "answers": of})
    return rows


def _read_answers(matches: pd.DataFrame, score: str) -> dict[tuple[str, float], dict[str, Any]]:
    """What a run's own profiles answer for each treatment."""
    own = _take_own(matches, score)
    if own.duplicated(TREATMENT).any():
        return {}
    names = treatment_names(own)
    neighbours = treatment_names(own[["Match_Compound", "Match_Concentration"]].set_axis(TREATMENT, axis=1))
    return {
        round_treatment(compound, dose): {
            "name": name,
            "mechanism": mechanism,
            "neighbour": neighbour,
            "right": bool(correct),
        }
        for name, neighbour, compound, dose, mechanism, correct in zip(
            names,
            neighbours,
            own["Metadata_Compound"],
            own["Metadata_Concentration"],
            own[MECHANISM],
            own["correct"],
            strict=True,
        )
    }


def _take_own(matches: pd.DataFrame, score: str) -> pd.DataFrame:
    """A run's own profiles stand first; baselines follow."""
    if not len(matches):
        return pd.DataFrame(columns=[*TREATMENT, "Match_Compound", "Match_Concentration", MECHANISM, "correct"])
    own = matches["features"].iloc[0]
    taken: pd.DataFrame = matches[(matches["score"] == score) & (matches["features"] == own)].reset_index(drop=True)
    return taken


def _list_points(treatments: pd.DataFrame, matches: pd.DataFrame) -> list[dict[str, Any]]:
    answers = {score: _read_answers(matches, score) for score in SCORES}
    points = []
    for name, compound, dose in zip(
        treatment_names(treatments),
        treatments["Metadata_Compound"],
        treatments["Metadata_Concentration"],
        strict=True,
    ):
        of = {score: found.get(round_treatment(compound, dose)) for score, found in answers.items()}
        known = next((answer["mechanism"] for answer in of.values() if answer), None)
        right: dict[str, Any] = {score: answer and answer["right"] for score, answer in of.items()}
        points.append({"name": name, "compound": compound, "mechanism": known, **right})
    return points


def _lay_out(treatments: pd.DataFrame, name: str, *, neighbours: int, seed: int) -> list[dict[str, Any]]:
    features = read_finite(treatments, f"{name}: profiles of treatments")
    return [write_layout(layout) for layout in lay_out_profiles(features, neighbours=neighbours, seed=seed)]


def _join_curves(lists: Sequence[Sequence[Curve]]) -> list[Curve]:
    """The curves that any of the runs has, in their order, each once."""
    found: dict[str, Curve] = {}
    for curve in (curve for curves in lists for curve in curves):
        before = found.get(curve.key)
        lines = tuple(dict.fromkeys((*(before.lines if before else ()), *curve.lines)))
        epochs = tuple(line for line in lines if line.event == "epoch") or lines
        found[curve.key] = Curve(curve.key, curve.title, curve.sentence, epochs, curve.axis)
    return list(found.values())
