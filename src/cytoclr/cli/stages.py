"""One verb per stage: it brings a run up to there; and models that come from elsewhere, or go there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    refuse,
    start_log,
)
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


def _add_embedding_verb(name: str, until: "Stage", text: str) -> None:
    """Add the command that brings a run up to its embeddings or beyond: it may be given a model."""

    @app.command(name, help=text)
    def verb(
        config: Config = CONFIG_PATH,
        out: Out = None,
        model: Model = None,
        changes: Changes = None,
        skip_missing: SkipMissing = False,
        debug: Debug = False,
    ) -> None:
        bring_up(until, config, out, changes, model=model, skip_missing=skip_missing, debug=debug)


_add_embedding_verb("run", "report", "Do everything: crop to report. Stop any time, run again to go on.")
_add_verb("crop", "crop", "Locate the cells and cut them out.")
_add_verb("train", "train", "Go on to the trained encoder.")
_add_embedding_verb("embed", "embed", "Go on to the embeddings of all cells.")
_add_embedding_verb("profile", "profile", "Go on to the profiles of sites, wells and treatments.")


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    forget: Annotated[
        bool, typer.Option("--forget", help="Have damaged stages done again by the next `cytoclr run`.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Read every byte of a run's finished stages: are they the bytes that were written?"""
    console = start_log(debug)

    def work() -> None:
        from cytoclr.errors import DamagedError
        from cytoclr.reports import read_settings_of
        from cytoclr.stages import StageFolder
        from cytoclr.storage import hold_run
        from cytoclr.terminal import terminal_progress

        read_settings_of(run)
        stages = StageFolder(run)
        with hold_run(run), terminal_progress(console) as progress:
            progress.start("verify", stages.count_bytes(), "bytes")
            found = stages.find_damage(done=progress.advance)
            progress.finish()
            for stage, damage in found.items():
                for sentence in damage:
                    typer.echo(f"damaged  {stage}: {sentence}")
                if forget:
                    stages.forget(stage)
        if found and not forget:
            raise DamagedError(
                f"{run}: {sum(map(len, found.values()))} files are damaged, of {', '.join(found)}. "
                "`cytoclr verify --forget`, then `cytoclr run` does these stages again."
            )
        typer.echo(f"forgot   {', '.join(found)}; `cytoclr run` does them again" if found else f"whole    {run}")

    guard(work, debug)


@app.command("import-model")
def import_model(
    weights: Annotated[Path, typer.Argument(help="Weights of another program: .pth, .pt, .ckpt, .safetensors.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    channels: Annotated[str, typer.Option(help="What it was shown, in its order: DNA,Tubulin,Actin.")],
    backbone: Annotated[str, typer.Option(help="A timm model (its ResNets are torchvision's), or seed-cnn.")],
    crop_size: Annotated[int, typer.Option(help="Height and width of the crops it was trained on, px.")],
    view_size: Annotated[int | None, typer.Option(help="Of what it was shown of them, px. Default: all.")] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="It is of the 2020 project: pixels are inverted.")] = False,
    transform: Annotated[str, typer.Option(help="Of intensities 0..1: linear or sqrt.")] = "linear",
    mean: Annotated[str | None, typer.Option(help="Taken off then, a number a channel: 0.485,0.456,0.406.")] = None,
    deviation: Annotated[str | None, typer.Option(help="Divided by then, likewise: 0.229,0.224,0.225.")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="µm.")] = None,
    labels_seen: Annotated[str, typer.Option(help="none, plates, treatments or mechanisms of the wells.")] = "none",
    prefix: Annotated[str | None, typer.Option(help="Of the tensors' names, where the file has several.")] = None,
    debug: Debug = False,
) -> None:
    """Make a model folder of weights that another program saved; no code in their file is run."""

    def work() -> None:
        from typing import get_args

        from cytoclr.config import LabelsSeen
        from cytoclr.learn import imports

        if transform not in {"linear", "sqrt"} or (legacy and transform != "linear"):
            refuse(f"--transform {transform}: expected linear or sqrt, and neither with --legacy.")
        if labels_seen not in get_args(LabelsSeen):
            refuse(f"--labels-seen {labels_seen}: expected one of {', '.join(get_args(LabelsSeen))}.")
        told = imports.import_model(
            weights,
            out,
            backbone=backbone,
            channels=[name.strip() for name in channels.split(",")],
            crop_size_px=crop_size,
            view_size_px=view_size,
            transform="legacy" if legacy else transform,  # type: ignore[arg-type]
            mean=_read_numbers(mean, "--mean"),
            deviation=_read_numbers(deviation, "--deviation"),
            pixel_size_um=pixel_size,
            labels_seen=labels_seen,
            prefix=prefix,
        )
        under = f" under {told.prefix!r}" if told.prefix else ""
        typer.echo(f"taken    {told.num_tensors} tensors{under}")
        if told.left_out:
            typer.echo(f"left out {len(told.left_out)} tensors: {', '.join(told.left_out)}")
        typer.echo(f"model    {out}")

    start_log(debug)
    guard(work, debug)


@app.command("export-model")
def export_model(
    model: Annotated[Path, typer.Argument(help="A model folder (RUN/model), or a checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .onnx.")],
    debug: Debug = False,
) -> None:
    """Write a model as ONNX, for programs without PyTorch."""

    def work() -> None:
        from cytoclr.learn.export import export_onnx

        typer.echo(f"export   {export_onnx(model, out)}")

    start_log(debug)
    guard(work, debug)


def _read_numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        refuse(f"{option} {text}: expected numbers, as 0.485,0.456,0.406.")


def bring_up(
    until: "Stage",
    config: Path | None,
    out: Path | None,
    changes: list[str] | None,
    *,
    model: Path | None = None,
    skip_missing: bool = False,
    debug: bool = False,
) -> None:
    """Bring a run up to a stage and say where its result is."""
    console = start_log(debug)

    def work() -> None:
        from cytoclr import pipeline
        from cytoclr.terminal import terminal_progress

        settings = read_run_settings(config, changes, skip_missing=skip_missing, model=model)
        place = out or Path("runs") / (config or CONFIG_PATH).stem
        with terminal_progress(console) as progress:
            pipeline.run(settings, place, until=until, progress=progress)
        tell_result(until, place)

    guard(work, debug)


def read_run_settings(
    config: Path | None, changes: list[str] | None, *, skip_missing: bool, model: Path | None = None
) -> "Settings":
    """Read the settings of a run, with what the command line changes; no config: the demo's."""
    from cytoclr.config import check_settings, read_settings

    values = parse_changes(changes)
    if skip_missing:
        values["crop.skip_missing"] = True
    if model is not None:
        values["embed.model"] = str(model.absolute())  # of the command line, so relative to where it is given
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
