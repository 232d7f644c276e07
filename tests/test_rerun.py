"""What a second run does again, and what it says of the rest; without training."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from cytoclr.config import check_settings
from cytoclr.errors import DataError
from cytoclr.pipeline import STAGES, crop, train
from cytoclr.stages import StageFolder


def settings(folder: Path, **changes: object):  # type: ignore[no-untyped-def]
    return check_settings(
        {
            "screen": {"reader": "bbbc021", "image_table": "image.csv", "images": "images"},
            "crop": {"size_px": 16, "locations": "locations.csv"},
        },
        source="test",
        folder=folder,
        changes={key.replace("__", "."): value for key, value in changes.items()},
    )


def test_new_crops_name_the_old_results_that_stay(tiny_screen: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tiny_screen / "run"
    crop(settings(tiny_screen), out)
    shutil.copy(out / "manifests/crop.json", out / "manifests/train.json")
    with caplog.at_level(logging.WARNING):
        crop(settings(tiny_screen), out)
        assert "from before" not in caplog.text
        crop(settings(tiny_screen, crop__size_px=12), out)
    assert "train still from before; `cytoclr run` renews them" in caplog.text


def test_settings_are_written_down_only_with_what_they_gave(tiny_screen: Path) -> None:
    out = tiny_screen / "run"
    crop(settings(tiny_screen), out)
    written = (out / "config.yaml").read_text()
    with pytest.raises(DataError, match="no such file"):
        crop(settings(tiny_screen, screen__image_table="no.csv"), out)
    assert (out / "config.yaml").read_text() == written


def test_images_touched_but_not_changed_leave_the_crops_as_they_are(tiny_screen: Path) -> None:
    out = tiny_screen / "run"
    crop(settings(tiny_screen), out)
    before = StageFolder(out).read_finished("crop").files
    for path in (tiny_screen / "images").rglob("*.tif"):
        os.utime(path)
    crop(settings(tiny_screen), out)
    after = StageFolder(out).read_finished("crop").files
    assert {name: record for name, record in after.items() if name.startswith("crops/")} == {
        name: record for name, record in before.items() if name.startswith("crops/")
    }
    assert before["cells.parquet"] == after["cells.parquet"]


def test_every_stage_has_a_version() -> None:
    assert list(STAGES) == ["screen", "crop", "train", "select", "embed", "profile", "evaluate", "report"]
    assert all(isinstance(version, int) and version > 0 for version in STAGES.values())


def test_images_that_were_archived_are_not_needed_for_later_stages(
    tiny_screen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tiny_screen / "run"
    small = settings(tiny_screen, train__epochs=1, train__view_size_px=16, train__minibatch_size=4)
    crop(small, out)
    (tiny_screen / "images").rename(tiny_screen / "archived")
    with pytest.raises(DataError, match="no such folder"):
        crop(small, out)
    train(small, out)
    assert "The crops that are there are used as they are" in caplog.text
    assert (out / "model" / "model.json").is_file()
