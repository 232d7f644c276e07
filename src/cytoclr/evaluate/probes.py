"""Probes: can a classifier read the mechanism from the embedding of a single cell?"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cytoclr.grouping import check_features
from cytoclr.mechanisms import join_mechanisms
from cytoclr.tables import EMBEDDINGS, MECHANISM, WELL, check_table, feature_columns, is_control

__all__ = ["Classifier", "HeldOut", "probe_mechanisms"]

HeldOut = Literal["well", "compound", "plate", "batch"]
Classifier = Literal["random-forest", "logistic", "knn"]

#: What names a group that is held out as a whole.
GROUPS: dict[HeldOut, list[str]] = {
    "well": WELL,
    "compound": ["Metadata_Compound"],
    "plate": ["Metadata_Plate"],
    "batch": ["Metadata_Batch"],
}
NUM_NEIGHBOURS = 20


def probe_mechanisms(
    embeddings: pd.DataFrame,
    mechanisms: pd.DataFrame,
    *,
    seed: int,
    held_out: HeldOut = "well",
    classifier: Classifier = "random-forest",
    test_fraction: float = 0.3,
    max_cells: int = 5_000,
    num_trees: int = 100,
) -> dict[str, Any] | None:
    """Predict the mechanism of single cells in wells, compounds, plates or batches that the classifier has not seen.

    Parameters
    ----------
    embeddings
        One row a cell, not normalised: the columns of `EMBEDDINGS` and features.
    mechanisms
        The columns of `MECHANISMS`. Controls, and treatments not in the table, take no part.
    seed
        Decides the cells drawn, the split and the forest.
    held_out
        All cells of such a group are on one side. ``well``: wells drawn at random. The others: groups in random order
        are held out first so that each mechanism is asked in one of them, then until the share of wells is reached;
        never the last group in training of a mechanism that has two.
    classifier
        ``random-forest``; ``logistic``, regression with an L2 penalty of 1, on standardised features; ``knn``, the
        majority of the 20 nearest cells by cosine, on standardised features.
    test_fraction
        Share of the wells held out.
    max_cells
        If there are more cells, so many are drawn at random.
    num_trees
        Size of the forest.

    Returns
    -------
    ``accuracy``; ``balanced_accuracy``, the mean over mechanisms of the share of their held-out cells that are
    named rightly; ``chance``, what guessing gives in that mean: one over the number of mechanisms held out;
    ``num_cells``, ``num_wells_train``, ``num_wells_test``, ``num_groups_train``, ``num_groups_test``; ``held_out``,
    ``classifier``; ``unanswerable``, names of the mechanisms that were not asked, sorted: of a single group, or found
    on one side only. Their cells are not tested. None with fewer than two mechanisms, four wells or two groups, or if
    fewer than two mechanisms can be asked.

    Notes
    -----
    With ``well``, wells of one treatment may lie on both sides, and wells of one plate do: that probe tells whether
    mechanisms can be read at all. ``compound`` asks, as NSC, whether they carry over to other compounds; ``batch``,
    whether to other batches, but of compounds that may have been seen. Held-out groups are few: with 38 compounds or 10
    batches a single split leaves the score uncertain by many points, so take several seeds before ranking two.
    """
    embeddings = check_table(embeddings, EMBEDDINGS, "embeddings")
    check_features(embeddings, "embeddings")
    cells = join_mechanisms(embeddings[~is_control(embeddings)], mechanisms)
    cells = cells[cells[MECHANISM].notna()].sort_values("Metadata_CellID", kind="stable")
    if len(cells) > max_cells:
        cells = cells.iloc[np.sort(np.random.default_rng(seed).permutation(len(cells))[:max_cells])]
    wells = cells.groupby(WELL).ngroup().to_numpy()
    groups = cells.groupby(GROUPS[held_out]).ngroup().to_numpy()
    if cells[MECHANISM].nunique() < 2 or len(set(wells)) < 4 or len(set(groups)) < 2:
        return None
    labels = cells[MECHANISM].to_numpy(dtype=object)
    if held_out == "well":
        split = GroupShuffleSplit(1, test_size=test_fraction, random_state=seed)
        train, test = next(split.split(labels, groups=wells))
    else:
        train, test = _hold_out_groups(groups, wells, np.unique(labels, return_inverse=True)[1], test_fraction, seed)
    test = test[np.isin(labels[test], labels[train])]
    asked = np.unique(labels[test])
    if len(asked) < 2:
        return None
    features = cells[feature_columns(cells)].to_numpy(dtype=np.float32)
    model = _build_classifier(classifier, num_trees, len(train), seed).fit(features[train], labels[train])
    right = model.predict(features[test]) == labels[test]
    by_mechanism = pd.Series(right).groupby(labels[test]).mean()
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(by_mechanism.mean()),
        "chance": 1.0 / len(by_mechanism),
        "num_cells": len(cells),
        "num_wells_train": len(set(wells[train])),
        "num_wells_test": len(set(wells[test])),
        "num_groups_train": len(set(groups[train])),
        "num_groups_test": len(set(groups[test])),
        "held_out": held_out,
        "classifier": classifier,
        "unanswerable": sorted(str(name) for name in set(labels) - set(asked)),
    }


def _hold_out_groups(
    groups: Int[np.ndarray, " cell"],
    wells: Int[np.ndarray, " cell"],
    labels: Int[np.ndarray, " cell"],
    fraction: float,
    seed: int,
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Split cells by group so that mechanisms of two groups or more are trained on, and tested where it can be."""
    lies_in = np.zeros((groups.max() + 1, labels.max() + 1), dtype=bool)
    lies_in[groups, labels] = True
    num_wells = np.bincount(pd.DataFrame({"group": groups, "well": wells}).drop_duplicates()["group"])
    left = lies_in.sum(axis=0)  # groups in training, by mechanism
    shared = left > 1
    held = np.zeros(len(lies_in), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(lies_in))
    for everyone_asked in (False, True):
        for group in order:
            own = lies_in[group] & shared
            asked = (lies_in[held] & shared).any(axis=0)
            wanted = num_wells[held].sum() < fraction * num_wells.sum() if everyone_asked else (own & ~asked).any()
            if wanted and not held[group] and own.any() and (left[own] > 1).all():
                held[group] = True
                left = left - lies_in[group]
    return np.flatnonzero(~held[groups]), np.flatnonzero(held[groups])


def _build_classifier(name: Classifier, num_trees: int, num_cells: int, seed: int) -> RandomForestClassifier | Pipeline:
    if name == "random-forest":
        return RandomForestClassifier(num_trees, random_state=seed, n_jobs=-1)
    if name == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    neighbours = min(NUM_NEIGHBOURS, num_cells)
    return make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute"))
