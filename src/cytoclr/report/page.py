"""The page itself: all parts of the report put into one HTML file that asks nothing of any network."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from cytoclr import __version__
from cytoclr.config import ReportSettings
from cytoclr.progress import Progress, Silent
from cytoclr.report.contents import collect_data, collect_facts
from cytoclr.report.inputs import ReportInputs, check_inputs
from cytoclr.report.wording import format_count, format_interval, format_mean, format_percent
from cytoclr.storage import write_text

__all__ = ["escape_json", "render_page", "render_report", "write_report"]

#: In the order in which they stand in the page: what is used comes before what uses it.
SCRIPTS = (
    "base.js",
    "plots.js",
    "cells.js",
    "points.js",
    "map.js",
    "plates.js",
    "treatments.js",
    "gallery.js",
    "training.js",
    "start.js",
)
STYLES = ("base.css", "cells.css", "plates.css", "map.css", "treatments.css", "small.css", "print.css")


def write_report(
    path: Path, inputs: ReportInputs, settings: ReportSettings, *, seed: int, progress: Progress | None = None
) -> None:
    """Write one HTML file that opens anywhere, from a disk, a file share or a mail, without a network.

    Parameters
    ----------
    path
        The file to write, atomically.
    inputs
        Tables, crops and scores of a run.
    settings
        Title, cells shown with each profile, neighbours of the maps.
    seed
        Decides the maps and which cells are shown.

    Raises
    ------
    DataError
        A table lacks a column, `cells` and `crops` differ in number, or a match names a treatment without profile.
    MachineError
        The file cannot be written.

    Notes
    -----
    Names of compounds, mechanisms and wells are shown as text whatever they hold: the template escapes them, data
    are escaped JSON, the script builds text nodes only, and a content security policy names by hash the only
    scripts and styles that may run.
    """
    write_text(path, render_report(inputs, settings, seed=seed, progress=progress))


def render_report(
    inputs: ReportInputs,
    settings: ReportSettings,
    *,
    seed: int,
    live: bool = False,
    progress: Progress | None = None,
) -> str:
    """Put the report of a run together; see `write_report`.

    `live`: it is served by `cytoclr.serve`, and asks there for the cells that are not in the page.
    """
    progress = progress or Silent()
    checked = check_inputs(inputs)
    data = collect_data(checked, settings, seed=seed, progress=progress)
    facts = collect_facts(checked, settings, seed=seed)
    return render_page("page.html.j2", facts, {**data, "live": live}, connects=live)


def render_page(
    template: str,
    facts: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    scripts: Sequence[str] = SCRIPTS,
    styles: Sequence[str] = STYLES,
    connects: bool = False,
) -> str:
    """Put a template's facts, data for the scripts, scripts and styles into one page.

    `connects`: the page may ask the server it came from; else it may ask nobody.
    """
    style, script = _join_parts("style", styles), _join_parts("script", scripts)
    plotly = _read_part("vendor/plotly-strict.min.js")
    return (
        _templates()
        .get_template(template)
        .render(
            **facts,
            version=__version__,
            policy=_policy(scripts=[plotly, script], styles=[style], connects=connects),
            style=style,
            script=script,
            plotly=plotly,
            data=escape_json(data),
        )
    )


def _policy(*, scripts: Sequence[str], styles: Sequence[str], connects: bool) -> str:
    """Forbid everything but these scripts and styles, and pictures that the page itself holds.

    Plotly adds its rules one by one to a style element that is empty when it enters the page: hence the hash of
    nothing.
    """
    home = "connect-src 'self'; " if connects else ""
    return (
        f"default-src 'none'; script-src {_hash_sources(scripts)}; style-src {_hash_sources([*styles, ''])}; "
        f"img-src data: blob:; {home}base-uri 'none'; form-action 'none'"
    )


def _hash_sources(texts: Sequence[str]) -> str:
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def escape_json(value: object) -> str:
    """Write JSON that can stand in a script element: no character that HTML or JavaScript could read as its end.

    >>> escape_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _join_parts(folder: str, names: Sequence[str]) -> str:
    """Put files of one kind one after the other: the page is one file, so its modules are one."""
    return "\n".join(_read_part(f"{folder}/{name}") for name in names)


def _read_part(name: str) -> str:
    return (resources.files("cytoclr.report") / name).read_text(encoding="utf-8")


def _or_dash(value: float | None, write: str) -> str:
    """Write a number in one of the page's ways; a dash where there is none."""
    ways: dict[str, Callable[[float], str]] = {"mean": format_mean, "percent": format_percent, "rank": "{:.1f}".format}
    return "–" if value is None else ways[write](value)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _read_part(f"templates/{name}")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=format_count, percent=format_percent, interval=format_interval, mean=format_mean, or_dash=_or_dash
    )
    return environment
