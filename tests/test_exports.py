"""Profiles for other programs, read back by them where they are there."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cytoclr.data.profiles import read_profiles
from cytoclr.errors import DataError, SettingsError
from cytoclr.results import MAX_POINTS, export
from cytoclr.storage import read_table, write_json, write_table
from cytoclr.tables import feature_columns

HOSTILE = "../" * 9 + "cytoclr-outside"


def make_wells(plates: list[str], batches: list[str]) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for plate, batch in zip(plates, batches, strict=True):
        for number, compound in enumerate(["DMSO", "taxol", "-x", "ALLN", "=1+1"]):
            rows.append(
                {
                    "Metadata_Plate": plate,
                    "Metadata_Well": f"B{number + 2:02d}",
                    "Metadata_Batch": batch,
                    "Metadata_Compound": compound,
                    "Metadata_Concentration": 0.0 if compound == "DMSO" else 0.3,
                    "Metadata_control_type": "negcon" if compound == "DMSO" else "trt",
                }
            )
    wells = pd.DataFrame(rows)
    # a feature before metadata, as a joined table may have it
    wells.insert(0, "Cells_SSL_0000", generator.normal(size=len(wells)))
    features = generator.normal(size=(len(wells), 3))
    return wells.assign(**{f"Cells_SSL_{i + 1:04d}": features[:, i] for i in range(3)}, Metadata_NumCells=7)


def make_run(folder: Path, wells: pd.DataFrame) -> Path:
    write_table(folder / "profiles/well.parquet", wells)
    write_table(folder / "profiles/unnormalised.parquet", wells)
    write_table(folder / "profiles/treatment.parquet", wells.head(3))
    write_json(folder / "scores.json", {"protocol": {}, "normalisation": "plate-mad", "labels_seen": "none"})
    return folder


@pytest.fixture
def wells() -> pd.DataFrame:
    return make_wells(["P1", "P2"], ["2024_01_01", "2024_01_01"])


@pytest.fixture
def run(tmp_path: Path, wells: pd.DataFrame) -> Path:
    return make_run(tmp_path / "run", wells)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
def test_pycytominer_reads_what_is_written_for_it(run: Path, wells: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    pycytominer = pytest.importorskip("pycytominer")
    out = export(run, tmp_path / f"wells{ending}", to="pycytominer")
    table = pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out, float_precision="round_trip")
    assert [name.startswith("Metadata_") for name in table.columns] == [True] * 7 + [False] * 4
    np.testing.assert_array_equal(table[feature_columns(wells)], wells[feature_columns(wells)])
    assert table["Metadata_Well"].tolist() == wells["Metadata_Well"].tolist()
    normalised = pycytominer.normalize(str(out), features="infer", samples="Metadata_control_type == 'negcon'")
    assert len(normalised) == len(wells)
    strata = ["Metadata_Compound"]
    means = pycytominer.aggregate(table, strata=strata, features="infer", operation="mean").set_index(strata)
    expected = wells.groupby("Metadata_Compound")["Cells_SSL_0002"].mean()
    assert means.loc["taxol", "Cells_SSL_0002"] == pytest.approx(expected["taxol"])


def test_csv_has_no_formula_and_the_log_says_how_many_there_were(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(export(run, tmp_path / "wells.csv"))
    assert table["Metadata_Compound"].tolist()[:5] == ["DMSO", "taxol", "'-x", "ALLN", "'=1+1"]
    assert "before 4 texts" in caplog.text
    caplog.clear()
    exact = pd.read_parquet(export(run, tmp_path / "wells.parquet"))
    assert exact["Metadata_Compound"].tolist()[:5] == ["DMSO", "taxol", "-x", "ALLN", "=1+1"]
    assert caplog.text == ""


def test_embedding_atlas_has_places_labels_and_neighbours(run: Path, wells: pd.DataFrame, tmp_path: Path) -> None:
    out = export(run, tmp_path / "points.parquet", to="embedding-atlas")
    points = read_table(out)
    assert list(points.columns)[:3] == ["projection_x", "projection_y", "label"]
    assert points["label"].tolist()[:2] == ["DMSO", "taxol 0.3 µM"]
    assert points["Metadata_Plate"].tolist() == wells["Metadata_Plate"].tolist()
    assert np.isfinite(points[["projection_x", "projection_y"]].to_numpy()).all()
    assert not feature_columns(points.drop(columns=["projection_x", "projection_y"]))
    features = wells[feature_columns(wells)].to_numpy()
    for row, found in enumerate(points["neighbors"]):
        # the definition, as loops
        distances = {}
        for other in range(len(features)):
            if other != row:
                lengths = np.linalg.norm(features[row]) * np.linalg.norm(features[other])
                distances[other] = 1 - features[row] @ features[other] / lengths
        nearest = sorted(distances, key=lambda other: (distances[other], other))
        assert list(found["ids"]) == nearest[: len(found["ids"])]
        np.testing.assert_allclose(found["distances"], [distances[other] for other in found["ids"]], atol=1e-6)
    assert export(run, tmp_path / "again.parquet", to="embedding-atlas").read_bytes() == out.read_bytes()


def test_of_very_many_points_some_are_drawn_and_the_rest_counted(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_POINTS >= 10_000
    monkeypatch.setattr("cytoclr.results.MAX_POINTS", 6)
    points = read_table(export(run, tmp_path / "few.parquet", to="embedding-atlas"))
    assert len(points) == 6
    assert "6 of 10 rows, drawn at random" in caplog.text
    assert all(max(of["ids"]) < 6 for of in points["neighbors"])


def test_the_gallerys_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wells = make_wells(["BR1", "BR2", "BR3"], ["2024_01_01", "2024_01_01", "2024_02_02"])
    out = export(make_run(tmp_path / "run", wells), tmp_path / "gallery", to="cellpainting-gallery")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "workspace/metadata/platemaps/2024_01_01/barcode_platemap.csv",
        "workspace/metadata/platemaps/2024_01_01/platemap/BR1.txt",
        "workspace/metadata/platemaps/2024_01_01/platemap/BR2.txt",
        "workspace/metadata/platemaps/2024_02_02/barcode_platemap.csv",
        "workspace/metadata/platemaps/2024_02_02/platemap/BR3.txt",
        "workspace/profiles/2024_01_01/BR1/BR1.parquet",
        "workspace/profiles/2024_01_01/BR2/BR2.parquet",
        "workspace/profiles/2024_02_02/BR3/BR3.parquet",
    ]
    profiles = pd.read_parquet(out / "workspace/profiles/2024_01_01/BR2/BR2.parquet")
    assert profiles["Metadata_Plate"].unique().tolist() == ["BR2"]
    assert profiles["Metadata_broad_sample"].tolist() == ["DMSO", "taxol", "-x", "ALLN", "=1+1"]
    metadata = out / "workspace/metadata/platemaps/2024_01_01"
    barcodes = pd.read_csv(metadata / "barcode_platemap.csv")
    assert barcodes.to_dict("list") == {"Assay_Plate_Barcode": ["BR1", "BR2"], "Plate_Map_Name": ["BR1", "BR2"]}
    layout = pd.read_csv(metadata / "platemap/BR1.txt", sep="\t")
    assert list(layout.columns) == [
        "plate_map_name",
        "well_position",
        "broad_sample",
        "concentration_uM",
        "control_type",
    ]
    assert layout["broad_sample"].tolist() == ["DMSO", "taxol", "'-x", "ALLN", "'=1+1"]
    assert "before 6 texts of plate maps" in caplog.text
    told = {"compound": "Metadata_broad_sample", "concentration": "Metadata_concentration_uM"}
    back = read_profiles(out / "workspace/profiles/2024_01_01/BR1", columns=told)
    assert back["Metadata_Compound"].tolist() == ["DMSO", "taxol", "-x", "ALLN", "=1+1"]


@pytest.mark.promise("Nobody let in", "Names of plates and batches leave no folder that profiles are exported to")
@pytest.mark.parametrize("name", [HOSTILE, "/tmp/cytoclr-outside", "x" * 300, "..", "a\0b", "a/b", "C:\\x", "مركب"])
def test_no_name_leaves_the_gallerys_folder(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "deep" / "run", make_wells([name, "P2"], [name, "b"]))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    out = export(run, tmp_path / "deep" / "out", to="cellpainting-gallery")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} == before
    files = list(out.rglob("*.parquet"))
    assert len(files) == 2
    assert all(path.resolve().is_relative_to(out.resolve()) for path in files)
    plates = {plate for path in files for plate in read_table(path)["Metadata_Plate"]}
    assert plates == {name, "P2"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "a.csv", "to": "h5ad"}, SettingsError, r"ends in \.h5ad for h5ad"),
        ({"out": "a.csv", "to": "embedding-atlas"}, SettingsError, r"ends in \.parquet for embedding-atlas"),
        ({"out": "a.xls"}, SettingsError, r"a format \(--to\) that has no ending"),
        ({"out": "a", "to": "cellpainting-gallery", "level": "treatment"}, SettingsError, "are of wells"),
        ({"out": "a.parquet", "to": "embedding-atlas", "level": "treatment"}, DataError, "3 profiles cannot be laid"),
        ({"out": "a.parquet", "features": "none"}, DataError, "no such table"),
        ({"out": "run", "to": "cellpainting-gallery"}, SettingsError, "exists. Choose another name"),
    ],
)
def test_what_cannot_be_written_is_refused(
    run: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        export(run, tmp_path / options["out"], **{key: value for key, value in options.items() if key != "out"})
    assert sorted(tmp_path.rglob("*")) == before


def test_profiles_that_are_not_finite_are_not_laid_out(tmp_path: Path, wells: pd.DataFrame) -> None:
    gaps = wells.assign(Cells_SSL_0001=np.nan)
    with pytest.raises(DataError, match="not finite"):
        export(make_run(tmp_path / "run", gaps), tmp_path / "a.parquet", to="embedding-atlas")


def test_a_gallery_that_fails_leaves_nothing(tmp_path: Path, wells: pd.DataFrame) -> None:
    twice = pd.concat([wells, wells.head(1)])
    run = make_run(tmp_path / "run", twice)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="same Plate, Well"):
        export(run, tmp_path / "gallery", to="cellpainting-gallery")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_line_knows_the_formats(run: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cytoclr", "export", str(run), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = call(str(tmp_path / "gallery"), "--to", "cellpainting-gallery")
    assert (done.returncode, done.stdout) == (0, f"export   {tmp_path / 'gallery'}\n")
    refused = call(str(tmp_path / "a.csv"), "--to", "excel")
    assert refused.returncode == 2
    assert "--to excel: expected one of h5ad, pycytominer, embedding-atlas, cellpainting-gallery." in refused.stderr


def test_anndata_is_as_it_was(run: Path, wells: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    anndata = pytest.importorskip("anndata")
    with caplog.at_level(logging.WARNING):
        data = anndata.read_h5ad(export(run, tmp_path / "wells.h5ad"))
    np.testing.assert_array_equal(data.X, wells[feature_columns(wells)])
    assert "plate-mad" in data.uns["cytoclr"]
