"""What several tests need: where real data are, tables of a tiny screen, and its TIFF files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that lies beside a checkout; a test that needs it is marked `real_data`."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"{REAL_DATA} is not there")
    return REAL_DATA


CHANNELS = ("DAPI", "Tubulin")


def image_row(plate: str, well: str, site: int, compound: str, concentration: str) -> dict[str, str]:
    """One row of an image table of BBBC021's shape, with two channels."""
    row = {"TableNumber": "1", "ImageNumber": "1"}
    for number, channel in enumerate(CHANNELS, start=1):
        row[f"Image_FileName_{channel}"] = f"{plate}_{well}_s{site}_w{number}.tif"
        row[f"Image_PathName_{channel}"] = f"{plate.split('_')[0]}/{plate}"
    return row | {
        "Image_Metadata_Plate_DAPI": plate,
        "Image_Metadata_Well_DAPI": well,
        "Replicate": "1",
        "Image_Metadata_Compound": compound,
        "Image_Metadata_Concentration": concentration,
    }


@pytest.fixture
def tiny_screen(tmp_path: Path) -> Path:
    """Two plates of two wells with two sites each, 48 px, two channels, 16 bit, as files."""
    rows, locations = [], []
    rng = np.random.default_rng(7)
    for plate in ("Week1_101", "Week2_202"):
        for well, compound, dose in (("B02", "DMSO", "0"), ("B03", "NA", "0.30")):
            for site in (1, 2):
                row = image_row(plate, well, site, compound, dose)
                rows.append(row)
                for channel in CHANNELS:
                    path = tmp_path / "images" / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(path, rng.integers(100, 4000, (48, 48), dtype=np.uint16), compression="deflate")
                for cell, (x, y) in enumerate([(20.0, 24.0), (25.4, 22.6), (2.0, 2.0)], start=1):
                    locations.append((plate, well, site, cell, x, y))
    pd.DataFrame(rows).to_csv(tmp_path / "image.csv", index=False)
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object", "x", "y"]
    pd.DataFrame(locations, columns=names).to_csv(tmp_path / "locations.csv", index=False)
    return tmp_path
