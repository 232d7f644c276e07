import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoclr.errors import DataError
from cytoclr.profiles import fit_normalisation
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
