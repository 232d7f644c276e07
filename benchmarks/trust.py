"""What trust costs: the time that checksums, syncs and reading again take of cropping, training and embedding.

The demo's screen is cropped, trained on for a few epochs and embedded in one process, in which every function that is
there for trust alone is timed: hashing files, bringing them to the disk, checking checkpoints. Their share of a stage
is what is printed. Training for longer lowers it: `--epochs` says how long.

Run::

    python benchmarks/trust.py [--epochs 4] [--out runs/trust]
"""

import argparse
import functools
import os
import shutil
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cytoclr import pipeline, stages, storage
from cytoclr.config import check_settings

#: What is there for trust alone, by where it is looked up.
TIMED = (
    (storage, "hash_file", "hashing"),
    (storage, "sync_folder", "syncing"),
    (stages, "sync_tree", "syncing"),
    (os, "fsync", "syncing"),
    (zipfile.ZipFile, "testzip", "checking checkpoints"),
)
STAGES = ("crop", "train", "embed")


def main() -> None:
    """Print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/trust"))
    asked = parser.parse_args()
    settings = check_settings(
        {"train": {"epochs": asked.epochs}, "cluster": {"where": "here"}}, source="trust.py", folder=Path()
    )
    shutil.rmtree(asked.out, ignore_errors=True)
    pipeline.run(settings, asked.out, until="screen")
    spent: dict[str, float] = defaultdict(float)
    inside = [False]
    for holder, name, what in TIMED:
        setattr(holder, name, time_calls(getattr(holder, name), what, spent, inside))
    print(f"| stage, {asked.epochs} epochs | seconds | hashing | syncing | checking checkpoints | share |")
    print("|---|---|---|---|---|---|")
    total_s = trust_s = 0.0
    for stage in STAGES:
        spent.clear()
        began_s = time.monotonic()
        pipeline.run(settings, asked.out, until=stage)  # type: ignore[arg-type]
        took_s = time.monotonic() - began_s
        total_s, trust_s = total_s + took_s, trust_s + sum(spent.values())
        parts = " | ".join(f"{spent[what]:.2f} s" for what in ("hashing", "syncing", "checking checkpoints"))
        print(f"| {stage} | {took_s:.1f} s | {parts} | {sum(spent.values()) / took_s:.1%} |", flush=True)
    print(f"| all three | {total_s:.1f} s | | | | {trust_s / total_s:.1%} |")


def time_calls(function: Callable[..., Any], what: str, spent: dict[str, float], inside: list[bool]) -> Any:
    """Add up the time of calls; one within another counts once."""

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        if inside[0]:
            return function(*arguments, **named)
        inside[0], began_s = True, time.monotonic()
        try:
            return function(*arguments, **named)
        finally:
            inside[0] = False
            spent[what] += time.monotonic() - began_s

    return timed


if __name__ == "__main__":
    main()
