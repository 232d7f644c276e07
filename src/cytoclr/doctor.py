"""What this machine has: versions, optional parts, cores, memory, disk, GPUs, SLURM, and which device will be used."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["examine_machine"]

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scikit-image",
    "tifffile",
    "imagecodecs",
    "zarr",
    "distributed",
    "typer",
)
#: What the optional parts of an installation are for.
EXTRAS = {"h5ad": "profiles as .h5ad (anndata)", "slurm": "crops cut by SLURM jobs (cluster.where: slurm)"}
#: Releases that steal credentials when they are imported (GHSA-w37p-236h-pfx3, published 2026-04-30).
_MALICIOUS = {(name, version) for name in ("lightning", "pytorch-lightning") for version in ("2.6.2", "2.6.3")}
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: Seconds that SLURM may take to answer.
_PATIENCE_S = 10


def examine_machine(folder: Path = Path("runs")) -> dict[str, Any]:
    """Describe what a run would find here.

    Parameters
    ----------
    folder
        Where runs will be; it need not be there.

    Returns
    -------
    dict
        Plain values: ``versions`` (None: not installed), ``extras``, ``machine`` (sizes in GB; None: not known),
        ``disk``, ``device`` (what ``device: auto`` stands for, and why), ``gpus``, ``slurm``, ``warnings``.

    Notes
    -----
    Imports torch, in a second or two. Nothing is written.
    """
    versions = {"python": platform.python_version(), **{name: _find_version(name) for name in ("cytoclr", *PACKAGES)}}
    devices = _describe_devices()
    disk = _describe_disk(folder)
    return {
        "versions": versions,
        "extras": _describe_extras(),
        "machine": _describe_machine(),
        "disk": disk,
        "device": {"auto": devices["device"], "why": devices["why"]},
        "gpus": devices["gpus"],
        "slurm": _describe_slurm(),
        "warnings": [*find_bad_versions(), *_doubt_disk(disk)],
    }


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_bad_versions() -> list[str]:
    """Warn of installed releases that are known to do harm."""
    return [
        f"{name} {found} is a malicious release of 2026-04-30 that steals credentials. Remove it, change all passwords "
        "and keys that this account could read, and install pytorch-lightning 2.6.6 or later."
        for name in sorted({name for name, _ in _MALICIOUS})
        if (found := _find_version(name)) is not None and (name, found) in _MALICIOUS
    ]


def _describe_extras() -> dict[str, dict[str, Any]]:
    """Tell which optional parts are installed, as the installation itself names them."""
    needed: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("cytoclr") or []:
        match = re.match(r"(?P<name>[\w.-]+).*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]", line)
        if match is not None and match["extra"] in EXTRAS:
            needed.setdefault(match["extra"], []).append(match["name"])
    return {
        extra: {
            "installed": all(_find_version(name) is not None for name in names),
            "packages": names,
            "for": EXTRAS[extra],
        }
        for extra, names in sorted(needed.items())
    }


def _describe_machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": usable,
        "memory_gb": _measure_memory(),
        "memory_free_gb": _measure_free_memory(),
        "memory_limit_gb": _find_memory_limit(),
    }


def _measure_memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _measure_free_memory() -> float | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if match is None else round(int(match[1]) * 1024 / 1e9, 1)


def _find_memory_limit() -> float | None:
    """Find what the control group allows: a container's or a job's memory; None: no limit, or none is known."""
    limits = [_read_limit(path) for path in _list_limits()]
    least = min((limit for limit in limits if limit is not None), default=None)
    total = _measure_memory()
    # version 1 says "no limit" by a number larger than any machine's memory
    return None if least is None or (total is not None and least > total) else least


def _list_limits() -> list[Path]:
    places = [_CGROUPS / "memory.max", _CGROUPS / "memory" / "memory.limit_in_bytes"]
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return places
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            inside = _CGROUPS / group.lstrip("/")
            places += [folder / "memory.max" for folder in (inside, *inside.parents) if _CGROUPS in folder.parents]
        elif "memory" in controllers.split(","):
            places.append(_CGROUPS / "memory" / group.lstrip("/") / "memory.limit_in_bytes")
    return places


def _read_limit(path: Path) -> float | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return round(int(text) / 1e9, 1) if text.isdecimal() else None


def _describe_disk(folder: Path) -> dict[str, Any]:
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return {
        "folder": str(folder),
        "free_gb": round(shutil.disk_usage(there).free / 1e9, 1),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    }


def _doubt_disk(disk: dict[str, Any]) -> list[str]:
    if disk["writable"]:
        return []
    return [f"{disk['folder']}: cannot be written. Choose another place with --out, or get the right to write there."]


def _describe_devices() -> dict[str, Any]:
    try:
        from cytoclr.learn.gpus import describe_devices

        return describe_devices()
    except (ImportError, OSError, RuntimeError) as error:  # a torch that does not fit the machine
        return {"device": None, "why": f"torch cannot be used: {error}", "gpus": []}


def _describe_slurm() -> dict[str, Any]:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return {"sbatch": None, "version": None}
    try:
        told = subprocess.run(  # noqa: S603  # the user's own sbatch
            [sbatch, "--version"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return {"sbatch": sbatch, "version": None}
    return {"sbatch": sbatch, "version": told.stdout.strip().removeprefix("slurm ") or None}
