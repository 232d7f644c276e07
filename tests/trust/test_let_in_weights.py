"""Models from strangers: tensors only, nothing runs, and no memory is taken that the file could not fill."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from cytoclr.config import TrainSettings
from cytoclr.errors import CytoclrError, DamagedError, DataError
from cytoclr.learn import build_untrained_encoder
from cytoclr.learn.imports import import_model, read_tensors
from cytoclr.learn.model import ModelDescription, build_encoder, list_versions, read_checkpoint, read_model, save_model

SECTION = "Nobody let in"


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.target}'",)


def describe(**changes: Any) -> ModelDescription:
    values: dict[str, Any] = {
        "backbone": "small-cnn",
        "channels": ("DNA", "ER"),
        "stains": {},
        "bit_depth": None,
        "crop_size_px": 24,
        "view_size_px": 24,
        "pixel_size_um": None,
        "intensity": {},
        "transform": "sqrt",
        "num_features": 128,
        "labels_seen": "none",
        "num_cells": 9,
        "wells_trained": (),
        "wells_validated": (),
        "epochs": 1,
        "settings": {},
        "seed": 1,
        "versions": list_versions(),
    }
    return ModelDescription(**{**values, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder."""
    network = build_untrained_encoder(TrainSettings(view_size_px=24), 2, seed=1).network
    save_model(tmp_path / "model", network, describe())
    return tmp_path / "model"


def change(model: Path, **changes: Any) -> None:
    about = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**about, **changes}))


def open_model(source: Path) -> None:
    about, weights = read_model(source)
    build_encoder(about, weights, source)


@pytest.mark.promise(SECTION, "A checkpoint that would run a command runs none, in whatever way it was written")
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle", "beside the weights", "in the description", "safetensors"])
def test_no_checkpoint_runs_a_command(tmp_path: Path, way: str) -> None:
    ran, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    bomb = Exploit(ran)
    if way == "zip":
        torch.save(bomb, path)
    elif way == "legacy":
        torch.save({"state_dict": bomb}, path, _use_new_zipfile_serialization=False)
    elif way == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif way == "beside the weights":
        torch.save({"state_dict": {"backbone.w": torch.zeros(1), "x": bomb}, "cytoclr": {"model": {}}}, path)
    elif way == "in the description":
        torch.save({"state_dict": {}, "cytoclr": {"model": {"channels": bomb}}}, path)
    else:
        path = tmp_path / "evil.safetensors"
        path.write_bytes(pickle.dumps(bomb))
    if path.suffix == ".ckpt":
        with pytest.raises(DamagedError, match="not a checkpoint of cytoclr, or damaged"):
            read_checkpoint(path)
    with pytest.raises(DataError, match=r"evil\.\w+: (cannot be read as tensors|holds no tensors)") as refused:
        read_tensors(path)
    assert "weights_only" not in str(refused.value)  # torch advises to set it to False, which would run the command
    assert not ran.exists()
    pickle.loads(pickle.dumps(bomb))  # what was tried does run where it is let in
    assert ran.exists()


@pytest.mark.promise(SECTION, "The command line says one sentence of a hostile checkpoint, with exit code 3 or 5")
@pytest.mark.parametrize("command", ["import-model", "export-model"])
def test_the_command_line_on_a_hostile_checkpoint(tmp_path: Path, command: str) -> None:
    torch.save({"state_dict": Exploit(tmp_path / "ran")}, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=False)
    arguments = {
        "import-model": ["--out", "m", "--backbone", "small-cnn", "--channels", "DNA", "--crop-size", "24"],
        "export-model": ["m.onnx"],
    }[command]
    told = subprocess.run(
        [sys.executable, "-m", "cytoclr", command, "evil.ckpt", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode in {3, 5}, told.stderr
    assert "Traceback" not in told.stderr
    assert "evil.ckpt: " in told.stderr
    assert not (tmp_path / "ran").exists()


def write_safetensors(path: Path, header: dict[str, Any], size: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + bytes(64))
    return path


#: What a head says of 16 numbers that are there.
_W = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}


@pytest.mark.promise(SECTION, "Weights that claim a terabyte are refused before memory is taken")
@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"w": {**_W, "shape": [250 * 10**9], "data_offsets": [0, 10**12]}}, None),
        ({"w": {**_W, "shape": [10**6, 10**6, 10**6]}}, None),
        ({"w": _W}, 10**12),
        ({"w": _W, "v": _W}, None),
    ],
)
def test_safetensors_that_lie(model: Path, header: dict[str, Any], size: int | None) -> None:
    weights = write_safetensors(model / "encoder.safetensors", header, size)
    change(model, weights_sha256=None)
    with pytest.raises(DamagedError, match=r"encoder\.safetensors: cannot be read"):
        read_model(model)
    with pytest.raises(DataError, match="cannot be read as tensors"):
        read_tensors(weights)


def rewrite(path: Path, *, compression: int = zipfile.ZIP_STORED, swap: tuple[bytes, bytes] = (b"", b"")) -> Path:
    """Write an archive of torch anew, otherwise compressed, or with other bytes in its pickle."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content.replace(*swap) if swap[0] and name.endswith("data.pkl") else content)
    return path


@pytest.mark.promise(
    SECTION, "A checkpoint whose records unpack to more than they are is refused before it is unpacked"
)
def test_packed_checkpoints(tmp_path: Path) -> None:
    torch.save({"state_dict": {"backbone.w": torch.zeros(2_000_000)}, "cytoclr": {"model": {}}}, tmp_path / "m.ckpt")
    read_tensors(tmp_path / "m.ckpt")
    packed = rewrite(tmp_path / "m.ckpt", compression=zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 100_000
    with pytest.raises(DamagedError, match="is compressed, as torch writes none"):
        read_checkpoint(packed)
    with pytest.raises(DataError, match="is compressed, as torch writes none"):
        read_tensors(packed)


@pytest.mark.promise(SECTION, "A checkpoint that says its tensors are longer than their bytes reads none beyond them")
def test_a_checkpoint_that_lies_about_lengths(tmp_path: Path) -> None:
    torch.save({"state_dict": {"backbone.w": torch.zeros(77)}}, tmp_path / "m.pt")
    lying = rewrite(tmp_path / "m.pt", swap=(b"K\x4d", b"J" + struct.pack("<i", 2**28)))
    with pytest.raises(DataError, match="cannot be read as tensors"):
        read_tensors(lying)


class Asks:
    """Asks for memory when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return bytearray, (10**14,)


@pytest.mark.promise(SECTION, "A checkpoint that asks for memory itself is refused in a sentence")
def test_a_checkpoint_that_asks_for_memory(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "more": Asks()}, tmp_path / "m.ckpt")
    with pytest.raises(DamagedError, match="not a checkpoint of cytoclr"):
        read_checkpoint(tmp_path / "m.ckpt")
    with pytest.raises(DataError, match="cannot be read as tensors"):
        read_tensors(tmp_path / "m.ckpt")


@pytest.mark.promise(SECTION, "Tensors that are no plain numbers in memory are no weights")
def test_other_tensors(tmp_path: Path) -> None:
    with torch.no_grad():
        odd = {
            "expanded": torch.zeros(1).expand(10**12),
            "meta": torch.zeros(10**12, device="meta"),
        }
    torch.save({"state_dict": {7: torch.zeros(1), **odd}}, tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"lacks \d+ of \d+ tensors"):
        import_model(tmp_path / "m.pt", tmp_path / "out", backbone="small-cnn", channels=["DNA"], crop_size_px=24)


@pytest.mark.promise(SECTION, "A model.json that asks for a giant network is refused before it is built")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"backbone": "vit_giant_patch14_dinov2", "view_size_px": 518}, "the weights are not of a vit_giant"),
        ({"channels": [f"c{number}" for number in range(10**5)]}, "the weights are not of a small-cnn"),
        ({"view_size_px": 10**7}, r"crops of 24 px, seen at 10000000; expected 1 to 4,096"),
        ({"crop_size_px": -1}, r"crops of -1 px"),
    ],
)
def test_giant_networks(model: Path, changes: dict[str, Any], match: str) -> None:
    change(model, **changes)
    before = read_peak_kb()
    with pytest.raises(DamagedError, match=match):
        open_model(model)
    assert read_peak_kb() - before < 500_000  # the giant has a billion weights


def read_peak_kb() -> int:
    """The most memory that this process has taken, kB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.promise(SECTION, "A description of a model whose values are of another kind is a sentence")
@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 4},
        {"channels": [1, 2]},
        {"backbone": ["small-cnn"]},
        {"view_size_px": "wide"},
        {"stains": [1]},
        {"intensity": None},
        {"transform": "exec"},
        {"standardise": {"mean": [0.1], "deviation": [1.0, 1.0]}},
        {"standardise": {"network": [1.0]}},
        {"settings": 3},
        {"wells_trained": None},
    ],
)
def test_descriptions_that_are_none(model: Path, changes: dict[str, Any]) -> None:
    change(model, **changes)
    with pytest.raises(DamagedError, match=r"model\.json: no description of a model"):
        open_model(model)


@pytest.mark.promise(SECTION, "Whatever a checkpoint holds, it is opened or refused in a sentence")
@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {},
        {"cytoclr": 3, "state_dict": {}},
        {"cytoclr": {"model": 3}, "state_dict": {}},
        {"cytoclr": {"model": {}}, "state_dict": [1]},
        {"cytoclr": {"model": {"channels": 4, "transform": [1]}}, "state_dict": {3: torch.zeros(1)}},
        {"cytoclr": {"model": {}}, "state_dict": OrderedDict(backbone="x")},
    ],
)
def test_odd_checkpoints(tmp_path: Path, value: object) -> None:
    content = io.BytesIO()
    torch.save(value, content)
    (tmp_path / "m.ckpt").write_bytes(content.getvalue())
    with pytest.raises(CytoclrError, match=r"m\.ckpt: (not a checkpoint|no description)"):
        open_model(tmp_path / "m.ckpt")
