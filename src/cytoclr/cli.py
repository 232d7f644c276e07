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
    config: Config = _CONFIG,
    out: Out = None,
    changes: Changes = None,
    skip_missing: SkipMissing = False,
    debug: Debug = False,
    profiles: Annotated[Path | None, typer.Option(help="Score this table of wells (CSV, Parquet) instead.")] = None,
    screen: Annotated[Path | None, typer.Option(help="With --profiles: what is in each well (image table).")] = None,
    mechanisms: Annotated[Path | None, typer.Option(help="With --profiles: the mechanisms.")] = None,
    normalise: Annotated[
        str, typer.Option(help="With --profiles: none, plate-zscore, plate-mad, plate-percentile, whitening, tvn.")
    ] = "none",
    protocol: Annotated[str, typer.Option(help="With --profiles: how to score.")] = "treatment-mean",
) -> None:
    """Go on to the scores; or score anyone's table of well profiles."""
    if profiles is None:
        _bring_up("evaluate", config, out, changes, skip_missing=skip_missing, debug=debug)
        return

    def work() -> None:
        if screen is None or mechanisms is None:
            _refuse("--profiles needs --screen (what is in each well) and --mechanisms.")
        from cytoclr.config import Bbbc021Settings, check_settings
        from cytoclr.pipeline import evaluate_table

        chosen = {
            "screen": {"reader": "bbbc021", "image_table": str(screen), "images": str(screen.parent)},
            "profile": {"normalise": normalise},
            "evaluate": {"protocol": protocol},
        }
        settings = check_settings(chosen, source="command line", folder=Path.cwd(), changes=_parse_changes(changes))
        assert isinstance(settings.screen, Bbbc021Settings)
        place = out or Path("runs") / profiles.name.split(".")[0]
        scores = evaluate_table(
            profiles,
            screen,
            mechanisms,
            place,
            profile_settings=settings.profile,
            evaluate_settings=settings.evaluate,
            batch_pattern=settings.screen.batch_pattern,
            controls=settings.screen.controls,
            seed=settings.seed,
        )
        _tell_scores(scores)
        typer.echo(f"scores   {place / 'scores.json'}")

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
    if scores.get("nsc") is None:
        typer.echo(f"no score: {scores.get('reason') or ' '.join(scores.get('notes', []))}")
        return
    rows = {"this": scores, **scores.get("baselines", {})}
    for features, values in rows.items():
        for name in ("nsc", "nscb"):
            score = values.get(name)
            if score is None or not score["total"]:
                continue
            low, high = score["interval"]
            whose = "" if features == "this" else f"  {features}"
            typer.echo(
                f"{name.upper():<5} {score['correct']} of {score['total']} = {score['score']:.1%} "
                f"[{low:.0%}, {high:.0%}], chance {score['chance']['mean']:.0%}{whose}"
            )
    typer.echo(f"protocol {scores['protocol']['name']}, normalisation {scores['normalisation']}")
    for note in scores.get("notes", []):
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
