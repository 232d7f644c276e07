"""A model made elsewhere embeds a screen, through the real command line; models come in and go out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from toys import SMALL_SCREEN
from typer.testing import CliRunner, Result

from cytoclr.cli import app
from cytoclr.config import EmbedSettings, check_settings
from cytoclr.errors import DataError, SettingsError
from cytoclr.learn.embed import find_uncalibrated_plates
from cytoclr.learn.imports import import_model
from cytoclr.learn.model import build_encoder, read_model
from cytoclr.pipeline import run
from cytoclr.storage import read_json, read_table

TINY: dict[str, Any] = {
    "screen": SMALL_SCREEN,
    "crop": {"size_px": 48},
    "evaluate": {"bootstraps": 100, "permutations": 100, "probe": False},
}
CHANNELS = ("DNA", "Tubulin", "Actin")  # the screen's first is called DAPI


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)


def write_model(folder: Path, *, seed: int) -> Path:
    """A ResNet that some other program has trained."""
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "weights.pth")
    return import_weights(folder / "weights.pth", folder / "model")


def import_weights(weights: Path, out: Path, *more: str) -> Path:
    options = ["--channels", ",".join(CHANNELS), "--backbone", "test_resnet", "--crop-size", "48"]
    result = call("import-model", str(weights), "--out", str(out), *options, *more)
    assert result.exit_code == 0, result.output
    assert f"model    {out}" in result.output
    return out


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its report, with the model."""
    folder = tmp_path_factory.mktemp("runs")
    write_config(folder)
    arguments = [str(folder / "config.yaml"), "--out", str(folder / "run"), "--model", str(model)]
    result = call("report", *arguments)
    assert result.exit_code == 0, result.output
    return folder / "run"


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    embed = {"model_channels": {"DNA": "DAPI"}, "recalibrate": "plate-controls"}
    path.write_text(yaml.safe_dump({**TINY, "embed": embed, **changes}))
    return path


def test_all_stages_work_on_what_it_embeds(finished: Path, model: Path) -> None:
    assert not (finished / "model").exists()
    assert not (finished / "epochs.parquet").exists()
    assert not (finished / "manifests" / "train.json").exists()
    encoder = build_encoder(*read_model(model), model)
    embeddings = read_table(finished / "embeddings.parquet")
    assert embeddings.filter(like="SSL").shape[1] == encoder.network.num_features
    untrained = read_table(finished / "baselines" / "untrained.parquet")
    assert untrained.filter(like="SSL").shape == embeddings.filter(like="SSL").shape
    assert np.abs(embeddings.filter(like="SSL").to_numpy() - untrained.filter(like="SSL").to_numpy()).max() > 1e-3
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["labels_seen"] == "none"
    assert any("Embedded with a model made elsewhere, model: test_resnet" in note for note in scores["notes"])
    page = (finished / "report.html").read_text()
    assert "No course of a training was given." in page
    assert "a model made elsewhere" in page
    told = read_json(finished / "manifests" / "embed.json")["report"]
    assert told["model"]["channels"] == ["DAPI", "Tubulin", "Actin"]
    few = find_uncalibrated_plates(read_table(finished / "cells.parquet"))
    assert told["uncalibrated_plates"] == few
    assert any("too few control cells" in note for note in scores["notes"]) == bool(few)


def settings_of(run_folder: Path, **embed: Any) -> Any:
    values = yaml.safe_load((run_folder / "config.yaml").read_text())
    values["embed"] |= embed
    return check_settings(values, source="test", folder=run_folder)


def stamp(run_folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (run_folder / "manifests").glob("*.json")}


def test_the_model_s_content_decides_not_its_place(finished: Path, model: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(model, tmp_path / "moved")
    before = stamp(copied)
    run(settings_of(copied, model=str(tmp_path / "moved")), copied)
    assert stamp(copied) == before
    (tmp_path / "other").mkdir()
    other = write_model(tmp_path / "other", seed=1)
    run(settings_of(copied, model=str(other)), copied, until="embed")
    after = stamp(copied)
    assert {stage for stage in after if after[stage] != before[stage]} == {"embed"}
    # what the labels were is part of what is scored
    about = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**about, "labels_seen": "treatments, as told at the import"}))
    run(settings_of(copied, model=str(other)), copied, until="evaluate")
    assert json.loads((copied / "scores.json").read_text())["labels_seen"] == "treatments"


def test_what_makes_no_sense_is_refused_at_once(finished: Path, model: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(finished, tmp_path / "run")
    before = stamp(copied)
    with pytest.raises(SettingsError, match="made elsewhere, so there is nothing to train"):
        run(settings_of(copied), copied, until="train")
    values = settings_of(copied)
    chosen = values.model_copy(update={"select": values.select.model_copy(update={"by": "rank"})})
    with pytest.raises(SettingsError, match="select chooses among the epochs of the run's own training"):
        run(chosen, copied)
    with pytest.raises(SettingsError, match=r"nowhere: no model there.*import-model"):
        run(settings_of(copied, model=str(tmp_path / "nowhere")), copied)
    with pytest.raises(DataError, match="channels DNA, Tubulin, Actin; the crops have DAPI") as caught:
        run(settings_of(copied, model_channels={}), copied)
    assert caught.value.code == "CHAN001"
    with pytest.raises(SettingsError, match=r"embed\.model_channels names DAPI") as refused:
        run(settings_of(copied, model_channels={"DAPI": "DNA"}), copied)
    assert refused.value.code == "CHAN002"
    assert stamp(copied) == before


def test_weights_come_in_and_onnx_goes_out(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    result = call("export-model", str(model), str(tmp_path / "encoder.onnx"))
    assert result.exit_code == 0, result.output
    assert f"export   {tmp_path / 'encoder.onnx'}" in result.output
    weights = model.parent / "weights.pth"
    standardised = import_weights(weights, tmp_path / "model", "--mean", "0.4,0.4,0.4", "--deviation", "0.2,0.2,0.2")
    assert read_model(standardised)[0].standardise == {"mean": [0.4] * 3, "deviation": [0.2] * 3}
    legacy = import_weights(weights, tmp_path / "legacy", "--legacy")
    assert read_model(legacy)[0].transform == "legacy"
    common = ["--out", str(tmp_path / "no"), "--channels", "A,B,C", "--backbone", "test_resnet", "--crop-size", "48"]
    for more, sentence in (
        (["--mean", "a,b,c"], "--mean a,b,c: expected numbers"),
        (["--transform", "log"], "--transform log: expected linear or sqrt"),
        (["--labels-seen", "some"], "--labels-seen some: expected one of none"),
    ):
        refused = call("import-model", str(weights), *common, *more)
        assert refused.exit_code == 2
        assert sentence in refused.output


def test_settings_of_embedding_are_checked() -> None:
    assert EmbedSettings().model is None
    with pytest.raises(SettingsError, match=r"embed\.rotations"):
        check_settings({"screen": {"reader": "virtual"}, "embed": {"rotations": 3}}, source="test", folder=Path())


def test_a_model_of_another_program_is_described(model: Path) -> None:
    card = (model / "MODEL_CARD.md").read_text()
    assert "imported from weights.pth (SHA-256 " in card
    assert "a rule that is not told" in card
    with pytest.raises(SettingsError, match="model: exists"):
        import_model(model.parent / "weights.pth", model, backbone="test_resnet", channels=CHANNELS, crop_size_px=48)
