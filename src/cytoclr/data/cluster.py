"""Where tasks run: here, or on Dask (threads, processes, SLURM's jobs, someone's scheduler); the result is the same.

A task is a function of the data floor and its arguments; it writes files into the run folder, which every worker must
reach under the same path, and returns little.
"""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cytoclr.config import ClusterSettings
from cytoclr.errors import MachineError, SettingsError

__all__ = ["Cluster", "Here", "SlurmJobs", "Task", "open_cluster"]

logger = logging.getLogger(__name__)

#: Tasks given to each worker ahead of their time: enough that none waits, few enough that arguments stay small.
_AHEAD = 3
#: How often futures, SLURM's queue and the user's patience are looked after.
_LOOK_EVERY_S, _TEND_EVERY_S, _SAY_EVERY_S = 0.02, 10.0, 600.0
#: So often SLURM has no job of ours, and there is no worker, before that is an error.
_LOOKS_IN_VAIN = 6


#: Dask has workers give memory back at once and watches them every 10 ms, which suits many small tasks. Ours are few
#: and use large arrays again and again: kept memory and no watching made two workers a quarter faster.
_TUNED = {
    "distributed.nanny.pre-spawn-environ": {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1),
        **dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), 2**28),
    },
    "distributed.worker.profile.enabled": False,
    # at once, not when the first task comes
    "distributed.worker.preload": ["cytoclr.data.blocks"],
}


@dataclass(frozen=True)
class Task:
    """A call to be made somewhere, and what follows from its result (here: in the process that asked)."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    follow: Callable[[Any], "Iterable[Task]"]


@runtime_checkable
class Cluster(Protocol):
    """Runs tasks in any order."""

    def run(self, tasks: Iterable[Task]) -> None:
        """Run all tasks, and those that follow from them; `tasks` is asked for more only as workers get free."""


class Here:
    """Runs tasks one after the other, in this process."""

    def run(self, tasks: Iterable[Task]) -> None:
        """Run all tasks; what follows from one is run before the next."""
        for task in tasks:
            waiting = deque([task])
            while waiting:
                now = waiting.popleft()
                waiting.extend(now.follow(now.function(*now.arguments)))


@contextmanager
def open_cluster(settings: ClusterSettings) -> Iterator[Cluster]:
    """Open what the settings name, and close it again.

    Raises
    ------
    SettingsError
        dask-jobqueue is asked for and not installed.
    MachineError
        The scheduler cannot be reached, or a worker died on the same task several times.
    """
    if settings.where == "here":
        yield Here()
        return
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells every coming and going of a worker
    with dask.config.set(_TUNED), _open_workers(settings) as (scheduler, tend):
        try:
            client = Client(scheduler, timeout="30s")
        except (OSError, TimeoutError) as error:
            raise MachineError(
                f"cluster.where {settings.where}: no Dask scheduler answers there ({error}). Start one (dask "
                "scheduler), or choose here, threads, processes or slurm.",
                code="NET001",
            ) from None
        with client:
            yield _Dask(client, tend)


@contextmanager
def _open_workers(settings: ClusterSettings) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Start workers, or name the scheduler that has them; and say what is to be called now and then."""
    workers = settings.workers or len(os.sched_getaffinity(0))
    if settings.where in {"threads", "processes"}:
        from distributed import LocalCluster

        in_processes = settings.where == "processes"
        with _ignored_interrupts():
            cluster = LocalCluster(
                n_workers=0 if in_processes else 1,
                threads_per_worker=1 if in_processes else workers,
                processes=in_processes,
                memory_limit=f"{settings.memory_gb}GB" if in_processes else 0,
                dashboard_address="127.0.0.1:0",  # nobody looks at it, and 8787 may be taken; None would take that
                silence_logs=logging.ERROR,
            )
        with cluster:
            if in_processes:
                cluster.scale(workers)
            # a client that knows only the address does not wait for the workers: they start while tasks are made
            yield cluster.scheduler_address, _do_nothing
    elif settings.where == "slurm":
        with _open_slurm(settings) as (cluster, tend):
            yield cluster, tend
    else:
        yield settings.where, _do_nothing


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Let processes started here ignore Ctrl-C, which reaches all of a terminal: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _do_nothing() -> None:
    """Workers of this machine, or of another's scheduler, are not ours to look after."""


@contextmanager
def _open_slurm(settings: ClusterSettings) -> Iterator[tuple[Any, Callable[[], None]]]:
    try:
        cluster_class, _ = _import_slurm()
    except ImportError:
        raise SettingsError("cluster.where slurm needs dask-jobqueue: pip install 'cytoclr[slurm]'.") from None
    if shutil.which("sbatch") is None:
        raise MachineError("cluster.where slurm: there is no sbatch here. Run it on a machine that can submit jobs.")
    jobs = settings.workers or 1
    with (
        _silence_libraries(),
        cluster_class(
            queue=settings.slurm_queue,
            account=settings.slurm_account,
            walltime=settings.slurm_walltime,
            cores=1,
            memory=f"{settings.memory_gb}GB",
            job_name="cytoclr",
            job_cls=_define_job(),
            python=shlex.quote(sys.executable),
            # nobody looks at the dashboards, and another user may have their port
            worker_extra_args=["--no-dashboard"],
            scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        ) as cluster,
    ):
        cluster.scale(jobs=jobs)
        logger.info("asked SLURM for %d jobs; crops are cut as soon as the first runs", jobs)
        yield cluster, SlurmJobs(cluster, jobs).tend


def _import_slurm() -> tuple[Any, Any]:
    """Import dask-jobqueue's cluster and job; as it is imported it would make Ctrl-C a silent, successful exit."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    return SLURMCluster, SLURMJob


def _define_job() -> Any:
    """Define a job that says how it stands: a cluster asserts it when it closes, and dask-jobqueue's does not tell."""
    from distributed import Status

    _, job_class = _import_slurm()

    class Job(job_class):  # type: ignore[valid-type, misc]
        async def start(self) -> None:
            try:
                await super().start()
            except RuntimeError:
                self.status = Status.failed
                raise

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    return Job


@contextmanager
def _silence_libraries() -> Iterator[None]:
    """Keep from the user what Dask does, and asyncio's tracebacks of refused jobs: `SlurmJobs` tells of them."""
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "distributed")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class SlurmJobs:
    """The jobs in which workers run: those that ran out of time are submitted again, those that came to nothing told.

    A job may wait in the queue for hours, so nothing is given up while SLURM still has one.
    """

    def __init__(self, cluster: Any, wanted: int) -> None:
        self._cluster = cluster
        self._wanted = wanted
        self._had_workers = False
        self._looked_in_vain = 0
        self._due_s = time.monotonic() + _TEND_EVERY_S
        self._say_due_s = time.monotonic() + 6 * _TEND_EVERY_S

    def tend(self) -> None:
        """Look after the jobs, unless that was done just now.

        Raises
        ------
        MachineError
            SLURM refused all jobs, or all have ended without a worker.
        """
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _TEND_EVERY_S
        jobs = list(self._cluster.workers.values())
        if jobs and all(job.job_id is None for job in jobs):
            raise MachineError(f"cluster.where slurm: SLURM refused the jobs: {self._ask_why()}")
        if self._cluster.scheduler_info["workers"]:
            self._had_workers, self._looked_in_vain = True, 0
        elif jobs:
            self._look_at_queue([str(job.job_id) for job in jobs if job.job_id is not None])
        if self._had_workers:
            self._cluster.scale(jobs=self._wanted)

    def _look_at_queue(self, jobs: list[str]) -> None:
        # a job that SLURM has forgotten is not an error here; one that is being ended is no job any more
        states = "--states=PENDING,RUNNING,CONFIGURING,SUSPENDED,REQUEUED,STOPPED"
        asked = _call(["squeue", "--noheader", states, "--format=%i is %T (%r)", f"--jobs={','.join(jobs)}"])
        lines = asked.stdout.splitlines()
        if lines and time.monotonic() >= self._say_due_s:
            self._say_due_s = time.monotonic() + _SAY_EVERY_S
            logger.warning("no job of SLURM has a worker yet: %s", "; ".join(lines[:3]))
        # more than once, for workers that are on their way; of a squeue that does not answer nothing follows
        answered = asked.returncode == 0 or "Invalid job id" in asked.stderr
        self._looked_in_vain = 0 if lines or not answered else self._looked_in_vain + 1
        if self._looked_in_vain >= _LOOKS_IN_VAIN:
            raise MachineError(
                f"cluster.where slurm: all jobs have ended without a worker: {', '.join(jobs[:5])}. Their logs say "
                f"why: {Path.cwd() / 'slurm-JOB.out'}. The nodes must reach this Python "
                f"({sys.executable}) and this machine."
            )

    def _ask_why(self) -> str:
        asked = _call(["sbatch", "--test-only"], self._cluster.job_script())
        lines = [line.removeprefix("sbatch: error: ") for line in asked.stderr.splitlines()]
        return " ".join(lines) or "it does not say why. Submit a job by hand to see."


def _call(command: list[str], given: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)  # noqa: S603  (no shell)


class _Dask:
    """Runs tasks on Dask's workers."""

    def __init__(self, client: Any, tend: Callable[[], None]) -> None:
        self._client = client
        self._tend = tend

    def run(self, tasks: Iterable[Task]) -> None:
        """Keep every worker busy with a few tasks ahead; a task whose worker is lost is run by another."""
        from distributed import as_completed
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        more = iter(tasks)
        waiting: deque[Task] = deque()
        running: dict[str, Task] = {}
        futures = as_completed(with_results=False)

        def fill() -> None:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            while len(running) < _AHEAD * max(sum(worker["nthreads"] for worker in workers), 1):
                task = waiting.popleft() if waiting else next(more, None)
                if task is None:
                    return
                future = self._client.submit(task.function, *task.arguments, pure=False)
                running[future.key] = task
                futures.add(future)

        fill()
        look_again_s = time.monotonic() + 1
        try:
            while not futures.is_empty():
                if not futures.has_ready():
                    time.sleep(_LOOK_EVERY_S)
                    self._tend()
                    if time.monotonic() > look_again_s:  # for workers that have come since
                        look_again_s = time.monotonic() + 1
                        fill()
                    continue
                future = next(futures)
                task = running.pop(future.key)
                waiting.extend(task.follow(future.result()))
                fill()
        except KilledWorker as error:
            raise MachineError(
                f"a worker died several times on the same sites ({error}). It may lack memory: raise "
                "cluster.memory_gb, or lower cluster.workers; what was cut is kept, run again to go on."
            ) from None
        except (CancelledError, CommClosedError) as error:
            raise MachineError(
                f"the Dask scheduler was lost ({error}). What was cut is kept: run again to go on.", code="NET001"
            ) from None
        except BaseException:
            self._client.cancel(list(futures.futures))
            raise
