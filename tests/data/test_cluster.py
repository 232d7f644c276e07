"""Where tasks run: the same calls and what follows from them, here and on Dask."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import ValidationError

from cytoclr.config import ClusterSettings
from cytoclr.data.cluster import Task, open_cluster
from cytoclr.errors import DataError, MachineError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise DataError(f"number {number} is wrong", code="META003")


def die_once(folder: Path) -> str:
    """Kill the worker the first time."""
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return "survived"


def die(folder: Path) -> None:
    os._exit(9)


@pytest.mark.parametrize("where", ["here", "threads", "processes"])
def test_every_task_runs_once_and_what_follows_too(where: str) -> None:
    results: list[int] = []

    def after(result: int) -> Iterable[Task]:
        assert threading.current_thread() is threading.main_thread()
        results.append(result)
        return (Task(square, (result,), after),) if result == 9 else ()

    with open_cluster(ClusterSettings(where=where, workers=2, memory_gb=1.0)) as cluster:
        cluster.run(Task(square, (number,), after) for number in range(20))
    assert sorted(results) == sorted([number * number for number in range(20)] + [81])


@pytest.mark.parametrize("where", ["here", "threads", "processes"])
def test_a_refusal_reaches_the_user_as_it_is(where: str) -> None:
    settings = ClusterSettings(where=where, workers=1, memory_gb=1.0)
    with open_cluster(settings) as cluster, pytest.raises(DataError, match=r"^number 3 is wrong$") as caught:
        cluster.run([Task(refuse, (3,), lambda _: ())])
    assert caught.value.code == "META003"


def test_a_lost_worker_costs_its_task_not_the_run(tmp_path: Path) -> None:
    results: list[str] = []

    def after(result: str) -> Iterable[Task]:
        results.append(result)
        return ()

    with open_cluster(ClusterSettings(where="processes", workers=2, memory_gb=1.0)) as cluster:
        cluster.run([Task(die_once, (tmp_path,), after)])
    assert results == ["survived"]


@pytest.mark.promise("The machine", "A site that kills its workers (memory) is given up and named")
def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    settings = ClusterSettings(where="processes", workers=1, memory_gb=1.0)
    with open_cluster(settings) as cluster, pytest.raises(MachineError, match=r"died several times on the same sites"):
        cluster.run([Task(die, (tmp_path,), lambda _: ())])


def test_wrong_places_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected here, threads, processes, slurm, or a Dask scheduler's"):
        ClusterSettings(where="cloud")
