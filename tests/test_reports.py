"""Finished runs shown: from a real server to real requests and a real browser, beside each other, as figures."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import SMALL_SCREEN

from cytoclr import pipeline
from cytoclr.config import check_settings
from cytoclr.errors import MachineError, SettingsError
from cytoclr.serve import ReportServer, open_server
from cytoclr.storage import read_table
from cytoclr.tables import WELL


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {"screen": SMALL_SCREEN, "train": {"epochs": 1}, "report": {"pictures": 60}}
    settings = check_settings(values, source="test", folder=Path())
    return pipeline.run(settings, tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[ReportServer]:
    with open_server(run) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def run_cytoclr(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cytoclr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_run_is_reported_by_its_folder(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    told = run_cytoclr("report", run)
    assert told.returncode == 0, told.stderr
    assert f"report   {run / 'report.html'}" in told.stdout
    assert (run / "report.html").read_bytes() == before
    told = run_cytoclr("report", run, "--out", "elsewhere")
    assert told.returncode == 2
    assert "a run's report lies in the run" in told.stderr


def test_runs_are_compared_on_one_page(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    told = run_cytoclr("report", run, other, "--out", tmp_path / "both.html")
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert '<h1 id="title">run against other</h1>' in page
    assert "run and other are not told apart" in page
    again = run_cytoclr("report", run, other, "--out", tmp_path / "both.html")
    assert (again.returncode, "exists. Choose another --out" in again.stderr) == (2, True)
    missing = run_cytoclr("report", run, tmp_path / "nothing")
    assert (missing.returncode, "nothing: is not a folder" in missing.stderr) == (2, True)
    twice = run_cytoclr("report", run, run, "--out", tmp_path / "twice.html")
    assert (twice.returncode, "two or more different runs" in twice.stderr) == (2, True)
    more = run_cytoclr("report", run, other, "--figures")
    assert (more.returncode, "are for one run" in more.stderr) == (2, True)


def test_figures_and_tables_are_drawn_beside_the_report(run: Path, tmp_path: Path) -> None:
    told = run_cytoclr("report", run, "--figures")
    assert told.returncode == 0, told.stderr
    assert {path.suffix for path in (run / "figures").iterdir()} >= {".svg", ".png", ".pdf"}
    assert (run / "tables" / "wells.csv").is_file()


def test_the_server_runs_until_it_is_stopped(run: Path) -> None:
    command = [sys.executable, "-m", "cytoclr", "serve", str(run), "--port", "0"]
    # pytest in the background ignores Ctrl-C, and its children would with it
    restore = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=restore) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        assert ask(url)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "serving  ended\n"
    assert process.returncode == 0


def ask(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_the_page_and_all_cells_of_a_well_are_served(server: ReportServer, run: Path) -> None:
    status, page, headers = ask(server.url)
    assert status == 200
    assert b"connect-src 'self'" in page
    assert headers["X-Frame-Options"] == "DENY"
    cells, wells = read_table(run / "cells.parquet"), read_table(run / "profiles" / "well.parquet")
    for number in (0, len(wells) - 1):
        of = wells.iloc[number]
        own = (cells["Metadata_Plate"] == of["Metadata_Plate"]) & (cells["Metadata_Well"] == of["Metadata_Well"])
        status, body, _ = ask(f"{server.url}cells/wells/{number}?begin=0&count=1000")
        told = json.loads(body)
        assert (status, told["total"], told["count"]) == (200, own.sum(), min(256, own.sum()))
        assert len(told["sheets"][0]) == 3
    told = json.loads(ask(f"{server.url}cells/treatments/0?begin=100000")[1])
    assert (told["count"], told["sheets"]) == (0, [])


@pytest.mark.promise("Nobody let in", "`serve` answers the page and cells alone: no request becomes a path of a file")
@pytest.mark.parametrize(
    "path",
    ["config.yaml", "../config.yaml", "%2e%2e/config.yaml", "cells/wells/999999999", "cells/wells/-1", "cells/plates/0",
     "cells/wells/0/../../../config.yaml", "//etc/passwd"],
)  # fmt: skip
def test_nothing_else_is(server: ReportServer, path: str) -> None:
    status, body, _ = ask(server.url + path)
    assert status == 404
    assert b"screen" not in body


@pytest.mark.promise("Nobody let in", "`serve` refuses requests that name another host or come from another page")
def test_others_are_refused(server: ReportServer) -> None:
    assert ask(server.url, Host="evil.example")[0] == 403
    assert ask(server.url, Host=f"evil.example:{server.server_port}")[0] == 403
    assert ask(server.url, Origin="http://evil.example")[0] == 403
    assert ask(server.url, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403
    assert ask(server.url, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server.url, Host=f"localhost:{server.server_port}")[0] == 200
    request = urllib.request.Request(server.url, data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=20)


@pytest.mark.promise("Nobody let in", "`serve` listens on this machine alone unless told otherwise")
def test_it_listens_on_this_machine_alone(server: ReportServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_told(server: ReportServer, run: Path) -> None:
    with (
        pytest.raises(MachineError, match=rf"127.0.0.1:{server.server_port}: cannot listen there"),
        open_server(run, port=server.server_port),
    ):
        pass


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a run folder"), open_server(tmp_path):
        pass


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on the path")
def test_a_browser_pages_through_all_cells(server: ReportServer, run: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    cells = read_table(run / "cells.parquet")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(server.url)
        page.locator("#map-level").get_by_role("button", name="Wells").click()
        page.locator("#map-plot .points path").first.click(force=True)
        page.get_by_role("button", name="All cells").first.click()
        page.get_by_text(re.compile(r"[0-9]+ of [0-9]+ cells")).first.wait_for()
        shown, total = map(
            int, re.findall("[0-9]+", page.get_by_text(re.compile("[0-9]+ of [0-9]+ cells")).first.text_content())
        )
        assert shown == min(64, total)
        assert total in set(cells.groupby(WELL).size())
        browser.close()
        assert complaints == []
