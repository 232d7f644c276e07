"""Fields to crops: the same to the bit wherever it ran, stopped or not; borders, light, bytes, masks."""

import contextlib
import itertools
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from cytoclr.config import ClusterSettings, CropSettings, ImagesSettings
from cytoclr.data.blocks import Block, PlateFiles, cut_block, cut_sites
from cytoclr.data.cluster import Task, open_cluster
from cytoclr.data.crops import CropStore, scale_crops
from cytoclr.data.cut import cut_crops
from cytoclr.data.stage import CropPlan, choose_nuclei_channel, plan_crops
from cytoclr.errors import DataError, MachineError, SettingsError
from cytoclr.progress import Silent
from cytoclr.storage import hash_file, hash_json, read_json, read_table

SIZE = 96


def write_screen(folder: Path, *, sites: int = 6, light: bool = False) -> None:
    """Two plates of three wells: 96 px fields of round cells in two channels, one file each; masks; a plate map."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    lamp = 1 - 0.5 * np.hypot(rows - 48, columns - 48) / 68 if light else 1.0
    centres = []
    for plate in ("P1", "P2"):
        for well in ("A01", "A02", "A03"):
            for site in range(1, sites + 1):
                field = rng.normal(300, 5, (2, SIZE, SIZE))
                labels = np.zeros((SIZE, SIZE), dtype=np.uint16)
                places = [(20, 24), (60, 70), (70, 20), (3, 60)]
                if light:  # all over the field, else cells themselves would look like light
                    places = [tuple(place) for place in rng.integers(9, 87, (4, 2))]
                for cell, (x, y) in enumerate(places, start=1):
                    inside = np.hypot(columns - x, rows - y) < 8
                    field[:, inside] += [[2000], [900]]
                    labels[inside] = cell
                    centres.append((plate, well, site, cell, float(x), float(y)))
                for channel, plane in zip(("w1", "w2"), field * lamp, strict=True):
                    path = folder / "images" / plate / f"{well}_s{site}_{channel}.tif"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(path, plane.astype(np.uint16))
                mask = folder / "masks" / plate / f"{well}_s{site}_mask.tif"
                mask.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(mask, labels)
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object", "x", "y"]
    pd.DataFrame(centres, columns=names).to_csv(folder / "centres.csv", index=False)
    (folder / "map.csv").write_text("Well,Compound,Concentration\nA01,DMSO,0\nA02,taxol,1\nA03,ALLN,3\n")


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    write_screen(tmp_path)
    return tmp_path


def plan(
    folder: Path, *, located: bool = True, screen_changes: dict[str, object] | None = None, **crop: object
) -> CropPlan:
    settings = ImagesSettings(
        reader="images",
        folder=folder / "images",
        template="{plate}/{well}_s{site}_{channel}.tif",
        channels={"DNA": "w1", "Actin": "w2"},
        metadata=folder / "map.csv",
        bit_depth=12,
        stains={"DNA": "Hoechst"},
    ).model_copy(update=screen_changes or {})
    values = {"size_px": 16, "overlays": 0, **crop}
    return plan_crops(
        settings,
        CropSettings.model_validate_json(json.dumps(values, default=str)),
        locations=folder / "centres.csv" if located else None,
    )


def cut(folder: Path, out: Path, *, where: str = "here", **crop: object) -> tuple[CropStore, pd.DataFrame]:
    with open_cluster(ClusterSettings(where=where, workers=2, memory_gb=1.0)) as cluster:
        plan(folder, **crop).cut(out, Silent(), cluster)
    return CropStore(out / "crops"), read_table(out / "cells.parquet")


def read_all(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("crop", [{}, {"illumination": "plate", "bits": 8, "border": "pad"}], ids=["plain", "all"])
def test_threads_and_processes_give_the_same_bytes(screen: Path, tmp_path: Path, crop: dict[str, object]) -> None:
    cut(screen, tmp_path / "here", **crop)
    expected = read_all(tmp_path / "here")
    assert "crops/P1-000.npy" in expected
    for where in ("threads", "processes"):
        cut(screen, tmp_path / where, where=where, **crop)
        assert read_all(tmp_path / where) == expected


def test_what_was_cut_before_a_stop_is_not_cut_again(screen: Path, tmp_path: Path) -> None:
    class Stops:
        """Runs some tasks, then power goes."""

        def run(self, tasks: object) -> None:
            waiting: list[Task] = []
            for number, task in enumerate(tasks):  # type: ignore[attr-defined]
                if number == 2:
                    raise KeyboardInterrupt
                waiting += task.follow(task.function(*task.arguments))

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        plan(screen).cut(out, Silent(), Stops())
    notes = sorted((out / "crops/plates/P1").glob("*.safetensors"))
    assert len(notes) == 2
    (screen / "images/P1/A01_s1_w1.tif").write_bytes(b"gone")  # would be an error if read again
    resumed, _ = cut(screen, out)
    write_screen(screen)
    whole, _ = cut(screen, tmp_path / "whole")
    np.testing.assert_array_equal(resumed.read(np.arange(len(whole))), whole.read(np.arange(len(whole))))
    assert not (out / "crops/plates").exists()


def test_crops_that_cross_the_border_are_filled_up_with_background(screen: Path, tmp_path: Path) -> None:
    dropped, _ = cut(screen, tmp_path / "dropped")
    padded, cells = cut(screen, tmp_path / "padded", border="pad")
    assert len(dropped) == 2 * 3 * 6 * 3
    assert len(padded) == 2 * 3 * 6 * 4
    assert (cells["Metadata_Flags"].str.contains("padded") == (cells["x"] == 3)).all()
    at_border = padded.read(np.flatnonzero(cells["x"] == 3))
    assert (at_border[:, :, :, :5] == at_border[:, :, :1, :1]).all()
    assert at_border[:, :, 8, 8].min() > 900
    flagged, left = cut(screen, tmp_path / "flagged", border="pad", drop=["padded"])
    assert len(flagged) == len(dropped)
    listed = pd.read_csv(tmp_path / "flagged/left_out.csv")
    assert (listed["reason"] == "flagged padded").sum() == 36
    assert left["Metadata_Object"].max() == 3


@pytest.mark.parametrize("drop", [[], ["padded"]])
def test_crops_carry_the_hash_of_their_bytes(screen: Path, tmp_path: Path, drop: list[str]) -> None:
    crops, _ = cut(screen, tmp_path / "out", border="pad", drop=drop)
    shards = read_json(crops.folder / "manifest.json")["shards"]
    assert shards
    for shard in shards:
        assert shard["sha256"] == hash_file(crops.folder / shard["file"])


def test_a_padded_crop_is_the_crop_of_a_padded_field() -> None:
    rng = np.random.default_rng(0)
    field = rng.integers(0, 4096, (2, 40, 50)).astype(np.uint16)
    x, y = rng.uniform(0, 49, 200), rng.uniform(0, 39, 200)
    fill = np.array([7, 9], dtype=np.uint16)
    crops, kept, _ = cut_crops(field, x, y, size_px=16, fill=fill)
    assert kept.all()
    wide = np.stack([np.pad(plane, 16, constant_values=value) for plane, value in zip(field, fill, strict=True)])
    expected, inside, _ = cut_crops(wide, x + 16, y + 16, size_px=16)
    assert inside.all()
    np.testing.assert_array_equal(crops, expected)


def test_light_is_divided_out(tmp_path: Path) -> None:
    write_screen(tmp_path, sites=10, light=True)

    def fall(**crop: object) -> float:
        """How much dimmer cells are far from the middle."""
        store, cells = cut(tmp_path, tmp_path / str(len(crop)), **crop)
        bright = store.read(np.arange(len(cells)))[:, 0, 4:12, 4:12].mean(axis=(1, 2))
        far = np.hypot(cells["x"] - 48, cells["y"] - 48)
        return float(bright[far < 22].mean() / bright[far > 35].mean())

    assert fall() > 1.15
    assert fall(illumination="plate") == pytest.approx(1, abs=0.05)
    assert sorted(path.name for path in (tmp_path / "1/illumination").iterdir()) == ["P1.npy", "P2.npy"]


@pytest.mark.parametrize(
    ("rule", "ranges"),
    [
        ("plate-percentile", {}),
        ("full-range", {}),
        ("fixed", {"DNA": [100, 3000], "Actin": [50, 2000]}),
        ("field-percentile", {}),
        ("crop-percentile", {}),
    ],
)
def test_every_rule_scales_alike_whether_crops_are_bytes_or_not(
    screen: Path, tmp_path: Path, rule: str, ranges: dict[str, list[float]]
) -> None:
    kept, cells = cut(screen, tmp_path / "kept", intensity=rule, ranges=ranges)
    stored, _ = cut(screen, tmp_path / "bytes", intensity=rule, ranges=ranges, bits=8)
    rows = np.arange(len(cells))
    assert (kept.dtype, stored.dtype) == (np.dtype(np.uint16), np.dtype(np.uint8))
    assert kept.intensity["rule"] == stored.intensity["rule"] == rule
    exact = scale_crops(kept.read(rows), *kept.read_ranges(rows))
    coarse = scale_crops(stored.read(rows), *stored.read_ranges(rows))
    assert np.abs(exact - coarse).max() <= 0.5 / 255 + 1e-6
    low, high = kept.read_ranges(rows)
    if rule == "full-range":
        assert (low.max(), high.min()) == (0.0, 4095.0)  # of a 12-bit camera
    if rule == "crop-percentile":
        expected = np.percentile(kept.read(rows[:1])[0].reshape(2, -1), [1.0, 99.9], axis=1)
        np.testing.assert_allclose([low[0], high[0]], expected, rtol=1e-6)


def test_masks_give_centres_and_cut_away_what_is_not_the_cell(screen: Path, tmp_path: Path) -> None:
    masks = {"folder": screen / "masks", "template": "{plate}/{well}_s{site}_mask.tif"}
    store, cells = cut(screen, tmp_path / "run", located=False, masks=masks, apply_masks=True, border="pad")
    assert len(cells) == 2 * 3 * 6 * 4
    first = store.read(np.array([0]))[0]
    rows, columns = np.mgrid[-8:8, -8:8]
    np.testing.assert_array_equal(first[0] > 0, np.hypot(rows, columns) < 8)
    with pytest.raises(SettingsError, match=r"crop\.apply_masks needs masks"):
        plan(screen, apply_masks=True)


def test_every_well_is_counted(screen: Path, tmp_path: Path) -> None:
    for path in (screen / "images/P2").glob("A03*w1.tif"):
        tifffile.imwrite(path, np.full((SIZE, SIZE), 300, dtype=np.uint16))
    cut(screen, tmp_path / "run", located=False, nucleus_diameter_px=16.0)
    wells = read_table(tmp_path / "run/wells.parquet").set_index(["Metadata_Plate", "Metadata_Well"])
    assert wells.loc[("P2", "A03"), "Metadata_NumCells"] == 0
    assert wells.loc[("P1", "A01"), ["Metadata_NumSites", "Metadata_NumCells"]].tolist() == [6, 18]
    left_out = pd.read_csv(tmp_path / "run/left_out.csv")
    assert (left_out["reason"] == "no nucleus found").sum() == 6


def test_overlays_are_drawn_for_some_fields(screen: Path, tmp_path: Path) -> None:
    plan(screen, overlays=3).cut(tmp_path / "run", Silent())
    pictures = sorted(path.name for path in (tmp_path / "run/overlays").iterdir())
    assert pictures == ["P1_A01_s1.png", "P2_A01_s1.png", "P2_A03_s6.png"]


def test_what_the_screen_says_of_its_channels_goes_with_the_crops(screen: Path, tmp_path: Path) -> None:
    store, _ = cut(screen, tmp_path / "run")
    about = read_json(tmp_path / "run/crops/manifest.json")
    assert (about["channels"], about["stains"], about["bit_depth"]) == (["DNA", "Actin"], {"DNA": "Hoechst"}, 12)
    assert store.describe_channels()["stains"] == {"DNA": "Hoechst"}


def test_settings_that_name_unknown_channels_are_refused(screen: Path) -> None:
    with pytest.raises(SettingsError, match=r"crop\.nuclei_channel is 'DAPI'; the screen has DNA, Actin"):
        plan(screen, nuclei_channel="DAPI")
    with pytest.raises(SettingsError, match=r"crop\.ranges has DAPI; the screen's channels are DNA, Actin"):
        plan(screen, intensity="fixed", ranges={"DAPI": [0, 1]})


def test_plates_of_two_sizes_cannot_share_their_light(screen: Path, tmp_path: Path) -> None:
    for path in (screen / "images/P1").glob("A01_s2*"):
        tifffile.imwrite(path, np.zeros((80, SIZE), dtype=np.uint16))
    with pytest.raises(DataError, match=r"plate P1: its fields are of \(80, 96\) and of \(96, 96\) px"):
        cut(screen, tmp_path / "run", illumination="plate")


@pytest.mark.parametrize(
    ("channels", "chosen"), [(["Actin", "Hoechst"], "Hoechst"), (["w1", "w2"], "w1"), (["ER", "OrigDNA"], "OrigDNA")]
)
def test_nuclei_are_looked_for_where_dna_is(channels: list[str], chosen: str) -> None:
    assert choose_nuclei_channel(channels, {}) == chosen


MASKS = {"template": "{plate}/{well}_s{site}_mask.tif"}


def swap_names(folder: Path) -> None:
    """Give the files of two sites each other's names."""
    first, second = (folder / f"images/P1/A01_s{site}_w1.tif" for site in (1, 2))
    first.rename(folder / "kept")
    second.rename(first)
    (folder / "kept").rename(second)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "masks/P1/A01_s1_mask.tif").write_bytes(
            (folder / "masks/P1/A01_s1_mask.tif").read_bytes()
        ),
        lambda folder: (folder / "map.csv").write_text(
            "Well,Compound,Concentration\nA01,DMSO,0\nA02,taxol,1\nA03,ALLN,5\n"
        ),
        swap_names,
    ],
    ids=["a mask is written anew", "another dose", "files change places"],
)
def test_what_changes_the_crops_changes_their_key(screen: Path, change: Callable[[Path], object]) -> None:
    masks = {**MASKS, "folder": screen / "masks"}
    before = plan(screen, masks=masks).inputs
    assert plan(screen, masks=masks).inputs == before
    change(screen)
    assert plan(screen, masks=masks).inputs != before


def test_the_order_of_channels_is_part_of_the_key(screen: Path) -> None:
    turned = {"Actin": "w2", "DNA": "w1"}
    assert hash_json(plan(screen).inputs) != hash_json(plan(screen, screen_changes={"channels": turned}).inputs)


def test_a_moved_screen_has_the_same_key(screen: Path, tmp_path: Path) -> None:
    masks = {**MASKS, "folder": screen / "masks"}
    before = plan(screen, masks=masks).inputs
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("images", "masks", "map.csv", "centres.csv"):
        (screen / name).rename(moved / name)
    assert plan(moved, masks={**MASKS, "folder": moved / "masks"}).inputs == before


@pytest.mark.slow
def test_a_stop_anywhere_in_the_end_of_a_plate_changes_nothing(tmp_path: Path) -> None:
    """The power goes before or after every file that is moved or deleted."""
    screen = tmp_path / "screen"
    write_screen(screen, sites=1)
    crop = {"border": "pad", "drop": ["padded"], "intensity": "crop-percentile"}
    cut(screen, tmp_path / "whole", **crop)
    expected = read_all(tmp_path / "whole")

    class PowerCut(BaseException):
        pass

    for after in (False, True):
        for stop in itertools.count():
            out, calls = tmp_path / f"stopped-{after}-{stop}", itertools.count()

            def cut_power(
                real: Callable[..., object], *, stop: int = stop, after: bool = after, calls: Iterator[int] = calls
            ) -> Callable[..., object]:
                def call(*arguments: object, **more: object) -> object:
                    is_now = next(calls) == stop
                    if is_now and not after:
                        raise PowerCut
                    result = real(*arguments, **more)
                    if is_now:
                        raise PowerCut
                    return result

                return call

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Path, "replace", cut_power(Path.replace))
                patch.setattr(Path, "unlink", cut_power(Path.unlink))
                patch.setattr(shutil, "rmtree", cut_power(shutil.rmtree))
                with contextlib.suppress(PowerCut):
                    cut(screen, out, **crop)
            if next(calls) <= stop:  # it was whole before its turn came
                break
            for leftover in out.rglob(".*.tmp"):
                leftover.unlink()
            cut(screen, out, **crop)
            assert read_all(out) == expected, (after, stop)
            shutil.rmtree(out)
        assert stop > 20


def test_crops_that_are_cut_are_not_cut_again_when_their_files_were_not_hashed_yet(
    screen: Path, tmp_path: Path
) -> None:
    cut(screen, tmp_path / "run")
    shutil.rmtree(screen / "images")
    screen.joinpath("images").mkdir()
    told = read_json(tmp_path / "run/crops/report.json")
    assert told["num_cells"] == 2 * 3 * 6 * 3
    write_screen(screen)
    again = plan(screen)
    shutil.rmtree(screen / "images")
    assert again.cut(tmp_path / "run", Silent()) == told


def test_memory_does_not_grow_with_the_sites_of_a_block(tmp_path: Path) -> None:
    write_screen(tmp_path, sites=16)
    planned = plan(tmp_path, size_px=96, border="pad")
    rows = tuple(planned.source.rows.iloc[:48].to_dict("records"))
    files = PlateFiles(tmp_path / "crops", "P1")
    files.note.parent.mkdir(parents=True)
    peaks = []
    for number, num_sites in enumerate((4, 4, 48)):  # the first also imports and caches
        places = [(row["Metadata_Plate"], row["Metadata_Well"], row["Metadata_Site"]) for row in rows[:num_sites]]
        centres = tuple(planned.locations.of(place) for place in places)
        tracemalloc.start()
        cut_block(Block("P1", number, rows[:num_sites], centres), files, planned.rules, tmp_path, cut_sites)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more_crops = (48 - 4) * 4 * 2 * 96 * 96 * 2
    assert peaks[2] - peaks[1] < more_crops / 4


def test_a_depth_that_images_do_not_have_is_refused(screen: Path, tmp_path: Path) -> None:
    for path in (screen / "images").rglob("*.tif"):
        tifffile.imwrite(path, (tifffile.imread(path) // 16).astype(np.uint8))
    with pytest.raises(DataError, match=r"screen\.bit_depth is 12; the images hold 8 bit"):
        cut(screen, tmp_path / "run")


def test_a_channel_without_a_function_stays_as_it_is(screen: Path, tmp_path: Path) -> None:
    np.save(screen / "light.npy", np.full((SIZE, SIZE), 2.0, dtype=np.float32))
    straight, _ = cut(screen, tmp_path / "straight")
    planned = plan(screen)
    rows = planned.source.rows.assign(Illum_Actin=str(screen / "light.npy"))
    given = replace(
        planned, source=replace(planned.source, rows=rows), rules=replace(planned.rules, illumination="given")
    )
    given.cut(tmp_path / "given", Silent())
    before, after = (straight.read(np.arange(3)), CropStore(tmp_path / "given/crops").read(np.arange(3)))
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    np.testing.assert_array_equal(after[:, 1], np.rint(before[:, 1] / 2))


def test_a_worker_that_does_not_see_the_run_folder_says_so(screen: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"crops/plates is not there\. Workers must reach the run folder"):
        PlateFiles(tmp_path / "nowhere/crops", "P1").check_folder()
