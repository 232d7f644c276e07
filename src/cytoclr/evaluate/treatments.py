"""Treatments with a known mechanism, their profiles, and the batches they lie in."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.errors import DataError
from cytoclr.evaluate.protocols import Protocol
from cytoclr.grouping import check_features, reduce_features
from cytoclr.tables import MECHANISM, MECHANISMS, TREATMENT, WELL, WELL_PROFILES, check_table, treatment_names

__all__ = ["AnnotatedTreatments", "annotate_treatments", "join_mechanisms"]


@dataclass(frozen=True)
class AnnotatedTreatments:
    """Everything the matching needs, sorted by compound and concentration.

    Attributes
    ----------
    frame
        ``Metadata_Compound``, ``Metadata_Concentration`` and ``Metadata_MoA``, one row a treatment.
    features
        Profiles, in the same order.
    batches
        Which batches a treatment has wells in.
    batch_names
        Name of each batch, in the order of the columns of `batches`.
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
    unannotated: tuple[str, ...]
    wells: pd.DataFrame
    protocol: Protocol

    def __len__(self) -> int:
        """Count the treatments."""
        return len(self.frame)

    @property
    def names(self) -> list[str]:
        """Names for people, as ``taxol 0.3 µM``."""
        return list(treatment_names(self.frame))

    @property
    def compounds(self) -> Int[np.ndarray, " treatment"]:
        """The same number for the same compound."""
        return pd.factorize(self.frame["Metadata_Compound"])[0]

    @property
    def mechanisms(self) -> Int[np.ndarray, " treatment"]:
        """The same number for the same mechanism."""
        return pd.factorize(self.frame[MECHANISM])[0]

    def select(self, rows: Bool[np.ndarray, " treatment"]) -> "AnnotatedTreatments":
        """Keep some of the treatments."""
        frame = self.frame.loc[rows].reset_index(drop=True)
        return replace(self, frame=frame, features=self.features[rows], batches=self.batches[rows])

    def aggregate_without(
        self, batches: Bool[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "treatment feature"], Bool[np.ndarray, " treatment"]]:
        """Profiles made of the wells in other batches; and which treatments have any (else the profile is nought)."""
        refused = [name for name, is_in in zip(self.batch_names, batches, strict=True) if is_in]
        wells = self.wells[~self.wells[self.protocol.batch].isin(refused)]
        groups, values = reduce_features(wells, TREATMENT, order=WELL, statistic=self.protocol.aggregate)
        order = pd.MultiIndex.from_frame(groups[TREATMENT]).get_indexer(pd.MultiIndex.from_frame(self.frame[TREATMENT]))
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
        The columns of `MECHANISMS`. Concentrations are compared to six significant digits.
    protocol
        Its aggregate and batch column are used.

    Raises
    ------
    DataError
        A table is not as declared, or the mechanism table is empty.
    """
    wells = check_table(wells, WELL_PROFILES, "well profiles")
    check_features(wells, "well profiles")
    treated = _round_doses(wells[wells["Metadata_control_type"] != "negcon"])
    if treated.empty:
        raise DataError(
            f"well profiles: all {len(wells):,} wells are untreated controls (negcon). Expected treated ones too."
        )
    groups, features = reduce_features(treated, TREATMENT, order=WELL, statistic=protocol.aggregate)
    lies_in = treated.pivot_table(index=TREATMENT, columns=protocol.batch, aggfunc="size", fill_value=0)
    frame = join_mechanisms(groups[TREATMENT], mechanisms)
    has = frame[MECHANISM].notna().to_numpy()
    everything = AnnotatedTreatments(
        frame=frame,
        features=features,
        batches=lies_in.to_numpy() > 0,
        batch_names=tuple(lies_in.columns),
        unannotated=tuple(treatment_names(frame.loc[~has])),
        wells=treated,
        protocol=protocol,
    )
    return everything.select(has)


def join_mechanisms(frame: pd.DataFrame, mechanisms: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``Metadata_MoA``, empty where the mechanism table does not hold the treatment.

    Raises
    ------
    DataError
        The mechanism table is empty or not as declared.
    """
    if mechanisms.empty:
        raise DataError(
            "mechanisms: the table has no rows. Expected one row for each treatment whose mechanism is known "
            "(compound, concentration, mechanism); without any, leave the table out."
        )
    known = check_table(_round_doses(mechanisms), MECHANISMS, "mechanisms")[[*TREATMENT, MECHANISM]]
    unmarked = frame.drop(columns=MECHANISM, errors="ignore")  # the mechanism table alone decides
    return _round_doses(unmarked).merge(known, on=TREATMENT, how="left", validate="many_to_one")


def _round_doses(frame: pd.DataFrame) -> pd.DataFrame:
    """Round concentrations to six significant digits: tables that passed through single precision still join."""
    if "Metadata_Concentration" not in frame:
        return frame  # the check of columns says so in its own words
    doses = frame["Metadata_Concentration"]
    return frame.assign(
        Metadata_Concentration=doses.map(lambda dose: float(f"{dose:.6g}") if isinstance(dose, int | float) else dose)
    )
