"""From fields to crops: how fast, in how much memory, against one PNG a cell, and what a second process is worth.

    python benchmarks/crop.py fields            # 1280x1024x3, 16 bit: cytoclr here and on two processes; the PNG way
    python benchmarks/crop.py plate             # a 384-well plate, 3,456 fields of 512x512x3: 5.4 GB, deleted again
    python benchmarks/crop.py plate --wells 32  # a part of it

The PNG way is how the 2020 project's data was made (by DeepProfiler): a field is read, each cell is cut out, rescaled
to its own range and written as one 16-bit PNG strip, one after the other. All times are of this machine and of warm
files; ratios are medians of interleaved runs. Every case runs in a process of its own, so that its peak memory is its
own.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from cytoclr.config import CropSettings, check_settings
from cytoclr.storage import hash_file

CHANNELS = ("DNA", "Tubulin", "Actin")
#: As many as BBBC021's untreated fields have, and crops of the 2020 project's size.
CELLS, SIZE_PX = 150, 96


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fields", "plate", "case"])
    parser.add_argument("--wells", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the fields are made; default: a temporary folder")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.what == "case":
        sys.stdout.write(json.dumps(run_case(asked.folder, json.loads(asked.case))))
        return
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="cytoclr-bench-"))
    try:
        measure_fields(folder, asked.repeats) if asked.what == "fields" else measure_plate(folder, asked)
    finally:
        shutil.rmtree(folder)


# Making fields.


def make_screen(folder: Path, *, num_wells: int, sites: int, shape: tuple[int, int], cells: int) -> int:
    """Write the TIFF fields of a plate, their plate map and the centres of their cells; return their number."""
    rng = np.random.default_rng(0)
    fields = [paint_field(rng, shape, cells) for _ in range(24)]
    images, centres, wells = folder / "images" / "P1", [], []
    images.mkdir(parents=True)
    for number in range(num_wells):
        well = f"{chr(65 + number // 24)}{number % 24 + 1:02d}"
        wells.append(("P1", well, "DMSO" if number % 8 == 0 else f"compound {number}", 0.0 if number % 8 == 0 else 1.0))
        for site in range(1, sites + 1):
            field, places = fields[(number * sites + site) % len(fields)]
            shift = number * sites + site  # no two files are the same
            field = np.roll(field, shift, axis=2)
            places = np.column_stack([(places[:, 0] + shift) % shape[1], places[:, 1]])
            for channel, plane in zip(("w1", "w2", "w3"), field, strict=True):
                tifffile.imwrite(images / f"{well}_s{site}_{channel}.tif", plane)
            centres += [("P1", well, site, cell + 1, *place) for cell, place in enumerate(places)]
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object", "x", "y"]
    pd.DataFrame(centres, columns=names).to_parquet(folder / "centres.parquet")
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", "Metadata_Concentration"]
    pd.DataFrame(wells, columns=columns).to_csv(folder / "map.csv", index=False)
    return num_wells * sites


def paint_field(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint round cells on a noisy background: 12 of 16 bits."""
    rows, columns = shape
    field = rng.normal(200, 12, (3, rows, columns))
    places = rng.uniform([0, 0], [columns, rows], (cells, 2))
    disc = np.hypot(*np.mgrid[-30:31, -30:31])
    for x, y in places.astype(int):
        top, left = max(y - 30, 0), max(x - 30, 0)
        part = field[:, top : y + 31, left : x + 31]
        stamp = disc[top - y + 30 :, left - x + 30 :][: part.shape[1], : part.shape[2]]
        for channel, radius in enumerate((16.0, 24.0, 22.0)):
            part[channel] += rng.uniform(600, 2500) / (1 + np.exp(stamp - radius))
    return np.clip(field, 0, 4095).astype(np.uint16), places


# The cases, each in a process of its own.


def settings_of(folder: Path, case: dict) -> object:
    """Settings of a run over the fields."""
    values = {
        "screen": {
            "reader": "images",
            "folder": str(folder / "images"),
            "template": "{plate}/{well}_s{site}_{channel}.tif",
            "channels": dict(zip(CHANNELS, ("w1", "w2", "w3"), strict=True)),
            "metadata": str(folder / "map.csv"),
        },
        "crop": {
            "locations": str(folder / "centres.parquet"),
            "overlays": 0,
            "size_px": SIZE_PX,
            **case.get("crop", {}),
        },
        "cluster": case.get("cluster", {}),
    }
    return check_settings(values, source="benchmark", folder=folder)


def run_case(folder: Path, case: dict) -> dict:
    """Crop in this process (and its workers); return seconds, cells and peak memory."""
    out = folder / "out"
    if case["way"] == "png":
        seconds, cells = crop_to_png(folder, out, case["fields"])
    else:
        from cytoclr.pipeline import crop

        settings = settings_of(folder, case)
        began_s = time.perf_counter()
        if case.get("kill"):
            threading.Thread(target=kill_a_worker, daemon=True).start()
        crop(settings, out)
        seconds = time.perf_counter() - began_s
        cells = len(pd.read_parquet(out / "cells.parquet", columns=["x"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    hashes = {path.name: hash_file(path) for path in sorted((out / "crops").glob("*.npy"))} if case.get("hash") else {}
    shutil.rmtree(out)
    return {"seconds": seconds, "cells": cells, "peak_gib": peak, "workers_gib": workers, "hashes": hashes}


def kill_a_worker() -> None:
    """Kill one of Dask's workers while it works."""
    time.sleep(8)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if b"spawn_main" in line and parent == os.getpid():
            os.kill(int(process.name), signal.SIGKILL)
            return


def crop_to_png(folder: Path, out: Path, num_fields: int, size_px: int = SIZE_PX) -> tuple[float, int]:
    """Cut cells one at a time, each to its own range and file."""
    out.mkdir()
    centres = pd.read_parquet(folder / "centres.parquet")
    began_s, cells = time.perf_counter(), 0
    for (plate, well, site), of_site in list(centres.groupby(["Metadata_Plate", "Metadata_Well", "Metadata_Site"]))[
        :num_fields
    ]:
        stem = folder / "images" / plate / f"{well}_s{site}"
        field = np.stack([tifffile.imread(f"{stem}_{channel}.tif") for channel in ("w1", "w2", "w3")])
        for row in of_site.itertuples():
            top, left = int(row.y + 0.5) - size_px // 2, int(row.x + 0.5) - size_px // 2
            if top < 0 or left < 0 or top + size_px > field.shape[1] or left + size_px > field.shape[2]:
                continue
            crop = field[:, top : top + size_px, left : left + size_px].astype(float)
            low, high = crop.min(axis=(1, 2), keepdims=True), crop.max(axis=(1, 2), keepdims=True)
            strip = np.concatenate(list((crop - low) / (high - low) * 65535), axis=1).astype(np.uint16)
            Image.fromarray(strip).save(out / f"{plate}-{well}-s{site}-{row.Metadata_Object}.png")
            cells += 1
    return time.perf_counter() - began_s, cells


def measure(folder: Path, case: dict) -> dict:
    """Run a case in a fresh process."""
    command = [sys.executable, __file__, "case", "--folder", str(folder), "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# What is measured.


def measure_fields(folder: Path, repeats: int) -> None:
    """Big fields: one process, two, and the PNG way."""
    num_fields = make_screen(folder, num_wells=80, sites=4, shape=(1024, 1280), cells=CELLS)
    two = {"where": "processes", "workers": 2, "memory_gb": 3.0}
    cases = {
        "cytoclr, one process": {"way": "cytoclr"},
        "cytoclr, two processes": {"way": "cytoclr", "cluster": two},
        "cytoclr, light corrected by plate": {"way": "cytoclr", "crop": {"illumination": "plate"}},
        "cytoclr, nuclei found": {"way": "cytoclr", "crop": {"locations": None, "nucleus_diameter_px": 34.0}},
        "one PNG a cell": {"way": "png", "fields": 16},
    }
    found: dict[str, list[dict]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            found[name].append(measure(folder, case))
    say(f"{num_fields} fields of 1280x1024x3, 16 bit, {CELLS} cells each, crops of {SIZE_PX} px; medians of {repeats}")
    rates = {}
    for name, runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        fields = cases[name].get("fields", num_fields)
        peak = max(max(run["peak_gib"], run["workers_gib"]) for run in runs)
        rates[name] = fields / seconds
        say(f"{name:<34}{fields / seconds:6.1f} fields/s {runs[0]['cells'] / seconds:7,.0f} cells/s, {peak:.2f} GiB")
    say(f"one process against one PNG a cell: {rates['cytoclr, one process'] / rates['one PNG a cell']:.1f} times")
    say_shares(folder)


def say_shares(folder: Path, num_fields: int = 32) -> None:
    """Time each step on the same fields."""
    from cytoclr.data.crops import open_shard
    from cytoclr.data.cut import cut_crops, read_site
    from cytoclr.data.illumination import correct_field
    from cytoclr.data.quality import measure_quality
    from cytoclr.data.stage import plan_crops

    settings = settings_of(folder, {})
    plan = plan_crops(settings.screen, CropSettings(size_px=SIZE_PX), locations=folder / "centres.parquet")
    rows = [{str(name): value for name, value in row.items()} for row in plan.screen.to_dict("records")][:num_fields]
    spent = dict.fromkeys(("decode", "correct", "cut", "quality", "write"), 0.0)
    light = np.full((3, 1024, 1280), 1.1, dtype=np.float32)
    for row in rows:
        place = tuple(row[name] for name in ("Metadata_Plate", "Metadata_Well", "Metadata_Site"))
        centres = plan.locations.of(place)
        times = [time.perf_counter()]
        field = read_site(row, plan.rules.channels)
        times.append(time.perf_counter())
        correct_field(field, light)
        times.append(time.perf_counter())
        crops, _, _ = cut_crops(field, centres[0], centres[1], size_px=SIZE_PX)
        times.append(time.perf_counter())
        measure_quality(crops, channel=0, largest=65535)
        times.append(time.perf_counter())
        with open_shard(folder / "share.npy", 3, SIZE_PX, crops.dtype) as shard:
            shard.append(crops)
        times.append(time.perf_counter())
        for name, begin, end in zip(spent, times, times[1:], strict=False):
            spent[name] += end - begin
    whole = sum(spent.values())
    say("a field: " + ", ".join(f"{name} {1e3 * s / len(rows):.1f} ms ({s / whole:.0%})" for name, s in spent.items()))


def measure_plate(folder: Path, asked: argparse.Namespace) -> None:
    """A whole plate: one process against two, interleaved; and with a worker killed midway."""
    num_fields = make_screen(folder, num_wells=asked.wells, sites=9, shape=(512, 512), cells=40)
    two = {"where": "processes", "workers": 2, "memory_gb": 3.0}
    crop = {"size_px": 64}
    cases = {
        "here": {"way": "cytoclr", "hash": True, "crop": crop},
        "two": {"way": "cytoclr", "cluster": two, "hash": True, "crop": crop},
    }
    measure(folder, cases["here"])  # warms the files
    found: dict[str, list[dict]] = {name: [] for name in cases}
    for _ in range(asked.repeats):
        for name, case in cases.items():
            found[name].append(measure(folder, case))
    here, both = (statistics.median(run["seconds"] for run in found[name]) for name in ("here", "two"))
    say(f"{num_fields:,} fields of 512x512x3: one process {here:.1f} s, two {both:.1f} s, {2 * both / here:.2f} x half")
    killed = measure(folder, {**cases["two"], "kill": True})
    same = all(run["hashes"] == found["here"][0]["hashes"] for runs in found.values() for run in runs)
    expected = found["here"][0]["hashes"]
    same = all(run["hashes"] == expected for runs in found.values() for run in runs)
    say(f"all results the same to the bit: {same}")
    say(f"a worker killed midway: {killed['seconds']:.1f} s, the same result: {killed['hashes'] == expected}")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
