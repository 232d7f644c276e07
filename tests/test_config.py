from pathlib import Path

import pytest

from cytoclr.config import (
    PRESETS,
    Settings,
    SingleCellSettings,
    TrainSettings,
    check_settings,
    dump_settings,
    parse_text,
    read_settings,
)
from cytoclr.errors import SettingsError

BBBC021 = "screen: {reader: bbbc021, image_table: i.csv, images: i, "


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_demo(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, "")) == Settings()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, dump_settings(Settings()))) == Settings()


def test_paths_are_relative_to_the_config_file(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "screen: {reader: single-cell, table: a/sc.csv, images: a}"))
    assert isinstance(settings.screen, SingleCellSettings)
    assert settings.screen.table == tmp_path / "a" / "sc.csv"


def test_changes_replace_single_values(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "train: {epochs: 3, temperature: 0.5}"), changes={"train.epochs": 7})
    assert (settings.train.epochs, settings.train.temperature) == (7, 0.5)


def test_a_wrong_change_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {epochs: 3}")
    with pytest.raises(SettingsError, match=r"^--set train.epochs: train.epochs: .*; found 'many'"):
        read_settings(path, changes={"train.epochs": "many"})
    with pytest.raises(SettingsError, match=r"^--set train.epoch: train.epoch is not a setting. Did you mean epochs"):
        read_settings(path, changes={"train.epoch": 3})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("train:\n  epoch: 3\n", r"config.yaml:2: train.epoch is not a setting. Did you mean epochs\?"),
        ("trian:\n  epochs: 3\n", r"config.yaml:1: trian is not a setting. Did you mean train\?"),
        ("screen:\n  reader: virtual\n  dosis: 3\n", r":3: screen.dosis is not a setting. Did you mean doses\?"),
        ("train:\n  epochs: 3\n  epochs: 4\n", r":3: epochs stands twice, first in line 2"),
        ("train: !!python/object:os.system x", r"the YAML tag .*python/object"),
        ("a: &x {b: 1}\ntrain: *x", r":2: the alias \*x"),
        ("train: [1", r"not YAML"),
        ("train:\n  epochs: ten\n", r":2: train.epochs: input should be a valid integer; found 'ten'"),
        ("train:\n  epochs: '10'\n", r":2: train.epochs: .*; found '10'"),
        ("train:\n  epochs: 0\n", r":2: train.epochs: .*greater than or equal to 1; found 0"),
        ("train:\n  preload: 1\n", r":2: train.preload: .*boolean; found 1"),
        (
            "screen:\n  reader: nope\n",
            r":1: screen.reader: expected one of virtual, bbbc021, images, .*; found 'nope'",
        ),
        ("screen: {images: i}", r":1: screen.reader: expected one of virtual, bbbc021, images, .*; found 'nothing'"),
        ("3", r"config.yaml.*: settings: input should be an object"),
        (BBBC021 + "batch_pattern: '^(['}", r":1: screen.batch_pattern: not a regular expression"),
        (BBBC021 + "batch_pattern: Week}", r"screen.batch_pattern: expected a group, as in '\^\(\.\*\)\$'"),
        (BBBC021 + "plates: []}", r"screen.plates: .*at least 1 item"),
        ("crop: {percentiles: [99.9, 1.0]}", r":1: crop.percentiles: expected the lower percentile first"),
        ("crop: {percentiles: [-1, 200]}", r"crop.percentiles.0: .*greater than or equal to 0"),
        ("crop: {nucleus_diameter_px: 1e400}", r"crop.nucleus_diameter_px: input should be a finite number"),
    ],
)
def test_errors_name_their_place(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        read_settings(write(tmp_path, text))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml: no such file"):
        read_settings(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("10e-6", 10e-6),
        ("0x1F", "0x1F"),
        ("00123", 123),
        ("no", "no"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("~", None),
        ("'None'", "None"),
        ("[a, 1.5]", ["a", 1.5]),
    ],
)
def test_plain_values_follow_yaml_1_2(text: str, value: object) -> None:
    assert parse_text(text, source="text")[0] == value


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "seed-2020"])
def test_a_preset_lies_under_what_is_set(name: str) -> None:
    values = {"preset": name, "screen": {"reader": "virtual"}, "train": {"epochs": 7}}
    settings = check_settings(values, source="config.yaml", folder=Path())
    assert settings.train.epochs == 7
    expected = PRESETS[name].get("train", {}).get("backbone", TrainSettings().backbone)
    assert settings.train.backbone == expected
    text, _ = parse_text(dump_settings(settings), source="dump")
    assert "preset" not in text
    assert check_settings(text, source="config.yaml", folder=Path()) == settings


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"c\.yaml: preset: expected one of laptop, gpu, .*; found"):
        check_settings({"preset": "gpus"}, source="c.yaml", folder=Path())
    with pytest.raises(SettingsError, match="--set preset: preset: expected"):
        check_settings({}, source="c.yaml", folder=Path(), changes={"preset": "fast"})
