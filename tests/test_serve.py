"""The report from a real server on this machine, to real requests and a real browser."""

import json
import shutil
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


@pytest.mark.parametrize(
    "path",
    ["config.yaml", "../config.yaml", "%2e%2e/config.yaml", "cells/wells/999999999", "cells/wells/-1", "cells/plates/0",
     "cells/wells/0/../../../config.yaml", "//etc/passwd"],
)  # fmt: skip
def test_nothing_else_is(server: ReportServer, path: str) -> None:
    status, body, _ = ask(server.url + path)
    assert status == 404
    assert b"screen" not in body


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
def test_a_browser_pages_through_all_cells(server: ReportServer) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(server.url)
        page.wait_for_selector("#map-details h4")
        show = "openGallery('a well', [], [{name: 'w', tiles: [], of: {level: 'wells', number: 0}}])"
        page.evaluate(f"window.dispatchEvent(new CustomEvent('test', {{detail: {json.dumps(show)}}}))")
        browser.close()
        assert complaints == []
