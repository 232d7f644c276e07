from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.data.crops import CropStore, Shard, open_shard, write_crop_manifest
from cytoclr.report import ReportInputs
from cytoclr.report import plates as module
from cytoclr.report.page import escape_json
from cytoclr.report.plates import Effect, explain_by_place, fit_format, lay_out_plates
from cytoclr.tables import WELL, WELL_METADATA, feature_columns


def numbers_of(found: dict, key: str) -> list:
    return next(measure["values"] for measure in found["measures"] if measure["key"] == key)


def row_of(found: dict, key: str) -> dict:
    return next(row for row in found["positions"]["rows"] if row["measure"] == key)


def make_screen(
    folder: Path, wells: list[tuple[str, str, str]], counts: list[int], *, batch: str = "week 1"
) -> ReportInputs:
    """Plate, well and compound of each well, and its cells; crops of well i hold the number i alone."""
    about = pd.DataFrame(wells, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Compound"]).assign(
        Metadata_Batch=batch, Metadata_Concentration=1.0
    )
    about["Metadata_control_type"] = np.where(about["Metadata_Compound"] == "DMSO", "negcon", "trt")
    about = about[WELL_METADATA]
    rows = np.repeat(np.arange(len(about)), counts)
    cells = about.iloc[rows].reset_index(drop=True)
    with open_shard(folder / "all.npy", 2, 4, np.dtype(np.uint16)) as writer:
        pixels = np.stack([rows, 1000 - rows], axis=1).astype(np.uint16)
        writer.append(np.broadcast_to(pixels[:, :, None, None], (len(rows), 2, 4, 4)))
    write_crop_manifest(
        folder,
        [Shard("all.npy", "all", len(rows), (0.0, 0.0), (1.0, 1.0))],
        channels=("DNA", "Actin"),
        size_px=4,
        pixel_size_um=None,
        dtype=np.dtype(np.uint16),
        intensity={},
    )
    features = np.random.default_rng(0).normal(size=(len(about), 5))
    profiles = pd.concat([about, pd.DataFrame(features, columns=[f"Cells_SSL_{i}" for i in range(5)])], axis=1)
    treatments = profiles.drop_duplicates("Metadata_Compound")
    return ReportInputs(profiles, treatments, cells, CropStore(folder), {}, {}, "")


@pytest.mark.parametrize(
    ("last", "size", "shape"),
    [("B03", 6, (2, 3)), ("C03", 24, (4, 6)), ("A12", 96, (8, 12)), ("P24", 384, (16, 24)), ("AF48", 1536, (32, 48))],
)
def test_a_plate_has_the_smallest_shape_that_holds_its_wells(
    tmp_path: Path, last: str, size: int, shape: tuple[int, int]
) -> None:
    inputs = make_screen(tmp_path, [("P", "a1", "x"), ("P", last, "y")], [1, 2])
    (plate,) = lay_out_plates(inputs)["plates"]
    assert (plate["rows"], plate["columns"]) == shape
    assert shape == module.FORMATS[size]
    letters, column = (last[:-2], int(last[-2:]))
    row = 25 + ord(letters[-1]) - 64 if len(letters) > 1 else ord(letters) - 65
    assert plate["places"] == [0, row * shape[1] + column - 1]
    assert plate["wells"] == [0, 1]


def test_no_row_or_column_falls_out_of_a_format() -> None:
    for size, (rows, columns) in module.FORMATS.items():
        assert fit_format(np.array([rows - 1]), np.array([columns - 1])) == size


def test_names_that_are_no_position_stand_beside_and_none_is_lost(tmp_path: Path) -> None:
    names = ["B02", "blank", "b2", "AA99", "<b>A01</b>", "A1", "12", "É01", "r02c99", "BA01", "LAA01"]
    inputs = make_screen(tmp_path, [("P", name, "x") for name in names], [1] * len(names))
    (plate,) = lay_out_plates(inputs)["plates"]
    # b2 is B02 again: the first stands there
    assert [names[i] for i in plate["wells"]] == ["A1", "B02"]
    assert [names[i] for i in plate["beside"]] == [
        "blank",
        "b2",
        "AA99",
        "<b>A01</b>",
        "12",
        "É01",
        "r02c99",
        "BA01",
        "LAA01",
    ]


def test_a_plate_without_any_position_is_a_list(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", "one", "x"), ("P", "two", "x"), ("Q", "A01", "x")], [1, 1, 1])
    first, second = lay_out_plates(inputs)["plates"]
    assert (first["rows"], first["wells"], first["beside"]) == (0, [], [0, 1])
    assert (second["rows"], second["wells"]) == (2, [2])


def test_plates_are_in_the_order_people_count_and_split_by_batch(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [(f"P{i}", "A01", "x") for i in (10, 9, 2)], [1, 1, 1])
    batches = ["week 10", "week 2", "week 10"]
    inputs = replace(
        inputs,
        wells=inputs.wells.assign(Metadata_Batch=batches),
        cells=inputs.cells.assign(Metadata_Batch=batches),
    )
    found = [(plate["batch"], plate["name"]) for plate in lay_out_plates(inputs)["plates"]]
    assert found == [("week 2", "P9"), ("week 10", "P2"), ("week 10", "P10")]


def test_wells_are_numbered_as_profiles_are_and_others_come_after(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "<i>y"), ("P", "A03", "x")], [3, 4, 5])
    found = lay_out_plates(replace(inputs, wells=inputs.wells.iloc[[2, 0]].reset_index(drop=True)))
    assert numbers_of(found, "cells") == [5, 3, 4]
    assert [(well["well"], well["name"], well["cells"]) for well in found["extra"]] == [("A02", "<i>y 1 µM", [])]
    assert found["plates"][0]["wells"] == [1, 2, 0]
    assert numbers_of(found, "agreement")[2] is None
    empty = lay_out_plates(replace(inputs, cells=inputs.cells[inputs.cells["Metadata_Well"] != "A01"]))
    assert numbers_of(empty, "cells") == [0, 4, 5]
    assert numbers_of(empty, "brightness-0")[0] is None


def test_wells_in_which_nothing_was_kept_are_on_the_plate(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "y"), ("P", "A03", "z")], [3, 1, 0])
    inputs = replace(inputs, wells=inputs.wells.iloc[:2])
    about = [("P", "A02", "y"), ("P", "A03", "z"), ("P", "A01", "x"), ("P", "A05", "w")]
    (tmp_path / "counted").mkdir()
    counted = make_screen(tmp_path / "counted", about, [1] * 4).wells[WELL_METADATA]
    counted = counted.assign(Metadata_NumCells=[1, 0, 3, 0], Metadata_NumLeftOut=[3, 2, 0, 0])
    found = lay_out_plates(replace(inputs, counted=counted))
    assert numbers_of(found, "cells") == [3, 1, 0, 0]
    assert numbers_of(found, "left-out") == [0, 0.75, 1, None]
    assert [well["well"] for well in found["extra"]] == ["A03", "A05"]
    assert found["plates"][0]["wells"] == [0, 1, 2, 3]


def test_cells_are_measured_as_slow_loops_do(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", f"A0{i + 1}", "x") for i in range(4)], [3, 1, 7, 2])
    generator = np.random.default_rng(3)
    cells = inputs.cells.assign(
        Metadata_Flags=["", "blurred", np.nan, "", "dark+blurred"] + [""] * 8,
        Quality_Focus=[np.nan, *generator.uniform(size=12)],
    )
    order = generator.permutation(len(cells))  # wells need not lie together
    shuffled = cells.iloc[order].reset_index(drop=True)
    found = lay_out_plates(replace(inputs, cells=cells))
    for i, well in enumerate(inputs.wells["Metadata_Well"]):
        of = cells[cells["Metadata_Well"] == well]
        flags = [flag for flag in of["Metadata_Flags"] if isinstance(flag, str) and flag]
        assert numbers_of(found, "cells")[i] == len(of)
        assert numbers_of(found, "flagged")[i] == pytest.approx(len(flags) / len(of), rel=1e-3)
        assert numbers_of(found, "focus")[i] == pytest.approx(np.nanmedian(of["Quality_Focus"]), rel=1e-3)
        assert numbers_of(found, "brightness-0")[i] == i
        assert numbers_of(found, "brightness-1")[i] == 1000 - i
    again = lay_out_plates(replace(inputs, cells=shuffled))
    for key in ("cells", "flagged", "focus"):
        assert numbers_of(again, key) == numbers_of(found, key)


def test_what_the_table_of_cells_lacks_is_no_measure(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "x")], [1, 1])
    keys = [measure["key"] for measure in lay_out_plates(inputs)["measures"]]
    assert keys == ["cells", "brightness-0", "brightness-1", "distance", "agreement"]
    empty = inputs.cells.assign(Quality_Focus=np.nan)
    assert "focus" not in [measure["key"] for measure in lay_out_plates(replace(inputs, cells=empty))["measures"]]


def test_of_a_large_well_some_crops_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "x")], [50, 3])
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 4 * 4 * 2 * 4)
    read: list[int] = []

    class Counting(CropStore):
        def read(self, rows: np.ndarray) -> np.ndarray:
            read.extend(rows.tolist())
            assert len(rows) <= 4
            return super().read(rows)

    of_cell = np.repeat([0, 1], [50, 3])
    means = module._read_brightness(Counting(tmp_path), of_cell, 2, limit=10)
    assert read == [4, 9, 14, 19, 24, 29, 34, 39, 44, 49, 50, 51, 52]
    np.testing.assert_array_equal(means, [[0, 1000], [1, 999]])


def test_distances_and_agreement_are_those_of_slow_loops(tmp_path: Path) -> None:
    wells = [
        (plate, f"A{i + 1:02d}", name)
        for plate, names in (("P", "CCCCxyz"), ("Q", "CCCxxy"), ("R", "CCxz"))
        for i, name in enumerate(names.replace("C", "-"))
    ]
    wells = [(plate, well, name.replace("-", "DMSO")) for plate, well, name in wells]
    inputs = make_screen(tmp_path, wells, [1] * len(wells))
    few = [plate == "P" and well == "A04" for plate, well, _ in wells]
    inputs = replace(inputs, wells=inputs.wells.assign(Metadata_FewCells=few))
    found = lay_out_plates(inputs)
    features = inputs.wells[feature_columns(inputs.wells)].to_numpy()

    def distance(i: int, rows: list[int]) -> float:
        return float(np.linalg.norm(features[i] - features[[j for j in rows if j != i]].mean(axis=0)))

    for i, (plate, _, name) in enumerate(wells):
        controls = [j for j, (p, _, n) in enumerate(wells) if p == plate and n == "DMSO" and not few[j]]
        ratio = numbers_of(found, "distance")[i]
        if plate == "R":
            assert ratio is None
        else:
            usual = np.median([distance(j, controls) for j in controls])
            assert ratio == pytest.approx(distance(i, controls) / usual, rel=1e-3)
        others = [j for j, (_, _, n) in enumerate(wells) if n == name and j != i and not few[j]]
        cosines = [
            features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j]) for j in others
        ]
        assert numbers_of(found, "agreement")[i] == pytest.approx(np.mean(cosines), rel=1e-3, abs=1e-4)
    assert found["few"] == [3]


def test_singles_and_profiles_of_nought_have_no_agreement(tmp_path: Path) -> None:
    inputs = make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "y"), ("P", "A03", "y")], [1, 1, 1])
    names = feature_columns(inputs.wells)
    profiles = inputs.wells.copy()
    assert numbers_of(lay_out_plates(inputs), "agreement")[0] is None
    profiles.loc[2, names] = 0.0
    assert numbers_of(lay_out_plates(replace(inputs, wells=profiles)), "agreement") == [None, None, None]


def test_colours_reach_from_the_2nd_to_the_98th_percentile(tmp_path: Path) -> None:
    counts = [*range(1, 60), 900]
    wells = [("P", f"{'ABCDEF'[i // 10]}{i % 10 + 1:02d}", "x") for i in range(60)]
    measure = lay_out_plates(make_screen(tmp_path, wells, counts))["measures"][0]
    assert measure["low"] == pytest.approx(np.percentile(counts, 2), rel=1e-3)
    assert measure["high"] == pytest.approx(np.percentile(counts, 98), rel=1e-3)
    assert measure["high"] < 100


def test_large_counts_are_exact(tmp_path: Path) -> None:
    found = lay_out_plates(make_screen(tmp_path, [("P", "A01", "x"), ("P", "A02", "x")], [12_345, 1]))
    assert numbers_of(found, "cells") == [12_345, 1]


def test_a_measure_of_nearly_one_value_shows_what_differs(tmp_path: Path) -> None:
    counts = [1] * 199 + [5]
    wells = [("P", f"{'ABCDEFGHIJ'[i // 20]}{i % 20 + 1:02d}", "x") for i in range(200)]
    measure = lay_out_plates(make_screen(tmp_path, wells, counts))["measures"][0]
    assert (measure["low"], measure["high"]) == (1, 5)


# ---- position ----


def share_by_loops(values: np.ndarray, plates: np.ndarray, groups: np.ndarray) -> float:
    rest = [value - np.mean(values[plates == plate]) for value, plate in zip(values, plates, strict=True)]
    between = 0.0
    for group in set(groups.tolist()):
        members = [r for r, g in zip(rest, groups, strict=True) if g == group]
        between += len(members) * np.mean(members) ** 2
    return between / sum(r**2 for r in rest)


def test_shares_are_those_of_slow_loops_and_row_order_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    plates = generator.integers(0, 3, 60)
    groups = generator.integers(4, 9, 60)
    edges = generator.integers(0, 2, 60)
    values = generator.normal(size=60) + 10 * plates + groups
    effects = explain_by_place(values, plates, [groups, edges], permutations=250, generator=np.random.default_rng(1))
    for effect, of in zip(effects, (groups, edges), strict=True):
        assert effect.share == pytest.approx(share_by_loops(values, plates, of))
    rest = values - np.array([values[plates == plate].mean() for plate in plates])
    assert effects[0].differences == pytest.approx({int(g): rest[groups == g].mean() for g in np.unique(groups)})
    order = generator.permutation(60)
    again = explain_by_place(
        values[order], plates[order], [groups[order]], permutations=250, generator=np.random.default_rng(1)
    )
    assert again[0].share == pytest.approx(effects[0].share)
    # p and chance against permutations by loops, of another seed
    by_chance = []
    for _ in range(400):
        shuffled = values.copy()
        for plate in range(3):
            shuffled[plates == plate] = generator.permutation(shuffled[plates == plate])
        by_chance.append(share_by_loops(shuffled, plates, edges))
    p_value = np.mean([share >= effects[1].share for share in by_chance])
    assert effects[1].p_value == pytest.approx(p_value, abs=0.12)
    assert effects[1].chance == pytest.approx(np.mean(by_chance), abs=0.01)


def test_permutations_stay_within_plates() -> None:
    """A group that is a whole plate explains nothing once the plate's mean is off, however wells are permuted."""
    plates = np.repeat([7, 2], 10)
    values = np.random.default_rng(0).normal(size=20) * np.where(plates == 7, 100, 0.01)
    (effect,) = explain_by_place(values, plates, [plates], permutations=100, generator=np.random.default_rng(0))
    assert effect.share == pytest.approx(0, abs=1e-12)
    assert effect.chance == pytest.approx(0, abs=1e-12)
    assert effect.p_value == 1.0


def test_p_is_even_where_place_does_nothing() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        values = generator.normal(size=24)
        (effect,) = explain_by_place(
            values, np.repeat([0, 1], 12), [np.tile([0, 1, 2], 8)], permutations=99, generator=generator
        )
        found.append(effect.p_value)
    assert 0.02 <= np.mean(np.array(found) <= 0.1) <= 0.18


def full_plate(plate: str, controls: set[str]) -> list[tuple[str, str, str]]:
    names = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
    return [(plate, name, "DMSO" if name in controls else f"drug {i}") for i, name in enumerate(names)]


SPREAD = {"A01", "A07", "B04", "C10", "D02", "D12", "E06", "F09", "G03", "H01", "H08", "H12", "B11", "F05", "C06"}


def test_a_planted_edge_effect_is_found_and_said(tmp_path: Path) -> None:
    wells = [well for plate in "PQ" for well in full_plate(plate, SPREAD)]
    edge = [name[0] in "AH" or name[1:] in ("01", "12") for _, name, _ in wells]
    counts = [(30 if outside else 50) + i % 3 for i, outside in enumerate(edge)]
    found = lay_out_plates(make_screen(tmp_path, wells, counts))["positions"]
    assert found["wells"] == "Of 30 untreated wells on 2 plates."
    assert found["notes"] == []
    cells = found["rows"][0]
    assert cells["effects"][2]["share"] > 0.9
    assert cells["effects"][2]["p"] == pytest.approx(0.001, abs=1e-4)
    of_controls = [(outside, n) for (_, _, name), outside, n in zip(wells, edge, counts, strict=True) if name == "DMSO"]
    at_edge, inside = (np.mean([n for outside, n in of_controls if outside == side]) for side in (True, False))
    percent = 100 * (1 - at_edge / inside)
    assert cells["words"][-1] == f"Edge wells have {percent:.0f}\N{NO-BREAK SPACE}% fewer cells (p = 0.001)."
    assert row_of({"positions": found}, "agreement")["words"] == []


def test_a_planted_row_effect_names_the_rows(tmp_path: Path) -> None:
    wells = [well for plate in "PQRS" for well in full_plate(plate, SPREAD)]
    counts = [{"D": 60, "F": 20}.get(name[0], 40) + i % 2 for i, (_, name, _) in enumerate(wells)]
    (words, *_) = (row["words"] for row in lay_out_plates(make_screen(tmp_path, wells, counts))["positions"]["rows"])
    assert words[0].startswith("Row D has ")
    assert "more cells than its plate, row F has " in words[0]


def test_without_effect_nothing_is_said(tmp_path: Path) -> None:
    wells = [well for plate in "PQ" for well in full_plate(plate, SPREAD)]
    counts = np.random.default_rng(4).integers(20, 60, len(wells)).tolist()
    inputs = make_screen(tmp_path, wells, counts)
    first, second = (lay_out_plates(inputs)["positions"] for _ in range(2))
    assert first == second
    assert row_of({"positions": first}, "cells")["words"] == []
    # the number of a well is its brightness, and wells are numbered row by row
    assert row_of({"positions": first}, "brightness-0")["words"]


def test_the_same_in_all_wells_is_no_effect(tmp_path: Path) -> None:
    wells = full_plate("P", SPREAD)
    found = lay_out_plates(make_screen(tmp_path, wells, [3] * 96))
    assert row_of(found, "cells")["effects"] == [{"missing": "the same in all wells"}] * 3
    measure = found["measures"][0]
    assert measure["low"] == measure["high"] == 3


@pytest.mark.parametrize(
    ("controls", "notes"),
    [
        (
            {f"{row}{column}" for row in "ABCDEFGH" for column in ("01", "12")},
            [
                "Untreated wells stand in columns 1 and 12 alone, and no treated well does: position and treatment "
                "cannot be told apart.",
                "All untreated wells stand at the edge: they do not tell what the edge does.",
            ],
        ),
        (
            {f"{row}06" for row in "BCDEFG"},
            [
                "Untreated wells stand in column 6 alone: they tell nothing of the other columns.",
                "All untreated wells stand inside: they do not tell what the edge does.",
            ],
        ),
        (SPREAD, []),
    ],
)
def test_layouts_that_tell_nothing_are_said(tmp_path: Path, controls: set[str], notes: list[str]) -> None:
    wells = [well for plate in "PQ" for well in full_plate(plate, controls)]
    found = lay_out_plates(make_screen(tmp_path, wells, [1 + i % 5 for i in range(len(wells))]))["positions"]
    assert found["notes"] == notes
    if "06" in str(controls) and len(controls) == 6:
        assert found["rows"][0]["effects"][1:] == [{"missing": "in one column"}, {"missing": "none at the edge"}]


@pytest.mark.parametrize("controls", [set(), {"B02", "C07"}])
def test_with_few_controls_all_wells_are_asked_and_it_is_said(tmp_path: Path, controls: set[str]) -> None:
    inputs = make_screen(tmp_path, full_plate("P", controls), [1 + i % 5 for i in range(96)])
    found = lay_out_plates(inputs)["positions"]
    assert found["wells"].startswith("Of all 96 wells, for fewer than 10 untreated wells")
    assert "may pass for what their places do" in found["wells"]
    # no treatment has two wells but the untreated, so agreement is not known; nor is the distance to controls
    assert found["tests"] == 3 * 3
    assert found["rows"][-1]["effects"] == [{"missing": "too few wells"}] * 3


def test_rows_of_different_formats_are_different_rows(tmp_path: Path) -> None:
    wells = [*full_plate("P", SPREAD), *[("Q", f"P{i:02d}", "DMSO") for i in range(1, 25)]]
    wells += [("Q", f"B{i:02d}", "DMSO") for i in range(1, 25)]
    counts = [2] * 96 + [9 + i % 2 for i in range(24)] + [1] * 24
    found = lay_out_plates(make_screen(tmp_path, wells, counts))
    words = row_of(found, "cells")["words"][0]
    assert words.startswith("Row P of 384-well plates has")
    assert "row B of 384-well plates has" in words


def test_holm_marks_no_more_than_it_may() -> None:
    def tell(p_value: float) -> Effect:
        return Effect(0.5, 0.1, p_value, {})

    tested = [{"row": tell(0.001), "column": tell(0.02), "edge": "in one row"}, {"row": tell(0.03)}]
    # 0.001 x 3, 0.02 x 2, 0.03 x 1
    assert module._mark_effects(tested) == {(0, "row"), (0, "column"), (1, "row")}
    tested = [{"row": tell(0.001), "column": tell(0.03)}, {"row": tell(0.04)}]
    assert module._mark_effects(tested) == {(0, "row")}


def test_a_few_wells_and_a_page_without_nan(tmp_path: Path, inputs: ReportInputs) -> None:
    tiny = lay_out_plates(make_screen(tmp_path, [("P", "A01", "x")], [1]))
    assert tiny["positions"]["rows"][0]["effects"] == [{"missing": "too few wells"}] * 3
    assert escape_json(tiny)
    found = lay_out_plates(inputs)
    assert escape_json(found)
    assert [len(measure["values"]) for measure in found["measures"]] == [len(inputs.wells)] * len(found["measures"])
    listed = [number for plate in found["plates"] for number in (*plate["wells"], *plate["beside"])]
    assert sorted(listed) == list(range(len(inputs.wells)))
    assert len(inputs.wells.drop_duplicates(WELL)) == len(listed)
