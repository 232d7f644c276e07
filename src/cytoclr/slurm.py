"""A run as SLURM jobs: scripts that crop, train and report, each after the one before, and one that submits them."""

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from cytoclr.config import Settings
from cytoclr.errors import SettingsError, list_some
from cytoclr.storage import write_text

__all__ = ["write_scripts"]

#: So long before its time is over a job is told: SLURM may be a minute late, and checkpoints take a while to write.
_NOTICE_S = 300
#: So often a job that ran out of time is put back into the queue; then something else is wrong.
_MOST_RESTARTS = 50


def write_scripts(
    config: Path,
    out: Path,
    *,
    folder: Path,
    settings: Settings,
    changes: Sequence[str] = (),
    jobs: int = 8,
    gpus: int = 1,
    hours: float = 12.0,
    partition: str | None = None,
    gpu_partition: str | None = None,
    account: str | None = None,
    memory_gb: float = 32.0,
    cpus: int | None = None,
    mail: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write ``crop.sbatch``, ``train.sbatch``, ``report.sbatch`` and ``submit.sh``, and make the folder of their logs.

    Each job runs a verb of the command line on the same run folder. Shortly before its time is over it is stopped in
    order and put back into the queue, where it goes on; `scancel` stops it for good.

    Parameters
    ----------
    config, out
        The config file and the run folder; all nodes must reach them under the same paths.
    folder
        Where the scripts go. Logs go into its ``logs``: a run folder to be must not hold other files.
    settings
        What the config, with `changes`, says.
    changes
        As given with ``--set``; written into every script.
    jobs
        SLURM jobs that cut crops, each with one core and ``cluster.memory_gb``.
    gpus
        Of the training job, on one node, a process each; nought: it trains on ``train.devices`` processes of the CPU.
    hours
        Time limit of each job, at least a quarter of an hour.
    partition, gpu_partition
        Where jobs go; None: SLURM's default. `gpu_partition` is for training and report, None: as `partition`.
    account
        Who pays; None: SLURM's default.
    memory_gb
        Of the training and the report job each.
    cpus
        Cores of the training job; None: one a process and one a loader.
    mail
        An address that is told when a job ends or fails.
    force
        Replace scripts that are there.

    Returns
    -------
    list of pathlib.Path
        The scripts, in the order in which they run; ``submit.sh`` last.

    Raises
    ------
    SettingsError
        Scripts are there; a number is out of range; a name or a path cannot stand in a script; the device and `gpus`
        contradict each other; training is to take several nodes; or the minibatch or its chunks cannot be shared by the
        GPUs.
    MachineError
        The folder cannot be written.
    """
    folder, logs = folder.absolute(), folder.absolute() / "logs"
    _check_numbers(jobs=jobs, gpus=gpus, hours=hours, memory_gb=memory_gb, cpus=cpus)
    _check_words({"partition": partition, "gpu-partition": gpu_partition, "account": account, "mail": mail})
    _check_devices(settings, gpus)
    for path in (config, out, folder):
        _check_path(path)
    cluster: dict[str, object] = {
        "cluster.where": "slurm",
        "cluster.workers": jobs,
        "cluster.slurm_walltime": _spell_time(hours),
        **_leave_out_none({"cluster.slurm_queue": partition, "cluster.slurm_account": account}),
    }
    devices = gpus or settings.train.devices
    on_gpu = {"device": "gpu"} if gpus else {}
    crop = _Job(
        "crop",
        cluster,
        hours=hours,
        memory_gb=settings.cluster.memory_gb,
        cpus=1,
        gpus=0,
        partition=partition,
        account=account,
        mail=mail,
    )
    train = replace(
        crop,
        verb="train",
        changes={**on_gpu, "train.devices": devices},
        memory_gb=memory_gb,
        cpus=cpus or devices * (1 + settings.train.num_workers),
        gpus=gpus,
        partition=gpu_partition or partition,
    )
    scripts = [crop, train, replace(train, verb="report", changes=on_gpu, gpus=min(gpus, 1))]
    texts = {
        folder / f"{job.verb}.sbatch": job.write(config.absolute(), out.absolute(), logs, changes) for job in scripts
    }
    texts[folder / "submit.sh"] = _write_submit([job.verb for job in scripts])
    there = [path.name for path in texts if path.exists()]
    if there and not force:
        raise SettingsError(
            f"{folder}: holds {list_some(there)}. Give --force to write them anew, or choose another --scripts."
        )
    for path, text in texts.items():
        write_text(path, text)
    logs.mkdir(exist_ok=True)
    (folder / "submit.sh").chmod(0o755)
    return list(texts)


@dataclass(frozen=True)
class _Job:
    """A verb of the command line as a job, and what that asks of SLURM."""

    verb: str
    changes: Mapping[str, object]
    _: KW_ONLY
    hours: float
    memory_gb: float
    cpus: int
    gpus: int
    partition: str | None
    account: str | None
    mail: str | None

    def write(self, config: Path, out: Path, logs: Path, changes: Sequence[str]) -> str:
        """Write the script."""
        given = [*changes, *(f"{key}={value}" for key, value in self.changes.items())]
        options = [("--out", str(out)), *(("--set", change) for change in given)]
        lines = [[*_find_command(), self.verb, str(config)], *options]
        return _SCRIPT.format(
            verb=self.verb,
            directives="\n".join(f"#SBATCH --{directive}" for directive in self._list_directives(logs)),
            logs=shlex.quote(str(logs)),
            command=" \\\n    ".join(map(shlex.join, lines)),
            most=_MOST_RESTARTS,
        )

    def _list_directives(self, logs: Path) -> list[str]:
        # in a directive quotes mean what they mean to the shell, but % begins a pattern
        log = shlex.quote(str(logs).replace("%", "%%") + f"/{self.verb}-%j.log")
        given = _leave_out_none({"partition": self.partition, "account": self.account, "mail-user": self.mail})
        return [
            f"job-name=cytoclr-{self.verb}",
            f"output={log}",
            "open-mode=append",
            "nodes=1",
            "ntasks-per-node=1",
            f"cpus-per-task={self.cpus}",
            f"mem={round(self.memory_gb * 1000)}M",
            f"time={_spell_time(self.hours)}",
            f"signal=B:USR1@{_NOTICE_S}",
            "requeue",
            *([f"gres=gpu:{self.gpus}"] if self.gpus else []),
            *(f"{name}={value}" for name, value in given.items()),
            *(["mail-type=END,FAIL"] if self.mail else []),
        ]


_SCRIPT = """\
#!/bin/bash
{directives}

# If the nodes need modules or an environment, load them here:
# module load cuda
# source /path/to/venv/bin/activate

# Lightning would expect a task a device from srun; here cytoclr starts its own processes. By this name Lightning
# leaves SLURM alone.
export SLURM_JOB_NAME=interactive

cd -- {logs} || exit 4

{command} &
work=$!
out_of_time=no
# USR1 comes before the time limit: stop in order. TERM comes from scancel, or when others go first.
trap 'out_of_time=yes; kill -TERM "$work"' USR1
trap 'kill -TERM "$work"' TERM INT
# a signal ends wait, not the work
while kill -0 "$work" 2>/dev/null; do
    wait "$work"
done
wait "$work"
code=$?
if [ "$out_of_time" = yes ] && [ "$code" -eq 143 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ]; then
        echo "{verb}: out of time; back into the queue, to go on there"
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    echo "{verb}: out of time for the {most}th time; raise --hours"
fi
exit "$code"
"""


def _write_submit(verbs: Sequence[str]) -> str:
    """Write the script that submits the jobs, each to begin when the one before has gone well."""
    lines = [
        "#!/bin/bash",
        "# Submits the jobs; each begins when the one before has gone well. Submitted again, they go on.",
        "set -euo pipefail",
        'here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)',
    ]
    after = ""
    for verb in verbs:
        lines += [
            f'{verb}=$(sbatch --parsable{after} "$@" "$here/{verb}.sbatch")',
            f'echo "{verb}: job ${{{verb}%%;*}}"',
        ]
        after = f' --dependency="afterok:${{{verb}%%;*}}" --kill-on-invalid-dep=yes'
    return "\n".join(lines) + "\n"


def _find_command() -> list[str]:
    """The command in use, to be found from any node: this Python's own ``cytoclr``, or this Python itself."""
    beside = Path(sys.executable).absolute().parent / "cytoclr"
    command = [str(beside)] if shutil.which(beside) else [str(Path(sys.executable).absolute()), "-m", "cytoclr"]
    _check_path(Path(command[0]))
    return command


def _spell_time(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _leave_out_none(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _check_numbers(*, jobs: int, gpus: int, hours: float, memory_gb: float, cpus: int | None) -> None:
    least = {"jobs": (jobs, 1), "gpus": (gpus, 0), "hours": (hours, 0.25), "memory-gb": (memory_gb, 1)}
    if cpus is not None:
        least["cpus"] = (cpus, 1)
    for name, (value, smallest) in least.items():
        if not value >= smallest or value == float("inf"):
            raise SettingsError(f"--{name} {value}: expected a number of at least {smallest}.")


def _check_words(words: Mapping[str, str | None]) -> None:
    for name, word in words.items():
        if word is not None and not re.fullmatch(r"[\w@.,+][\w@.,+-]*", word, re.ASCII):
            raise SettingsError(f"--{name} {word!r}: expected a name as SLURM has them: letters, digits, . , _ + - @")


def _check_path(path: Path) -> None:
    """Refuse what would end a line of a script; all else is quoted."""
    if any(not character.isprintable() for character in str(path.absolute())):
        raise SettingsError(f"{str(path)!r}: has characters that cannot be shown, as a line break. Rename it.")


def _check_devices(settings: Settings, gpus: int) -> None:
    if settings.device == "cpu" and gpus:
        raise SettingsError(f"device: cpu, but {gpus} GPUs are asked for. Give --gpus 0, or set device to auto.")
    if settings.device == "gpu" and not gpus:
        raise SettingsError("device: gpu, but --gpus 0. Give the number of GPUs, or set device to auto.")
    if settings.train.nodes > 1:
        raise SettingsError(
            f"train.nodes: {settings.train.nodes}, but these scripts train on one node. Set it to 1, and --gpus to "
            "what a node has."
        )
    devices = gpus or settings.train.devices
    for name, size in (("minibatch_size", settings.train.minibatch_size), ("chunk_size", settings.train.chunk_size)):
        if size is not None and size % devices:
            raise SettingsError(
                f"train.{name}: {size} cannot be shared by {devices} devices. Choose a multiple, or other --gpus."
            )
