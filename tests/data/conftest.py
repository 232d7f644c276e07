"""Profiles as cytoclr writes them."""

import numpy as np
import pandas as pd
import pytest

from cytoclr.tables import WELL, WELL_PROFILES, check_table

FEATURES = [
    "Cells_Intensity_MeanIntensity_DNA",
    "Cells_Texture_Contrast_DNA_3_00_256",
    "Cells_Children_Cytoplasm_Count",
    "Nuclei_Correlation_Overlap_DNA_Alexa_488",
    "Nuclei_Intensity_MeanIntensity_Alexa_488",
    "Nuclei_Intensity_MeanIntensity_Alexa",
    "Cells_SSL_0000",
]


@pytest.fixture
def wells() -> pd.DataFrame:
    """Profiles of 24 wells as cytoclr writes them: two plates, controls and four compounds, one of them called NA."""
    rng = np.random.default_rng(3)
    places = [(plate, f"B{well:02d}") for plate in ("00123", "00124") for well in range(1, 13)]
    compounds = ["DMSO"] * 4 + [name for name in ("NA", "taxol", "ALLN", "AZ138") for _ in range(2)]
    metadata = pd.DataFrame(places, columns=WELL).assign(
        Metadata_Batch=["Week1"] * 12 + ["Week2"] * 12,
        Metadata_Compound=compounds * 2,
        Metadata_Concentration=([0.0] * 4 + [0.3] * 8) * 2,
        Metadata_control_type=(["negcon"] * 4 + ["trt"] * 8) * 2,
        Metadata_NumCells=np.arange(24) + 100,
    )
    features = pd.DataFrame(rng.normal(size=(24, len(FEATURES))), columns=FEATURES)
    return check_table(pd.concat([metadata, features], axis=1), WELL_PROFILES, "wells")
