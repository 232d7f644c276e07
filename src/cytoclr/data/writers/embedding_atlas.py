"""Points for Apple's Embedding Atlas: a place in the plane, a label, what is known of each, and its neighbours."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cytoclr.storage import write_table
from cytoclr.tables import feature_columns, feature_matrix, treatment_names

__all__ = ["NEIGHBOURS", "write_embedding_atlas"]

#: Neighbours told of each point.
NEIGHBOURS = 10
#: Rows compared with all others at a time.
_ROWS = 1024


def write_embedding_atlas(
    path: Path, profiles: pd.DataFrame, x: Float[np.ndarray, " profile"], y: Float[np.ndarray, " profile"]
) -> None:
    """Write one Parquet file for ``embedding-atlas FILE --x projection_x --y projection_y --neighbors neighbors``.

    Parameters
    ----------
    path
        The file.
    profiles
        Metadata and features, at least one compound and concentration a row.
    x, y
        Where each profile lies in the plane.

    Raises
    ------
    MachineError
        The place cannot be written.

    Notes
    -----
    Columns: ``projection_x``, ``projection_y``; ``label``, the treatment's name; the metadata under their names; and
    ``neighbors``, ``{"ids": […], "distances": […]}``: the `NEIGHBOURS` nearest by cosine distance, the nearest first,
    ties by row, numbered from 0, a point's own row left out. Features are not written. Time grows with the square of
    the number of rows.

    References
    ----------
    https://apple.github.io/embedding-atlas/tool.html
    """
    known = set(feature_columns(profiles))
    points = {
        "projection_x": x.astype(np.float32),
        "projection_y": y.astype(np.float32),
        "label": treatment_names(profiles).to_numpy(),
    }
    metadata = {name: profiles[name].to_numpy() for name in profiles.columns if name not in known}
    neighbours = pd.Series(_find_neighbours(profiles), dtype="object").to_numpy()
    write_table(path, pd.DataFrame({**points, **metadata, "neighbors": neighbours}))


def _find_neighbours(profiles: pd.DataFrame) -> list[dict[str, list[float] | list[int]]]:
    features = feature_matrix(profiles)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(lengths > 0, lengths, 1.0)
    count = min(NEIGHBOURS, len(features) - 1)
    found: list[dict[str, list[float] | list[int]]] = []
    for start in range(0, len(features), _ROWS):
        distances = 1.0 - directions[start : start + _ROWS] @ directions.T
        rows = np.arange(len(distances))
        distances[rows, rows + start] = np.inf
        nearest = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
        for ids, of in zip(nearest, distances, strict=True):
            ordered = ids[np.argsort(of[ids], kind="stable")]
            found.append({"ids": ordered.tolist(), "distances": np.maximum(of[ordered], 0.0).round(6).tolist()})
    return found
