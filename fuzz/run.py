"""Fuzz each parser for some time, from its corpus on; print a table, and where what failed is kept.

Run::

    python -m fuzz.run [--seconds 60] [--target config ...] [--keep]

atheris (libFuzzer) changes inputs at random and keeps those that reach code not reached before. An input that fails,
takes more than ten seconds or 4 GB is kept in ``fuzz/found``: put it into the corpus with what mends it. `--keep` puts
all new inputs there, too. The exit code is 1 if anything failed.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz import CORPUS, TARGETS, find_memory

FOUND = Path(__file__).parent / "found"


def main() -> int:
    """Fuzz the targets asked for, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--keep", action="store_true", help="keep new inputs in fuzz/found")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options, more = parser.parse_known_args()
    if options.inside:
        return fuzz(options.target[0], more)
    print(f"{'target':<12}{'inputs tried':>14}{'new inputs':>12}{'failures':>10}")
    failures = sum([run_target(name, options.seconds, keep=options.keep) for name in options.target])
    return min(failures, 1)


def run_target(name: str, seconds: int, *, keep: bool) -> int:
    """Fuzz one target in a process of its own; print its line, return how many inputs failed."""
    FOUND.mkdir(exist_ok=True)
    before = set(FOUND.iterdir())
    # libFuzzer ends without a word to Python: what it leaves is in our folder, not in one of its own
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=find_memory()) as place:
        new = FOUND / name if keep else Path(folder)
        new.mkdir(exist_ok=True)
        # ended by itself: not even a parser that hangs where no alarm reaches it holds the others up
        limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=16384"]
        told = subprocess.run(
            [sys.executable, "-m", "fuzz.run", "--inside", "--target", name, *limits,
             f"-artifact_prefix={FOUND}/{name}-", str(new), str(CORPUS / name)],
            capture_output=True, text=True, errors="replace", check=False, cwd=CORPUS.parents[1],
            env={**os.environ, "CYTOCLR_FUZZ": place},
        )  # fmt: skip
        num_new = len(list(new.iterdir()))
    tried = [int(count) for count in re.findall(r"^#(\d+)\s", told.stderr, re.MULTILINE)]
    failed = sorted(path for path in set(FOUND.iterdir()) - before if path.is_file())
    if told.returncode != 0 and not failed:
        failed = [Path("(no input was kept)")]
    print(f"{name:<12}{max(tried, default=0):>14,}{num_new:>12,}{len(failed):>10,}", flush=True)
    for path in failed:
        print(f"  {path}\n{told.stdout[-2000:]}\n{told.stderr[-2000:]}", flush=True)
    return len(failed)


def fuzz(name: str, arguments: list[str]) -> int:
    """Hand a target over to libFuzzer, which ends the process."""
    import atheris

    logging.getLogger("cytoclr").setLevel(logging.CRITICAL)  # what is left aside is said a hundred times a second
    with atheris.instrument_imports(include=["cytoclr", "fuzz"]):
        target = importlib.import_module(f"fuzz.{name}")
    atheris.Setup([name, *arguments], target.try_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
