"""Verbs that come before a run: fetch a public screen, and write a config for the plates at hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cytoclr.cli.app import CONFIG_PATH, Debug, app, guard, refuse, start_log

if TYPE_CHECKING:
    from cytoclr.data.fetch import FetchReport

__all__ = ["fetch", "init"]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the plates' images (or ready crops) lie.")],
    metadata: Annotated[Path | None, typer.Option(help="Plate map: compound and concentration of each well.")] = None,
    mechanisms: Annotated[Path | None, typer.Option(help="Compound, concentration, mechanism.")] = None,
    out: Annotated[Path, typer.Option(help="The config file to write.")] = CONFIG_PATH,
    debug: Debug = False,
) -> None:
    """Look at names, channels, bit depth and cell size, and write a config in which every guess is marked."""

    def work() -> None:
        from cytoclr.data.guess import guess_settings, write_config
        from cytoclr.storage import write_text

        if out.exists():
            refuse(f"{out}: exists. It is not replaced: move it away, or choose another --out.")
        guess = guess_settings(folder, metadata=metadata, mechanisms=mechanisms)
        write_text(out, write_config(guess))
        for note in guess.notes:
            typer.echo(f"note     {note}")
        typer.echo(f"init     {out}")
        typer.echo(f"next     read it (guesses are marked), then: cytoclr check {out}")

    start_log(debug)
    guard(work, debug)


fetch = typer.Typer(help="Fetch a public screen; what is there is kept, what was cut short goes on.")
app.add_typer(fetch, name="fetch")

Folder = Annotated[Path, typer.Argument(help="Where to put it.")]
Plates = Annotated[list[str] | None, typer.Option("--plate", help="This plate only; may be given several times.")]


@fetch.command()
def bbbc021(
    folder: Folder = Path("bbbc021"),
    weeks: Annotated[
        list[int] | None, typer.Option("--week", help="This week only; several times for several.")
    ] = None,
    plates: Plates = None,
    source: Annotated[str, typer.Option(help="broad or gallery (the Cell Painting Gallery, S3).")] = "broad",
    locations: Annotated[
        bool,
        typer.Option("--locations", help="Also the cells' centres of Ljosa et al., as the 2020 project used them."),
    ] = False,
    debug: Debug = False,
) -> None:
    """BBBC021: MCF-7 cells under 113 compounds; images, metadata, mechanisms."""

    def work() -> None:
        from cytoclr.data.fetch import fetch_bbbc021
        from cytoclr.terminal import terminal_progress

        if source not in {"broad", "gallery"}:
            refuse(f"--source {source}: expected broad or gallery.")
        with terminal_progress(console) as progress:
            report = fetch_bbbc021(
                folder,
                weeks=weeks,
                plates=plates,
                source=cast('Literal["broad", "gallery"]', source),
                locations=locations,
                progress=progress,
            )
        _tell_report(report)

    console = start_log(debug)
    guard(work, debug)


@fetch.command()
def gallery(
    project: Annotated[str, typer.Argument(help="As cpg0016-jump.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to put it. Default: the project's name.")] = None,
    source: Annotated[
        str | None, typer.Option(help="The institution's folder, as source_4; default: the only one.")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="This batch only.")] = None,
    plates: Plates = None,
    debug: Debug = False,
) -> None:
    """Plates of a project of the Cell Painting Gallery: images, LoadData tables, illumination functions."""

    def work() -> None:
        from cytoclr.data.fetch import fetch_gallery
        from cytoclr.terminal import terminal_progress

        with terminal_progress(console) as progress:
            report = fetch_gallery(
                project, folder or Path(project), source=source, batch=batch, plates=plates, progress=progress
            )
        _tell_report(report)

    console = start_log(debug)
    guard(work, debug)


def _tell_report(report: "FetchReport") -> None:
    typer.echo(
        f"fetched  {len(report.fetched):,} files, {report.num_bytes / 1e9:.2f} GB; {len(report.kept):,} were there; "
        f"{report.num_images:,} images now in {report.folder}"
    )
    for name, reason in list(report.left_out.items())[:10]:
        typer.echo(f"left out {name}: {reason}")
    if len(report.left_out) > 10:
        typer.echo(f"left out {len(report.left_out) - 10:,} more")
    for table in report.tables:
        typer.echo(f"table    {report.folder / table}")
    typer.echo(f"notice   {report.notice}")
    typer.echo(f"next     cytoclr init {report.folder}")
