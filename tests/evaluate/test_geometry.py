import itertools
import math

import numpy as np
import pytest

from cytoclr.evaluate.geometry import describe_geometry
from cytoclr.tables import TREATMENT, feature_columns


def with_features(wells, values):
    """The wells with other features, and as few rows as are given."""
    names = [f"Cells_{i:03d}" for i in range(values.shape[1])]
    metadata = (
        wells.drop(columns=feature_columns(wells)[:-1]).drop(columns="Metadata_Concentration").iloc[: len(values)]
    )
    metadata = metadata[[name for name in metadata if name.startswith("Metadata_")]].reset_index(drop=True)
    return metadata.assign(Metadata_Concentration=1.0, **dict(zip(names, values.T, strict=True)))


def test_geometry_is_the_definitions_written_as_loops(draw_screen):
    wells, _ = draw_screen(0, effect=1.0, wells=3, features=6)
    wells = wells.drop(index=[0, 4])  # unequal numbers of replicates
    found = describe_geometry(wells)
    features = wells[feature_columns(wells)].to_numpy()
    values = np.sqrt(np.linalg.eigvalsh(np.cov(features.T, bias=True))[::-1])
    entropy = -sum(value / values.sum() * math.log(value / values.sum()) for value in values)
    assert found["effective_rank"] == pytest.approx(math.exp(entropy))
    assert found["participation_ratio"] == pytest.approx((values**2).sum() ** 2 / (values**4).sum())
    units = [row / math.sqrt(sum(row**2)) for row in features]
    pairs = [math.exp(-2 * sum((first - second) ** 2)) for first, second in itertools.combinations(units, 2)]
    assert found["uniformity"] == pytest.approx(math.log(np.mean(pairs)))
    treated = wells["Metadata_control_type"].to_numpy() == "trt"
    keys = wells[TREATMENT].apply(tuple, axis=1).to_numpy()
    means = []
    for key in sorted(set(keys[treated])):
        own = [unit for unit, other in zip(units, keys, strict=True) if other == key]
        means.append(np.mean([sum((a - b) ** 2) for a, b in itertools.combinations(own, 2)]))
    assert found["alignment"] == pytest.approx(np.mean(means))
    assert (found["num_wells"], found["num_features"], found["num_treatments"]) == (len(wells), 6, 24)


def test_a_line_a_cross_and_a_ball(draw_screen):
    wells, _ = draw_screen(0, wells=3, compounds=6)
    rng = np.random.default_rng(0)
    line = describe_geometry(with_features(wells, 5.0 + np.outer(rng.normal(size=100), rng.normal(size=7))))
    assert line["effective_rank"] == pytest.approx(1.0, abs=1e-6)
    assert line["participation_ratio"] == pytest.approx(1.0)
    cross = describe_geometry(with_features(wells, np.vstack([np.eye(8), -np.eye(8)])))
    assert cross["effective_rank"] == pytest.approx(8.0)
    assert cross["participation_ratio"] == pytest.approx(8.0)
    # each point has one opposite at squared distance 4 and fourteen others at 2
    assert cross["uniformity"] == pytest.approx(math.log((math.exp(-8) + 14 * math.exp(-4)) / 15))


def test_a_collapsed_cloud(draw_screen):
    wells, _ = draw_screen(0)
    for value in (0.0, 0.1):
        found = describe_geometry(wells.assign(**dict.fromkeys(feature_columns(wells), value)))
        assert found["effective_rank"] is None
        assert found["participation_ratio"] is None
        assert found["alignment"] == pytest.approx(0.0, abs=1e-12)
        assert found["uniformity"] == pytest.approx(0.0, abs=1e-12)


def test_a_common_offset_is_no_dimension(draw_screen):
    wells, _ = draw_screen(0, features=6)
    moved = wells.assign(**{name: wells[name] + 50.0 for name in feature_columns(wells)})
    assert describe_geometry(moved)["effective_rank"] == pytest.approx(describe_geometry(wells)["effective_rank"])


def test_what_is_missing_is_none(draw_screen):
    wells, _ = draw_screen(0, wells=1)
    assert describe_geometry(wells)["alignment"] is None
    one = describe_geometry(wells.iloc[:1])
    assert (one["effective_rank"], one["uniformity"], one["num_wells"]) == (None, None, 1)


def test_of_many_wells_some_take_part_and_the_order_of_rows_does_not_matter(draw_screen):
    wells, _ = draw_screen(0, effect=1.0, wells=5)
    capped = describe_geometry(wells, max_wells=40)
    assert capped["num_wells"] == 40
    assert capped["alignment"] == describe_geometry(wells)["alignment"]
    assert capped["uniformity"] == pytest.approx(describe_geometry(wells)["uniformity"], abs=0.3)
    assert capped == describe_geometry(wells.sample(frac=1, random_state=1), max_wells=40)
