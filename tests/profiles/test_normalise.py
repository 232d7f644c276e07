import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
import sklearn.covariance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoclr.errors import DamagedError, DataError
from cytoclr.profiles import fit_normalisation, read_normaliser
from cytoclr.tables import feature_columns, feature_matrix


def control_values(frame):
    return feature_matrix(frame[frame["Metadata_control_type"] == "negcon"])


def test_plate_zscore_equals_loops(wells):
    normal = fit_normalisation(wells, "plate-zscore").apply(wells)
    for plate in wells["Metadata_Plate"].unique():
        for name in feature_columns(wells):
            here = wells["Metadata_Plate"] == plate
            controls = wells.loc[here & (wells["Metadata_control_type"] == "negcon"), name].tolist()
            mean = sum(controls) / len(controls)
            deviation = (sum((value - mean) ** 2 for value in controls) / len(controls)) ** 0.5
            expected = [(value - mean) / deviation for value in wells.loc[here, name]]
            np.testing.assert_allclose(normal.loc[here, name], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["plate-mad", "plate-percentile"])
def test_other_plate_scales_equal_loops(wells, method):
    normal = fit_normalisation(wells, method).apply(wells)
    for plate in wells["Metadata_Plate"].unique():
        for name in feature_columns(wells):
            here = wells["Metadata_Plate"] == plate
            controls = wells.loc[here & (wells["Metadata_control_type"] == "negcon"), name]
            low, high = np.percentile(controls, 1), np.percentile(controls, 99)
            if method == "plate-mad":
                low = np.median(controls)
                high = low + scipy.stats.median_abs_deviation(controls, scale="normal")
            np.testing.assert_allclose(normal.loc[here, name], (wells.loc[here, name] - low) / (high - low), rtol=1e-4)


def test_metadata_and_row_order_stay(wells):
    shuffled = wells.sample(frac=1, random_state=3)
    for method in ("none", "plate-zscore", "plate-mad", "plate-percentile", "whitening", "tvn", "broad-notebook"):
        normaliser = fit_normalisation(wells, method)
        normal = normaliser.apply(shuffled)
        pd.testing.assert_frame_equal(normal.filter(like="Metadata_"), shuffled.filter(like="Metadata_"))
        again = fit_normalisation(shuffled, method).apply(wells)
        np.testing.assert_allclose(feature_matrix(again), feature_matrix(normal.sort_index()), rtol=1e-9, atol=1e-9)


def test_none_changes_nothing(wells):
    pd.testing.assert_frame_equal(fit_normalisation(wells, "none").apply(wells), wells)


def test_a_feature_constant_on_the_controls_of_one_plate_is_left_out_everywhere(wells):
    constant = (wells["Metadata_Plate"] == "P2") & (wells["Metadata_control_type"] == "negcon")
    wells.loc[constant, "Cells_F1"] = 0.1
    normaliser = fit_normalisation(wells, "plate-zscore")
    assert normaliser.report["features_left_out"] == ["Cells_F1"]
    assert "1 of 3 features have no spread" in normaliser.report["warnings"][0]
    assert feature_columns(normaliser.apply(wells)) == ["Cells_F0", "Cells_F2"]


@pytest.mark.promise("Bad input", "Features that are all constant are refused.")
def test_features_constant_everywhere_are_refused(wells):
    wells[feature_columns(wells)] = 0.1
    with pytest.raises(DataError, match="each of the 3 features is constant"):
        fit_normalisation(wells, "plate-zscore")
    with pytest.raises(DataError, match="all 3 features are constant on the 20 control wells"):
        fit_normalisation(wells, "whitening")


@pytest.mark.parametrize(("keep", "count"), [(0, 0), (1, 1)])
def test_a_plate_needs_two_controls(wells, keep, count):
    on_plate = wells.index[(wells["Metadata_Plate"] == "P1") & (wells["Metadata_control_type"] == "negcon")]
    fewer = wells.drop(on_plate[keep:])
    with pytest.raises(DataError, match=rf"1 of 4 plates have fewer than 2 control wells: P1 \({count}\)"):
        fit_normalisation(fewer, "plate-zscore")
    fit_normalisation(fewer, "tvn")


def test_a_batch_needs_two_controls(wells):
    in_batch = wells.index[(wells["Metadata_Batch"] == "batch1") & (wells["Metadata_control_type"] == "negcon")]
    fewer = wells.drop(in_batch[1:])
    with pytest.raises(DataError, match=r"1 of 2 batches have fewer than 2 control wells: batch1 \(1\)"):
        fit_normalisation(fewer, "tvn")
    fit_normalisation(fewer, "whitening")


@pytest.mark.promise("Bad input", "A normalisation without untreated wells is refused.")
def test_no_controls_are_refused(wells):
    wells["Metadata_control_type"] = "trt"
    with pytest.raises(DataError, match="found 0 control wells"):
        fit_normalisation(wells, "whitening")


def test_few_controls_are_warned_of(rng, draw_wells):
    wells = draw_wells(rng, controls=3, features=40)
    assert "Only 3 control wells on plate P0" in fit_normalisation(wells, "plate-zscore").report["warnings"][0]
    report = fit_normalisation(wells, "tvn").report
    assert report["num_controls_by_batch"] == {"batch0": 6, "batch1": 6}
    assert "12 control wells span at most 11 of 40 directions" in report["warnings"][0]
    assert "2 of 2 batches" in report["warnings"][1]


def test_what_was_fitted_applies_to_new_wells_and_refuses_new_plates(wells):
    normaliser = fit_normalisation(wells, "plate-zscore")
    whole = normaliser.apply(wells)
    pd.testing.assert_frame_equal(normaliser.apply(wells.iloc[20:22]), whole.iloc[20:22])
    with pytest.raises(DataError, match="plates P9 had no control wells"):
        normaliser.apply(wells.head(1).assign(Metadata_Plate="P9"))
    with pytest.raises(DataError, match=r"lack 1 of the 3 features .*: Cells_F1"):
        normaliser.apply(wells.drop(columns="Cells_F1"))


def test_whitening_makes_the_controls_covariance_the_identity(rng, draw_wells):
    wells = draw_wells(rng, features=6)
    normal = control_values(fit_normalisation(wells, "whitening", regularisation=1e-18).apply(wells))
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.cov(normal, rowvar=False, bias=True), np.eye(6), atol=1e-6)


def test_whitening_shrinks_as_declared(rng, draw_wells):
    wells = draw_wells(rng, features=6)
    before = np.linalg.eigvalsh(np.cov(control_values(wells), rowvar=False, bias=True))
    normal = control_values(fit_normalisation(wells, "whitening", regularisation=0.1).apply(wells))
    after = np.linalg.eigvalsh(np.cov(normal, rowvar=False, bias=True))
    np.testing.assert_allclose(after, before / (before + 0.1 * before.mean()), rtol=1e-6, atol=1e-9)


def test_whitening_is_finite_with_more_features_than_controls(rng, draw_wells):
    wells = draw_wells(rng, controls=2, features=60)
    wells = wells.assign(**{name: rng.normal(size=len(wells)) for name in feature_columns(wells)})
    for method in ("whitening", "tvn"):
        values = feature_matrix(fit_normalisation(wells, method).apply(wells))
        assert np.isfinite(values).all()
        assert np.abs(values).max() < 1e3


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whitening_turns_with_its_features(data):
    """A rotation of the features rotates the whitened profiles: cosines stay."""
    values = data.draw(arrays(np.float64, (12, 4), elements=st.floats(-10, 10)))
    values += np.random.default_rng(0).normal(size=values.shape)  # not all constant
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    kinds = ["negcon"] * 9 + ["trt"] * 3
    wells = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": [f"B{i:02d}" for i in range(12)],
            "Metadata_Batch": "b",
            "Metadata_Compound": kinds,
            "Metadata_Concentration": 1.0,
            "Metadata_control_type": kinds,
        }
    )
    names = list("abcd")
    plain = wells.join(pd.DataFrame(values, columns=names))
    turned = wells.join(pd.DataFrame(values @ turn, columns=names))
    for method in ("whitening", "tvn"):
        first = feature_matrix(fit_normalisation(plain, method).apply(plain))
        second = feature_matrix(fit_normalisation(turned, method).apply(turned))
        np.testing.assert_allclose(first @ turn, second, atol=1e-6 * max(1, np.abs(first).max()))


def test_tvn_equals_its_definition(wells):
    """Ando et al. 2017 with CORAL's matrices written with general matrix roots."""
    regularisation = 0.05
    normal = fit_normalisation(wells, "tvn", regularisation=regularisation).apply(wells)
    values, untreated = feature_matrix(wells), (wells["Metadata_control_type"] == "negcon").to_numpy()
    size = values.shape[1]

    def covariance(rows):
        return np.cov(rows, rowvar=False, bias=True)

    controls = covariance(values[untreated])
    shrunk = controls + regularisation * np.trace(controls) / size * np.eye(size)
    white = (values - values[untreated].mean(axis=0)) @ scipy.linalg.inv(scipy.linalg.sqrtm(shrunk))
    target = scipy.linalg.sqrtm(covariance(white[untreated]) + np.eye(size))
    for batch in ("batch0", "batch1"):
        here = (wells["Metadata_Batch"] == batch).to_numpy()
        source = scipy.linalg.inv(scipy.linalg.sqrtm(covariance(white[here & untreated]) + np.eye(size)))
        expected = (white[here] - white[here & untreated].mean(axis=0)) @ source @ target
        np.testing.assert_allclose(feature_matrix(normal[here]), expected, rtol=1e-6, atol=1e-9)


def test_tvn_takes_a_shift_of_a_batch_away(wells):
    normal = fit_normalisation(wells, "tvn").apply(wells)
    for batch in ("batch0", "batch1"):
        np.testing.assert_allclose(control_values(normal[normal["Metadata_Batch"] == batch]).mean(axis=0), 0, atol=1e-9)


def test_broad_notebook_equals_its_definition(wells):
    """Up to the signs of eigenvectors, which neither a median of wells nor a cosine sees."""
    wells[feature_columns(wells)] /= 10.0 ** np.arange(3)
    normaliser = fit_normalisation(wells, "broad-notebook")
    normal = normaliser.apply(wells)
    assert feature_columns(normal) == ["Cells_White_0000", "Cells_White_0001", "Cells_White_0002"]
    values, untreated = feature_matrix(wells), (wells["Metadata_control_type"] == "negcon").to_numpy()
    centred = values - values[untreated].mean(axis=0)
    eigenvalues, vectors = scipy.linalg.eigh(centred[untreated].T @ centred[untreated] / untreated.sum())
    white = centred @ vectors @ np.diag(1 / np.sqrt(eigenvalues + 1))
    target = scipy.linalg.sqrtm(white[untreated].T @ white[untreated] / untreated.sum() + np.eye(3))
    for batch in ("batch0", "batch1"):
        here = (wells["Metadata_Batch"] == batch).to_numpy()
        controls = white[here & untreated]
        source = scipy.linalg.inv(scipy.linalg.sqrtm(controls.T @ controls / len(controls) + np.eye(3)))
        expected = white[here] @ source @ target
        found = feature_matrix(normal[here])
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(np.abs(np.median(found, axis=0)), np.abs(np.median(expected, axis=0)), rtol=1e-6)


def combat_by_loops(values, batches):
    """Johnson, Li & Rabinovic 2007, section 3.1 and 3.2, number by number; all rows are used for the fit."""
    names = sorted(set(batches))
    num_rows, num_features = values.shape
    count = {name: sum(batch == name for batch in batches) for name in names}
    adjusted = np.empty_like(values)
    alpha, sigma = np.empty(num_features), np.empty(num_features)
    mean = {}
    for feature in range(num_features):
        for name in names:
            mean[name, feature] = (
                sum(values[row, feature] for row in range(num_rows) if batches[row] == name) / count[name]
            )
        alpha[feature] = sum(count[name] * mean[name, feature] for name in names) / num_rows
        squares = [(values[row, feature] - mean[batches[row], feature]) ** 2 for row in range(num_rows)]
        sigma[feature] = (sum(squares) / num_rows) ** 0.5
    for name in names:
        rows = [row for row in range(num_rows) if batches[row] == name]
        z = [[(values[row, g] - alpha[g]) / sigma[g] for g in range(num_features)] for row in rows]
        gamma_hat = [sum(line[g] for line in z) / len(z) for g in range(num_features)]
        delta_hat = [sum((line[g] - gamma_hat[g]) ** 2 for line in z) / (len(z) - 1) for g in range(num_features)]
        gamma_bar = sum(gamma_hat) / num_features
        tau = sum((gamma - gamma_bar) ** 2 for gamma in gamma_hat) / (num_features - 1)
        v_bar = sum(delta_hat) / num_features
        s_bar = sum((delta - v_bar) ** 2 for delta in delta_hat) / (num_features - 1)
        lam, theta = (v_bar**2 + 2 * s_bar) / s_bar, (v_bar**3 + v_bar * s_bar) / s_bar
        for g in range(num_features):
            gamma, delta = gamma_hat[g], delta_hat[g]
            for _ in range(500):
                gamma = (len(z) * tau * gamma_hat[g] + delta * gamma_bar) / (len(z) * tau + delta)
                delta = (theta + 0.5 * sum((line[g] - gamma) ** 2 for line in z)) / (len(z) / 2 + lam - 1)
            for line, row in zip(z, rows, strict=True):
                adjusted[row, g] = sigma[g] / delta**0.5 * (line[g] - gamma) + alpha[g]
    return adjusted


def test_combat_equals_its_definition(rng, draw_wells):
    wells = draw_wells(rng, features=5)
    wells[feature_columns(wells)] += rng.normal(size=(2, 5))[wells["Metadata_Batch"].str[-1].astype(int)] * 3
    controls = wells[wells["Metadata_control_type"] == "negcon"].reset_index(drop=True)
    expected = combat_by_loops(feature_matrix(controls), controls["Metadata_Batch"].tolist())
    normaliser = fit_normalisation(wells, "combat")
    np.testing.assert_allclose(feature_matrix(normaliser.apply(controls)), expected, rtol=1e-4, atol=1e-4)
    assert normaliser.report["num_controls_by_batch"] == {"batch0": 10, "batch1": 10}
    # the same maps for the treated wells, which had no part in the fit
    changed = wells.copy()
    changed.loc[wells["Metadata_control_type"] == "trt", "Cells_F0"] += 1e6
    again = fit_normalisation(changed, "combat").apply(controls)
    np.testing.assert_array_equal(feature_matrix(again), feature_matrix(normaliser.apply(controls)))


def test_combat_leaves_out_what_does_not_vary(wells):
    wells["Cells_F1"] = 3.0
    normaliser = fit_normalisation(wells, "combat")
    assert normaliser.report["features_left_out"] == ["Cells_F1"]
    assert feature_columns(normaliser.apply(wells)) == ["Cells_F0", "Cells_F2"]
    with pytest.raises(DataError, match="1 of 3 features vary on the controls of a batch"):
        fit_normalisation(wells.assign(Cells_F0=1.0), "combat")


def test_batches_are_centred_on_their_controls(wells):
    normal = fit_normalisation(wells, "batch-centre").apply(wells)
    for batch in ("batch0", "batch1"):
        here = wells["Metadata_Batch"] == batch
        controls = here & (wells["Metadata_control_type"] == "negcon")
        expected = feature_matrix(wells[here]) - feature_matrix(wells[controls]).mean(axis=0)
        np.testing.assert_allclose(feature_matrix(normal[here]), expected)


SPHERINGS = [("whitening", "ZCA"), ("whitening-pca", "PCA"), ("whitening-zca-cor", "ZCA-cor")]


@pytest.mark.parametrize(("method", "theirs"), SPHERINGS)
def test_sphering_is_pycytominers(rng, draw_wells, method, theirs):
    """pycytominer divides by n - 1, we by n; signs of principal components are free."""
    transform = pytest.importorskip("pycytominer.operations.transform")
    wells = draw_wells(rng, features=6)
    controls = control_frame(wells)
    normal = fit_normalisation(wells, method, regularisation=1e-18).apply(wells)
    sphering = transform.Spherize(method=theirs, epsilon=0.0).fit(controls)
    expected = sphering.transform(wells[feature_columns(wells)]).to_numpy()
    found = feature_matrix(normal) * np.sqrt((len(controls) - 1) / len(controls))
    if method == "whitening-pca":
        found, expected = np.abs(found), np.abs(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def control_frame(wells):
    return wells.loc[wells["Metadata_control_type"] == "negcon", feature_columns(wells)]


@pytest.mark.parametrize(("method", "theirs"), SPHERINGS)
def test_a_sphering_checks_itself(rng, draw_wells, method, theirs):
    wells = draw_wells(rng, features=6)
    for regularisation in (1e-18, 0.1, "ledoit-wolf"):
        normaliser = fit_normalisation(wells, method, regularisation=regularisation)
        (step,) = normaliser.report["steps"]
        white = control_values(normaliser.apply(wells))
        distance = np.linalg.norm(np.cov(white, rowvar=False, bias=True) - np.eye(6)) / np.sqrt(6)
        assert step["covariance_from_identity"] == pytest.approx(distance, abs=1e-9)
        assert step["covariance_from_identity"] == pytest.approx(step["covariance_from_identity_declared"], abs=1e-6)
        assert normaliser.report["warnings"] == []
        if regularisation == 1e-18:
            assert distance < 1e-6


def test_a_sphering_that_loses_precision_says_so(rng, draw_wells):
    wells = draw_wells(rng, features=6)
    wells["Cells_F1"] = wells["Cells_F0"] * (1 + 1e-9 * rng.normal(size=len(wells)))
    warnings = fit_normalisation(wells, "whitening", regularisation=1e-30).report["warnings"]
    assert any("nearly copies of others, or of very different size, lose precision" in warning for warning in warnings)


def test_ledoit_wolf_is_sklearns(rng, draw_wells):
    wells = draw_wells(rng, controls=3, features=30)
    wells = wells.assign(**{name: rng.normal(size=len(wells)) for name in feature_columns(wells)})
    (step,) = fit_normalisation(wells, "whitening", regularisation="ledoit-wolf").report["steps"]
    expected, shrinkage = sklearn.covariance.ledoit_wolf(control_values(wells))
    assert step["ledoit_wolf_shrinkage"] == pytest.approx(shrinkage)
    normal = fit_normalisation(wells, "whitening", regularisation="ledoit-wolf").apply(wells)
    # whitened by the shrunk covariance, but for one factor that all features share
    centred = feature_matrix(wells) - control_values(wells).mean(axis=0)
    ratio = feature_matrix(normal) / (centred @ scipy.linalg.inv(scipy.linalg.sqrtm(expected)))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)


def test_steps_follow_each_other(wells):
    both = fit_normalisation(wells, ("plate-mad", "whitening"))
    first = fit_normalisation(wells, "plate-mad").apply(wells)
    second = fit_normalisation(first, "whitening").apply(first)
    np.testing.assert_allclose(feature_matrix(both.apply(wells)), feature_matrix(second), rtol=1e-9, atol=1e-12)
    assert [step["name"] for step in both.report["steps"]] == ["plate-mad", "whitening"]
    assert set(both.report["num_controls_by_plate"]) == {"P0", "P1", "P2", "P3"}
    other = fit_normalisation(wells, ("whitening", "plate-mad")).apply(wells)
    assert not np.allclose(feature_matrix(other), feature_matrix(second))


@pytest.mark.parametrize(
    "methods", ["none", "plate-zscore", "combat", "whitening-pca", "tvn", "broad-notebook", ("plate-mad", "whitening")]
)
def test_a_normaliser_comes_back_from_its_file(wells, tmp_path, methods):
    wells = wells.assign(Metadata_Plate=wells["Metadata_Plate"] + "/../é")
    normaliser = fit_normalisation(wells, methods)
    normaliser.write(tmp_path / "normaliser.safetensors")
    back = read_normaliser(tmp_path / "normaliser.safetensors")
    pd.testing.assert_frame_equal(back.apply(wells), normaliser.apply(wells))
    assert (back.methods, back.features, back.report) == (normaliser.methods, normaliser.features, normaliser.report)


def test_a_damaged_normaliser_is_refused(wells, tmp_path):
    path = tmp_path / "normaliser.safetensors"
    with pytest.raises(DataError, match="no such file"):
        read_normaliser(path)
    fit_normalisation(wells, "tvn").write(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-8], b"x" * 200):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="not a normaliser"):
            read_normaliser(path)


def test_wells_with_few_cells_take_no_part_in_a_fit(wells):
    few = (wells["Metadata_control_type"] == "negcon") & wells["Metadata_Well"].isin(["B00", "B01"])
    wells.loc[few, "Cells_F0"] = 1e9
    flagged = fit_normalisation(wells.assign(Metadata_FewCells=few), "plate-zscore")
    without = fit_normalisation(wells[~few], "plate-zscore")
    np.testing.assert_array_equal(feature_matrix(flagged.apply(wells)), feature_matrix(without.apply(wells)))
    assert flagged.report["num_controls"] == 12


@pytest.mark.promise("Numbers", "The order of wells changes no bit of a normalised profile")
def test_the_order_of_rows_does_not_matter_to_the_last_bit(wells):
    for method in ("plate-zscore", "whitening", "tvn", "combat"):
        expected = feature_matrix(fit_normalisation(wells, method).apply(wells))
        shuffled = fit_normalisation(wells.sample(frac=1, random_state=5), method).apply(wells)
        np.testing.assert_array_equal(feature_matrix(shuffled), expected)
