"""BBBC021's image table, the seed's single-cell table, AnnData and DeepProfiler's features."""

import json
import os
import sys
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from pycytominer.cyto_utils.load import load_profiles
from scipy import sparse

from cytoclr.data.profiles import read_profiles
from cytoclr.data.readers.bbbc021 import find_images, read_image_table
from cytoclr.data.readers.h5ad import write_h5ad
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.data.screen import read_mechanisms
from cytoclr.errors import DataError, MachineError, SettingsError
from cytoclr.tables import TREATMENT, WELL, feature_columns


@pytest.mark.real_data
def test_the_official_tables_have_the_published_facts(real_data: Path) -> None:
    folder = real_data / "bbbc021" / "metadata"
    screen = read_image_table(folder / "BBBC021_v1_image.csv.gz", positive_controls=("taxol",))
    mechanisms = read_mechanisms(folder / "BBBC021_v1_moa.csv")
    assert len(screen) == 13_200
    assert len(screen.drop_duplicates(WELL)) == 3_300
    assert screen["Metadata_Plate"].nunique() == 55
    assert screen["Metadata_Batch"].nunique() == 10
    treated = mechanisms[mechanisms["Metadata_Compound"] != "DMSO"]
    assert len(treated) == 103
    assert treated["Metadata_Compound"].nunique() == 38
    assert treated["Metadata_MoA"].nunique() == 12
    wells = screen.drop_duplicates(WELL).merge(treated, on=TREATMENT)
    assert wells.groupby(TREATMENT).size().value_counts().to_dict() == {3: 95, 2: 7, 333: 1}
    weeks = wells.groupby("Metadata_MoA")["Metadata_Batch"].unique()
    assert {name: list(found) for name, found in weeks.items() if len(found) == 1} == {
        "Cholesterol-lowering": ["Week9"],
        "Kinase inhibitors": ["Week7"],
    }


def test_names_stay_texts_and_controls_are_marked(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv", positive_controls=("NA",))
    assert screen["Metadata_Compound"].unique().tolist() == ["DMSO", "NA"]
    assert screen.drop_duplicates("Metadata_Well")["Metadata_control_type"].tolist() == ["negcon", "poscon"]
    assert screen["Metadata_Batch"].unique().tolist() == ["Week1", "Week2"]
    assert screen["Path_DAPI"].iloc[0] == "Week1/Week1_101/Week1_101_B02_s1_w1.tif"


def edit(path: Path, **changes: tuple[int, str]) -> Path:
    """Change single cells of a table: column=(row, value)."""
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    for column, (row, value) in changes.items():
        table.loc[row, column] = value
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"Image_Metadata_Compound": (1, "taxol")},
            r"1 well has more than one treatment, first: Week1_101 B02 \(DMSO and taxol\)",
        ),
        ({"Image_FileName_DAPI": (3, "a.tif")}, r"row 4: no site number in the file name 'a.tif'"),
        (
            {"Image_FileName_Tubulin": (0, "Week1_101_B02_s1_w1.tif")},
            r"Week1/Week1_101/Week1_101_B02_s1_w1.tif stands in row 1 DAPI, row 1 Tubulin\. Expected one of its own",
        ),
        ({"Image_FileName_DAPI": (1, "x_s1_w1.tif")}, r"rows 1 and 2 have the same Plate, Well, Site"),
        ({"Image_Metadata_Plate_DAPI": (0, "plate")}, r"the batch of plate 'plate' is not found by batch_pattern"),
        (
            {"Image_Metadata_Concentration": (0, "10 uM")},
            r"Image_Metadata_Concentration is no number of µM .* '10 uM'\. Write 10\.",
        ),
    ],
)
def test_a_wrong_image_table_is_refused(tiny_screen: Path, changes: dict, match: str) -> None:
    path = edit(tiny_screen / "image.csv", **changes)
    with pytest.raises(DataError, match=match):
        read_image_table(path)


def test_spaces_around_a_name_are_no_part_of_it(tiny_screen: Path) -> None:
    path = edit(tiny_screen / "image.csv", Image_Metadata_Compound=(0, " DMSO "))
    assert read_image_table(path)["Metadata_control_type"].iloc[0] == "negcon"


def test_missing_files_stop_or_are_listed(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    (tiny_screen / "images/Week1/Week1_101/Week1_101_B02_s2_w2.tif").unlink()
    with pytest.raises(DataError, match=r"1 of 8 sites lack an image file, first: Week1_101 B02 s2 \(Tubulin\)"):
        find_images(screen, tiny_screen / "images", skip_missing=False)
    found, left_out = find_images(screen, tiny_screen / "images", skip_missing=True)
    assert len(found) == 7
    assert left_out.iloc[0].tolist() == ["Week1_101", "B02", 2, "no image file: Tubulin"]


def test_images_may_lie_in_the_plates_folder_alone(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv", plates=["Week2_202"])
    found, _ = find_images(screen, tiny_screen / "images" / "Week2", skip_missing=False)
    assert len(found) == 4


def test_images_may_lie_in_the_images_folder_itself(tiny_screen: Path) -> None:
    table = pd.read_csv(tiny_screen / "image.csv", dtype="str", keep_default_na=False)
    table.assign(Image_PathName_DAPI="", Image_PathName_Tubulin=".").to_csv(tiny_screen / "flat.csv", index=False)
    for path in (tiny_screen / "images").rglob("*.tif"):
        path.rename(tiny_screen / "images" / path.name)
    found, _ = find_images(read_image_table(tiny_screen / "flat.csv"), tiny_screen / "images", skip_missing=False)
    assert len(found) == 8


def test_a_folder_is_no_image(tiny_screen: Path) -> None:
    table = edit(tiny_screen / "image.csv", Image_FileName_Tubulin=(0, ""))
    edit(table, Image_FileName_Tubulin=(1, ""), Image_PathName_Tubulin=(1, ""))
    _, left_out = find_images(read_image_table(table), tiny_screen / "images", skip_missing=True)
    assert left_out["reason"].tolist() == ["no image file: Tubulin"] * 2


@pytest.mark.parametrize("folder", ["../..", "/etc", "C:/images", "a/../../b"])
def test_paths_cannot_leave_the_images_folder(tiny_screen: Path, folder: str) -> None:
    screen = read_image_table(edit(tiny_screen / "image.csv", Image_PathName_DAPI=(0, folder)))
    with pytest.raises(DataError, match="leaves the images' folder"):
        find_images(screen, tiny_screen / "images", skip_missing=True)


def test_no_image_at_all_is_an_error_even_when_skipping(tiny_screen: Path) -> None:
    screen = read_image_table(tiny_screen / "image.csv")
    (tiny_screen / "empty").mkdir()
    with pytest.raises(DataError, match="None of the 8 sites has all its image files"):
        find_images(screen, tiny_screen / "empty", skip_missing=True)


def test_an_unknown_plate_is_named(tiny_screen: Path) -> None:
    with pytest.raises(DataError, match=r"no plate Week3\. Known plates: Week1_101, Week2_202"):
        read_image_table(tiny_screen / "image.csv", plates=["Week3"])


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    (tmp_path / "sc-metadata.csv").write_text(
        "Image_Name,Class_Name,Target\nWeek1_1-B02-s1-3.png,DMSO_0.0,0\nWeek1_1-B03-s2-11.png,NA_0.3,1\n"
    )
    return tmp_path


def test_the_single_cell_table_is_taken_apart(strips: Path) -> None:
    cells = read_single_cells(strips / "sc-metadata.csv", controls=("DMSO",))
    assert cells["Metadata_CellID"].tolist() == ["Week1_1_B02_1_3", "Week1_1_B03_2_11"]
    assert cells["Metadata_control_type"].tolist() == ["negcon", "trt"]
    assert cells["Metadata_Concentration"].tolist() == [0.0, 0.3]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("Week1_1-B02-s1-3", "Week1", r"Image_Name cannot be read in 1 of 2 rows, first in row 1: found 'Week1.png'"),
        ("NA_0.3", "NA", r"Class_Name cannot be read .* expected compound_concentration"),
        ("0.3,1", "0.3,0", r"Target '0' stands with Class_Name DMSO_0.0, NA_0.3"),
        ("B03-s2-11", "B02-s1-3", r"same CellID"),
        ("B03-s2-11", "B02-s2-11", r"1 well has more than one treatment"),
        ("Class_Name", "Klass", r"lacks Class_Name"),
    ],
)
def test_a_wrong_single_cell_table_is_refused(strips: Path, old: str, new: str, match: str) -> None:
    path = strips / "sc-metadata.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=match):
        read_single_cells(path, controls=("DMSO",))


def test_missing_strips_stop_or_are_listed(strips: Path) -> None:
    cells = read_single_cells(strips / "sc-metadata.csv", controls=("DMSO",))
    (strips / "Week1_1-B02-s1-3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 crops have no image file, first: Week1_1-B03-s2-11.png"):
        find_strips(cells, strips, skip_missing=False)
    found, left_out = find_strips(cells, strips, skip_missing=True)
    assert len(found) == len(left_out) == 1


def test_our_anndata_is_read_by_all(tmp_path: Path, wells: pd.DataFrame) -> None:
    path = tmp_path / "wells.h5ad"
    dated = wells.assign(Metadata_Day=pd.Timestamp("2020-05-01"), Metadata_Note=[None, *["x"] * 23])
    dated.loc[3, "Cells_SSL_0000"] = np.nan
    write_h5ad(path, dated, about={"model": "trained µ", "wells": 24})
    assert os.listdir(tmp_path) == ["wells.h5ad"]
    data = anndata.read_h5ad(path)
    assert data.shape == (24, len(feature_columns(wells)))
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
    pd.testing.assert_frame_equal(theirs[feature_columns(wells)], dated[feature_columns(wells)])
    assert theirs["Metadata_Plate"].tolist() == wells["Metadata_Plate"].tolist()


def test_single_precision_stays_single(tmp_path: Path, wells: pd.DataFrame) -> None:
    small = wells.astype(dict.fromkeys(feature_columns(wells), "float32"))
    write_h5ad(tmp_path / "a.h5ad", small, about={})
    assert anndata.read_h5ad(tmp_path / "a.h5ad").X.dtype == np.float32
    pd.testing.assert_frame_equal(read_profiles(tmp_path / "a.h5ad"), small)
    write_h5ad(tmp_path / "a.h5ad", small.assign(Cells_SSL_0000=1.0), about={})
    assert anndata.read_h5ad(tmp_path / "a.h5ad").X.dtype == np.float64


def test_anndata_that_cannot_be_written_leaves_nothing(tmp_path: Path, wells: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"a.h5ad: no feature to write"):
        write_h5ad(tmp_path / "a.h5ad", wells.drop(columns=feature_columns(wells)), about={})
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
    assert cells["Metadata_NumCells"].tolist() == [1] * 5
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
    assert cells.iloc[0].tolist() == ["00123", "B02", 1, 1, 1, 1.0, 1.0, 1.0]


def test_wrong_features_of_deepprofiler_are_refused(tmp_path: Path, deepprofiler: Path) -> None:
    path = deepprofiler / "00124/B03/1.npz"
    np.savez(path, features=np.ones((2, 5)))
    with pytest.raises(
        DataError, match=r"00124/B03/1.npz: 5 features, but .*00123/B02/1.npz has 4\. Expected those of"
    ):
        read_profiles(deepprofiler)
    np.savez(path, features=np.array([Exploit(tmp_path / "ran")]))
    with pytest.raises(DataError, match=r"1.npz: its features cannot be read \(it holds pickled objects"):
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
    with pytest.raises(DataError, match=r"cannot be read \(File is not a zip file\)\. Expected an .npz file"):
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
