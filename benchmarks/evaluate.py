"""How fast and how large: normalisation, NSC and NSCB, replicate mAP, against what a user would take instead.

Measures

1. NSC and NSCB of 103 treatments x 516 features, against the loop of one scikit-learn 1-nearest-neighbour fit per
   treatment that the field's notebooks use: seconds of each, their ratio, and that the answers are the same.
2. Replicate mAP against the controls of each plate, against copairs: seconds of each, the largest difference in mAP,
   and how many treatments without any effect each calls active (5 % false discoveries are asked for).
3. Seconds and peak memory for 1,000 to 100,000 wells x 512 features, each size in a process of its own: reading,
   plate z-score, whitening, NSC and NSCB, mAP, and all that `cytoclr evaluate` measures.

Run: ``python benchmarks/evaluate.py [--wells 1000 10000 100000] [--only loop copairs scale]`` (some 10 minutes on two
cores with all sizes; copairs is in the ``dev`` extra). Exits with 1 if answers differ, if the loop is not at least 100
times slower, or if a size needs more than 8 GiB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.config import EvaluateSettings
from cytoclr.evaluate import PROTOCOLS, annotate_treatments, evaluate, measure_activity, score_nsc, score_nscb
from cytoclr.evaluate.matching import match_treatments
from cytoclr.profiles import fit_normalisation
from cytoclr.storage import read_table, write_table
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns, feature_matrix

WELLS_PER_PLATE, CONTROLS_PER_PLATE, REPLICATES, PLATES_PER_BATCH = 384, 32, 4, 8
LIMIT_GIB = 8.0


def main() -> int:
    """Print what was measured; return 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--only", nargs="*", default=["loop", "copairs", "scale"])
    parser.add_argument("--one-size", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_size:
        measure_size(arguments.one_size)
        return 0
    holds = True
    if "loop" in arguments.only:
        holds &= compare_with_loop()
    if "copairs" in arguments.only:
        holds &= compare_with_copairs()
    if "scale" in arguments.only:
        holds &= measure_sizes(arguments.wells)
    return 0 if holds else 1


def time_it(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Least seconds of some repeats, and the result."""
    seconds = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began_s)
    return min(seconds), result


def match_by_loop(features: np.ndarray, compounds: np.ndarray, batches: np.ndarray | None) -> list[int]:
    """The notebooks' way: for each treatment fit a 1-nearest-neighbour search on the admissible others, and ask it."""
    from sklearn.neighbors import NearestNeighbors

    found = []
    for query in range(len(features)):
        admissible = compounds != compounds[query]
        if batches is not None:
            admissible &= batches != batches[query]
        rows = np.flatnonzero(admissible)
        search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(features[rows])
        found.append(int(rows[search.kneighbors(features[query : query + 1])[1][0, 0]]))
    return found


def compare_with_loop() -> bool:
    """NSC and NSCB of a screen of BBBC021's size."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(103, 516))
    compounds, batches = np.sort(rng.integers(0, 38, 103)), rng.integers(0, 10, 103)
    in_batch = np.eye(10, dtype=bool)[batches]

    def ours() -> list[list[int]]:
        within, across = match_treatments(features, compounds), match_treatments(features, compounds, batches=in_batch)
        return [found[:, 0].tolist() for found, _ in (within, across)]

    def theirs() -> list[list[int]]:
        return [match_by_loop(features, compounds, None), match_by_loop(features, compounds, batches)]

    our_s, our_answers = time_it(ours, repeats=50)
    their_s, their_answers = time_it(theirs, repeats=5)
    same = our_answers == their_answers
    print("NSC and NSCB, 103 treatments x 516 features")
    print(f"  cytoclr {1000 * our_s:.2f} ms, loop of scikit-learn fits {1000 * their_s:.0f} ms: {their_s / our_s:.0f}x")
    print(f"  same neighbours: {same}")
    return same and their_s > 100 * our_s


def compare_with_copairs() -> bool:
    """Replicate mAP: values, seconds, and what is called active where nothing is."""
    from copairs.map import average_precision, mean_average_precision
    from copairs.matching import assign_reference_index

    print("mAP of replicates against the controls of their plate")
    differences = []
    for name, controls, replicates in (("6 controls, 3 replicates", 6, 3), ("32 controls, 4 replicates", 32, 4)):
        wells = make_wells(3000, 64, controls=controls, replicates=replicates, effect=0.0)
        our_s, (summary, ours) = time_it(lambda wells=wells: measure_activity(wells, seed=0))

        def theirs(wells: pd.DataFrame = wells) -> pd.DataFrame:
            marked = assign_reference_index(wells, "Metadata_control_type == 'negcon'", reference_col="Metadata_Ref")
            by = [*TREATMENT, "Metadata_Ref"]
            precision = average_precision(
                marked.filter(like="Metadata_"),
                feature_matrix(wells),
                by,
                [],
                ["Metadata_Plate"],
                by,
                progress_bar=False,
            )
            with tempfile.TemporaryDirectory() as cache:
                treated = precision[precision["Metadata_control_type"] != "negcon"]
                return mean_average_precision(
                    treated, TREATMENT, null_size=10_000, threshold=0.05, seed=0, progress_bar=False, cache_dir=cache
                )

        their_s, found = time_it(theirs)
        both = ours.merge(found, on=TREATMENT)
        differences.append(float(np.abs(both["map"] - both["mean_average_precision"]).max()))
        active = float(found["below_corrected_p"].mean())
        print(f"  {name}, no effect at all, {len(wells):,} wells x 64 features, {len(both):,} treatments:")
        print(f"    cytoclr {our_s:.1f} s, copairs {their_s:.1f} s; largest difference in mAP {differences[-1]:.1e}")
        print(f"    called active: cytoclr {summary['share']:.1%}, copairs {active:.1%}")
    return max(differences) < 1e-5


def make_wells(
    num_wells: int,
    num_features: int,
    *,
    controls: int = CONTROLS_PER_PLATE,
    replicates: int = REPLICATES,
    effect: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A screen: replicates of a treatment on plates of one batch, two doses a compound, controls on every plate."""
    rng = np.random.default_rng(seed)
    per_plate = min(WELLS_PER_PLATE, max(controls + 8, num_wells // (2 * replicates)))
    num_plates = -(-num_wells // per_plate)
    plate, place = np.divmod(np.arange(num_plates * per_plate), per_plate)
    control = place < controls
    # the same treatments stand on `replicates` neighbouring plates
    treatment = (plate // replicates) * (per_plate - controls) + place - controls
    treatment[control] = -1
    compound, dose = np.divmod(treatment, 2)
    frame = pd.DataFrame(
        {
            "Metadata_Plate": np.char.add("P", plate.astype(str)),
            "Metadata_Well": np.char.add("W", np.char.zfill(place.astype(str), 3)),
            "Metadata_Batch": np.char.add("B", (plate // PLATES_PER_BATCH).astype(str)),
            "Metadata_Compound": np.where(control, "DMSO", np.char.add("c", compound.astype(str))),
            "Metadata_Concentration": np.where(control, 0.0, 1.0 + dose),
            "Metadata_control_type": np.where(control, "negcon", "trt"),
        }
    )
    values = rng.standard_normal((len(frame), num_features), dtype=np.float32)
    centres = rng.standard_normal((treatment.max() + 1, num_features), dtype=np.float32)
    values[~control] += effect * centres[treatment[~control]]
    names = [f"Cells_F{index:04d}" for index in range(num_features)]
    return pd.concat([frame, pd.DataFrame(values, columns=names)], axis=1)


def measure_sizes(sizes: list[int]) -> bool:
    """Each size in a process of its own, so that its peak memory is its own."""
    print("wells x 512 features, seconds of each step and peak memory of the process")
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"{size}.parquet"
            write_table(path, make_wells(size, 512))
            command = [sys.executable, __file__, "--one-size", str(path)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in told["seconds"].items())
            print(f"  {told['wells']:,} wells, {told['treatments']:,} treatments: {steps}; {told['peak_gib']:.2f} GiB")
            holds &= told["peak_gib"] < LIMIT_GIB
            path.unlink()
    return holds


def measure_size(path: Path) -> None:
    """Do everything once for a table of wells, and print seconds and peak memory as JSON."""
    seconds: dict[str, float] = {}
    seconds["read"], unnormalised = time_it(lambda: read_table(path))
    seconds["whitening"], _ = time_it(lambda: fit_normalisation(unnormalised, "whitening"))
    seconds["plate z-score"], wells = time_it(
        lambda: fit_normalisation(unnormalised, "plate-zscore").apply(unnormalised)
    )
    seconds["mAP"], _ = time_it(lambda: measure_activity(wells, seed=0))
    mechanisms = wells.loc[wells["Metadata_control_type"] == "trt", TREATMENT].drop_duplicates()
    number = mechanisms["Metadata_Compound"].str[1:].astype(int) % max(len(mechanisms) // 20, 2)
    mechanisms = mechanisms.assign(**{MECHANISM: "m" + number.astype(str)})
    seconds["annotate"], treatments = time_it(
        lambda: annotate_treatments(wells, mechanisms, PROTOCOLS["treatment-mean"])
    )
    seconds["NSC"], _ = time_it(lambda: score_nsc(treatments))
    seconds["NSCB"], _ = time_it(lambda: score_nscb(treatments))
    seconds["all of evaluate"], _ = time_it(
        lambda: evaluate(
            wells, mechanisms, EvaluateSettings(), seed=0, normalisation="plate-zscore", unnormalised=unnormalised
        )
    )
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = {"wells": len(wells), "features": len(feature_columns(wells)), "treatments": len(treatments)}
    print(json.dumps({**told, "seconds": seconds, "peak_gib": peak_gib}))


if __name__ == "__main__":
    sys.exit(main())
