"""Reports of finished runs: gather what one is made of, draw its figures, compare several on one page."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoclr.config import Settings, VirtualSettings, dump_settings, parse_yaml, read_settings
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.progress import Progress
from cytoclr.results import profile_path, read_scored
from cytoclr.storage import Manifest, read_json, read_table
from cytoclr.tables import TRAINED

if TYPE_CHECKING:
    from cytoclr.report import ComparedRun, ReportInputs

__all__ = ["compare_in_report", "draw_figures", "find_mechanism_table", "gather_inputs", "read_settings_of"]

logger = logging.getLogger(__name__)


def read_settings_of(run: Path) -> Settings:
    """Read the settings that a run was done with.

    Raises
    ------
    SettingsError
        The folder is not a run's.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise SettingsError(f"{run}: is not a run folder, it holds no config.yaml. Expected what `cytoclr run` made.")
    return read_settings(path)


def gather_inputs(run: Path, settings: Settings) -> "ReportInputs":
    """Gather what the report of an evaluated run is made of.

    Raises
    ------
    DataError
        A stage before the report is not finished.
    """
    from cytoclr.data.crops import CropStore
    from cytoclr.data.screen import read_mechanisms
    from cytoclr.profiles import list_warnings
    from cytoclr.report import ReportInputs

    told = {stage: _read_stage(run, stage).report for stage in ("crop", "profile", "evaluate")}
    trained = settings.embed.model is None
    views, table = run / "model" / "views.webp", find_mechanism_table(run, settings)
    counted = run / "wells.parquet"
    return ReportInputs(
        wells=read_table(run / profile_path(TRAINED, "well")),
        treatments=read_table(run / profile_path(TRAINED, "treatment")),
        cells=read_table(run / "cells.parquet"),
        crops=CropStore(run / "crops"),
        scores=read_json(run / "scores.json"),
        matches=read_table(run / "matches.parquet"),
        activity=read_table(run / "activity.parquet"),
        embeddings=read_table(run / "embeddings.parquet"),
        mechanisms=None if table is None else read_mechanisms(table),
        metrics=_read_lines(run / "model" / "metrics.jsonl") if trained else [],
        provenance=read_json(run / "provenance.json"),
        left_out=[f"{count:,} × {reason}" for reason, count in told["crop"]["left_out"].items()],
        counted=read_table(counted) if counted.is_file() else None,
        warnings=list_warnings(told["profile"][TRAINED]),
        settings_text=dump_settings(settings),
        views=views.read_bytes() if views.is_file() else None,
        augment=settings.train.augment,
    )


def _read_stage(run: Path, stage: str) -> Manifest:
    path = run / "manifests" / f"{stage}.json"
    if not path.is_file():
        raise DataError(f"{run}: the stage {stage} is not finished. `cytoclr run` goes on from where it was.")
    return Manifest.read(path)


def find_mechanism_table(run: Path, settings: Settings) -> Path | None:
    """Where the mechanisms are that a run is scored against: the user's, or those that were planted; None: nowhere."""
    from cytoclr.data.virtual import VirtualScreen

    given = settings.evaluate.mechanisms
    if given is None and isinstance(settings.screen, VirtualSettings):
        return VirtualScreen(run / "virtual").mechanism_table
    return given


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw_figures(run: Path, *, progress: Progress | None = None) -> list[Path]:
    """Draw a finished run's figures into ``RUN/figures`` (SVG, PNG, PDF), and write its tables into ``RUN/tables``.

    What was drawn before is drawn anew.

    Raises
    ------
    SettingsError, DataError
        The folder is not a run's, or its scores are not there yet.
    """
    from cytoclr.report.figures import write_figures, write_tables

    settings = read_settings_of(run)
    inputs = gather_inputs(run, settings)
    drawn = write_figures(run / "figures", inputs, settings.report, seed=settings.seed, progress=progress)
    return [*drawn, *write_tables(run / "tables", inputs)]


def compare_in_report(runs: Sequence[Path], out: Path, *, seed: int = 0) -> Path:
    """Write one page that compares two or more runs, the first with each of the others.

    Parameters
    ----------
    runs
        Run folders, or folders of `evaluate_table`.
    out
        The HTML file to write, new.
    seed
        Decides bootstraps, permutations and maps.

    Raises
    ------
    SettingsError
        There are fewer than two, one stands twice, or the file exists.
    DataError
        A folder holds no scores or no profiles, or two were scored by other protocols or mechanisms.
    """
    from cytoclr.evaluate import compare_runs
    from cytoclr.report import write_comparison

    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise SettingsError(f"expected two or more different runs to compare, got {list_some(list(map(str, runs)))}.")
    if out.exists():
        raise SettingsError(f"{out}: exists. Choose another --out; nothing was changed.")
    names = name_apart(runs)
    compared = [_read_compared(run, name) for run, name in zip(runs, names, strict=True)]
    first, *others = [(of.scores, of.matches) for of in compared]
    found = [
        compare_runs([first], [other], names=(names[0], name), seed=seed)
        for name, other in zip(names[1:], others, strict=True)
    ]
    write_comparison(out, compared, found, title=" against ".join(names), seed=seed)
    return out


def _read_compared(run: Path, name: str) -> "ComparedRun":
    from cytoclr.report import ComparedRun, leave_out_untreated

    scores, matches = read_scored(run)
    tables = {}
    for level in ("well", "treatment"):
        path = run / profile_path(TRAINED, level)
        if not path.is_file():
            raise DataError(f"{path}: no such table. Expected a run after profile, or a scored table.")
        tables[level] = read_table(path)
    settings = run / "config.yaml"
    return ComparedRun(
        name,
        scores,
        leave_out_untreated(tables["treatment"], tables["well"]),
        matches,
        metrics=_read_lines(run / "model" / "metrics.jsonl"),
        settings=_flatten(parse_yaml(settings)[0]) if settings.is_file() else None,
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested settings as ``--set`` names them.

    >>> _flatten({"seed": 0, "train": {"epochs": 3}})
    {'seed': 0, 'train.epochs': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def name_apart(folders: Sequence[Path]) -> list[str]:
    """Name folders by the ends of their paths, as short as tells them apart.

    >>> name_apart([Path("runs/a"), Path("runs/b")]), name_apart([Path("old/a"), Path("new/a")])
    (['a', 'b'], ['old/a', 'new/a'])
    """
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of[-length:]) for of in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("the same folder twice")
