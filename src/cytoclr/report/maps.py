"""Profiles laid out in the plane: PCA, t-SNE and UMAP, for looking at, never for scoring."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cytoclr.config import ReportSettings
from cytoclr.errors import DataError
from cytoclr.report.inputs import ReportInputs
from cytoclr.report.shown import Shown, centre_on_plates
from cytoclr.tables import WELL, feature_matrix

__all__ = ["MAX_TSNE", "MIN_POINTS", "Layout", "lay_out_cells", "lay_out_profiles", "write_layout"]

#: Fewer profiles than these are not worth a map.
MIN_POINTS = 5
#: More cells than these would keep t-SNE busy for minutes.
MAX_TSNE = 10_000


@dataclass(frozen=True)
class Layout:
    """Where one method puts each profile, and what its axes are called (nothing, where they mean nothing)."""

    method: str
    x: Float[np.ndarray, " profile"]
    y: Float[np.ndarray, " profile"]
    axes: tuple[str, str] = ("", "")


def lay_out_profiles(
    features: Float[np.ndarray, "profile feature"], *, neighbours: int, seed: int, max_tsne: int | None = None
) -> tuple[Layout, ...]:
    """Lay profiles out by t-SNE, UMAP and PCA; t-SNE and UMAP by cosine distance, as the scores are.

    Parameters
    ----------
    features
        Normalised profiles, finite.
    neighbours
        Perplexity of t-SNE and neighbours of UMAP; fewer where there are few profiles.
    seed
        Decides both random layouts.
    max_tsne
        More profiles than these are not laid out by t-SNE; None: any number is.

    Returns
    -------
    tuple of Layout
        t-SNE, UMAP, PCA; nothing for fewer than `MIN_POINTS` profiles, or if all are the same.

    Notes
    -----
    The first UMAP of a process costs some seven seconds of compilation.

    References
    ----------
    van der Maaten and Hinton 2008 (t-SNE); McInnes, Healy and Melville 2018, doi:10.21105/joss.00861 (UMAP).
    """
    num_profiles = len(features)
    if num_profiles < MIN_POINTS or not np.ptp(features, axis=0).any():
        return ()
    # a second, empty feature lets a table of one feature through; it changes no distance
    features = np.pad(features, ((0, 0), (0, max(0, 2 - features.shape[1]))))
    with_tsne = max_tsne is None or num_profiles <= max_tsne
    return (
        *([_lay_out_tsne(features, min(float(neighbours), (num_profiles - 1) / 3), seed)] if with_tsne else []),
        _lay_out_umap(features, min(neighbours, num_profiles - 1), seed),
        _lay_out_pca(features),
    )


def write_layout(layout: Layout) -> dict[str, Any]:
    """Write a layout as the page's data."""
    return {
        "method": layout.method,
        "x": layout.x.round(4).tolist(),
        "y": layout.y.round(4).tolist(),
        "axes": layout.axes,
    }


def lay_out_cells(inputs: ReportInputs, shown: Shown, settings: ReportSettings, *, seed: int) -> dict[str, Any]:
    """List the cells of the map of cells, and lay them out.

    Parameters
    ----------
    inputs
        `embeddings` are laid out, each plate measured from its own controls; `wells` are what cells are numbered by.
    shown
        Cells that have pictures: all of them are on the map, others are drawn by chance.
    settings
        `map_cells`: so many cells, unless there are fewer, or more have pictures; `neighbours`.
    seed
        Decides the cells and both random layouts.

    Returns
    -------
    dict
        Columns of one value a cell, in the order of the cells table: `well`, its row of the well profiles; `tile`, its
        picture, -1 without; `id`. And `layouts`, coordinates in whole numbers from 0 to 9,999. t-SNE is left out beyond
        `MAX_TSNE` cells. Empty without embeddings, and where no cell's well has a profile.

    Raises
    ------
    DataError
        An embedding of a cell that is laid out is not finite.

    Notes
    -----
    2,000 cells of 128 features cost some 15 s on one core.
    """
    if inputs.embeddings is None:
        return {}
    number_of = {key: number for number, key in enumerate(inputs.wells[WELL].itertuples(index=False, name=None))}
    keys = inputs.cells[WELL].itertuples(index=False, name=None)
    wells = np.array([number_of.get(key, -1) for key in keys], dtype=np.int64)
    rows = _choose_rows(wells >= 0, shown.rows, settings.map_cells, np.random.default_rng([seed, 2]))
    if len(rows) == 0:
        return {}
    # the whole table first: a plate's zero and a feature's scale are those of all its cells
    features = centre_on_plates(inputs.cells, feature_matrix(inputs.embeddings))[rows].astype(np.float64)
    if not np.isfinite(features).all():
        raise DataError("The embeddings hold values that are not finite. Run the embed stage again.")
    layouts = lay_out_profiles(features, neighbours=settings.neighbours, seed=seed, max_tsne=MAX_TSNE)
    tiles = {int(row): tile for tile, row in enumerate(shown.rows)}
    return {
        "well": wells[rows].tolist(),
        "tile": [tiles.get(int(row), -1) for row in rows],
        "id": inputs.cells["Metadata_CellID"].iloc[rows].astype(str).tolist(),
        "layouts": [_quantise(layout) for layout in layouts],
    }


def _choose_rows(
    is_known: Bool[np.ndarray, " cell"],
    pictured: Int[np.ndarray, " shown"],
    limit: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Choose the rows with pictures, and of the others by chance until there are `limit`; in their order."""
    is_pictured = np.zeros(len(is_known), dtype=bool)
    is_pictured[pictured] = True
    own = np.flatnonzero(is_known & is_pictured)
    others = generator.permutation(np.flatnonzero(is_known & ~is_pictured))
    return np.sort(np.concatenate([own, others[: max(0, limit - len(own))]]))


def _quantise(layout: Layout) -> dict[str, Any]:
    """Write a layout in whole numbers of four digits; both axes keep one scale."""
    span = max(float(np.ptp(layout.x)), float(np.ptp(layout.y))) or 1.0
    x, y = (np.rint((values - values.min()) / span * 9999).astype(int).tolist() for values in (layout.x, layout.y))
    return {"method": layout.method, "x": x, "y": y, "axes": layout.axes}


def _lay_out_tsne(features: np.ndarray, perplexity: float, seed: int) -> Layout:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(metric="cosine", perplexity=perplexity, init="pca", random_state=seed)
    # one thread adds up in one order, so the map is the same on every machine
    with threadpool_limits(1):
        x, y = model.fit_transform(features).T.astype(np.float64)
    return Layout("t-SNE", x, y)


def _lay_out_umap(features: np.ndarray, neighbours: int, seed: int) -> Layout:
    with warnings.catch_warnings():
        # of TensorFlow that is not there, and of the one thread that a seed costs
        warnings.simplefilter("ignore")
        from umap import UMAP

        model = UMAP(metric="cosine", n_neighbors=neighbours, random_state=seed)
        x, y = model.fit_transform(features).T.astype(np.float64)
    return Layout("UMAP", x, y)


def _lay_out_pca(features: np.ndarray) -> Layout:
    from sklearn.decomposition import PCA

    model = PCA(n_components=2, svd_solver="full")
    x, y = model.fit_transform(features).T
    first, second = model.explained_variance_ratio_
    return Layout("PCA", x, y, axes=(f"PC 1 ({first:.0%} of variance)", f"PC 2 ({second:.0%} of variance)"))
