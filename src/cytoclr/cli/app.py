"""What all verbs share: the application, their common options, and how whatever happens becomes a sentence."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

__all__ = [
    "CONFIG_PATH",
    "Changes",
    "Config",
    "Debug",
    "Model",
    "Out",
    "SkipMissing",
    "app",
    "guard",
    "parse_changes",
    "parse_pairs",
    "refuse",
    "start_log",
]

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
Model = Annotated[
    Path | None, typer.Option(help="Embed with this model folder or checkpoint made elsewhere; nothing is trained.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]

CONFIG_PATH = Path("config.yaml")


def start_log(debug: bool) -> Any:
    """Show the log on the terminal; return its console."""
    from rich.console import Console

    from cytoclr.terminal import show_log

    console = Console(stderr=True, soft_wrap=True)
    show_log(console, debug=debug)
    return console


def guard(work: Callable[[], None], debug: bool) -> None:
    """Turn whatever happens into one sentence and the exit code of cytoclr.errors."""
    from cytoclr.errors import CytoclrError, MachineError
    from cytoclr.stopping import Stopped, listen

    try:
        with listen():
            work()
    except Stopped as stop:
        _leave(f"Stopped ({stop}). Run the same command again to go on from here.", stop.exit_code)
    except CytoclrError as error:
        if debug:
            raise
        _leave(f"{error} [{error.code}]" if error.code else str(error), error.exit_code)
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


def _leave(sentence: str, code: int) -> NoReturn:
    typer.echo(f"cytoclr: {sentence}", err=True)
    raise typer.Exit(code)


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Read what ``--set`` changes, each value as YAML would have it."""
    from cytoclr.config import parse_text

    parsed = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key:
            refuse(f"--set {change}: expected KEY=VALUE, as --set train.epochs=3.")
        # to YAML, {plate}/{well}.tif is a broken table; a template is meant
        is_template = re.match(r"\{\w+\}", text) is not None
        parsed[key] = text if is_template else parse_text(text, source=f"--set {change}")[0]
    return parsed


def parse_pairs(pairs: list[str] | None, option: str, expected: str) -> dict[str, str]:
    """Read options of the form KEY=VALUE, each key once."""
    parsed = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            refuse(f"{option} {pair}: expected {expected}.")
        if key in parsed:
            refuse(f"{option} {key} stands twice. Keep one.")
        parsed[key] = value
    return parsed


def refuse(sentence: str) -> NoReturn:
    """Refuse arguments that make no sense."""
    from cytoclr.errors import SettingsError

    raise SettingsError(sentence)
