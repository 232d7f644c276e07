import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.errors import DamagedError, MachineError
from cytoclr.storage import (
    Manifest,
    hold_run,
    open_atomic,
    read_json,
    read_table,
    recover_folder,
    replace_folder,
    write_json,
    write_table,
    write_text,
)


@pytest.mark.promise("The machine", "A write that fails leaves the old file, and nothing else")
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with contextlib.suppress(RuntimeError), open_atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"file/scores.json: could not be written"):
        write_text(tmp_path / "file" / "scores.json", "x")


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DamagedError, match="expected JSON"):
        read_json(tmp_path / "b.json")


@pytest.mark.promise("Stored bytes", "A flipped bit in a table is found as it is read")
def test_a_flipped_byte_in_a_table_is_found(tmp_path: Path) -> None:
    path = tmp_path / "wells.parquet"
    frame = pd.DataFrame({"Cells_A": range(5000), "Metadata_Well": ["B02"] * 5000})
    write_table(path, frame)
    pd.testing.assert_frame_equal(read_table(path), frame.astype({"Metadata_Well": "str"}))
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 4] ^= 1
    path.write_bytes(bytes(stored))
    with pytest.raises(DamagedError, match=r"wells.parquet: damaged"):
        read_table(path)


def test_a_manifest_finds_missing_short_and_changed_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("twelve bytes")
    manifest = Manifest.describe("crop", "key", tmp_path, [tmp_path / name for name in "abc"], {"num_cells": 3})
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    assert manifest.find_damage(tmp_path, read_all=True) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("short")
    (tmp_path / "c").write_text("twelve BYTES")
    assert manifest.find_damage(tmp_path) == ["a: missing", "b: 5 bytes, expected 12"]
    assert manifest.find_damage(tmp_path, read_all=True)[2] == "c: other bytes than were written"
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "crop"}))
    with pytest.raises(DamagedError, match="not a manifest"):
        Manifest.read(tmp_path / "manifest.json")


def test_a_folder_is_replaced_whole_and_recovered_when_cut_short(tmp_path: Path) -> None:
    place, new = tmp_path / "crops", tmp_path / "new"
    for folder in (place, new):
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    replace_folder(new, place)
    assert (place / "which").read_text() == "new"
    assert not new.exists()
    place.rename(tmp_path / ".crops.old")  # the power went between the two renames
    recover_folder(place)
    assert (place / "which").read_text() == "new"


@pytest.mark.promise("The machine", "A second writer of a run is told who holds it")
def test_a_second_writer_is_told_who_holds_the_run(tmp_path: Path) -> None:
    script = "import sys, pathlib, cytoclr.storage as s\nwith s.hold_run(pathlib.Path(sys.argv[1])): pass"
    with hold_run(tmp_path / "run"):
        second = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True)
    assert "in use by process" in second.stderr
    with hold_run(tmp_path / "run"):  # and it is free again
        pass


@pytest.mark.promise("The machine", "A lock that a dead process left, before a reboot or after, holds nobody up")
def test_a_stale_lock_holds_nobody_up(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib, cytoclr.storage as s\n"
        "with s.hold_run(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / ".lock-holder").read_text().startswith("process ")
    with hold_run(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock-holder").read_text()


@pytest.mark.promise(
    "The machine", "A disk that is full is said with the bytes that are needed and those that are free"
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_with_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def open_full(self: Path, *arguments: str) -> object:
        return opened(Path("/dev/full") if self.name.endswith(".tmp") else self, *arguments)

    write_text(tmp_path / "scores.json", "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        with pytest.raises(MachineError, match=r"scores\.json: could not be written \(No space left.*free some"):
            write_text(tmp_path / "scores.json", "new")
    assert (tmp_path / "scores.json").read_text() == "old"


@pytest.mark.promise(
    "Kill and power", "Temporary files that a killed process left in a run folder are swept by the next"
)
def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    names = ("..lock-holder.4711-0a1b2c3d.tmp", ".config.yaml.4711-0a1b2c3d.tmp")
    for name in names:
        (tmp_path / name).write_text("half")
    (tmp_path / "config.yaml").write_text("whole")
    with hold_run(tmp_path):
        assert not [name for name in names if (tmp_path / name).exists()]
        assert (tmp_path / "config.yaml").read_text() == "whole"
