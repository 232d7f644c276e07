import base64
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.config import EvaluateSettings, ProtocolChanges
from cytoclr.evaluate import evaluate
from cytoclr.report import ReportInputs, leave_out_untreated
from cytoclr.report import treatments as module
from cytoclr.report.shown import Shown, choose_cells
from cytoclr.report.treatments import cluster_rows, find_neighbours, relate_treatments, scale_to_one
from cytoclr.tables import TREATMENT, feature_matrix, is_control


@pytest.fixture(scope="module")
def treated(inputs: ReportInputs) -> ReportInputs:
    """The inputs as the page's data are made of them: without the untreated."""
    return replace(inputs, treatments=leave_out_untreated(inputs.treatments, inputs.wells))


@pytest.fixture(scope="module")
def shown(inputs: ReportInputs) -> Shown:
    assert inputs.embeddings is not None
    return choose_cells(
        inputs.cells,
        feature_matrix(inputs.embeddings),
        per_well=8,
        pictures=1600,
        generator=np.random.default_rng(0),
    )


@pytest.fixture(scope="module")
def relations(treated: ReportInputs, shown: Shown) -> dict:
    return relate_treatments(treated, shown)


def read_heat(heat: dict) -> np.ndarray:
    """The whole matrix again, as the page reads it."""
    count = len(heat["rows"])
    triangle = np.frombuffer(base64.b64decode(heat["similarities"]), dtype=np.int8) / 127
    matrix = np.zeros((count, count))
    matrix[np.tril_indices(count)] = triangle
    return matrix + np.tril(matrix, -1).T


def compute_cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


# ---- neighbours ----


def test_neighbours_are_those_of_slow_loops(relations: dict, treated: ReportInputs) -> None:
    features, compounds = feature_matrix(treated.treatments), list(treated.treatments["Metadata_Compound"])
    for asker in range(len(features)):
        others = [i for i in range(len(features)) if compounds[i] != compounds[asker]]
        others.sort(key=lambda i: -compute_cosine(features[asker], features[i]))
        told = relations["neighbours"][asker]
        assert [line[0] for line in told] == others[:5]
        expected = [compute_cosine(features[asker], features[i]) for i in others[:5]]
        np.testing.assert_allclose([line[1] for line in told], expected, atol=6e-4)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 3)), min_size=1, max_size=12))
def test_ties_go_to_the_earlier_row_whatever_the_blocks(rows: list[tuple[int, int, int]]) -> None:
    features = scale_to_one(np.array([row[:2] for row in rows], dtype=np.float64))
    groups = np.array([row[2] for row in rows])
    found, similarities = find_neighbours(features, groups, number=3)
    for row in range(len(rows)):
        others = [i for i in range(len(rows)) if groups[i] != groups[row]]
        others.sort(key=lambda i: -round(float(features[row] @ features[i]), 12))
        few = others[:3]
        assert list(found[row]) == few + [-1] * (3 - len(few))
        np.testing.assert_allclose(
            similarities[row, : len(few)], [features[row] @ features[i] for i in few], atol=1e-11
        )


def test_many_blocks_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features = scale_to_one(np.random.default_rng(0).normal(size=(50, 4)))
    groups = np.arange(50) // 3
    at_once = find_neighbours(features, groups, number=4)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    in_blocks = find_neighbours(features, groups, number=4)
    np.testing.assert_array_equal(at_once[0], in_blocks[0])
    np.testing.assert_array_equal(at_once[1], in_blocks[1])


@pytest.mark.parametrize("shared_batches", ["exclude", "joined", "same-mechanism"])
@pytest.mark.parametrize("score", ["nsc", "nscb"])
def test_the_first_that_a_score_admits_is_its_match(
    treated: ReportInputs, shown: Shown, score: str, shared_batches: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all neighbours listed: the page's marks against the scores themselves."""
    monkeypatch.setattr(module, "NUM_NEIGHBOURS", 100)
    settings = EvaluateSettings(
        bootstraps=100, permutations=100, probe=False, protocol_changes=ProtocolChanges(shared_batches=shared_batches)
    )
    found = evaluate(treated.wells, treated.mechanisms, settings, seed=0, normalisation="none")
    relations = relate_treatments(replace(treated, scores=found.scores, matches=found.matches), shown)
    names = list(treated.treatments[TREATMENT].itertuples(index=False, name=None))
    matches = found.matches[(found.matches["features"] == "trained") & (found.matches["score"] == score)]
    assert len(matches) > 10
    place = 3 if score == "nsc" else 4
    for row in matches.to_dict("records"):
        asker = names.index((row["Metadata_Compound"], row["Metadata_Concentration"]))
        admitted = [line[0] for line in relations["neighbours"][asker] if line[place]]
        assert names[admitted[0]] == (row["Match_Compound"], row["Match_Concentration"])


def test_mechanisms_confined_to_a_batch_are_not_admitted(treated: ReportInputs, shown: Shown) -> None:
    """One mechanism is moved into one batch: NSCB drops it, and the page says so."""
    assert treated.mechanisms is not None
    first = {"compound 00", "compound 02", "compound 04", "compound 06"}
    own = treated.mechanisms["Metadata_Compound"].isin(first)
    mechanisms = treated.mechanisms.assign(
        Metadata_MoA=np.where(own, "lonely", "all others").astype(object),
    )
    settings = EvaluateSettings(bootstraps=100, permutations=100, probe=False)
    found = evaluate(treated.wells, mechanisms, settings, seed=0, normalisation="none")
    assert found.scores["nscb"]["dropped_mechanisms"] == ["lonely"]
    relations = relate_treatments(replace(treated, scores=found.scores, mechanisms=mechanisms), shown)
    names = list(treated.treatments["Metadata_Compound"])
    lines = [line for of in relations["neighbours"] for line in of if names[line[0]] in first]
    assert lines
    assert {(line[3], line[4]) for line in lines} == {(True, False)}


def test_without_mechanisms_no_score_admits_anybody(treated: ReportInputs, shown: Shown) -> None:
    bare = replace(treated, mechanisms=None, matches=None, scores={"nsc": None, "reason": "No mechanism table."})
    lines = [line for of in relate_treatments(bare, shown)["neighbours"] for line in of]
    assert {(line[3], line[4]) for line in lines} == {(None, None)}
    assert {line[2] for line in lines} == {True, False}


def test_with_a_protocol_of_wells_batches_are_left_to_the_wells(treated: ReportInputs, shown: Shown) -> None:
    scores = {**treated.scores, "protocol": {**treated.scores["protocol"], "level": "well"}}
    lines = [line for of in relate_treatments(replace(treated, scores=scores), shown)["neighbours"] for line in of]
    assert {(line[3], line[4]) for line in lines} == {(True, None)}


# ---- doses, replicates, cells ----


def test_doses_are_measured_from_the_untreated_and_from_the_highest(relations: dict, treated: ReportInputs) -> None:
    features = feature_matrix(treated.treatments)
    rows = list(treated.treatments[TREATMENT].itertuples(index=False, name=None))
    assert relations["dose"] == [dose for _, dose in rows]
    np.testing.assert_allclose(relations["length"], np.sqrt((features**2).sum(axis=1)), rtol=1e-3)
    for number, (compound, _) in enumerate(rows):
        highest = rows.index((compound, 1.0))
        expected = compute_cosine(features[number], features[highest])
        assert relations["to_highest"][number] == pytest.approx(expected, abs=6e-4)
    controls = feature_matrix(treated.wells[is_control(treated.wells)])
    assert relations["well_length"] == pytest.approx(np.median(np.linalg.norm(controls, axis=1)), rel=1e-3)


def test_a_single_dose_is_compared_with_nothing(treated: ReportInputs, shown: Shown) -> None:
    highest = treated.treatments["Metadata_Concentration"] == 1.0
    relations = relate_treatments(replace(treated, treatments=treated.treatments[highest]), shown)
    assert relations["to_highest"] == [None] * int(highest.sum())


def test_profiles_that_were_not_normalised_are_no_distance_to_the_untreated(
    treated: ReportInputs, shown: Shown
) -> None:
    assert relate_treatments(treated, shown)["centred"]
    raw = replace(treated, scores={**treated.scores, "normalisation": "none"})
    assert not relate_treatments(raw, shown)["centred"]


def test_replicates_are_those_of_the_trained_encoder(treated: ReportInputs, shown: Shown) -> None:
    own = treated.treatments[TREATMENT].iloc[::-1].reset_index(drop=True).iloc[:-1]
    # as a table that passed through single precision
    own["Metadata_Concentration"] = own["Metadata_Concentration"].astype(np.float32)
    trained = own.assign(
        features="trained", map=np.linspace(0.2, 1, len(own)), corrected_p_value=0.04, active=[True, *[False] * 46]
    )
    other = trained.assign(features="untrained", map=0.1, active=False)
    relations = relate_treatments(replace(treated, activity=pd.concat([other, trained])), shown)
    assert relations["map"][0] is None
    assert relations["active"][0] is None
    np.testing.assert_allclose(relations["map"][1:], np.linspace(0.2, 1, len(own))[::-1], atol=6e-4)
    assert relations["active"][-1] is True
    assert set(relations["active"][1:-1]) == {False}
    assert set(relations["p"][1:]) == {0.04}


def test_without_activity_there_is_none(treated: ReportInputs, shown: Shown) -> None:
    relations = relate_treatments(replace(treated, activity=None), shown)
    assert set(relations["map"]) == set(relations["active"]) == {None}


def test_cells_are_counted_and_the_untreated_are_of_their_plate(
    relations: dict, treated: ReportInputs, shown: Shown
) -> None:
    sizes = treated.cells.groupby(TREATMENT).size()
    expected = [sizes[key] for key in treated.treatments[TREATMENT].itertuples(index=False, name=None)]
    assert relations["cells"] == expected
    assert list(relations["untreated"]) == sorted(set(treated.cells["Metadata_Plate"]))
    for plate, tiles in relations["untreated"].items():
        cells = treated.cells.iloc[shown.rows[tiles]]
        assert len(cells) == 8
        assert set(cells["Metadata_Plate"]) == {plate}
        assert set(cells["Metadata_control_type"]) == {"negcon"}
        assert set(cells["Metadata_Well"].iloc[:3]) == {"A01", "A02", "A03"}  # well after well


# ---- the heat map ----


def test_the_heat_map_holds_all_cosines_in_the_order_of_the_clusters(relations: dict, treated: ReportInputs) -> None:
    heat = relations["heat"]
    features = scale_to_one(feature_matrix(treated.treatments))
    cosines = features @ features.T
    assert sorted(heat["rows"]) == list(range(len(features)))
    np.testing.assert_allclose(read_heat(heat), cosines[np.ix_(heat["rows"], heat["rows"])], atol=0.5 / 127 + 1e-9)
    assert (heat["of"], heat["left_out"], heat["by"]) == ("treatments", 0, None)
    assert heat["names"][0] == f"{treated.treatments['Metadata_Compound'].iloc[heat['rows'][0]]} " + (
        f"{treated.treatments['Metadata_Concentration'].iloc[heat['rows'][0]]:g} µM"
    )


def test_clusters_lie_together() -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(4)[generator.permutation(np.arange(40) % 4)]
    rows = scale_to_one(centres + generator.normal(0, 0.1, centres.shape))
    order = cluster_rows(rows @ rows.T)
    kinds = centres.argmax(axis=1)[order]
    assert (np.diff(kinds) != 0).sum() == 3
    assert sorted(order) == list(range(40))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows_need_no_clusters(count: int) -> None:
    assert sorted(cluster_rows(np.eye(count))) == list(range(count))


def test_a_profile_of_nothing_is_like_no_other(treated: ReportInputs, shown: Shown) -> None:
    treatments = treated.treatments.copy()
    names = [name for name in treatments if name.startswith("Cells_")]
    treatments.iloc[3, [treatments.columns.get_loc(name) for name in names]] = 0.0
    heat = relate_treatments(replace(treated, treatments=treatments), shown)["heat"]
    place = heat["rows"].index(3)
    assert not read_heat(heat)[place].any()


def test_too_many_treatments_are_drawn_by_compound(
    treated: ReportInputs, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 30)
    heat = relate_treatments(treated, shown)["heat"]
    compounds = treated.treatments["Metadata_Compound"]
    means = pd.DataFrame(feature_matrix(treated.treatments)).groupby(compounds.to_numpy()).mean()
    directions = scale_to_one(means.loc[heat["names"]].to_numpy())
    np.testing.assert_allclose(read_heat(heat), directions @ directions.T, atol=0.5 / 127 + 1e-9)
    assert heat["of"] == "compounds"
    lengths = np.linalg.norm(feature_matrix(treated.treatments), axis=1)
    for name, row in zip(heat["names"], heat["rows"], strict=True):
        own = np.flatnonzero(compounds == name)
        assert row == own[np.argmax(lengths[own])]


@pytest.mark.parametrize("by", ["activity", "length"])
def test_too_many_compounds_leave_the_most_active(
    treated: ReportInputs, shown: Shown, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 10)
    activity = None
    expected = np.argsort(-np.linalg.norm(feature_matrix(treated.treatments), axis=1))[:10]
    if by == "activity":
        strength = np.random.default_rng(0).permutation(48) / 48
        activity = treated.treatments[TREATMENT].assign(
            features="trained", map=strength, corrected_p_value=0.1, active=False
        )
        expected = np.argsort(-strength)[:10]
    heat = relate_treatments(replace(treated, activity=activity), shown)["heat"]
    assert sorted(heat["rows"]) == sorted(expected)
    assert (heat["left_out"], heat["by"]) == (38, by)


def test_all_of_it_is_the_same_whatever_the_order_of_wells_and_cells(treated: ReportInputs, shown: Shown) -> None:
    mixed = replace(treated, wells=treated.wells.sample(frac=1, random_state=0))
    assert relate_treatments(mixed, shown) == relate_treatments(treated, shown)
