"""What is done with finished runs, and with scored tables: compare two, hand profiles to other programs."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.storage import open_atomic, read_json, read_table, write_table
from cytoclr.tables import TRAINED

__all__ = ["Level", "compare", "embeddings_path", "export", "profile_path"]

logger = logging.getLogger(__name__)

#: What can be exported.
Level = Literal["cell", "site", "well", "treatment", "unnormalised"]


def compare(first: Path, second: Path, *, seed: int = 0) -> dict[str, Any]:
    """Compare the scores of two runs, or of two sets of runs that differ in the seed alone, paired by treatment.

    Parameters
    ----------
    first, second
        A run folder, or a folder of `evaluate_table`, or a folder that holds several of either: one a seed.
    seed
        Decides bootstraps and permutations.

    Returns
    -------
    dict
        ``a``, ``b`` (what each is); ``nsc``, ``nscb``: see `cytoclr.evaluate.compare_matches`, None where one side
        has no such score; ``notes``, what a reader must know.

    Raises
    ------
    DataError
        A folder holds no scores, or the two were scored by other protocols or mechanisms.
    """
    from cytoclr.evaluate import compare_runs

    sides = [[_read_scored(folder) for folder in _find_scored(side)] for side in (first, second)]
    return compare_runs(sides[0], sides[1], names=(str(first), str(second)), seed=seed)


def _find_scored(folder: Path) -> list[Path]:
    """The folder itself, or those in it that hold scores."""
    if (folder / "scores.json").is_file():
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    scored = [path for path in inner if (path / "scores.json").is_file()]
    if not scored:
        raise DataError(
            f"{folder}: holds no scores.json, nor does a folder in it. Expected a run after evaluate, or several of "
            "them."
        )
    others = [path.name for path in inner if path not in scored]
    if others:
        logger.warning("%s: %d folders without scores are left out: %s", folder, len(others), list_some(others))
    return scored


def _read_scores(folder: Path) -> dict[str, Any]:
    scores = read_json(folder / "scores.json")
    if not isinstance(scores, dict) or not {"protocol", "normalisation", "labels_seen"} <= set(scores):
        raise DataError(f"{folder / 'scores.json'}: not what evaluate writes. Evaluate again.")
    return scores


def _read_scored(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    scores, matches = _read_scores(folder), folder / "matches.parquet"
    if not matches.is_file():
        raise DataError(f"{matches}: no such file beside scores.json. Evaluate again.")
    return scores, read_table(matches)


def export(run: Path, out: Path, *, level: Level = "well", features: str = TRAINED) -> Path:
    """Write profiles of a run, or of `evaluate_table`, to one file for other programs.

    Parameters
    ----------
    run
        The folder.
    out
        The file: ``.h5ad`` (AnnData), ``.parquet`` or ``.csv.gz`` (as pycytominer and copairs take them).
    level
        ``cell`` (embeddings), ``site``, ``well``, ``treatment``, all normalised but cells; ``unnormalised`` wells.
    features
        ``trained``, or the name of a baseline of the run.

    Raises
    ------
    SettingsError
        The file exists, has another ending, or anndata is not installed.
    DataError
        The folder has no such table.
    """
    from cytoclr.data.readers.h5ad import write_h5ad

    if out.exists():
        raise SettingsError(f"{out}: exists. Choose another name; nothing was changed.")
    path = run / (embeddings_path(features) if level == "cell" else profile_path(features, level))
    if not path.is_file():
        raise DataError(
            f"{path}: no such table. A run has cells, sites, wells and treatments of its encoder and of its baselines "
            "once it is profiled; a scored table has wells and treatments."
        )
    table = read_table(path)
    if out.name.endswith(".h5ad"):
        scored = _read_scores(run) if (run / "scores.json").is_file() else {}
        about = {name: scored.get(name) for name in ("normalisation", "labels_seen")}
        write_h5ad(out, table, about={"cytoclr": version("cytoclr"), "level": level, "features": features, **about})
    elif out.name.endswith(".parquet"):
        write_table(out, table)
    elif out.name.endswith((".csv.gz", ".csv")):
        with open_atomic(out) as file:
            table.to_csv(file, index=False, compression="gzip" if out.suffix == ".gz" else None)
    else:
        raise SettingsError(f"{out}: expected a name that ends in .h5ad, .parquet, .csv or .csv.gz.")
    return out


def embeddings_path(name: str) -> str:
    """Where a run keeps the embeddings of the trained encoder, or of a baseline."""
    return "embeddings.parquet" if name == TRAINED else f"baselines/{name}.parquet"


def profile_path(name: str, level: str) -> str:
    """Where a run keeps the profiles of the trained encoder, or of a baseline."""
    return f"profiles/{level}.parquet" if name == TRAINED else f"profiles/{name}/{level}.parquet"
