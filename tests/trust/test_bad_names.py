"""Plates and compounds of any names go the whole way: none is merged, none leaves the run folder, none runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from cytoclr.data.crops import CropStore
from cytoclr.storage import read_table

PLATES = ("00123", "123", "1E5", "100000", "../p", "a/b")
COMPOUNDS = (
    "NA",
    "nan",
    "3,3'-diaminobenzidine",
    "mevinolin/lovastatin",
    "../../x",
    "x" * 300,
    "🧪🔬",
    "\u202eevilא",
    "<script>alert(1)</script>",
    "=1+1",
)
HEIGHT, WIDTH = 96, 128


def write_screen(folder: Path) -> Path:
    """Write plates of one site a well: four controls and every compound; and the settings to run them."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    table = []
    (folder / "images").mkdir()
    for plate in PLATES:
        for number, compound in enumerate(["DMSO"] * 4 + list(COMPOUNDS)):
            row = {
                "Image_Metadata_Plate_DAPI": plate,
                "Image_Metadata_Well_DAPI": f"B{number + 1:02d}",
                "Image_Metadata_Compound": compound,
                "Image_Metadata_Concentration": "0" if compound == "DMSO" else "0.3",
            }
            for channel, name in enumerate(("DAPI", "Tubulin")):
                field = rng.normal(300, 15, (HEIGHT, WIDTH))
                for y in (24, 72):
                    for x in (24, 64, 104):
                        field += 3000 * (np.hypot(columns - x, rows - y) < 8 + channel + number % 3)
                file = f"{len(table)}_s1_w{channel}.tif"
                tifffile.imwrite(folder / "images" / file, field.astype(np.uint16))
                row |= {f"Image_FileName_{name}": file, f"Image_PathName_{name}": "."}
            table.append(row)
    pd.DataFrame(table).to_csv(folder / "image.csv", index=False)
    mechanisms = [(compound, 0.3, ("=cmd|'/C calc'!A0", "b/../c")[i % 2]) for i, compound in enumerate(COMPOUNDS)]
    pd.DataFrame(mechanisms, columns=["compound", "concentration", "moa"]).to_csv(folder / "moa.csv", index=False)
    settings = {
        "screen": {"reader": "bbbc021", "image_table": "image.csv", "images": "images", "batch_pattern": "^(.*)$"},
        "crop": {"size_px": 32, "nucleus_diameter_px": 16},
        # more than all cells together
        "train": {"epochs": 1, "minibatch_size": 4096},
        "evaluate": {"mechanisms": "moa.csv", "bootstraps": 100, "permutations": 100},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"


def call(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cytoclr", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.promise("Bad input", "Plates and compounds of any names go from images to report and export, none merged.")
def test_any_names_go_the_whole_way(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    write_screen(folder)
    call(folder, "run", "settings.yaml", "--out", "run")
    wells = read_table(folder / "run/profiles/well.parquet")
    assert wells["Metadata_Plate"].value_counts().to_dict() == dict.fromkeys(PLATES, len(COMPOUNDS) + 4)
    assert set(wells["Metadata_Compound"]) == {"DMSO", *COMPOUNDS}
    assert set(read_table(folder / "run/profiles/treatment.parquet")["Metadata_Compound"]) == {"DMSO", *COMPOUNDS}
    assert {shard.plate for shard in CropStore(folder / "run/crops").shards} == set(PLATES)
    assert len(read_table(folder / "run/cells.parquet")) == len(PLATES) * (len(COMPOUNDS) + 4) * 6
    report = (folder / "run/report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in report
    for name in ("a.h5ad", "a.parquet", "a.csv.gz"):
        call(folder, "export", "run", name)
    exported = pd.read_csv(folder / "a.csv.gz", dtype="str", keep_default_na=False)
    assert set(exported["Metadata_Plate"]) == set(PLATES)
    assert set(exported["Metadata_Compound"].str.removeprefix("'")) == {"DMSO", *COMPOUNDS}
    call(folder, "export", "run", "gallery", "--to", "cellpainting-gallery")
    # nothing was written beside what was asked for, and what is called after a name is called plainly
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in folder.parent.iterdir()} == {"er"}
    made = {"settings.yaml", "images", "image.csv", "moa.csv", "run", "gallery", "a.h5ad", "a.parquet", "a.csv.gz"}
    assert {path.name for path in folder.iterdir()} == made
    for path in [*(folder / "run").rglob("*"), *(folder / "gallery").rglob("*")]:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", path.name), path
