"""Does training pay on real cells? 3,545 crops of BBBC021, three trainings, reported as they come.

Measures, of the trained encoder against the same encoder untrained, channel intensities, and features in the manner of
CellProfiler (``features.py``), each a mean over treatments:

- NSC and NSCB: see docs/explanation/scores.md;
- replicates, controls: mAP of a treatment's wells against the untreated wells of their plates (few plates have any);
- replicates, others: mAP of a treatment's wells on other plates against the wells of other compounds, all of one batch;
- probe by plate: share of a treatment's cells whose mechanism logistic regression names, when no cell of their plate
  was trained on (five folds of plates, the same for all).

The settings are those of ``examples/bbbc021-crops.yaml``; they, the measures and the folds were fixed before any
score, and nothing was chosen on these scores.

Differences are paired on treatments. Their intervals are 95 %, bootstrap over compounds with all their doses, and
over the seeds of the trainings; "beats" stands only where the interval leaves nought out and the p value (flipping
the sign of each compound's difference) is below 0.05.

Run::

    python benchmarks/real.py [--seeds 0 1 2] [--out runs/real]

It needs the crops where the config says they are, and refuses where they are not. Trainings that are finished are not
run again.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from features import measure_features
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cytoclr import pipeline
from cytoclr.config import Settings, SingleCellSettings, read_settings
from cytoclr.data.crops import CropStore
from cytoclr.data.intensities import measure_intensities
from cytoclr.data.screen import read_mechanisms
from cytoclr.evaluate import compare_matches, evaluate
from cytoclr.learn import build_untrained_encoder, embed, load_encoder, train
from cytoclr.mechanisms import join_mechanisms
from cytoclr.profiles import profile
from cytoclr.storage import read_json, read_table, write_json
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns, feature_matrix, is_control

EXAMPLE = Path(__file__).parents[1] / "examples" / "bbbc021-crops.yaml"
MEASURES = ("NSC", "NSCB", "replicates, controls", "replicates, others", "probe by plate")
FOLDS = 5
BOOTSTRAPS = PERMUTATIONS = 10_000
#: Of random numbers, to find chance.
NUM_DRAWS = 5

#: Of each measure, a row a treatment: the treatment, its mechanism, and its value as ``correct``.
Measured = dict[str, pd.DataFrame]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=EXAMPLE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    arguments = parser.parse_args(argv)
    settings = read_settings(arguments.config)
    check_crops(settings)
    run = pipeline.crop(settings, arguments.out)
    crops, cells = CropStore(run / "crops"), read_table(run / "cells.parquet")
    assert settings.evaluate.mechanisms is not None
    mechanisms = read_mechanisms(settings.evaluate.mechanisms)
    tables: dict[str, list[pd.DataFrame]] = {
        "trained": [embed_trained(crops, cells, settings, seed, run) for seed in arguments.seeds],
        "untrained": [embed_untrained(crops, cells, settings, seed) for seed in arguments.seeds],
        "intensities": [measure_intensities(crops, cells)],
        "features": [measure_features(crops, cells)],
    }
    measured = {name: [measure(table, mechanisms, settings) for table in several] for name, several in tables.items()}
    compared = compare_all(measured)
    seconds = [read_json(model_folder(run, seed) / "took.json")["seconds"] for seed in arguments.seeds]
    write_json(run / "real.json", summarise(measured, compared, settings, arguments.seeds, seconds))
    print(
        f"{len(cells):,} cells; {settings.train.epochs} epochs, seeds {', '.join(map(str, arguments.seeds))}; ", end=""
    )
    print(f"{np.mean(seconds):.0f} s a training; treatment-mean, {', '.join(settings.profile.normalise)}\n")
    print_scores(measured, find_chance(tables["intensities"][0], mechanisms, settings))
    print_comparisons(compared)
    return 0


def check_crops(settings: Settings) -> None:
    """Refuse, in a sentence, where the crops are not there."""
    screen = settings.screen
    if not isinstance(screen, SingleCellSettings):
        raise SystemExit(f"screen.reader is {screen.reader}; this benchmark is of ready crops: expected single-cell.")
    missing = [path for path in (screen.table, settings.evaluate.mechanisms) if path is None or not path.is_file()]
    if missing:
        raise SystemExit(
            f"{missing[0]}: not there. This benchmark needs the real crops and their mechanisms; correct the paths in "
            "the config, or pass another by --config."
        )


# What is compared.


def model_folder(run: Path, seed: int) -> Path:
    """Where the training of a seed lies."""
    return run / "models" / f"seed-{seed}"


def embed_trained(crops: CropStore, cells: pd.DataFrame, settings: Settings, seed: int, run: Path) -> pd.DataFrame:
    """Train with a seed, unless that is done, and embed."""
    folder = model_folder(run, seed)
    if not (folder / "took.json").is_file():
        began_s = time.monotonic()
        train(crops, cells, settings.train, folder=folder, seed=seed)
        write_json(folder / "took.json", {"seconds": round(time.monotonic() - began_s, 1)})
    return embed(crops, cells, load_encoder(folder, crops), settings.embed)


def embed_untrained(crops: CropStore, cells: pd.DataFrame, settings: Settings, seed: int) -> pd.DataFrame:
    """Embed with the weights that a seed begins with."""
    return embed(crops, cells, build_untrained_encoder(settings.train, len(crops.channels), seed), settings.embed)


# What is measured.


def measure(embeddings: pd.DataFrame, mechanisms: pd.DataFrame, settings: Settings) -> Measured:
    """Every measure of one table of cells, by treatment."""
    wells = profile(embeddings, settings.profile).well
    evaluation = evaluate(
        wells,
        mechanisms,
        settings.evaluate.model_copy(update={"probe": False, "bootstraps": 100, "permutations": 100}),
        seed=0,
        normalisation=", ".join(settings.profile.normalise),
    )
    columns = [*TREATMENT, MECHANISM, "correct"]
    matches = evaluation.matches
    activity = join_mechanisms(evaluation.activity.rename(columns={"map": "correct"}), mechanisms)
    found = {
        "NSC": matches[matches["score"] == "nsc"],
        "NSCB": matches[matches["score"] == "nscb"],
        "replicates, controls": activity.fillna({MECHANISM: "none"}),
        "replicates, others": join_mechanisms(rank_replicates(wells), mechanisms).fillna({MECHANISM: "none"}),
        "probe by plate": probe_by_plate(embeddings, mechanisms),
    }
    return {name: table[columns].reset_index(drop=True) for name, table in found.items()}


def rank_replicates(wells: pd.DataFrame) -> pd.DataFrame:
    """Mean average precision of each treatment's wells among wells of its batch, by cosine.

    Each treated well asks. Its positives are the wells of its treatment on other plates, its negatives those of other
    compounds, all of its batch. A well without a positive or a negative does not ask.
    """
    treated = wells[~is_control(wells)].reset_index(drop=True)
    features = feature_matrix(treated).astype(np.float64)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    treatments = treated.groupby(TREATMENT).ngroup().to_numpy()
    compounds, plates, batches = (
        pd.factorize(treated[f"Metadata_{name}"])[0] for name in ("Compound", "Plate", "Batch")
    )
    precision = np.full(len(treated), np.nan)
    for well in range(len(treated)):
        positive = (treatments == treatments[well]) & (plates != plates[well])
        asked = (batches == batches[well]) & (positive | (compounds != compounds[well]))
        if positive[asked].any() and not positive[asked].all():
            precision[well] = average_precision_score(positive[asked], directions[asked] @ directions[well])
    by_treatment = treated[TREATMENT].assign(correct=precision).dropna()
    return by_treatment.groupby(TREATMENT, as_index=False)["correct"].mean()


def probe_by_plate(embeddings: pd.DataFrame, mechanisms: pd.DataFrame) -> pd.DataFrame:
    """Share of each treatment's cells whose mechanism is named by a classifier that has seen no cell of their plate."""
    cells = join_mechanisms(embeddings[~is_control(embeddings)], mechanisms).dropna(subset=MECHANISM)
    cells = cells.sort_values("Metadata_CellID", kind="stable").reset_index(drop=True)
    labels = cells[MECHANISM].to_numpy(dtype=object)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, class_weight="balanced"))
    named = cross_val_predict(
        model, feature_matrix(cells), labels, groups=cells["Metadata_Plate"].to_numpy(dtype=object), cv=folds
    )
    table = cells[[*TREATMENT, MECHANISM]].assign(correct=named == labels)
    return table.groupby([*TREATMENT, MECHANISM], as_index=False, observed=True)["correct"].mean()


def find_chance(embeddings: pd.DataFrame, mechanisms: pd.DataFrame, settings: Settings) -> dict[str, float]:
    """Each measure of random numbers in the place of features, mean of some draws."""
    names = feature_columns(embeddings)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(NUM_DRAWS):
        random = embeddings.assign(**dict(zip(names, rng.normal(size=(len(names), len(embeddings))), strict=True)))
        draws.append({name: table["correct"].mean() for name, table in measure(random, mechanisms, settings).items()})
    return {name: float(np.mean([draw[name] for draw in draws])) for name in MEASURES}


# What is said of it.


def compare_all(measured: dict[str, list[Measured]]) -> dict[str, dict[str, Any]]:
    """The trained encoder against each of the others, by each measure."""
    return {
        other: {
            name: compare_matches(
                [table[name] for table in measured["trained"]],
                [table[name] for table in measured[other]],
                bootstraps=BOOTSTRAPS,
                permutations=PERMUTATIONS,
                seed=0,
            )
            for name in MEASURES
        }
        for other in measured
        if other != "trained"
    }


def summarise(
    measured: dict[str, list[Measured]],
    compared: dict[str, dict[str, Any]],
    settings: Settings,
    seeds: Sequence[int],
    seconds: Sequence[float],
) -> dict[str, Any]:
    """All of it, as JSON values."""
    return {
        "settings": settings.model_dump(mode="json"),
        "seeds": list(seeds),
        "seconds": list(seconds),
        "scores": {
            name: {of: [float(table[of]["correct"].mean()) for table in several] for of in MEASURES}
            for name, several in measured.items()
        },
        "treatments": {of: len(measured["trained"][0][of]) for of in MEASURES},
        "comparisons": compared,
    }


def print_scores(measured: dict[str, list[Measured]], chance: dict[str, float]) -> None:
    """Print the mean over seeds of every measure, and the seeds."""
    print(f"| profiles of | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    for name, several in measured.items():
        cells = []
        for of in MEASURES:
            shares = [100 * table[of]["correct"].mean() for table in several]
            seeds = f" ({', '.join(f'{share:.0f}' for share in shares)})" if len(shares) > 1 else ""
            cells.append(f"{np.mean(shares):.1f} %{seeds}")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"| random numbers | {' | '.join(f'{100 * chance[of]:.1f} %' for of in MEASURES)} |")
    counts = [measured["trained"][0][of] for of in MEASURES]
    told = [f"{len(table)} treatments, {table['Metadata_Compound'].nunique()} compounds" for table in counts]
    print(f"| n | {' | '.join(told)} |")


def print_comparisons(compared: dict[str, dict[str, Any]]) -> None:
    """Print each difference with its interval and verdict."""
    words = {"a": "beats", "b": "is beaten by", "undecided": "is not told apart from"}
    print("\n| the trained encoder | measure | difference | p | n |\n|---|---|---|---|---|")
    for other, by_measure in compared.items():
        for of, gain in by_measure.items():
            if gain is None:
                continue
            low, high = gain["interval"]
            cells = [
                f"{words[gain['verdict']]} {other}",
                of,
                f"{gain['gain']:+.3f} [{low:+.3f}, {high:+.3f}]",
                f"{gain['p_value']:.2g}",
                str(gain["num_treatments"]),
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
