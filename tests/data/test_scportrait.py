"""scPortrait's files, as a toy writes them: the layout of version 1, and the one before."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from cytoclr.data.readers.scportrait import read_h5sc_cells, read_h5sc_channels, read_h5sc_crops
from cytoclr.errors import DataError, SettingsError

CHANNELS = ("DNA", "ER", "Actin")


def draw_images(num_cells: int, *, num_masks: int = 2, size: int = 8, seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).random((num_cells, num_masks + 3, size, size))
    images[0, :, 0, 0], images[0, :, 0, 1] = 0.0, 1.0
    return images.astype(np.float16)


def write_h5sc(
    path: Path,
    images: np.ndarray,
    *,
    cell_ids: Sequence[int],
    channels: Sequence[str] = CHANNELS,
    told: str = "attrs",
    ids: str = "obs/scportrait_cell_id",
) -> None:
    """Write a file of version 1; what it tells of its channels lies beside the images or in ``uns``."""
    num_masks = images.shape[1] - len(channels)
    names = [b"seg_all_nucleus", b"seg_all_cytosol"][:num_masks] + [name.encode() for name in channels]
    kinds = [b"mask"] * num_masks + [b"image_channel"] * len(channels)
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        file[ids] = np.array(cell_ids, dtype=np.uint64)
        container = file.create_dataset("obsm/single_cell_images", data=images, chunks=(1, 1, *images.shape[2:]))
        if told == "attrs":
            container.attrs.update(
                {"n_masks": num_masks, "channel_names": np.array(names), "channel_mapping": np.array(kinds)}
            )
        else:
            file["uns/single_cell_images/n_masks"] = num_masks
            texts = [name.decode() for name in names]
            file.create_dataset("uns/single_cell_images/channel_names", data=texts, dtype=h5py.string_dtype())


def write_old(path: Path, images: np.ndarray, *, cell_ids: Sequence[int], num_masks: int | None = 2) -> None:
    with h5py.File(path, "w") as file:
        file["single_cell_data"] = images
        file["single_cell_index"] = np.array(list(enumerate(cell_ids)), dtype=np.uint64)
        file.create_dataset("channel_information", data=list(CHANNELS), dtype=h5py.string_dtype())
        if num_masks is not None:
            file["n_masks"] = num_masks


def read(folder: Path, **changes: object) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    words: dict = {
        "template": "{plate}_{well}.h5sc",
        "channels": None,
        "plates": None,
        "metadata": None,
        "columns": {},
        "controls": ["DMSO"],
        "positive_controls": [],
        "batch_pattern": "^(.*)$",
    }
    return read_h5sc_cells(folder, **{**words, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two wells of a plate, a map, and the images that were written."""
    (tmp_path / "cells").mkdir()
    write_h5sc(tmp_path / "cells/P1_B2.h5sc", draw_images(4, seed=1), cell_ids=[7, 3, 12, 5])
    write_h5sc(tmp_path / "cells/P1_B3.h5sc", draw_images(2, seed=2), cell_ids=[1, 2])
    (tmp_path / "map.csv").write_text(
        "Metadata_Well,Metadata_Compound,Metadata_Concentration\nB02,DMSO,0\nB03,taxol,0.3\n"
    )
    return tmp_path


def test_one_row_a_cell(folder: Path) -> None:
    cells, left_out, channels = read(folder / "cells", metadata=folder / "map.csv")
    assert left_out.empty
    assert channels == list(CHANNELS)
    assert cells["Metadata_CellID"].tolist() == [
        *(f"P1_B02_1_{number}" for number in (7, 3, 12, 5)),
        "P1_B03_1_1",
        "P1_B03_1_2",
    ]
    assert cells["Row_Crop"].tolist() == [0, 1, 2, 3, 0, 1]
    assert cells["Metadata_Compound"].tolist() == ["DMSO"] * 4 + ["taxol"] * 2
    assert cells[["x", "y"]].isna().all(axis=None)
    assert cells[["Plane_DNA", "Plane_ER", "Plane_Actin"]].iloc[0].tolist() == [2, 3, 4]
    assert Path(cells["Path_Crop"].iloc[5]) == folder / "cells/P1_B3.h5sc"


def test_crops_are_the_images_as_16_bit(folder: Path) -> None:
    path = folder / "cells/P1_B2.h5sc"
    images = draw_images(4, seed=1)
    rows = np.array([3, 0, 0, 2])
    crops = read_h5sc_crops(path, rows, ("Actin", "DNA"))
    for row, crop in zip(rows, crops, strict=True):
        for plane, pixels in zip((4, 2), crop, strict=True):
            expected = [[round(float(value) * 65535) for value in line] for line in images[row, plane]]
            np.testing.assert_array_equal(pixels, expected)
    assert crops[1, 0, 0, :2].tolist() == [0, 65535]
    np.testing.assert_array_equal(read_h5sc_crops(path, rows, (4, 2)), crops)
    np.testing.assert_array_equal(read_h5sc_crops(path, np.array([1, 2, 3]), (4,))[2, 0], crops[0, 0])
    assert read_h5sc_channels(path) == list(CHANNELS)


@pytest.mark.parametrize("ids", ["obs/scportrait_cell_id", "obs/cell_id"])
@pytest.mark.parametrize("num_masks", [0, 1, 2])
def test_what_is_told_in_uns(tmp_path: Path, num_masks: int, ids: str) -> None:
    images = draw_images(3, num_masks=num_masks)
    write_h5sc(tmp_path / "P1_B02.h5sc", images, cell_ids=[4, 5, 6], told="uns", ids=ids)
    cells, _, channels = read(tmp_path)
    assert channels == list(CHANNELS)
    assert cells["Metadata_Object"].tolist() == [4, 5, 6]
    assert cells["Plane_DNA"].unique().tolist() == [num_masks]


@pytest.mark.parametrize("num_masks", [2, None])
def test_the_layout_before(tmp_path: Path, num_masks: int | None) -> None:
    images = draw_images(3)
    write_old(tmp_path / "P1_B02.h5sc", images, cell_ids=[9, 4, 5], num_masks=num_masks)
    cells, _, channels = read(tmp_path)
    assert channels == list(CHANNELS)
    assert cells["Metadata_Object"].tolist() == [9, 4, 5]
    crops = read_h5sc_crops(tmp_path / "P1_B02.h5sc", np.array([1]), ["ER"])
    np.testing.assert_array_equal(crops[0, 0], np.rint(images[1, 3].astype(np.float64) * 65535))


def test_templates_and_channels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells, _, channels = read(folder, template="{plate}_{well}.h5sc", channels={"nuclei": "dna"})
    assert channels == ["nuclei"]
    assert cells["Plane_nuclei"].unique().tolist() == [2]
    assert "Plane_ER" not in cells
    (folder / "cells/other.h5sc").write_bytes(b"")
    cells, _, _ = read(folder / "cells")
    assert "1 of 3 files do not fit the template" in caplog.text
    with pytest.raises(DataError, match=r"no channel RNA, asked for as RNA\. It has DNA, ER, Actin"):
        read(folder / "cells", channels={"RNA": "RNA"})
    with pytest.raises(DataError, match=r"no plate P9\. Known plates: P1"):
        read(folder / "cells", plates=["P9"])
    with pytest.raises(DataError, match="none of 3 files fits the template") as refusal:
        read(folder / "cells", template="{plate}-{well}-{site}.h5sc")
    assert refusal.value.code == "NAME001"
    with pytest.raises(SettingsError, match="does not tell the well"):
        read(folder / "cells", template="{plate}.h5sc")


def test_sites_of_a_well_and_the_folders_plate(tmp_path: Path) -> None:
    (tmp_path / "P7").mkdir()
    for site in (1, 2):
        write_h5sc(tmp_path / f"P7/B02_{site}.h5sc", draw_images(2, seed=site), cell_ids=[1, 2])
    cells, _, _ = read(tmp_path / "P7", template="{well}_{site}.h5sc")
    assert cells["Metadata_CellID"].tolist() == ["P7_B02_1_1", "P7_B02_1_2", "P7_B02_2_1", "P7_B02_2_2"]
    write_h5sc(tmp_path / "P7/b2_1.h5sc", draw_images(2), cell_ids=[1, 2])
    with pytest.raises(DataError, match="both stand for P7 B02 s1") as refusal:
        read(tmp_path / "P7", template="{well}_{site}.h5sc")
    assert refusal.value.code == "NAME003"


def test_refusals(tmp_path: Path) -> None:
    images = draw_images(2)
    with pytest.raises(DataError, match=r"no \.h5sc file in this folder or below"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file") as refusal:
        read_h5sc_channels(tmp_path / "nowhere.h5sc")
    assert refusal.value.code == "IMG001"
    path = tmp_path / "P1_B02.h5sc"
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="not a readable HDF5 file") as refusal:
        read(tmp_path)
    assert refusal.value.code == "CROP001"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros(3)
    with pytest.raises(DataError, match=r"no single-cell images\. Expected obsm/single_cell_images .* Found: X"):
        read(tmp_path)
    cases = (
        (images, [1], CHANNELS, "1 numbers of cells for 2 crops"),
        (images, [1, 1], CHANNELS, "a cell's number stands twice"),
        (images, [1, 2], ("DNA", "DNA", "ER"), "channels of the same name"),
        (images.astype(np.int8), [1, 2], CHANNELS, "its images are int8"),
    )
    for array, cell_ids, channels, match in cases:
        write_h5sc(path, array, cell_ids=cell_ids, channels=channels)
        with pytest.raises(DataError, match=match):
            read(tmp_path)
    write_h5sc(path, images, cell_ids=[1, 2])
    with h5py.File(path, "r+") as file:
        file["obsm/single_cell_images"].attrs["channel_names"] = np.array([b"DNA"])
    with pytest.raises(DataError, match="1 names of channels for 5 images a cell"):
        read(tmp_path)


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_pixels_beyond_0_to_1_are_refused(tmp_path: Path, value: float) -> None:
    images = draw_images(2)
    images[1, 3, 2, 2] = value
    write_h5sc(tmp_path / "a.h5sc", images, cell_ids=[1, 2])
    read_h5sc_crops(tmp_path / "a.h5sc", np.array([0, 1]), ["DNA"])
    with pytest.raises(DataError, match="Expected numbers from 0 to 1") as refusal:
        read_h5sc_crops(tmp_path / "a.h5sc", np.array([0, 1]), ["ER"])
    assert refusal.value.code == "CROP001"
    with pytest.raises(DataError, match="no channel RNA"):
        read_h5sc_crops(tmp_path / "a.h5sc", np.array([0]), ["RNA"])
    with pytest.raises(DataError, match="row 2 of 2"):
        read_h5sc_crops(tmp_path / "a.h5sc", np.array([2]), ["DNA"])


def test_files_must_be_alike(folder: Path) -> None:
    other = folder / "cells/P1_B3.h5sc"
    write_h5sc(other, draw_images(2), cell_ids=[1, 2], channels=("DNA", "ER", "RNA"))
    with pytest.raises(DataError, match=r"its channels are DNA, ER, RNA; those of .* are DNA, ER, Actin") as refusal:
        read(folder / "cells")
    assert refusal.value.code == "NAME005"
    write_h5sc(other, draw_images(2, size=10), cell_ids=[1, 2])
    with pytest.raises(DataError, match=r"its crops are \(10, 10\), those of .* \(8, 8\)") as refusal:
        read(folder / "cells")
    assert refusal.value.code == "CROP002"
