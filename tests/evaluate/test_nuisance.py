import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cytoclr.evaluate.nuisance import _fold_cases, _name_classes, predict_nuisance
from cytoclr.tables import feature_columns


def make_controls(seed=0, batches=4, plates=3, controls=12, features=10, batch_effect=0.0, plate_effect=0.0):
    rng = np.random.default_rng(seed)
    rows, values = [], []
    for batch in range(batches):
        of_batch = batch_effect * rng.normal(size=features)
        for plate in range(plates):
            of_plate = plate_effect * rng.normal(size=features)
            for well in range(controls):
                rows.append((f"b{batch}", f"b{batch}-{plate}", f"W{well:02d}", "DMSO", 0.0, "negcon"))
                values.append(of_batch + of_plate + rng.normal(size=features))
    names = ["Batch", "Plate", "Well", "Compound", "Concentration", "control_type"]
    frame = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in names])
    return frame.join(pd.DataFrame(values, columns=[f"Cells_F{i}" for i in range(features)]))


def test_without_effects_prediction_is_chance():
    found = predict_nuisance(make_controls(), seed=0)
    for name, classes in (("batch", 4), ("plate", 12)):
        one = found[name]
        assert (one["num_wells"], one["num_classes"], one["chance"]) == (144, classes, 1 / classes)
        assert one["balanced_accuracy"] == pytest.approx(one["chance"], abs=0.12)
        assert one["chance"] < one["p95"] < 0.5
        assert one["left_out"] == []
    assert (found["batch"]["held_out"], found["plate"]["held_out"]) == ("plate", "well")


def test_a_batch_effect_is_found_on_plates_not_seen():
    found = predict_nuisance(make_controls(batch_effect=3.0), seed=0)
    assert found["batch"]["balanced_accuracy"] > 0.95
    assert found["batch"]["balanced_accuracy"] > found["batch"]["p95"]
    assert found["plate"]["balanced_accuracy"] < 0.6  # of three plates alike one is named


def test_a_plate_effect_is_no_batch_effect():
    """Were plates on both sides, the batch of each would be told by its plate."""
    found = predict_nuisance(make_controls(plate_effect=3.0, plates=4), seed=0)
    assert found["plate"]["balanced_accuracy"] > 0.95
    assert found["batch"]["balanced_accuracy"] < 0.55
    assert found["batch"]["balanced_accuracy"] <= found["batch"]["p95"] + 0.1


def test_centring_plates_takes_it_away():
    wells = make_controls(batch_effect=2.0, plate_effect=2.0)
    names = feature_columns(wells)
    centred = wells.assign(**(wells[names] - wells.groupby("Metadata_Plate")[names].transform("mean")))
    after = predict_nuisance(centred, seed=0)
    assert after["batch"]["balanced_accuracy"] < 0.4
    assert after["plate"]["balanced_accuracy"] < 0.2


def test_batches_of_one_plate_are_held_out_by_well():
    found = predict_nuisance(make_controls(plates=1, batch_effect=3.0), seed=0)
    assert found["batch"]["held_out"] == "well"
    assert found["batch"] == found["plate"]


def test_what_is_too_small_is_left_out():
    wells = make_controls()
    fewer = wells[~wells["Metadata_Plate"].isin(["b0-1", "b0-2"])]
    assert predict_nuisance(fewer, seed=0)["batch"]["left_out"] == ["b0"]
    lone = wells.drop(index=wells.index[wells["Metadata_Plate"] == "b1-0"][1:])
    assert predict_nuisance(lone, seed=0)["plate"]["left_out"] == ["b1-0"]
    assert predict_nuisance(make_controls(controls=1, plates=1), seed=0) == {"batch": None, "plate": None}
    assert predict_nuisance(make_controls(batches=1, plates=1), seed=0) == {"batch": None, "plate": None}
    assert predict_nuisance(wells.assign(Metadata_control_type="trt"), seed=0) == {"batch": None, "plate": None}
    assert predict_nuisance(make_controls(batches=1), seed=0)["batch"] is None


def test_treated_wells_take_no_part(draw_screen):
    wells = make_controls(batch_effect=1.0)
    treated = wells.assign(
        Metadata_control_type="trt", Metadata_Compound="a", Metadata_Well="T" + wells["Metadata_Well"]
    )
    assert predict_nuisance(pd.concat([wells, treated], ignore_index=True), seed=0) == predict_nuisance(wells, seed=0)


def test_each_fold_has_whole_plates_and_each_batch_stays_in_training():
    labels = np.repeat([0, 1, 2], [8, 12, 20])
    cases = np.concatenate([np.repeat([0, 1], 4), np.repeat([2, 3, 4], 4), np.repeat([5, 6, 7, 8, 9], 4)])
    for seed in range(20):
        folds = _fold_cases(labels, cases, 5, seed)
        assert all(len(set(folds[cases == case])) == 1 for case in range(10))
        assert all(set(labels[folds != fold]) == {0, 1, 2} for fold in set(folds))


def test_the_classifier_is_linear_discriminant_analysis():
    wells = make_controls(controls=40, batch_effect=0.5, plates=1)
    mixed = wells[feature_columns(wells)].to_numpy() @ np.random.default_rng(1).normal(size=(10, 10))
    labels = pd.factorize(wells["Metadata_Batch"])[0]
    known, queries = mixed[::2] / mixed[::2].std(axis=0), mixed[1::2] / mixed[::2].std(axis=0)
    means = np.stack([known[labels[::2] == label].mean(axis=0) for label in range(4)])
    _, shrinkage = ledoit_wolf(known - means[labels[::2]], assume_centered=True)
    model = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(4, 0.25), shrinkage=shrinkage)
    expected = model.fit(known, labels[::2]).predict(queries)
    assert 0.3 < np.mean(expected == labels[1::2]) < 0.9
    # neither unit nor offset of a feature matters
    moved = mixed * np.geomspace(0.1, 100, 10) + 7.0
    assert _name_classes(moved[::2], labels[::2], moved[1::2]).tolist() == expected.tolist()


def test_more_features_than_wells_and_features_without_spread():
    wells = make_controls(features=300, batch_effect=0.6)
    found = predict_nuisance(wells.assign(Cells_constant=0.1), seed=0)
    assert found["batch"]["balanced_accuracy"] > 0.9
    same = wells.assign(**dict.fromkeys(feature_columns(wells), 0.1))
    assert predict_nuisance(same, seed=0)["batch"]["balanced_accuracy"] == pytest.approx(0.25)


def test_order_of_rows_does_not_matter_and_the_seed_decides():
    wells = make_controls(batch_effect=0.4)
    first = predict_nuisance(wells, seed=0)
    assert first == predict_nuisance(wells.sample(frac=1, random_state=1), seed=0)
    assert any(first != predict_nuisance(wells, seed=seed) for seed in (1, 2, 3))
