"""The virtual screen: same seed, same bytes; what is planted is there, and only that; the tables tell of it truly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from cytoclr.config import NUISANCES, VirtualSettings
from cytoclr.data.virtual import CONTROL, POSITIVE_CONTROL, VirtualScreen, simulate_field, simulate_screen
from cytoclr.data.virtual.camera import draw_conditions
from cytoclr.data.virtual.layout import plan_compounds, plan_wells
from cytoclr.data.virtual.paint import paint_field
from cytoclr.data.virtual.phenotypes import MECHANISMS, TRAITS, shift_traits
from cytoclr.data.virtual.population import draw_population
from cytoclr.errors import MachineError, SettingsError
from cytoclr.tables import LOCATIONS, check_table

SMALL = VirtualSettings(
    num_mechanisms=2,
    compounds_per_mechanism=2,
    doses=1,
    num_batches=2,
    plates_per_batch=2,
    control_wells=2,
    positive_control_wells=1,
    field_size_px=160,
    cells_per_site=8,
)
#: The official table's columns, in its order.
BBBC021_COLUMNS = [
    "TableNumber",
    "ImageNumber",
    *(f"Image_{what}_{channel}" for channel in ("DAPI", "Tubulin", "Actin") for what in ("FileName", "PathName")),
    "Image_Metadata_Plate_DAPI",
    "Image_Metadata_Well_DAPI",
    "Replicate",
    "Image_Metadata_Compound",
    "Image_Metadata_Concentration",
]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> VirtualScreen:
    return simulate_screen(SMALL, tmp_path_factory.mktemp("screen"), workers=1)


def read_bytes(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def plan(**changes: object) -> tuple[VirtualSettings, pd.DataFrame]:
    settings = VirtualSettings(**changes)
    return settings, plan_wells(settings, plan_compounds(settings))


def untreated_field(seed: int = 0, planted: dict[str, float] | None = None, **changes: object) -> tuple:
    settings = VirtualSettings(**{"nuisance": 0.0, "field_size_px": 256, "cells_per_site": 16, **changes})
    conditions = draw_conditions(settings, batch=0, plate=0, well=0, row=0.0, column=0.0)
    return simulate_field(np.random.default_rng(seed), settings, conditions, planted or {})


class TestTwins:
    def test_processes_do_not_change_a_byte(self, screen: VirtualScreen, tmp_path: Path) -> None:
        other = simulate_screen(SMALL, tmp_path, workers=2)
        assert read_bytes(other.folder) == read_bytes(screen.folder)

    def test_a_plate_alone_is_the_plate_of_the_whole(self, screen: VirtualScreen, tmp_path: Path) -> None:
        plate = pd.read_csv(screen.image_table)["Image_Metadata_Plate_DAPI"].iloc[-1]
        alone = simulate_screen(SMALL, tmp_path, plates=(plate,), workers=1)
        images = read_bytes(alone.images)
        whole = read_bytes(screen.images)
        assert images == {name: content for name, content in whole.items() if plate in name}
        locations = pd.read_csv(screen.locations).query("Metadata_Plate == @plate").reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_csv(alone.locations), locations)

    def test_an_interrupted_screen_is_finished(self, screen: VirtualScreen, tmp_path: Path) -> None:
        plate = pd.read_csv(screen.image_table)["Image_Metadata_Plate_DAPI"].iloc[0]
        simulate_screen(SMALL, tmp_path, plates=(plate,), workers=1)
        kept = next(tmp_path.rglob("*_w1.tif"))
        lost = next(tmp_path.rglob("*_w2.tif"))
        before = kept.stat().st_mtime_ns
        lost.unlink()
        simulate_screen(SMALL, tmp_path, workers=1)
        assert read_bytes(tmp_path) == read_bytes(screen.folder)
        others = [path for path in tmp_path.rglob(f"{plate}*_w1.tif") if path.stat().st_mtime_ns == before]
        assert lost.is_file()
        assert others or kept.parent == lost.parent

    def test_other_settings_replace_what_was_there(self, tmp_path: Path) -> None:
        plates = ("Week1_10001",)
        first = simulate_screen(SMALL, tmp_path, plates=plates, workers=1)
        before = read_bytes(first.images)
        second = simulate_screen(SMALL.model_copy(update={"screen_seed": 1}), tmp_path, plates=plates, workers=1)
        after = read_bytes(second.images)
        assert all(before.get(name) != content for name, content in after.items())
        table = pd.read_csv(second.image_table)
        assert set(table["Image_FileName_DAPI"]) == {Path(name).name for name in after if name.endswith("_w1.tif")}


class TestTables:
    def test_the_image_table_is_shaped_as_bbbc021(self, screen: VirtualScreen) -> None:
        table = pd.read_csv(screen.image_table)
        assert list(table.columns) == BBBC021_COLUMNS
        assert table["Image_Metadata_Plate_DAPI"].str.match(r"Week\d+_\d{5}$").all()
        assert (table["Image_PathName_Actin"].str.split("/").str[0] + "_").isin(["Week1_", "Week2_"]).all()

    def test_every_image_is_there_with_sixteen_bits(self, screen: VirtualScreen) -> None:
        table = pd.read_csv(screen.image_table)
        named = set()
        for channel in ("DAPI", "Tubulin", "Actin"):
            places = table[f"Image_PathName_{channel}"] + "/" + table[f"Image_FileName_{channel}"]
            assert places.str.contains(r"_s1_w\d\.tif$").all()
            named |= set(places)
        assert named == {path.relative_to(screen.images).as_posix() for path in screen.images.rglob("*.tif")}
        image = tifffile.imread(screen.images / min(named))
        assert image.dtype == np.uint16
        assert image.shape == (160, 160)
        assert (image % 16 == 0).all()

    def test_locations_pass_the_check_and_lie_in_the_field(self, screen: VirtualScreen) -> None:
        locations = check_table(pd.read_csv(screen.locations), LOCATIONS, "locations.csv")
        assert locations[["x", "y"]].to_numpy().min() >= 0
        assert locations[["x", "y"]].to_numpy().max() <= 159
        truth = pd.read_csv(screen.truth)
        keys = list(LOCATIONS.key)
        pd.testing.assert_frame_equal(truth[keys], locations[keys])

    def test_every_treatment_has_a_mechanism(self, screen: VirtualScreen) -> None:
        table, mechanisms = pd.read_csv(screen.image_table), pd.read_csv(screen.mechanism_table)
        assert list(mechanisms.columns) == ["compound", "concentration", "moa"]
        used = table[["Image_Metadata_Compound", "Image_Metadata_Concentration"]].drop_duplicates()
        assert sorted(map(tuple, used.to_numpy())) == sorted(map(tuple, mechanisms.to_numpy()[:, :2]))
        assert mechanisms.set_index("compound")["moa"][CONTROL] == CONTROL


class TestPlan:
    @pytest.mark.parametrize(("compounds", "batches"), [(2, 2), (4, 4), (3, 5), (5, 2)])
    def test_every_mechanism_lives_in_two_batches_and_every_compound_in_one(self, compounds: int, batches: int) -> None:
        settings = VirtualSettings(num_mechanisms=12, compounds_per_mechanism=compounds, num_batches=batches)
        planned = plan_compounds(settings)
        for mechanism in MECHANISMS:
            lived = [one.batches for one in planned if one.mechanism == mechanism and one.name != POSITIVE_CONTROL]
            assert len(lived) == compounds
            assert all(len(one) == 1 for one in lived)
            assert len(set(lived)) >= 2

    def test_every_plate_has_controls_and_each_treatment_of_its_batch_once(self) -> None:
        settings, wells = plan()
        for _, plate in wells.groupby("Metadata_Plate"):
            counts = plate.groupby(["Metadata_Compound", "Metadata_Concentration"]).size()
            assert counts.pop((CONTROL, 0.0)) == settings.control_wells
            assert counts.pop((POSITIVE_CONTROL, 0.3)) == settings.positive_control_wells
            assert (counts == 1).all()
            assert not plate["Metadata_Well"].duplicated().any()

    def test_a_higher_dose_does_more(self) -> None:
        for compound in plan_compounds(VirtualSettings(doses=4)):
            doses = sorted(compound.effects)
            assert [compound.effects[dose] for dose in doses] == sorted(compound.effects.values())
            assert compound.name == POSITIVE_CONTROL or len(doses) == 4

    def test_more_treatments_than_the_largest_plate_holds_are_refused(self) -> None:
        settings = VirtualSettings(compounds_per_mechanism=200, num_batches=2, doses=4)
        with pytest.raises(SettingsError, match="Raise num_batches"):
            plan_wells(settings, plan_compounds(settings))


class TestPlanted:
    def test_no_effect_no_difference(self, tmp_path: Path) -> None:
        settings = SMALL.model_copy(update={"effect": 0.0})
        screen = simulate_screen(settings, tmp_path, plates=("Week1_10001",), workers=1)
        planted = pd.read_csv(screen.planted)
        assert (planted[list(TRAITS)] == 0).all(axis=None)
        treated, cells = untreated_field(
            planted={name: 0.0 * shift for name, shift in MECHANISMS["DNA damage"].items()}
        )
        untreated, same_cells = untreated_field()
        assert (treated == untreated).all()
        pd.testing.assert_frame_equal(cells, same_cells)

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_every_mechanism_changes_the_image(self, mechanism: str) -> None:
        treated, _ = untreated_field(planted=dict(MECHANISMS[mechanism]))
        untreated, _ = untreated_field()
        assert (treated != untreated).mean() > 0.1

    def test_mitotic_arrest_arrests(self) -> None:
        traits = shift_traits(MECHANISMS["Eg5 inhibitors"])
        rng = np.random.default_rng(0)
        states = np.concatenate(
            [draw_population(rng, traits, field_size_px=512, mean_cells=50.0).state for _ in range(20)]
        )
        expected = traits["mitotic"] * traits["monopolar"]
        assert (states == 3).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / len(states)))

    def test_mean_brightness_does_not_tell_the_mechanism(self) -> None:
        """Of the mechanisms that leave cells spread, none changes a cell's mean tubulin as the stain drift does."""
        _, reference = measure_cells(planted={})
        for mechanism in ("Microtubule destabilizers", "Microtubule stabilizers"):
            _, brightness = measure_cells(planted=dict(MECHANISMS[mechanism]) | {"mitotic": 0.0, "cell_radius_px": 0.0})
            assert abs(np.log(brightness / reference)) < 0.25


def measure_cells(planted: dict[str, float]) -> tuple[int, float]:
    """Count of cells and median tubulin, background taken off, of the 21 px around their centres."""
    values = []
    for seed in range(4):
        image, cells = untreated_field(seed, planted)
        background = np.percentile(image[1], 2)
        for x, y in cells[["true_x", "true_y"]].round().astype(int).to_numpy():
            window = image[1, max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11]
            values.append(window.mean() - background)
    return len(values), float(np.median(values))


class TestNuisances:
    def test_without_nuisance_plates_are_alike(self) -> None:
        settings = VirtualSettings(nuisance=0.0)
        first, second = (
            draw_conditions(settings, batch=b, plate=p, well=w, row=r, column=c)
            for b, p, w, r, c in ((0, 0, 0, 0.0, 0.0), (3, 7, 40, 1.0, -1.0))
        )
        for one, other in zip(vars(first).values(), vars(second).values(), strict=True):
            assert one == other if isinstance(one, dict) else np.array_equal(one, other)
        assert set(first.shifts.values()) == {0.0}
        assert first.density == 1.0
        assert not first.offset_px.any()

    @pytest.mark.parametrize("nuisance", NUISANCES)
    def test_each_nuisance_can_be_left_out_and_the_others_stay(self, nuisance: str) -> None:
        place = {"batch": 1, "plate": 2, "well": 3, "row": 0.8, "column": -0.5}
        others = tuple(name for name in NUISANCES if name != nuisance)
        everything = draw_conditions(VirtualSettings(), **place)
        without = draw_conditions(VirtualSettings(nuisances=others), **place)
        alone = draw_conditions(VirtualSettings(nuisances=(nuisance,)), **place)
        nothing = draw_conditions(VirtualSettings(nuisances=()), **place)
        assert changed(everything, without) == changed(alone, nothing) != set()

    def test_centres_are_off_by_the_segmentation_offset_only(self, screen: VirtualScreen, tmp_path: Path) -> None:
        settings = SMALL.model_copy(update={"nuisances": ("offset",)})
        other = simulate_screen(settings, tmp_path, plates=("Week1_10001",), workers=1)
        apart = pd.read_csv(other.locations)[["x", "y"]] - pd.read_csv(other.truth)[["x", "y"]]
        wells = apart.groupby(pd.read_csv(other.truth)["Metadata_Well"]).median()
        assert np.hypot(*wells.to_numpy().T).max() > 1.0
        assert np.hypot(*apart.to_numpy().T).max() < 12.0


def changed(first: object, second: object) -> set[str]:
    """Names of the conditions that differ."""
    names = set()
    for name, one in vars(first).items():
        other = vars(second)[name]
        if isinstance(one, dict):
            names |= {trait for trait in one if one[trait] != other[trait]}
        elif not np.array_equal(one, other):
            names.add(name)
    return names


class TestPainting:
    def test_centres_lie_on_nuclei(self) -> None:
        image, cells = untreated_field(field_size_px=512, cells_per_site=50)
        resting = cells[(cells["state"] == "interphase") & cells["true_x"].between(30, 480)]
        resting = resting[resting["true_y"].between(30, 480)]
        dna = image[0].astype(float)
        rows, columns = np.mgrid[-20:21, -20:21]
        distance = np.hypot(rows, columns)
        bright = []
        for x, y in resting[["x", "y"]].round().astype(int).to_numpy():
            window = dna[y - 20 : y + 21, x - 20 : x + 21]
            on, off = window[distance < 4].mean(), np.percentile(window[distance > 14], 20)
            bright.append(on > 2 * off)
        assert len(bright) > 20
        assert np.mean(bright) > 0.95

    def test_the_range_is_that_of_real_fields(self) -> None:
        image, _ = untreated_field(field_size_px=512, cells_per_site=50)
        background = np.percentile(image, 5, axis=(1, 2))
        assert (background > 400).all()
        assert (background < 1200).all()
        top = np.percentile(image, 99.9, axis=(1, 2))
        assert (top > 3000).all()
        assert (top < 30000).all()

    def test_no_light_is_negative(self) -> None:
        traits = shift_traits(MECHANISMS["Microtubule destabilizers"])
        for seed in range(3):
            cells = draw_population(np.random.default_rng(seed), traits, field_size_px=256, mean_cells=14.0)
            assert paint_field(np.random.default_rng(seed), cells, 256).min() >= 0.0

    def test_more_cells_are_placed_where_more_are_asked_for(self) -> None:
        few = np.mean([len(untreated_field(seed, cells_per_site=6)[1]) for seed in range(8)])
        many = np.mean([len(untreated_field(seed, cells_per_site=14)[1]) for seed in range(8)])
        assert few == pytest.approx(6, abs=3)
        assert many == pytest.approx(14, abs=4)


def test_a_process_that_dies_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from cytoclr.data.virtual import screen as module

    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...

        def submit(self, *_: object) -> None:
            raise BrokenProcessPool("gone")

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr(module, "ProcessPoolExecutor", Broken)
    with pytest.raises(MachineError, match="workers=1"):
        simulate_screen(SMALL, tmp_path, workers=2)
