"""Normalisations: each is learnt from control wells and then applied to all wells, sites or new plates alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cytoclr.config import Normalisation
from cytoclr.errors import DataError, list_some
from cytoclr.grouping import check_features
from cytoclr.tables import WELL_PROFILES, check_table, feature_columns

__all__ = ["Map", "Normaliser", "Step", "fit_normalisation"]

PLATE, BATCH = "Metadata_Plate", "Metadata_Batch"
PLURAL = {PLATE: "plates", BATCH: "batches"}
Matrix = Float[np.ndarray, "feature feature"]
#: Median absolute deviation to standard deviation, for a normal distribution.
NORMAL_MAD = 1.4826
#: Identity added to both covariances of CORAL: Sun, Feng & Saenko 2016, algorithm 1 (doi:10.1609/aaai.v30i1.10306).
CORAL_IDENTITY = 1.0
#: Added to the eigenvalues by the notebook that ``broad-notebook`` follows; in squared units of the features.
BROAD_LAMBDA = 1.0


@dataclass(frozen=True)
class Map:
    """An affine map of profiles: less the centre, then times a factor per feature or a matrix."""

    centre: Float[np.ndarray, " feature"]
    factor: Float[np.ndarray, " feature"] | Float[np.ndarray, "feature feature"]

    def apply(self, values: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
        """Map the rows."""
        centred = values - self.centre
        mapped: np.ndarray = centred * self.factor if self.factor.ndim == 1 else centred @ self.factor
        return mapped


@dataclass(frozen=True)
class Step:
    """One map for all rows (`column` is None, the key is ""), or one for each value of a column."""

    column: str | None
    maps: Mapping[str, Map]


@dataclass(frozen=True)
class Normaliser:
    """What a fit has learnt; `apply` needs nothing else.

    Attributes
    ----------
    method
        Name of the normalisation.
    features
        The features it takes, in order; all others are dropped.
    outputs
        The features it gives: the same, or others where each is a mixture of all.
    steps
        Maps in the order in which they are applied.
    report
        What the fit found: numbers of control wells, features left out, warnings in words. Plain JSON values.
    """

    method: Normalisation
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    report: dict[str, Any]

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Normalise the features of a table; its metadata stay as they are.

        Raises
        ------
        DataError
            A feature is missing, or a row belongs to a plate or batch that had no controls in the fit.
        """
        missing = [name for name in self.features if name not in frame.columns]
        if missing:
            raise DataError(
                f"profiles: lack {len(missing)} of the {len(self.features)} features the normalisation was fitted "
                f"on: {list_some(missing)}. Expected a table made in the same way."
            )
        values = frame[list(self.features)].to_numpy(dtype=np.float64)
        for step in self.steps:
            values = _apply_step(step, values, frame)
        metadata = frame.drop(columns=feature_columns(frame))
        return pd.concat([metadata, pd.DataFrame(values, columns=list(self.outputs), index=frame.index)], axis=1)


def _apply_step(
    step: Step, values: Float[np.ndarray, "row feature"], frame: pd.DataFrame
) -> Float[np.ndarray, "row feature"]:
    if step.column is None:
        return step.maps[""].apply(values)
    groups = frame[step.column].astype("str").to_numpy()
    unknown = sorted(set(groups) - set(step.maps))
    if unknown:
        raise DataError(
            f"profiles: the {PLURAL[step.column]} {list_some(unknown)} had no control wells when the normalisation "
            "was fitted. Fit on all of them, or use whitening or none."
        )
    result = np.empty_like(values)
    for group in np.unique(groups):
        here = groups == group
        result[here] = step.maps[group].apply(values[here])
    return result


def fit_normalisation(wells: pd.DataFrame, method: Normalisation, *, regularisation: float = 0.3) -> Normaliser:
    """Learn a normalisation from the control wells (``Metadata_control_type`` is ``negcon``).

    ``none``
        Features stay as they are.
    ``plate-zscore``
        On each plate: less the mean of its control wells, divided by their population standard deviation. A
        feature that is constant on the controls of any plate is left out everywhere, and listed.
    ``plate-mad``
        The same with the median, and 1.4826 times the median absolute deviation: the standard deviation of a
        normal distribution, but blind to outliers.
    ``plate-percentile``
        The same with the 1st percentile, and the distance from there to the 99th: most controls lie in 0..1
        (Ljosa et al. 2013, doi:10.1177/1087057113503553).
    ``whitening``
        All control wells together: less their mean, times V diag(1/sqrt(e + r)) V', where V and e are the
        eigenvectors and eigenvalues of their population covariance and r is `regularisation` times the mean
        eigenvalue. Turning back by V' (ZCA) leaves cosines as they are and features with their names.
        With fewer controls than features, r alone decides in the directions in which the controls do not vary.
    ``tvn``
        Typical variation normalisation (Ando, McLean & Berndl 2017): whitening, then each batch is aligned to all:
        less the mean of its controls, times (C_b + I)^(-1/2) (C + I)^(1/2), where C_b and C are the population
        covariances of the whitened controls of the batch and of all batches (CORAL, Sun et al. 2016).
    ``broad-notebook``
        What the notebooks behind several published BBBC021 figures do, for comparison with those: whitening with
        r = 1 whatever the features' scale, not turned back, so the features are no longer those of the table (they
        are called ``Cells_White_0000`` …); then CORAL with second moments about nought in place of covariances, and
        without taking off the batch's mean.

    Parameters
    ----------
    wells
        One row a well: the columns of `WELL_PROFILES` and features without gaps.
    method
        Name of the normalisation.
    regularisation
        Share of the mean eigenvalue that is added to each (``whitening``, ``tvn``); above nought.

    Returns
    -------
    Normaliser
        Frozen; `Normaliser.apply` takes wells, sites, or wells of the same plates seen later.

    Raises
    ------
    DataError
        There are no controls; a plate (``plate-…``) or batch (``tvn``) has none, or one; no feature varies.

    Notes
    -----
    Ando et al. align second moments; here the mean of a batch's controls is removed too, as Celik et al. 2024
    (doi:10.1371/journal.pcbi.1012463) do: a shift of a whole batch is what a batch effect mostly is.

    References
    ----------
    doi:10.1101/161422 (Ando et al. 2017), doi:10.1609/aaai.v30i1.10306 (Sun et al. 2016).
    """
    wells = check_table(wells, WELL_PROFILES, "well profiles")
    check_features(wells, "well profiles")
    names = feature_columns(wells)
    if method == "none":
        return Normaliser(
            method, tuple(names), tuple(names), (), {"method": method, "features_left_out": [], "warnings": []}
        )
    controls = (wells["Metadata_control_type"] == "negcon").to_numpy()
    if controls.sum() < 2:
        raise DataError(
            f"well profiles: found {controls.sum()} control wells (Metadata_control_type negcon) among {len(wells):,}. "
            f"{method} is fitted on controls and needs at least 2; mark them, or normalise: none."
        )
    report: dict[str, Any] = {"method": method, "num_controls": int(controls.sum())}
    values = wells[names].to_numpy(dtype=np.float64)
    if method in ("plate-zscore", "plate-mad", "plate-percentile"):
        return _fit_plates(wells, values, controls, report, method)
    report["warnings"] = _warn_of_rank(int(controls.sum()), len(names))
    outputs, steps = names, []
    if method == "broad-notebook":
        outputs = [f"Cells_White_{index:04d}" for index in range(len(names))]
        steps.append(Step(None, {"": _fit_broad_whitening(values[controls])}))
    else:
        report |= {"regularisation": regularisation}
        steps.append(Step(None, {"": _fit_whitening(values[controls], regularisation)}))
    if method in ("tvn", "broad-notebook"):
        groups = _find_groups(wells, controls, BATCH, method)
        report["num_controls_by_batch"] = {group: int(rows.sum()) for group, rows in groups.items()}
        report["warnings"] += _warn_of_few(report["num_controls_by_batch"], len(names))
        white = steps[0].maps[""].apply(values)
        steps.append(Step(BATCH, _fit_coral(white, groups, centre=method == "tvn")))
    return Normaliser(method, tuple(names), tuple(outputs), tuple(steps), {**report, "features_left_out": []})


def _find_groups(
    wells: pd.DataFrame, controls: Bool[np.ndarray, " well"], column: str, method: str
) -> dict[str, Bool[np.ndarray, " well"]]:
    """Control wells of each plate or batch; refuse those with fewer than two."""
    names = wells[column].to_numpy()
    groups = {str(name): controls & (names == name) for name in sorted(set(names))}
    few = [f"{name} ({rows.sum()})" for name, rows in groups.items() if rows.sum() < 2]
    if few:
        raise DataError(
            f"well profiles: {len(few)} of {len(groups)} {PLURAL[column]} have fewer than 2 control wells: "
            f"{list_some(few)}. {method} needs 2 on each; use whitening (all controls together) or none."
        )
    return groups


def _fit_plates(
    wells: pd.DataFrame,
    values: Float[np.ndarray, "well feature"],
    controls: Bool[np.ndarray, " well"],
    report: dict[str, Any],
    method: Normalisation,
) -> Normaliser:
    names = np.array(feature_columns(wells), dtype=object)
    groups = _find_groups(wells, controls, PLATE, method)
    scales = {group: _measure_scale(values[rows], method) for group, rows in groups.items()}
    varies = np.logical_and.reduce([spread > 0 for _, spread in scales.values()])
    if not varies.any():
        raise DataError(
            f"well profiles: each of the {len(names)} features is constant on the controls of some plate. "
            "Expected features that vary; use whitening or none."
        )
    maps = {group: Map(centre[varies], 1.0 / spread[varies]) for group, (centre, spread) in scales.items()}
    kept, left_out = names[varies].tolist(), names[~varies].tolist()
    counts = {group: int(rows.sum()) for group, rows in groups.items()}
    warnings = []
    if left_out:
        warnings.append(
            f"{len(left_out)} of {len(names)} features have no spread on the controls of a plate and were left out: "
            f"{list_some(left_out)}."
        )
    smallest = min(counts, key=lambda group: counts[group])
    if counts[smallest] < 4:
        warnings.append(f"Only {counts[smallest]} control wells on plate {smallest}: a spread of so few is rough.")
    report |= {"num_controls_by_plate": counts, "features_left_out": left_out, "warnings": warnings}
    return Normaliser(method, tuple(kept), tuple(kept), (Step(PLATE, maps),), report)


def _measure_scale(
    controls: Float[np.ndarray, "well feature"], method: Normalisation
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """What is taken off and divided by on one plate; a spread that is no more than rounding is nought."""
    if method == "plate-zscore":
        centre, spread = controls.mean(axis=0), controls.std(axis=0)
    elif method == "plate-mad":
        centre = np.median(controls, axis=0)
        spread = NORMAL_MAD * np.median(np.abs(controls - centre), axis=0)
    else:
        centre, high = np.percentile(controls, (1, 99), axis=0)
        spread = high - centre
    return centre, np.where(spread > 1e-12 * np.abs(controls).max(axis=0), spread, 0.0)


def _fit_whitening(controls: Float[np.ndarray, "well feature"], regularisation: float) -> Map:
    if (np.ptp(controls, axis=0) <= 1e-12 * np.abs(controls).max(axis=0)).all():
        raise DataError(
            f"well profiles: all {controls.shape[1]} features are constant on the {len(controls)} control wells. "
            "Expected controls that vary; look at how the profiles were made."
        )
    covariance = _covary(controls)
    added = regularisation * np.trace(covariance) / len(covariance)
    return Map(controls.mean(axis=0), _power(covariance, -0.5, added))


def _fit_broad_whitening(controls: Float[np.ndarray, "well feature"]) -> Map:
    eigenvalues, vectors = np.linalg.eigh(_covary(controls))
    return Map(controls.mean(axis=0), vectors / np.sqrt(np.maximum(eigenvalues, 0.0) + BROAD_LAMBDA))


def _fit_coral(
    values: Float[np.ndarray, "well feature"], groups: Mapping[str, Bool[np.ndarray, " well"]], *, centre: bool
) -> dict[str, Map]:
    """Align each group of controls to all; `centre`: their covariances and means, else their second moments."""
    centres = {group: values[rows].mean(axis=0) * centre for group, rows in groups.items()}
    everywhere = values[np.logical_or.reduce(list(groups.values()))]
    target = _power(_moment(everywhere - everywhere.mean(axis=0) * centre), 0.5, CORAL_IDENTITY)
    return {
        group: Map(centres[group], _power(_moment(values[rows] - centres[group]), -0.5, CORAL_IDENTITY) @ target)
        for group, rows in groups.items()
    }


def _covary(values: Float[np.ndarray, "well feature"]) -> Matrix:
    """Population covariance of the features."""
    return _moment(values - values.mean(axis=0))


def _moment(values: Float[np.ndarray, "well feature"]) -> Matrix:
    """Second moments of the features about nought."""
    moment: np.ndarray = values.T @ values / len(values)
    return moment


def _power(matrix: Matrix, exponent: float, added: float) -> Matrix:
    """Raise a symmetric matrix, with `added` to each eigenvalue, to a power."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    # eigenvalues of a covariance are not negative but for rounding
    powers = (np.maximum(eigenvalues, 0.0) + added) ** exponent
    result: np.ndarray = (vectors * powers) @ vectors.T
    return result


def _warn_of_rank(num_controls: int, num_features: int) -> list[str]:
    if num_controls > num_features:
        return []
    return [
        f"{num_controls} control wells span at most {num_controls - 1} of {num_features} directions; in the others "
        "the regularisation alone sets the scale."
    ]


def _warn_of_few(counts: Mapping[str, int], num_features: int) -> list[str]:
    few = [f"{batch} ({count})" for batch, count in counts.items() if count <= num_features]
    if not few:
        return []
    return [
        f"{len(few)} of {len(counts)} batches have no more control wells than the {num_features} features: "
        f"{list_some(few)}. Their covariances are shrunk to the identity where the controls do not vary."
    ]
