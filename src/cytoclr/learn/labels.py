"""What is known of cells beside their pixels, as numbers: where they lie and what was done to them; no mechanism."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Int

from cytoclr.tables import WELL, treatment_names

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
    """Number what a cells table says; a well belongs to its plate, a treatment is a compound at a concentration."""
    return CellLabels(
        plates=_encode(cells["Metadata_Plate"]),
        wells=_encode(cells[WELL].agg("/".join, axis=1)),
        batches=_encode(cells["Metadata_Batch"]),
        compounds=_encode(cells["Metadata_Compound"]),
        treatments=_encode(treatment_names(cells)),
    )


def _encode(names: pd.Series) -> Int[np.ndarray, " cell"]:
    return names.astype("category").cat.codes.to_numpy(dtype=np.int64)
