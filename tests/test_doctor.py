"""What `cytoclr doctor` says of a machine."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cytoclr import doctor
from cytoclr.doctor import examine_machine


def test_the_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    facts = examine_machine(tmp_path / "runs" / "new")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert 1 <= facts["machine"]["cores_usable"] <= os.cpu_count()
    assert 0 < facts["machine"]["memory_free_gb"] <= facts["machine"]["memory_gb"]
    assert facts["disk"]["writable"]
    assert facts["disk"]["free_gb"] > 0
    assert set(facts["extras"]) == {"h5ad", "slurm"}
    assert facts["warnings"] == []
    assert not (tmp_path / "runs").exists()


def test_the_device_is_the_one_that_training_chooses() -> None:
    from cytoclr.learn.embed import choose_device

    facts = examine_machine()
    assert facts["device"]["auto"] == choose_device("auto").type
    assert facts["device"]["why"]
    assert bool(facts["gpus"]) == (facts["device"]["auto"] == "cuda")


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cytoclr.learn.gpus", None)
    facts = examine_machine()
    assert facts["device"]["auto"] is None
    assert "torch cannot be used" in facts["device"]["why"]


@pytest.mark.parametrize(("name", "version"), [("lightning", "2.6.2"), ("pytorch-lightning", "2.6.3")])
def test_releases_that_steal_are_told(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    installed = {name: version}
    monkeypatch.setattr(doctor, "_find_version", installed.get)
    (warning,) = doctor.find_bad_versions()
    assert f"{name} {version} is a malicious release" in warning


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    facts = examine_machine(tmp_path / "runs" / "new")
    assert not facts["disk"]["writable"]
    assert "cannot be written" in facts["warnings"][0]


@pytest.mark.parametrize(
    ("group", "path", "text", "limit"),
    [
        ("0::/job", "memory.max", "max", None),
        ("0::/job", "job/memory.max", "2000000000", 2.0),
        ("0::/job/step", "job/memory.max", "3000000000", 3.0),
        ("4:memory:/job", "memory/job/memory.limit_in_bytes", "1500000000", 1.5),
        ("4:cpu:/job", "memory/memory.limit_in_bytes", "9223372036854771712", None),
    ],
)
def test_a_limit_of_memory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, path: str, text: str, limit: float | None
) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text + "\n")
    (tmp_path / "cgroup").write_text(group + "\n")
    monkeypatch.setattr(doctor, "_CGROUPS", tmp_path)
    monkeypatch.setattr(doctor, "_OWN_CGROUP", tmp_path / "cgroup")
    assert doctor._find_memory_limit() == limit


def test_slurm_is_asked_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._describe_slurm() == {"sbatch": None, "version": None}
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho slurm 24.05.1\n")
    sbatch.chmod(0o755)
    assert doctor._describe_slurm() == {"sbatch": str(sbatch), "version": "24.05.1"}
    sbatch.write_text("#!/nowhere/sh\n")
    assert doctor._describe_slurm() == {"sbatch": str(sbatch), "version": None}


def test_the_verb_prints_lines_or_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cytoclr", "doctor"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    for word in ("cytoclr", "package", "extra", "cores", "memory", "disk", "gpu", "device", "slurm"):
        assert f"\n{word:<8} " in "\n" + told
    assert "device   auto is " in told
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert {"versions", "extras", "machine", "disk", "device", "gpus", "slurm", "warnings"} == set(json.loads(printed))
