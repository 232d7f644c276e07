"""The benchmarks of quality: hand-made features, pooled intervals, and each script once on next to nothing."""

import importlib
from pathlib import Path
from types import ModuleType

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from skimage.feature import graycomatrix

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="load")
def _load(monkeypatch: pytest.MonkeyPatch):
    """Import a script as a module; its neighbours are found as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# Features.


def draw_cells(num_cells: int, num_channels: int, dtype: type, *, size_px: int = 48) -> np.ndarray:
    """Paint a bright off-round nucleus in the first channel, and noise in all."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:size_px, :size_px]
    crops = rng.uniform(10, 60, (num_cells, num_channels, size_px, size_px))
    for cell in crops:
        y, x = size_px / 2 + rng.uniform(-3, 3, 2)
        cell[0][((rows - y) / 9) ** 2 + ((columns - x) / 6) ** 2 < 1] += 150
    return crops.astype(dtype)


def describe(features: ModuleType, crops: np.ndarray) -> pd.DataFrame:
    low, high = np.zeros(crops.shape[:2], np.float32), np.full(crops.shape[:2], 255, np.float32)
    names = ("DNA", "Tubulin", "Actin", "ER", "Mito")[: crops.shape[1]]
    return features.describe_cells(crops, low, high, names, nuclei=0)


@pytest.mark.parametrize(("channels", "dtype", "columns"), [(1, np.uint8, 37), (3, np.uint16, 99)])
def test_features_of_any_number_of_channels(load, channels: int, dtype: type, columns: int) -> None:
    table = describe(load("features"), draw_cells(6, channels, dtype))
    assert table.shape == (6, columns)
    assert all(name.startswith("Cells_") for name in table)
    assert np.isfinite(table.to_numpy()).all()
    assert table["Cells_AreaShape_Area"].between(130, 210).all()  # pi x 9 x 6 is 170
    assert table["Cells_AreaShape_Eccentricity"].between(0.65, 0.82).all()
    assert (table["Cells_Intensity_Mean_Nucleus_DNA"] > 2 * table["Cells_Intensity_Mean_Crop_DNA"]).all()


def test_features_know_no_up(load) -> None:
    crops, features = draw_cells(5, 3, np.uint16), load("features")
    turned = np.ascontiguousarray(np.rot90(crops, axes=(2, 3)))
    pd.testing.assert_frame_equal(describe(features, crops), describe(features, turned), rtol=1e-3, atol=1e-4)


def test_features_of_crops_that_hold_nothing(load) -> None:
    table = describe(load("features"), np.full((2, 2, 32, 32), 7, np.uint8))
    assert np.isfinite(table.to_numpy()).all()
    assert (table["Cells_Objects_Count"] == 0).all()


def test_the_nucleus_is_the_one_in_the_middle(load) -> None:
    plane = np.zeros((40, 40), np.float32)
    plane[2:14, 2:14], plane[17:25, 18:26], plane[30, 30] = 1.0, 0.8, 1.0
    mask, count = load("features").find_nucleus(plane)
    np.testing.assert_array_equal(np.argwhere(mask)[[0, -1]], [[17, 18], [24, 25]])
    assert count == 2  # a pixel is no nucleus


@pytest.mark.parametrize("distance", [1, 4])
def test_cooccurrence_is_that_of_scikit_image(load, distance: int) -> None:
    grey = np.random.default_rng(1).integers(0, 16, (3, 20, 24))
    found = load("features").measure_cooccurrence(grey, distance)
    for cell, shares in zip(grey, found, strict=True):
        offsets = [(0, distance), (distance, 0), (distance, distance), (distance, -distance)]
        # scikit-image rounds the diagonal's length, so the angles are asked one by one at the distance that fits
        expected = np.zeros((16, 16))
        for down, right in offsets:
            length, angle = np.hypot(down, right), np.arctan2(down, right)
            expected += graycomatrix(cell.astype(np.uint8), [length], [angle], levels=16, symmetric=True)[..., 0, 0]
        np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-12)


# Intervals over several screens.


def test_screens_and_compounds_are_drawn_as_slow_loops_draw_them(load) -> None:
    rng = np.random.default_rng(0)
    screens = np.repeat([0, 1, 2], [40, 20, 20])
    compounds = np.repeat(np.arange(40), 2)
    values = rng.integers(-1, 2, 80) + 0.3 * screens + rng.normal(size=40).repeat(2)
    own = [values[screens == screen].reshape(-1, 2) for screen in range(3)]  # a row a compound
    means = []
    for _ in range(2000):
        drawn = [own[screen] for screen in rng.choice(3, 3)]
        means.append(np.mean([rows[rng.choice(len(rows), len(rows))].mean() for rows in drawn]))
    np.testing.assert_allclose(
        load("quality").bootstrap_gain(values, screens, compounds), np.percentile(means, (2.5, 97.5)), atol=0.06
    )


def test_screens_that_disagree_widen_the_interval(load) -> None:
    quality, compounds = load("quality"), np.arange(40)
    assert quality.bootstrap_gain(np.ones(40), np.repeat([0, 1], 20), compounds) == (1.0, 1.0)
    assert quality.bootstrap_gain(np.repeat([0.0, 1.0], 20), np.repeat([0, 1], 20), compounds) == (0.0, 1.0)


def tell_result(hits: list[int]) -> dict:
    values = [[f"C{number // 2}", float(number % 2), hit] for number, hit in enumerate(hits)]
    return {"scores": {"plate-zscore": {"values": {"nscb": values}}}}


def test_only_what_both_have_is_compared(load) -> None:
    found = {
        ("demo", 1): {"trained": tell_result([1] * 10), "untrained": tell_result([0] * 8)},
        ("demo", 2): {"trained": tell_result([0] * 10)},
    }
    compared = load("quality").compare_pooled(found, "trained", "untrained", "nscb")
    assert compared | {"p_value": 0} == {
        "gain": 1.0,
        "interval": [1.0, 1.0],
        "p_value": 0,
        "verdict": "better",
        "num_screens": 1,
        "num_treatments": 8,
        "num_compounds": 4,
    }
    assert load("quality").compare_pooled(found, "trained", "features", "nscb") is None


# The scripts.


@pytest.mark.slow
def test_quality_on_next_to_nothing(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = load("quality")
    changes = {
        "no flip": {"train": {"augment": {"flip": False}}},
        "nothing at all": {},
        "of tomorrow": {"train": {"tomorrow": 1}},
    }
    monkeypatch.setattr(quality, "VARIANTS", {"augmentation": changes})
    monkeypatch.setattr(quality, "CHANGES", changes)
    monkeypatch.setattr(quality, "NUM_SHUFFLES", 3)
    monkeypatch.setattr(quality, "NORMALISATIONS", ("plate-zscore",))
    monkeypatch.setattr(quality, "PERMUTATIONS", 100)
    command = ["--size", "tiny", "--epochs", "1", "--seeds", "1", "--screens", "harder", "--out", str(tmp_path)]
    quality.main([*command, "--table"])
    told = capsys.readouterr()
    assert "of tomorrow is left out: of tomorrow: train.tomorrow is not a setting" in told.err
    for line in ("| trained | 128 |", "| intensities | 21 |", "| features | 99 |", "| features | `plate-zscore` |"):
        assert line in told.out
    assert "| augmentation: no flip | none | 1 |" in told.out
    assert "| augmentation: nothing at all (did nothing: the very embeddings of the default) |" in told.out
    results = sorted((tmp_path / "harder-1-tiny" / "results").glob("*.json"))
    assert [path.stem for path in results] == [
        *("features", "intensities", "no-flip", "nothing-at-all", "trained", "untrained"),
    ]
    written = [path.stat().st_mtime_ns for path in results]
    quality.main([*command, "--table"])
    assert [path.stat().st_mtime_ns for path in results] == written
    assert capsys.readouterr().out == told.out


def test_real_refuses_without_its_crops(load, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("screen: {reader: single-cell, table: nowhere.csv, images: .}")
    with pytest.raises(SystemExit, match=r"nowhere\.csv: not there\. This benchmark needs the real crops"):
        load("real").main(["--config", str(config), "--out", str(tmp_path / "run")])
    config.write_text("screen: {reader: virtual}")
    with pytest.raises(SystemExit, match=r"screen\.reader is virtual; .* expected single-cell"):
        load("real").main(["--config", str(config), "--out", str(tmp_path / "run")])


def tabulate_wells(plates: list[str], compounds: list[str], features: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Metadata_Plate": plates,
            "Metadata_Well": [f"B{number:02d}" for number in range(len(plates))],
            "Metadata_Batch": "Week1",
            "Metadata_Compound": compounds,
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": ["negcon" if name == "DMSO" else "trt" for name in compounds],
            "Cells_0": features[:, 0],
            "Cells_1": features[:, 1],
        }
    )


def test_replicates_among_other_compounds(load) -> None:
    angles = np.array([0.0, 0.2, 0.1, 2.0, 2.1, 0.0])
    wells = tabulate_wells(
        ["P1", "P2", "P1", "P1", "P2", "P2"],
        ["one", "one", "two", "three", "three", "DMSO"],
        np.column_stack([np.cos(angles), np.sin(angles)]),
    )
    found = load("real").rank_replicates(wells).set_index("Metadata_Compound")["correct"]
    # both wells of the first compound find the second's between them; the second has no replicate
    assert found.to_dict() == {"one": 0.5, "three": 1.0}


def test_the_probe_learns_nothing_from_the_plate_it_is_asked_of(load) -> None:
    rng = np.random.default_rng(0)
    plates, compounds = rng.integers(0, 10, 600), rng.integers(0, 4, 600)
    cells = pd.DataFrame(
        {
            "Metadata_CellID": [f"{number:04d}" for number in range(600)],
            "Metadata_Plate": [f"P{plate}" for plate in plates],
            "Metadata_Compound": [f"C{compound}" for compound in compounds],
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": "trt",
        }
    )
    names = [f"Cells_{number}" for number in range(40)]
    told_on_its_plate = pd.DataFrame(np.eye(40)[plates * 4 + compounds], columns=names)
    told = pd.DataFrame(np.tile(np.eye(4)[compounds], 10), columns=names)
    mechanisms = pd.DataFrame(
        {
            "Metadata_Compound": [f"C{number}" for number in range(4)],
            "Metadata_Concentration": 1.0,
            "Metadata_MoA": list("abcd"),
        }
    )
    real = load("real")
    by_plate = real.probe_by_plate(pd.concat([cells, told_on_its_plate], axis=1), mechanisms)["correct"]
    everywhere = real.probe_by_plate(pd.concat([cells, told], axis=1), mechanisms)["correct"]
    assert by_plate.mean() < 0.35
    assert (everywhere == 1.0).all()


def write_strips(folder: Path) -> Path:
    """Write crops as the 2020 project kept them: two weeks, twelve plates, six treatments and untreated wells."""
    rng = np.random.default_rng(0)
    treatments = ["DMSO_0.0", *(f"C{number}_1.0" for number in range(6))]
    rows = []
    for plate in range(12):
        week = plate // 6 + 1
        for target, treatment in enumerate(treatments):
            if target and (target > 3) != (week == 2):
                continue
            for cell in range(3):
                name = f"Week{week}_{plate}-B{target + 2:02d}-s1-{cell}.png"
                strip = rng.integers(0, 4000, (20, 60)).astype(np.uint16)
                strip[6:14, 6:14] += np.uint16(20_000 + 5_000 * (target % 3))
                (folder / name).write_bytes(imagecodecs.png_encode(strip))
                rows.append((name, treatment, target))
    pd.DataFrame(rows, columns=["Image_Name", "Class_Name", "Target"]).to_csv(folder / "sc-metadata.csv", index=False)
    moa = pd.DataFrame(
        {"compound": [f"C{number}" for number in range(6)], "concentration": 1.0, "moa": ["a", "b", "c"] * 2}
    )
    moa.to_csv(folder / "moa.csv", index=False)
    config = folder / "config.yaml"
    config.write_text(
        "screen: {reader: single-cell, table: sc-metadata.csv, images: .}\n"
        "train: {epochs: 1, view_size_px: 20, minibatch_size: 32}\n"
        "profile: {normalise: whitening}\n"
        "evaluate: {mechanisms: moa.csv}\n"
    )
    return config


@pytest.mark.slow
def test_real_on_next_to_nothing(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = load("real")
    monkeypatch.setattr(real, "BOOTSTRAPS", 100)
    monkeypatch.setattr(real, "PERMUTATIONS", 100)
    monkeypatch.setattr(real, "NUM_DRAWS", 1)
    config = write_strips(tmp_path)
    assert real.main(["--config", str(config), "--seeds", "0", "1", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "144 cells; 1 epochs, seeds 0, 1" in told
    assert "| n | 6 treatments, 6 compounds |" in told
    assert told.count("| probe by plate |") == 1 + 3  # a column, and a line for each table
    assert "is not told apart from untrained" in told
