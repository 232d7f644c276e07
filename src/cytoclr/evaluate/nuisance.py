"""What profiles know that they should not: can batch and plate be told from the untreated wells?"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf

from cytoclr.evaluate.similarity import group_rows, order_wells
from cytoclr.tables import feature_matrix, is_control

__all__ = ["predict_nuisance"]

MAX_FOLDS = 5
PERMUTATIONS = 1000


def predict_nuisance(wells: pd.DataFrame, *, seed: int) -> dict[str, dict[str, Any] | None]:
    """Predict the batch and the plate of untreated wells: what can be told is technical, not biology.

    The classifier is a linear discriminant analysis with equal priors: a held-out well is given to the class with the
    nearest mean, after whitening by the covariance within classes, shrunk as Ledoit and Wolf (2004) do. The batch is
    asked of wells on plates that the classifier has not seen, else telling the plate would be enough. The plate can
    only be asked of other wells of the same plate.

    Parameters
    ----------
    wells
        Profiles, normalised or not (compare both): the columns of `WELL_PROFILES` and features. Treated wells take no
        part.
    seed
        Decides the folds and the permutations.

    Returns
    -------
    For ``batch`` and for ``plate``: ``balanced_accuracy``, mean over classes of the share of their wells named
    rightly, each well held out once; ``chance``, one over the number of classes; ``p95``, what 95 % of 1,000
    assignments at random (of batches to plates, or of plates to wells) reach at most, the predictions unmoved;
    ``num_wells``, ``num_classes``; ``held_out``, ``plate`` or ``well``; ``left_out``, names of the classes too small to
    be asked. The batch is held out by plate if two batches or more have two plates with controls or more, else by
    well. None with fewer than two classes that have two cases.

    Raises
    ------
    DataError
        The table is not as declared, or a feature is empty or infinite somewhere.

    Notes
    -----
    A normalisation that was fitted on the controls of each plate makes their mean nought, so a held-out well lies
    opposite to the others of its plate: the plate is then told *less* often than by chance. That is no virtue, nor a
    fault.
    Where batches are held out by well, a batch is known by its plates. Control wells mostly stand in the same places of
    every plate, so a layout effect is not seen. Time grows as features³ + wells × features².

    References
    ----------
    doi:10.1016/S0047-259X(03)00096-4 (Ledoit and Wolf 2004).
    """
    wells = order_wells(wells)
    controls = wells[is_control(wells)].reset_index(drop=True)
    features = feature_matrix(controls)
    plates = controls["Metadata_Plate"].to_numpy(dtype=object)
    batches = controls["Metadata_Batch"].to_numpy(dtype=object)
    each = np.arange(len(controls))
    # a plate is of one batch: cases are the plates of a batch
    by_plate = _predict(features, batches, pd.factorize(batches + "\n" + plates)[0], "plate", seed)
    return {
        "batch": by_plate or _predict(features, batches, each, "well", seed),
        "plate": _predict(features, plates, each, "well", seed),
    }


def _predict(
    features: Float[np.ndarray, "well feature"],
    names: np.ndarray,
    cases: Int[np.ndarray, " well"],
    held_out: Literal["plate", "well"],
    seed: int,
) -> dict[str, Any] | None:
    """Predict the class of each well from others, all wells of a case held out together."""
    table = pd.DataFrame({"name": names, "case": cases})
    num_cases = table.groupby("name")["case"].nunique()
    large = np.sort(num_cases.index[num_cases >= 2].to_numpy(dtype=object))
    if len(large) < 2:
        return None
    kept = np.isin(names, large)
    features, cases, labels = features[kept], cases[kept], np.searchsorted(large, names[kept])
    predicted = np.empty(len(labels), dtype=np.int64)
    folds = _fold_cases(labels, cases, min(MAX_FOLDS, int(num_cases[large].max())), seed)
    for fold in np.unique(folds):
        tested = folds == fold
        predicted[tested] = _name_classes(features[~tested], labels[~tested], features[tested])
    return {
        "balanced_accuracy": _balance(predicted == labels, labels),
        "chance": 1.0 / len(large),
        "p95": _permute(predicted, labels, cases, seed),
        "num_wells": len(labels),
        "num_classes": len(large),
        "held_out": held_out,
        "left_out": sorted(str(name) for name in num_cases.index[num_cases < 2]),
    }


def _fold_cases(
    labels: Int[np.ndarray, " well"], cases: Int[np.ndarray, " well"], num_folds: int, seed: int
) -> Int[np.ndarray, " well"]:
    """Deal the cases of each class out to the folds in turn: of two cases or more, not all are held out together."""
    rng = np.random.default_rng(seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for rows in group_rows(labels):
        _, codes = np.unique(cases[rows], return_inverse=True)
        turns = (rng.permutation(codes.max() + 1) + rng.integers(num_folds)) % num_folds
        folds[rows] = turns[codes]
    return folds


def _name_classes(
    features: Float[np.ndarray, "known feature"],
    labels: Int[np.ndarray, " known"],
    queries: Float[np.ndarray, "query feature"],
) -> Int[np.ndarray, " query"]:
    """Give each query to the class with the nearest mean, by the covariance within classes."""
    deviations = features.std(axis=0)
    # a feature that is constant but for rounding is left as it is
    scale = np.where(deviations > 1e-12 * np.abs(features).max(axis=0), deviations, 1.0)
    features, queries = features / scale, queries / scale
    known = np.unique(labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in known])
    covariance, _ = ledoit_wolf(features - means[np.searchsorted(known, labels)], assume_centered=True)
    ridge = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-9)  # where all wells of a class are the same
    factor = cho_factor(covariance + ridge * np.eye(len(covariance)), lower=True)
    # centred on the grand mean, so that large offsets do not cancel
    centre = means.mean(axis=0)
    weights = cho_solve(factor, (means - centre).T)
    offsets = 0.5 * np.sum((means - centre).T * weights, axis=0)
    nearest: np.ndarray = known[np.argmax((queries - centre) @ weights - offsets, axis=1)]
    return nearest


def _permute(
    predicted: Int[np.ndarray, " well"], labels: Int[np.ndarray, " well"], cases: Int[np.ndarray, " well"], seed: int
) -> float:
    """95th percentile of the balanced accuracy with the classes permuted over the cases."""
    rng = np.random.default_rng(seed)
    _, first, codes = np.unique(cases, return_index=True, return_inverse=True)
    reached = np.empty(PERMUTATIONS)
    for index in range(PERMUTATIONS):
        shuffled = rng.permutation(labels[first])[codes]
        reached[index] = _balance(predicted == shuffled, shuffled)
    return float(np.percentile(reached, 95))


def _balance(right: np.ndarray, labels: Int[np.ndarray, " well"]) -> float:
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))
