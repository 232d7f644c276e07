"""Random files for our own parsers: whatever they hold, a parser reads them or says one sentence (`CytoclrError`).

A module a parser, with a function ``try_one(data)``; beside them, in ``corpus``, a file a case that is worth beginning
from, among them all that ever failed. ``make fuzz`` (`fuzz.run`) goes on from these by what of the code they reach.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CORPUS", "TARGETS", "find_memory", "make_workplace"]

TARGETS = ("filenames", "tables", "loaddata", "npz", "manifest", "config")
CORPUS = Path(__file__).parent / "corpus"


def find_memory() -> Path | None:
    """Find a folder in memory: on a disk, files would take the time of a hundred inputs for one."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


def _make_top() -> Path:
    top = Path(os.environ.get("CYTOCLR_FUZZ") or tempfile.mkdtemp(prefix="cytoclr-fuzz-", dir=find_memory()))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    return top


_top: list[Path] = []


@contextlib.contextmanager
def make_workplace() -> Iterator[Path]:
    """Give an empty folder for the files of one input."""
    if not _top:
        _top.append(_make_top())
    place = _top[0] / "place"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)
