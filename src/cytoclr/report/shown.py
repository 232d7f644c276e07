"""Which cells the page has pictures of: some of each well by chance, the most and the least typical of treatments."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cytoclr.report.cells import draw_cells
from cytoclr.tables import TREATMENT, WELL, is_control

__all__ = ["Shown", "centre_on_plates", "choose_cells", "list_cells", "rank_cells"]

#: Most typical and least typical cells of a treatment, each.
MAX_TYPICAL = 8
#: Fewer control cells than these do not tell where a plate's zero is; all its cells are taken then.
MIN_CONTROL_CELLS = 10


@dataclass(frozen=True)
class Shown:
    """Cells whose pictures are in the page, by row of the cells table; a cell's place in `rows` is its tile."""

    rows: Int[np.ndarray, " cell"]
    typical: Mapping[Hashable, list[int]] = field(default_factory=dict)
    untypical: Mapping[Hashable, list[int]] = field(default_factory=dict)
    by_chance: Int[np.ndarray, " drawn"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def tiles_of(self, rows: Sequence[int] | np.ndarray) -> list[int]:
        """Number the tiles of these rows of the cells table."""
        return [int(tile) for tile in np.searchsorted(self.rows, np.asarray(rows, dtype=np.int64))]


def choose_cells(
    cells: pd.DataFrame,
    embeddings: Float[np.ndarray, "cell feature"] | None,
    *,
    per_well: int,
    pictures: int,
    generator: np.random.Generator,
) -> Shown:
    """Choose the cells of the page.

    Parameters
    ----------
    cells
        A row a crop.
    embeddings
        Of the same cells in the same order; None: no cell is more typical than another.
    per_well
        Cells drawn of each well; fewer where there are many wells.
    pictures
        At most so many in all, half of them drawn by chance if there are embeddings.
    generator
        Draws.

    Returns
    -------
    Shown
        Treatments are keyed by (compound, concentration).
    """
    num_wells = max(1, len(cells[WELL].drop_duplicates()))
    budget = pictures if embeddings is None else max(1, pictures // 2)
    drawn = draw_cells(cells, WELL, per_group=min(per_well, max(1, budget // num_wells)), generator=generator)[:budget]
    if embeddings is None:
        rows = np.sort(drawn)
        return Shown(rows, by_chance=rows)
    typical, untypical = rank_cells(cells, embeddings, each=MAX_TYPICAL)
    each = min(MAX_TYPICAL, (pictures - len(drawn)) // max(1, 2 * len(typical)))
    typical, untypical = ({key: of[:each] for key, of in ranked.items()} for ranked in (typical, untypical))
    ranked = [row for of in (*typical.values(), *untypical.values()) for row in of]
    rows = np.union1d(drawn, np.array(ranked, dtype=np.int64))
    return Shown(rows, typical, untypical, np.sort(drawn))


def list_cells(cells: pd.DataFrame, profiles: pd.DataFrame, keys: Sequence[str]) -> list[Int[np.ndarray, " cell"]]:
    """List each profile's cells, as rows of the cells table in their order; `keys` identify a well, or a treatment."""
    groups = _group_rows(cells, keys)
    none = np.zeros(0, dtype=np.int64)
    return [groups.get(key, none) for key in profiles[list(keys)].itertuples(index=False, name=None)]


def rank_cells(
    cells: pd.DataFrame, embeddings: Float[np.ndarray, "cell feature"], *, each: int
) -> tuple[dict[Hashable, list[int]], dict[Hashable, list[int]]]:
    """Find the cells of each treatment that point most, and least, where all its cells point together.

    By cosine, once every plate is centred on its controls and features are brought to one scale. No cell is among both.
    Ties go to the earlier row.
    """
    centred = centre_on_plates(cells, embeddings)
    typical, untypical = {}, {}
    for key, rows in _group_rows(cells, TREATMENT).items():
        of = centred[rows]
        mean = of.mean(axis=0, dtype=np.float64)
        lengths = np.maximum(np.linalg.norm(of, axis=1) * np.linalg.norm(mean), 1e-12)
        order = rows[np.argsort(-(of @ mean) / lengths, kind="stable")]
        num_typical = min(each, -(-len(order) // 2))
        typical[key] = [int(row) for row in order[:num_typical]]
        untypical[key] = [int(row) for row in order[::-1][: min(each, len(order) - num_typical)]]
    return typical, untypical


def centre_on_plates(
    cells: pd.DataFrame, embeddings: Float[np.ndarray, "cell feature"]
) -> Float[np.ndarray, "cell feature"]:
    """Take from each cell the mean of its plate's control cells (of all, where these are few), and scale features."""
    centred = np.array(embeddings, dtype=np.float32)
    controls = is_control(cells).to_numpy()
    for rows in _group_rows(cells, ["Metadata_Plate"]).values():
        untreated = rows[controls[rows]]
        chosen = untreated if len(untreated) >= MIN_CONTROL_CELLS else rows
        centred[rows] -= centred[chosen].mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = centred.std(axis=0, dtype=np.float64)
    centred /= np.where(deviations > 0, deviations, 1.0).astype(np.float32)
    return centred


def _group_rows(cells: pd.DataFrame, keys: Sequence[str]) -> dict[Hashable, Int[np.ndarray, " cell"]]:
    groups = cells.reset_index(drop=True).groupby(list(keys), sort=True).indices
    return {key: np.asarray(rows, dtype=np.int64) for key, rows in groups.items()}
