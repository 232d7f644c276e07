"""Cutting, storing and reading crops; nuclei; images that are not what they should be."""

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.config import Bbbc021Settings, CropSettings, SingleCellSettings
from cytoclr.data.crops import CropStore, Shard, open_shard, plate_stem, scale_crops, write_crop_manifest
from cytoclr.data.cut import cut_crops
from cytoclr.data.images import read_field, read_strip
from cytoclr.data.intensities import measure_intensities
from cytoclr.data.locations import read_locations
from cytoclr.data.nuclei import find_nuclei
from cytoclr.data.ranges import IntensityRule, count_values
from cytoclr.data.stage import plan_crops
from cytoclr.errors import DamagedError, DataError
from cytoclr.progress import Silent
from cytoclr.storage import read_table


def crop_tiny(tiny_screen: Path, out: Path, **changes: object) -> tuple[CropStore, pd.DataFrame, dict]:
    screen = Bbbc021Settings(
        reader="bbbc021", image_table=tiny_screen / "image.csv", images=tiny_screen / "images", positive_controls=()
    )
    settings = CropSettings.model_validate({"size_px": 16, **changes})
    told = plan_crops(screen, settings, locations=tiny_screen / "locations.csv").cut(out, Silent())
    return CropStore(out / "crops"), read_table(out / "cells.parquet"), told


def test_crops_are_the_fields_pixels_and_cells_their_rows(tiny_screen: Path, tmp_path: Path) -> None:
    store, cells, told = crop_tiny(tiny_screen, tmp_path / "run")
    assert store.channels == ("DAPI", "Tubulin")
    assert len(store) == len(cells) == told["num_cells"] == 16
    assert told["left_out"] == {"crop crosses the border": 8}
    assert len(pd.read_csv(tmp_path / "run" / "left_out.csv")) == 8
    for number, cell in cells.iterrows():
        stem = f"{cell['Metadata_Plate']}_{cell['Metadata_Well']}_s{cell['Metadata_Site']}"
        folder = tiny_screen / "images" / cell["Metadata_Batch"] / cell["Metadata_Plate"]
        top, left = int(np.floor(cell["y"] + 0.5)) - 8, int(np.floor(cell["x"] + 0.5)) - 8
        for channel in (0, 1):
            plane = tifffile.imread(folder / f"{stem}_w{channel + 1}.tif")
            expected = plane[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(store.read(np.array([number]))[0, channel], expected)


def test_ranges_are_the_plates_percentiles(tiny_screen: Path, tmp_path: Path) -> None:
    store, _, _ = crop_tiny(tiny_screen, tmp_path / "run", percentiles=(0.0, 100.0))
    rows = np.array([0, 15])
    low, high = store.read_ranges(rows)
    assert low.shape == (2, 2)
    planes = [tifffile.imread(path) for path in (tiny_screen / "images/Week2/Week2_202").glob("*_w1.tif")]
    pixels = np.stack(planes)[:, ::8, ::8]
    assert (low[1, 0], high[1, 0]) == (pixels.min(), pixels.max())
    scaled = scale_crops(store.read(rows), low, high)
    assert 0.0 <= scaled.min() < scaled.max() <= 1.0


def test_a_stopped_cut_goes_on_with_the_plates_that_are_left(tiny_screen: Path, tmp_path: Path) -> None:
    whole, cells, _ = crop_tiny(tiny_screen, tmp_path / "whole")
    broken = tiny_screen / "images/Week2/Week2_202/Week2_202_B03_s2_w2.tif"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"Week2_202_B03_s2_w2\.tif"):
        crop_tiny(tiny_screen, tmp_path / "stopped")
    first = tmp_path / "stopped/crops/Week1_101-000.npy"
    written_ns = first.stat().st_mtime_ns
    broken.write_bytes(content)
    resumed, resumed_cells, _ = crop_tiny(tiny_screen, tmp_path / "stopped")
    assert first.stat().st_mtime_ns == written_ns
    pd.testing.assert_frame_equal(cells, resumed_cells)
    np.testing.assert_array_equal(whole.read(np.arange(16)), resumed.read(np.arange(16)))


@given(x=st.floats(0, 47), y=st.floats(0, 31), shift=st.integers(0, 8))
def test_a_crop_of_a_shifted_image_is_the_same_crop(x: float, y: float, shift: int) -> None:
    field = np.arange(2 * 32 * 48, dtype=np.uint16).reshape(2, 32, 48)
    moved = np.pad(field, ((0, 0), (shift, 0), (shift, 0)))
    crops, inside, _ = cut_crops(field, np.array([x]), np.array([y]), size_px=8)
    shifted, _, _ = cut_crops(moved, np.array([x + shift]), np.array([y + shift]), size_px=8)
    exact = all(np.floor(v + shift + 0.5) == np.floor(v + 0.5) + shift for v in (x, y))  # a sum of floats may round up
    if inside[0] and exact:
        np.testing.assert_array_equal(crops, shifted)


def test_centres_are_rounded_half_up_and_the_border_is_exact() -> None:
    field = np.arange(20 * 20, dtype=np.uint16).reshape(1, 20, 20)
    crops, inside, _ = cut_crops(field, np.array([4.0, 3.4, 16.0, 16.5]), np.array([4.5, 4.0, 16.0, 16.0]), size_px=8)
    assert inside.tolist() == [True, False, True, False]
    assert crops[0, 0, 0, 0] == field[0, 1, 0]
    assert crops[1, 0, -1, -1] == field[0, 19, 19]


@pytest.mark.real_data
def test_the_published_crop_is_cut_again(real_data: Path, tmp_path: Path) -> None:
    """Rows 565:633 and columns 1139:1207 of site 2 equal the PNG beside the fields, channel by name."""
    centre = "Metadata_Plate,Metadata_Well,Metadata_Site,x,y\nWeek2_24381,B02,2,1173,599\n"
    (tmp_path / "centres.csv").write_text(centre)
    folder = real_data / "bbbc021"
    screen = Bbbc021Settings(
        reader="bbbc021", image_table=folder / "metadata/BBBC021_v1_image.csv.gz", images=folder / "fields"
    )
    settings = CropSettings(size_px=68, skip_missing=True)
    told = plan_crops(screen, settings, locations=tmp_path / "centres.csv").cut(tmp_path / "run", Silent())
    assert told["left_out"] == {
        "no image file: DAPI, Tubulin, Actin": 13_197,
        "no image file: Actin": 1,
        "no location given": 1,
    }
    store = CropStore(tmp_path / "run/crops")
    published = read_strip(
        folder / "fields/crop-Week2_24381-B02-s2-row565-column1139.png", ("DAPI", "Tubulin", "Actin")
    )
    assert store.channels == ("DAPI", "Tubulin", "Actin")
    np.testing.assert_array_equal(store.read(np.array([0]))[0], published)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_ready_crops_of_any_depth_and_number_of_channels(tmp_path: Path, dtype: type, num_channels: int) -> None:
    rng = np.random.default_rng(1)
    crops = rng.integers(0, np.iinfo(dtype).max, (2, num_channels, 12, 12), dtype=dtype)
    names = ["Week1_1-B02-s1-3.png", "Week1_1-B03-s2-11.png"]
    for crop, name in zip(crops, names, strict=True):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(np.concatenate(list(crop), axis=1)))
    table = tmp_path / "sc-metadata.csv"
    table.write_text(f"Image_Name,Class_Name,Target\n{names[0]},DMSO_0.0,0\n{names[1]},taxol_0.3,1\n")
    channels = tuple(f"channel{number}" for number in range(num_channels))
    screen = SingleCellSettings(reader="single-cell", table=table, images=tmp_path, channels=channels)
    plan_crops(screen, CropSettings(), locations=None).cut(tmp_path / "run", Silent())
    store = CropStore(tmp_path / "run/crops")
    assert (store.size_px, store.channels, store.dtype) == (12, channels, np.dtype(dtype))
    np.testing.assert_array_equal(store.read(np.array([1, 0])), crops[::-1])
    with pytest.raises(DataError, match=r"12x12 px|\d+x12 px. Expected"):
        read_strip(tmp_path / names[0], (*channels, "one more"))
    with pytest.raises(DataError, match=r"12 px high\. Expected at least 16"):
        plan_crops(screen, CropSettings(size_px=16), locations=None).cut(tmp_path / "other", Silent())


def test_a_shard_of_another_shape_or_a_missing_one_is_damage(tiny_screen: Path, tmp_path: Path) -> None:
    store, _, _ = crop_tiny(tiny_screen, tmp_path / "run")
    with pytest.raises(IndexError):
        store.read(np.array([16]))
    np.save(store.folder / "Week1_101-000.npy", np.zeros((3, 2, 16, 16), dtype=np.uint16))
    with pytest.raises(DamagedError, match=r"Week1_101-000.npy: holds uint16 \(3, 2, 16, 16\), expected"):
        CropStore(store.folder)
    (store.folder / "Week1_101-000.npy").unlink()
    with pytest.raises(DamagedError, match=r"cannot be opened"):
        CropStore(store.folder)


def make_store(folder: Path, nums_cells: Sequence[int], *, with_ranges: Sequence[int] = ()) -> np.ndarray:
    """Write shards of numbered crops, some with ranges of each crop's own, and return all crops."""
    crops = np.arange(sum(nums_cells) * 2 * 3 * 3, dtype=np.uint16).reshape(-1, 2, 3, 3)
    shards, start = [], 0
    for number, num_cells in enumerate(nums_cells):
        part = crops[start : start + num_cells]
        with open_shard(folder / f"{number}.npy", 2, 3, crops.dtype) as writer:
            writer.append(part)
        ranges = f"{number}.ranges.npy" if number in with_ranges else None
        if ranges:
            np.save(folder / ranges, np.stack([part[:, :, 0, 0], part[:, :, 2, 2]], axis=1).astype(np.float32))
        shards.append(
            Shard(f"{number}.npy", f"P{number}", num_cells, (float(number), 1.0), (number + 9.0, 2.0), ranges)
        )
        start += num_cells
    write_crop_manifest(
        folder, shards, channels=("DNA", "Actin"), size_px=3, pixel_size_um=None, dtype=crops.dtype, intensity={}
    )
    return crops


@pytest.fixture(scope="module", params=["mapped", "read"])
def store_of_four(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CropStore, np.ndarray]]:
    folder = tmp_path_factory.mktemp("four")
    crops = make_store(folder, [5, 1, 20, 8], with_ranges=[1, 2])
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "read":
            patch.setattr("cytoclr.data.crops.MAX_MAPPED_BYTES", 0)
        yield CropStore(folder), crops


@pytest.fixture
def never_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every store as if it were large."""
    monkeypatch.setattr("cytoclr.data.crops.MAX_MAPPED_BYTES", 0)


@given(rows=st.lists(st.integers(0, 33), max_size=60), is_sorted=st.booleans())
def test_crops_are_read_in_the_order_asked_for(
    store_of_four: tuple[CropStore, np.ndarray], rows: list[int], is_sorted: bool
) -> None:
    store, crops = store_of_four
    chosen = np.array(sorted(rows) if is_sorted else rows, dtype=np.int64)
    store.announce(chosen)
    np.testing.assert_array_equal(store.read(chosen), crops[chosen])
    low, high = store.read_ranges(chosen)
    for row, found_low, found_high in zip(chosen, low, high, strict=True):
        shard = int(np.searchsorted([5, 6, 26, 34], row, side="right"))
        if shard in (1, 2):
            expected = crops[row, :, 0, 0], crops[row, :, 2, 2]
        else:
            expected = np.array([shard, 1.0]), np.array([shard + 9.0, 2.0])
        np.testing.assert_array_equal([found_low, found_high], expected)


def test_neighbours_are_read_at_once(store_of_four: tuple[CropStore, np.ndarray]) -> None:
    store, _ = store_of_four
    assert list(store._find_runs(np.arange(34))) == [(0, 0, 0, 5), (1, 0, 5, 1), (2, 0, 6, 20), (3, 0, 26, 8)]
    assert list(store._find_runs(np.array([8, 9, 3, 9]))) == [(0, 3, 2, 1), (2, 2, 0, 2), (2, 3, 3, 1)]


@pytest.mark.parametrize("row", [-1, 34])
def test_a_number_beyond_the_crops_is_refused(store_of_four: tuple[CropStore, np.ndarray], row: int) -> None:
    with pytest.raises(IndexError, match=f"crop {row} of 34"):
        store_of_four[0].read(np.array([3, row]))


@pytest.mark.usefixtures("never_mapped")
def test_a_file_that_became_shorter_is_a_sentence(tmp_path: Path) -> None:
    crops = make_store(tmp_path, [40])
    store = CropStore(tmp_path)
    store.read(np.array([0]))
    with (tmp_path / "0.npy").open("r+b") as file:
        file.truncate(128 + 20 * crops[0].nbytes + 4)
    np.testing.assert_array_equal(store.read(np.array([19])), crops[[19]])
    for rows in ([20], [39], [18, 19, 20]):
        with pytest.raises(DamagedError, match=r"0\.npy: became shorter\. Run the crop stage again"):
            store.read(np.array(rows))


@pytest.mark.usefixtures("never_mapped")
def test_a_disk_that_fails_is_a_sentence(tmp_path: Path) -> None:
    make_store(tmp_path, [4])
    store = CropStore(tmp_path)
    store._crops(0)._file.close()
    store._crops(0)._file = (tmp_path / "0.npy").open("wb", buffering=0)
    with pytest.raises(DamagedError, match=r"0\.npy: cannot be read \(.*Bad file descriptor\)"):
        store.read(np.array([0]))
    store._crops(0)._file.close()


def test_fortran_order_is_refused(tmp_path: Path) -> None:
    crops = make_store(tmp_path, [4])
    np.save(tmp_path / "0.npy", np.asfortranarray(crops))
    with pytest.raises(DamagedError, match="Fortran order, expected C order"):
        CropStore(tmp_path)


@pytest.mark.usefixtures("never_mapped")
def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cytoclr.data.crops.MAX_OPEN", 4)
    crops = make_store(tmp_path, [2] * 12, with_ranges=range(12))
    store = CropStore(tmp_path)
    rows = np.random.default_rng(0).permutation(24)
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir())) if open_files.is_dir() else 0
    for _ in range(3):
        np.testing.assert_array_equal(store.read(rows), crops[rows])
        np.testing.assert_array_equal(store.read_ranges(rows)[1], crops[rows][:, :, 2, 2])
    if open_files.is_dir():
        assert len(list(open_files.iterdir())) - before <= 4 + 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(rows), crops[rows])


@pytest.mark.promise("Bad input", "Hostile names of plates become plain names of files.")
def test_hostile_plate_names_are_plain_file_names() -> None:
    names = ["../../x", "a/b", "a_b", "plate 1", "plate_1", "é", "x" * 300]
    files = [plate_stem(name) for name in names]
    assert len(set(files)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in files)


def test_a_constant_channel_gets_a_range() -> None:
    rule = IntensityRule("plate-percentile", (1.0, 99.0))
    low, high = rule.find_ranges(count_values(np.full((1, 10), 7, dtype=np.uint16)))
    assert (low, high) == ((7.0,), (8.0,))


def test_intensities_are_those_of_numpy(tiny_screen: Path, tmp_path: Path) -> None:
    store, cells, _ = crop_tiny(tiny_screen, tmp_path / "run")
    table = measure_intensities(store, cells, block_cells=5)
    pixels = store.read(np.array([3]))[0, 1]
    assert table.loc[3, "Cells_Intensity_Mean_Tubulin"] == pytest.approx(pixels.mean(), rel=1e-6)
    assert table.loc[3, "Cells_Intensity_P95_Tubulin"] == pytest.approx(np.percentile(pixels, 95), rel=1e-6)
    assert table.shape[1] == cells.filter(like="Metadata_").shape[1] + 2 * 7


def draw_discs(centres: list[tuple[int, int]], radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:160, :200]
    plane = np.random.default_rng(0).normal(500, 20, rows.shape)
    for x, y in centres:
        plane[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] += 2000
    return plane.astype(np.uint16)


def test_nuclei_are_found_where_they_are_and_touching_ones_are_split() -> None:
    centres = [(40, 40), (100, 60), (121, 60), (150, 120)]
    x, y = find_nuclei(draw_discs(centres, 11), diameter_px=22.0)
    assert len(x) == 4
    np.testing.assert_allclose(sorted(zip(x, y, strict=True)), sorted(centres), atol=1.5)


def test_no_nucleus_in_an_empty_field_and_none_at_the_border() -> None:
    assert len(find_nuclei(np.zeros((50, 50), dtype=np.uint16), diameter_px=20.0)[0]) == 0
    assert len(find_nuclei(draw_discs([(3, 80)], 11), diameter_px=22.0)[0]) == 0


@pytest.mark.promise("Bad input", "Centres outside the field are listed by their reason.")
def test_locations_outside_the_field_are_listed(tiny_screen: Path, tmp_path: Path) -> None:
    table = pd.read_csv(tiny_screen / "locations.csv")
    table.loc[0, "x"] = 4000.0
    table.to_csv(tiny_screen / "locations.csv", index=False)
    _, _, told = crop_tiny(tiny_screen, tmp_path / "run")
    assert told["left_out"]["centre outside the field"] == 1
    table.assign(Metadata_Site=9, Metadata_Object=range(24)).to_csv(tiny_screen / "locations.csv", index=False)
    with pytest.raises(DataError, match="none of its sites is in the screen"):
        crop_tiny(tiny_screen, tmp_path / "other")
    table.assign(x="left").to_csv(tiny_screen / "locations.csv", index=False)
    with pytest.raises(DataError, match="x is of another kind in 24 of 24 rows, first in row 1: found 'left'"):
        read_locations(tiny_screen / "locations.csv")


def test_images_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    good = tmp_path / "good.tif"
    tifffile.imwrite(good, np.ones((20, 30), dtype=np.uint16))
    cases = {
        "html.tif": (b"<html>not found</html>", "not a readable TIFF"),
        "empty.tif": (b"", "not a readable TIFF"),
        "half.tif": (good.read_bytes()[:700], "cut short"),
    }
    for name, (content, match) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.*({match})"):
            read_field({"DNA": tmp_path / name})
    with pytest.raises(DataError, match="no such image file"):
        read_field({"DNA": tmp_path / "nowhere.tif"})
    for name, image in {
        "float": np.ones((20, 30), dtype=np.float32),
        "stack": np.ones((2, 20, 30), dtype=np.uint16),
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
        with pytest.raises(DataError, match="Expected one grey plane"):
            read_field({"DNA": tmp_path / f"{name}.tif"})
    tifffile.imwrite(tmp_path / "small.tif", np.ones((20, 29), dtype=np.uint16))
    with pytest.raises(DataError, match=r"Actin is uint16 \(20, 29\), but DNA is uint16 \(20, 30\)"):
        read_field({"DNA": good, "Actin": tmp_path / "small.tif"})
    with pytest.raises(DataError, match="not a readable PNG"):
        read_strip(good, ("DNA",))


@pytest.mark.promise("Bad input", "Plate 00123 keeps its zeros in a table of locations.")
def test_plates_keep_their_zeros_in_locations(tmp_path: Path) -> None:
    path = tmp_path / "locations.csv"
    path.write_text("Metadata_Plate,Metadata_Well,Metadata_Site,x,y\n00123,B02,1,20,24\n00123,B02,1,30,24\n")
    locations = read_locations(path)
    assert locations["Metadata_Plate"].tolist() == ["00123", "00123"]
    assert locations["Metadata_Object"].tolist() == [1, 2]


def test_a_centre_far_away_is_outside() -> None:
    field = np.zeros((1, 32, 32), dtype=np.uint16)
    crops, inside, _ = cut_crops(field, np.array([1e30, 16.0]), np.array([16.0, 16.0]), size_px=16)
    assert inside.tolist() == [False, True]
    assert len(crops) == 1


def test_a_tiff_whose_header_is_garbage_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((48, 48), dtype=np.uint16))
    whole = path.read_bytes()
    for place in range(8, 260):
        path.write_bytes(whole[:place] + b"\x03" + whole[place + 1 :])
        with contextlib.suppress(DataError):
            read_field({"DNA": path})


@pytest.mark.promise("Bad input", "A site of another depth than those before is named.")
def test_a_site_of_another_depth_is_named(tiny_screen: Path, tmp_path: Path) -> None:
    for path in (tiny_screen / "images").rglob("Week1_101_B03_s2*.tif"):
        tifffile.imwrite(path, tifffile.imread(path).astype(np.uint8))
    sentence = r"Week1_101 B03 s2: its crops are uint8 .*, those before \(Week1_101 B02 s1\) uint16"
    with pytest.raises(DataError, match=sentence):
        crop_tiny(tiny_screen, tmp_path / "run")
