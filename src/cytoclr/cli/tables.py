"""Verbs for tables of profiles: score anyone's, compare, export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cytoclr.cli.app import (
    CONFIG_PATH,
    Changes,
    Config,
    Debug,
    Model,
    Out,
    SkipMissing,
    app,
    guard,
    parse_changes,
    parse_pairs,
    refuse,
    start_log,
)
from cytoclr.cli.stages import bring_up
from cytoclr.cli.words import tell_comparison, tell_scores

__all__: list[str] = []


@app.command()
def evaluate(
    context: typer.Context,
    config: Config = CONFIG_PATH,
    out: Out = None,
    changes: Changes = None,
    skip_missing: SkipMissing = False,
    model: Model = None,
    debug: Debug = False,
    profiles: Annotated[
        Path | None, typer.Option(help="Score this table instead: CSV, Parquet, h5ad, or a folder of them or of npz.")
    ] = None,
    screen: Annotated[Path | None, typer.Option(help="What is in each well: a plate map or an image table.")] = None,
    mechanisms: Annotated[Path | None, typer.Option(help="Compound, concentration, mechanism.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="KEY=NAME", help="The tables' own name: --column compound=pert_iname."),
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="none (the default), plate-zscore, tvn …, or several: plate-mad,whitening.")
    ] = None,
    normaliser: Annotated[
        Path | None, typer.Option(help="Apply this profiles/normaliser.safetensors of a run instead.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="How to score; all: by every protocol.")] = "treatment-mean",
    baselines: Annotated[
        list[str] | None, typer.Option("--baseline", metavar="NAME=TABLE", help="Another table to compare with.")
    ] = None,
    labels_seen: Annotated[
        str, typer.Option(help="What the model was told: none, plates, treatments, mechanisms.")
    ] = "none",
) -> None:
    """Go on to the scores; or, with --profiles, score anyone's table of profiles (options from --screen on)."""
    given = {name for name in context.params if _is_given(context, name)}
    if profiles is None:
        start_log(debug)
        guard(lambda: _refuse_options(given & _OF_TABLES, "go with --profiles only"), debug)
        bring_up("evaluate", config, out, changes, skip_missing=skip_missing, model=model, debug=debug)
        return

    def work() -> None:
        from cytoclr.config import Bbbc021Settings, check_settings
        from cytoclr.pipeline import evaluate_table
        from cytoclr.terminal import terminal_progress

        _refuse_options(
            given & {"config", "skip_missing", "model"}, "say nothing of a table: leave --profiles out, or them"
        )
        changed = parse_changes(changes)
        if normaliser is not None and (normalise is not None or "profile.normalise" in changed):
            refuse("--normalise and --normaliser exclude each other: fit anew, or apply what was fitted.")
        everywhere = protocol == "all"
        chosen = {
            # the screen's settings hold what a table does not tell: batches, controls
            "screen": {"reader": "bbbc021", "image_table": "none", "images": "none"},
            "profile": {"normalise": normalise or "none"},
            "evaluate": {
                "protocol": "treatment-mean" if everywhere else protocol,
                "baselines": parse_pairs(baselines, "--baseline", "NAME=TABLE, as --baseline cellprofiler=wells.csv"),
            },
        }
        settings = check_settings(chosen, source="command line", folder=Path.cwd(), changes=changed)
        assert isinstance(settings.screen, Bbbc021Settings)
        place = out or Path("runs") / (profiles.name.removesuffix(".gz").rpartition(".")[0] or profiles.name)
        with terminal_progress(console) as progress:
            scores = evaluate_table(
                profiles,
                place,
                screen=screen,
                mechanisms=mechanisms,
                columns=parse_pairs(columns, "--column", "KEY=NAME, as --column compound=pert_iname"),
                profile_settings=settings.profile,
                evaluate_settings=settings.evaluate,
                normaliser=normaliser,
                all_protocols=everywhere,
                labels_seen=_check_labels_seen(labels_seen),
                batch_pattern=settings.screen.batch_pattern,
                controls=settings.screen.controls,
                positive_controls=settings.screen.positive_controls,
                seed=settings.seed,
                progress=progress,
            )
        tell_scores(scores)
        typer.echo(f"scores   {place / 'scores.json'}")

    console = start_log(debug)
    guard(work, debug)


#: Options of `evaluate` that mean nothing without --profiles.
_OF_TABLES = {"screen", "mechanisms", "columns", "normalise", "normaliser", "protocol", "baselines", "labels_seen"}


def _is_given(context: typer.Context, name: str) -> bool:
    """Tell whether a user gave an option, or it has its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in {"DEFAULT", "DEFAULT_MAP"}


def _refuse_options(names: set[str], problem: str) -> None:
    spelled = {"columns": "--column", "baselines": "--baseline", "config": "a config"}
    if names:
        told = ", ".join(sorted(spelled.get(name, f"--{name.replace('_', '-')}") for name in names))
        refuse(f"{told}: {problem}.")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run, or a folder of runs: one a seed.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    out: Annotated[Path | None, typer.Option(help="Write what was found to this file (JSON).")] = None,
    debug: Debug = False,
) -> None:
    """Compare the scores of two runs, paired by treatment; differences inside the noise are not ranked."""

    def work() -> None:
        from cytoclr.results import compare as compare_runs
        from cytoclr.storage import write_json

        found = compare_runs(first, second)
        tell_comparison(found)
        if out is not None:
            write_json(out, found)
            typer.echo(f"compare  {out}")

    start_log(debug)
    guard(work, debug)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, or the folder of a table's scores.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .h5ad, .parquet or .csv.gz; or a folder.")],
    to: Annotated[
        str | None,
        typer.Option(help="h5ad, pycytominer, embedding-atlas, cellpainting-gallery (a folder); else by the ending."),
    ] = None,
    level: Annotated[str, typer.Option(help="cell, site, well, treatment, or unnormalised (wells).")] = "well",
    features: Annotated[str, typer.Option(help="trained, or a baseline: untrained, intensities …")] = "trained",
    debug: Debug = False,
) -> None:
    """Write profiles for other programs: AnnData, pycytominer, copairs, Embedding Atlas, the Cell Painting Gallery."""

    def work() -> None:
        from typing import get_args

        from cytoclr.results import ExportFormat, Level
        from cytoclr.results import export as export_profiles

        for name, value, allowed in (("level", level, get_args(Level)), ("to", to, (None, *get_args(ExportFormat)))):
            if value not in allowed:
                refuse(f"--{name} {value}: expected one of {', '.join(filter(None, allowed))}.")
        written = export_profiles(run, out, to=to, level=level, features=features)  # type: ignore[arg-type]
        typer.echo(f"export   {written}")

    start_log(debug)
    guard(work, debug)


def _check_labels_seen(value: str) -> Any:
    from typing import get_args

    from cytoclr.config import LabelsSeen

    if value not in get_args(LabelsSeen):
        refuse(f"--labels-seen {value}: expected one of {', '.join(get_args(LabelsSeen))}.")
    return value
