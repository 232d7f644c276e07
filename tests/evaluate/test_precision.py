import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ks_2samp
from sklearn.metrics import average_precision_score

from cytoclr.errors import DataError
from cytoclr.evaluate.precision import _compute_expected, _compute_precision, _draw_null, measure_activity
from cytoclr.evaluate.precision import measure_consistency as consistency
from cytoclr.evaluate.protocols import PROTOCOLS
from cytoclr.evaluate.treatments import annotate_treatments
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns


def make_plates(draw_screen, seed=0, controls=6, wells=1, batches_per_treatment=3, **others):
    """A screen with so many controls on each plate, instead of one."""
    frame, table = draw_screen(seed, wells=wells, batches_per_treatment=batches_per_treatment, **others)
    rng = np.random.default_rng(1000 + seed)  # the screen's own begins with the centres of its mechanisms
    names = feature_columns(frame)
    own = frame[frame["Metadata_control_type"] == "negcon"]
    more = own.loc[own.index.repeat(controls)].reset_index(drop=True)
    more[names] = rng.normal(size=(len(more), len(names)))
    frame = pd.concat([frame.drop(index=own.index), more], ignore_index=True)
    return frame.assign(Metadata_Well=[f"W{i:04d}" for i in range(len(frame))]), table


def annotate(wells, table):
    return annotate_treatments(wells, table, PROTOCOLS["treatment-mean"])


def cosine(first, second):
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


def rank_slowly(positives, negatives):
    """Average precision from its definition; of equals the negative comes first."""
    ranked = sorted([(-s, 1) for s in positives] + [(-s, 0) for s in negatives])
    found, total = 0, 0.0
    for rank, (_, positive) in enumerate(ranked, 1):
        found += positive
        total += positive * found / rank
    return total / found


def score_slowly(wells):
    """Mean average precision of each treatment by loops over wells, and by scikit-learn."""
    features = wells[feature_columns(wells)].to_numpy()
    rows = wells.to_dict("records")
    slow, sklearn = {}, {}
    for i, query in enumerate(rows):
        if query["Metadata_control_type"] == "negcon":
            continue
        key = tuple(query[name] for name in TREATMENT)
        positives, negatives = [], []
        for j, other in enumerate(rows):
            if other["Metadata_control_type"] == "negcon":
                if other["Metadata_Plate"] == query["Metadata_Plate"]:
                    negatives.append(cosine(features[i], features[j]))
            elif i != j and tuple(other[name] for name in TREATMENT) == key:
                positives.append(cosine(features[i], features[j]))
        if positives and negatives:
            slow.setdefault(key, []).append(rank_slowly(positives, negatives))
            truth = [1] * len(positives) + [0] * len(negatives)
            sklearn.setdefault(key, []).append(average_precision_score(truth, positives + negatives))
    return ({key: np.mean(values) for key, values in one.items()} for one in (slow, sklearn))


@pytest.mark.parametrize("seed", range(3))
def test_activity_is_the_definition_written_as_loops_and_scikit_learn(draw_screen, seed):
    wells, _ = make_plates(draw_screen, seed, effect=0.5, controls=4 + seed)
    summary, table = measure_activity(wells, permutations=50, seed=0)
    slow, sklearn = score_slowly(wells)
    assert len(table) == len(slow) == 24
    found = dict(zip(table[TREATMENT].itertuples(index=False, name=None), table["map"], strict=True))
    assert found == pytest.approx(slow)
    assert found == pytest.approx(sklearn)
    assert summary["map"] == pytest.approx(np.mean(list(slow.values())))
    assert (table["num_wells"] == 3).all()


def run_copairs(frame, features, positive, negative, by, tmp_path, permutations=5000):
    copairs = pytest.importorskip("copairs.map")
    ranked = copairs.average_precision(frame, features, *positive, *negative, progress_bar=False)
    settings = {"null_size": permutations, "threshold": 0.05, "seed": 0, "progress_bar": False}
    return ranked, lambda kept: copairs.mean_average_precision(kept, by, cache_dir=tmp_path, **settings)


def test_activity_is_that_of_copairs(draw_screen, tmp_path):
    """Enough controls and wells that a perfect score is rare, so that its way of counting ties matters little."""
    wells, _ = make_plates(draw_screen, 1, effect=0.6, controls=20, batches=4, batches_per_treatment=4)
    frame = wells[[*TREATMENT, "Metadata_Plate"]].assign(Reference=-1)
    control = wells["Metadata_control_type"] == "negcon"
    frame.loc[control, "Reference"] = np.flatnonzero(control)  # so controls are no positives of one another
    features = wells[feature_columns(wells)].to_numpy()
    ranked, finish = run_copairs(
        frame,
        features,
        ([*TREATMENT, "Reference"], []),
        (["Metadata_Plate"], [*TREATMENT, "Reference"]),
        TREATMENT,
        tmp_path,
    )
    assert set(ranked.loc[~control, "n_pos_pairs"]) == {3}
    assert set(ranked.loc[~control, "n_total_pairs"]) == {23}
    theirs = finish(ranked[~control])
    _, ours = measure_activity(wells, permutations=5000, seed=0)
    both = ours.merge(theirs, on=TREATMENT, suffixes=("", "_theirs"))
    assert len(both) == len(ours) == len(theirs)
    assert both["map"].to_numpy() == pytest.approx(both["mean_average_precision"].to_numpy())
    assert both["normalised_map"].to_numpy() == pytest.approx(both["mean_normalized_average_precision"].to_numpy())
    assert both["p_value"].to_numpy() == pytest.approx(both["p_value_theirs"].to_numpy(), abs=0.03)
    assert both["corrected_p_value"].to_numpy() == pytest.approx(false_discovery_control(both["p_value"]))


def test_consistency_is_that_of_copairs(draw_screen, tmp_path):
    wells, table = draw_screen(3, effect=0.7, mechanisms=6, compounds=4)
    treatments = annotate(wells, table)
    ranked, finish = run_copairs(
        treatments.frame,
        treatments.features,
        ([MECHANISM], ["Metadata_Compound"]),
        ([], [MECHANISM]),
        [MECHANISM],
        tmp_path,
    )
    assert set(ranked["n_pos_pairs"]) == {6}
    assert set(ranked["n_total_pairs"]) == {46}
    theirs = finish(ranked)
    summary, ours = consistency(treatments, permutations=5000, seed=0)
    both = ours.merge(theirs, on=MECHANISM, suffixes=("", "_theirs"))
    assert len(both) == 6
    assert both["map"].to_numpy() == pytest.approx(both["mean_average_precision"].to_numpy())
    assert both["normalised_map"].to_numpy() == pytest.approx(both["mean_normalized_average_precision"].to_numpy())
    assert both["p_value"].to_numpy() == pytest.approx(both["p_value_theirs"].to_numpy(), abs=0.03)
    assert summary["num_treatments"] == 48
    assert summary["map"] == pytest.approx(both["map"].mean())


def consist_slowly(treatments, across_batches):
    found = {}
    rows = treatments.frame.to_dict("records")
    for i, query in enumerate(rows):
        positives, negatives = [], []
        for j, other in enumerate(rows):
            if other["Metadata_Compound"] == query["Metadata_Compound"]:
                continue
            if across_batches and (treatments.batches[i] & treatments.batches[j]).any():
                continue
            similarity = cosine(treatments.features[i], treatments.features[j])
            (positives if other[MECHANISM] == query[MECHANISM] else negatives).append(similarity)
        if positives and negatives:
            found.setdefault(query[MECHANISM], []).append(rank_slowly(positives, negatives))
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("across_batches", [False, True])
@pytest.mark.parametrize("batches_per_treatment", [1, 2])
def test_consistency_is_the_definition_written_as_loops(draw_screen, across_batches, batches_per_treatment):
    wells, table = draw_screen(2, effect=0.5, batches=4, batches_per_treatment=batches_per_treatment)
    table.loc[table["Metadata_Compound"] == "c0-0", MECHANISM] = ["m0", "m1"]  # a compound with two mechanisms
    treatments = annotate(wells, table)
    summary, found = consistency(treatments, permutations=50, across_batches=across_batches, seed=0)
    slow = consist_slowly(treatments, across_batches)
    assert dict(zip(found[MECHANISM], found["map"], strict=True)) == pytest.approx(slow)
    assert summary["total"] == len(slow)
    assert summary["across_batches"] is across_batches


def test_planted_activity_is_found_and_noise_is_not(draw_screen):
    wells, _ = make_plates(draw_screen, effect=8.0, controls=24, batches=4, batches_per_treatment=4, features=20)
    summary, table = measure_activity(wells, permutations=2000, seed=0)
    assert summary["share"] == 1.0
    assert summary["map"] > 0.95
    assert table["active"].all()
    noise, _ = make_plates(draw_screen, effect=0.0, controls=24, batches=4, batches_per_treatment=4, features=20)
    summary, table = measure_activity(noise, permutations=2000, seed=0)
    assert summary["active"] == 0
    assert summary["normalised_map"] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("replicates", "controls"), [(2, [6, 6]), (2, [20, 19]), (3, [6, 6, 6]), (4, [30, 28, 25, 20])]
)
def test_without_effects_p_values_are_not_too_small(draw_screen, replicates, controls):
    """Few controls (a perfect score is common) and unequal ones: copairs 0.5.5 finds too many in both."""
    wells, _ = make_plates(
        draw_screen,
        mechanisms=10,
        compounds=50,
        doses=1,
        batches=replicates,
        batches_per_treatment=replicates,
        controls=max(controls),
        features=10,
    )
    number = wells[wells["Metadata_control_type"] == "negcon"].groupby("Metadata_Plate").cumcount()
    allowed = wells["Metadata_Batch"].str[1:].astype(int).map(dict(enumerate(controls)))
    summary, table = measure_activity(wells.drop(index=number.index[number >= allowed[number.index]]), seed=0)
    assert summary["total"] == 500
    for level in (0.01, 0.05, 0.1):
        assert (table["p_value"] <= level).mean() < level + 3.5 * math.sqrt(level * (1 - level) / 500)
    assert (table["p_value"] < 0.7).mean() > 0.4  # and not all of them one
    assert summary["active"] <= 1


def test_profiles_all_alike_are_not_active(draw_screen):
    """An encoder that has collapsed: with positives first among equals it would score 1."""
    wells, table = make_plates(draw_screen)
    for value in (0.0, 0.1):
        same = wells.assign(**dict.fromkeys(feature_columns(wells), value))
        summary, frame = measure_activity(same, permutations=200, seed=0)
        assert summary["active"] == 0
        assert frame["map"].to_numpy() == pytest.approx(np.full(24, np.mean([1 / 7, 2 / 8])))
        assert (frame["p_value"] > 0.9).all()
        assert consistency(annotate(same, table), permutations=200, seed=0)[0]["consistent"] == 0


def test_a_negative_as_near_stands_first():
    assert _compute_precision(np.array([0.5]), np.array([0.5, 0.1])) == pytest.approx(1 / 2)
    assert _compute_precision(np.array([0.5 + 1e-9]), np.array([0.5, 0.1])) == pytest.approx(1.0)
    assert _compute_precision(np.array([0.5, 0.9]), np.array([0.7, 0.5, 0.1])) == pytest.approx((1 + 2 / 4) / 2)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 6), (5, 30), (40, 7)])
def test_the_null_is_that_of_shuffled_lists(positives, negatives):
    null = _draw_null(positives, negatives, 4000, 0)
    rng, labels = np.random.default_rng(1), np.repeat([1, 0], [positives, negatives])
    shuffled = [rank_slowly_labels(rng.permutation(labels)) for _ in range(4000)]
    assert ks_2samp(np.round(null, 9), np.round(shuffled, 9)).pvalue > 0.001
    expected = _compute_expected(np.array([positives]), np.array([negatives]))[0]
    assert expected == pytest.approx(null.mean(), abs=5 * null.std() / math.sqrt(4000))
    module = pytest.importorskip("copairs.map.normalization")
    assert expected == pytest.approx(module.expected_ap(positives, negatives))


def rank_slowly_labels(labels):
    found = np.cumsum(labels)
    return np.mean((found / np.arange(1, len(labels) + 1))[labels == 1])


def test_controls_are_neither_queries_nor_positives(draw_screen):
    """Controls all alike would find each other at once; they only push the treated wells down."""
    wells, _ = make_plates(draw_screen)
    control = wells["Metadata_control_type"] == "negcon"
    wells.loc[control, feature_columns(wells)] = 1.0
    _, table = measure_activity(wells, permutations=50, seed=0)
    assert "DMSO" not in set(table["Metadata_Compound"])
    # a second kind of control is as much a control
    other = wells.assign(
        Metadata_Compound=wells["Metadata_Compound"].where(~control | (wells.index % 2 == 0), "medium")
    )
    pd.testing.assert_frame_equal(table, measure_activity(other, permutations=50, seed=0)[1])


def test_what_cannot_be_asked_is_named(draw_screen):
    wells, _ = make_plates(draw_screen, batches_per_treatment=2)
    lonely = (wells["Metadata_Compound"] == "c0-0") & (wells["Metadata_Concentration"] == 10.0)
    wells = wells.drop(index=wells.index[lonely][1:])
    summary, table = measure_activity(wells, permutations=50, seed=0)
    assert summary["unanswerable"] == ["c0-0 10 µM"]
    assert summary["total"] == len(table) == 23
    # a plate without controls: its wells do not ask, but are found
    bare = wells[~((wells["Metadata_control_type"] == "negcon") & (wells["Metadata_Batch"] == "b0"))]
    _, fewer = measure_activity(bare, permutations=50, seed=0)
    assert set(fewer["num_wells"]) == {1, 2}
    treated = wells[wells["Metadata_control_type"] == "trt"]
    nothing, empty = measure_activity(treated, permutations=50, seed=0)
    assert nothing is None
    assert empty.empty
    assert list(empty) == list(table)
    single, _ = make_plates(draw_screen, batches_per_treatment=1)
    assert measure_activity(single, permutations=50, seed=0)[0] is None


def test_one_mechanism_has_no_negatives(draw_screen):
    summary, table = consistency(annotate(*draw_screen(0, mechanisms=1)), permutations=50, seed=0)
    assert summary is None
    assert table.empty
    summary, table = consistency(annotate(*draw_screen(0, compounds=1)), permutations=50, seed=0)
    assert summary is None


def test_a_mechanism_of_one_compound_is_named(draw_screen):
    wells, table = draw_screen(0)
    kept = table[~table["Metadata_Compound"].isin(["c3-1", "c3-2"])]
    summary, found = consistency(annotate(wells, kept), permutations=50, seed=0)
    assert summary["unanswerable"] == ["c3-0 1 µM", "c3-0 10 µM"]
    assert list(found[MECHANISM]) == ["m0", "m1", "m2"]


@pytest.mark.promise("Numbers", "The order of wells changes no score")
def test_order_of_rows_and_length_of_profiles_do_not_matter(draw_screen):
    wells, _ = make_plates(draw_screen, effect=0.5)
    first = measure_activity(wells, permutations=200, seed=0)
    shuffled = measure_activity(wells.sample(frac=1, random_state=1), permutations=200, seed=0)
    assert first[0] == shuffled[0]
    pd.testing.assert_frame_equal(first[1], shuffled[1])
    names = feature_columns(wells)
    longer = wells.assign(**{name: wells[name] * (1 + wells.index) for name in names})
    pd.testing.assert_frame_equal(first[1], measure_activity(longer, permutations=200, seed=0)[1])
    assert measure_activity(wells, permutations=200, seed=1)[1]["map"].equals(first[1]["map"])


def test_thousands_of_negatives_share_nulls():
    from cytoclr.evaluate.precision import _round_down

    assert _round_down(np.array([0, 1, 999, 1000, 1009, 12345])).tolist() == [0, 1, 999, 1000, 1000, 12300]


def test_a_gap_is_refused(draw_screen):
    wells, _ = make_plates(draw_screen)
    wells.loc[3, "Cells_F1"] = np.nan
    with pytest.raises(DataError, match=r"Cells_F1 is empty or infinite in 1 of .* rows"):
        measure_activity(wells, seed=0)


@pytest.mark.parametrize(("wells", "controls"), [(2, 6), (3, 6), (3, 12)])
def test_what_a_perfect_ranking_is_worth_is_told(draw_screen, wells, controls):
    """One ranking among all of so many wells is perfect; with few controls that is no evidence."""
    table, _ = draw_screen(0, effect=50.0, features=30, wells=wells, batches=1)
    plain = table[table["Metadata_control_type"] == "negcon"]
    more = pd.concat([plain] * controls, ignore_index=True).assign(
        Metadata_Well=[f"X{number}" for number in range(controls)]
    )
    rng = np.random.default_rng(0)
    more[feature_columns(more)] = rng.normal(size=(controls, 30))
    table = pd.concat([table[table["Metadata_control_type"] != "negcon"], more], ignore_index=True)
    summary, frame = measure_activity(table, seed=0)
    expected = 1 / math.comb(wells - 1 + controls, controls)
    np.testing.assert_allclose(frame["least_p_value"], expected, rtol=0.3)
    assert (frame["p_value"] >= frame["least_p_value"]).all()
    assert summary["reachable"] == (summary["total"] if expected < 0.05 else 0)


def test_the_mean_comes_with_an_interval_and_with_chance(draw_screen):
    noise, _ = draw_screen(0, mechanisms=6, compounds=6, wells=3, batches=4, features=12)
    summary, frame = measure_activity(noise, seed=0)
    low, high = summary["interval"]
    assert low < summary["map"] < high
    assert low < summary["chance"] < high
    shuffled, _ = measure_activity(noise.sample(frac=1, random_state=1), seed=0)
    assert shuffled == summary
    assert summary["chance"] == pytest.approx(frame["chance"].mean())
