"""What watches training: ranks and spreads by their definitions, collapse where it is, pictures in their places."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoclr.config import TrainSettings
from cytoclr.learn.watch import MAX_CELLS, explain_collapse, lay_out_views, measure_clouds, measure_spread

HEALTHY = {"embedding_rank": 20.0, "projection_spread": 0.9, "train_loss": 2.0}


def draw_cloud(num_cells: int, num_features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_cells, num_features, generator=torch.Generator().manual_seed(seed)).abs()


def count_directions(features: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023, equations 1 and 2), by the eigenvalues of the features' products."""
    lengths = np.sqrt(np.clip(np.linalg.eigvalsh(features.T @ features), 0.0, None))
    entropy = 0.0
    for length in lengths:
        share = length / lengths.sum() + 1e-7
        entropy -= share * math.log(share)
    return math.exp(entropy)


def test_clouds_are_measured_by_their_definitions() -> None:
    embeddings, projections = draw_cloud(40, 6), torch.stack([draw_cloud(40, 5, 1), draw_cloud(40, 5, 2)])
    found = measure_clouds(embeddings, projections)
    assert found["embedding_rank"] == pytest.approx(count_directions(embeddings.double().numpy()), rel=1e-4)
    assert found["embedding_rank_share"] == pytest.approx(found["embedding_rank"] / 6)
    assert found["projection_rank"] == pytest.approx(count_directions(projections[0].double().numpy()), rel=1e-4)
    directions = [row / np.linalg.norm(row) for row in projections[0].double().numpy()]
    variances = [np.var([direction[i] for direction in directions]) for i in range(5)]
    assert found["projection_spread"] == pytest.approx(math.sqrt(sum(variances)), rel=1e-6)


def test_of_a_large_minibatch_a_part_is_measured() -> None:
    cloud = draw_cloud(MAX_CELLS + 50, 4)
    cut = cloud[:MAX_CELLS]
    assert measure_clouds(cloud, cloud[None].expand(2, -1, -1)) == measure_clouds(cut, cut[None].expand(2, -1, -1))


def test_half_precision_is_measured_too() -> None:
    cloud = draw_cloud(30, 4).bfloat16()
    assert measure_clouds(cloud, torch.stack([cloud, cloud]))["embedding_rank"] > 1.0


@given(seed=st.integers(0, 1000), num_cells=st.integers(2, 30), scale=st.floats(0.01, 100.0))
@settings(max_examples=25, deadline=None)
def test_neither_order_nor_size_changes_the_spread(seed: int, num_cells: int, scale: float) -> None:
    cloud = draw_cloud(num_cells, 4, seed)
    spread = float(measure_spread(cloud))
    assert 0.0 <= spread <= 1.0
    assert float(measure_spread(scale * cloud.flip(0))) == pytest.approx(spread, rel=1e-5, abs=1e-6)


def test_the_ends_of_the_spread() -> None:
    assert float(measure_spread(torch.ones(8, 3) * torch.arange(1.0, 9.0)[:, None])) == pytest.approx(0.0, abs=1e-6)
    around = torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(measure_spread(around)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, None),
        ({"embedding_rank": 1.9}, r"embeddings fill 1\.9 dimensions .* expected 2 or more"),
        ({"projection_spread": 0.004}, r"a spread of 0\.004, expected 0\.01 or more"),
        ({"train_loss": math.log(31) * 1.009}, r"the loss is 3\.465; it is 3\.434 where all 16 cells look alike"),
        ({"train_loss": math.log(31) * 1.011}, None),
        ({"train_loss": math.log(31) * 0.989}, None),
    ],
)
def test_a_collapse_is_seen_where_it_is(values: dict[str, float], words: str | None) -> None:
    found = explain_collapse({**HEALTHY, **values}, epoch=4, num_cells=16, settings=TrainSettings(warmup_epochs=1.0))
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(words, found)


def test_nothing_is_judged_before_the_warm_up_and_three_epochs() -> None:
    collapsed = {**HEALTHY, "embedding_rank": 1.0}
    judged = [
        epoch
        for epoch in range(1, 9)
        if explain_collapse(collapsed, epoch=epoch, num_cells=16, settings=TrainSettings(warmup_epochs=2.5))
    ]
    assert judged == [6, 7, 8]


def test_the_loss_of_guessing_is_only_known_of_the_plain_loss() -> None:
    guessing = {**HEALTHY, "train_loss": math.log(31)}
    for update in ({"loss": "vicreg"}, {"positives": "cross-well"}, {"negatives": "other-wells"}):
        other = TrainSettings().model_copy(update=update)
        assert explain_collapse(guessing, epoch=9, num_cells=16, settings=other) is None


def test_every_view_stands_below_its_crop() -> None:
    draw = torch.Generator().manual_seed(0)
    crops, views = torch.rand(3, 2, 4, 4, generator=draw), torch.rand(2, 3, 2, 4, 4, generator=draw) * 3.0 - 1.0
    picture = lay_out_views(crops, views)
    assert (picture.shape, picture.dtype) == ((2 * 3 * 4, 3 * 4), np.uint8)
    for cell in range(3):
        for channel in range(2):
            for row, source in enumerate((crops, views[0], views[1])):
                top = (3 * channel + row) * 4
                tile = picture[top : top + 4, 4 * cell : 4 * cell + 4]
                expected = np.clip(source[cell, channel].numpy(), 0.0, 1.0) * 255
                np.testing.assert_allclose(tile, expected, atol=0.51)
