"""Which of two tables of profiles is better, paired on the treatments that both answered, or that it cannot be said."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.errors import DataError, list_some
from cytoclr.evaluate.intervals import bootstrap_difference, flip_signs
from cytoclr.tables import MECHANISM, TREATMENT, WELL

__all__ = ["compare_matches", "compare_runs", "note_answered"]

#: What `evaluate` found of a run: its scores, and its matches.
Scored = tuple[Mapping[str, Any], pd.DataFrame]
BOOTSTRAPS = 10_000
PERMUTATIONS = 10_000

#: A difference is a rank only if its 95 % interval leaves nought out and its p value is below this.
ALPHA = 0.05


def compare_matches(
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    *,
    bootstraps: int,
    permutations: int,
    seed: int,
) -> dict[str, Any] | None:
    """Compare the hits of two tables of profiles by one score.

    Parameters
    ----------
    first, second
        Matches of each side by that score, one table for each seed of its training: the treatment (and the well, if
        the protocol is of wells), ``Metadata_MoA`` and ``correct``.
    bootstraps, permutations
        How many, for the interval and for the p value.
    seed
        Decides them.

    Returns
    -------
    ``gain``, the first's share of hits less the second's, over the treatments that all tables answered, each seed
    counting the same; ``interval``, 95 %, resampling compounds (and seeds, where there are several); ``p_value``, by
    flipping the sign of each compound's difference; ``verdict``: ``a``, ``b``, or ``undecided`` unless the interval
    leaves nought out and p is below 0.05; ``num_treatments``, ``num_compounds``, ``num_seeds``; ``scores`` of each
    seed of each side on these treatments; ``only_a_right``, ``only_b_right``: how many treatments differ, where both
    sides have one seed, else None. None if no treatment was answered by all.

    Raises
    ------
    DataError
        The two do not agree on the mechanism of a treatment.
    """
    tables = [*first, *second]
    key = [*TREATMENT, *(WELL if all(set(WELL) <= set(table.columns) for table in tables) else [])]
    joined = _index(tables[0], key).rename(columns={"correct": "correct_0"})
    for number, table in enumerate(tables[1:], start=1):
        other = _index(table, key).rename(columns={"correct": f"correct_{number}", MECHANISM: "other"})
        joined = joined.join(other, how="inner")
        differ = joined.index[joined[MECHANISM] != joined.pop("other")]
        if len(differ):
            names = [" ".join(map(str, place)) for place in differ]
            raise DataError(
                f"matches: {len(differ)} treatments have other mechanisms in one table than in another: "
                f"{list_some(names)}. Expected both scored with the same table of mechanisms."
            )
    if joined.empty:
        return None
    hits = joined[[f"correct_{number}" for number in range(len(tables))]].to_numpy(dtype=np.float64).T
    sides = hits[: len(first)], hits[len(first) :]
    compounds = pd.factorize(joined.index.get_level_values("Metadata_Compound"))[0]
    difference = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    interval = bootstrap_difference(*sides, compounds, bootstraps=bootstraps, rng=np.random.default_rng(seed))
    p_value = flip_signs(difference, compounds, permutations=permutations, rng=np.random.default_rng(seed))
    alone = len(first) == len(second) == 1
    return {
        "gain": float(difference.mean()),
        "interval": list(interval),
        "p_value": p_value,
        "verdict": _judge(interval, p_value),
        "num_treatments": len(joined),
        "num_compounds": int(compounds.max()) + 1,
        "num_seeds": [len(first), len(second)],
        "scores": {"a": sides[0].mean(axis=1).tolist(), "b": sides[1].mean(axis=1).tolist()},
        "only_a_right": int((difference > 0).sum()) if alone else None,
        "only_b_right": int((difference < 0).sum()) if alone else None,
    }


def compare_runs(
    first: Sequence[Scored], second: Sequence[Scored], *, names: tuple[str, str], seed: int
) -> dict[str, Any]:
    """Compare what `evaluate` found of two runs, or of two sets of runs that differ in the seed alone.

    Returns
    -------
    ``a``, ``b`` (what each is); ``nsc``, ``nscb``: see `compare_matches`, None where one side has no such score;
    ``notes``: what a reader must know.

    Raises
    ------
    DataError
        The two were scored by other protocols or mechanisms.
    """
    sides = (first, second)
    protocols = {
        json.dumps(scores["protocol"], sort_keys=True): scores["protocol"] for side in sides for scores, _ in side
    }
    if len(protocols) > 1:
        kinds = " and ".join(protocol["name"] for protocol in protocols.values())
        raise DataError(
            f"{names[0]} and {names[1]} were scored by different protocols ({kinds}). Evaluate both by one."
        )
    found: dict[str, Any] = {"format": 1}
    for side, name, runs in zip("ab", names, sides, strict=True):
        scores = [of for of, _ in runs]
        found[side] = {
            "name": name,
            "num_seeds": len(runs),
            "normalisation": sorted({str(of["normalisation"]) for of in scores}),
            "labels_seen": sorted({str(of["labels_seen"]) for of in scores}),
        }
    found["protocol"] = next(iter(protocols.values()))
    notes = []
    for score in ("nsc", "nscb"):
        tables = [[_take(matches, score) for _, matches in runs] for runs in sides]
        found[score] = compare_matches(*tables, bootstraps=BOOTSTRAPS, permutations=PERMUTATIONS, seed=seed)
        notes += note_answered(score, tables, names, found[score])
    found["notes"] = [*_note_differences(found), *notes, *_note_twins(sides, names)]
    return found


def _take(matches: pd.DataFrame, score: str) -> pd.DataFrame:
    """The matches of a run's own profiles, which stand first, by one score."""
    own = matches["features"].iloc[:1].tolist()
    return matches[(matches["score"] == score) & matches["features"].isin(own)]


def note_answered(
    score: str, tables: Sequence[Sequence[pd.DataFrame]], names: tuple[str, str], compared: Mapping[str, Any] | None
) -> list[str]:
    """Say where the two did not answer the same treatments: then their neighbours were not sought among the same."""
    counts = [sorted({len(matches) for matches in of}) for of in tables]
    common = 0 if compared is None else compared["num_treatments"]
    if all(of == [common] for of in counts):
        return []
    told = "; ".join(f"{name} {' or '.join(map(str, of))}" for name, of in zip(names, counts, strict=True))
    return [
        f"{score.upper()}: treatments answered: {told}; by all {common}, which alone are compared. Neighbours were "
        "sought among different treatments, so part of the difference may be theirs."
    ]


def _note_twins(sides: Sequence[Sequence[Scored]], names: tuple[str, str]) -> list[str]:
    """Say where runs that should differ in their seed do not differ at all."""
    notes = []
    for runs, name in zip(sides, names, strict=True):
        similarities = [tuple(matches.get("similarity", pd.Series(dtype=float))) for _, matches in runs]
        if len(set(similarities)) < len(runs):
            notes.append(f"{name}: some of the {len(runs)} seeds are the same run, to the last bit: count them once.")
        kinds = {str(scores["normalisation"]) for scores, _ in runs}
        if len(kinds) > 1:
            notes.append(f"{name}: its runs differ in more than the seed: normalised by {'; '.join(sorted(kinds))}.")
    return notes


def _note_differences(found: Mapping[str, Any]) -> list[str]:
    notes = []
    normalisations = [found[side]["normalisation"] for side in "ab"]
    if normalisations[0] != normalisations[1]:
        notes.append(
            f"The two were normalised differently ({'; '.join(normalisations[0])} against "
            f"{'; '.join(normalisations[1])}): the difference may be that of the normalisations."
        )
    for side in "ab":
        told = sorted(set(found[side]["labels_seen"]) & {"treatments", "mechanisms"})
        if told:
            notes.append(
                f"{found[side]['name']} is of a model that was told {' and '.join(told)}: this comparison leaks."
            )
    if min(found[side]["num_seeds"] for side in "ab") == 1:
        notes.append("One seed a side says nothing of the luck in training; train several to learn how far it reaches.")
    return notes


def _judge(interval: tuple[float, float], p_value: float) -> str:
    if p_value >= ALPHA or interval[0] <= 0 <= interval[1]:
        return "undecided"
    return "a" if interval[0] > 0 else "b"


def _index(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    # sorted, so that the order of compounds, and with it every draw, is that of their names
    return table.set_index(key)[[MECHANISM, "correct"]].sort_index()
