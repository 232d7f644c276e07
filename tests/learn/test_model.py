"""The model folder: what is written is what is read, and what does not fit is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import MakeScreen

from cytoclr.config import EmbedSettings, TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DamagedError, DataError, SettingsError
from cytoclr.learn import Encoder, build_untrained_encoder, embed, load_encoder, train
from cytoclr.learn.model import check_fine_tuning, describe_model, read_checkpoint, save_model
from cytoclr.tables import EMBEDDINGS, check_table

SETTINGS = TrainSettings(view_size_px=24)


def save_untrained(folder: Path, crops: CropStore, settings: TrainSettings = SETTINGS) -> Encoder:
    encoder = build_untrained_encoder(settings, len(crops.channels), seed=1)
    description = describe_model(
        settings, crops, num_features=128, num_cells=9, wells_trained=["P1/A1"], wells_validated=[], seed=1
    )
    save_model(folder, encoder.network, description)
    return encoder


@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_written_and_read_embeds_the_same(make_screen: MakeScreen, tmp_path: Path, num_channels: int) -> None:
    crops, cells = make_screen(num_channels=num_channels)
    encoder = save_untrained(tmp_path / "model", crops)
    found = embed(crops, cells, load_encoder(tmp_path / "model", crops), device="cpu")
    pd.testing.assert_frame_equal(found, embed(crops, cells, encoder, device="cpu"))
    check_table(found, EMBEDDINGS, "test")
    assert list(found.columns[-128:]) == [f"Cells_SSL_{number:04d}" for number in range(128)]
    assert (found.dtypes.iloc[-128:] == np.float32).all()
    assert "x" not in found.columns


def test_other_channels_are_refused_by_name_and_order(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, _ = make_screen(num_channels=3)
    save_untrained(tmp_path / "model", crops)
    crops.channels = ("Tubulin", "DNA", "Actin")
    with pytest.raises(
        DataError, match="trained on the channels DNA, Tubulin, Actin; the crops have Tubulin, DNA, Actin"
    ):
        load_encoder(tmp_path / "model", crops)


def test_another_pixel_size_is_said(make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crops, _ = make_screen()
    crops.pixel_size_um = 0.65
    save_untrained(tmp_path / "model", crops)
    load_encoder(tmp_path / "model", crops)
    assert not caplog.records
    crops.pixel_size_um = 0.325
    load_encoder(tmp_path / "model", crops)
    assert "trained on pixels of 0.65 µm, the crops have 0.325 µm" in caplog.text


@pytest.mark.promise("Numbers", "The size of the minibatch changes no embedding")
def test_the_size_of_the_minibatch_changes_nothing(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    encoder = build_untrained_encoder(SETTINGS.model_copy(update={"view_size_px": 32}), 2, seed=0)
    some, all_ = (embed(crops, cells, encoder, EmbedSettings(minibatch_size=n), device="cpu") for n in (7, 100))
    np.testing.assert_allclose(some.filter(like="SSL"), all_.filter(like="SSL"), rtol=1e-4, atol=1e-5)
    half = embed(crops, cells, encoder, EmbedSettings(precision="bf16"), device="cpu").filter(like="SSL")
    np.testing.assert_allclose(half, all_.filter(like="SSL"), rtol=0.1, atol=0.05)


def test_cells_must_be_as_many_as_crops(make_screen: MakeScreen) -> None:
    crops, cells = make_screen()
    with pytest.raises(DataError, match="48 crops for 40 cells"):
        embed(crops, cells.iloc[:40], build_untrained_encoder(SETTINGS, 2, seed=0))


def test_untrained_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = build_untrained_encoder(SETTINGS, 2, seed=1).network.state_dict()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    second = build_untrained_encoder(SETTINGS, 2, seed=1).network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator was touched"
    other = build_untrained_encoder(SETTINGS, 2, seed=2).network.state_dict()
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_damage_is_said(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, _ = make_screen()
    with pytest.raises(SettingsError, match="no model there"):
        load_encoder(tmp_path, crops)
    folder = tmp_path / "model"
    save_untrained(folder, crops)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, "backbone": "seed-cnn"}))
    with pytest.raises(DamagedError, match="the weights are not of a seed-cnn"):
        load_encoder(folder, crops)
    (folder / "model.json").write_text(json.dumps({"backbone": "small-cnn"}))
    with pytest.raises(DamagedError, match="no description of a model"):
        load_encoder(folder, crops)
    (folder / "model.json").write_text(json.dumps(about))
    weights = folder / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DamagedError, match=r"encoder\.safetensors: (cannot be read|other bytes)"):
        load_encoder(folder, crops)


@pytest.mark.promise("Stored bytes", "Checkpoints and weights with a flipped bit are refused: 100 bits of each")
def test_flipped_bits_in_weights_are_found(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, _ = make_screen()
    save_untrained(tmp_path / "model", crops)
    weights, checkpoint = tmp_path / "model" / "encoder.safetensors", tmp_path / "last.ckpt"
    state = {f"backbone.{name}": value for name, value in safetensors.torch.load_file(weights).items()}
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    torch.save({"cytoclr": {"model": about}, "state_dict": state}, checkpoint)
    draw = np.random.default_rng(0)
    for path, source in ((weights, tmp_path / "model"), (checkpoint, checkpoint)):
        content = path.read_bytes()
        found = 0
        for place in draw.integers(len(content), size=100):
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.integers(8)
            path.write_bytes(flipped)
            try:
                read = load_encoder(source, crops).network.state_dict()
            except DamagedError:
                found += 1
            else:  # a bit that says nothing, between two records
                assert all(torch.equal(read[name], state[f"backbone.{name}"]) for name in read)
        assert found > 90
        path.write_bytes(content)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise AssertionError('code in a checkpoint was run')",))


@pytest.mark.promise("Nobody let in", "Code in a checkpoint is never run")
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"cytoclr": {"model": Bomb()}, "state_dict": {}}, path)
    with pytest.raises(DamagedError, match="not a checkpoint of cytoclr, or damaged"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedError, match="not a checkpoint of cytoclr, or damaged"):
        read_checkpoint(path)


def rename_channels(crops: CropStore, names: list[str], **about: object) -> CropStore:
    """Make the same crops look as if they came from another screen."""
    manifest = crops.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "channels": names, **about}))
    return CropStore(crops.folder)


def test_a_model_is_gone_on_with_only_on_its_own_channels(
    make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops, cells = make_screen()
    folder = tmp_path / "model"
    save_untrained(folder, rename_channels(crops, ["DNA", "Tubulin"], stains={"DNA": "DAPI"}))
    settings = SETTINGS.model_copy(update={"fine_tune_from": folder})
    for names in (["DAPI", "Tubulin"], ["Tubulin", "DNA"]):
        others = rename_channels(crops, names)
        with pytest.raises(DataError, match=f"channels DNA, Tubulin; the crops have {', '.join(names)}") as caught:
            train(others, cells, settings, folder=tmp_path / "tuned", device="cpu")
        assert caught.value.code == "CHAN001"
    others = rename_channels(crops, ["nuclei", "Tubulin"], stains={"nuclei": "Hoechst"})
    renamed = settings.model_copy(update={"fine_tune_channels": {"DNA": "nuclei"}})
    check_fine_tuning(renamed, others)
    assert "trained on nuclei stained by DAPI, in the crops it is Hoechst" in caplog.text
    wrong = settings.model_copy(update={"fine_tune_channels": {"Actin": "nuclei"}})
    with pytest.raises(SettingsError, match=r"fine_tune_channels names Actin; the model .* has DNA, Tubulin"):
        check_fine_tuning(wrong, others)


def test_stains_and_depth_go_into_the_model(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, _ = make_screen()
    save_untrained(tmp_path, rename_channels(crops, ["DNA", "Actin"], stains={"Actin": "phalloidin"}, bit_depth=12))
    about = json.loads((tmp_path / "model.json").read_text())
    assert (about["stains"], about["bit_depth"]) == ({"Actin": "phalloidin"}, 12)
    assert "DNA, Actin (phalloidin)" in (tmp_path / "MODEL_CARD.md").read_text()


def test_models_of_earlier_versions_are_still_read(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    encoder = save_untrained(tmp_path, crops)
    old = {  # as 0.1.0 wrote it
        "format": 1,
        "backbone": "small-cnn",
        "channels": ["DNA", "Tubulin"],
        "crop_size_px": 24,
        "view_size_px": 24,
        "pixel_size_um": None,
        "intensity": {"rule": "fixed"},
        "transform": "sqrt",
        "num_features": 128,
        "labels_seen": "none",
        "num_cells": 9,
        "wells_trained": ["P1/A1"],
        "wells_validated": [],
        "epochs": 16,
        "settings": {"backbone": "small-cnn", "minibatch_size": 256},
        "seed": 1,
        "versions": {"cytoclr": "0.1.0"},
    }
    (tmp_path / "model.json").write_text(json.dumps(old))
    found = load_encoder(tmp_path, crops)
    pd.testing.assert_frame_equal(embed(crops, cells, found, device="cpu"), embed(crops, cells, encoder, device="cpu"))
    assert found.about is not None
    assert (found.about.standardise, found.about.imported_from, found.about.stains) == (None, None, {})
    save_model(tmp_path / "again", found.network, found.about)
    assert "minibatch_size 256; statistics" in (tmp_path / "again" / "MODEL_CARD.md").read_text()
    (tmp_path / "model.json").write_text(json.dumps({**old, "transform": "log"}))
    with pytest.raises(DamagedError, match="transform 'log' is not one of sqrt, linear, legacy"):
        load_encoder(tmp_path, crops)


def test_a_model_s_channels_may_have_other_names(make_screen: MakeScreen, tmp_path: Path) -> None:
    crops, cells = make_screen()
    encoder = save_untrained(tmp_path, crops)
    others = rename_channels(crops, ["DAPI", "Tubulin"])
    with pytest.raises(DataError, match=r"where only names differ say so \(embed\.model_channels\)"):
        load_encoder(tmp_path, others)
    found = load_encoder(tmp_path, others, channels={"DNA": "DAPI"})
    assert found.about is not None
    assert found.about.channels == ("DAPI", "Tubulin")
    pd.testing.assert_frame_equal(
        embed(others, cells, found, device="cpu"), embed(others, cells, encoder, device="cpu")
    )
    with pytest.raises(SettingsError, match=r"embed\.model_channels names Actin; the model .* has DNA, Tubulin"):
        load_encoder(tmp_path, others, channels={"Actin": "DAPI"})


@pytest.mark.parametrize(
    ("of_loss", "sampler", "expected"),
    [
        ("none", "random", "none"),
        ("none", "balanced", "treatments, to balance minibatches"),
        ("plates, as negatives", "random", "plates, as negatives"),
        ("plates, as negatives", "balanced", "treatments, to balance minibatches; plates, as negatives"),
        ("treatments, as positives", "batch-balanced", "treatments, as positives; plates, to balance minibatches"),
    ],
)
def test_labels_seen_are_those_of_loss_and_sampler(
    make_screen: MakeScreen, of_loss: str, sampler: str, expected: str
) -> None:
    settings = SETTINGS.model_copy(update={"sampler": sampler})
    about: dict[str, Any] = {"num_features": 8, "num_cells": 9, "wells_trained": [], "wells_validated": [], "seed": 0}
    found = describe_model(settings, make_screen()[0], labels_seen=of_loss, **about).labels_seen
    assert found.startswith(expected)


def test_the_card_says_how_it_was_trained_and_what_it_is_not_for(make_screen: MakeScreen, tmp_path: Path) -> None:
    changed = {"loss": "vicreg", "minibatch_size": 512, "chunk_size": 64}
    save_untrained(tmp_path, make_screen()[0], SETTINGS.model_copy(update=changed))
    card = (tmp_path / "MODEL_CARD.md").read_text()
    for words in (
        "VICReg (Bardes",
        "preset fluorescence, strength 1.0",
        "minibatch_size 512, sampler random; statistics of batch norms, if there are such, of 64 cells",
        "0 and 1 by {'rule': 'fixed'}, then sqrt",
        "| Labels seen | none |",
        "It is not for other stains",
        "not for diagnosis",
    ):
        assert words in card


def test_going_on_from_what_was_shown_otherwise_is_said(
    make_screen: MakeScreen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops, _ = make_screen()
    save_untrained(tmp_path, crops)
    settings = SETTINGS.model_copy(update={"fine_tune_from": tmp_path})
    check_fine_tuning(settings, crops)
    assert not caplog.records
    check_fine_tuning(settings.model_copy(update={"transform": "linear"}), crops)
    assert "was shown intensities sqrt, standardised by None; training goes on with linear" in caplog.text
