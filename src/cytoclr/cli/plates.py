"""Verbs that look before anything is done: at the plates, and at the machine."""

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoclr.cli.app import CONFIG_PATH, Changes, Config, Debug, Out, SkipMissing, app, guard, start_log
from cytoclr.cli.stages import read_run_settings

if TYPE_CHECKING:
    from cytoclr.data.findings import Checked, Finding

__all__: list[str] = []

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
#: Columns before a finding's text, and at most in all.
_INDENT, _WIDTH = 10, 110


@app.command()
def check(
    config: Config = CONFIG_PATH,
    out: Out = None,
    changes: Changes = None,
    skip_missing: SkipMissing = False,
    every: Annotated[bool, typer.Option("--every", help="Look at all images, not at a sample.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find problems of tables, images, locations and channels first; exit code 3 if there are errors."""
    console = start_log(debug)
    done: list[Checked] = []

    def work() -> None:
        from cytoclr import pipeline
        from cytoclr.terminal import terminal_progress

        settings = read_run_settings(config, changes, skip_missing=skip_missing)
        with terminal_progress(console) as progress:
            checked = pipeline.check(settings, out or Path("runs") / config.stem, every=every, progress=progress)
        if as_json:
            typer.echo(json.dumps(_list_findings(checked), indent=1, ensure_ascii=False))
        else:
            _tell_findings(checked)
        done.append(checked)

    guard(work, debug)
    if done and done[0].count("error"):
        from cytoclr.errors import DataError

        raise typer.Exit(DataError.exit_code)


def _list_findings(checked: "Checked") -> dict[str, Any]:
    names = ("code", "severity", "message", "examples", "count", "fix")
    return {
        "looked_at": checked.num_looked_at,
        "of": checked.num_rows,
        "unit": checked.unit,
        "plates": checked.num_plates,
        "findings": [{name: getattr(finding, name) for name in names} for finding in checked.findings],
    }


def _tell_findings(checked: "Checked") -> None:
    for severity in ("error", "warning", "note"):
        found = [finding for finding in checked.findings if finding.severity == severity]
        if found:
            typer.echo(f"{severity}s")
        for finding in found:
            _tell_finding(finding)
    counts = ", ".join(_count(checked.count(severity), severity) for severity in ("error", "warning", "note"))
    typer.echo(
        f"checked {checked.num_looked_at:,} {checked.unit} of {checked.num_rows:,} on "
        f"{_count(checked.num_plates, 'plate')}: {counts}"
    )


def _tell_finding(finding: "Finding") -> None:
    typer.echo(_wrap(f"  {finding.code:<7} ", finding.message))
    for example in finding.examples:
        typer.echo(_wrap(" " * _INDENT + "  ", example))
    unseen = finding.count - len(finding.examples)
    if finding.examples and unseen > 0 and finding.error is None:
        typer.echo(" " * _INDENT + f"  and {unseen:,} more")
    if finding.fix:
        typer.echo(_wrap(" " * _INDENT + "-> ", finding.fix))


def _wrap(before: str, text: str) -> str:
    """Write text behind what stands before it; broken to the terminal's width, if there is one."""
    if not sys.stdout.isatty():
        return before + text
    width = min(shutil.get_terminal_size().columns, _WIDTH)
    return textwrap.fill(
        text,
        max(width, len(before) + 20),
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


@app.command()
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Tell versions, optional parts, cores, memory, disk, GPUs, and which device will be used."""

    def work() -> None:
        from cytoclr.doctor import examine_machine

        facts = examine_machine()
        if as_json:
            typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        else:
            _tell_machine(facts)

    start_log(debug)
    guard(work, debug)


def _tell_machine(facts: dict[str, Any]) -> None:
    versions, machine, slurm = (facts[name] for name in ("versions", "machine", "slurm"))
    lines = [("cytoclr", f"{versions['cytoclr']}, python {versions['python']}, {machine['platform']}")]
    others = {name: found for name, found in versions.items() if name not in ("cytoclr", "python")}
    lines += [("package", f"{name} {found or 'is not installed'}") for name, found in others.items()]
    for name, extra in facts["extras"].items():
        state = "installed" if extra["installed"] else f"not installed: pip install 'cytoclr[{name}]'"
        lines.append(("extra", f"{name}, for {extra['for']}: {state}"))
    lines.append(("cores", f"{machine['cores_usable']} usable of {machine['cores']}"))
    limit = "" if machine["memory_limit_gb"] is None else f", limited to {machine['memory_limit_gb']:g} GB"
    lines.append(("memory", f"{_size(machine['memory_free_gb'])} free of {_size(machine['memory_gb'])}{limit}"))
    disk = facts["disk"]
    lines.append(("disk", f"{_size(disk['free_gb'])} free at {disk['folder']}"))
    lines += [("gpu", f"{gpu['name']}, {gpu['memory_gb']:g} GB") for gpu in facts["gpus"]] or [("gpu", "none")]
    lines.append(("device", f"auto is {facts['device']['auto'] or 'nothing'}: {facts['device']['why']}"))
    lines.append(
        ("slurm", f"{slurm['version'] or 'version unknown'}, {slurm['sbatch']}" if slurm["sbatch"] else "none")
    )
    lines += [("warning", warning) for warning in facts["warnings"]]
    for name, text in lines:
        typer.echo(f"{name:<8} {text}")


def _size(number: float | None) -> str:
    return "unknown" if number is None else f"{number:g} GB"
