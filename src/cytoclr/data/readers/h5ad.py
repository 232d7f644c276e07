"""AnnData files (``.h5ad``), in and out: what scanpy and its kin read and write."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from cytoclr.data.arrays import is_bomb
from cytoclr.data.files import check_names
from cytoclr.data.hdf5 import check_hdf5
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.storage import open_atomic
from cytoclr.tables import feature_columns

__all__ = ["read_h5ad", "write_h5ad"]

_COMPARTMENTS = ("Cells", "Cytoplasm", "Nuclei")


def read_h5ad(path: Path) -> pd.DataFrame:
    """Read AnnData: ``obs`` are metadata, under their names with a prefix, and ``X`` the features, dense.

    Raises
    ------
    SettingsError
        anndata is not installed.
    DataError
        The file is missing, not AnnData, or has no ``obs``, ``var`` or ``X``; it reaches into other files, or claims
        more than it could hold; or two columns have the same name.
    """
    _, h5py = _import_anndata(path)
    from anndata.io import read_elem

    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path.")
    try:
        with h5py.File(path, "r") as file:
            if "anndata" not in str(file.attrs.get("encoding-type")):
                raise DataError(f"{path}: HDF5, but not AnnData as written since its version 0.8. Save it again.")
            check_hdf5(file, path)
            obs, var, matrix = (read_elem(file[name]) for name in ("obs", "var", "X"))
            if not isinstance(obs, pd.DataFrame) or not isinstance(var, pd.DataFrame):
                raise TypeError("obs and var are no tables")
            dense = _make_dense(matrix, path.stat().st_size)
            if dense.shape != (len(obs), len(var)):
                raise ValueError(f"X is {dense.shape}, with {len(obs):,} rows of obs and {len(var):,} of var")
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable AnnData file with obs, var and X ({error}).") from None
    features = pd.DataFrame(dense, columns=var.index.astype("str"))
    ours = [name if name.startswith(("Metadata_", "Image_")) else f"Metadata_{name}" for name in obs.columns]
    metadata: pd.DataFrame = obs.set_axis(ours, axis="columns").reset_index(drop=True)
    check_names([*metadata.columns, *features.columns], path)
    return pd.concat([metadata, features], axis=1)


def _make_dense(matrix: Any, stored: int) -> np.ndarray:
    """Write a matrix out, checked before: SciPy would write where a wrong index leads, and take any memory."""
    if not sparse.issparse(matrix):
        return np.asarray(matrix)
    matrix.check_format(full_check=True)
    needed = int(np.prod(matrix.shape, dtype=object)) * matrix.dtype.itemsize
    if is_bomb(needed, stored):
        raise ValueError(f"X would take {needed:,} bytes, of a file of {stored:,}")
    dense: np.ndarray = matrix.toarray()
    return dense


def write_h5ad(path: Path, profiles: pd.DataFrame, *, about: Mapping[str, Any]) -> None:
    """Write profiles as AnnData, for scanpy and its kin; pycytominer and `read_h5ad` read it back as it was.

    Parameters
    ----------
    path
        The file; it appears whole or not at all.
    profiles
        Metadata and features: at least one of these.
    about
        What else to tell of them; plain JSON values.

    Raises
    ------
    SettingsError
        anndata is not installed.
    DataError
        There is no feature.
    MachineError
        The place cannot be written.

    Notes
    -----
    The layout is pycytominer's: ``obs`` has the metadata under their names with the prefix ``Metadata_`` and is
    numbered from 0; ``X`` has the features (single precision where all are, else double); ``var`` is their names, with
    ``compartment``, ``feature_group`` and ``channel`` where CellProfiler's way of naming tells them; and
    ``uns["cytoclr"]`` is `about` as JSON text.
    """
    anndata, _ = _import_anndata(path)
    names = feature_columns(profiles)
    if not names:
        raise DataError(f"{path}: no feature to write. Found: {list_some(list(profiles.columns), 12)}.")
    numbers = profiles[names]
    single = all(dtype == np.float32 for dtype in numbers.dtypes)
    metadata = profiles[[name for name in profiles.columns if name not in set(names)]]
    data = anndata.AnnData(
        X=numbers.to_numpy(dtype=np.float32 if single else np.float64),
        obs=_make_storable(metadata).set_axis(pd.RangeIndex(len(profiles)).astype("str"), axis="index"),
        var=_describe_features(names),
        uns={"cytoclr": json.dumps(dict(about), ensure_ascii=False, allow_nan=False)},
    )
    with open_atomic(path) as file:
        # HDF5 wants a name, not a file: it fills the same temporary file, which is then flushed and renamed as any.
        data.write_h5ad(file.name)


def _make_storable(metadata: pd.DataFrame) -> pd.DataFrame:
    """Make categories of texts, as pycytominer does: AnnData stores no plain texts with gaps, and no dates."""
    texts = [name for name in metadata.columns if not pd.api.types.is_numeric_dtype(metadata[name])]
    written = metadata[texts].astype("object").map(str, na_action="ignore")
    return metadata.assign(**{name: written[name].astype("category") for name in texts})


def _describe_features(names: list[str]) -> pd.DataFrame:
    """Take CellProfiler's names apart: ``Cells_Texture_Contrast_DNA_3_00_256`` is of cells, Texture, DNA."""
    measured = re.compile(rf"(?:{'|'.join(_COMPARTMENTS)})_Intensity_[^_]+_(.+)")
    channels = {match.group(1) for match in map(measured.fullmatch, names) if match}
    longest_first = sorted(map(re.escape, channels), key=lambda channel: (-len(channel), channel))
    anywhere = re.compile(rf"(?<=_)(?:{'|'.join(longest_first)})(?=_|$)") if channels else None
    rows = []
    for name in names:
        compartment, _, rest = name.partition("_")
        known = compartment in _COMPARTMENTS and rest != ""
        found = anywhere.findall(rest) if known and anywhere else []
        rows.append((compartment, rest.split("_")[0], "+".join(found)) if known else ("", "", ""))
    parts = pd.DataFrame(rows, columns=["compartment", "feature_group", "channel"], index=pd.Index(names, dtype="str"))
    return parts.astype("category")


def _import_anndata(path: Path) -> tuple[ModuleType, ModuleType]:
    try:
        import anndata
        import anndata.io
        import h5py
    except ImportError:
        raise SettingsError(
            f"{path}: AnnData files need the package anndata, which is not installed. "
            "Install it: pip install 'cytoclr[h5ad]'."
        ) from None
    return anndata, h5py
