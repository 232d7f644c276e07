"""The loss that settings ask for: what it is, the labels it says it sees, and what is refused."""

import numpy as np
import pytest
import torch

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss import build_loss, nt_xent, vicreg

CELLS = CellLabels(
    plates=np.array([0, 0, 1, 1]),
    wells=np.array([0, 1, 2, 3]),
    batches=np.array([0, 0, 0, 0]),
    compounds=np.array([0, 1, 0, 1]),
    treatments=np.array([0, 1, 0, 1]),
)
VIEWS = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("choices", "seen"),
    [
        ({}, "none"),
        ({"loss": "vicreg"}, "none"),
        ({"negatives": "other-wells"}, "plates and wells"),
        ({"negatives": "other-compounds"}, "treatments"),
        ({"positives": "cross-well"}, "treatments"),
        ({"positives": "cross-plate", "negatives": "other-wells"}, "treatments"),
        ({"loss": "supcon"}, "treatments"),
        ({"loss": "spc"}, "treatments"),
    ],
    ids=str,
)
def test_every_choice_trains_and_says_what_it_sees(choices: dict[str, str], seen: str) -> None:
    loss = build_loss(TrainSettings(**choices), num_features=6, labels=CELLS)
    assert loss.labels_seen == seen or loss.labels_seen.startswith(f"{seen}, ")
    projections = VIEWS.clone().requires_grad_()
    value = loss(projections, CELLS)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, projections)
    assert torch.isfinite(value)
    assert gradient.abs().sum() > 0


def test_two_labels_are_both_named() -> None:
    settings = TrainSettings(positives="cross-plate", negatives="other-wells")
    seen = build_loss(settings, num_features=6, labels=CELLS).labels_seen
    assert "on other plates" in seen
    assert "cells of a well" in seen


def test_temperature_and_similarity_arrive() -> None:
    settings = TrainSettings(temperature=0.7, similarity="dot")
    loss = build_loss(settings, num_features=6, labels=None)
    torch.testing.assert_close(loss(VIEWS, CELLS), nt_xent(*VIEWS, temperature=0.7, similarity="dot"))
    supcon = build_loss(settings.model_copy(update={"loss": "supcon"}), num_features=6, labels=CELLS)
    alike = torch.from_numpy(CELLS.treatments)
    expected = nt_xent(*VIEWS, temperature=0.7, similarity="dot", alike=alike)
    torch.testing.assert_close(supcon(VIEWS, CELLS), expected)
    spc = build_loss(TrainSettings(loss="spc", temperature=0.7), num_features=6, labels=CELLS)
    assert spc.temperature == 0.7
    assert spc.class_vectors.shape == (2, 6)
    torch.testing.assert_close(
        build_loss(TrainSettings(loss="vicreg"), num_features=6, labels=None)(VIEWS, CELLS), vicreg(*VIEWS)
    )


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"loss": "vicreg", "positives": "cross-well"}, "train.positives is cross-well, which only train.loss nt-xent"),
        ({"loss": "spc", "negatives": "other-wells"}, "train.negatives is other-wells, which only train.loss nt-xent"),
        ({"loss": "supcon", "positives": "cross-plate"}, "and train.loss is supcon. Set train.positives: views"),
        ({"loss": "spc", "similarity": "dot"}, "train.similarity is dot, but train.loss spc lies on a sphere"),
        ({"loss": "vicreg", "similarity": "dot"}, "train.loss vicreg compares no cell with another"),
    ],
    ids=str,
)
def test_settings_without_effect_are_refused(choices: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_loss(TrainSettings(**choices), num_features=6, labels=CELLS)


def test_labels_that_cannot_give_what_is_asked_for_are_refused() -> None:
    one_plate = CellLabels(np.zeros(4, int), CELLS.wells, CELLS.batches, CELLS.compounds, CELLS.treatments)
    with pytest.raises(SettingsError, match="every one of the 2 treatments is in a single plate"):
        build_loss(TrainSettings(positives="cross-plate"), num_features=6, labels=one_plate)
    one_well = CellLabels(CELLS.plates, CELLS.treatments, CELLS.batches, CELLS.compounds, CELLS.treatments)
    with pytest.raises(SettingsError, match="treatments is in a single well"):
        build_loss(TrainSettings(positives="cross-well"), num_features=6, labels=one_well)
    one_treatment = CELLS.take(np.array([0, 2]))
    for loss in ("spc", "supcon"):
        with pytest.raises(SettingsError, match=f"train.loss is {loss}, which tells treatments apart; found 1"):
            build_loss(TrainSettings(loss=loss), num_features=6, labels=one_treatment)
    with pytest.raises(SettingsError, match="but the cells have no labels"):
        build_loss(TrainSettings(positives="cross-well"), num_features=6, labels=None)
    with pytest.raises(SettingsError, match="found 0, expected two or more"):
        build_loss(TrainSettings(loss="spc"), num_features=6, labels=None)
