"""Normalisations: each is learnt from control wells and then applied to all wells, sites or new plates alike."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from cytoclr.config import Normalisation
from cytoclr.errors import DamagedError, DataError, list_some
from cytoclr.grouping import check_features
from cytoclr.profiles.steps import BATCH, PLATE, Controls, Map, Step, fit_step
from cytoclr.storage import open_atomic
from cytoclr.tables import WELL, WELL_PROFILES, check_table, feature_columns, is_control, select_enough_cells

__all__ = ["Normaliser", "fit_normalisation", "name_normalisation", "read_normaliser"]

FORMAT = 1


@dataclass(frozen=True)
class Normaliser:
    """What a fit has learnt; `apply` needs nothing else.

    Attributes
    ----------
    methods
        Names of the normalisations, in the order in which they are applied.
    features
        The features it takes, in order; all others are dropped.
    steps
        The maps, in the order in which they are applied.
    report
        What the fit found: numbers of control wells by plate and batch, features left out, how white the controls
        became, warnings in words. Plain JSON values.
    """

    methods: tuple[Normalisation, ...]
    features: tuple[str, ...]
    steps: tuple[Step, ...]
    report: Mapping[str, Any]

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
        names, values = self.features, frame[list(self.features)].to_numpy(dtype=np.float64)
        for step in self.steps:
            values = step.apply(_select(values, names, step.features), frame)
            names = step.outputs
        metadata = frame.drop(columns=feature_columns(frame))
        return pd.concat([metadata, pd.DataFrame(values, columns=list(names), index=frame.index)], axis=1)

    def write(self, path: Path) -> None:
        """Write everything to one file that `read_normaliser` takes back: arrays, names and report; no code.

        Raises
        ------
        MachineError
            The file cannot be written.
        """
        arrays, steps = {}, []
        for number, step in enumerate(self.steps):
            keys = sorted(step.maps)
            for index, key in enumerate(keys):
                # copies: safetensors stores the memory of a view as it lies
                arrays[f"{number}.{index}.centre"] = np.ascontiguousarray(step.maps[key].centre)
                arrays[f"{number}.{index}.factor"] = np.ascontiguousarray(step.maps[key].factor)
            about = {"name": step.name, "column": step.column, "keys": keys, "report": step.report}
            steps.append({**about, "features": step.features, "outputs": step.outputs})
        header = {
            "format": FORMAT,
            "methods": self.methods,
            "features": self.features,
            "steps": steps,
            "report": self.report,
        }
        with open_atomic(path) as file:
            file.write(safetensors.numpy.save(arrays, metadata={"cytoclr": json.dumps(header)}))


def read_normaliser(path: Path) -> Normaliser:
    """Read what `Normaliser.write` wrote.

    Raises
    ------
    DataError
        There is no such file.
    DamagedError
        It is not such a file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected a run's profiles/normaliser.safetensors.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get("cytoclr")
            if told is None:
                raise DataError(f"{path}: not a normaliser. Expected a run's profiles/normaliser.safetensors.")
            header = json.loads(told)
            steps = []
            for number, about in enumerate(header["steps"]):
                maps = {
                    key: Map(file.get_tensor(f"{number}.{index}.centre"), file.get_tensor(f"{number}.{index}.factor"))
                    for index, key in enumerate(about["keys"])
                }
                features, outputs = tuple(about["features"]), tuple(about["outputs"])
                steps.append(Step(about["name"], about["column"], maps, features, outputs, about["report"]))
            return Normaliser(tuple(header["methods"]), tuple(header["features"]), tuple(steps), header["report"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: not a normaliser ({error}). Run the profile stage again.") from error


def name_normalisation(methods: Sequence[Normalisation]) -> str:
    """Name a sequence of normalisations as it is printed with a score: ``plate-mad, whitening``."""
    return ", ".join(methods)


def fit_normalisation(
    wells: pd.DataFrame,
    methods: Normalisation | Sequence[Normalisation],
    *,
    regularisation: float | str = 0.3,
) -> Normaliser:
    """Learn a normalisation from the control wells (``Metadata_control_type`` is ``negcon``).

    Several are applied one after the other, each learnt from what the one before it gives: ``plate-mad, whitening``.

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
    ``batch-centre``
        In each batch: less the mean of its control wells.
    ``combat``
        In each batch, each feature is shifted and scaled so that the controls of all batches agree, by amounts drawn
        towards what the other features of that batch have: ComBat (Johnson, Li & Rabinovic 2007), parametric, its
        sums taken over the controls.
    ``whitening``
        All control wells together (sphering): less their mean, times V diag(1/sqrt(e + r)) V', where V and e are the
        eigenvectors and eigenvalues of their population covariance and r is `regularisation` times the mean
        eigenvalue. Turning back by V' (ZCA) leaves cosines as they are and features with their names.
        With fewer controls than features, r alone decides in the directions in which the controls do not vary.
    ``whitening-pca``
        The same, not turned back: features are components ``Cells_PCA_0000`` …, the controls' greatest first.
    ``whitening-zca-cor``
        The same as ``whitening``, of features divided by their standard deviation over the controls (Kessy, Lewin &
        Strimmer 2018): the choice for features of different units.
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
        One row a well: the columns of `WELL_PROFILES` and features without gaps. Wells flagged for too few cells
        take no part in the fit.
    methods
        One name or several.
    regularisation
        Of the three whitenings and ``tvn``: share of the mean eigenvalue that is added to each; above nought. Or
        ``ledoit-wolf``: what Ledoit & Wolf 2004 estimate from the controls; reported.

    Returns
    -------
    Normaliser
        Frozen; `Normaliser.apply` takes wells, sites, or wells of the same plates seen later.

    Raises
    ------
    DataError
        There are no controls; a plate (``plate-…``) or batch (``tvn``, ``combat`` …) has none, or one; no feature
        varies.

    Notes
    -----
    Ando et al. align second moments; here the mean of a batch's controls is removed too, as Celik et al. 2024
    (doi:10.1371/journal.pcbi.1012463) do: a shift of a whole batch is what a batch effect mostly is.

    References
    ----------
    doi:10.1101/161422 (Ando et al. 2017), doi:10.1609/aaai.v30i1.10306 (Sun et al. 2016),
    doi:10.1093/biostatistics/kxj037 (Johnson et al. 2007), doi:10.1080/00031305.2016.1277159 (Kessy et al. 2018),
    doi:10.1016/S0047-259X(03)00096-4 (Ledoit & Wolf 2004).
    """
    chosen: tuple[Normalisation, ...] = (methods,) if isinstance(methods, str) else tuple(methods)
    wells = check_table(wells, WELL_PROFILES, "well profiles")
    check_features(wells, "well profiles")
    names = tuple(feature_columns(wells))
    report: dict[str, Any] = {"methods": list(chosen), "features_left_out": [], "warnings": [], "steps": []}
    steps: list[Step] = []
    if set(chosen) == {"none"}:
        return Normaliser(chosen, names, (), report)
    trusted = select_enough_cells(wells)
    # in the order of their names: a sum over controls does not depend on the order of the rows
    controls = trusted[is_control(trusted)].sort_values(WELL, kind="stable")
    if len(controls) < 2:
        few = int(is_control(wells).sum()) - len(controls)
        raise DataError(
            f"well profiles: found {len(controls)} control wells (Metadata_control_type negcon) among {len(wells):,}"
            + (f", and {few} with too few cells. " if few else ". ")
            + f"{name_normalisation(chosen)} is fitted on controls and needs at least 2; "
            + ("lower profile.min_cells_per_well" if few else "mark them")
            + ", or normalise: none."
        )
    places = {column: sorted(wells[column].unique()) for column in (PLATE, BATCH)}
    report["num_controls"] = len(controls)
    for name, column in (("num_controls_by_plate", PLATE), ("num_controls_by_batch", BATCH)):
        counts = controls[column].value_counts()
        report[name] = {place: int(counts.get(place, 0)) for place in places[column]}
    about, values, here = controls.drop(columns=list(names)), controls[list(names)].to_numpy(dtype=np.float64), names
    for method in chosen:
        for step in fit_step(method, Controls(values, about, here, places), regularisation=regularisation):
            values = step.apply(_select(values, here, step.features), about)
            here = step.outputs
            steps.append(step)
            _tell(report, step)
    features = steps[0].features if steps else names
    return Normaliser(chosen, features, tuple(steps), report)


def _select(values: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Keep the wanted columns, in their order."""
    if tuple(names) == tuple(wanted):
        return values
    place = {name: index for index, name in enumerate(names)}
    return values[:, [place[name] for name in wanted]]


def _tell(report: dict[str, Any], step: Step) -> None:
    """Add what a step found to the report of all."""
    told = dict(step.report)
    report["warnings"] += told.pop("warnings", [])
    report["features_left_out"] += told.pop("features_left_out", [])
    report["steps"].append({"name": step.name, "by": step.column, **told})
