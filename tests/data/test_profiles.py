"""Profiles and plate maps of any origin: the tools of the field write and read them, for real."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pycytominer
import pytest
from copairs import map as copairs_map
from pycytominer.cyto_utils import output
from pycytominer.cyto_utils.load import load_profiles
from scipy import sparse

from cytoclr.data.profiles import is_image_table, join_wells, read_profiles, read_wells, write_h5ad
from cytoclr.data.readers.bbbc021 import read_image_table
from cytoclr.errors import DataError, MachineError, SettingsError
from cytoclr.storage import write_table
from cytoclr.tables import TREATMENT, WELL, WELL_METADATA, WELL_PROFILES, check_table, feature_columns

FEATURES = [
    "Cells_Intensity_MeanIntensity_DNA",
    "Cells_Texture_Contrast_DNA_3_00_256",
    "Cells_Children_Cytoplasm_Count",
    "Nuclei_Correlation_Overlap_DNA_Alexa_488",
    "Nuclei_Intensity_MeanIntensity_Alexa_488",
    "Nuclei_Intensity_MeanIntensity_Alexa",
    "Cells_SSL_0000",
]


@pytest.fixture
def wells() -> pd.DataFrame:
    """Profiles of 24 wells as cytoclr writes them: two plates, controls and four compounds, one of them called NA."""
    rng = np.random.default_rng(3)
    places = [(plate, f"B{well:02d}") for plate in ("00123", "00124") for well in range(1, 13)]
    compounds = ["DMSO"] * 4 + [name for name in ("NA", "taxol", "ALLN", "AZ138") for _ in range(2)]
    metadata = pd.DataFrame(places, columns=WELL).assign(
        Metadata_Batch=["Week1"] * 12 + ["Week2"] * 12,
        Metadata_Compound=compounds * 2,
        Metadata_Concentration=([0.0] * 4 + [0.3] * 8) * 2,
        Metadata_control_type=(["negcon"] * 4 + ["trt"] * 8) * 2,
        Metadata_NumCells=np.arange(24) + 100,
    )
    features = pd.DataFrame(rng.normal(size=(24, len(FEATURES))), columns=FEATURES)
    return check_table(pd.concat([metadata, features], axis=1), WELL_PROFILES, "wells")


def test_pycytominer_and_copairs_take_our_tables_as_they_are(tmp_path: Path, wells: pd.DataFrame) -> None:
    write_table(tmp_path / "well.parquet", wells)
    theirs = pd.read_parquet(tmp_path / "well.parquet")
    normal = pycytominer.normalize(
        tmp_path / "well.parquet", method="standardize", samples="Metadata_control_type == 'negcon'"
    )
    chosen = pycytominer.feature_select(normal, operation=["variance_threshold", "drop_na_columns"])
    assert feature_columns(chosen) == FEATURES
    controls = chosen[chosen["Metadata_control_type"] == "negcon"][FEATURES]
    np.testing.assert_allclose(controls.mean(), 0.0, atol=1e-9)
    treatments = pycytominer.aggregate(theirs, strata=TREATMENT)
    assert len(treatments) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copairs' own
        found = copairs_map.average_precision(
            theirs.filter(regex="^Metadata_"),
            theirs[FEATURES].to_numpy(),
            pos_sameby=["Metadata_Compound"],
            pos_diffby=[],
            neg_sameby=[],
            neg_diffby=["Metadata_Compound"],
        )
    assert found["average_precision"].between(0, 1).all()


@pytest.mark.parametrize("name", ["wells.csv", "wells.csv.gz", "wells.parquet", "wells.h5ad"])
def test_tables_of_pycytominer_are_read(tmp_path: Path, wells: pd.DataFrame, name: str) -> None:
    kinds = {".h5ad": "anndata_h5ad", ".parquet": "parquet"}
    path = tmp_path / name
    compression = {"method": "gzip"} if path.suffix == ".gz" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns pycytominer of its index
        output(wells, str(path), output_type=kinds.get(path.suffix, "csv"), compression_options=compression)
    pd.testing.assert_frame_equal(read_profiles(path), wells)


def test_our_anndata_is_read_by_all(tmp_path: Path, wells: pd.DataFrame) -> None:
    path = tmp_path / "wells.h5ad"
    dated = wells.assign(Metadata_Day=pd.Timestamp("2020-05-01"), Metadata_Note=[None, *["x"] * 23])
    dated.loc[3, "Cells_SSL_0000"] = np.nan
    write_h5ad(path, dated, about={"model": "trained µ", "wells": 24})
    assert os.listdir(tmp_path) == ["wells.h5ad"]
    data = anndata.read_h5ad(path)
    assert data.shape == (24, len(FEATURES))
    assert json.loads(data.uns["cytoclr"]) == {"model": "trained µ", "wells": 24}
    assert data.obs["Metadata_Day"].unique().tolist() == ["2020-05-01 00:00:00"]
    assert data.obs["Metadata_Note"].isna().sum() == 1
    assert data.var.astype("str").to_numpy().tolist() == [
        ["Cells", "Intensity", "DNA"],
        ["Cells", "Texture", "DNA"],
        ["Cells", "Children", ""],
        ["Nuclei", "Correlation", "DNA+Alexa_488"],
        ["Nuclei", "Intensity", "Alexa_488"],
        ["Nuclei", "Intensity", "Alexa"],
        ["Cells", "SSL", ""],
    ]
    back = read_profiles(path)
    pd.testing.assert_frame_equal(back.drop(columns=["Metadata_Day", "Metadata_Note"]), dated[wells.columns])
    theirs = load_profiles(path)
    pd.testing.assert_frame_equal(theirs[FEATURES], dated[FEATURES])
    assert theirs["Metadata_Plate"].tolist() == wells["Metadata_Plate"].tolist()


def test_single_precision_stays_single(tmp_path: Path, wells: pd.DataFrame) -> None:
    small = wells.astype(dict.fromkeys(FEATURES, "float32"))
    write_h5ad(tmp_path / "a.h5ad", small, about={})
    assert anndata.read_h5ad(tmp_path / "a.h5ad").X.dtype == np.float32
    pd.testing.assert_frame_equal(read_profiles(tmp_path / "a.h5ad"), small)
    write_h5ad(tmp_path / "a.h5ad", small.assign(Cells_SSL_0000=1.0), about={})
    assert anndata.read_h5ad(tmp_path / "a.h5ad").X.dtype == np.float64


def test_anndata_that_cannot_be_written_leaves_nothing(tmp_path: Path, wells: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"a.h5ad: no feature to write"):
        write_h5ad(tmp_path / "a.h5ad", wells.drop(columns=FEATURES), about={})
    (tmp_path / "a.h5ad").mkdir()
    with pytest.raises(MachineError, match=r"a.h5ad: could not be written"):
        write_h5ad(tmp_path / "a.h5ad", wells, about={})
    assert os.listdir(tmp_path) == ["a.h5ad"]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_anndata_of_others_is_read(tmp_path: Path, form: object) -> None:
    obs = pd.DataFrame({"plate": [22123, 22123], "Well": ["B02", "B03"], "pert": ["NA", "taxol"], "leiden": [1, 0]})
    data = anndata.AnnData(
        X=form(np.array([[0.0, 1.5], [2.0, 0.0]])), obs=obs.set_axis(["a", "b"]), var=pd.DataFrame(index=["f1", "f2"])
    )
    data.layers["raw"] = data.X
    data.write_h5ad(tmp_path / "a.h5ad")
    profiles = read_profiles(tmp_path / "a.h5ad", columns={"compound": "pert"})
    assert profiles.to_dict("list") == {
        "Metadata_Plate": ["22123", "22123"],
        "Metadata_Well": ["B02", "B03"],
        "Metadata_Compound": ["NA", "taxol"],
        "Metadata_leiden": [1, 0],
        "f1": [0.0, 2.0],
        "f2": [1.5, 0.0],
    }


def test_other_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    with pytest.raises(DataError, match=r"a.h5ad: no such file"):
        read_profiles(path)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.h5ad: not a readable AnnData file"):
        read_profiles(path)
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((2, 2))
    with pytest.raises(DataError, match=r"HDF5, but not AnnData .* Save it again"):
        read_profiles(path)
    anndata.AnnData(obs=pd.DataFrame({"plate": ["P"], "well": ["B02"]}, index=["0"])).write_h5ad(path)
    with pytest.raises(DataError, match="not a readable AnnData file with obs, var and X"):
        read_profiles(path)
    two = anndata.AnnData(X=np.zeros((1, 2)), obs=pd.DataFrame({"plate": ["P"], "well": ["B02"]}, index=["0"]))
    two.var_names = ["f", "f"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of what is to be refused
        two.write_h5ad(path)
    with pytest.raises(DataError, match=r"1 column name stands more than once: f\. Expected each once"):
        read_profiles(path)


def test_anndata_may_be_absent(tmp_path: Path, wells: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(SettingsError, match=r"pip install 'cytoclr\[h5ad\]'"):
        read_profiles(tmp_path / "a.h5ad")
    with pytest.raises(SettingsError, match=r"pip install 'cytoclr\[h5ad\]'"):
        write_h5ad(tmp_path / "a.h5ad", wells, about={})


@pytest.mark.real_data
def test_published_profiles_keep_all_their_features(real_data: Path) -> None:
    profiles = read_profiles(real_data / "bbbc021/profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    header = pd.read_csv(real_data / "bbbc021/profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz", nrows=0)
    assert len(profiles) == 632
    assert feature_columns(profiles) == [name for name in header.columns if not name.startswith("Image_")]
    assert len(feature_columns(profiles)) == 516
    screen = read_image_table(real_data / "bbbc021/metadata/BBBC021_v1_image.csv.gz")
    assert len(join_wells(profiles, screen, "profiles")) == 632


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "num_features", "num_wells"), [("nf1", 1645, 5), ("pediatric_cancer_atlas", 2860, 1)]
)
def test_cells_of_cellprofiler_are_read(
    real_data: Path, caplog: pytest.LogCaptureFixture, folder: str, num_features: int, num_wells: int
) -> None:
    path = real_data / folder / "cells.parquet"
    caplog.set_level(logging.INFO)
    cells = read_profiles(path)
    assert len(cells) == 5
    assert len(cells.drop_duplicates(WELL)) == num_wells
    assert cells["Metadata_Site"].dtype == np.int64
    names = feature_columns(cells)
    assert len(names) == num_features
    assert {"Cells_AreaShape_Area", "Nuclei_Children_Cells_Count", "Cells_Neighbors_NumberOfNeighbors_Adjacent"} <= {
        *names
    }
    groups = {tuple(name.split("_")[:2]) for name in names}
    assert {compartment for compartment, _ in groups} == {"Cells", "Cytoplasm", "Nuclei"}
    assert {group for _, group in groups}.isdisjoint({"Location", "Parent", "Number"})
    assert "Metadata_Cells_Number_Object_Number" in cells
    theirs = pd.read_parquet(path)
    numeric = theirs.select_dtypes("number").columns
    left_out = [name for name in numeric if name not in names and not name.startswith(("Metadata_", "Image_Metadata_"))]
    images = [name for name in theirs.select_dtypes(exclude="number") if name.startswith("Image_")]
    images = [name for name in images if not name.startswith("Image_Metadata_")]
    assert f"{len(left_out) + len(images)} columns describe images or places of objects" in caplog.text


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_names_stay_as_they_were_written_under_any_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "plate,WELL,Compound,Batch,A\n00123,B02,NA,01,1\n00123,B03,0815,01,2\n")
    assert read_profiles(path).to_dict("list") == {
        "Metadata_Plate": ["00123", "00123"],
        "Metadata_Well": ["B02", "B03"],
        "Metadata_Batch": ["01", "01"],
        "Metadata_Compound": ["NA", "0815"],
        "A": [1, 2],
    }
    path = write(
        tmp_path / "b.csv",
        "Image_Metadata_Plate_DAPI,Image_Metadata_Plate_Actin,Image_Metadata_Well_DAPI,Image_Metadata_Dose,Metadata_Dose,A\n"
        "00123,00123,B02,01,02,1\n",
    )
    profiles = read_profiles(path)
    assert profiles.columns.tolist() == [*WELL, "Metadata_Dose", "Metadata_Plate_Actin", "A"]
    assert profiles["Metadata_Dose"].item() == "02"


def test_a_field_is_what_one_says_it_is(tmp_path: Path) -> None:
    text = (
        "Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_pert_iname,Metadata_mmoles_per_liter,ImageNumber,n,A\n"
        "P,B02,BRD-1,taxol,0.3,7,12,1\nP,B03,BRD-2,DMSO,,8,13,2\n"
    )
    path = write(tmp_path / "a.csv", text)
    told = {
        "compound": "Metadata_pert_iname",
        "concentration": "Metadata_mmoles_per_liter",
        "batch": "Metadata_Plate",
        "site": "ImageNumber",
        "num_cells": "n",
    }
    profiles = read_profiles(path, columns=told)
    pd.testing.assert_frame_equal(
        profiles,
        pd.DataFrame(
            {
                "Metadata_Plate": ["P", "P"],
                "Metadata_Well": ["B02", "B03"],
                "Metadata_Batch": ["P", "P"],
                "Metadata_Compound": ["taxol", "DMSO"],
                "Metadata_Concentration": [0.3, np.nan],
                "Metadata_Site": [7, 8],
                "Metadata_NumCells": [12, 13],
                "A": [1, 2],
            }
        ),
        check_dtype=False,
    )
    untold = read_profiles(path)
    assert untold["Metadata_Compound"].tolist() == ["BRD-1", "BRD-2"]
    assert "Metadata_Concentration" not in untold
    assert feature_columns(untold) == ["n", "A"]
    with pytest.raises(SettingsError, match=r"columns: dose is not known\. Expected some of plate, well, batch"):
        read_profiles(path, columns={"dose": "n"})
    with pytest.raises(DataError, match=r"no column Metadata_JCP2022, which columns names as the compound\. Found: Me"):
        read_profiles(path, columns={"compound": "Metadata_JCP2022"})


def test_numbers_that_are_names_are_read_as_names(tmp_path: Path) -> None:
    """A table that went through pandas has its plates as floats where a row once had none."""
    table = pd.DataFrame(
        {
            "Metadata_Plate": [22123.0, 22124.0],
            "Metadata_Well": pd.Categorical(["B02", "B03"]),
            "Metadata_Site": [1.0, 2],
        }
    )
    table = table.assign(Metadata_Batch=[1, 2], A=pd.array([1, None], dtype="Int64"), Metadata_Compound=[None, "a"])
    table.set_index(WELL).to_parquet(tmp_path / "a.parquet")
    profiles = read_profiles(tmp_path / "a.parquet")
    assert profiles["Metadata_Plate"].tolist() == ["22123", "22124"]
    assert profiles["Metadata_Batch"].tolist() == ["1", "2"]
    assert profiles["Metadata_Compound"].tolist() == ["", "a"]
    assert profiles["Metadata_Site"].dtype == np.int64
    assert profiles["A"].dtype == np.float64
    assert profiles["A"].isna().tolist() == [False, True]


def test_features_may_be_called_by_numbers(tmp_path: Path) -> None:
    index = pd.MultiIndex.from_tuples([("P", "B02"), ("P", "B03")], names=WELL)
    pd.DataFrame(np.ones((2, 3)), index=index).to_parquet(tmp_path / "a.parquet")
    assert feature_columns(read_profiles(tmp_path / "a.parquet")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("Metadata_control_type", ["negcon", "poscon_diverse", ""], ["negcon", "poscon", "trt"]),
        ("Metadata_control_type", ["negcon", "trt", ""], ["negcon", "trt", ""]),
        ("Metadata_pert_type", ["negcon", "poscon", "trt"], ["negcon", "poscon", "trt"]),
        ("Metadata_pert_type", ["control", "control", "trt"], None),
    ],
)
def test_control_types_are_jumps(tmp_path: Path, name: str, values: list[str], expected: list[str] | None) -> None:
    rows = [f"P,B{row:02d},{value},{row}" for row, value in enumerate(values)]
    profiles = read_profiles(write(tmp_path / "a.csv", "\n".join([f"Metadata_Plate,Metadata_Well,{name},A", *rows])))
    if expected is None:
        assert profiles["Metadata_pert_type"].tolist() == values
        assert "Metadata_control_type" not in profiles
    else:
        assert profiles["Metadata_control_type"].tolist() == expected


CELLPROFILER = (
    "Metadata_Plate,Metadata_Well,ImageNumber,Plate,Image_Count_Cells,Cells_Parent_Nuclei,Cells_Location_Center_X,A"
)


def test_bookkeeping_of_single_rows_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = read_profiles(
        write(tmp_path / "wells.csv", f"{CELLPROFILER}\nP,B02,1,9,10,4.5,100.5,1\nP,B03,2,9,10,4,90,2\n")
    )
    assert feature_columns(one) == ["Cells_Parent_Nuclei", "Cells_Location_Center_X", "A"]
    assert (
        "3 columns describe images or places of objects, are no features and are left out: ImageNumber" in caplog.text
    )
    several = write(tmp_path / "cells.csv", f"{CELLPROFILER}\nP,B02,1,9,10,4,100.5,1\nP,B02,1,9,10,5,90,2\n")
    assert feature_columns(read_profiles(several)) == ["A"]
    assert "5 columns describe images or places of objects" in caplog.text


def test_columns_that_are_no_features_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.csv", "Metadata_Plate,Metadata_Well,Metadata_Note,A,B\nP,B02,x,1,2\nP,B03,x,3,oops\n")
    assert read_profiles(path).columns.tolist() == [*WELL, "Metadata_Note", "A"]
    assert "columns that are not all numbers are no features: B" in caplog.text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "Metadata_Plate,A,A\nP,1,2\n",
            r"1 column name stands more than once: A\. Expected each once; rename or drop the others",
        ),
        ("Metadata_Plate,A,B, A,B\nP,1,2,3,4\n", r"2 column names stand more than once: A, B"),
        (
            "Metadata_Plate,Position,A\nP,B02,1\n",
            r"no column of the well\. Expected Metadata_Well; if it has another name, name it in columns, as "
            r"well: NAME\. Found: Metadata_Plate, Position, A",
        ),
        ("A\n1\n", r"no column of the plate and the well\. Expected Metadata_Plate, Metadata_Well; if"),
        ("Metadata_Plate,Metadata_Well,A\n", r"the table has no rows\. Expected one a well, a site or a cell"),
        (
            "Metadata_Plate,Metadata_Well,ImageNumber\nP,B02,1\n",
            r"no numeric column that could be a feature\. Found: Me",
        ),
        (
            "Metadata_Plate,Metadata_Well,A\nP,B02,1\nP, ,1\n",
            r"Metadata_Well is empty in 1 of 2 rows, first in row 2\. Expected the well of every row",
        ),
        (
            "Plate,Image_Metadata_Plate,Well,A\nP,P,B02,1\nP,Q,B02,1\n",
            r"Plate and Image_Metadata_Plate could both be Metadata_Plate, and differ in 1 of 2 rows\. Name the right",
        ),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_profiles(write(tmp_path / "a.csv", text))


def test_a_parquet_with_two_columns_of_a_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([["P"], ["B"], [1], [2]], names=[*WELL, "A", "A"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: 1 column name stands more than once: A\."):
        read_profiles(tmp_path / "a.parquet")


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def deepprofiler(tmp_path: Path) -> Path:
    """Features as DeepProfiler writes them: three sites of two wells, metadata pickled, one site without cells."""
    folder = tmp_path / "features"
    rng = np.random.default_rng(1)
    for place, num_cells in {"00123/B02/1": 3, "00123/B02/2": 2, "00124/B03/1": 0}.items():
        path = folder / f"{place}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        features = rng.normal(size=(num_cells, 4)).astype(np.float32)
        if num_cells == 2:
            features[1, 2] = np.nan
        metadata = {"Metadata_Plate": "other", "exploit": Exploit(tmp_path / "ran")}
        locations = pd.DataFrame({"Nuclei_Location_Center_X": np.arange(num_cells) + 0.5, "Y": 7.0})
        np.savez_compressed(path, features=features, metadata=np.array(metadata), locations=locations)
    return folder


def test_features_of_deepprofiler_are_read_and_nothing_is_unpickled(
    tmp_path: Path, deepprofiler: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with np.load(deepprofiler / "00123/B02/1.npz", allow_pickle=True) as archive:
        first = archive["features"]
        archive["metadata"]
    assert (tmp_path / "ran").exists()  # the trap works
    (tmp_path / "ran").unlink()
    cells = read_profiles(deepprofiler)
    assert not (tmp_path / "ran").exists()
    assert cells["Metadata_Plate"].tolist() == ["00123"] * 5
    assert cells["Metadata_Well"].tolist() == ["B02"] * 5
    assert cells["Metadata_Site"].tolist() == [1, 1, 1, 2, 2]
    assert cells["Metadata_Object"].tolist() == [1, 2, 3, 1, 2]
    assert cells["Metadata_x"].tolist() == [0.5, 1.5, 2.5, 0.5, 1.5]
    assert feature_columns(cells) == [f"Cells_DeepProfiler_{number:04d}" for number in range(4)]
    np.testing.assert_array_equal(cells.loc[:2, feature_columns(cells)].to_numpy(), first)
    assert cells[feature_columns(cells)].isna().to_numpy().sum() == 1
    assert "1 of 3 sites have no cells" in caplog.text


@pytest.mark.parametrize("name", ["run/00123/B02/1", "00123/B02_1", "run/00123/B02_1", "00123_B02_1"])
def test_other_layouts_of_deepprofiler_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "features" / f"{name}.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, features=np.ones((2, 3)))
    cells = read_profiles(tmp_path / "features")
    assert cells.iloc[0].tolist() == ["00123", "B02", 1, 1, 1.0, 1.0, 1.0]


def test_wrong_features_of_deepprofiler_are_refused(tmp_path: Path, deepprofiler: Path) -> None:
    path = deepprofiler / "00124/B03/1.npz"
    np.savez(path, features=np.ones((2, 5)))
    with pytest.raises(
        DataError, match=r"00124/B03/1.npz: 5 features, but .*00123/B02/1.npz has 4\. Expected those of"
    ):
        read_profiles(deepprofiler)
    np.savez(path, features=np.array([Exploit(tmp_path / "ran")]))
    with pytest.raises(DataError, match=r"1.npz: its features cannot be read \(Object arrays cannot be loaded"):
        read_profiles(deepprofiler)
    assert not (tmp_path / "ran").exists()
    np.savez(path, features=np.ones(4))
    with pytest.raises(DataError, match=r"of shape \(4,\) and type float64\. Expected numbers, \[cell, feature\]"):
        read_profiles(deepprofiler)
    np.savez(path, features=np.ones((2, 4)), locations=np.ones((3, 2)))
    with pytest.raises(DataError, match=r"2 cells, but locations of shape \(3, 2\)\. Expected x and y of every cell"):
        read_profiles(deepprofiler)
    np.savez(path, f=np.ones((2, 4)))
    with pytest.raises(DataError, match=r"no array 'features'\. Found: f\."):
        read_profiles(deepprofiler)
    with path.open("wb") as file:
        np.save(file, np.ones((2, 4)))
    with pytest.raises(DataError, match=r"a single array\. Expected an .npz file"):
        read_profiles(deepprofiler)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=r"1.npz: its features cannot be read"):
        read_profiles(deepprofiler)
    path.unlink()
    np.savez(deepprofiler / "00123/B02_2.npz", features=np.ones((2, 4)))
    with pytest.raises(
        DataError, match=r"00123 B02 2 stands in .*B02/2.npz too\. Expected one file a site|B02_2.npz too"
    ):
        read_profiles(deepprofiler)


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .npz file in this folder\. Expected DeepProfiler's PLATE/WELL/SITE.npz"):
        read_profiles(tmp_path)
    np.savez(tmp_path / "1.npz", features=np.ones((0, 4)))
    with pytest.raises(DataError, match=r"plate, well and site of 1.npz cannot be told\. Expected PLATE/WELL/SITE.npz"):
        read_profiles(tmp_path)
    (tmp_path / "1.npz").rename(tmp_path / "P_B02_1.npz")
    with pytest.raises(DataError, match=r"none of its 1 sites has a cell"):
        read_profiles(tmp_path)


def test_a_plate_map_is_read(tmp_path: Path) -> None:
    sites = "00123,B02,1,NA,0.30,x\n00123,B02,2,NA,.3,x\n00123,B03,1,DMSO,0,"
    header = "Plate,well,Site,COMPOUND,Metadata_Concentration,moa"
    wells = read_wells(write(tmp_path / "map.csv", f"{header}\n{sites}"))
    assert wells.to_dict("list") == {
        "Metadata_Plate": ["00123", "00123"],
        "Metadata_Well": ["B02", "B03"],
        "Metadata_Compound": ["NA", "DMSO"],
        "Metadata_Concentration": [0.3, 0.0],
    }
    full = "barcode,well,name,dose_uM,week,kind\n7,B02,taxol,1,1,trt\n7,B03,DMSO,,1,negcon\n"
    told = {
        "plate": "barcode", "compound": "name", "concentration": "dose_uM", "batch": "week", "control_type": "kind"
    }  # fmt: skip
    pd.read_csv(write(tmp_path / "full.csv", full)).to_parquet(tmp_path / "full.parquet")
    for name in ("full.csv", "full.parquet"):
        assert read_wells(tmp_path / name, columns=told).to_numpy().tolist() == [
            ["7", "B02", "1", "taxol", 1.0, "trt"],
            ["7", "B03", "1", "DMSO", 0.0, "negcon"],
        ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("plate,well,compound,concentration\n", r"the plate map has no rows\. Expected one a well"),
        (
            "plate,well,compound\nP,B02,a\n",
            r"no column of the concentration\. Expected Metadata_Concentration; if it has",
        ),
        (
            "plate,well,compound,concentration\nP,B02,a,1 uM\n",
            r"Metadata_Concentration .* found '1 uM', expected a number",
        ),
        ("plate,well,compound,concentration\nP,B02,a,\n", r"Metadata_Concentration is empty in 1 of 1 rows"),
        ("plate,well,compound,concentration\nP,B02,,1\n", r"Metadata_Compound is empty in 1 of 1 rows, first in row 1"),
        (
            "plate,well,compound,concentration\nP,B02,a,1\nP,B02,b,1\n",
            r"1 well has more than one treatment, first: P B02 \(a 1 µM and b 1 µM\)\. Expected one compound",
        ),
        ("plate,well,compound,concentration,batch\nP,B02,a,1,1\nP,B02,a,1,2\n", r"P B02 has more than one Batch: 1, 2"),
        ("plate,well,compound,concentration,control_type\nP,B02,a,1,x\n", r"found 'x', expected one of negcon, poscon"),
        ("plate,well,compound,well,concentration\nP,B02,a,B03,1\n", r"1 column name stands more than once: well"),
    ],
)
def test_wrong_plate_maps_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_wells(write(tmp_path / "map.csv", text))


def test_image_tables_are_told_from_plate_maps(tiny_screen: Path) -> None:
    assert is_image_table(tiny_screen / "image.csv")
    table = pd.read_csv(tiny_screen / "image.csv")
    table.to_csv(tiny_screen / "image.csv.gz", index=False)
    table.to_parquet(tiny_screen / "image.parquet")
    assert is_image_table(tiny_screen / "image.csv.gz")
    assert is_image_table(tiny_screen / "image.parquet")
    (tiny_screen / "bad.parquet").write_bytes(b"x")
    (tiny_screen / "bad.csv.gz").write_bytes(b"x")
    for name in ("locations.csv", "absent.csv", "bad.parquet", "bad.csv.gz"):
        assert not is_image_table(tiny_screen / name)


def test_foreign_profiles_join_their_screen(tiny_screen: Path) -> None:
    path = tiny_screen / "wells.csv.gz"
    table = pd.DataFrame({"Image_Metadata_Plate": ["Week1_101"], "Image_Metadata_Well": ["B03"], "Cells_A": [1.5]})
    table.assign(Metadata_Site=1, Metadata_Compound="?").to_csv(path, index=False)
    screen = read_image_table(tiny_screen / "image.csv")
    wells = join_wells(read_profiles(path), screen, str(path))
    assert wells.columns.tolist() == [*WELL_METADATA, "Cells_A"]
    assert wells[TREATMENT].iloc[0].tolist() == ["NA", 0.3]
    table.assign(Image_Metadata_Well="Z99").to_csv(path, index=False)
    with pytest.raises(DataError, match="1 of 1 wells are not in the screen table, first: Week1_101 Z99"):
        join_wells(read_profiles(path), screen, str(path))


def test_cells_join_their_wells(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    text = "Metadata_Plate,Metadata_Well,Metadata_Site,A\nWeek2_202,B02,2,5\nWeek1_101,B03,1,1\nWeek2_202,B02,1,3\n"
    path = write(tiny_screen / "cells.csv", text)
    cells = join_wells(read_profiles(path), screen, str(path))
    assert cells.columns.tolist() == [*WELL_METADATA, "Metadata_Site", "A"]
    assert cells[["Metadata_Compound", "Metadata_Site", "A"]].to_numpy().tolist() == [
        ["NA", 1, 1], ["DMSO", 2, 5], ["DMSO", 1, 3]
    ]  # fmt: skip
    path.write_text(text.replace("Week1_101,B03", "Week2_202,Z9"))
    with pytest.raises(DataError, match=r"1 of 2 wells are not in the screen table, first: Week2_202 Z9\. Expected"):
        join_wells(read_profiles(path), screen, str(path))
    with pytest.raises(DataError, match=r"its plate map: the well profiles table lacks the columns? Metadata_Batch"):
        join_wells(read_profiles(path), screen.drop(columns="Metadata_Batch"), str(path))
