"""A small run that is killed, cut off or refused by the disk, again and again, comes to what it would have come to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toys import SMALL_SCREEN

CRASH = Path(__file__).with_name("crash.py")


def try_out(*options: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(CRASH), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout, done.stderr[-4000:]
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.slow
@pytest.mark.promise(
    "Kill and power", "Killed at 30 random moments and run again: the bytes of a run left alone, nothing left over"
)
def test_kills_lose_nothing() -> None:
    told = try_out("--kills", "30", "--deaths", "0", "--faults", "0")
    assert told["lost"] == []
    assert told["kills"] == 30


@pytest.mark.slow
@pytest.mark.promise(
    "Kill and power",
    "The power goes before a write, sync, rename or removal: the same; all is on the disk before it is renamed",
)
@pytest.mark.promise(
    "The machine", "The disk fails in place of one of those: exit code 4 and a sentence; run again, the same"
)
def test_deaths_and_faults_lose_nothing() -> None:
    told = try_out("--kills", "0", "--deaths", "8", "--faults", "8")
    assert told["lost"] == []
    assert (told["deaths"], told["faults"]) == (8, 8)


def may_mount(folder: Path) -> bool:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False)
    return mounted.returncode == 0 and subprocess.run(["umount", str(folder)], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.promise(
    "The machine", "A disk that is full or read only: exit code 4, nothing half written; made larger, the run goes on"
)
def test_small_disks_lose_nothing(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("mounting a small disk is not allowed here")
    told = try_out("--kills", "0", "--deaths", "0", "--faults", "0", "--full", "3")
    assert told["lost"] == []


@pytest.mark.slow
@pytest.mark.promise("The machine", "Without a HOME a run goes through")
def test_without_a_home(tmp_path: Path) -> None:
    config, out = tmp_path / "small.yaml", tmp_path / "run"
    config.write_text(json.dumps({"screen": SMALL_SCREEN, "train": {"epochs": 1}}))
    run = [sys.executable, "-m", "cytoclr", "profile", str(config), "--out", str(out)]
    environment = {"PATH": os.environ["PATH"], "HOME": "/dev/null/home", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "profiles" / "treatment.parquet").is_file()
