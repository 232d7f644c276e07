"""The whole way on a small virtual screen, through the real command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import yaml
from toys import SMALL_SCREEN

from cytoclr.config import check_settings
from cytoclr.data.crops import CropStore
from cytoclr.data.profiles import read_profiles
from cytoclr.errors import DataError, SettingsError
from cytoclr.pipeline import export, run
from cytoclr.storage import Manifest, read_table
from cytoclr.tables import feature_columns

SMALL = {
    "screen": SMALL_SCREEN,
    "train": {
        "epochs": 4,
        "checkpoint_every_n_epochs": 2,
        "minibatch_size": 16,
        "log_every_n_steps": 1,
        "probe": {"every_n_epochs": 2},
    },
    "evaluate": {"bootstraps": 100, "permutations": 100},
}


def start(config: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cytoclr", "run", str(config), "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("runs") / "small"
    output = finish(start(config, out))
    assert "NSCB" in output
    assert f"report   {out / 'report.html'}" in output
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def bytes_of(out: Path, *names: str) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in names}


def times_of(out: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (out / "manifests").glob("*.json")}


def test_the_run_folder_holds_what_the_reference_says(finished: Path) -> None:
    cells, embeddings = read_table(finished / "cells.parquet"), read_table(finished / "embeddings.parquet")
    assert len(CropStore(finished / "crops")) == len(cells) == len(embeddings) > 50
    assert feature_columns(embeddings)[0] == "Cells_SSL_0000"
    for level in ("site", "well", "treatment"):
        assert np.isfinite(read_table(finished / f"profiles/{level}.parquet").filter(like="Cells_SSL")).all(axis=None)
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["nscb"]["total"] > 0
    assert set(scores["baselines"]) == {"untrained", "intensities", "cell-count"}
    model = json.loads((finished / "model/model.json").read_text())
    assert model["channels"] == ["DAPI", "Tubulin", "Actin"]
    assert not set(model["wells_trained"]) & set(model["wells_validated"])
    metrics = [json.loads(line) for line in (finished / "model/metrics.jsonl").read_text().splitlines()]
    assert any("train_loss" in line for line in metrics)
    assert any(key.startswith("probe") for line in metrics for key in line)
    assert list((finished / "unfinished").iterdir()) == []
    for path in (finished / "manifests").glob("*.json"):
        assert Manifest.read(path).find_damage(finished, read_all=True) == []


def test_a_finished_run_is_left_alone(config: Path, copy: Path) -> None:
    before = times_of(copy)
    finish(start(config, copy))
    assert times_of(copy) == before


def test_a_changed_setting_runs_its_stage_and_those_after_it(config: Path, copy: Path) -> None:
    before = times_of(copy)
    finish(start(config, copy, "--set", "profile.normalise=whitening"))
    after = times_of(copy)
    assert {stage for stage in after if after[stage] != before[stage]} == {"profile", "evaluate", "report"}


def test_an_epoch_is_chosen_without_mechanisms_and_hindsight_is_told(config: Path, copy: Path) -> None:
    before = times_of(copy)
    output = finish(start(config, copy, "--set", "select.by=rank"))
    after = times_of(copy)
    assert after["train"] == before["train"]
    epochs = read_table(copy / "epochs.parquet")
    assert epochs["epoch"].tolist() == [2, 4]
    best = int(epochs.loc[epochs["effective_rank"].idxmax(), "epoch"])
    scores = json.loads((copy / "scores.json").read_text())
    assert (scores["selection"]["selected"], scores["selection"]["by"]) == (best, "rank")
    assert not scores["selection"]["uses_mechanisms"]
    chosen = next(epoch for epoch in scores["selection"]["epochs"] if epoch["epoch"] == best)
    assert chosen["nscb"] == scores["nscb"]["score"]
    assert f"Epoch {best} was chosen among 2 by rank, without mechanisms." in output
    # the same epochs, and perhaps the same choice, by another rule: the scores tell that one
    finish(start(config, copy, "--set", "select.by=last", "--set", "select.measure_epochs=true"))
    assert json.loads((copy / "scores.json").read_text())["selection"]["by"] == "last"
    stamped = finish(start(config, copy, "--set", "select.by=nscb"))
    assert "was chosen by NSCB on these very mechanisms" in stamped
    assert json.loads((copy / "scores.json").read_text())["selection"]["uses_mechanisms"]


def test_other_encoders_and_tables_are_baselines(config: Path, copy: Path, tmp_path: Path) -> None:
    weights, table = tmp_path / "resnet10t.safetensors", tmp_path / "theirs.csv"
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), weights)
    read_table(copy / "profiles/untrained/unnormalised.parquet").to_csv(table, index=False)
    changes = (
        "embed.imagenet=resnet10t",
        f"embed.imagenet_weights={weights}",
        f"evaluate.baselines={{theirs: {table}}}",
    )
    finish(start(config, copy, *(part for change in changes for part in ("--set", change))))
    baselines = json.loads((copy / "scores.json").read_text())["baselines"]
    assert list(baselines) == ["untrained", "imagenet", "intensities", "cell-count", "theirs"]
    assert baselines["theirs"]["nsc"] == baselines["untrained"]["nsc"]
    assert (copy / "baselines/imagenet.parquet").is_file()


def test_profiles_go_out_for_other_programs(finished: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    wells = read_table(finished / "profiles/well.parquet")
    export(finished, tmp_path / "wells.h5ad")
    data = anndata.read_h5ad(tmp_path / "wells.h5ad")
    np.testing.assert_array_equal(data.X, wells[feature_columns(wells)])
    assert json.loads(data.uns["cytoclr"])["normalisation"] == "plate-zscore"
    for name, level, features in (
        ("cells.parquet", "cell", "untrained"),
        ("sites.csv.gz", "site", "trained"),
        ("plain.csv", "unnormalised", "intensities"),
    ):
        assert len(read_profiles(export(finished, tmp_path / name, level=level, features=features))) > 0
    with pytest.raises(SettingsError, match=r"exists\. Choose another name"):
        export(finished, tmp_path / "plain.csv")
    with pytest.raises(SettingsError, match=r"expected a name that ends in \.h5ad"):
        export(finished, tmp_path / "wells.xls")
    with pytest.raises(DataError, match=r"profiles/none/well\.parquet: no such table"):
        export(finished, tmp_path / "none.csv", features="none")


def wait_for(process: subprocess.Popen[str], out: Path, pattern: str) -> None:
    while process.poll() is None and not list(out.glob(pattern)):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


RESULTS = ("model/encoder.safetensors", "embeddings.parquet", "profiles/well.parquet", "scores.json", "matches.parquet")


@pytest.mark.promise(
    "Kill and power", "SIGINT, SIGTERM and SIGUSR1 end a run with exit code 130 or 143; run again, it goes on"
)
@pytest.mark.parametrize(
    ("number", "code", "place"),
    [
        (signal.SIGINT, 130, "train-*/model/checkpoints/last.ckpt"),
        (signal.SIGUSR1, 143, "train-*/model/metrics.jsonl"),
        (signal.SIGTERM, 143, "crop-*/crops/plates/*"),
    ],
)
def test_asked_to_stop_and_run_again_equals_never_stopped(
    config: Path, finished: Path, tmp_path: Path, number: int, code: int, place: str
) -> None:
    out = tmp_path / "stopped"
    process = start(config, out)
    wait_for(process, out, f"unfinished/{place}")
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert f"cytoclr: Stopped ({signal.Signals(number).name}). Run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert "Exception" not in errors
    assert not (out / "model").exists()
    finish(start(config, out))
    assert bytes_of(out, *RESULTS) == bytes_of(finished, *RESULTS)


@pytest.mark.slow
def test_killed_at_several_places_and_run_again_equals_never_stopped(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    for place in ("screen-*/virtual/images/*/*/*.tif", "crop-*/crops/plates/*", "train-*/model/checkpoints/*"):
        process = start(config, out)
        wait_for(process, out, f"unfinished/{place}")
        process.kill()
        process.communicate(timeout=30)  # ends when its worker processes have let go of its output too
    finish(start(config, out))
    assert bytes_of(out, *RESULTS) == bytes_of(finished, *RESULTS)


def test_ready_crops_without_mechanisms_run_to_a_report_that_says_why(copy: Path, tmp_path: Path) -> None:
    """The seed's layout, made from the virtual screen's crops; no mechanism table: no score, but a report."""
    import imagecodecs

    store, cells = CropStore(copy / "crops"), read_table(copy / "cells.parquet")
    images = tmp_path / "single-cell"
    images.mkdir()
    lines = ["Image_Name,Class_Name,Target"]
    classes = cells["Metadata_Compound"] + "_" + cells["Metadata_Concentration"].astype("str")
    targets = classes.astype("category").cat.codes
    for row, cell in cells.iterrows():
        name = (
            f"{cell['Metadata_Plate']}-{cell['Metadata_Well']}-s{cell['Metadata_Site']}-{cell['Metadata_Object']}.png"
        )
        strip = np.concatenate(list(store.read(np.array([row]))[0]), axis=1)
        (images / name).write_bytes(imagecodecs.png_encode(strip))
        lines.append(f"{name},{classes[row]},{targets[row]}")
    (images / "sc-metadata.csv").write_text("\n".join(lines))
    settings = check_settings(
        {
            "screen": {"reader": "single-cell", "table": "sc-metadata.csv", "images": "."},
            "train": {"epochs": 1, "minibatch_size": 16},
            "profile": {"normalise": "whitening"},
        },
        source="test",
        folder=images,
    )
    out = run(settings, tmp_path / "run")
    scores = json.loads((out / "scores.json").read_text())
    assert scores["nsc"] is None
    assert "No mechanism table" in scores["reason"]
    assert "No mechanism table" in (out / "report.html").read_text()
