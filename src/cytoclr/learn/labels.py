"""What is known of cells beside their pixels, as numbers: where they lie and what was done to them; no mechanism."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Int

from cytoclr.tables import TREATMENT, treatment_names

__all__ = ["CellLabels", "encode_labels"]


@dataclass(frozen=True)
class CellLabels:
    """Whole numbers from nought, equal where cells share the thing."""

    plates: Int[np.ndarray, " cell"]
    wells: Int[np.ndarray, " cell"]
    batches: Int[np.ndarray, " cell"]
    compounds: Int[np.ndarray, " cell"]
    treatments: Int[np.ndarray, " cell"]

    def take(self, rows: Int[np.ndarray, " taken_cell"]) -> "CellLabels":
        """Return those of some cells."""
        return CellLabels(*(getattr(self, field.name)[rows] for field in fields(self)))


def encode_labels(cells: pd.DataFrame) -> CellLabels:
    """Number what a cells table says; a well belongs to its plate, a treatment is a compound at a concentration.

    Notes
    -----
    Names are made and compared once for each different one, not for each cell.
    """
    plates, compounds = _encode(cells["Metadata_Plate"]), _encode(cells["Metadata_Compound"])
    numbers, kinds = _number_pairs(compounds, _encode(cells["Metadata_Concentration"]))
    return CellLabels(
        plates=plates,
        wells=_number_pairs(plates, _encode(cells["Metadata_Well"]))[0],
        batches=_encode(cells["Metadata_Batch"]),
        compounds=compounds,
        treatments=_encode(treatment_names(cells[TREATMENT].iloc[kinds]))[numbers],
    )


def _encode(values: pd.Series) -> Int[np.ndarray, " cell"]:
    """Number values in their order."""
    return pd.factorize(values, sort=True)[0].astype(np.int64, copy=False)


def _number_pairs(
    first: Int[np.ndarray, " cell"], second: Int[np.ndarray, " cell"]
) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " pair"]]:
    """Number the pairs of codes there are, in their order; and a cell of each."""
    pairs = first * (int(second.max(initial=0)) + 1) + second
    codes, different = pd.factorize(pairs, sort=True)
    example = np.empty(len(different), dtype=np.int64)
    example[codes] = np.arange(len(codes))
    return codes.astype(np.int64, copy=False), example
