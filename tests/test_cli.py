"""The command line as a user meets it: wrong inputs get one sentence and the right exit code."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile

from cytoclr.storage import read_table


def cytoclr(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cytoclr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def config(tiny_screen: Path) -> Path:
    """A config for the crops of the tiny screen."""
    (tiny_screen / "moa.csv").write_text("compound,concentration,moa\nNA,0.3,DNA damage\n")
    path = tiny_screen / "config.yaml"
    path.write_text(
        "screen: {reader: bbbc021, image_table: image.csv, images: images}\n"
        "crop: {size_px: 16, locations: locations.csv}\n"
        "evaluate: {mechanisms: moa.csv}\n"
    )
    return path


def test_help_answers_at_once_without_heavy_imports() -> None:
    code = "import sys\nfrom cytoclr.cli import app\napp(['--help'], standalone_mode=False)"
    heavy = "{'torch', 'pandas', 'numpy', 'pydantic', 'sklearn'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint({heavy} & set(sys.modules))"], capture_output=True, text=True
    )
    assert "report" in done.stdout
    assert done.stdout.strip().endswith("set()")


def test_crop_writes_the_crops_and_a_second_call_leaves_them(config: Path) -> None:
    out = config.parent / "run"
    first = cytoclr("crop", config, "--out", out)
    assert first.returncode == 0, first.stderr
    assert "left out: 8 × crop crosses the border" in first.stderr.replace("\n", " ")
    began_s = (out / "crops/Week1_101-000.npy").stat().st_mtime
    time.sleep(0.05)
    assert cytoclr("crop", config, "--out", out).returncode == 0
    assert (out / "crops/Week1_101-000.npy").stat().st_mtime == began_s
    manifest = json.loads((out / "manifests/crop.json").read_text())
    assert manifest["report"]["num_cells"] == 16


def test_a_moved_project_is_not_cut_again(config: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cytoclr("crop", config, "--out", config.parent / "run").returncode == 0
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.move(config.parent, moved)
    shard = moved / "run/crops/Week1_101-000.npy"
    written_ns = shard.stat().st_mtime_ns
    assert cytoclr("crop", moved / "config.yaml", "--out", moved / "run", "--skip-missing").returncode == 0
    assert shard.stat().st_mtime_ns == written_ns


def misspell_a_key(folder: Path) -> None:
    (folder / "config.yaml").write_text("crop: {sise_px: 16}")


def lose_an_image(folder: Path) -> None:
    (folder / "images/Week1/Week1_101/Week1_101_B02_s1_w1.tif").unlink()


def halve_an_image(folder: Path) -> None:
    path = folder / "images/Week1/Week1_101/Week1_101_B02_s1_w1.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def give_a_well_two_compounds(folder: Path) -> None:
    path = folder / "image.csv"
    path.write_text(path.read_text().replace("DMSO,0", "taxol,0", 1))


def name_no_control(folder: Path) -> None:
    path = folder / "image.csv"
    path.write_text(path.read_text().replace("DMSO", "water"))


def lose_the_table(folder: Path) -> None:
    (folder / "image.csv").unlink()


@pytest.mark.parametrize(
    ("break_it", "code", "sentence"),
    [
        (misspell_a_key, 2, "config.yaml:1: crop.sise_px is not a setting. Did you mean size_px?"),
        (lose_an_image, 3, "1 of 8 sites lack an image file, first: Week1_101 B02 s1 (DAPI)"),
        (halve_an_image, 3, "Week1_101_B02_s1_w1.tif: "),
        (give_a_well_two_compounds, 3, "1 well has more than one treatment, first: Week1_101 B02 (taxol and DMSO)"),
        (
            name_no_control,
            3,
            "no well is untreated (DMSO), but profile.normalise plate-zscore is fitted on such wells. Found: NA",
        ),
        (lose_the_table, 3, "image.csv: no such file"),
    ],
)
def test_wrong_input_gets_one_sentence_and_its_exit_code(
    config: Path, break_it: Callable[[Path], None], code: int, sentence: str
) -> None:
    break_it(config.parent)
    done = cytoclr("crop", config, "--out", config.parent / "run")
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_mechanism_table_is_refused_before_hours_are_spent(config: Path) -> None:
    (config.parent / "moa.csv").write_text("compound,concentration,moa\n")
    done = cytoclr("run", config, "--out", config.parent / "run")
    assert done.returncode == 3
    assert "moa.csv: the mechanism table has no rows" in done.stderr
    assert not (config.parent / "run" / "crops").exists()


def test_skip_missing_lists_what_is_left_out(config: Path) -> None:
    next((config.parent / "images").rglob("*B02_s1_w1*")).unlink()
    done = cytoclr("crop", config, "--out", config.parent / "run", "--skip-missing")
    assert done.returncode == 0, done.stderr
    assert "no image file: DAPI" in (config.parent / "run" / "left_out.csv").read_text()


def test_a_folder_that_is_not_a_run_is_left_alone(config: Path) -> None:
    out = config.parent / "images"
    done = cytoclr("crop", config, "--out", out)
    assert done.returncode == 2
    assert "exists and is not a run folder" in done.stderr
    assert sorted(entry.name for entry in out.iterdir()) == ["Week1", "Week2"]


def test_run_py_takes_the_config_beside_it_or_another_one_wherever_it_stands(config: Path) -> None:
    script, other = config.with_name("run.py"), config.with_name("other.yaml")
    shutil.copy(Path(__file__).parents[1] / "run.py", script)
    for path in (config, other):
        path.write_text("crop: {size: 1}")
    for named, read in (([], config), ([other], other)):
        command = [sys.executable, script, "--out", config.parent / "run", *named]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 2
        assert f"{read}:1: crop.size is not a setting" in done.stderr


def test_a_bad_change_is_refused(config: Path) -> None:
    done = cytoclr("crop", config, "--set", "train.epochs")
    assert done.returncode == 2
    assert "expected KEY=VALUE" in done.stderr


def test_images_of_other_depth_on_another_plate_are_refused(config: Path) -> None:
    for path in (config.parent / "images/Week2").rglob("*.tif"):
        tifffile.imwrite(path, tifffile.imread(path).astype("uint8"))
    done = cytoclr("crop", config, "--out", config.parent / "run")
    assert done.returncode == 3
    assert "plates differ in type" in done.stderr


@pytest.mark.real_data
@pytest.mark.parametrize(("normalise", "nsc", "nscb"), [("plate-zscore", 84, 67), ("none", 51, 30)])
def test_published_profiles_get_their_known_scores(
    real_data: Path, tmp_path: Path, normalise: str, nsc: int, nscb: int
) -> None:
    folder = real_data / "bbbc021"
    done = cytoclr(
        "evaluate",
        "--profiles", folder / "profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz",
        "--screen", folder / "metadata/BBBC021_v1_image.csv.gz",
        "--mechanisms", folder / "metadata/BBBC021_v1_moa.csv",
        "--normalise", normalise,
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note     Mechanisms that lie in one batch, left out of NSCB" in done.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["protocol"]["name"] == "treatment-mean"
    assert (scores["nsc"]["correct"], scores["nsc"]["total"]) == (nsc, 103)
    assert (scores["nscb"]["correct"], scores["nscb"]["total"]) == (nscb, 92)


def evaluate_wells(folder: Path, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Score a table of two wells a plate."""
    rows = [f"{plate},{well},{number}.5,{-number}" for plate in ("101", "202") for number, well in enumerate(WELLS)]
    (folder / "wells.csv").write_text("\n".join(["Metadata_Plate,Metadata_Well,A,B", *rows]))
    names = ("--profiles", "wells.csv", "--screen", "image.csv", "--mechanisms", "moa.csv", "--out", out)
    return cytoclr("evaluate", *names, *more, cwd=folder)


WELLS = ("B02", "B03")


def test_a_table_is_scored_with_batches_and_controls_of_ones_own(config: Path) -> None:
    table = config.parent / "image.csv"
    table.write_text(table.read_text().replace(",Week1_", ",").replace(",Week2_", ",").replace("DMSO", "water"))
    done = evaluate_wells(config.parent, config.parent / "scored")
    assert done.returncode == 3
    assert "the batch of plate '101' is not found by batch_pattern" in done.stderr
    own = ("--set", "screen.batch_pattern='^(.)'", "--set", "screen.controls=[water]")
    done = evaluate_wells(config.parent, config.parent / "scored", *own)
    assert done.returncode == 0, done.stderr
    assert "note     Mechanisms that have no right answer with one compound alone: DNA damage" in done.stdout
    wells = read_table(config.parent / "scored/profiles/well.parquet")
    assert wells["Metadata_Batch"].tolist() == ["1", "1", "2", "2"]
    assert wells["Metadata_control_type"].tolist() == ["negcon", "trt"] * 2


def test_the_scores_of_a_run_are_not_overwritten_by_those_of_a_table(config: Path) -> None:
    assert cytoclr("crop", config, "--out", config.parent / "run").returncode == 0
    done = evaluate_wells(config.parent, config.parent / "run")
    assert done.returncode == 2
    assert "run: holds a run, whose scores would be lost" in done.stderr
    assert not (config.parent / "run/scores.json").exists()


def test_evaluating_a_table_never_loads_torch() -> None:
    modules = "cytoclr.data.stage, cytoclr.profiles, cytoclr.evaluate, cytoclr.report, cytoclr.pipeline"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--profiles", "none.csv"], 3, "none.csv: no such file"),
        (["--profiles", "wells.csv", "--labels-seen", "all"], 2, "--labels-seen all: expected one of none, plates"),
        (["--profiles", "wells.csv", "--column", "compound"], 2, "--column compound: expected KEY=NAME"),
        (["--profiles", "wells.csv", "--baseline", "=x"], 2, "--baseline =x: expected NAME=TABLE"),
        (["--profiles", "wells.csv", "--protocol", "mine"], 2, "evaluate.protocol: input should be 'treatment-mean'"),
        (["--profiles", "wells.csv", "--normalise", "tvn", "--normaliser", "x"], 2, "exclude each other"),
        (["--profiles", "wells.csv"], 3, "wells.csv: does not tell the compound of a well"),
        (["--profiles", "wells.csv", "--baseline", "x=a", "--baseline", "x=b"], 2, "--baseline x stands twice"),
        (["--profiles", "wells.csv", "--baseline", "trained=a"], 2, "expected a name of its own, not one of trained"),
        (["config.yaml", "--profiles", "wells.csv"], 2, "a config: say nothing of a table"),
        (["--protocol", "umm", "--baseline", "x=y"], 2, "--baseline, --protocol: go with --profiles only"),
        (["--profiles", "wells.csv", "--protocol", "all"], 2, "they score against mechanisms, and none are given"),
        (["--profiles", "wells.csv", "--out", "moa.csv"], 2, "moa.csv: is a file. Expected a folder"),
        (["--profiles", "wells.csv", "--column", "compound=x"], 2, "no table has x. Known fields: plate, well"),
    ],
)
def test_wrong_arguments_of_a_table_get_one_sentence(
    config: Path, arguments: list[str], code: int, sentence: str
) -> None:
    (config.parent / "wells.csv").write_text("Metadata_Plate,Metadata_Well,A\n1,B02,0.5\n")
    done = cytoclr("evaluate", *arguments, cwd=config.parent)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.real_data
def test_published_profiles_by_every_protocol_and_compared(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "bbbc021"
    for name, more in (("zscore", ("--normalise", "plate-zscore", "--protocol", "all")), ("none", ())):
        done = cytoclr(
            "evaluate",
            "--profiles", folder / "profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz",
            "--screen", folder / "metadata/BBBC021_v1_image.csv.gz",
            "--mechanisms", folder / "metadata/BBBC021_v1_moa.csv",
            "--out", tmp_path / name,
            *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("protocol unidino         NSC 197 of 302" in done.stdout) == (name == "zscore")
        assert "scored   632 wells, 55 plates, 10 batches, 330 controls, 103 treatments, 38 compounds" in done.stdout
    done = cytoclr("compare", tmp_path / "zscore", tmp_path / "none", "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert "NSCB     A 72.8%, B 32.6% on the same 92 treatments" in done.stdout
    assert "A is better" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["nscb"]["gain"] == pytest.approx(37 / 92)
    done = cytoclr("compare", tmp_path / "none", tmp_path / "none")
    assert "not told apart" in done.stdout
    done = cytoclr("compare", tmp_path / "none", tmp_path / "nowhere")
    assert done.returncode == 3
    assert "nowhere: holds no scores.json" in done.stderr
