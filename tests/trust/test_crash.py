"""A small run that is killed, cut off or refused by the disk, again and again, comes to what it would have come to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert 20 <= told["kills"] <= 30  # the last may come when all is done


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
