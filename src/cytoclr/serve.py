"""Serve a run's report to a browser on this machine, with the pictures of all its cells, read as they are asked for."""

import json
import logging
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from cytoclr.errors import MachineError
from cytoclr.progress import Progress
from cytoclr.reports import gather_inputs, read_settings_of
from cytoclr.tables import TREATMENT, WELL

if TYPE_CHECKING:
    from cytoclr.report import ReportInputs

__all__ = ["open_server"]

logger = logging.getLogger(__name__)

#: Cells of one answer, at most.
MAX_PAGE = 256
_ASKED = re.compile(r"/cells/(wells|treatments)/([0-9]{1,9})")


@contextmanager
def open_server(
    run: Path, *, host: str = "127.0.0.1", port: int = 0, progress: Progress | None = None
) -> Iterator["ReportServer"]:
    """Open a server of a finished run's report; `ReportServer.serve_forever` answers until it is shut down.

    Parameters
    ----------
    run
        The run folder.
    host
        The address to listen at. Any but this machine's own lets others see the run: there is no password.
    port
        0: one that is free.
    progress
        Who shows how far the page is.

    Raises
    ------
    SettingsError, DataError
        The folder is not a run's, or it is not evaluated yet.
    MachineError
        The port is taken, or the address is not this machine's.

    Notes
    -----
    Two things are answered: the page, and pictures of the cells of a well or treatment by its number. No path of a
    request ever becomes a path of a file. Requests that name another host (DNS rebinding), or come from another site's
    page, are refused.
    """
    from cytoclr.report import render_report

    settings = read_settings_of(run)
    inputs = gather_inputs(run, settings)
    page = render_report(inputs, settings.report, seed=settings.seed, live=True, progress=progress)
    _warn_of_others(host)
    try:
        server = ReportServer((host, port), _Answers(page, inputs))
    except (OSError, OverflowError) as error:
        raise MachineError(f"{host}:{port}: cannot listen there ({error}). Choose another --port or --host.") from error
    try:
        yield server
    finally:
        server.server_close()


class ReportServer(ThreadingHTTPServer):
    """The server of one run's report."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], answers: "_Answers") -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.answers = answers
        self.hosts = _list_hosts(address[0], self.server_port)

    @property
    def url(self) -> str:
        """Where it is."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"


def _list_hosts(host: str, port: int) -> frozenset[str] | None:
    """What a browser may call this server; None: anything, where it listens at every address and so has any name."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104
        return None
    names = {host, "localhost", "127.0.0.1", "[::1]"} if host in {"127.0.0.1", "::1", "localhost"} else {host}
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


class _Answers:
    """The page, and cells by their well or treatment."""

    def __init__(self, page: str, inputs: "ReportInputs") -> None:
        from cytoclr.report import leave_out_untreated, list_cells

        self.page = page.encode()
        self.crops = inputs.crops
        treatments = leave_out_untreated(inputs.treatments, inputs.wells)
        # in the order of the page's points
        self.rows = {
            "wells": list_cells(inputs.cells, inputs.wells, WELL),
            "treatments": list_cells(inputs.cells, treatments, TREATMENT),
        }

    def find(self, target: str) -> tuple[str, bytes] | None:
        """The type and bytes of an answer; None: there is nothing of that name."""
        asked = urlsplit(target)
        if asked.path == "/":
            return "text/html; charset=utf-8", self.page
        match = _ASKED.fullmatch(asked.path)
        if match is None:
            return None
        level, number = match[1], int(match[2])
        if number >= len(self.rows[level]):
            return None
        begin = _read_number(parse_qs(asked.query), "begin", 0)
        count = min(MAX_PAGE, _read_number(parse_qs(asked.query), "count", 64))
        return "application/json", json.dumps(self._draw(self.rows[level][number], begin, count)).encode()

    def _draw(self, rows: np.ndarray, begin: int, count: int) -> dict[str, Any]:
        from cytoclr.report.cells import pack_tiles

        shown = rows[begin : begin + count]
        sheets = pack_tiles(self.crops, shown).sheets if len(shown) else ()
        return {"total": len(rows), "begin": begin, "count": len(shown), "sheets": sheets}


def _read_number(query: Mapping[str, list[str]], name: str, default: int) -> int:
    text = query.get(name, [str(default)])[0]
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else default


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version, sys_version = "cytoclr", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        refusal = self._refuse()
        if refusal is not None:
            self.send_error(HTTPStatus.FORBIDDEN, refusal)
            return
        found = self.server.answers.find(self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND, "nothing of that name")
            return
        kind, body = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _refuse(self) -> str | None:
        """Say why a request is refused: it names another host, or another site's page sent it."""
        hosts = self.server.hosts
        if hosts is not None and self.headers.get("Host", "").lower() not in hosts:
            return "another host was asked for"
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != self.headers.get("Host", "").lower():
            return "another site asks"
        # a link on another page may open the report; its scripts may not read from it
        if self.headers.get("Sec-Fetch-Site") == "cross-site" and self.headers.get("Sec-Fetch-Mode") != "navigate":
            return "another site asks"
        return None

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("%s: %s", self.address_string(), format % args)


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _warn_of_others(host: str) -> None:
    """Say aloud when others can see the run."""
    if host not in {"127.0.0.1", "::1", "localhost"}:
        logger.warning("%s: everyone who reaches this address can see the run; there is no password.", host)
