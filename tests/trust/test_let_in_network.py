"""A run asks nobody: no telemetry, no look for a newer version, no weights that were not asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toys import SMALL_SCREEN

SECTION = "Nobody let in"

#: Runs `python -m cytoclr` with every try to reach another machine written down and refused, in child processes too.
GUARD = """
import os, sys

OURS = ("127.", "::1", "localhost", "0.0.0.0", "::")


def is_ours(host):
    return host in (None, "", b"") or str(host.decode() if isinstance(host, bytes) else host).startswith(OURS)


def watch(event, args):
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        asked = address[0] if isinstance(address, tuple) else None  # a path is a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        asked = args[0]
        if str(asked) == __import__("socket").gethostname():
            return  # its own name
    elif event == "urllib.Request":
        asked = args[0].split("/")[2].rsplit(":", 1)[0]
    else:
        return
    if not is_ours(asked):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {asked}\\n")
        raise RuntimeError(f"asked for {asked}")


sys.addaudithook(watch)
"""


def run_guarded(tmp_path: Path, *arguments: object) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the command line; return what it said, and whom it asked."""
    (tmp_path / "guard").mkdir(exist_ok=True)
    (tmp_path / "guard/sitecustomize.py").write_text(GUARD)
    asked = tmp_path / "asked"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "guard"), "ASKED": str(asked), "OMP_NUM_THREADS": "1"}
    # as it is with users: no setting of these tests that would keep others quiet
    for name in (
        "HF_HUB_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "TRANSFORMERS_OFFLINE",
        "NO_ALBUMENTATIONS_UPDATE",
    ):
        environment.pop(name, None)
    told = subprocess.run(
        [sys.executable, "-m", "cytoclr", *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    return told, asked.read_text() if asked.exists() else ""


@pytest.mark.slow
@pytest.mark.promise(SECTION, "A whole run, from crops to the report, asks no other machine for anything")
def test_a_run_asks_nobody(tmp_path: Path) -> None:
    settings = {
        "screen": SMALL_SCREEN,
        "train": {"epochs": 2, "minibatch_size": 16, "backbone": "test_resnet", "probe": {"every_n_epochs": 1}},
        "evaluate": {"bootstraps": 100, "permutations": 100},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    told, asked = run_guarded(tmp_path, "run", "config.yaml", "--out", "run")
    assert told.returncode == 0, told.stderr
    assert asked == ""
    assert (tmp_path / "run/report.html").is_file()
    for arguments in (["doctor"], ["export", "run", "wells.csv.gz"]):
        told, asked = run_guarded(tmp_path, *arguments)
        assert asked == "", arguments
        assert told.returncode == 0, told.stderr


@pytest.mark.promise(SECTION, "The guard of these tests sees a command that asks the network, when it is told to")
def test_the_guard_sees_who_asks(tmp_path: Path) -> None:
    told, asked = run_guarded(tmp_path, "fetch", "bbbc021", "data", "--week", "1")
    assert told.returncode != 0
    assert "data.broadinstitute.org" in asked
