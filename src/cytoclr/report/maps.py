"""Profiles laid out in the plane: PCA, t-SNE and UMAP, for looking at, never for scoring."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cytoclr.config import ReportSettings
from cytoclr.report.inputs import ReportInputs
from cytoclr.report.shown import Shown

__all__ = ["MIN_POINTS", "Layout", "lay_out_cells", "lay_out_profiles"]

#: Fewer profiles than these are not worth a map.
MIN_POINTS = 5


@dataclass(frozen=True)
class Layout:
    """Where one method puts each profile, and what its axes are called (nothing, where they mean nothing)."""

    method: str
    x: Float[np.ndarray, " profile"]
    y: Float[np.ndarray, " profile"]
    axes: tuple[str, str] = ("", "")


def lay_out_profiles(
    features: Float[np.ndarray, "profile feature"], *, neighbours: int, seed: int
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
    return (
        _lay_out_tsne(features, min(float(neighbours), (num_profiles - 1) / 3), seed),
        _lay_out_umap(features, min(neighbours, num_profiles - 1), seed),
        _lay_out_pca(features),
    )


def lay_out_cells(inputs: ReportInputs, shown: Shown, settings: ReportSettings, *, seed: int) -> dict[str, Any]:
    """List the cells of the map of cells, and lay them out."""
    return {}


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
