"""A crude screen of bright discs and rings: enough to train on in seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.data.crops import CropStore, Shard, open_shard, write_crop_manifest

MakeScreen = Callable[..., tuple[CropStore, pd.DataFrame]]


@pytest.fixture
def make_screen(tmp_path: Path) -> MakeScreen:
    """Make crops and cells: two plates, `num_wells` wells each, treatments that differ in the radius of a ring."""

    def make(
        *, num_channels: int = 2, num_wells: int = 4, cells_per_well: int = 6, size_px: int = 24, treatments: int = 3
    ) -> tuple[CropStore, pd.DataFrame]:
        draw = np.random.default_rng(0)
        folder = tmp_path / f"crops-{num_channels}-{num_wells}-{cells_per_well}-{size_px}"
        rows, shards = [], []
        y, x = np.mgrid[:size_px, :size_px] - size_px / 2
        for plate in ("P1", "P2"):
            with open_shard(folder / f"{plate}.npy", num_channels, size_px, np.dtype(np.uint16)) as writer:
                for well in range(num_wells):
                    treatment = well % treatments
                    for number in range(cells_per_well):
                        radius = (0.12 + 0.1 * treatment) * size_px * draw.uniform(0.9, 1.1)
                        ring = np.exp(-((np.hypot(x, y) - radius) ** 2) / (0.01 * size_px**2))
                        crop = 200 + 2000 * ring + draw.normal(0, 60, (num_channels, size_px, size_px))
                        writer.append(crop.clip(0).astype(np.uint16)[None])
                        rows.append(_describe_cell(plate, well, treatment, number))
            shards.append(
                Shard(f"{plate}.npy", plate, writer.num_cells, (150.0,) * num_channels, (2500.0,) * num_channels)
            )
        names = ["DNA", "Tubulin", "Actin", "ER", "Mito"][:num_channels]
        write_crop_manifest(
            folder,
            shards,
            channels=names,
            size_px=size_px,
            pixel_size_um=None,
            dtype=np.dtype(np.uint16),
            intensity={"rule": "fixed"},
        )
        return CropStore(folder), pd.DataFrame(rows)

    return make


def _describe_cell(plate: str, well: int, treatment: int, number: int) -> dict[str, object]:
    name = f"B{well + 2:02d}"
    return {
        "Metadata_CellID": f"{plate}_{name}_1_{number}",
        "Metadata_Plate": plate,
        "Metadata_Well": name,
        "Metadata_Batch": plate,
        "Metadata_Compound": f"compound-{treatment}" if treatment else "DMSO",
        "Metadata_Concentration": float(treatment),
        "Metadata_control_type": "trt" if treatment else "negcon",
        "Metadata_Site": 1,
        "Metadata_Object": number,
        "x": 100.0,
        "y": 100.0,
    }
