"""What is done with finished runs, and with scored tables: compare two, hand profiles to other programs."""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.storage import read_json, read_table
from cytoclr.tables import TRAINED, feature_matrix

__all__ = ["Level", "compare", "embeddings_path", "export", "profile_path", "read_scored"]

logger = logging.getLogger(__name__)

#: What can be exported.
Level = Literal["cell", "site", "well", "treatment", "unnormalised"]
#: As what.
ExportFormat = Literal["h5ad", "pycytominer", "embedding-atlas", "cellpainting-gallery"]
#: How the files are called; the Gallery's layout is a folder.
_ENDINGS: dict[ExportFormat, tuple[str, ...]] = {
    "h5ad": (".h5ad",),
    "pycytominer": (".parquet", ".csv", ".csv.gz"),
    "embedding-atlas": (".parquet",),
    "cellpainting-gallery": (),
}
#: Points laid out for Embedding Atlas, at most: some minutes of work; and the neighbours that UMAP goes by.
MAX_POINTS = 50_000
ATLAS_NEIGHBOURS = 15


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

    sides = [[read_scored(folder) for folder in _find_scored(side)] for side in (first, second)]
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


def read_scored(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read scores and matches of a run, or of `evaluate_table`."""
    scores, matches = _read_scores(folder), folder / "matches.parquet"
    if not matches.is_file():
        raise DataError(f"{matches}: no such file beside scores.json. Evaluate again.")
    return scores, read_table(matches)


def export(
    run: Path,
    out: Path,
    *,
    to: ExportFormat | None = None,
    level: Level = "well",
    features: str = TRAINED,
    seed: int = 0,
) -> Path:
    """Write profiles of a run, or of `evaluate_table`, for other programs.

    Parameters
    ----------
    run
        The folder.
    out
        The file or folder to write.
    to
        ``h5ad``: AnnData, a file that ends in ``.h5ad``. ``pycytominer``: a table as pycytominer and copairs take it,
        in ``.parquet``, ``.csv`` or ``.csv.gz``. ``embedding-atlas``: points with a place in the plane (UMAP), in
        ``.parquet``. ``cellpainting-gallery``: a folder laid out as the Gallery's, a file a plate. None: what the
        ending says, ``h5ad`` or ``pycytominer``.
    level
        ``cell`` (embeddings), ``site``, ``well``, ``treatment``, all normalised but cells; ``unnormalised`` wells.
    features
        ``trained``, or the name of a baseline of the run.
    seed
        Decides the layout of ``embedding-atlas``, and which rows it has if there are more than `MAX_POINTS`.

    Raises
    ------
    SettingsError
        `out` exists, has another ending, is of a level that the format does not have, or anndata is not installed.
    DataError
        The folder has no such table, or the table has too few rows to lay out.
    """
    if out.exists():
        raise SettingsError(f"{out}: exists. Choose another name; nothing was changed.")
    to = to or _tell_format(out)
    _check_out(out, to, level)
    path = run / (embeddings_path(features) if level == "cell" else profile_path(features, level))
    if not path.is_file():
        raise DataError(
            f"{path}: no such table. A run has cells, sites, wells and treatments of its encoder and of its baselines "
            "once it is profiled; a scored table has wells and treatments."
        )
    table = read_table(path)
    if to == "h5ad":
        _export_h5ad(run, out, table, {"level": level, "features": features})
    elif to == "pycytominer":
        from cytoclr.data.writers.profile_table import write_profile_table

        write_profile_table(out, table)
    elif to == "embedding-atlas":
        _export_atlas(out, table, seed)
    else:
        from cytoclr.data.writers.gallery import write_gallery

        write_gallery(out, table)
    return out


def _tell_format(out: Path) -> ExportFormat:
    for to in ("h5ad", "pycytominer"):
        if out.name.endswith(_ENDINGS[to]):
            return to
    raise SettingsError(
        f"{out}: expected a name that ends in .h5ad, .parquet, .csv or .csv.gz, or a format (--to) that has no ending."
    )


def _check_out(out: Path, to: ExportFormat, level: Level) -> None:
    endings = _ENDINGS[to]
    if endings and not out.name.endswith(endings):
        raise SettingsError(f"{out}: expected a name that ends in {' or '.join(endings)} for {to}.")
    if to == "cellpainting-gallery" and level not in ("well", "unnormalised"):
        raise SettingsError(
            f"level: the Gallery's profiles are of wells. Found {level}, expected well or unnormalised."
        )


def _export_h5ad(run: Path, out: Path, table: pd.DataFrame, about: Mapping[str, Any]) -> None:
    from cytoclr.data.readers.h5ad import write_h5ad

    scored = _read_scores(run) if (run / "scores.json").is_file() else {}
    told = {name: scored.get(name) for name in ("normalisation", "labels_seen")}
    write_h5ad(out, table, about={"cytoclr": version("cytoclr"), **about, **told})


def _export_atlas(out: Path, table: pd.DataFrame, seed: int) -> None:
    from cytoclr.data.writers.embedding_atlas import write_embedding_atlas
    from cytoclr.report.maps import MIN_POINTS, lay_out_profiles

    if len(table) > MAX_POINTS:
        logger.warning("%s: %d of %d rows, drawn at random, are laid out", out, MAX_POINTS, len(table))
        drawn = np.random.default_rng(seed).choice(len(table), size=MAX_POINTS, replace=False)
        table = table.iloc[np.sort(drawn)].reset_index(drop=True)
    features = feature_matrix(table)
    if not np.isfinite(features).all():
        raise DataError(f"{out}: the profiles hold values that are not finite, and cannot be laid out.")
    laid_out = lay_out_profiles(features, neighbours=ATLAS_NEIGHBOURS, seed=seed, max_tsne=0)
    layouts = {layout.method: layout for layout in laid_out}
    if not layouts:
        raise DataError(
            f"{out}: {len(table)} profiles cannot be laid out. Expected {MIN_POINTS} or more that are not all the same."
        )
    write_embedding_atlas(out, table, layouts["UMAP"].x, layouts["UMAP"].y)


def embeddings_path(name: str) -> str:
    """Where a run keeps the embeddings of the trained encoder, or of a baseline."""
    return "embeddings.parquet" if name == TRAINED else f"baselines/{name}.parquet"


def profile_path(name: str, level: str) -> str:
    """Where a run keeps the profiles of the trained encoder, or of a baseline."""
    return f"profiles/{level}.parquet" if name == TRAINED else f"profiles/{name}/{level}.parquet"
