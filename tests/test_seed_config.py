"""The 2020 project's config is accepted as it is."""

import logging
from pathlib import Path

import pytest

from cytoclr.config import SingleCellSettings, read_settings
from cytoclr.errors import SettingsError
from cytoclr.seed_config import BECAME

SEED = """
batch_size: 512
epochs: 400
eval_every_n_epochs: 1
fine_tune_from: 'resnet-18_80-epochs'
log_every_n_steps: 50
weight_decay: 10e-6
fp16_precision: False
eval_classifier_n_epoch: 50
checkpoint_every_n_epochs: 50
model:
  out_dim: 256
  base_model: "resnet50"
dataset:
  path: 'crops/sc-metadata.csv'
  root_dir: 'crops/'
  s: 1
  input_shape: (96,96,3)
  num_workers: 0
  valid_size: 0.05
  sampler: "random"
  preload: True
eval_dataset:
  path: 'crops/sc-metadata.csv'
  root_dir: 'crops/'
  input_shape: (96,96,3)
  num_workers: 0
  valid_size: 0.3
  sampler: "random"
  preload: True
loss:
  temperature: 0.5
  use_cosine_similarity: True
"""


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(SEED)
    return path


def test_every_key_becomes_ours(seed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        settings = read_settings(seed)
    train = settings.train
    assert isinstance(settings.screen, SingleCellSettings)
    assert settings.screen.table == seed.parent / "crops" / "sc-metadata.csv"
    assert settings.screen.channels == ("DNA", "Tubulin", "Actin")
    assert (train.minibatch_size, train.epochs, train.backbone, train.projection_dim) == (512, 400, "resnet50", 256)
    assert (train.weight_decay, train.temperature, train.similarity) == (10e-6, 0.5, "cosine")
    assert (train.view_size_px, train.sampler, train.preload, train.precision) == (96, "random", True, "32")
    assert (train.probe.every_n_epochs, train.probe.test_fraction, train.probe.screen) == (50, 0.3, None)
    assert train.checkpoint_every_n_epochs == 50
    assert train.fine_tune_from is None
    assert "no model at resnet-18_80-epochs: training from scratch" in caplog.text
    for key in BECAME:
        if key not in {"run_dir", "continue_training_from"}:
            assert key in caplog.text


@pytest.mark.parametrize("nothing", ["None", "'None'", "null", "~"])
def test_none_in_any_spelling_means_from_scratch(seed: Path, nothing: str) -> None:
    seed.write_text(SEED.replace("'resnet-18_80-epochs'", nothing))
    assert read_settings(seed).train.fine_tune_from is None


def test_a_model_that_is_there_is_taken(seed: Path) -> None:
    (seed.parent / "runs" / "resnet-18_80-epochs").mkdir(parents=True)
    assert read_settings(seed).train.fine_tune_from == seed.parent / "runs" / "resnet-18_80-epochs"


def test_another_probe_set_is_a_screen_of_its_own(seed: Path) -> None:
    seed.write_text(SEED.replace("eval_dataset:\n  path: 'crops/", "eval_dataset:\n  path: 'other/"))
    probe = read_settings(seed).train.probe.screen
    assert probe is not None
    assert probe.table == seed.parent / "other" / "sc-metadata.csv"


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("(96,96,3)", "os.system('x')", "expected \\(height, width, channels\\)"),
        ("(96,96,3)", "(96,64,3)", "expected a square, found 96 x 64"),
        ('sampler: "random"', 'sampler: "clever"', "expected random or weighted, found 'clever'"),
        ("epochs: 400", "epochs: many", "expected a number, found 'many'"),
        ("epochs: 400", "epochs: .nan", "epochs: expected a number, found nan"),
        ("epochs: 400", "epochs: .inf", "epochs: expected a number, found inf"),
        ("epochs: 400", "epoch: 400", "epoch is not a key of the 2020 project"),
        ("fp16_precision: False", "fp16_precision: maybe", "expected True or False"),
    ],
)
def test_what_it_never_took_is_refused(seed: Path, old: str, new: str, match: str) -> None:
    seed.write_text(SEED.replace(old, new, 1))
    with pytest.raises(SettingsError, match=match):
        read_settings(seed)


def test_weighted_sampler_and_other_channels(seed: Path) -> None:
    seed.write_text(SEED.replace('"random"', '"weighted"').replace("(96,96,3)", "(96, 96, 5)"))
    settings = read_settings(seed)
    assert settings.train.sampler == "balanced"
    assert isinstance(settings.screen, SingleCellSettings)
    assert settings.screen.channels == tuple(f"channel{number}" for number in range(1, 6))


@pytest.mark.real_data
def test_the_original_file_is_accepted_verbatim(real_data: Path) -> None:
    assert read_settings(real_data.parent / "seed-config.yaml").train.minibatch_size == 512
