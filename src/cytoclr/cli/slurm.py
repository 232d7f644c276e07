"""The verb that writes SLURM scripts."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cytoclr.cli.app import CONFIG_PATH, Changes, Config, Debug, Out, app, guard, parse_changes, start_log

__all__ = ["slurm"]


@app.command()
def slurm(
    config: Config = CONFIG_PATH,
    out: Out = None,
    scripts: Annotated[Path, typer.Option(help="Folder for the scripts and the jobs' logs.")] = Path("slurm"),
    jobs: Annotated[int, typer.Option(help="Jobs that cut crops, one core each.")] = 8,
    gpus: Annotated[int, typer.Option(help="GPUs of the training job, on one node; 0: it trains on the CPU.")] = 1,
    hours: Annotated[float, typer.Option(help="Time limit of each job; out of time, it goes on in the next.")] = 12.0,
    partition: Annotated[str | None, typer.Option(help="SLURM's partition.")] = None,
    gpu_partition: Annotated[str | None, typer.Option(help="Of training and report. Default: as --partition.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM's account.")] = None,
    memory_gb: Annotated[float, typer.Option(help="Memory of the training and the report job.")] = 32.0,
    cpus: Annotated[int | None, typer.Option(help="Cores of the training job. Default: one a process.")] = None,
    mail: Annotated[str | None, typer.Option(help="Address that is told when a job ends or fails.")] = None,
    changes: Changes = None,
    force: Annotated[bool, typer.Option("--force", help="Replace scripts that are there.")] = False,
    debug: Debug = False,
) -> None:
    """Write scripts that do a run as SLURM jobs: crop on many, train on GPUs, report."""

    def work() -> None:
        from cytoclr.config import read_settings
        from cytoclr.slurm import write_scripts

        written = write_scripts(
            config,
            out or Path("runs") / config.stem,
            folder=scripts,
            settings=read_settings(config, changes=parse_changes(changes)),
            changes=changes or [],
            jobs=jobs,
            gpus=gpus,
            hours=hours,
            partition=partition,
            gpu_partition=gpu_partition,
            account=account,
            memory_gb=memory_gb,
            cpus=cpus,
            mail=mail,
            force=force,
        )
        for path in written:
            typer.echo(f"slurm    {path}")
        typer.echo(f"submit   {shlex.quote(str(written[-1]))}")

    start_log(debug)
    guard(work, debug)
