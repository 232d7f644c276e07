import json

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import EvaluateSettings
from cytoclr.errors import DataError
from cytoclr.evaluate import Baseline, evaluate

FEW = EvaluateSettings(bootstraps=200, permutations=200)
COLUMNS = [
    "features",
    "score",
    "Metadata_Compound",
    "Metadata_Concentration",
    "Metadata_MoA",
    "Match_Compound",
    "Match_Concentration",
    "Match_MoA",
    "Predicted_MoA",
    "similarity",
    "correct",
]


def run(wells, table, **others):
    return evaluate(wells, table, FEW, seed=0, normalisation="none", **others)


def make_cells(wells, per_well=4):
    cells = wells.loc[wells.index.repeat(per_well)].reset_index(drop=True).assign(Metadata_Site=1)
    return cells.assign(Metadata_CellID=[f"{i:05d}" for i in range(len(cells))])


def test_scores_are_json_and_matches_agree_with_them(draw_screen):
    wells, table = draw_screen(0, effect=3.0, features=20)
    noise, _ = draw_screen(0, effect=0.0, features=20)
    evaluation = run(wells, table, embeddings=make_cells(wells), baselines={"untrained": Baseline(noise)})
    scores = evaluation.scores
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert list(scores) == [
        "format",
        "protocol",
        "normalisation",
        "labels_seen",
        "counts",
        "nsc",
        "nscb",
        "nsc_on_nscb_treatments",
        "drop",
        "activity",
        "replicating",
        "consistency",
        "matching",
        "nuisance",
        "geometry",
        "probes",
        "baselines",
        "comparisons",
        "selection",
        "notes",
    ]
    assert scores["protocol"]["name"] == "treatment-mean"
    assert list(evaluation.matches.columns) == COLUMNS
    groups = evaluation.matches.groupby(["features", "score"])["correct"].agg(["sum", "size"])
    for name, found in [("trained", scores), ("untrained", scores["baselines"]["untrained"])]:
        for score in ("nsc", "nscb"):
            assert groups.loc[(name, score)].tolist() == [found[score]["correct"], found[score]["total"]]
    same = evaluation.matches["Metadata_MoA"] == evaluation.matches["Match_MoA"]
    assert (same == evaluation.matches["correct"]).all()
    assert scores["drop"] == pytest.approx(scores["nsc_on_nscb_treatments"]["score"] - scores["nscb"]["score"])
    assert scores["nsc_on_nscb_treatments"]["total"] == scores["nscb"]["total"]


def test_a_gain_over_noise_is_seen_and_no_gain_over_itself(draw_screen):
    wells, table = draw_screen(0, effect=5.0, mechanisms=5, compounds=5, features=20)
    noise, _ = draw_screen(0, effect=0.0, mechanisms=5, compounds=5, features=20)
    comparisons = run(wells, table, baselines={"untrained": Baseline(noise), "itself": Baseline(wells)}).scores[
        "comparisons"
    ]
    by_name = {(one["b"], one["score"]): one for one in comparisons}
    assert by_name["untrained", "nscb"]["interval"][0] > 0.3
    assert by_name["itself", "nsc"]["gain"] == 0
    assert by_name["itself", "nsc"]["interval"] == [0, 0]


def test_the_seed_decides(draw_screen):
    wells, table = draw_screen(0, effect=1.0)
    assert run(wells, table).scores == run(wells.sample(frac=1, random_state=1), table).scores
    other = evaluate(wells, table, FEW, seed=1, normalisation="none").scores
    assert other["nsc"]["chance"]["mean"] != run(wells, table).scores["nsc"]["chance"]["mean"]


def test_without_mechanisms_the_reason_is_given(draw_screen):
    wells, table = draw_screen(0)
    for given, words in [
        (None, "No mechanism table"),
        (table.assign(Metadata_Compound="taxol x"), "Compare the spelling"),
    ]:
        table_given = None if given is None else given.drop_duplicates(["Metadata_Compound", "Metadata_Concentration"])
        evaluation = run(wells, table_given)
        assert evaluation.scores["nsc"] is None
        assert evaluation.scores["nscb"] is None
        assert words in evaluation.scores["reason"]
        assert evaluation.matches.empty
        assert list(evaluation.matches.columns) == COLUMNS
        json.dumps(evaluation.scores, allow_nan=False)


def test_an_empty_mechanism_table_is_refused(draw_screen):
    wells, table = draw_screen(0)
    with pytest.raises(DataError, match="the table has no rows"):
        run(wells, table.head(0))


def test_gaps_in_profiles_are_refused(draw_screen):
    wells, table = draw_screen(0)
    wells.loc[2, "Cells_F1"] = np.nan
    with pytest.raises(DataError, match="Cells_F1 is empty or infinite in 1 of"):
        run(wells, table)


def test_one_batch_leaves_nscb_out_and_says_so(draw_screen):
    wells, table = draw_screen(0, batches=1)
    scores = run(wells, table).scores
    assert scores["nsc"]["total"] == len(table)
    assert scores["nscb"] is scores["drop"] is None
    assert any("NSCB needs" in note for note in scores["notes"])


def test_mechanisms_of_one_compound_are_noted(draw_screen):
    wells, table = draw_screen(0)
    table.loc[table["Metadata_Compound"] == "c0-0", "Metadata_MoA"] = "alone"
    assert any("no right answer with one compound alone: alone" in note for note in run(wells, table).scores["notes"])


def test_controls_in_the_mechanism_table_take_no_part(draw_screen):
    wells, table = draw_screen(0)
    control = pd.DataFrame([("DMSO", 0.0, "DMSO")], columns=table.columns)
    assert run(wells, pd.concat([table, control])).scores == run(wells, table).scores


def test_a_protocol_with_another_normalisation_is_noted(draw_screen):
    wells, table = draw_screen(0)
    asked = EvaluateSettings(protocol="broad-notebook", bootstraps=100, permutations=100)
    for normalisation, noted in [("tvn", True), ("broad-notebook", False)]:
        notes = evaluate(wells, table, asked, seed=0, normalisation=normalisation).scores["notes"]
        assert any("is defined on profiles normalised by broad-notebook" in note for note in notes) == noted


@pytest.mark.parametrize("protocol", ["treatment-mean", "strict"])
def test_one_compound_in_one_batch_cannot_be_scored(draw_screen, protocol):
    wells, table = draw_screen(0, mechanisms=1, compounds=1, batches=1)
    asked = EvaluateSettings(protocol=protocol)
    evaluation = evaluate(wells, table, asked, seed=0, normalisation="none", baselines={"itself": Baseline(wells)})
    assert evaluation.scores["nsc"] is evaluation.scores["nscb"] is None
    assert evaluation.scores["comparisons"] == []
    assert evaluation.matches.empty
    assert "NSC needs at least two compounds with a mechanism." in evaluation.scores["notes"]


def test_the_mechanism_table_alone_decides(draw_screen):
    wells, table = draw_screen(0)
    cells = make_cells(wells)
    expected = run(wells, table, embeddings=cells).scores
    marked = run(wells.assign(Metadata_MoA="x"), table, embeddings=cells.assign(Metadata_MoA="x")).scores
    assert marked == expected
