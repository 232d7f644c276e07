"""Kills a small run again and again, or lets its disk fail, and compares what it comes to with a run left alone.

A trial is a process that does the run and is ended on the way: by SIGKILL after a random time; as if the power went,
just before the n-th file is opened for writing, brought to the disk, renamed or removed; or by an error of the disk in
place of that. The same run is then done again, to its end. What must hold, of every trial:

- the results are the bytes of a run that was left alone,
- nothing else lies there: no temporary file, no workplace, no folder put aside,
- whatever is renamed into its place was brought to the disk before, with all that is in it,
- an error of the disk, a full one, or one that is read only ends in a sentence and exit code 4, never in a bug's.

Run::

    python tests/trust/crash.py [--kills 30] [--deaths 10] [--faults 10] [--full 0] [--seed 0]

`--deaths all` and `--faults all` end it at every such moment. Trials are forked from one process that has imported all,
so that each costs its own work only. Prints the counts as JSON; the exit code is 1 if anything was lost.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

from cytoclr.config import Settings, check_settings
from cytoclr.stages import StageFolder
from cytoclr.storage import hash_json, hash_tree

sys.path.insert(0, str(Path(__file__).parents[1]))
from toys import SMALL_SCREEN

VALUES: dict[str, Any] = {
    "screen": {**SMALL_SCREEN, "field_size_px": 192, "cells_per_site": 12},
    "train": {"epochs": 2, "minibatch_size": 16, "checkpoint_every_n_epochs": 1, "probe": {"every_n_epochs": 0}},
    "evaluate": {"bootstraps": 100, "permutations": 100},
    "cluster": {"where": "here"},
}
UNTIL = "evaluate"
#: What differs between equal runs: when, where and how fast.
UNEQUAL = ("metrics.jsonl", "tensorboard", "manifests/", "MODEL_CARD", "model.json", ".lock")
#: As `guard` of the command line: what a disk does is the machine's fault.
BUG = 1
DIED = 77


def main(argv: Sequence[str] | None = None) -> int:
    """Do all trials, print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="by SIGKILL, after a random time")
    parser.add_argument("--deaths", default="10", help="before a write, sync, rename or removal: how many, or all")
    parser.add_argument("--faults", default="10", help="errors of the disk there: how many, or all")
    parser.add_argument("--full", type=int, default=0, help="on disks too small for it; needs the right to mount")
    parser.add_argument("--seed", type=int, default=0, help="decides when")
    parser.add_argument("--work", type=Path, help="a folder to work in; default: a passing one")
    asked = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    import_all()
    with contextlib.ExitStack() as opened:
        work = asked.work or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        told = try_all(work, asked.kills, asked.deaths, asked.faults, asked.full, seed=asked.seed)
    print(json.dumps(told, indent=1))
    return 1 if told["lost"] else 0


def import_all() -> None:
    """Import what a run imports, so that trials do not; nothing may start a thread here."""
    import cytoclr.data.stage
    import cytoclr.data.virtual
    import cytoclr.evaluate
    import cytoclr.learn
    import cytoclr.pipeline
    import cytoclr.profiles  # noqa: F401


def try_all(work: Path, kills: int, deaths: str, faults: str, full: int, *, seed: int) -> dict[str, Any]:
    """Do a run that is left alone, then the trials."""
    draw = random.Random(seed)
    work.mkdir(exist_ok=True)
    settings = check_settings(VALUES, source="crash.py", folder=work)
    # always there: the table of sites tells where images lie
    out, events = work / "disk" / "run", work / "events.txt"
    out.parent.mkdir()
    code = run_forked(settings, out, lambda watch: watch.record(events))
    assert code == 0, f"a run that is left alone ends with {code}"
    num_events, unsynced = len(events.read_text().splitlines()), find_unsynced(events)
    expected = list_results(out)
    began_s = time.monotonic()
    shutil.rmtree(out)
    run_forked(settings, out, lambda watch: None)
    took_s = time.monotonic() - began_s
    num_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    lost = [f"a run left alone: {name} was renamed before it was on the disk" for name in unsynced]
    counts = {"kills": 0, "deaths": 0, "faults": 0}
    latest_s = took_s
    while counts["kills"] < kills:
        after_s = draw.uniform(0.0, latest_s)
        code = run_forked(settings, out, lambda watch: None, kill_after_s=after_s)
        if code == -signal.SIGKILL:
            counts["kills"] += 1
        else:  # it was done by then: the machine is faster than when it was timed
            latest_s = after_s
        lost += end_trial(settings, out, expected, f"killed after {after_s:.2f} s")
    for kind, asked in (("deaths", deaths), ("faults", faults)):
        for n in choose(num_events, asked, draw):
            code = run_forked(settings, out, lambda watch, kind=kind, n=n: watch.act_at(n, kind))
            expected_code = DIED if kind == "deaths" else 4
            counts[kind] += 1
            # what cannot be removed or written at the margin may also do without
            if code != expected_code and not (kind == "faults" and code == 0):
                lost.append(f"{kind} at {n}: exit code {code}, expected {expected_code}")
            lost += end_trial(settings, out, expected, f"{kind} at {n}")
    for number in range(full):
        size = round(num_bytes * (number + 0.5) / full)
        lost += try_small_disk(settings, out, expected, size)
    counts["full"] = full
    return {"seconds_of_a_run": round(took_s, 1), "moments": num_events, **counts, "lost": lost}


def try_small_disk(settings: Settings, out: Path, expected: dict[str, str], size: int) -> list[str]:
    """Do the run on a disk of so many bytes; then on the same disk, not to be written to; then made large enough."""
    disk, lost = out.parent, list[str]()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        code = run_forked(settings, out, lambda watch: None)
        lost += [] if code == 4 else [f"on a disk of {size:,} bytes: exit code {code}, expected 4"]
        lost += [f"on a disk of {size:,} bytes: {path.name} is left over" for path in out.rglob(".*.tmp")]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code = run_forked(settings, out, lambda watch: None)
        lost += [] if code == 4 else [f"on a disk that is read only: exit code {code}, expected 4"]
        subprocess.run(["mount", "-o", "remount,rw,size=1g", str(disk)], check=True)
        lost += end_trial(settings, out, expected, f"on a disk of {size} bytes")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return lost


def choose(num_events: int, asked: str, draw: random.Random) -> list[int]:
    """Choose among the moments of a run."""
    return list(range(num_events)) if asked == "all" else sorted(draw.sample(range(num_events), int(asked)))


def end_trial(settings: Settings, out: Path, expected: dict[str, str], what: str) -> list[str]:
    """Do the run again, to its end; list what is not as it must be."""
    code = run_forked(settings, out, lambda watch: None)
    if code != 0:
        return [f"{what}: the run after it ends with {code}"]
    found, lost = list_results(out), []
    lost += [f"{what}: {name} {'differs' if name in found else 'is missing'}" for name in sorted(expected)
             if found.get(name) != expected[name]]  # fmt: skip
    lost += [f"{what}: {name} is left over" for name in sorted(found.keys() - expected.keys())]
    lost += [f"{what}: {stage}: {damage}" for stage, all_ in StageFolder(out).find_damage().items() for damage in all_]
    if lost:  # to be looked at
        shutil.move(out, out.parents[1] / what.replace(" ", "-"))
    else:
        shutil.rmtree(out)
    return lost


def list_results(out: Path) -> dict[str, str]:
    """Hash all that a run leaves behind; of files that differ between equal runs, only that they are there."""
    return {
        name: "" if any(part in name for part in UNEQUAL) else hash_checkpoint(out / name, sha256)
        for name, sha256 in hash_tree(out).items()
        if "tensorboard" not in name
    }


def hash_checkpoint(path: Path, sha256: str) -> str:
    """Hash what a checkpoint holds: which equal parts are stored once depends on who put it together."""
    if path.suffix != ".ckpt":
        return sha256
    import torch

    def spell(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return [str(value.dtype), list(value.shape), value.flatten().tolist()]
        if isinstance(value, dict):
            return [[repr(name), spell(part)] for name, part in value.items()]
        return [spell(part) for part in value] if isinstance(value, (list, tuple)) else repr(value)

    return hash_json(json.dumps(spell(torch.load(path, weights_only=True))))


def run_forked(
    settings: Settings, out: Path, prepare: "Callable[[Watch], None]", *, kill_after_s: float | None = None
) -> int:
    """Do the run in a process of its own; return its exit code, of a killed one the negative signal."""
    child = os.fork()
    if child == 0:
        do_run(settings, out, prepare)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def do_run(settings: Settings, out: Path, prepare: "Callable[[Watch], None]") -> NoReturn:
    """Do the run as the command line does, and leave with its exit code; nothing of the parent may go on here."""
    import typer

    from cytoclr import pipeline
    from cytoclr.cli.app import guard

    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # so that the screen starts no processes of its own
    code = BUG
    try:
        prepare(Watch(out))
        guard(lambda: pipeline.run(settings, out, until=UNTIL), debug=False)
        code = 0
    except typer.Exit as leave:
        code = leave.exit_code
    finally:
        if sys.exc_info()[1] is not None:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
        os._exit(code)


class Watch:
    """Sees what a process does to files under a folder, and may act before any of it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.absolute())
        self.num_events = 0

    def record(self, path: Path) -> None:
        """Write down all that is done, a line each."""
        file = path.open("w")
        self._watch(lambda *event: print(*event, sep="\t", file=file, flush=True))

    def act_at(self, n: int, kind: str) -> None:
        """Die, or fail, in place of the n-th thing that is done."""

        def act(*event: object) -> None:
            if self.num_events - 1 == n:
                if kind == "deaths":
                    os._exit(DIED)
                raise OSError(errno.EIO, os.strerror(errno.EIO), event[1])

        self._watch(act)

    def _watch(self, tell: Callable[..., None]) -> None:
        fsync = os.fsync

        def sync(descriptor: int) -> None:
            place = os.readlink(f"/proc/self/fd/{descriptor}")
            self._note(tell, "fsync", place, os.fstat(descriptor).st_ino)
            fsync(descriptor)

        os.fsync = sync
        sys.addaudithook(lambda name, arguments: self._hear(tell, name, arguments))

    def _hear(self, tell: Callable[..., None], name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            writes = isinstance(path, (str, os.PathLike)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes:
                self._note(tell, name, os.fspath(path), 0)
        elif name in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            path = os.fspath(arguments[0])
            try:
                number = os.stat(path).st_ino
            except OSError:
                number = 0
            self._note(tell, name, path, number)

    def _note(self, tell: Callable[..., None], name: str, path: object, number: int) -> None:
        absolute = os.path.abspath(str(path))
        if absolute.startswith(self.root + os.sep) and not absolute.endswith(".lock"):
            self.num_events += 1
            is_folder = os.path.isdir(absolute)
            tell(name, absolute, number, list_inodes(absolute) if name == "os.rename" and is_folder else "")


def list_inodes(folder: str) -> str:
    """List the inodes of a folder's files."""
    found = [os.stat(os.path.join(place, file)) for place, _, files in os.walk(folder) for file in files]
    return " ".join(str(one.st_ino) for one in found if stat.S_ISREG(one.st_mode) and one.st_size)


def find_unsynced(events: Path) -> list[str]:
    """Name what was renamed before it, or a file in it, was brought to the disk."""
    synced: set[str] = set()
    unsynced = []
    for line in events.read_text().splitlines():
        name, path, inode, inside = line.split("\t")
        if name == "fsync":
            synced.add(inode)
        elif name == "os.rename" and not set(inside.split() if inside else [inode]) <= synced:
            unsynced.append(path)
    return unsynced


if __name__ == "__main__":
    raise SystemExit(main())
