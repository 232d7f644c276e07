import numpy as np
import pandas as pd
import pytest

from cytoclr.config import EvaluateSettings
from cytoclr.errors import SettingsError
from cytoclr.evaluate import Baseline, choose_epoch, describe_selection, evaluate, measure_epoch, score_epoch

FEW = EvaluateSettings(bootstraps=100, permutations=100)
EPOCHS = pd.DataFrame(
    {
        "epoch": [10, 20, 30, 40],
        "replicate_map": [0.2, 0.6, 0.6, 0.1],
        "effective_rank": [9.0, 5.0, 4.0, 3.0],
        "batch_accuracy": [0.9, 0.8, 0.3, 0.5],
        "nscb": [0.1, 0.2, 0.3, 0.4],
    }
)


@pytest.mark.parametrize(
    ("by", "epoch"), [("last", 40), ("replicate-map", 30), ("rank", 10), ("batch", 30), ("nscb", 40)]
)
def test_each_rule_chooses_its_best_and_of_ties_the_latest(by, epoch):
    assert choose_epoch(EPOCHS, by) == epoch
    assert choose_epoch(EPOCHS.sample(frac=1, random_state=0), by) == epoch


def test_epochs_without_the_measure_are_passed_over_and_none_at_all_refused():
    gappy = EPOCHS.assign(replicate_map=[0.5, np.nan, None, 0.1])
    assert choose_epoch(gappy, "replicate-map") == 10
    with pytest.raises(SettingsError, match=r"select\.by: batch needs batch_accuracy, which no epoch has"):
        choose_epoch(EPOCHS.assign(batch_accuracy=np.nan), "batch")


def test_hindsight_is_told():
    scores = {epoch: {"nsc": nsc, "nscb": None} for epoch, nsc in [(10, 0.4), (20, 0.7), (30, 0.5), (40, 0.7)]}
    told = describe_selection(EPOCHS, 30, "replicate-map", scores)
    assert told["oracle_gap"] == {"nsc": {"epoch": 40, "score": 0.7, "gap": pytest.approx(0.2)}, "nscb": None}
    assert told["epochs"][1] == {
        "epoch": 20,
        "replicate_map": 0.6,
        "effective_rank": 5.0,
        "batch_accuracy": 0.8,
        "nsc": 0.7,
        "nscb": None,
    }
    assert not told["uses_mechanisms"]
    assert describe_selection(EPOCHS, 40, "nscb", scores)["uses_mechanisms"]
    assert describe_selection(EPOCHS, 40, "last", {})["oracle_gap"] == {"nsc": None, "nscb": None}


def test_a_better_encoder_measures_better(draw_screen):
    good, table = draw_screen(0, effect=4.0, features=12, wells=3)
    noise, _ = draw_screen(0, effect=0.0, features=12, wells=3)
    measured = [measure_epoch(wells, wells, seed=0) for wells in (good, noise)]
    assert measured[0]["replicate_map"] > measured[1]["replicate_map"]
    assert measured[0]["effective_rank"] < measured[1]["effective_rank"]
    scored = [score_epoch(wells, table, FEW) for wells in (good, noise)]
    assert scored[0]["nscb"] > scored[1]["nscb"]
    assert score_epoch(good, table.assign(Metadata_Compound="x").head(1), FEW) == {"nsc": None, "nscb": None}


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("nscb", "Epoch 40 was chosen by NSCB on these very mechanisms: its scores are those of a fit."),
        ("rank", "without mechanisms. In hindsight the best would have been NSC 90.0% at epoch 10, 60.0 points above."),
    ],
)
def test_the_scores_are_stamped(draw_screen, by, words):
    wells, table = draw_screen(0)
    scores = {10: {"nsc": 0.9, "nscb": None}, 40: {"nsc": 0.3, "nscb": None}}
    selection = describe_selection(EPOCHS, 40, by, scores)
    found = evaluate(wells, table, FEW, seed=0, normalisation="none", selection=selection).scores
    assert any(words in note for note in found["notes"])
    assert found["selection"] == selection


def test_models_that_were_told_the_answer_are_marked(draw_screen):
    wells, table = draw_screen(0)
    found = evaluate(
        wells,
        table,
        FEW,
        seed=0,
        normalisation="none",
        labels_seen="treatments",
        baselines={"teacher": Baseline(wells, "mechanisms"), "plain": Baseline(wells)},
    ).scores
    assert found["labels_seen"] == "treatments"
    assert found["baselines"]["teacher"]["labels_seen"] == "mechanisms"
    assert any("These profiles are of a model that was told treatments" in note for note in found["notes"])
    assert any("The baseline teacher is of a model that was told mechanisms" in note for note in found["notes"])
    assert all(one["leaks"] for one in found["comparisons"])
    clean = evaluate(wells, table, FEW, seed=0, normalisation="none", baselines={"plain": Baseline(wells)}).scores
    assert not any(one["leaks"] for one in clean["comparisons"])
