"""Finished stages are left alone; a changed or damaged one is done again; a cut publication goes on."""

from pathlib import Path

import pytest

from cytoclr.stages import StageFolder
from cytoclr.storage import hash_json


class Work:
    """Writes a file and a folder, and counts how often."""

    def __init__(self, text: str = "first", names: tuple[str, ...] = ("crops/a.npy", "cells.parquet")) -> None:
        self.text, self.names, self.calls = text, names, 0

    def __call__(self, place: Path) -> dict[str, int]:
        self.calls += 1
        for name in self.names:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(self.text)
        return {"num_cells": 3}


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    stages, work = StageFolder(tmp_path), Work()
    for _ in range(2):
        manifest = stages.finish("crop", {"size": 1}, work)
    assert work.calls == 1
    assert manifest.report["num_cells"] == 3
    assert manifest.find_damage(tmp_path, read_all=True) == []
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_changed_stage_replaces_its_files_and_removes_those_it_no_longer_has(tmp_path: Path) -> None:
    stages = StageFolder(tmp_path)
    stages.finish("crop", {"size": 1}, Work())
    stages.finish("crop", {"size": 2}, Work("second", names=("crops/b.npy",)))
    assert (tmp_path / "crops" / "b.npy").read_text() == "second"
    assert not (tmp_path / "crops" / "a.npy").exists()
    assert not (tmp_path / "cells.parquet").exists()


def test_what_a_killed_process_left_half_written_is_no_result(tmp_path: Path) -> None:
    half = tmp_path / "unfinished" / f"crop-{hash_json({'size': 1})[:12]}" / "crops" / ".a.npy.4711.tmp"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    assert set(StageFolder(tmp_path).finish("crop", {"size": 1}, Work()).files) == {"crops/a.npy", "cells.parquet"}
    assert [path.name for path in (tmp_path / "crops").iterdir()] == ["a.npy"]


def test_a_failing_stage_leaves_the_old_result_and_goes_on_where_it_was(tmp_path: Path) -> None:
    stages = StageFolder(tmp_path)
    stages.finish("crop", {"size": 1}, Work())

    def fail(place: Path) -> dict[str, int]:
        (place / "half").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.finish("crop", {"size": 2}, fail)
    assert (tmp_path / "crops" / "a.npy").read_text() == "first"
    assert stages.is_finished("crop", {"size": 1})

    def go_on(place: Path) -> dict[str, int]:
        assert (place / "half").read_text() == "kept"
        return Work("second")(place)

    stages.finish("crop", {"size": 2}, go_on)
    assert (tmp_path / "crops" / "a.npy").read_text() == "second"


def test_a_damaged_stage_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stages, work = StageFolder(tmp_path), Work()
    stages.finish("crop", {"size": 1}, work)
    (tmp_path / "crops" / "a.npy").write_text("")
    stages.finish("crop", {"size": 1}, work)
    assert work.calls == 2
    assert "crops/a.npy: 0 bytes, expected 5" in caplog.text


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_publication_cut_short_goes_on(tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries were moved when the power went, the next run ends with the new files, all of them."""
    stages, work = StageFolder(tmp_path), Work("second")
    stages.finish("crop", {"size": 1}, Work())
    count = 0
    original = Path.replace

    def fail_after(self: Path, target: Path) -> Path:
        nonlocal count
        if "unfinished" in str(self) and ".tmp" not in self.name:
            if count == moved:
                raise KeyboardInterrupt
            count += 1
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_after)
        if moved < 2:
            with pytest.raises(KeyboardInterrupt):
                stages.finish("crop", {"size": 2}, work)
    stages.finish("crop", {"size": 2}, work)
    assert work.calls == 1
    assert (tmp_path / "crops" / "a.npy").read_text() == (tmp_path / "cells.parquet").read_text() == "second"
    assert stages.read_finished("crop").find_damage(tmp_path, read_all=True) == []
