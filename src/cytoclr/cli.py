"""The command line: one verb per stage; it reads arguments, calls the pipeline and prints.

Heavy imports stay inside functions, so that ``cytoclr --help`` answers at once.
"""

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from cytoclr.config import Settings
    from cytoclr.pipeline import Stage

__all__ = ["app", "main"]

app = typer.Typer(
    help="SimCLR for image-based cell profiling: from microscope plates to scored treatment profiles.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Argument(help="Settings: ours, or a config of the 2020 project.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<name of the config file>.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set train.epochs=3.")
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out sites whose files are missing; count and list them.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]

_CONFIG = Path("config.yaml")


@app.command()
def demo(out: Out = None, changes: Changes = None, debug: Debug = False) -> None:
    """Do everything on a virtual screen: no data needed, under three minutes on a laptop."""
    _bring_up("report", None, out or Path("runs/demo"), changes, debug=debug)


def _add_verb(name: str, until: "Stage", text: str) -> None:
    """Add the command that brings a run up to a stage: all take the same arguments."""

    @app.command(name, help=text)
    def verb(
        config: Config = _CONFIG,
        out: Out = None,
        changes: Changes = None,
        skip_missing: SkipMissing = False,
        debug: Debug = False,
    ) -> None:
        _bring_up(until, config, out, changes, skip_missing=skip_missing, debug=debug)


_add_verb("run", "report", "Do everything: crop to report. Stop any time, run again to go on.")
_add_verb("crop", "crop", "Locate the cells and cut them out.")
_add_verb("train", "train", "Go on to the trained encoder.")
_add_verb("embed", "embed", "Go on to the embeddings of all cells.")
_add_verb("profile", "profile", "Go on to the profiles of sites, wells and treatments.")


@app.command()
def evaluate(
    context: typer.Context,
    config: Config = _CONFIG,
    out: Out = None,
    changes: Changes = None,
    skip_missing: SkipMissing = False,
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
        _start_log(debug)
        _guard(lambda: _refuse_options(given & _OF_TABLES, "go with --profiles only"), debug)
        _bring_up("evaluate", config, out, changes, skip_missing=skip_missing, debug=debug)
        return

    def work() -> None:
        from cytoclr.config import Bbbc021Settings, check_settings
        from cytoclr.pipeline import evaluate_table
        from cytoclr.terminal import terminal_progress

        _refuse_options(given & {"config", "skip_missing"}, "say nothing of a table: leave --profiles out, or them")
        changed = _parse_changes(changes)
        if normaliser is not None and (normalise is not None or "profile.normalise" in changed):
            _refuse("--normalise and --normaliser exclude each other: fit anew, or apply what was fitted.")
        everywhere = protocol == "all"
        chosen = {
            # the screen's settings hold what a table does not tell: batches, controls
            "screen": {"reader": "bbbc021", "image_table": "none", "images": "none"},
            "profile": {"normalise": normalise or "none"},
            "evaluate": {
                "protocol": "treatment-mean" if everywhere else protocol,
                "baselines": _parse_pairs(baselines, "--baseline", "NAME=TABLE, as --baseline cellprofiler=wells.csv"),
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
                columns=_parse_pairs(columns, "--column", "KEY=NAME, as --column compound=pert_iname"),
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
        _tell_scores(scores)
        typer.echo(f"scores   {place / 'scores.json'}")

    console = _start_log(debug)
    _guard(work, debug)


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
        _refuse(f"{told}: {problem}.")


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
        _tell_comparison(found)
        if out is not None:
            write_json(out, found)
            typer.echo(f"compare  {out}")

    _start_log(debug)
    _guard(work, debug)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, or the folder of a table's scores.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .h5ad, .parquet or .csv.gz.")],
    level: Annotated[str, typer.Option(help="cell, site, well, treatment, or unnormalised (wells).")] = "well",
    features: Annotated[str, typer.Option(help="trained, or a baseline: untrained, intensities …")] = "trained",
    debug: Debug = False,
) -> None:
    """Write profiles to one file for other programs: AnnData, pycytominer, copairs."""

    def work() -> None:
        from typing import get_args

        from cytoclr.results import Level
        from cytoclr.results import export as export_profiles

        if level not in get_args(Level):
            _refuse(f"--level {level}: expected one of {', '.join(get_args(Level))}.")
        typer.echo(f"export   {export_profiles(run, out, level=level, features=features)}")  # type: ignore[arg-type]

    _start_log(debug)
    _guard(work, debug)


_add_verb("report", "report", "Go on to the report.")


def _bring_up(
    until: "Stage",
    config: Path | None,
    out: Path | None,
    changes: list[str] | None,
    *,
    skip_missing: bool = False,
    debug: bool = False,
) -> None:
    """Bring a run up to a stage and say where its result is."""
    console = _start_log(debug)

    def work() -> None:
        from cytoclr import pipeline
        from cytoclr.terminal import terminal_progress

        settings = _read_settings(config, changes, skip_missing=skip_missing)
        place = out or Path("runs") / (config or _CONFIG).stem
        with terminal_progress(console) as progress:
            pipeline.run(settings, place, until=until, progress=progress)
        _tell_result(until, place)

    _guard(work, debug)


def _read_settings(config: Path | None, changes: list[str] | None, *, skip_missing: bool) -> "Settings":
    from cytoclr.config import check_settings, read_settings

    values = _parse_changes(changes)
    if skip_missing:
        values["crop.skip_missing"] = True
    if config is None:
        return check_settings({"screen": {"reader": "virtual"}}, source="--set", folder=Path.cwd(), changes=values)
    return read_settings(config, changes=values)


def _parse_changes(changes: list[str] | None) -> dict[str, Any]:
    from cytoclr.config import parse_text

    parsed = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key:
            _refuse(f"--set {change}: expected KEY=VALUE, as --set train.epochs=3.")
        parsed[key], _ = parse_text(text, source=f"--set {change}")
    return parsed


def _parse_pairs(pairs: list[str] | None, option: str, expected: str) -> dict[str, str]:
    parsed = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            _refuse(f"{option} {pair}: expected {expected}.")
        if key in parsed:
            _refuse(f"{option} {key} stands twice. Keep one.")
        parsed[key] = value
    return parsed


def _check_labels_seen(value: str) -> Any:
    from typing import get_args

    from cytoclr.config import LabelsSeen

    if value not in get_args(LabelsSeen):
        _refuse(f"--labels-seen {value}: expected one of {', '.join(get_args(LabelsSeen))}.")
    return value


def _refuse(sentence: str) -> NoReturn:
    from cytoclr.errors import SettingsError

    raise SettingsError(sentence)


def _tell_result(until: str, place: Path) -> None:
    from cytoclr.storage import read_json

    if until in {"evaluate", "report"}:
        _tell_scores(read_json(place / "scores.json"))
    results = {"crop": "crops", "train": "model", "embed": "embeddings.parquet", "profile": "profiles"}
    results |= {"evaluate": "scores.json", "report": "report.html"}
    typer.echo(f"{until:<8} {place / results[until]}")


def _tell_scores(scores: dict[str, Any]) -> None:
    """Say what was scored, then each table of features on a few lines, then what must be known of it."""
    counts = ", ".join(f"{number:,} {name}" for name, number in scores["counts"].items())
    typer.echo(f"scored   {counts}")
    typer.echo(f"by       protocol {scores['protocol']['name']}, normalisation {scores['normalisation']}")
    beside = {(of["b"], of["score"]): of for of in scores["comparisons"]}
    for features, values in {"this": scores, **scores["baselines"]}.items():
        typer.echo(features)
        for name in ("nsc", "nscb"):
            if values[name]:
                typer.echo(f"  {name.upper():<5}{_describe_score(values[name])}{_rank(beside.get((features, name)))}")
        if features == "this" and values["drop"] is not None:
            typer.echo(f"  drop {100 * values['drop']:.1f} points from NSC to NSCB on the same treatments")
        _tell_measures(values)
    _tell_nuisance(scores["nuisance"])
    of = scores["geometry"]
    if of["effective_rank"]:
        typer.echo(f"rank     {of['effective_rank']:.1f} effective, of {of['num_features']} features")
    _tell_protocols(scores.get("protocols", {}))
    for note in scores["notes"]:
        typer.echo(f"note     {note}")


def _describe_score(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return (
        f"{score['correct']} of {score['total']} = {score['score']:.1%} [{low:.0%}, {high:.0%}], "
        f"chance {score['chance']['mean']:.0%}"
    )


def _rank(comparison: dict[str, Any] | None) -> str:
    """How a baseline stands to the profiles that are scored."""
    if comparison is None:
        return ""
    words = {"a": "worse than this", "b": "better than this", "undecided": "not told apart from this"}
    low, high = comparison["interval"]
    gain, low, high = (0.0 - 100 * value for value in (comparison["gain"], high, low))  # never -0.0
    return (
        f"; {words[comparison['verdict']]} ({gain:+.1f} points [{low:+.1f}, {high:+.1f}])"
        f"{', leaks' if comparison['leaks'] else ''}"
    )


def _tell_measures(values: dict[str, Any]) -> None:
    if values["activity"]:
        of = values["activity"]
        low, high = of["interval"]
        typer.echo(
            f"  mAP  {of['map']:.2f} [{low:.2f}, {high:.2f}] of replicates against controls, chance "
            f"{of['chance']:.2f}; {of['active']} of {of['total']} treatments active"
        )
    shares = [
        f"{of['share']:.0%} {word} ({of[word]} of {of['total']}, chance {of['chance']:.0%})"
        for word in ("replicating", "matching")
        if (of := values[word])
    ]
    if shares:
        typer.echo(f"  {', '.join(shares)}")


def _tell_nuisance(nuisance: dict[str, Any]) -> None:
    for name in ("batch", "plate"):
        told = {when: of[name] for when, of in nuisance.items() if of is not None and of[name] is not None}
        if told:
            shares = ", ".join(f"{of['balanced_accuracy']:.0%} {when} normalisation" for when, of in told.items())
            typer.echo(f"{name:<9}of untreated wells told: {shares}, chance {next(iter(told.values()))['chance']:.0%}")


def _tell_protocols(protocols: dict[str, Any]) -> None:
    for name, scored in protocols.items():
        told = [f"{score.upper()} {_describe_score(scored[score])}" for score in ("nsc", "nscb") if scored.get(score)]
        text = "; ".join(told) or scored.get("reason", "no score")
        typer.echo(f"protocol {name:<15} {text} ({scored['normalisation']})")


def _tell_comparison(found: dict[str, Any]) -> None:
    for side in "ab":
        of = found[side]
        seeds = f"{of['num_seeds']} seed{'s' * (of['num_seeds'] > 1)}"
        typer.echo(f"{side.upper()}        {of['name']} ({seeds}, normalisation {'; '.join(of['normalisation'])})")
    for name in ("nsc", "nscb"):
        compared = found[name]
        if compared is None:
            typer.echo(f"{name.upper():<5}    not answered by both")
            continue
        low, high = compared["interval"]
        verdict = {"a": "A is better", "b": "B is better", "undecided": "not told apart"}[compared["verdict"]]
        a, b = (sum(scores) / len(scores) for scores in compared["scores"].values())
        typer.echo(
            f"{name.upper():<5}    A {a:.1%}, B {b:.1%} on the same {compared['num_treatments']} treatments of "
            f"{compared['num_compounds']} compounds: {100 * compared['gain']:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], p = {compared['p_value']:.2g}: {verdict}"
        )
    typer.echo(f"protocol {found['protocol']['name']}")
    for note in found["notes"]:
        typer.echo(f"note     {note}")


def _start_log(debug: bool) -> Any:
    from rich.console import Console

    from cytoclr.terminal import show_log

    console = Console(stderr=True, soft_wrap=True)
    show_log(console, debug=debug)
    return console


def _guard(work: Callable[[], None], debug: bool) -> None:
    """Turn whatever happens into one sentence and the exit code of cytoclr.errors."""
    from cytoclr.errors import CytoclrError, MachineError

    signal.signal(signal.SIGTERM, _stop_on_term)
    try:
        work()
    except KeyboardInterrupt:
        _leave("Stopped. Run the same command again to go on from here.", 128 + signal.SIGINT)
    except _Terminated:
        _leave("Terminated. Run the same command again to go on from here.", 128 + signal.SIGTERM)
    except CytoclrError as error:
        if debug:
            raise
        _leave(str(error), error.exit_code)
    except MemoryError as error:
        _leave(
            f"Out of memory ({error}). Use smaller minibatches, or set train.preload to false.", MachineError.exit_code
        )
    except OSError as error:
        if debug:
            raise
        _leave(f"The system refused: {error}.", MachineError.exit_code if error.errno in _MACHINE else 1)
    except Exception as error:  # the last resort: a bug becomes a sentence too
        if debug:
            raise
        _leave(
            f"A bug in cytoclr: {type(error).__name__}: {error}. Run again with --debug and report what it shows.", 1
        )


_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM}


class _Terminated(BaseException):
    """SIGTERM came."""


def _stop_on_term(number: int, frame: object) -> NoReturn:
    raise _Terminated


def _leave(sentence: str, code: int) -> NoReturn:
    typer.echo(f"cytoclr: {sentence}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line."""
    app()
