"""One verb per stage: it brings a run up to there."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cytoclr.cli.app import CONFIG_PATH, Changes, Config, Debug, Out, SkipMissing, app, guard, parse_changes, start_log
from cytoclr.cli.words import tell_scores

if TYPE_CHECKING:
    from cytoclr.config import Settings
    from cytoclr.pipeline import Stage

__all__ = ["bring_up", "read_run_settings"]


@app.command()
def demo(out: Out = None, changes: Changes = None, debug: Debug = False) -> None:
    """Do everything on a virtual screen: no data needed, under three minutes on a laptop."""
    bring_up("report", None, out or Path("runs/demo"), changes, debug=debug)


def _add_verb(name: str, until: "Stage", text: str) -> None:
    """Add the command that brings a run up to a stage: all take the same arguments."""

    @app.command(name, help=text)
    def verb(
        config: Config = CONFIG_PATH,
        out: Out = None,
        changes: Changes = None,
        skip_missing: SkipMissing = False,
        debug: Debug = False,
    ) -> None:
        bring_up(until, config, out, changes, skip_missing=skip_missing, debug=debug)


_add_verb("run", "report", "Do everything: crop to report. Stop any time, run again to go on.")
_add_verb("crop", "crop", "Locate the cells and cut them out.")
_add_verb("train", "train", "Go on to the trained encoder.")
_add_verb("embed", "embed", "Go on to the embeddings of all cells.")
_add_verb("profile", "profile", "Go on to the profiles of sites, wells and treatments.")
_add_verb("report", "report", "Go on to the report.")


def bring_up(
    until: "Stage",
    config: Path | None,
    out: Path | None,
    changes: list[str] | None,
    *,
    skip_missing: bool = False,
    debug: bool = False,
) -> None:
    """Bring a run up to a stage and say where its result is."""
    console = start_log(debug)

    def work() -> None:
        from cytoclr import pipeline
        from cytoclr.terminal import terminal_progress

        settings = read_run_settings(config, changes, skip_missing=skip_missing)
        place = out or Path("runs") / (config or CONFIG_PATH).stem
        with terminal_progress(console) as progress:
            pipeline.run(settings, place, until=until, progress=progress)
        tell_result(until, place)

    guard(work, debug)


def read_run_settings(config: Path | None, changes: list[str] | None, *, skip_missing: bool) -> "Settings":
    """Read the settings of a run, with what the command line changes; no config: the demo's."""
    from cytoclr.config import check_settings, read_settings

    values = parse_changes(changes)
    if skip_missing:
        values["crop.skip_missing"] = True
    if config is None:
        return check_settings({"screen": {"reader": "virtual"}}, source="--set", folder=Path.cwd(), changes=values)
    return read_settings(config, changes=values)


def tell_result(until: str, place: Path) -> None:
    from cytoclr.storage import read_json

    if until in {"evaluate", "report"}:
        tell_scores(read_json(place / "scores.json"))
    results = {"crop": "crops", "train": "model", "embed": "embeddings.parquet", "profile": "profiles"}
    results |= {"evaluate": "scores.json", "report": "report.html"}
    typer.echo(f"{until:<8} {place / results[until]}")
