from dataclasses import fields
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import scipy.spatial.distance
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoclr.config import ProfileSettings, ProtocolChanges, ProtocolName
from cytoclr.errors import DataError
from cytoclr.evaluate import PROTOCOLS, Protocol, annotate_treatments, score_nsc, score_nscb, summarise
from cytoclr.mechanisms import join_mechanisms
from cytoclr.profiles import aggregate_wells, profile_wells
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns, feature_matrix

MEAN = PROTOCOLS["treatment-mean"]


def count_hits(matched):
    return int(matched.correct.sum()), int(matched.answered.sum())


def score_both(wells, mechanisms, protocol=MEAN):
    treatments = annotate_treatments(wells, mechanisms, protocol)
    across, within = score_nscb(treatments)
    return [count_hits(one) for one in (score_nsc(treatments), across, within)]


def score_by_loops(wells, mechanisms):
    """NSC and NSCB from their definition, one treatment at a time."""
    of = {(row.Metadata_Compound, row.Metadata_Concentration): row.Metadata_MoA for row in mechanisms.itertuples()}
    own = {}
    for _, well in wells[wells["Metadata_control_type"] != "negcon"].iterrows():
        own.setdefault((well["Metadata_Compound"], well["Metadata_Concentration"]), []).append(well)
    names = feature_columns(wells)
    known = []
    for key in sorted(own):
        if key in of:
            profile = np.mean([well[names].to_numpy(dtype=float) for well in own[key]], axis=0)
            known.append((key[0], of[key], {well["Metadata_Batch"] for well in own[key]}, profile))

    def count(cases, admissible):
        hits = total = 0
        for query in cases:
            references = [one for one in cases if admissible(query, one)]
            if references:
                lengths = np.linalg.norm(query[3])
                best = max(references, key=lambda one: one[3] @ query[3] / lengths / np.linalg.norm(one[3]))
                hits, total = hits + (best[1] == query[1]), total + 1
        return hits, total

    batches = {}
    for _, mechanism, where, _ in known:
        batches.setdefault(mechanism, set()).update(where)
    kept = [one for one in known if len(batches[one[1]]) > 1]
    return [
        count(known, lambda q, r: q[0] != r[0]),
        count(kept, lambda q, r: q[0] != r[0] and not q[2] & r[2]),
    ]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batches=st.integers(2, 4),
    spread=st.integers(1, 2),
    effect=st.sampled_from([0.0, 1.0]),
    mechanisms=st.integers(2, 4),
    compounds=st.integers(1, 3),
)
def test_scores_equal_loops(draw_screen, seed, batches, spread, effect, mechanisms, compounds):
    wells, table = draw_screen(
        seed, batches=batches, batches_per_treatment=spread, effect=effect, mechanisms=mechanisms, compounds=compounds
    )
    table = table.iloc[::2] if seed % 3 == 0 else table  # some treatments are not annotated
    assert score_both(wells, table)[:2] == score_by_loops(wells, table)


def score_variant_by_loops(wells, mechanisms, protocol):
    """NSCB of a protocol by its choices, one case at a time."""
    of = {(row.Metadata_Compound, row.Metadata_Concentration): row.Metadata_MoA for row in mechanisms.itertuples()}
    names = feature_columns(wells)
    reduce = {"mean": np.mean, "median": np.median}
    first_batch = {}
    for _, well in wells.iterrows():
        key = (well["Metadata_Compound"], well["Metadata_Concentration"])
        number = int(well["Metadata_Batch"].removeprefix("b"))
        first_batch[key] = min(number, first_batch.get(key, number))
    cases = {}
    for _, well in wells.sort_values(["Metadata_Plate", "Metadata_Well"]).iterrows():
        key = (well["Metadata_Compound"], well["Metadata_Concentration"])
        number = int(well["Metadata_Batch"].removeprefix("b"))
        if well["Metadata_control_type"] == "negcon":
            continue
        if well["Metadata_control_type"] == "poscon":
            if protocol.positive_controls == "drop":
                continue
            if protocol.positive_controls == "first-batch" and number != first_batch[key]:
                continue
        place = (well["Metadata_Plate"], well["Metadata_Well"]) if protocol.level == "well" else ()
        values = well[names].to_numpy(dtype=float)
        if protocol.unit_wells:
            values = values / np.sqrt(sum(value**2 for value in values))
        cases.setdefault((*key, *place), []).append((values, number, well["Metadata_Plate"]))
    # batches are counted in their order, so that those without a treated well do not count
    present = sorted({number for of_case in cases.values() for _, number, _ in of_case})
    known = []
    for key in sorted(cases):
        plates = {}
        for values, number, plate in cases[key]:
            plates.setdefault(plate, (number, []))[1].append(values)
        rows = [values for values, _, _ in cases[key]]
        if protocol.within_plates:
            rows = [reduce[protocol.within_plates](on_plate, axis=0) for _, on_plate in plates.values()]
        profile = reduce[protocol.aggregate](rows, axis=0)
        median = np.median([present.index(number) for number, _ in plates.values()])
        batches = {number for _, number, _ in cases[key]}
        known.append((key[0], of[key[:2]], batches, profile / np.linalg.norm(profile), median))
    where = {}
    for _, mechanism, batches, *_ in known:
        where.setdefault(mechanism, set()).update(batches)
    lonely = {mechanism for mechanism, batches in where.items() if len(batches) == 1}
    refuse = {
        "exclude": lambda query, one: bool(query[2] & one[2]),
        "joined": lambda query, one: query[2] == one[2],
        "median": lambda query, one: query[4] == one[4],
        "same-mechanism": lambda query, one: bool(query[2] & one[2]) and query[1] == one[1],
    }[protocol.shared_batches]
    rule = protocol.single_batch_mechanisms
    references = [one for one in known if rule != "drop" or one[1] not in lonely]
    hits = total = 0
    for query in known:
        if rule != "keep" and query[1] in lonely:
            continue
        near = [one for one in references if one[0] != query[0] and not refuse(query, one)]
        near = sorted(near, key=lambda one: -round(one[3] @ query[3], 10))[: protocol.neighbours]
        if near:
            named = [one[1] for one in near]
            most = max(named.count(name) for name in named)
            hits += next(name for name in named if named.count(name) == most) == query[1]
            total += 1
    return hits, total


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_choice_of_a_protocol_equals_loops(draw_screen, data):
    seed = data.draw(st.integers(0, 10_000))
    spread = data.draw(st.integers(1, 3))
    wells, table = draw_screen(
        seed, mechanisms=3, compounds=2, batches=12, batches_per_treatment=spread, effect=1.0, wells=3
    )
    # two plates a batch; b2 comes before b10
    plates = np.random.default_rng(seed).integers(1, 3, len(wells)).astype(str)
    wells["Metadata_Plate"] = wells["Metadata_Batch"] + "-" + plates
    wells.loc[wells["Metadata_Compound"] == "c0-0", "Metadata_control_type"] = "poscon"
    choices = {
        "level": ["treatment", "well"],
        "unit_wells": [False, True],
        "within_plates": [None, "mean", "median"],
        "aggregate": ["mean", "median"],
        "neighbours": [1, 2, 3],
        "shared_batches": ["exclude", "joined", "median", "same-mechanism"],
        "single_batch_mechanisms": ["drop", "drop-queries", "keep"],
        "positive_controls": ["keep", "drop", "first-batch"],
    }
    protocol = Protocol("mine", **{name: data.draw(st.sampled_from(values)) for name, values in choices.items()})
    found = score_nscb(annotate_treatments(wells, table, protocol))[0]
    assert count_hits(found) == score_variant_by_loops(wells, table, protocol)


def test_the_settings_name_every_protocol_and_choice():
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)
    assert set(ProtocolChanges.model_fields) == {field.name for field in fields(Protocol)} - {
        "name",
        "source",
        "normalisation",
        "batch",
    }


def test_a_changed_protocol_says_so():
    changed = MEAN.change({"neighbours": 3, "metric": None, "aggregate": "median"})
    assert changed.name == "treatment-mean, neighbours 3, aggregate median"
    assert (changed.neighbours, changed.metric) == (3, "cosine")
    assert MEAN.change({"metric": None}) is MEAN


def test_hits_by_mechanism_and_compound_and_the_confusion_agree_with_the_score(draw_screen):
    wells, table = draw_screen(4, effect=1.5)
    matched = score_nsc(annotate_treatments(wells, table, MEAN))
    summary = summarise(matched, bootstraps=100, permutations=100, seed=0)
    rows = matched.tabulate()
    for name, column in (("by_mechanism", MECHANISM), ("by_compound", "Metadata_Compound")):
        for group, counts in summary[name].items():
            mine = rows[rows[column] == group]
            assert counts == {"correct": int(mine["correct"].sum()), "total": len(mine)}
        assert sum(counts["total"] for counts in summary[name].values()) == summary["total"]
    confusion = pd.DataFrame(summary["confusion"]["counts"], *[summary["confusion"]["mechanisms"]] * 2)
    for own, predicted in confusion.stack().index:
        there = (rows[MECHANISM] == own) & (rows["Predicted_MoA"] == predicted)
        assert confusion.loc[own, predicted] == there.sum()
    assert np.trace(confusion) == summary["correct"]


def test_chance_holds_with_several_neighbours(draw_screen):
    wells, table = draw_screen(2, mechanisms=4, compounds=5, effect=4.0, features=10)
    by_three = MEAN.change({"neighbours": 3})
    rng = np.random.default_rng(0)
    first = table.drop_duplicates("Metadata_Compound").set_index("Metadata_Compound")[MECHANISM]
    shares = []
    for _ in range(60):
        dealt = pd.Series(rng.permutation(first.to_numpy()), index=first.index)
        hits, total = score_both(wells, table.assign(Metadata_MoA=table["Metadata_Compound"].map(dealt)), by_three)[0]
        shares.append(hits / total)
    matched = score_nsc(annotate_treatments(wells, table, by_three))
    chance = summarise(matched, bootstraps=100, permutations=500, seed=0)["chance"]
    assert np.mean(shares) == pytest.approx(chance["mean"], abs=0.05)
    assert chance["theoretical"] is None


def test_wells_with_few_cells_take_no_part(draw_screen):
    wells, table = draw_screen(0)
    flagged = wells.assign(Metadata_FewCells=wells["Metadata_Well"].isin(["W0000", "W0003"]))
    fewer = wells[~flagged["Metadata_FewCells"]]
    assert score_both(flagged, table) == score_both(fewer, table)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("normalise", "aggregate", "nsc", "nscb"),
    [
        ("none", "mean", 51, 30),
        ("plate-zscore", "mean", 84, 67),
        ("plate-zscore", "median", 79, 63),
        ("plate-percentile", "mean", 84, 66),
    ],
)
def test_published_profiles(ljosa_wells, bbbc021_mechanisms, normalise, aggregate, nsc, nscb):
    wells = profile_wells(ljosa_wells, ProfileSettings(normalise=normalise)).well
    protocol = Protocol("mine", aggregate=aggregate)
    assert score_both(wells, bbbc021_mechanisms, protocol)[:2] == [(nsc, 103), (nscb, 92)]


@pytest.mark.real_data
def test_published_profiles_with_single_batch_mechanisms_kept(ljosa_wells, bbbc021_mechanisms):
    profiles = profile_wells(ljosa_wells, ProfileSettings(normalise="plate-zscore"))
    assert len(profiles.report["normalisation"]["features_left_out"]) == 3
    protocol = Protocol("mine", single_batch_mechanisms="keep")
    assert score_both(profiles.well, bbbc021_mechanisms, protocol)[1] == (67, 103)


@pytest.mark.real_data
def test_intervals_and_chance_of_the_published_profiles(ljosa_wells, bbbc021_mechanisms):
    wells = profile_wells(ljosa_wells, ProfileSettings(normalise="plate-zscore")).well
    treatments = annotate_treatments(wells, bbbc021_mechanisms, MEAN)
    across, _ = score_nscb(treatments)
    assert across.dropped_mechanisms == ("Cholesterol-lowering", "Kinase inhibitors")
    nsc = summarise(score_nsc(treatments), bootstraps=5000, permutations=5000, seed=0)
    nscb = summarise(across, bootstraps=5000, permutations=100, seed=0)
    np.testing.assert_allclose(nsc["interval"], [0.71, 0.91], atol=0.02)
    np.testing.assert_allclose(nscb["interval"], [0.59, 0.85], atol=0.02)
    assert nsc["chance"]["mean"] == pytest.approx(0.065, abs=0.01)
    assert nsc["chance"]["p95"] == pytest.approx(0.165, abs=0.02)
    assert nsc["chance"]["theoretical"] == pytest.approx(nsc["chance"]["mean"], abs=0.005)
    assert nsc["chance"]["p_value"] == 1 / 5001


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_must_not_matter(draw_screen, seed):
    wells, table = draw_screen(seed, effect=1.0)
    names = feature_columns(wells)
    rng = np.random.default_rng(seed)
    expected = score_both(wells, table)
    assert score_both(wells.sample(frac=1, random_state=seed), table.sample(frac=1, random_state=seed)) == expected
    others = [name for name in wells if name not in names]
    assert score_both(wells[[*others, *rng.permutation(names)]], table) == expected
    turn = np.linalg.qr(rng.normal(size=(len(names), len(names))))[0]
    assert (
        score_both(wells.assign(**dict(zip(names, (feature_matrix(wells) @ turn).T, strict=True))), table) == expected
    )
    doubled = pd.concat([wells, wells.assign(Metadata_Plate=wells["Metadata_Plate"] + "'")])
    assert score_both(doubled, table) == expected
    assert score_both(wells.assign(Metadata_Comment="x", Metadata_Number=1.0), table) == expected


def test_treatment_profiles_are_those_of_the_profile_stage(draw_screen):
    wells, table = draw_screen(0)
    treatments = annotate_treatments(wells, table, MEAN)
    expected = aggregate_wells(wells)
    expected = expected[expected["Metadata_control_type"] != "negcon"]
    pd.testing.assert_frame_equal(treatments.frame[TREATMENT], expected[TREATMENT].reset_index(drop=True))
    np.testing.assert_array_equal(treatments.features, feature_matrix(expected))


def test_planted_mechanisms_are_found(draw_screen):
    (nsc, total), (nscb, across), _ = score_both(*draw_screen(1, effect=20.0, features=20))
    assert (nsc, nscb) == (total, across)


def test_shuffled_mechanisms_score_at_chance(draw_screen):
    wells, table = draw_screen(2, mechanisms=5, compounds=4, effect=5.0, features=20)
    rng = np.random.default_rng(0)
    compounds = table["Metadata_Compound"].unique()
    first = table.drop_duplicates("Metadata_Compound").set_index("Metadata_Compound")[MECHANISM]
    shares = []
    for _ in range(60):
        shuffled = dict(zip(compounds, rng.permutation(first.to_numpy()), strict=True))
        hits, total = score_both(wells, table.assign(Metadata_MoA=table["Metadata_Compound"].map(shuffled)))[0]
        shares.append(hits / total)
    treatments = annotate_treatments(wells, table, MEAN)
    chance = summarise(score_nsc(treatments), bootstraps=100, permutations=500, seed=0)["chance"]
    assert np.mean(shares) == pytest.approx(chance["theoretical"], abs=0.04)
    assert np.mean(np.array(shares) <= chance["p95"]) > 0.85


def small_screen(rows):
    """(compound, mechanism, batch, profile) a well."""
    frame = pd.DataFrame(
        {
            "Metadata_Plate": [f"plate of {batch}" for _, _, batch, _ in rows],
            "Metadata_Well": [f"B{i:02d}" for i in range(len(rows))],
            "Metadata_Batch": [batch for _, _, batch, _ in rows],
            "Metadata_Compound": [compound for compound, _, _, _ in rows],
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": "trt",
            "Cells_A": [float(profile[0]) for *_, profile in rows],
            "Cells_B": [float(profile[1]) for *_, profile in rows],
        }
    )
    table = pd.DataFrame([(c, 1.0, m) for c, m, _, _ in rows], columns=[*TREATMENT, MECHANISM]).drop_duplicates()
    return frame, table


def test_a_mechanism_confined_to_one_batch_is_neither_query_nor_reference():
    wells, table = small_screen(
        [
            ("a", "x", "b1", (1, 0)),
            ("b", "x", "b2", (1, 0.9)),
            ("c", "lonely", "b3", (1, 0)),  # the nearest of all to a, and alone in b3
            ("d", "lonely", "b3", (0, 1)),
        ]
    )
    treatments = annotate_treatments(wells, table, MEAN)
    across, within = score_nscb(treatments)
    assert across.dropped_mechanisms == ("lonely",)
    assert [count_hits(one) for one in (across, within)] == [(2, 2), (2, 2)]
    kept, _ = score_nscb(annotate_treatments(wells, table, Protocol("mine", single_batch_mechanisms="keep")))
    assert kept.tabulate()["Match_Compound"].tolist() == ["c", "a", "a", "b"]


def test_a_treatment_in_every_batch_is_unanswerable():
    wells, table = small_screen(
        [
            ("a", "x", "b1", (1, 0)),
            ("b", "x", "b2", (1, 0.5)),
            ("everywhere", "x", "b1", (1, 0.1)),
            ("everywhere", "x", "b2", (1, 0.1)),
        ]
    )
    treatments = annotate_treatments(wells, table, MEAN)
    across, within = score_nscb(treatments)
    assert across.unanswerable == ("everywhere 1 µM",)
    assert across.tabulate()["Metadata_Compound"].tolist() == ["a", "b"]
    assert within.tabulate()["Metadata_Compound"].tolist() == ["a", "b"]
    assert within.tabulate()["Match_Compound"].tolist() == ["everywhere", "everywhere"]
    assert score_nsc(treatments).unanswerable == ()


def test_strict_asks_a_reference_without_the_wells_it_shares_a_batch_with():
    wells, table = small_screen(
        [
            ("a", "x", "b1", (1, 0)),
            ("b", "y", "b2", (1, 0.2)),
            ("everywhere", "x", "b1", (0, 1)),
            ("everywhere", "x", "b2", (1, 0.1)),  # the nearest to a, once b1 is left out
            ("c", "y", "b1", (1, 1)),
        ]
    )
    across, _ = score_nscb(annotate_treatments(wells, table, PROTOCOLS["strict"]))
    assert across.unanswerable == ("everywhere 1 µM",)
    matches = across.tabulate().set_index("Metadata_Compound")
    assert matches["Match_Compound"].to_dict() == {"a": "everywhere", "b": "a", "c": "b"}
    assert matches.loc["a", "similarity"] == pytest.approx(1 / np.sqrt(1.01))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), metric=st.sampled_from(["cosine", "pearson", "euclidean"]))
def test_strict_equals_loops(draw_screen, seed, metric):
    wells, table = draw_screen(seed, mechanisms=3, batches=4, batches_per_treatment=2, effect=1.0)
    protocol = Protocol("mine", metric=metric, shared_batches="recompute", single_batch_mechanisms="keep")
    across, _ = score_nscb(annotate_treatments(wells, table, protocol))
    distance = {"pearson": scipy.spatial.distance.correlation}.get(
        metric, getattr(scipy.spatial.distance, metric, None)
    )
    names = feature_columns(wells)
    treated = wells[wells["Metadata_control_type"] == "trt"].groupby(TREATMENT)
    expected = []
    for (compound, _), own in treated:
        best, found = np.inf, None
        for (other, dose), theirs in treated:
            elsewhere = theirs[~theirs["Metadata_Batch"].isin(own["Metadata_Batch"])]
            if other != compound and len(elsewhere):
                far = distance(own[names].mean(), elsewhere[names].mean())
                if far < best - 1e-9:
                    best, found = far, (other, dose)
        expected.append(found)
    found = across.tabulate()[["Match_Compound", "Match_Concentration"]]
    assert [tuple(pair) for pair in found.to_numpy()] == [pair for pair in expected if pair]


def test_strict_is_the_default_where_every_treatment_lies_in_one_batch(draw_screen):
    wells, table = draw_screen(3, effect=1.0)
    assert score_both(wells, table, PROTOCOLS["strict"]) == score_both(wells, table)


def test_ties_go_to_the_first_compound():
    wells, table = small_screen([("z", "x", "b1", (1, 0)), ("q", "y", "b2", (2, 0)), ("m", "x", "b1", (3, 0))])
    matches = score_nsc(annotate_treatments(wells, table, MEAN)).tabulate().set_index("Metadata_Compound")
    assert matches["Match_Compound"].to_dict() == {"m": "q", "q": "m", "z": "m"}


def test_treatments_without_a_mechanism_are_neither_queries_nor_references(draw_screen):
    wells, table = draw_screen(0, effect=3.0)
    treatments = annotate_treatments(wells, table.drop(index=[0, 5]), MEAN)
    assert len(treatments) == len(table) - 2
    assert treatments.unannotated == ("c0-0 1 µM", "c0-2 10 µM")


def test_concentrations_in_single_precision_still_join(draw_screen):
    wells, table = draw_screen(0)
    wells["Metadata_Concentration"] = (wells["Metadata_Concentration"] * 0.3).astype(np.float32)
    table["Metadata_Concentration"] *= 0.3
    assert annotate_treatments(wells, table, MEAN).unannotated == ()


def test_two_mechanisms_of_one_treatment_are_refused(draw_screen):
    wells, table = draw_screen(0)
    with pytest.raises(DataError, match="rows 1 and 25 have the same Compound, Concentration"):
        annotate_treatments(wells, pd.concat([table, table.head(1).assign(Metadata_MoA="other")]), MEAN)


def test_wells_of_controls_alone_are_refused(draw_screen):
    wells, table = draw_screen(0)
    with pytest.raises(DataError, match="all 51 wells are untreated"):
        annotate_treatments(wells.assign(Metadata_control_type="negcon"), table, MEAN)


def test_a_compound_with_two_mechanisms_counts_twice_in_chance(draw_screen):
    wells, table = draw_screen(0, mechanisms=2, compounds=2)
    table.loc[0, MECHANISM] = "m1"
    summary = summarise(score_nsc(annotate_treatments(wells, table, MEAN)), bootstraps=100, permutations=400, seed=0)
    # five units: two of m0, three of m1
    assert summary["chance"]["theoretical"] == pytest.approx((2 * 1 + 3 * 2) / (5 * 4))


def test_a_mechanism_may_hold_for_every_concentration_of_its_compound(draw_screen):
    wells, table = draw_screen(3, effect=1.0, batches_per_treatment=2)
    of_compounds = table.drop_duplicates("Metadata_Compound").assign(Metadata_Concentration=np.nan)
    at_every_dose, at_any = (annotate_treatments(wells, one, MEAN) for one in (table, of_compounds))
    pd.testing.assert_frame_equal(at_any.frame, at_every_dose.frame)
    assert at_any.unannotated == ()
    assert score_both(wells, of_compounds) == score_both(wells, table)


def test_a_mechanism_at_a_concentration_wins_over_that_of_the_compound(draw_screen):
    wells, table = draw_screen(0)
    mixed = pd.DataFrame(
        [("c0-0", None, "any"), ("c0-1", 1.0, "one"), ("c0-0", 10.0 * (1 + 1e-8), "ten"), ("c0-2", 7.0, "none has it")],
        columns=[*TREATMENT, MECHANISM],
    )
    treatments = annotate_treatments(wells, mixed, MEAN)
    found = treatments.frame[[*TREATMENT, MECHANISM]].to_numpy().tolist()
    assert found == [["c0-0", 1.0, "any"], ["c0-0", 10.0, "ten"], ["c0-1", 1.0, "one"]]
    assert len(treatments.unannotated) == len(table) - 3


def test_two_mechanisms_of_one_compound_are_refused(draw_screen):
    wells, table = draw_screen(0)
    of_compounds = table.assign(Metadata_Concentration=np.nan)
    with pytest.raises(DataError, match=r"rows 1 and 2 have the same Compound, Concentration: c0-0, empty\. Expected"):
        annotate_treatments(wells, of_compounds, MEAN)


def test_what_the_rows_say_of_mechanisms_themselves_does_not_count():
    rows = pd.DataFrame(
        [("a", 2.0, "old"), ("b", 1.0, "old"), ("a", np.float32(0.3), "old")],
        columns=[*TREATMENT, MECHANISM],
        index=[7, 7, 9],
    )
    known = pd.DataFrame([("a", np.nan, "x"), ("a", 0.3, "y")], columns=[*TREATMENT, MECHANISM])
    joined = join_mechanisms(rows, known)
    assert joined.fillna("unknown").to_numpy().tolist() == [["a", 2.0, "x"], ["b", 1.0, "unknown"], ["a", 0.3, "y"]]
    assert rows[MECHANISM].tolist() == ["old"] * 3
    with pytest.raises(DataError, match="mechanisms: the table has no rows"):
        join_mechanisms(rows, known.head(0))
