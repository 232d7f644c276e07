"""Small screens with known numbers."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest


def make_wells(
    rng: np.random.Generator,
    *,
    plates: int = 4,
    controls: int = 5,
    treated: int = 4,
    features: int = 3,
) -> pd.DataFrame:
    """Wells on plates, two plates a batch; features of different scale, shifted by plate."""
    rows = []
    for plate in range(plates):
        for well in range(controls + treated):
            is_control = well < controls
            rows.append(
                {
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": f"B{well:02d}",
                    "Metadata_Batch": f"batch{plate // 2}",
                    "Metadata_Compound": "DMSO" if is_control else f"compound{well}",
                    "Metadata_Concentration": 0.0 if is_control else 1.0,
                    "Metadata_control_type": "negcon" if is_control else "trt",
                    "Metadata_NumCells": 10,
                }
            )
    frame = pd.DataFrame(rows)
    values = rng.normal(size=(len(frame), features)) * 10.0 ** np.arange(features) + 5
    shift = frame["Metadata_Plate"].str[1:].astype(int).to_numpy()[:, None]
    names = [f"Cells_F{i}" for i in range(features)]
    return pd.concat([frame, pd.DataFrame(values + shift, columns=names)], axis=1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def wells(rng: np.random.Generator) -> pd.DataFrame:
    return make_wells(rng)


@pytest.fixture
def draw_wells() -> Callable[..., pd.DataFrame]:
    return make_wells


@pytest.fixture
def cells(rng: np.random.Generator, wells: pd.DataFrame) -> pd.DataFrame:
    """Between one and eight cells in each well, on two sites."""
    about = wells.filter(like="Metadata_").drop(columns="Metadata_NumCells")
    frame = about.loc[about.index.repeat(rng.integers(1, 9, len(about)))].reset_index(drop=True)
    site = rng.integers(1, 3, len(frame))
    identity = [
        f"{p}_{w}_{s}_{i:04d}"
        for i, (p, w, s) in enumerate(zip(frame.Metadata_Plate, frame.Metadata_Well, site, strict=True))
    ]
    frame = frame.assign(Metadata_Site=site, Metadata_CellID=identity)
    values = rng.normal(size=(len(frame), 70)) * 10.0 ** rng.integers(-3, 4, (len(frame), 1))
    return pd.concat([frame, pd.DataFrame(values, columns=[f"Cells_SSL_{i:04d}" for i in range(70)])], axis=1)
