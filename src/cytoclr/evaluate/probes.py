"""Probes: can a classifier read the mechanism from the embedding of a single cell?"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupShuffleSplit

from cytoclr.evaluate.treatments import join_mechanisms
from cytoclr.grouping import check_features
from cytoclr.tables import EMBEDDINGS, MECHANISM, WELL, check_table, feature_columns

__all__ = ["probe_mechanisms"]


def probe_mechanisms(
    embeddings: pd.DataFrame,
    mechanisms: pd.DataFrame,
    *,
    seed: int,
    test_fraction: float = 0.3,
    max_cells: int = 10_000,
    num_trees: int = 100,
) -> dict[str, Any] | None:
    """Predict the mechanism of single cells with a random forest, on wells it has not seen.

    Parameters
    ----------
    embeddings
        One row a cell, not normalised: the columns of `EMBEDDINGS` and features.
    mechanisms
        The columns of `MECHANISMS`. Controls, and treatments not in the table, take no part.
    seed
        Decides the cells drawn, the split and the forest.
    test_fraction
        Share of the wells held out: all cells of a well are on one side.
    max_cells
        If there are more cells, so many are drawn at random.
    num_trees
        Size of the forest.

    Returns
    -------
    ``accuracy``; ``balanced_accuracy``, the mean over mechanisms of the share of their held-out cells that are
    named rightly; ``chance``, what guessing gives in that mean: one over the number of mechanisms held out;
    ``num_cells``, ``num_wells_train``, ``num_wells_test``. None with fewer than two mechanisms or four wells.

    Notes
    -----
    Wells of one treatment may lie on both sides, and wells of one plate do: the probe tells whether mechanisms can
    be read at all, not whether they carry over to new compounds or batches. NSC and NSCB ask that.
    """
    embeddings = check_table(embeddings, EMBEDDINGS, "embeddings")
    check_features(embeddings, "embeddings")
    cells = join_mechanisms(embeddings[embeddings["Metadata_control_type"] != "negcon"], mechanisms)
    cells = cells[cells[MECHANISM].notna()].sort_values("Metadata_CellID", kind="stable")
    if len(cells) > max_cells:
        cells = cells.iloc[np.sort(np.random.default_rng(seed).permutation(len(cells))[:max_cells])]
    wells = cells.groupby(WELL).ngroup().to_numpy()
    if cells[MECHANISM].nunique() < 2 or len(set(wells)) < 4:
        return None
    features = cells[feature_columns(cells)].to_numpy(dtype=np.float32)
    labels = cells[MECHANISM].to_numpy(dtype=object)
    split = GroupShuffleSplit(1, test_size=test_fraction, random_state=seed)
    train, test = next(split.split(features, groups=wells))
    forest = RandomForestClassifier(num_trees, random_state=seed, n_jobs=-1).fit(features[train], labels[train])
    right = forest.predict(features[test]) == labels[test]
    by_mechanism = pd.Series(right).groupby(labels[test]).mean()
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(by_mechanism.mean()),
        "chance": 1.0 / len(by_mechanism),
        "num_cells": len(cells),
        "num_wells_train": len(set(wells[train])),
        "num_wells_test": len(set(wells[test])),
    }
