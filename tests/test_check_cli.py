"""`cytoclr check` as a user meets it, and what `cytoclr crop` makes of findings."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cytoclr.errors import CODES

ROOT = Path(__file__).parents[1]


def cytoclr(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cytoclr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def config(tiny_screen: Path) -> Path:
    """A config for the tiny screen."""
    (tiny_screen / "moa.csv").write_text("compound,concentration,moa\nNA,0.3,DNA damage\n")
    path = tiny_screen / "config.yaml"
    path.write_text(
        "screen: {reader: bbbc021, image_table: image.csv, images: images}\n"
        "crop: {size_px: 16, locations: locations.csv}\n"
        "profile: {normalise: none}\n"
        "evaluate: {mechanisms: moa.csv}\n"
    )
    return path


def test_findings_are_grouped_and_counted(config: Path) -> None:
    done = cytoclr("check", config)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "warnings"
    assert lines[1] == "  LOC006  8 of 24 crops of 16 px cross the border of their field, and are left out."
    assert lines[2] == "            Week1_101 B02 s1: x 2, y 2"
    assert "            and 3 more" in lines
    assert "          -> Set crop.size_px to less, or crop.border to pad." in lines
    assert lines[-3] == "notes"
    assert lines[-2].startswith("  DISK001 24 crops (as there are locations) will take some 24.6 kB;")
    assert lines[-1] == "checked 8 sites of 8 on 2 plates: 0 errors, 1 warning, 1 note"
    assert not (Path("runs") / "config").exists()


def test_errors_have_their_exit_code_and_do_not_hide_each_other(config: Path) -> None:
    (config.parent / "images/Week1/Week1_101/Week1_101_B02_s1_w1.tif").write_bytes(b"")
    (config.parent / "images/Week2/Week2_202/Week2_202_B02_s1_w1.tif").unlink()
    done = cytoclr("check", config)
    assert done.returncode == 3
    assert "errors\n  IMG001  1 of 8 sites lack an image file, first: Week2_202 B02 s1 (DAPI)" in done.stdout
    assert "IMG002" in done.stdout
    assert done.stdout.splitlines()[-1] == "checked 7 sites of 7 on 2 plates: 2 errors, 1 warning, 1 note"
    assert "Traceback" not in done.stderr
    skipped = cytoclr("check", config, "--skip-missing", "--set", "screen.plates=[Week2_202]")
    assert skipped.returncode == 0, skipped.stdout


def test_json_is_json(config: Path) -> None:
    (config.parent / "locations.csv").unlink()
    done = cytoclr("check", config, "--json", "--every")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("looked_at", "of", "unit", "plates")} == {
        "looked_at": 8,
        "of": 8,
        "unit": "sites",
        "plates": 2,
    }
    first = told["findings"][0]
    assert list(first) == ["code", "severity", "message", "examples", "count", "fix"]
    assert (first["code"], first["severity"]) == ("LOC001", "error")


def test_wrong_settings_are_refused_as_everywhere(config: Path) -> None:
    done = cytoclr("check", config, "--set", "crop.sise_px=3")
    assert done.returncode == 2
    assert "Did you mean size_px?" in done.stderr


def test_a_virtual_screen_has_nothing_to_check(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    done = cytoclr("check", tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0
    assert "the screen is a virtual one" in done.stderr
    assert done.stdout == "checked 0 sites of 0 on 0 plates: 0 errors, 0 warnings, 0 notes\n"
    assert not (tmp_path / "run").exists()


def test_crop_refuses_errors_and_logs_warnings_before_it_cuts(config: Path) -> None:
    out = config.parent / "run"
    done = cytoclr("crop", config, "--out", out, "--set", "screen.bit_depth=10")
    assert done.returncode == 3
    assert "cross the border of their field, and are left out. Set crop.size_px to less" in done.stderr
    assert "16 images have pixels above 1,023" in done.stderr
    assert done.stderr.strip().endswith("[IMG010]")
    assert not (out / "crops").exists()


def test_crop_tells_how_many_errors_more_there_are(config: Path) -> None:
    for path in (config.parent / "images").rglob("*_B03_s1_*.tif"):
        tifffile.imwrite(path, np.full((48, 48), 9, dtype=np.uint8))
    done = cytoclr("crop", config, "--out", config.parent / "run", "--set", "screen.bit_depth=10")
    assert done.returncode == 3
    assert "2 more; see `cytoclr check`." in done.stderr


def test_finished_crops_are_not_checked_again(config: Path) -> None:
    out = config.parent / "run"
    assert "[LOC006]" in cytoclr("crop", config, "--out", out).stderr
    again = cytoclr("crop", config, "--out", out)
    assert again.returncode == 0
    assert "[LOC006]" not in again.stderr


def test_the_reference_of_checks_is_what_the_codes_say() -> None:
    script = ROOT / "docs" / "write_checks.py"
    written = (ROOT / "docs" / "reference" / "checks.md").read_text(encoding="utf-8")
    fresh = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert written == fresh, "run: python docs/write_checks.py > docs/reference/checks.md"


def read_sources() -> dict[Path, str]:
    paths = [path for path in (ROOT / "src").rglob("*.py") if path.name != "errors.py"]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def test_every_code_in_the_source_is_a_known_one() -> None:
    for path, text in read_sources().items():
        used = set(re.findall(r'"([A-Z]{2,5}\d{3})"|\(([A-Z]{2,5}\d{3})\)', text))
        assert {first or second for first, second in used} <= set(CODES), path
        assert set(re.findall(r'code="([^"]+)"', text)) <= set(CODES), path


def test_every_known_code_is_used() -> None:
    everything = "\n".join(read_sources().values())
    assert [code for code in CODES if code not in everything] == []
