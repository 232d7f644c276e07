"""Where the cells are: a table of centres, or nuclei found in a field."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import regionprops_table
from skimage.segmentation import clear_border, watershed

from cytoclr.data.files import read_any_table
from cytoclr.errors import DataError
from cytoclr.tables import LOCATIONS, SITE, check_table

__all__ = ["find_nuclei", "read_locations", "split_locations"]


def read_locations(path: Path) -> pd.DataFrame:
    """Read a table (CSV or Parquet) of cell centres: plate, well, site, object, x (column) and y (row), in px.

    Raises
    ------
    DataError
        See `cytoclr.tables.check_table`.
    """
    frame = read_any_table(path)
    if "Metadata_Object" not in frame.columns and set(SITE) <= set(frame.columns):
        frame = frame.assign(Metadata_Object=frame.groupby(SITE).cumcount() + 1)
    return check_table(frame, LOCATIONS, str(path))[[column.name for column in LOCATIONS.columns]]


def split_locations(
    locations: pd.DataFrame, screen: pd.DataFrame, source: str
) -> dict[tuple[str, str, int], pd.DataFrame]:
    """Give each site of the screen its locations.

    Raises
    ------
    DataError
        No site of the screen has a location.
    """
    by_site: dict[Any, pd.DataFrame] = dict(iter(locations.groupby(SITE)))
    sites = list(screen[SITE].itertuples(index=False, name=None))
    known = {site: by_site[site] for site in sites if site in by_site}
    if not known:
        raise DataError(
            f"{source}: none of its sites is in the screen. The screen has {sites[0]}, the locations have "
            f"{next(iter(by_site), 'none')}. Expected the same names of plates, wells and sites."
        )
    return known


def find_nuclei(
    plane: UInt[np.ndarray, "row column"], *, diameter_px: float
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """Find the centres of nuclei in one plane of a DNA stain.

    Smoothing, Otsu's threshold on the logarithm (dim nuclei beside bright mitoses), touching nuclei split by
    watershed on the distance to the background; objects smaller than a fifth of a disc of the given diameter, larger
    than six of it, or touching the border are dropped.

    Parameters
    ----------
    plane
        Raw values.
    diameter_px
        Diameter of a typical nucleus, in pixels.

    Returns
    -------
    x, y
        Columns and rows of the centres of mass, in pixels, ordered by row, then column. Empty for an empty field.

    References
    ----------
    Otsu 1979, doi:10.1109/TSMC.1979.4310076; scikit-image, doi:10.7717/peerj.453.
    """
    smooth = np.log1p(gaussian(plane.astype(np.float32), sigma=diameter_px / 24, preserve_range=True))
    nowhere = np.empty(0), np.empty(0)
    if float(np.ptp(smooth)) < 1e-3:
        return nowhere
    foreground = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = gaussian(ndimage.distance_transform_edt(foreground), sigma=diameter_px / 18)
    peaks = peak_local_max(distance, min_distance=max(1, round(diameter_px / 4)), labels=foreground.astype(np.int32))
    markers = np.zeros(plane.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = clear_border(watershed(-distance, markers, mask=foreground))
    if not labels.any():
        return nowhere
    objects = regionprops_table(labels, properties=("area", "centroid"))
    disc = np.pi * (diameter_px / 2) ** 2
    kept = (objects["area"] >= disc / 5) & (objects["area"] <= 6 * disc)
    y, x = objects["centroid-0"][kept], objects["centroid-1"][kept]
    order = np.lexsort((x, y))
    return x[order], y[order]
