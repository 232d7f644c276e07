"""Treatments with a known mechanism, their profiles, and the batches they lie in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.errors import DataError
from cytoclr.evaluate.protocols import Protocol
from cytoclr.grouping import check_features, reduce_features
from cytoclr.mechanisms import join_mechanisms
from cytoclr.tables import (
    MECHANISM,
    TREATMENT,
    WELL,
    WELL_PROFILES,
    check_table,
    feature_columns,
    feature_matrix,
    is_control,
    round_concentrations,
    select_enough_cells,
    sort_naturally,
    treatment_names,
)

__all__ = ["AnnotatedTreatments", "annotate_treatments"]


@dataclass(frozen=True)
class AnnotatedTreatments:
    """Everything the matching needs, sorted by compound and concentration (and plate and well).

    Where the protocol is of wells, a well stands for a treatment everywhere.

    Attributes
    ----------
    frame
        ``Metadata_Compound``, ``Metadata_Concentration`` and ``Metadata_MoA`` (and plate and well), one row a
        treatment.
    features
        Profiles, in the same order.
    batches
        Which batches a treatment has wells in.
    batch_names
        Name of each batch, in the order of the columns of `batches`: the natural one, Week2 before Week10.
    median_batches
        Median of the batches of a treatment's plates, as places in that order.
    unannotated
        Names of the treatments that the mechanism table does not hold; they take no part.
    wells
        The treated wells, for profiles made without some batches.
    protocol
        By which the profiles were made.
    """

    frame: pd.DataFrame
    features: Float[np.ndarray, "treatment feature"]
    batches: Bool[np.ndarray, "treatment batch"]
    batch_names: tuple[str, ...]
    median_batches: Float[np.ndarray, " treatment"]
    unannotated: tuple[str, ...]
    wells: pd.DataFrame
    protocol: Protocol

    def __len__(self) -> int:
        """Count the treatments."""
        return len(self.frame)

    @property
    def names(self) -> list[str]:
        """Names for people, as ``taxol 0.3 µM``."""
        names = treatment_names(self.frame)
        if self.protocol.level == "treatment":
            return list(names)
        wells = self.frame[WELL].astype("str").agg(" ".join, axis=1)
        return [f"{name} ({well})" for name, well in zip(names, wells, strict=True)]

    @property
    def key(self) -> list[str]:
        """Columns that together name a row."""
        return [*TREATMENT, *(WELL if self.protocol.level == "well" else [])]

    @property
    def compounds(self) -> Int[np.ndarray, " treatment"]:
        """The same number for the same compound."""
        return pd.factorize(self.frame["Metadata_Compound"])[0]

    @property
    def mechanisms(self) -> Int[np.ndarray, " treatment"]:
        """The same number for the same mechanism."""
        return pd.factorize(self.frame[MECHANISM])[0]

    @property
    def mechanism_names(self) -> list[str]:
        """Name of each mechanism, in the order of their numbers."""
        return [str(name) for name in pd.factorize(self.frame[MECHANISM])[1]]

    def select(self, rows: Bool[np.ndarray, " treatment"]) -> "AnnotatedTreatments":
        """Keep some of the treatments."""
        frame = self.frame.loc[rows].reset_index(drop=True)
        return replace(
            self,
            frame=frame,
            features=self.features[rows],
            batches=self.batches[rows],
            median_batches=self.median_batches[rows],
        )

    def find_exclusions(self) -> Bool[np.ndarray, "treatment group"]:
        """Groups that a query and its reference must not share in NSCB, as the protocol has it (`Protocol`)."""
        rule = self.protocol.shared_batches
        if rule == "joined":
            return _mark(np.unique(self.batches, axis=0, return_inverse=True)[1].reshape(-1))
        if rule == "median":
            return _mark(np.unique(self.median_batches, return_inverse=True)[1])
        if rule == "same-mechanism":
            of_mechanism = _mark(self.mechanisms)
            both: np.ndarray = self.batches[:, :, None] & of_mechanism[:, None, :]
            return both.reshape(len(self), -1)
        return self.batches

    def aggregate_without(
        self, batches: Bool[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "treatment feature"], Bool[np.ndarray, " treatment"]]:
        """Profiles made of the wells in other batches; and which treatments have any (else the profile is nought)."""
        refused = [name for name, is_in in zip(self.batch_names, batches, strict=True) if is_in]
        wells = self.wells[~self.wells[self.protocol.batch].isin(refused)]
        groups, values = _aggregate(wells, self.key, self.protocol)
        order = pd.MultiIndex.from_frame(groups[self.key]).get_indexer(pd.MultiIndex.from_frame(self.frame[self.key]))
        features = np.zeros_like(self.features)
        features[order >= 0] = values[order[order >= 0]]
        return features, order >= 0

    def find_single_batch_mechanisms(self) -> list[str]:
        """Names of the mechanisms all of whose wells lie in one batch, sorted."""
        table = pd.DataFrame(self.batches).groupby(self.frame[MECHANISM].to_numpy(), sort=True).any()
        return [str(name) for name in table.index[table.sum(axis=1) == 1]]


def annotate_treatments(wells: pd.DataFrame, mechanisms: pd.DataFrame, protocol: Protocol) -> AnnotatedTreatments:
    """Aggregate wells to treatments, and join their mechanisms.

    Parameters
    ----------
    wells
        Normalised profiles: the columns of `WELL_PROFILES` and features. Controls take no part.
    mechanisms
        The columns of `cytoclr.tables.MECHANISMS`. Concentrations are compared to six significant digits.
    protocol
        Its aggregate and batch column are used.

    Raises
    ------
    DataError
        A table is not as declared, or the mechanism table is empty.
    """
    wells = check_table(wells, WELL_PROFILES, "well profiles")
    check_features(wells, "well profiles")
    treated = round_concentrations(select_enough_cells(wells)).loc[lambda frame: ~is_control(frame)]
    treated = _select_positive_controls(treated, protocol)
    if treated.empty:
        raise DataError(
            f"well profiles: all {len(wells):,} wells are untreated controls (negcon), positive controls that the "
            "protocol leaves out, or have too few cells. Expected treated ones too."
        )
    if protocol.unit_wells:
        treated = _scale_to_one(treated)
    key = TREATMENT if protocol.level == "treatment" else [*TREATMENT, *WELL]
    groups, features = _aggregate(treated, key, protocol)
    lies_in = treated.pivot_table(index=key, columns=protocol.batch, aggfunc="size", fill_value=0)
    batch_names = sort_naturally(lies_in.columns)
    frame = join_mechanisms(groups[key], mechanisms)
    has = frame[MECHANISM].notna().to_numpy()
    everything = AnnotatedTreatments(
        frame=frame,
        features=features,
        batches=lies_in[batch_names].to_numpy() > 0,
        batch_names=tuple(batch_names),
        median_batches=_find_median_batches(treated, key, batch_names, protocol.batch),
        unannotated=tuple(treatment_names(frame.loc[~has]).unique()),
        wells=treated,
        protocol=protocol,
    )
    return everything.select(has)


def _select_positive_controls(treated: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    positive = treated["Metadata_control_type"] == "poscon"
    if protocol.positive_controls == "keep" or not positive.any():
        return treated
    if protocol.positive_controls == "drop":
        return treated[~positive]
    place = treated[protocol.batch].map({name: i for i, name in enumerate(sort_naturally(treated[protocol.batch]))})
    first = place[positive].groupby([treated.loc[positive, name] for name in TREATMENT]).transform("min")
    return treated[~positive | (place == first.reindex(treated.index))]


def _aggregate(
    wells: pd.DataFrame, key: Sequence[str], protocol: Protocol
) -> tuple[pd.DataFrame, Float[np.ndarray, "treatment feature"]]:
    """Aggregate wells as the protocol has it: perhaps on each plate first."""
    if protocol.within_plates is None:
        return reduce_features(wells, key, order=WELL, statistic=protocol.aggregate)
    groups, values = reduce_features(wells, [*key, WELL[0]], order=WELL, statistic=protocol.within_plates)
    on_plates = pd.DataFrame(values, columns=feature_columns(wells)).join(groups[list(dict.fromkeys([*key, *WELL]))])
    return reduce_features(on_plates, key, order=WELL, statistic=protocol.aggregate)


def _find_median_batches(
    treated: pd.DataFrame, key: Sequence[str], batch_names: Sequence[str], batch: str
) -> Float[np.ndarray, " treatment"]:
    plates = treated.drop_duplicates([*key, WELL[0]])
    places = plates[batch].map({name: place for place, name in enumerate(batch_names)})
    medians: np.ndarray = places.groupby([plates[name] for name in key], sort=True).median().to_numpy(dtype=np.float64)
    return medians


def _mark(groups: Int[np.ndarray, " treatment"]) -> Bool[np.ndarray, "treatment group"]:
    """Mark each treatment's group, a column each."""
    marked: np.ndarray = groups[:, None] == np.arange(groups.max(initial=-1) + 1)
    return marked


def _scale_to_one(wells: pd.DataFrame) -> pd.DataFrame:
    """Scale each well's profile to length one; one of length nought stays."""
    names, values = feature_columns(wells), feature_matrix(wells)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(lengths > 0, lengths, 1.0)
    return pd.concat([wells.drop(columns=names), pd.DataFrame(unit, columns=names, index=wells.index)], axis=1)
