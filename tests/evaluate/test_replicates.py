import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cytoclr.evaluate.protocols import PROTOCOLS
from cytoclr.evaluate.replicates import _compare_sets, _draw_strangers, measure_matching, measure_replicability
from cytoclr.evaluate.similarity import group_rows, order_wells, scale_profiles
from cytoclr.evaluate.treatments import annotate_treatments
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns, feature_matrix


def annotate(wells, table):
    return annotate_treatments(wells, table, PROTOCOLS["treatment-mean"])


def compare(first, second, metric):
    if metric == "pearson":
        return np.corrcoef(first, second)[0, 1]
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


@pytest.mark.parametrize("metric", ["pearson", "cosine"])
def test_replicability_is_the_definition_written_as_loops(draw_screen, metric):
    wells, _ = draw_screen(0, effect=0.6, wells=3, features=8)
    extra = wells.index[(wells["Metadata_Compound"] == "c1-0") & (wells["Metadata_Concentration"] == 1.0)]
    wells = wells.drop(index=extra[:1])
    found = measure_replicability(wells, seed=0, null_size=4000, metric=metric)
    treated = wells[wells["Metadata_control_type"] == "trt"]
    groups = [rows[feature_columns(rows)].to_numpy() for _, rows in treated.groupby(TREATMENT)]
    medians = {2: [], 3: []}
    for rows in groups:
        pairs = [compare(first, second, metric) for first, second in itertools.combinations(rows, 2)]
        medians[len(rows)].append(np.median(pairs))
    rng = np.random.default_rng(1)
    for size, values in medians.items():
        null = []
        for _ in range(1500):
            strangers = [groups[i][rng.integers(len(groups[i]))] for i in rng.permutation(len(groups))[:size]]
            null.append(np.median([compare(a, b, metric) for a, b in itertools.combinations(strangers, 2)]))
        assert found["thresholds"][str(size)] == pytest.approx(np.percentile(null, 95), abs=0.05)
        assert len(values) == {2: 1, 3: 23}[size]
    exceed = [value > found["thresholds"][str(size)] for size, values in medians.items() for value in values]
    assert found["replicating"] == sum(exceed)
    assert (found["total"], found["share"]) == (24, sum(exceed) / 24)
    assert found["median_similarity"] == pytest.approx(np.median(medians[2] + medians[3]))


def test_medians_are_those_of_copairs(draw_screen):
    replicating = pytest.importorskip("copairs.replicating")
    wells, _ = draw_screen(1, effect=0.6, wells=4, features=8)
    treated = order_wells(wells).loc[lambda frame: frame["Metadata_control_type"] == "trt"].reset_index(drop=True)
    key = treated["Metadata_Compound"] + treated["Metadata_Concentration"].astype(str)
    theirs, _ = replicating.corr_between_replicates(
        feature_matrix(treated), key.to_frame("key"), ["key"], [], progress_bar=False
    )
    sets = np.stack(group_rows(pd.factorize(key, sort=True)[0]))
    ours = _compare_sets(scale_profiles(feature_matrix(treated), "pearson"), sets)
    assert ours == pytest.approx(theirs["median"].to_numpy(), abs=1e-6)


def test_strangers_are_wells_of_different_treatments():
    codes = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 40])
    drawn = _draw_strangers(group_rows(codes), 4, 6000, 0)
    treatments = codes[drawn]
    assert all(len(set(row)) == 4 for row in treatments.tolist())
    assert np.bincount(treatments.ravel()) / 24000 == pytest.approx(np.full(6, 1 / 6), abs=0.02)
    assert set(drawn.ravel()) == set(range(len(codes)))


def test_planted_replicates_are_found_and_shuffled_ones_are_at_five_percent(draw_screen):
    wells, _ = draw_screen(0, effect=4.0, wells=4, mechanisms=10, compounds=30, features=30)
    assert measure_replicability(wells, seed=0)["share"] > 0.95
    rng = np.random.default_rng(0)
    names = feature_columns(wells)
    shuffled = wells.assign(**dict(zip(names, rng.permutation(wells[names].to_numpy()).T, strict=True)))
    found = measure_replicability(shuffled, seed=0)
    assert found["total"] == 600
    assert found["share"] == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize("metric", ["pearson", "cosine"])
def test_matching_is_the_definition_written_as_loops(draw_screen, metric):
    wells, table = draw_screen(0, effect=0.7, features=8, compounds=3)
    table.loc[table["Metadata_Compound"] == "c0-0", MECHANISM] = ["m0", "m1"]  # a compound with two mechanisms
    treatments = annotate(wells, table)
    found = measure_matching(treatments, seed=0, null_size=4000, metric=metric)
    rows, rng = treatments.frame.to_dict("records"), np.random.default_rng(1)
    similarities, thresholds = [], []
    for i, query in enumerate(rows):
        by_unit = {}
        for j, other in enumerate(rows):
            if other["Metadata_Compound"] != query["Metadata_Compound"]:
                similarity = compare(treatments.features[i], treatments.features[j], metric)
                by_unit.setdefault((other["Metadata_Compound"], other[MECHANISM]), []).append(similarity)
        alike = [np.median(values) for unit, values in by_unit.items() if unit[1] == query[MECHANISM]]
        strangers = [np.median(values) for unit, values in by_unit.items() if unit[1] != query[MECHANISM]]
        similarities.append(np.median(alike))
        null = [np.median(rng.permutation(strangers)[: len(alike)]) for _ in range(1500)]
        thresholds.append(np.percentile(null, 95))
    assert found["total"] == 24
    assert found["median_similarity"] == pytest.approx(np.median(similarities))
    assert found["median_threshold"] == pytest.approx(np.median(thresholds), abs=0.05)
    clear = np.abs(np.subtract(similarities, thresholds)) > 0.05
    matching = np.greater(similarities, thresholds)
    assert abs(found["matching"] - matching.sum()) <= (~clear).sum()
    assert matching.any()
    assert not matching.all()


def test_planted_mechanisms_match_and_shuffled_ones_are_at_five_percent(draw_screen):
    wells, table = draw_screen(0, effect=4.0, mechanisms=12, compounds=8, features=30)
    assert measure_matching(annotate(wells, table), seed=0)["share"] > 0.95
    shares = []
    for seed in range(5):  # whole compounds change their mechanism, so doses stay together
        names = table["Metadata_Compound"].unique()
        moved = dict(zip(names, np.random.default_rng(seed).permutation(names), strict=True))
        shuffled = table.assign(Metadata_Compound=table["Metadata_Compound"].map(moved))
        shares.append(measure_matching(annotate(wells, shuffled), seed=0)["share"])
    assert np.mean(shares) == pytest.approx(0.05, abs=0.03)


def test_profiles_all_alike_exceed_nothing(draw_screen):
    wells, table = draw_screen(0)
    same = wells.assign(**{name: 0.1 * (i + 1) for i, name in enumerate(feature_columns(wells))})
    for metric in ("pearson", "cosine"):
        assert measure_replicability(same, seed=0, metric=metric)["replicating"] == 0
        assert measure_matching(annotate(same, table), seed=0, metric=metric)["matching"] == 0
    constant = wells.assign(**dict.fromkeys(feature_columns(wells), 0.1))
    assert measure_replicability(constant, seed=0)["median_similarity"] == 0.0


def test_what_cannot_be_asked_is_named(draw_screen):
    wells, table = draw_screen(0, wells=3)
    rows = wells.index[(wells["Metadata_Compound"] == "c0-0") & (wells["Metadata_Concentration"] == 10.0)]
    found = measure_replicability(wells.drop(index=rows[1:]), seed=0)
    assert found["unanswerable"] == ["c0-0 10 µM"]
    assert found["total"] == 23
    assert measure_replicability(draw_screen(0, wells=1)[0], seed=0) is None
    one = wells[wells["Metadata_Compound"].isin(["c0-0", "DMSO"])]
    assert measure_replicability(one, seed=0) is None  # two treatments of three wells have no strangers to compare
    kept = table[~table["Metadata_Compound"].isin(["c3-1", "c3-2"])]
    assert measure_matching(annotate(wells, kept), seed=0)["unanswerable"] == ["c3-0 1 µM", "c3-0 10 µM"]
    assert measure_matching(annotate(*draw_screen(0, mechanisms=1)), seed=0) is None


def test_of_many_wells_some_are_compared(draw_screen):
    wells, _ = draw_screen(0, mechanisms=10, compounds=3, wells=40, effect=1.0)
    found = measure_replicability(wells, seed=0, null_size=50)
    assert list(found["thresholds"]) == ["32"]
    assert found["total"] == 60


def test_order_of_rows_does_not_matter(draw_screen):
    wells, table = draw_screen(0, effect=0.5)
    shuffled = wells.sample(frac=1, random_state=1)
    assert measure_replicability(wells, seed=0) == measure_replicability(shuffled, seed=0)
    first = annotate(wells, table)
    assert measure_matching(first, seed=0) == measure_matching(annotate(shuffled, table[::-1]), seed=0)
    scaled = replace(first, features=first.features * 3.0)
    assert measure_matching(scaled, seed=0)["matching"] == measure_matching(first, seed=0)["matching"]
