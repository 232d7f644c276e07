"""Scripts for SLURM: they are right, hostile names stay names, and a real SLURM, where there is one, runs them."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cytoclr.config import Settings, TrainSettings
from cytoclr.data import cluster as clusters
from cytoclr.errors import MachineError, SettingsError
from cytoclr.slurm import write_scripts
from cytoclr.storage import read_json

HOSTILE = ["a b", "it's", 'two "quotes"', "$HOME", "`id`", "100%j", "back\\slash", "-rf", "*;&|>#", "µm"]


def write(folder: Path, **arguments: Any) -> dict[str, str]:
    settings = arguments.pop("settings", Settings())
    config, out = folder / "config.yaml", folder / "run"
    paths = write_scripts(config, out, folder=folder / "slurm", settings=settings, **arguments)
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def directives(script: str) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in found}


def command(script: str) -> list[str]:
    """The words of the command that a script runs."""
    lines = script[script.index("|| exit 4") + len("|| exit 4") : script.index("&\nwork=")]
    return shlex.split(lines.replace("\\\n", " "))


def cytoclr(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "cytoclr", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, cwd=cwd, check=False)


def test_each_job_asks_for_what_it_needs(tmp_path: Path) -> None:
    scripts = write(tmp_path, jobs=5, gpus=2, hours=1.5, partition="cpu", gpu_partition="gpu", account="lab")
    assert list(scripts) == ["crop.sbatch", "train.sbatch", "report.sbatch", "submit.sh"]
    crop, train, report = (directives(scripts[f"{verb}.sbatch"]) for verb in ("crop", "train", "report"))
    assert crop["partition"] == "cpu"
    assert train["partition"] == report["partition"] == "gpu"
    assert "gres" not in crop
    assert train["gres"] == "gpu:2"
    assert report["gres"] == "gpu:1"
    for asked in (crop, train, report):
        assert asked["account"] == "lab"
        assert asked["time"] == "01:30:00"
        assert asked["signal"] == "B:USR1@300"
        assert "requeue" in asked
        assert asked["output"].startswith(str(tmp_path / "slurm" / "logs"))
    assert (tmp_path / "slurm" / "logs").is_dir()
    assert not (tmp_path / "run").exists()


def test_each_job_runs_its_verb_on_the_same_run(tmp_path: Path) -> None:
    scripts = write(tmp_path, jobs=5, gpus=2, partition="cpu", changes=["report.title=My cells"])
    for verb, own in {
        "crop": ["cluster.where=slurm", "cluster.workers=5", "cluster.slurm_walltime=12:00:00"],
        "train": ["device=gpu", "train.devices=2"],
        "report": ["device=gpu"],
    }.items():
        words = command(scripts[f"{verb}.sbatch"])
        start = words.index(verb)
        assert Path(words[0]).is_absolute()
        assert shutil.which(words[0])
        assert words[start + 1 : start + 4] == [str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
        assert words[start + 4 :: 2] == ["--set"] * len(words[start + 5 :: 2])
        assert words[start + 5] == "report.title=My cells"
        assert set(own) <= set(words)


def test_without_gpus_training_takes_cores(tmp_path: Path) -> None:
    settings = Settings(train=TrainSettings(devices=4, num_workers=1))
    script = write(tmp_path, gpus=0, settings=settings)["train.sbatch"]
    assert "gres" not in directives(script)
    assert directives(script)["cpus-per-task"] == "8"
    assert "train.devices=4" in command(script)
    assert "device=gpu" not in command(script)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    scripts = write(folder, changes=[f"report.title={name}"])
    for verb in ("crop", "train", "report"):
        script = scripts[f"{verb}.sbatch"]
        assert str(folder / "config.yaml") in command(script)
        assert f"report.title={name}" in command(script)
        assert directives(script)["output"] == str(folder / "slurm/logs").replace("%", "%%") + f"/{verb}-%j.log"
    for path in (folder / "slurm").glob("*.*"):
        checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="characters that cannot be shown"):
        write(tmp_path / "a\n#SBATCH --nodes=9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, r"--jobs 0: expected a number of at least 1\."),
        ({"gpus": -1}, "--gpus -1: expected"),
        ({"hours": 0.1}, r"--hours 0\.1: expected a number of at least 0\.25"),
        ({"hours": float("nan")}, "--hours nan: expected"),
        ({"memory_gb": float("inf")}, "--memory-gb inf: expected"),
        ({"cpus": 0}, "--cpus 0: expected"),
        ({"partition": "a b"}, "--partition 'a b': expected a name"),
        ({"gpu_partition": "x\n#SBATCH --nodes=9"}, "--gpu-partition .*: expected a name"),
        ({"account": "$(id)"}, "--account .*: expected a name"),
        ({"mail": "-x"}, "--mail '-x': expected a name"),
        ({"gpus": 3}, "256 cannot be shared by 3 devices"),
        ({"gpus": 2, "settings": Settings(train=TrainSettings(chunk_size=5))}, "chunk_size: 5 cannot be shared by 2"),
        ({"settings": Settings(train=TrainSettings(nodes=2))}, r"train\.nodes: 2, but these scripts train on one node"),
        ({"settings": Settings(device="cpu")}, "device: cpu, but 1 GPUs are asked for"),
        ({"settings": Settings(device="gpu"), "gpus": 0}, "device: gpu, but --gpus 0"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write(tmp_path, **arguments)
    assert not (tmp_path / "slurm").exists()


def test_scripts_are_replaced_only_by_force(tmp_path: Path) -> None:
    before = write(tmp_path)
    (tmp_path / "slurm" / "train.sbatch").write_text("edited")
    with pytest.raises(SettingsError, match=r"holds crop\.sbatch.* Give --force"):
        write(tmp_path)
    assert (tmp_path / "slurm" / "train.sbatch").read_text() == "edited"
    assert write(tmp_path, force=True) == before


def test_the_command_line_writes_them(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {epochs: 3}\n")
    done = cytoclr("slurm", "mine.yaml", "--jobs", 3, "--gpus", 2, "--set", "train.epochs=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "submit   " in done.stdout
    words = command((tmp_path / "slurm" / "train.sbatch").read_text())
    assert str(tmp_path / "runs" / "mine") in words
    assert "train.epochs=4" in words
    again = cytoclr("slurm", "mine.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert "Give --force" in again.stderr
    wrong = cytoclr("slurm", "mine.yaml", "--set", "train.epoch=4", "--force", cwd=tmp_path)
    assert wrong.returncode == 2


def run_script(folder: Path, work: str, *, signal: str | None, restarts: int = 0) -> tuple[int, str, list[str]]:
    """Run ``train.sbatch`` without SLURM, its command exchanged; return exit code, output and scontrol's arguments."""
    write(folder, force=True)
    script = folder / "slurm" / "train.sbatch"
    text = script.read_text()
    begin, end = text.index("|| exit 4") + len("|| exit 4"), text.index("&\nwork=")
    script.write_text(text[:begin] + f"\n\nbash -c {shlex.quote(work)} " + text[end:])
    asked = folder / "asked"
    asked.unlink(missing_ok=True)
    control = folder / "scontrol"
    control.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {shlex.quote(str(asked))}\n')
    control.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts)}
    process = subprocess.Popen(
        ["bash", str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if signal is not None:
        deadline_s = time.monotonic() + 20
        while not (folder / "working").exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
    output, _ = process.communicate(timeout=30)
    (folder / "working").unlink(missing_ok=True)
    return process.returncode, output, asked.read_text().splitlines() if asked.exists() else []


def test_out_of_time_a_job_goes_back_into_the_queue(tmp_path: Path) -> None:
    mark = shlex.quote(str(tmp_path / "working"))
    stops = f"trap 'sleep 0.5; echo stopped; exit 143' TERM; touch {mark}; while true; do sleep 0.1; done"
    code, output, asked = run_script(tmp_path, stops, signal="USR1")
    assert "stopped" in output
    assert "back into the queue" in output
    assert asked == ["requeue", "17"]
    # scancel stops it for good
    code, output, asked = run_script(tmp_path, stops, signal="TERM")
    assert code == 143
    assert "stopped" in output
    assert asked == []
    # work that ends well just then is not done again
    code, output, asked = run_script(
        tmp_path, f"trap 'exit 0' TERM; touch {mark}; while true; do sleep 0.1; done", signal="USR1"
    )
    assert (code, asked) == (0, [])
    # an epoch that never fits in is given up some time
    code, output, asked = run_script(tmp_path, stops, signal="USR1", restarts=50)
    assert (code, asked) == (143, [])
    assert "raise --hours" in output


@pytest.mark.parametrize("expected", [0, 3])
def test_a_job_ends_as_its_work_does(tmp_path: Path, expected: int) -> None:
    assert run_script(tmp_path, f"exit {expected}", signal=None) == (expected, "", [])


class FakeCluster:
    """What `SlurmJobs` sees of a dask-jobqueue cluster."""

    def __init__(self, *ids: str | None) -> None:
        self.workers = {number: SimpleNamespace(job_id=job) for number, job in enumerate(ids)}
        self.scheduler_info: dict[str, dict[str, object]] = {"workers": {}}
        self.scaled: list[int] = []

    def scale(self, *, jobs: int) -> None:
        self.scaled.append(jobs)

    def job_script(self) -> str:
        return "#!/bin/bash"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_TEND_EVERY_S", 0.0)


def answer(monkeypatch: pytest.MonkeyPatch, code: int, out: str, error: str) -> None:
    done = subprocess.CompletedProcess(["squeue"], code, out, error)
    monkeypatch.setattr(clusters, "_call", lambda *_: done)


@pytest.mark.usefixtures("at_once")
def test_refused_jobs_are_told_in_slurms_words(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 1, "", "sbatch: error: invalid partition specified: nix\n")
    with pytest.raises(MachineError, match="refused the jobs: invalid partition specified: nix"):
        clusters.SlurmJobs(FakeCluster(None, None), 2).tend()


@pytest.mark.usefixtures("at_once")
def test_jobs_that_wait_are_waited_for_and_jobs_that_are_gone_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = clusters.SlurmJobs(FakeCluster("7", None), 2)
    answer(monkeypatch, 0, "7 is PENDING (Resources)\n", "")
    tend_often(jobs)
    answer(monkeypatch, 1, "", "slurm_load_jobs error: Unable to contact slurm controller\n")
    tend_often(jobs)
    answer(monkeypatch, 1, "", "slurm_load_jobs error: Invalid job id specified\n")
    with pytest.raises(MachineError, match=r"all jobs have ended without a worker: 7\. .*slurm-JOB\.out"):
        tend_often(jobs)


def tend_often(jobs: clusters.SlurmJobs) -> None:
    for _ in range(20):
        jobs.tend()


@pytest.mark.usefixtures("at_once")
def test_lost_jobs_are_asked_for_again() -> None:
    cluster = FakeCluster("7", "8")
    cluster.scheduler_info["workers"]["tcp://1"] = {}
    clusters.SlurmJobs(cluster, 2).tend()
    assert cluster.scaled == [2]


def test_without_sbatch_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("dask_jobqueue") is None:  # it is not imported here: see the test of Ctrl-C
        pytest.skip("needs dask-jobqueue")
    monkeypatch.setenv("PATH", "/nowhere")
    from cytoclr.config import ClusterSettings

    with (
        pytest.raises(MachineError, match="there is no sbatch here"),
        clusters.open_cluster(ClusterSettings(where="slurm")),
    ):
        pass


def slurm_answers() -> bool:
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return False
    asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False)
    return "UP" in asked.stdout


needs_slurm = pytest.mark.skipif(not slurm_answers(), reason="no SLURM answers here (sbatch and a running slurmctld)")


@needs_slurm
@pytest.mark.parametrize("name", ["plain", *HOSTILE])
def test_sbatch_understands_the_scripts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / name, gpus=0, memory_gb=1.0, mail="me@lab.org")
    for verb in ("crop", "train", "report"):
        script = tmp_path / name / "slurm" / f"{verb}.sbatch"
        asked = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False)
        assert "to start at" in asked.stderr, asked.stderr


@needs_slurm
@pytest.mark.slow
def test_a_real_slurm_crops_trains_and_reports(tiny_screen: Path) -> None:
    folder = tiny_screen / "it's 100% mine"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "device: cpu\n"
        "screen: {reader: bbbc021, image_table: ../image.csv, images: ../images}\n"
        "crop: {size_px: 16, locations: ../locations.csv}\n"
        "cluster: {memory_gb: 1.0}\n"
        "train: {epochs: 2, minibatch_size: 8, view_size_px: 16, backbone: seed-cnn, devices: 2}\n"
        "profile: {normalise: none}\n"
        "evaluate: {bootstraps: 100, permutations: 100}\n"
    )
    done = cytoclr("slurm", "--out", "run", "--jobs", 2, "--gpus", 0, "--memory-gb", 2, "--hours", 0.5, cwd=folder)
    assert done.returncode == 0, done.stderr
    submitted = subprocess.run(["slurm/submit.sh"], cwd=folder, capture_output=True, text=True, check=False)
    jobs = re.findall(r"job (\d+)", submitted.stdout)
    assert len(jobs) == 3, submitted.stderr
    deadline_s = time.monotonic() + 400
    try:
        while time.monotonic() < deadline_s and waiting(jobs):
            time.sleep(1)
    finally:
        subprocess.run(["scancel", *jobs], capture_output=True, check=False)
    logs = {path.name: path.read_text(errors="replace") for path in (folder / "slurm" / "logs").iterdir()}
    assert (folder / "run" / "report.html").is_file(), logs
    # jobs of SLURM cut the crops, and left their logs with the others
    assert sum(name.startswith("slurm-") for name in logs) == 2
    assert read_json(folder / "run" / "manifests" / "train.json")["report"]["epochs"] == 2


def waiting(jobs: list[str]) -> bool:
    asked = subprocess.run(
        ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--states=PENDING,RUNNING,COMPLETING"],
        capture_output=True,
        text=True,
        check=False,
    )
    return bool(asked.stdout.strip())


def test_ctrl_c_still_stops_a_run_that_uses_slurm() -> None:
    """dask-jobqueue makes SIGINT a silent exit with code 0 as it is imported."""
    if find_spec("dask_jobqueue") is None:
        pytest.skip("needs dask-jobqueue")
    code = (
        "import signal; from cytoclr.data.cluster import _import_slurm; before = signal.getsignal(signal.SIGINT);"
        "_import_slurm(); assert signal.getsignal(signal.SIGINT) is before; print('kept')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "kept\n"
