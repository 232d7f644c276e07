"""How many nuclei of the virtual screen are found, and how many of those found are nuclei: python benchmarks/nuclei.py.

The virtual screen knows its cells' true centres. A found centre is right if it lies within half a diameter of a true
one, each used once. Nuclei within 12 px of the border are left out of both. Wrong are, above all, the two halves of an
anaphase and fragments of dying nuclei, which the simulator counts as one cell.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from cytoclr.config import VirtualSettings
from cytoclr.data.nuclei import find_nuclei
from cytoclr.data.virtual import simulate_field
from cytoclr.data.virtual.camera import draw_conditions

DIAMETER_PX, MARGIN_PX, FIELDS = 19.0, 12, 24


def main() -> None:
    """Print a row for each kind of field."""
    rows = [measure(kind, cells, blur) for kind, cells, blur in KINDS]
    print(pd.DataFrame(rows).to_string(index=False))


#: Name, mean number of cells in a field, blur of the microscope (s.d., px; None: as drawn).
KINDS = (("as simulated", 50, None), ("dense", 110, None), ("few cells", 8, None), ("out of focus, 3 px", 50, 3.0))


def measure(kind: str, cells_per_site: int, blur_px: float | None) -> dict[str, object]:
    """Count over some fields, each of another plate and batch."""
    settings = VirtualSettings(cells_per_site=cells_per_site)
    num_found = num_true = 0
    distances: list[float] = []
    for number in range(FIELDS):
        conditions = draw_conditions(settings, batch=number, plate=number, well=number, row=0.5, column=-0.5)
        if blur_px is not None:
            conditions = replace(conditions, blur_px=np.full(3, blur_px))
        image, cells = simulate_field(np.random.default_rng(number), settings, conditions, {})
        found = np.column_stack(find_nuclei(image[0], diameter_px=DIAMETER_PX, clear_border=False))
        true = cells[["true_x", "true_y"]].to_numpy()
        end = image.shape[1] - 1 - MARGIN_PX
        found, true = (these[((these > MARGIN_PX) & (these < end)).all(axis=1)] for these in (found, true))
        num_found, num_true = num_found + len(found), num_true + len(true)
        distances += match(found, true)
    return {
        "fields": kind,
        "true": num_true,
        "found": num_found,
        "precision": round(len(distances) / num_found, 3),
        "recall": round(len(distances) / num_true, 3),
        "median distance, px": round(float(np.median(distances)), 2),
    }


def match(found: np.ndarray, true: np.ndarray) -> list[float]:
    """Pair found with true centres, as many as can be within half a diameter; return their distances."""
    apart = np.hypot(*(found[:, None] - true[None]).transpose(2, 0, 1))
    pairs = linear_sum_assignment(np.where(apart <= DIAMETER_PX / 2, apart, 1e6))
    return [float(distance) for distance in apart[pairs] if distance <= DIAMETER_PX / 2]


if __name__ == "__main__":
    main()
