"""The steps of a normalisation: each is learnt from the control wells and is an affine map of profiles.

A step maps all rows alike (whitening), or those of each plate or batch by a map of their own. What a step needs to
be applied again is its maps; what its fit found out about itself goes into a report of plain JSON values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.covariance import ledoit_wolf_shrinkage

from cytoclr.config import Normalisation
from cytoclr.errors import DataError, list_some

__all__ = ["Controls", "Map", "Step", "fit_step"]

PLATE, BATCH = "Metadata_Plate", "Metadata_Batch"
PLURAL = {PLATE: "plates", BATCH: "batches"}
Matrix = Float[np.ndarray, "feature feature"]
#: Median absolute deviation to standard deviation, for a normal distribution.
NORMAL_MAD = 1.4826
#: Identity added to both covariances of CORAL: Sun, Feng & Saenko 2016, algorithm 1 (doi:10.1609/aaai.v30i1.10306).
CORAL_IDENTITY = 1.0
#: Added to the eigenvalues by the notebook that ``broad-notebook`` follows; in squared units of the features.
BROAD_LAMBDA = 1.0
#: A whitening whose controls' covariance is further than this from what its shrinkage declares has failed.
WHITE_ENOUGH = 1e-6
#: ComBat's shrinkage is repeated until no value moves by more than this share.
COMBAT_CONVERGED = 1e-6
COMBAT_ROUNDS = 1000


@dataclass(frozen=True)
class Map:
    """An affine map of profiles: less the centre, then times a factor per feature or a matrix."""

    centre: Float[np.ndarray, " feature"]
    factor: Float[np.ndarray, " feature"] | Float[np.ndarray, "feature output"]

    def apply(self, values: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row output"]:
        """Map the rows."""
        centred = values - self.centre
        mapped: np.ndarray = centred * self.factor if self.factor.ndim == 1 else centred @ self.factor
        return mapped


@dataclass(frozen=True)
class Step:
    """One map for all rows (`column` is None, the key is ""), or one for each value of a column.

    Attributes
    ----------
    name
        The normalisation that it is, or is part of.
    column
        By which rows are told apart.
    maps
        The map of each value of the column.
    features, outputs
        Features that it takes, in order (others are dropped), and gives.
    report
        What its fit found. Plain JSON values.
    """

    name: Normalisation
    column: str | None
    maps: Mapping[str, Map]
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    report: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, values: Float[np.ndarray, "row feature"], frame: pd.DataFrame) -> Float[np.ndarray, "row output"]:
        """Map the rows of a matrix whose columns are `features`; `frame` tells the plate and batch of each.

        Raises
        ------
        DataError
            A row belongs to a plate or batch that had no controls in the fit.
        """
        if self.column is None:
            return self.maps[""].apply(values)
        groups = frame[self.column].astype("str").to_numpy()
        unknown = sorted(set(groups) - set(self.maps))
        if unknown:
            raise DataError(
                f"profiles: the {PLURAL[self.column]} {list_some(unknown)} had no control wells when the "
                f"normalisation ({self.name}) was fitted. Fit on all of them, or use whitening or none."
            )
        result = np.empty((len(values), len(self.outputs)))
        for group in np.unique(groups):
            here = groups == group
            result[here] = self.maps[group].apply(values[here])
        return result


@dataclass(frozen=True)
class Controls:
    """Profiles of the untreated wells, and which plate and batch each is of."""

    profiles: Float[np.ndarray, "well feature"]
    wells: pd.DataFrame
    names: tuple[str, ...]
    places: Mapping[str, Sequence[str]]

    def split(self, column: str, method: str) -> dict[str, Bool[np.ndarray, " well"]]:
        """Rows of each plate or batch, of all there are; refuse those with fewer than two."""
        groups = {name: (self.wells[column] == name).to_numpy() for name in self.places[column]}
        few = [f"{name} ({rows.sum()})" for name, rows in groups.items() if rows.sum() < 2]
        if few:
            raise DataError(
                f"well profiles: {len(few)} of {len(groups)} {PLURAL[column]} have fewer than 2 control wells: "
                f"{list_some(few)}; those with too few cells do not count. {method} needs 2 on each; use whitening "
                "(all controls together) or none."
            )
        return groups


def fit_step(name: Normalisation, controls: Controls, *, regularisation: float | str) -> list[Step]:
    """Learn a step from controls; see `cytoclr.profiles.fit_normalisation` for what each name means.

    Returns
    -------
    Usually one; two for ``tvn`` and ``broad-notebook``, which align batches after whitening.
    """
    whiten = partial(_fit_whitening, regularisation=regularisation)
    ways: dict[str, Callable[[Normalisation, Controls], list[Step]]] = {
        "none": lambda name, controls: [],
        "plate-zscore": _fit_plates,
        "plate-mad": _fit_plates,
        "plate-percentile": _fit_plates,
        "batch-centre": _fit_centres,
        "combat": _fit_combat,
        "whitening": whiten,
        "whitening-pca": whiten,
        "whitening-zca-cor": whiten,
        "tvn": lambda name, controls: _align_after(whiten(name, controls), name, controls, centre=True),
        "broad-notebook": lambda name, controls: _align_after(_fit_broad(name, controls), name, controls, centre=False),
    }
    return ways[name](name, controls)


def _fit_plates(name: Normalisation, controls: Controls) -> list[Step]:
    groups = controls.split(PLATE, name)
    scales = {group: _measure_scale(controls.profiles[rows], name) for group, rows in groups.items()}
    varies = np.logical_and.reduce([spread > 0 for _, spread in scales.values()])
    if not varies.any():
        raise DataError(
            f"well profiles: each of the {len(varies)} features is constant on the controls of some plate. "
            "Expected features that vary; use whitening or none."
        )
    maps = {group: Map(centre[varies], 1.0 / spread[varies]) for group, (centre, spread) in scales.items()}
    kept = tuple(feature for feature, stays in zip(controls.names, varies, strict=True) if stays)
    left_out = [feature for feature, stays in zip(controls.names, varies, strict=True) if not stays]
    counts = {group: int(rows.sum()) for group, rows in groups.items()}
    warnings = []
    if left_out:
        warnings.append(
            f"{len(left_out)} of {len(varies)} features have no spread on the controls of a plate and were left out: "
            f"{list_some(left_out)}."
        )
    smallest = min(counts, key=lambda group: counts[group])
    if counts[smallest] < 4:
        warnings.append(f"Only {counts[smallest]} control wells on plate {smallest}: a spread of so few is rough.")
    report = {"features_left_out": left_out, "warnings": warnings}
    return [Step(name, PLATE, maps, kept, kept, report)]


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


def _fit_centres(name: Normalisation, controls: Controls) -> list[Step]:
    groups = controls.split(BATCH, name)
    ones = np.ones(len(controls.names))
    maps = {group: Map(controls.profiles[rows].mean(axis=0), ones) for group, rows in groups.items()}
    return [Step(name, BATCH, maps, controls.names, controls.names)]


def _fit_combat(name: Normalisation, controls: Controls) -> list[Step]:
    """Johnson, Li & Rabinovic 2007, parametric, without covariates: the controls are all treated alike."""
    groups = controls.split(BATCH, name)
    centres = {group: controls.profiles[rows].mean(axis=0) for group, rows in groups.items()}
    counts = {group: int(rows.sum()) for group, rows in groups.items()}
    total = sum(counts.values())
    grand = sum(counts[group] * centres[group] for group in groups) / total
    within = sum(((controls.profiles[rows] - centres[group]) ** 2).sum(axis=0) for group, rows in groups.items())
    pooled = np.sqrt(np.asarray(within) / total)
    varies = pooled > 1e-12 * np.abs(controls.profiles).max(axis=0)
    if varies.sum() < 2:
        raise DataError(
            f"well profiles: {varies.sum()} of {len(varies)} features vary on the controls of a batch. combat borrows "
            "strength between features and needs at least 2."
        )
    kept = tuple(feature for feature, stays in zip(controls.names, varies, strict=True) if stays)
    grand, pooled = np.asarray(grand)[varies], pooled[varies]
    maps = {}
    for group, rows in groups.items():
        standard = (controls.profiles[rows][:, varies] - grand) / pooled
        shift, scale = _shrink_combat(standard)
        # x -> ((x - grand) / pooled - shift) / scale * pooled + grand, as one centre and one factor
        maps[group] = Map(grand + pooled * shift - grand * scale, 1.0 / scale)
    left_out = [feature for feature, stays in zip(controls.names, varies, strict=True) if not stays]
    return [Step(name, BATCH, maps, kept, kept, {"features_left_out": left_out})]


def _shrink_combat(
    standard: Float[np.ndarray, "well feature"],
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """Shift and scale of a batch, each drawn towards what the other features have (their equations 3.1 and 3.2)."""
    count, shifts, variances = len(standard), standard.mean(axis=0), standard.var(axis=0, ddof=1)
    prior_shift, prior_variance = shifts.mean(), shifts.var(ddof=1)
    mean, spread = variances.mean(), variances.var(ddof=1)
    if spread <= 1e-12 * mean**2:  # all features agree: nothing to draw towards but themselves
        return shifts, np.sqrt(variances)
    shape, rate = (2 * spread + mean**2) / spread, (mean * spread + mean**3) / spread
    shift, variance = shifts, variances
    for _ in range(COMBAT_ROUNDS):
        new_shift = (count * prior_variance * shifts + variance * prior_shift) / (count * prior_variance + variance)
        new_variance = (rate + 0.5 * ((standard - new_shift) ** 2).sum(axis=0)) / (count / 2 + shape - 1)
        moved = max(np.abs(new_shift - shift).max(), np.abs(new_variance - variance).max())
        shift, variance = new_shift, new_variance
        if moved < COMBAT_CONVERGED:
            break
    return shift, np.sqrt(variance)


def _fit_whitening(name: Normalisation, controls: Controls, *, regularisation: float | str) -> list[Step]:
    values, scale = controls.profiles, np.ones(len(controls.names))
    if (np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(axis=0)).all():
        raise DataError(
            f"well profiles: all {values.shape[1]} features are constant on the {len(values)} control wells. "
            "Expected controls that vary; look at how the profiles were made."
        )
    centre = values.mean(axis=0)
    if name == "whitening-zca-cor":
        deviation = values.std(axis=0)
        scale = np.where(deviation > 1e-12 * np.abs(values).max(axis=0), deviation, 1.0)
    scaled = (values - centre) / scale
    covariance = _moment(scaled)
    shrinkage = None
    if isinstance(regularisation, str):
        shrinkage = float(ledoit_wolf_shrinkage(scaled, assume_centered=True))
        # (1 - a) C + a m I is C + a / (1 - a) m I, but for a scale that all features share
        regularisation = shrinkage / max(1.0 - shrinkage, 1e-6)
    added = regularisation * np.trace(covariance) / len(covariance)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    eigenvalues = np.maximum(eigenvalues, 0.0)  # not negative but for rounding
    matrix = vectors / np.sqrt(eigenvalues + added)
    outputs = controls.names
    if name == "whitening-pca":
        matrix = matrix[:, ::-1]  # the direction in which controls vary most comes first
        outputs = tuple(f"Cells_PCA_{index:04d}" for index in range(len(controls.names)))
    else:
        matrix = matrix @ vectors.T
    whitening = Map(centre, matrix / scale[:, None])
    report = {
        "regularisation": float(regularisation),
        "ledoit_wolf_shrinkage": shrinkage,
        **_check_whiteness(whitening.apply(values), eigenvalues, added),
    }
    report["warnings"] += _warn_of_rank(len(values), len(controls.names))
    return [Step(name, None, {"": whitening}, controls.names, outputs, report)]


def _check_whiteness(
    white: Float[np.ndarray, "well feature"], eigenvalues: Float[np.ndarray, " feature"], added: float
) -> dict[str, Any]:
    """How far the controls' covariance is from the identity (root mean square of eigenvalues less one), and should be.

    Shrinkage leaves e / (e + added) of an eigenvalue e, so the distance is known beforehand.
    """
    found = _distance_from_identity(np.linalg.eigvalsh(_moment(white - white.mean(axis=0))))
    declared = _distance_from_identity(eigenvalues / (eigenvalues + added))
    warnings = []
    if abs(found - declared) > WHITE_ENOUGH:
        warnings.append(
            f"Whitening left the controls' covariance {found:.2g} from the identity where its shrinkage declares "
            f"{declared:.2g}: features that are nearly copies of others, or of very different size, lose precision. "
            "Raise profile.regularisation, or normalise plates first (plate-mad, whitening)."
        )
    return {"covariance_from_identity": found, "covariance_from_identity_declared": declared, "warnings": warnings}


def _distance_from_identity(eigenvalues: Float[np.ndarray, " feature"]) -> float:
    return float(np.sqrt(((eigenvalues - 1.0) ** 2).mean()))


def _fit_broad(name: Normalisation, controls: Controls) -> list[Step]:
    centre = controls.profiles.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(_moment(controls.profiles - centre))
    matrix = vectors / np.sqrt(np.maximum(eigenvalues, 0.0) + BROAD_LAMBDA)
    outputs = tuple(f"Cells_White_{index:04d}" for index in range(len(controls.names)))
    warnings = _warn_of_rank(len(controls.profiles), len(controls.names))
    return [Step(name, None, {"": Map(centre, matrix)}, controls.names, outputs, {"warnings": warnings})]


def _align_after(whitening: list[Step], name: Normalisation, controls: Controls, *, centre: bool) -> list[Step]:
    """Align each batch of whitened controls to all; `centre`: their covariances and means, else second moments."""
    groups = controls.split(BATCH, name)
    values = whitening[0].maps[""].apply(controls.profiles)
    centres = {group: values[rows].mean(axis=0) * centre for group, rows in groups.items()}
    target = _power(_moment(values - values.mean(axis=0) * centre), 0.5)
    maps = {
        group: Map(centres[group], _power(_moment(values[rows] - centres[group]), -0.5) @ target)
        for group, rows in groups.items()
    }
    names = whitening[0].outputs
    warnings = _warn_of_few({group: int(rows.sum()) for group, rows in groups.items()}, len(names))
    return [*whitening, Step(name, BATCH, maps, names, names, {"warnings": warnings})]


def _moment(values: Float[np.ndarray, "well feature"]) -> Matrix:
    """Second moments of the features about nought."""
    moment: np.ndarray = values.T @ values / len(values)
    return moment


def _power(matrix: Matrix, exponent: float) -> Matrix:
    """Raise a symmetric matrix, with CORAL's identity added, to a power."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    powers = (np.maximum(eigenvalues, 0.0) + CORAL_IDENTITY) ** exponent
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
