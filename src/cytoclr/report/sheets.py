"""The tables behind the report, for whoever goes on with them in a spreadsheet or a program."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cytoclr.report.inputs import ReportInputs
from cytoclr.spreadsheets import write_csv
from cytoclr.storage import write_table
from cytoclr.tables import TRAINED, TREATMENT_PROFILES, WELL_PROFILES, check_table

__all__ = ["list_all_scores", "write_tables"]

logger = logging.getLogger(__name__)

#: Scores by nearest neighbours; and measures, with the names of their value and of what they count.
_SCORES = ("nscb", "nsc", "nsc_on_nscb_treatments")
_MEASURES = {
    "activity": ("map", "active"),
    "replicating": ("share", "replicating"),
    "matching": ("share", "matching"),
    "consistency": ("map", "consistent"),
}
#: Types of the columns of scores, which an empty table has too.
_TYPES = {
    "features": "str",
    "score": "str",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "correct": "Int64",
    "total": "Int64",
    "chance": "float64",
    "protocol": "str",
}


def write_tables(folder: Path, inputs: ReportInputs) -> list[Path]:
    """Write ``wells``, ``treatments``, ``matches`` and ``scores`` into a folder, each as CSV and as Parquet.

    Parameters
    ----------
    folder
        Where to; files of the same names there are replaced.
    inputs
        Tables and scores of a run.

    Returns
    -------
    list of Path
        The files. There is no ``matches`` without matches.

    Raises
    ------
    DataError
        A table lacks a column.
    MachineError
        A file cannot be written.

    Notes
    -----
    In CSV, texts that a spreadsheet would take for formulas are given an apostrophe, which the log counts
    (`cytoclr.spreadsheets`). Parquet has them as they are.
    """
    tables = {
        "wells": check_table(inputs.wells, WELL_PROFILES, "well profiles"),
        "treatments": check_table(inputs.treatments, TREATMENT_PROFILES, "treatment profiles"),
        "matches": inputs.matches,
        "scores": list_all_scores(inputs.scores),
    }
    paths, changed = [], 0
    for name, table in tables.items():
        if table is None:
            logger.info("%s: %s is left out, for the run has none", folder, name)
            continue
        paths += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        changed += write_csv(paths[-2], table)
        write_table(paths[-1], table)
    if changed:
        logger.warning("%s: in CSV, an apostrophe was put before %d texts that look like formulas", folder, changed)
    return paths


def list_all_scores(scores: Mapping[str, Any]) -> pd.DataFrame:
    """List the scores and measures of the trained encoder and of its baselines, a row each.

    Returns
    -------
    pandas.DataFrame
        ``features``, ``score`` (its key in ``scores.json``), ``value`` (0..1), ``low`` and ``high`` (95 % interval),
        ``correct`` of ``total`` cases (of ``activity`` and ``consistency``, whose value is a mean average precision:
        how many are significant), ``chance`` (mean), ``protocol`` (empty: the measure knows none).
    """
    found = {TRAINED: scores, **(scores.get("baselines") or {})}
    rows = [row for features, of in found.items() for row in _list_scores_of(features, of or {}, scores)]
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _list_scores_of(features: str, of: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    protocol = (of.get("protocol") or scores.get("protocol") or {}).get("name") or ""
    for name in _SCORES:
        if score := of.get(name):
            chance = (score.get("chance") or {}).get("mean")
            yield _make_row(features, name, score, ("score", "correct"), chance, protocol)
    for name, keys in _MEASURES.items():
        if measure := of.get(name):
            yield _make_row(features, name, measure, keys, measure.get("chance"), "")


def _make_row(
    features: str, name: str, of: Mapping[str, Any], keys: tuple[str, str], chance: float | None, protocol: str
) -> dict[str, Any]:
    low, high = of.get("interval") or (None, None)
    value, count = keys
    return {
        "features": features,
        "score": name,
        "value": of[value],
        "low": low,
        "high": high,
        "correct": of[count],
        "total": of["total"],
        "chance": chance,
        "protocol": protocol,
    }
