"""How hard the virtual screen is: what plain intensities can and cannot tell of it, with and without each nuisance.

Measures, for the demo's screen (or ``--seed``), on profiles of treatments (mean of wells, cosine):

- same batch: share of treatments whose nearest neighbour among other compounds' treatments is of their own batch,
- NSC and NSCB of channel intensities, as they are and after TVN,
- NSCB of an oracle that reads the planted traits: what can be reached at all,
- chance: NSCB by guessing.

Against: the same screen without any nuisance, without each one, and without any effect.
Run: ``python benchmarks/virtual.py [--seed 0] [--only all none]`` (some half a minute a line on two cores).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr import pipeline
from cytoclr.config import NUISANCES, ProfileSettings, Settings, VirtualSettings
from cytoclr.data.crops import CropStore
from cytoclr.data.intensities import measure_intensities
from cytoclr.data.virtual import CONTROL, VirtualScreen
from cytoclr.evaluate.protocols import PROTOCOLS
from cytoclr.evaluate.scoring import Matched, score_nsc, score_nscb
from cytoclr.evaluate.treatments import annotate_treatments
from cytoclr.profiles.stage import profile, profile_wells
from cytoclr.storage import read_table
from cytoclr.tables import MECHANISM, TREATMENT, WELL

PROTOCOL = PROTOCOLS["treatment-mean"]


def main() -> None:
    """Print a line for each screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of the lines to measure")
    arguments = parser.parse_args()
    print("nuisances        cells  made in  same batch  NSC   NSCB  NSC tvn  NSCB tvn  oracle  treatments")
    for name, settings in list_variants(arguments.seed).items():
        if not arguments.only or name in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                print(measure_screen(name, settings, Path(folder)), flush=True)


def list_variants(seed: int) -> dict[str, VirtualSettings]:
    """The screens to compare."""
    variants = {
        "all": VirtualSettings(screen_seed=seed),
        "none": VirtualSettings(screen_seed=seed, nuisance=0.0),
        "all, no effect": VirtualSettings(screen_seed=seed, effect=0.0),
    }
    for left_out in NUISANCES:
        others = tuple(name for name in NUISANCES if name != left_out)
        variants[f"no {left_out}"] = VirtualSettings(screen_seed=seed, nuisances=others)
    return variants


def measure_screen(name: str, settings: VirtualSettings, folder: Path) -> str:
    """Simulate a screen, cut it, measure intensities, score them."""
    began_s = time.monotonic()
    run = pipeline.crop(Settings(screen=settings), folder / "run")
    elapsed_s = time.monotonic() - began_s
    screen, cells, crops = VirtualScreen(run / "virtual"), read_table(run / "cells.parquet"), CropStore(run / "crops")
    intensities = measure_intensities(crops, cells)
    mechanisms = pd.read_csv(screen.mechanism_table)
    mechanisms.columns = pd.Index([*TREATMENT, MECHANISM])
    shares = []
    for normalise in ("none", "tvn"):
        wells = profile(intensities, ProfileSettings(normalise=normalise)).well
        treatments = annotate_treatments(wells, mechanisms, PROTOCOL)
        within, (across, _) = score_nsc(treatments), score_nscb(treatments)
        shares += [share_correct(within), share_correct(across)]
        if normalise == "none":
            same_batch = share_same_batch(within)
    total = int(across.answered.sum())
    figures = " ".join(f"{share:6.2f}" for share in [*shares, share_oracle(screen, cells, mechanisms)])
    return f"{name:16} {len(cells):5} {elapsed_s:6.1f} s {same_batch:11.2f} {figures} {total:6}"


def share_correct(matched: Matched) -> float:
    """NSC or NSCB."""
    return float(matched.correct[matched.answered].mean())


def share_same_batch(matched: Matched) -> float:
    """Share of treatments of one batch whose neighbour is in that batch."""
    batches = np.asarray(matched.treatments.batches)
    asked = matched.answered & (batches.sum(axis=1) == 1)
    return float((batches[asked] & batches[matched.neighbours[asked]]).any(axis=1).mean())


def share_oracle(screen: VirtualScreen, cells: pd.DataFrame, mechanisms: pd.DataFrame) -> float:
    """NSCB of the planted traits, each scaled by its spread over treatments."""
    planted = pd.read_csv(screen.planted).drop(columns=["Metadata_MoA", "Metadata_Batch", "Metadata_Effect"])
    traits = [column for column in planted if column not in TREATMENT]
    planted[traits] /= planted[traits].std().replace(0.0, 1.0)
    about = cells[[*WELL, "Metadata_Batch", *TREATMENT, "Metadata_control_type"]].drop_duplicates()
    controls = pd.DataFrame({"Metadata_Compound": [CONTROL], "Metadata_Concentration": [0.0]})
    wells = about.merge(pd.concat([planted, controls]).fillna(0.0), on=TREATMENT)
    profiles = profile_wells(wells, ProfileSettings(normalise="none")).well
    return share_correct(score_nscb(annotate_treatments(profiles, mechanisms, PROTOCOL))[0])


if __name__ == "__main__":
    main()
