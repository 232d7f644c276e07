"""What the training benchmarks share: interleaved timing, ratios with their spread, a process of one's own."""

import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Times:
    """Seconds that a case took, one for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest."""
        return min(self.seconds), max(self.seconds)

    def times_slower_than(self, other: "Times") -> str:
        """Say how often `other` fits in, round by round: ``12.3 x (11.9 to 13.0)``: median, lowest, highest."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{statistics.median(ratios):.3g} x ({min(ratios):.3g} to {max(ratios):.3g})"


def interleave(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Time the cases by turns, `repeats` rounds after one that does not count: what slows one slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(repeats + 1):
        for name, case in cases.items():
            started_s = time.perf_counter()
            case()
            if number:
                seconds[name].append(time.perf_counter() - started_s)
    return {name: Times(tuple(found)) for name, found in seconds.items()}


def peak_of(process: int | str = "self") -> float:
    """Read the most memory a running process has had resident so far, in MiB (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def run_alone(case: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call a module's function in a new process: what it returned, and the process's peak memory in MiB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, case, arguments).result()


def _call(case: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    return case(*arguments), peak_of()


def describe_machine() -> str:
    """Name the processor, the cores this process may use, and torch with its threads."""
    import torch

    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores{gpu}; torch {torch.__version__}, {threads} threads"
