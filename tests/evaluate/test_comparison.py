import numpy as np
import pandas as pd
import pytest

from cytoclr.errors import DataError
from cytoclr.evaluate import compare_matches, compare_runs
from cytoclr.tables import MECHANISM, TREATMENT

FEW = {"bootstraps": 1000, "permutations": 1000, "seed": 0}


def make_matches(rng, right, *, compounds=30, doses=2):
    """Matches of one score in which each treatment is right with a probability."""
    rows = [
        (f"c{compound:02d}", float(dose), f"m{compound % 5}") for compound in range(compounds) for dose in range(doses)
    ]
    frame = pd.DataFrame(rows, columns=[*TREATMENT, MECHANISM])
    return frame.assign(correct=rng.random(len(frame)) < right, features="trained", score="nsc")


def test_what_is_better_is_found_and_what_is_the_same_is_not():
    rng = np.random.default_rng(0)
    good, bad, as_bad = make_matches(rng, 0.9), make_matches(rng, 0.3), make_matches(rng, 0.3)
    found = compare_matches([good], [bad], **FEW)
    assert found["verdict"] == "a"
    assert found["gain"] == pytest.approx(good["correct"].mean() - bad["correct"].mean())
    assert found["only_a_right"] == (good["correct"] & ~bad["correct"]).sum()
    assert found["only_b_right"] == (~good["correct"] & bad["correct"]).sum()
    assert (found["num_treatments"], found["num_compounds"], found["num_seeds"]) == (60, 30, [1, 1])
    turned = compare_matches([bad], [good], **FEW)
    assert (turned["verdict"], turned["gain"]) == ("b", -found["gain"])
    assert turned["p_value"] == found["p_value"]
    assert compare_matches([bad], [as_bad], **FEW)["verdict"] == "undecided"
    assert compare_matches([bad], [bad], **FEW)["p_value"] == 1.0


def test_equal_tables_are_seldom_ranked():
    """Hits of the doses of a compound agree: to take treatments for cases would rank far too often."""
    ranked = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sides = []
        for _ in range(2):
            matches = make_matches(rng, 0.5, doses=4)
            by_compound = dict(zip(matches["Metadata_Compound"], matches["correct"], strict=True))
            sides.append(matches.assign(correct=matches["Metadata_Compound"].map(by_compound)))
        found = compare_matches([sides[0]], [sides[1]], bootstraps=300, permutations=300, seed=seed)
        ranked += found["verdict"] != "undecided"
    assert ranked / 200 < 0.1


def test_only_treatments_that_all_answered_count():
    rng = np.random.default_rng(0)
    first, second = make_matches(rng, 0.5), make_matches(rng, 0.5)
    found = compare_matches([first.drop(index=[0, 5])], [second.drop(index=[5, 7]).sample(frac=1)], **FEW)
    assert found["num_treatments"] == 57
    kept = first.index.difference([0, 5, 7])
    assert found["scores"]["a"] == [first.loc[kept, "correct"].mean()]
    assert compare_matches([first], [second.head(0)], **FEW) is None


def test_seeds_are_averaged():
    rng = np.random.default_rng(0)
    seeds = [make_matches(rng, quality) for quality in (0.3, 0.5, 0.7)]
    other = make_matches(rng, 0.5)
    found = compare_matches(seeds, [other], **FEW)
    assert found["scores"]["a"] == [matches["correct"].mean() for matches in seeds]
    assert found["gain"] == pytest.approx(np.mean(found["scores"]["a"]) - other["correct"].mean())
    assert found["num_seeds"] == [3, 1]
    assert found["only_a_right"] is None


def test_wells_are_paired_by_well():
    rng = np.random.default_rng(0)
    matches = make_matches(rng, 0.5, compounds=6)
    wells = pd.concat([matches.assign(Metadata_Plate=plate, Metadata_Well="B02") for plate in ("p", "q")])
    assert compare_matches([wells], [wells], **FEW)["num_treatments"] == 24


def test_other_mechanisms_are_refused():
    matches = make_matches(np.random.default_rng(0), 0.5)
    other = matches.assign(Metadata_MoA=matches[MECHANISM].replace("m1", "m9"))
    with pytest.raises(DataError, match=r"12 treatments have other mechanisms in one table than in another: c01 0\.0"):
        compare_matches([matches], [other], **FEW)


def make_run(rng, right, **scores):
    about = {"protocol": {"name": "strict"}, "normalisation": "tvn", "labels_seen": "none", **scores}
    matches = pd.concat([make_matches(rng, right), make_matches(rng, 0.1).assign(features="untrained")])
    return about, matches


def test_runs_are_compared_by_their_own_profiles():
    rng = np.random.default_rng(0)
    first, second = make_run(rng, 0.9), make_run(rng, 0.9)
    found = compare_runs([first], [second], names=("x", "y"), seed=0)
    assert found["a"] == {"name": "x", "num_seeds": 1, "normalisation": ["tvn"], "labels_seen": ["none"]}
    own = first[1][first[1]["features"] == "trained"]
    assert found["nsc"]["scores"]["a"] == [own["correct"].mean()]
    assert found["nscb"] is None
    assert found["notes"] == [
        "One seed a side says nothing of the luck in training; train several to learn how far it reaches."
    ]


def test_what_is_not_alike_is_said():
    rng = np.random.default_rng(0)
    leaky = make_run(rng, 0.9, labels_seen="treatments", normalisation="none")
    notes = compare_runs([leaky], [make_run(rng, 0.9)], names=("x", "y"), seed=0)["notes"]
    assert any("normalised differently (none against tvn)" in note for note in notes)
    assert any("x is of a model that was told treatments: this comparison leaks" in note for note in notes)
    with pytest.raises(DataError, match=r"x and y were scored by different protocols \(strict and umm\)"):
        compare_runs([make_run(rng, 0.9)], [make_run(rng, 0.9, protocol={"name": "umm"})], names=("x", "y"), seed=0)
