"""Label masks: found by their names, read as any segmenter writes them, and turned into centres."""

import logging
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops

from cytoclr.data.masks import check_labels, find_label_centres, find_masks, read_mask
from cytoclr.errors import DataError, SettingsError
from cytoclr.tables import SITE

LABELS = np.zeros((12, 17), dtype=np.int32)
LABELS[2:5, 3:9] = 2
LABELS[3, 4:6] = 0
LABELS[8:, 12:] = 200
SITES = pd.DataFrame(
    [("P1", "B02", 1), ("P1", "B02", 2), ("P1", "b3", 1), ("P2", "B02", 1)],
    columns=SITE,
    index=[4, 2, 9, 1],
).assign(Path_DNA="/images/a.tif")


def place(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, LABELS.astype(np.uint16))
    return folder


NAMES = ("P1/B02_s1_mask.tif", "P1/B02_s2_mask.tif", "P1/B03_s1_mask.tif", "P2/B2_s01_mask.tif")
TEMPLATE = "{plate}/{well}_s{site}_mask.tif"


def test_masks_are_found_by_plate_well_and_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = place(tmp_path, *NAMES, "P1/B02_s1_image.tif", "P3/B02_s1_mask.tif")
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        masked = find_masks(SITES, folder, template=TEMPLATE)
    assert masked["Mask"].tolist() == [str(tmp_path / name) for name in NAMES]
    pd.testing.assert_frame_equal(masked.drop(columns="Mask"), SITES)
    assert "2 of 6 files are no masks of these sites" in caplog.text


def test_rows_and_columns_name_wells(tmp_path: Path) -> None:
    one = SITES.iloc[:3]
    folder = place(tmp_path, "r02c02f01.tif", "r02c02f02.tif", "r02c03f01.tif")
    masked = find_masks(one, folder, template="r{row}c{column}f{site}.tif")
    assert [Path(path).name for path in masked["Mask"]] == ["r02c02f01.tif", "r02c02f02.tif", "r02c03f01.tif"]


def test_what_there_is_one_of_need_not_be_told(tmp_path: Path) -> None:
    one = SITES.iloc[[1, 2]]
    folder = place(tmp_path, "B02.tif", "B03.tif")
    assert [Path(path).name for path in find_masks(one, folder, template="{well}.tif")["Mask"]] == [
        "B02.tif",
        "B03.tif",
    ]
    with pytest.raises(DataError, match="does not tell the plate, and there are several") as told:
        find_masks(SITES, folder, template="{well}.tif")
    assert told.value.code == "LOC007"
    with pytest.raises(DataError, match="does not tell the site, and there are several"):
        find_masks(SITES, place(tmp_path, "P1_B02.tif"), template="{plate}_{well}.tif")


def test_masks_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = place(tmp_path, NAMES[0], NAMES[3])
    match = r"2 of 4 sites have no mask: P1 B02 s2, P1 b3 s1\. Expected files named as .*, as P1/B02_s1_mask.tif is"
    with pytest.raises(DataError, match=match) as told:
        find_masks(SITES, folder, template=TEMPLATE)
    assert told.value.code == "LOC007"
    kept = find_masks(SITES, folder, template=TEMPLATE, skip_missing=True)
    assert list(kept.index) == [4, 1]
    assert [Path(path).relative_to(folder).as_posix() for path in kept["Mask"]] == [NAMES[0], NAMES[3]]
    alone = SITES.iloc[1:3]
    with pytest.raises(DataError, match="2 of 2 sites have no mask"):
        find_masks(alone, folder, template=TEMPLATE, skip_missing=True)


def test_names_that_do_not_fit_or_repeat_are_refused(tmp_path: Path) -> None:
    folder = place(tmp_path, *NAMES)
    with pytest.raises(DataError, match=r"none of 4 files is named as .*, first: P1/B02_s1_mask.tif") as told:
        find_masks(SITES, folder, template="{plate}/{well}_{site}.png")
    assert told.value.code == "NAME001"
    with pytest.raises(SettingsError, match="does not tell the well"):
        find_masks(SITES, folder, template="{plate}.tif")
    place(tmp_path, "again/P1/B02_s1_mask.tif")
    with pytest.raises(DataError, match="are both masks of P1 B02 1") as told:
        find_masks(SITES, folder, template=TEMPLATE)
    assert told.value.code == "NAME003"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiffs_of_labels(tmp_path: Path, dtype: str, compression: str | None) -> None:
    labels = np.minimum(LABELS, 100).astype(dtype)
    tifffile.imwrite(tmp_path / "mask.tif", labels, compression=compression)
    read = read_mask(tmp_path / "mask.tif")
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)


def test_pngs_arrays_and_axes_of_one(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(imagecodecs.png_encode((LABELS * 300).astype(np.uint16)))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LABELS * 300)
    np.save(tmp_path / "mask.npy", LABELS.astype(np.int64))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy"), LABELS)
    tifffile.imwrite(tmp_path / "mask.ome.tif", LABELS[None, None].astype(np.uint16), metadata={"axes": "CZYX"})
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.ome.tif"), LABELS)


def save_tiff(array: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def save_npy(array: object) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def save_cut(path: Path) -> None:
    tifffile.imwrite(path, np.random.default_rng(1).integers(0, 99, (80, 80)).astype(np.uint16), compression="zlib")
    path.write_bytes(path.read_bytes()[:-900])


def save_huge_header(path: Path) -> None:
    with path.open("wb") as file:
        about = {"descr": "<i4", "fortran_order": False, "shape": (2**20, 2**20)}
        np.lib.format.write_array_header_1_0(file, about)


@pytest.mark.parametrize(
    ("name", "save", "match"),
    [
        ("a.tif", lambda path: None, "no such mask"),
        ("a.tif", lambda path: path.write_bytes(b"II*\0"), "not a readable mask"),
        ("a.tif", save_cut, "cut short"),
        ("a.tif", save_tiff(LABELS.astype(np.float32)), r"float32 \(12, 17\). Expected whole numbers"),
        ("a.tif", save_tiff(np.stack([LABELS] * 3).astype(np.uint8), photometric="minisblack"), r"uint8 \(3, 12, 17\)"),
        ("a.tif", save_tiff(LABELS - 1), "its numbers are from -1 to 199"),
        ("a.tif", save_tiff(np.full((2, 2), 2**31, dtype=np.uint32)), "from 2,147,483,648 to 2,147,483,648"),
        ("a.png", lambda path: path.write_bytes(b"\x89PNG"), "not a readable mask"),
        (
            "a.png",
            lambda path: path.write_bytes(imagecodecs.png_encode(np.zeros((4, 4, 3), dtype=np.uint8))),
            r"uint8 \(4, 4, 3\)",
        ),
        ("a.npy", save_npy({"masks": LABELS}), "not a readable mask"),  # Cellpose's _seg.npy is pickled
        ("a.npy", save_npy(LABELS > 0), "bool"),
        ("a.npy", save_npy(np.zeros((0, 3), dtype=int)), r"int64 \(0, 3\)"),
        ("a.npy", save_huge_header, "not a readable mask"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, name: str, save: Callable[[Path], None], match: str) -> None:
    save(tmp_path / name)
    with pytest.raises(DataError, match=match) as told:
        read_mask(tmp_path / name)
    assert told.value.code == "LOC007"


def assert_centres_are_regionprops(labels: np.ndarray) -> None:
    x, y, objects = find_label_centres(labels)
    props = regionprops(labels)
    np.testing.assert_array_equal(objects, [prop.label for prop in props])
    np.testing.assert_allclose(np.stack([y, x], axis=1), np.array([prop.centroid for prop in props]).reshape(-1, 2))


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 90)))
def test_centres_are_those_of_regionprops(labels: np.ndarray) -> None:
    assert_centres_are_regionprops(labels)


def test_centres_of_a_mask_of_an_empty_one_and_of_huge_labels() -> None:
    assert_centres_are_regionprops(LABELS)
    assert [len(values) for values in find_label_centres(np.zeros((3, 4), dtype=np.uint16))] == [0, 0, 0]
    x, y, objects = find_label_centres(np.where(LABELS > 0, LABELS + 2**30, 0))
    np.testing.assert_array_equal(objects, [2**30 + 2, 2**30 + 200])
    np.testing.assert_allclose((x, y), find_label_centres(LABELS)[:2])


def test_a_mask_of_black_and_white_is_refused() -> None:
    labels = np.zeros((20, 20), dtype=np.int32)
    labels[2:6, 2:6] = 255
    check_labels(labels, "mask.tif")  # one cell is one piece
    labels[10:14, 10:14] = 255
    with pytest.raises(DataError, match=r"mask\.tif: all its 2 pieces have the number 255") as caught:
        check_labels(labels, "mask.tif")
    assert caught.value.code == "LOC007"
    labels[10:14, 10:14] = 7
    check_labels(labels, "mask.tif")
