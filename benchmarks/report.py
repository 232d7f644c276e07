"""How large a report is, and how soon it can be read: for 1,000, 10,000 and 100,000 points on the map.

Measures, for screens of so many wells (a crop each, 32 features, twenty mechanisms in clouds):

- seconds to write the page, and its size; the same page with four times as few pictures shows what pictures weigh,
- in Chromium, from a file: first contentful paint, and when the map of wells is drawn,
- frames: the longest and the median time between two frames while the pointer crosses the map for two seconds.

Run::

    python benchmarks/report.py [--points 1000 10000 100000] [--out runs/report-benchmark]

It needs Chromium on the path, and playwright (in the extra `dev`). Pages are kept under ``--out``, to be looked at.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.config import ReportSettings
from cytoclr.data.crops import CropStore, Shard, open_shard, plate_stem, write_crop_manifest
from cytoclr.report import ReportInputs, write_report
from cytoclr.tables import TREATMENT

WELLS_A_PLATE, SIZE_PX, NUM_FEATURES, NUM_MECHANISMS = 384, 32, 32, 20
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path("runs/report-benchmark"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    print("| points | pictures | written in | page | first paint | map drawn | a frame: median, longest |")
    print("|---|---|---|---|---|---|---|")
    for num_points in asked.points:
        with tempfile.TemporaryDirectory() as folder:
            inputs = make_inputs(num_points, Path(folder))
            for pictures in (1600, 400):
                page = asked.out / f"{num_points}-{pictures}.html"
                began_s = time.monotonic()
                write_report(page, inputs, ReportSettings(pictures=pictures), seed=0)
                took_s = time.monotonic() - began_s
                told = read_page(page)
                print(
                    f"| {num_points:,} | {pictures:,} | {took_s:.0f} s | {page.stat().st_size / 1e6:.1f} MB | "
                    f"{told['paint_ms']:.0f} ms | {told['map_ms']:.0f} ms | {told['median_ms']:.0f}, "
                    f"{told['longest_ms']:.0f} ms |",
                    flush=True,
                )


def make_inputs(num_wells: int, folder: Path) -> ReportInputs:
    """A screen of so many wells, one in sixteen untreated, without scores."""
    rng = np.random.default_rng(0)
    number = np.arange(num_wells)
    place = number % WELLS_A_PLATE
    control = place % 16 == 0
    compound = np.where(control, "DMSO", np.char.add("compound ", (number % (num_wells // 20 + 1)).astype(str)))
    about = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{plate:04d}" for plate in number // WELLS_A_PLATE],
            "Metadata_Well": [f"{chr(65 + of // 24)}{of % 24 + 1:02d}" for of in place],
            "Metadata_Batch": [f"week {plate // 6 + 1}" for plate in number // WELLS_A_PLATE],
            "Metadata_Compound": compound,
            "Metadata_Concentration": np.where(control, 0.0, 1.0),
            "Metadata_control_type": np.where(control, "negcon", "trt"),
        }
    )
    kind = pd.factorize(about["Metadata_Compound"])[0] % NUM_MECHANISMS
    features = rng.normal(size=(NUM_MECHANISMS, NUM_FEATURES))[kind] + rng.normal(0, 1.0, (num_wells, NUM_FEATURES))
    names = [f"Cells_SSL_{i:04d}" for i in range(NUM_FEATURES)]
    wells = pd.concat([about, pd.DataFrame(features, columns=names)], axis=1)
    treatments = wells.groupby(TREATMENT, as_index=False)[names].mean()
    mechanisms = about.loc[~control, TREATMENT].drop_duplicates()
    mechanisms["Metadata_MoA"] = [f"mechanism {of}" for of in kind[mechanisms.index]]
    cells = about.assign(
        Metadata_CellID=about["Metadata_Plate"] + "_" + about["Metadata_Well"] + "_1_0",
        Metadata_Site=1,
        Metadata_Object=0,
        x=0.0,
        y=0.0,
    )
    return ReportInputs(
        wells=wells,
        treatments=treatments,
        cells=cells,
        crops=write_crops(cells, folder, rng),
        scores={"nsc": None, "reason": "A benchmark is not scored."},
        provenance={},
        settings_text="",
        mechanisms=mechanisms,
        embeddings=pd.concat([about, wells[names].astype(np.float32)], axis=1),
    )


def write_crops(cells: pd.DataFrame, folder: Path, rng: np.random.Generator) -> CropStore:
    """A bright disc in noise for each cell, so that pictures weigh what pictures weigh."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] - SIZE_PX / 2
    disc = 2000 * np.exp(-(np.hypot(x, y) ** 2) / 60)
    shards = []
    for plate, of in cells.groupby("Metadata_Plate", sort=False):
        name = f"{plate_stem(str(plate))}.npy"
        crops = rng.poisson(300 + disc, size=(len(of), 3, SIZE_PX, SIZE_PX)).astype(np.uint16)
        with open_shard(folder / name, 3, SIZE_PX, np.dtype(np.uint16)) as writer:
            writer.append(crops)
        shards.append(Shard(name, str(plate), len(of), low=(300.0,) * 3, high=(2500.0,) * 3))
    write_crop_manifest(
        folder,
        shards,
        channels=("DNA", "Tubulin", "Actin"),
        size_px=SIZE_PX,
        pixel_size_um=0.5,
        dtype=np.dtype(np.uint16),
        intensity={},
    )
    return CropStore(folder)


def read_page(page: Path) -> dict[str, float]:
    """Open a page in Chromium, go to the wells, and cross the map with the pointer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(180_000)
        began_s = time.monotonic()
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("#map-plot .main-svg")
        drawn_ms = 1000 * (time.monotonic() - began_s)
        paint_ms = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
        tab.get_by_role("button", name="Wells", exact=True).click()
        tab.locator("#map-plot").scroll_into_view_if_needed()
        tab.wait_for_timeout(1500)
        tab.evaluate(_COUNT_FRAMES)
        box: Any = tab.locator("#map-plot").bounding_box()
        until_s = time.monotonic() + 2.0
        step = 0
        while time.monotonic() < until_s:
            step += 1
            tab.mouse.move(box["x"] + 40 + (7 * step) % (box["width"] - 80), box["y"] + box["height"] / 2)
        times = np.array(tab.evaluate("window.frames_ms"))
        browser.close()
    return {
        "paint_ms": paint_ms,
        "map_ms": drawn_ms,
        "median_ms": float(np.median(times)),
        "longest_ms": float(times.max()),
    }


_COUNT_FRAMES = """() => {
    window.frames_ms = [];
    let before = performance.now();
    const count = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(count); };
    requestAnimationFrame(count);
}"""


if __name__ == "__main__":
    main()
