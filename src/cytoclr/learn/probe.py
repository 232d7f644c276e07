"""A classifier of treatments on embeddings, tested on wells it has not seen: is the encoder learning anything?"""

from typing import Literal

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cytoclr.errors import DataError
from cytoclr.learn.draws import derive_generator, derive_seed
from cytoclr.tables import TREATMENT, WELL, feature_matrix, treatment_names

__all__ = ["probe_treatments"]


def probe_treatments(
    embeddings: pd.DataFrame,
    *,
    classifier: Literal["random-forest", "linear"] = "random-forest",
    test_fraction: float = 0.3,
    seed: int = 0,
) -> dict[str, float]:
    """Predict the treatment of single cells in wells that the classifier has not seen.

    Parameters
    ----------
    embeddings
        A row a cell, with plate, well and treatment. Treatments with a single well are left out.
    classifier
        A random forest of 100 trees, or logistic regression on standardised features.
    test_fraction
        Share of each treatment's wells held out, at least one.
    seed
        Decides the held-out wells and the forest.

    Returns
    -------
    dict
        ``accuracy`` (balanced: mean over treatments of the share of right cells), ``chance`` (of it: one over the
        treatments), ``treatments``, ``left_out`` (treatments with a single well), ``cells`` tested.

    Raises
    ------
    DataError
        Fewer than two treatments have two wells.
    """
    names = treatment_names(embeddings)
    wells = embeddings.groupby(WELL, sort=False).ngroup()
    usable = (wells.groupby(names).transform("nunique") >= 2).to_numpy()
    num_treatments = names[usable].nunique()
    if num_treatments < 2:
        raise DataError(
            f"the treatment probe found {num_treatments} treatments with two wells or more, expected at least 2. "
            "Set train.probe.every_n_epochs: 0, or probe on other crops."
        )
    subset = embeddings[usable].reset_index(drop=True)
    tested = _hold_out_wells(subset, test_fraction, seed)
    features, truth = feature_matrix(subset), names[usable].to_numpy()
    model = _build_classifier(classifier, seed).fit(features[~tested], truth[~tested])
    return {
        "accuracy": float(balanced_accuracy_score(truth[tested], model.predict(features[tested]))),
        "chance": 1.0 / num_treatments,
        "treatments": float(num_treatments),
        "left_out": float(names[~usable].nunique()),
        "cells": float(tested.sum()),
    }


def _hold_out_wells(cells: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Mark the cells of a share of each treatment's wells: at least one well, and never all."""
    wells = cells[[*TREATMENT, *WELL]].drop_duplicates(WELL).sort_values(WELL)
    wells = wells.sample(frac=1.0, random_state=derive_generator(seed, "probe"))
    groups = wells.groupby(TREATMENT)["Metadata_Well"]
    size = groups.transform("size")
    num_tested = (size * fraction).round().clip(lower=1, upper=size - 1)
    held = pd.MultiIndex.from_frame(wells.loc[groups.cumcount() < num_tested, WELL])
    marked: np.ndarray = pd.MultiIndex.from_frame(cells[WELL]).isin(held)
    return marked


def _build_classifier(name: str, seed: int) -> RandomForestClassifier | Pipeline:
    state = derive_seed(seed, "probe") % 2**32
    if name == "random-forest":
        return RandomForestClassifier(100, min_samples_leaf=2, class_weight="balanced", random_state=state)
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
