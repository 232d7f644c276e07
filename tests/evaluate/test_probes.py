import numpy as np
import pytest

from cytoclr.evaluate import probe_mechanisms


def make_cells(draw_screen, effect, per_well=6, **others):
    wells, table = draw_screen(0, effect=effect, wells=3, features=12, **others)
    cells = wells.loc[wells.index.repeat(per_well)].reset_index(drop=True).assign(Metadata_Site=1)
    rng = np.random.default_rng(0)
    names = [name for name in cells if name.startswith("Cells_")]
    cells[names] += rng.normal(size=(len(cells), len(names)))
    return cells.assign(Metadata_CellID=[f"{i:05d}" for i in range(len(cells))]), table


def test_what_can_be_read_is_read_and_noise_is_not(draw_screen):
    seen = probe_mechanisms(*make_cells(draw_screen, effect=8.0), seed=0)
    assert seen["balanced_accuracy"] > 0.95
    assert seen["chance"] == 0.25
    noise = probe_mechanisms(*make_cells(draw_screen, effect=0.0), seed=0)
    assert noise["balanced_accuracy"] == pytest.approx(0.25, abs=0.12)


def test_a_well_is_on_one_side(draw_screen):
    """Wells that differ wildly, cells of a well alike: a split by cell would name every held-out cell rightly."""
    cells, table = make_cells(draw_screen, effect=0.0, compounds=6)
    found = probe_mechanisms(cells, table, seed=1)
    assert found["num_wells_train"] + found["num_wells_test"] == cells.drop_duplicates("Metadata_Well").shape[0] - 3
    assert found["balanced_accuracy"] < 0.5


def test_cells_are_capped_and_row_order_does_not_matter(draw_screen):
    cells, table = make_cells(draw_screen, effect=1.0)
    first = probe_mechanisms(cells, table, seed=0, max_cells=100, num_trees=10)
    assert first["num_cells"] == 100
    assert first == probe_mechanisms(cells.sample(frac=1, random_state=1), table, seed=0, max_cells=100, num_trees=10)


def test_one_mechanism_cannot_be_probed(draw_screen):
    assert probe_mechanisms(*make_cells(draw_screen, effect=1.0, mechanisms=1), seed=0) is None


def spread_out(cells, plates=4):
    """Every compound on several plates of several batches, instead of on one."""
    wells = cells["Metadata_Well"].str[1:].astype(int)
    return cells.assign(
        Metadata_Plate="p" + (wells % plates).astype(str), Metadata_Batch="b" + (wells % plates // 2).astype(str)
    )


@pytest.mark.parametrize("classifier", ["random-forest", "logistic", "knn"])
@pytest.mark.parametrize("held_out", ["well", "compound", "plate", "batch"])
def test_every_probe_reads_what_is_there_and_no_noise(draw_screen, held_out, classifier):
    cells, table = make_cells(draw_screen, effect=8.0, compounds=4)
    found = probe_mechanisms(spread_out(cells), table, seed=0, held_out=held_out, classifier=classifier)
    assert found["balanced_accuracy"] > 0.95
    assert (found["held_out"], found["classifier"], found["unanswerable"]) == (held_out, classifier, [])
    cells, table = make_cells(draw_screen, effect=0.0, compounds=4)
    found = probe_mechanisms(spread_out(cells), table, seed=0, held_out=held_out, classifier=classifier)
    assert found["balanced_accuracy"] == pytest.approx(found["chance"], abs=0.15)


def test_a_compound_is_on_one_side(draw_screen):
    """Compounds that differ wildly, wells of a compound alike: a probe of wells is misled, one of compounds is not."""
    cells, table = make_cells(draw_screen, effect=0.0, compounds=6)
    names = [name for name in cells if name.startswith("Cells_")]
    centres = dict(
        zip(sorted(set(cells["Metadata_Compound"])), 20 * np.random.default_rng(1).normal(size=(25, 12)), strict=True)
    )
    cells[names] += np.stack([centres[name] for name in cells["Metadata_Compound"]])
    assert probe_mechanisms(cells, table, seed=0)["balanced_accuracy"] > 0.95
    found = [probe_mechanisms(cells, table, seed=seed, held_out="compound", num_trees=20) for seed in range(3)]
    assert np.mean([one["balanced_accuracy"] for one in found]) < 0.5
    assert {(one["num_groups_train"], one["num_groups_test"]) for one in found} == {(16, 8)}


def test_each_mechanism_of_two_compounds_has_one_on_each_side(draw_screen):
    cells, table = make_cells(draw_screen, effect=8.0, compounds=2, mechanisms=6)
    for seed in range(5):
        found = probe_mechanisms(cells, table, seed=seed, held_out="compound", num_trees=10)
        assert (found["num_groups_train"], found["num_groups_test"]) == (6, 6)
        assert found["chance"] == 1 / 6
        assert found["balanced_accuracy"] > 0.9


def test_each_mechanism_keeps_a_group_in_training(draw_screen):
    cells, table = make_cells(draw_screen, effect=8.0, compounds=3, mechanisms=6)
    found = probe_mechanisms(cells, table, seed=0, held_out="compound", num_trees=10, test_fraction=0.9)
    assert (found["num_groups_train"], found["num_groups_test"]) == (6, 12)
    spread = spread_out(cells, plates=10)
    found = probe_mechanisms(spread, table, seed=0, held_out="plate", num_trees=10, test_fraction=0.95)
    assert found["num_groups_train"] == 1
    assert found["unanswerable"] == []


def test_mechanisms_of_one_group_are_named_and_not_asked(draw_screen):
    cells, table = make_cells(draw_screen, effect=8.0, compounds=3)
    fewer = table[~table["Metadata_Compound"].isin(["c0-1", "c0-2"])]
    found = probe_mechanisms(cells, fewer, seed=0, held_out="compound", num_trees=10)
    assert found["unanswerable"] == ["m0"]
    assert found["chance"] == 1 / 3
    most = probe_mechanisms(cells, fewer, seed=0, held_out="compound", num_trees=10, test_fraction=0.9)
    assert (most["num_groups_train"], most["num_groups_test"]) == (4, 6)  # what is not asked stays in training
    spread = spread_out(cells)
    spread.loc[spread["Metadata_Compound"].str.startswith("c1"), "Metadata_Batch"] = "b0"
    found = probe_mechanisms(spread, table, seed=0, held_out="batch", num_trees=10)
    assert found["unanswerable"] == ["m1"]
    spread.loc[spread["Metadata_Compound"].str.startswith("c0"), "Metadata_Batch"] = "b1"  # now each batch has one
    found = probe_mechanisms(spread, table, seed=0, held_out="batch", num_trees=10)
    assert (found["unanswerable"], found["chance"]) == (["m0", "m1"], 1 / 2)
    alone = table[table["Metadata_Compound"].str.endswith("-0")]
    assert probe_mechanisms(cells, alone, seed=0, held_out="compound") is None
    one_batch = cells.assign(Metadata_Batch="b0")
    assert probe_mechanisms(one_batch, table, seed=0, held_out="batch") is None


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
@pytest.mark.parametrize("held_out", ["compound", "plate", "batch"])
def test_order_of_rows_does_not_matter_to_any_probe(draw_screen, held_out, classifier):
    cells, table = make_cells(draw_screen, effect=1.0)
    cells = spread_out(cells)
    first = probe_mechanisms(cells, table, seed=0, held_out=held_out, classifier=classifier)
    shuffled = cells.sample(frac=1, random_state=1)
    assert first == probe_mechanisms(shuffled, table[::-1], seed=0, held_out=held_out, classifier=classifier)


def test_few_cells_and_constant_features_are_no_trouble(draw_screen):
    cells, table = make_cells(draw_screen, effect=1.0, per_well=1, compounds=2, doses=1)
    cells = cells.assign(Cells_constant=0.1)
    for classifier in ("logistic", "knn"):
        found = probe_mechanisms(cells, table, seed=0, classifier=classifier, held_out="compound")
        assert found["num_cells"] == 24
