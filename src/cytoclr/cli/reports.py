"""The verbs that show results: the report of a run, of several beside each other, and served to a browser."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoclr.cli.app import CONFIG_PATH, Changes, Debug, Model, SkipMissing, app, guard, refuse, start_log
from cytoclr.cli.stages import bring_up

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["report", "serve"]

Host = Annotated[str, typer.Option(help="Address to listen at. Any but this machine's own shows the run to others.")]
Port = Annotated[int, typer.Option(help="Port to listen at; 0: one that is free.", min=0, max=65535)]


@app.command()
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CONFIG | RUN | RUN RUN …]", help="A config, a run, or several runs to compare."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; of several runs, the page. Default: runs/…, comparison.html.")
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also draw RUN/figures and write RUN/tables.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Then serve it to a browser, with all cells.")] = False,
    model: Model = None,
    changes: Changes = None,
    skip_missing: SkipMissing = False,
    debug: Debug = False,
) -> None:
    """Go on to the report of a run; or put several runs on one page."""
    given = paths or [CONFIG_PATH]
    console = start_log(debug)
    if len(given) > 1:
        alone = [figures, live, model, changes, skip_missing]
        guard(lambda: _compare(given, out or Path("comparison.html"), asks_for_more=any(alone)), debug)
        return
    config, run = given[0], out or Path("runs") / given[0].stem
    if config.is_dir():
        guard(lambda: None if out is None else refuse("--out: a run's report lies in the run."), debug)
        config, run = given[0] / "config.yaml", given[0]
    bring_up("report", config, run, changes, model=model, skip_missing=skip_missing, debug=debug)
    if figures:
        guard(lambda: _draw_figures(run), debug)
    if live:
        guard(lambda: _serve(run, "127.0.0.1", 0, console), debug)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(help="A run folder, evaluated.")],
    host: Host = "127.0.0.1",
    port: Port = 8050,
    debug: Debug = False,
) -> None:
    """Show a run in a browser on this machine, with the pictures of all its cells; Ctrl-C ends it."""
    console = start_log(debug)
    guard(lambda: _serve(run, host, port, console), debug)


def _compare(runs: list[Path], out: Path, *, asks_for_more: bool) -> None:
    from cytoclr.reports import compare_in_report

    missing = next((path for path in runs if not path.is_dir()), None)
    if missing is not None:
        refuse(f"{missing}: is not a folder. Expected run folders where there are several, to compare them.")
    if asks_for_more:
        refuse("--figures, --live, --model, --set and --skip-missing are for one run, and there are several.")
    typer.echo(f"compare  {compare_in_report(runs, out)}")


def _draw_figures(run: Path) -> None:
    from cytoclr.reports import draw_figures

    drawn = draw_figures(run)
    typer.echo(f"figures  {run / 'figures'}, {run / 'tables'}: {len(drawn)} files")


def _serve(run: Path, host: str, port: int, console: "Console") -> None:
    from cytoclr.serve import open_server
    from cytoclr.stopping import Stopped
    from cytoclr.terminal import terminal_progress

    with contextlib.ExitStack() as opened:
        with terminal_progress(console) as progress:
            server = opened.enter_context(open_server(run, host=host, port=port, progress=progress))
        typer.echo(f"serving  {server.url} (Ctrl-C ends it)")
        with contextlib.suppress(Stopped):
            server.serve_forever()
        typer.echo("serving  ended")
