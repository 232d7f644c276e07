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
