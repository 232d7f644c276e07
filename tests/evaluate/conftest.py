"""Random screens with mechanisms, and the published BBBC021 profiles where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.tables import MECHANISM, TREATMENT

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "bbbc021"


def make_screen(
    seed: int,
    *,
    mechanisms: int = 4,
    compounds: int = 3,
    doses: int = 2,
    batches: int = 3,
    wells: int = 2,
    features: int = 5,
    effect: float = 0.0,
    batches_per_treatment: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Wells of a random screen and its mechanism table; `effect` nought: profiles know nothing of mechanisms."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(mechanisms, features))
    rows, values = [], []
    for mechanism in range(mechanisms):
        for compound in range(compounds):
            for dose in range(doses):
                for batch in rng.choice(batches, batches_per_treatment, replace=False):
                    for _ in range(wells):
                        rows.append((f"b{batch}", f"c{mechanism}-{compound}", 10.0**dose, "trt", f"m{mechanism}"))
                        values.append(effect * centres[mechanism] + rng.normal(size=features))
    for batch in range(batches):
        rows.append((f"b{batch}", "DMSO", 0.0, "negcon", "none"))
        values.append(rng.normal(size=features))
    names = ["Metadata_Batch", *TREATMENT, "Metadata_control_type", MECHANISM]
    frame = pd.DataFrame(rows, columns=names)
    frame["Metadata_Plate"] = "plate of " + frame["Metadata_Batch"]
    frame["Metadata_Well"] = [f"W{i:04d}" for i in range(len(frame))]
    table = frame.loc[frame["Metadata_control_type"] == "trt", [*TREATMENT, MECHANISM]].drop_duplicates()
    profiles = pd.DataFrame(values, columns=[f"Cells_F{i}" for i in range(features)])
    return frame.drop(columns=MECHANISM).join(profiles), table.reset_index(drop=True)


@pytest.fixture(scope="session")
def draw_screen() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    return make_screen


@pytest.fixture(scope="session")
def bbbc021_mechanisms() -> pd.DataFrame:
    table = pd.read_csv(_find("metadata/BBBC021_v1_moa.csv"))
    return table.set_axis([*TREATMENT, MECHANISM], axis=1)


@pytest.fixture(scope="session")
def ljosa_wells() -> pd.DataFrame:
    """Per-well means of Ljosa et al. 2013, joined with the image table; a batch is a week."""
    profiles = pd.read_csv(_find("profiles/ljosa_jbiomolscreen_2013_per_well_mean.csv.gz"))
    images = pd.read_csv(_find("metadata/BBBC021_v1_image.csv.gz"))
    images.columns = images.columns.str.replace("Image_", "", regex=False).str.replace("_DAPI", "", regex=False)
    wells = images[["Metadata_Plate", "Metadata_Well", *TREATMENT]].drop_duplicates()
    wells = wells.assign(
        Metadata_Batch=wells["Metadata_Plate"].str.split("_").str[0],
        Metadata_control_type=np.where(wells["Metadata_Compound"] == "DMSO", "negcon", "trt"),
    )
    profiles.columns = profiles.columns.str.removeprefix("Image_")
    return wells.merge(profiles, on=["Metadata_Plate", "Metadata_Well"], validate="one_to_one")


def _find(name: str) -> Path:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path
