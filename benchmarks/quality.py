"""Does training pay, and what of it? Virtual screens that nothing was tuned on, with intervals.

Measures NSC and NSCB, mAP of replicates, and how well batches are told, of the default training; and the paired
difference to it of

- what an encoder must beat: the same encoder untrained, channel intensities, features in the manner of CellProfiler
  (``features.py``);
- with ``--table``: the training with one thing changed: an augmentation left out or added, its other presets,
  ways with batches, losses.

All are profiled, normalised and scored alike, on the demo's screen and on a harder one: effects divided by 3,
nuisances unchanged. Settings were chosen on screens with seeds from 100 to 112 and on 1000 (decisions/0006); these
seeds are others, and nothing is chosen here: every variant is printed, as it came.

Intervals are 95 %, bootstrap in two steps: screens (where there are several), and in each the compounds with all
their doses; the difference is paired on treatments. A screen's training has a seed of its own, so the luck of
training is in them too, as far as the number of screens shows it. Beside it the mechanisms are shuffled over
compounds, which must score at chance.

Run::

    python benchmarks/quality.py                         # the main comparison: six trainings
    python benchmarks/quality.py --table --screens demo  # and one training a variant and seed: hours
    python benchmarks/quality.py --table --print         # what is there so far; nothing is run

What is finished lies under ``--out`` as JSON, one file a screen, seed and variant, and is not run again. Exits with 1
if, on the demo's screens, an interval of the gain in NSCB over the untrained encoder or the intensities holds nought,
or if the shuffles are off chance; the features are reported only.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from cytoclr import pipeline
from cytoclr.config import Normalisation, Settings, check_settings
from cytoclr.data.crops import CropStore
from cytoclr.data.intensities import measure_intensities
from cytoclr.data.screen import read_mechanisms
from cytoclr.data.virtual import CONTROL
from cytoclr.errors import CytoclrError
from cytoclr.evaluate import PROTOCOLS, annotate_treatments, compute_chance, evaluate, flip_signs, score_nscb
from cytoclr.profiles import profile
from cytoclr.storage import hash_file, hash_json, read_json, read_table, write_json, write_table
from cytoclr.tables import MECHANISM, TREATMENT, feature_columns

Measure = Literal["nsc", "nscb", "map"]

SCREENS: dict[str, dict[str, Any]] = {"demo": {}, "harder": {"effect": 1 / 3}}
SIZES: dict[str, dict[str, Any]] = {
    "demo": {},
    "small": {"compounds_per_mechanism": 3},
    # for the tests: it shows nothing
    "tiny": {
        "num_mechanisms": 2,
        "compounds_per_mechanism": 2,
        "doses": 1,
        "num_batches": 2,
        "control_wells": 4,
        "positive_control_wells": 1,
        "field_size_px": 192,
        "cells_per_site": 16,
    },
}
#: Of the results' files: raised when what they hold changes.
FORMAT = 1
#: Under which every table is scored; the first is the default.
NORMALISATIONS: tuple[Normalisation, ...] = ("plate-zscore", "none", "whitening", "tvn")
DEFAULT = "trained"
BASELINES = ("untrained", "intensities", "features")
#: What the demo's training must beat.
REQUIRED = ("untrained", "intensities")
#: What is changed in each variant, by its group and name; see docs/reference/settings.md.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "augmentation": {
        "no rotation": {"train": {"augment": {"rotate": False}}},
        "no flip": {"train": {"augment": {"flip": False}}},
        "no resized crop": {"train": {"augment": {"min_scale": 1.0}}},
        "no gain, offset, gamma": {"train": {"augment": {"gain": 0.0, "offset": 0.0, "gamma": 0.0}}},
        "no blur": {"train": {"augment": {"blur_px": 0.0}}},
        "no noise": {"train": {"augment": {"noise": 0.0}}},
        "and an elastic field": {"train": {"augment": {"elastic": 0.04}}},
        "and a gradient of light": {"train": {"augment": {"gradient": 0.3}}},
        "and photon noise": {"train": {"augment": {"photon_noise": 0.08}}},
        "and channels dropped": {"train": {"augment": {"drop": 0.1}}},
        "and a square cut out": {"train": {"augment": {"cut_out": 0.3}}},
        "preset strong": {"train": {"augment": {"preset": "strong"}}},
        "preset seed-2020": {"train": {"augment": {"preset": "seed-2020"}}},
    },
    "batches": {
        "embedding recalibrated on controls": {"embed": {"recalibrate": "plate-controls"}},
        "sampler batch-balanced": {"train": {"sampler": "batch-balanced"}},
        "sampler within-batch": {"train": {"sampler": "within-batch"}},
        "sampler balanced": {"train": {"sampler": "balanced"}},
        "negatives other-wells": {"train": {"negatives": "other-wells"}},
        "negatives other-compounds": {"train": {"negatives": "other-compounds"}},
        "positives cross-well": {"train": {"positives": "cross-well"}},
        "positives cross-plate": {"train": {"positives": "cross-plate"}},
    },
    "loss": {
        "supcon": {"train": {"loss": "supcon"}},
        "spc": {"train": {"loss": "spc"}},
        "vicreg": {"train": {"loss": "vicreg"}},
    },
}
CHANGES = {name: changes for group in VARIANTS.values() for name, changes in group.items()}
NUM_SHUFFLES = 200
BOOTSTRAPS = PERMUTATIONS = 10_000
PROTOCOL = PROTOCOLS["treatment-mean"]

Key = tuple[str, int]
#: What was found: of each screen and seed, by variant.
Found = Mapping[Key, Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not finished, print the tables; return 1 if the main comparison does not hold."""
    arguments = read_arguments(argv)
    names = arguments.variants or [DEFAULT, *BASELINES, *(CHANGES if arguments.table else ())]
    # the screens take turns, so that a run that is stopped has a little of each rather than all of one
    keys = [(screen, seed) for screen in arguments.screens for seed in arguments.seeds]
    if not arguments.print:
        for name in names:
            for screen, seed in keys:
                finish_result(name, screen, seed, arguments)
    found = {key: read_results(place_of(arguments.out, *key, arguments.size), names) for key in keys}
    warn_of_mixtures(found)
    holds = True
    for screen in arguments.screens:
        here = {key: results for key, results in found.items() if key[0] == screen and DEFAULT in results}
        if not here:
            print(f"\n{screen}: nothing is finished")
            holds = False
            continue
        holds &= print_main(screen, here)
        if set(names) & set(CHANGES):
            print_variants(screen, here, names)
    return 0 if holds else 1


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", nargs="+", choices=list(SCREENS), default=list(SCREENS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2000, 2001, 2002])
    parser.add_argument("--variants", nargs="+", choices=[DEFAULT, *BASELINES, *CHANGES], help="these alone")
    parser.add_argument("--table", action="store_true", help="also what one changed setting does")
    parser.add_argument("--epochs", type=int, help="of every training; default: as the settings have it")
    parser.add_argument("--size", choices=list(SIZES), default="demo", help="of the screens")
    parser.add_argument("--print", action="store_true", help="run nothing, print what is finished")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    return parser.parse_args(argv)


# Running.


def place_of(out: Path, screen: str, seed: int, size: str) -> Path:
    """Where a screen's crops, models and results lie."""
    return out / f"{screen}-{seed}{'' if size == 'demo' else f'-{size}'}"


def make_settings(name: str, screen: str, seed: int, *, size: str, epochs: int | None) -> Settings:
    """Settings of a variant; the virtual screen and the training have the same seed."""
    values: dict[str, Any] = {
        "seed": seed,
        "screen": {"reader": "virtual", "screen_seed": seed, **SIZES[size], **SCREENS[screen]},
        "train": {} if epochs is None else {"epochs": epochs},
    }
    for section, changes in CHANGES.get(name, {}).items():
        values[section] = {**values.get(section, {}), **changes}
    return check_settings(values, source=name, folder=Path())


@dataclass(frozen=True)
class Prepared:
    """A screen's crops, shared by all variants."""

    crops: CropStore
    cells: pd.DataFrame
    mechanisms: pd.DataFrame


def prepare_screen(settings: Settings, place: Path) -> Prepared:
    """Simulate and cut a screen, unless that is done."""
    run = pipeline.crop(settings.model_copy(update={"train": Settings().train, "embed": Settings().embed}), place)
    mechanisms = read_mechanisms(run / "virtual" / "moa.csv")
    # without the row that BBBC021's table, and so this one, has for the untreated
    mechanisms = mechanisms[mechanisms["Metadata_Compound"] != CONTROL]
    return Prepared(CropStore(run / "crops"), read_table(run / "cells.parquet"), mechanisms)


def finish_result(name: str, screen: str, seed: int, arguments: argparse.Namespace) -> None:
    """Do one variant on one screen, and write its result; leave alone what is finished, pass over what cannot be."""
    place = place_of(arguments.out, screen, seed, arguments.size)
    path = result_path(place, name)
    try:
        settings = make_settings(name, screen, seed, size=arguments.size, epochs=arguments.epochs)
        key = hash_json([FORMAT, settings.model_dump(mode="json")])
        if path.is_file() and read_json(path)["key"] == key:
            return
        tell(f"{screen} {seed}: {name}")
        prepared = prepare_screen(settings, place)
        embeddings, about = embed_variant(name, settings, prepared, place)
        scores = {method: score(embeddings, prepared, settings, method) for method in NORMALISATIONS}
        if name == DEFAULT:
            about |= shuffle_mechanisms(embeddings, prepared, settings)
    except (CytoclrError, NotImplementedError) as error:
        if name not in CHANGES:
            raise
        tell(f"{screen} {seed}: {name} is left out: {error}")
        return
    result = {
        "key": key,
        "code": hash_code(),
        "variant": name,
        "screen": screen,
        "seed": seed,
        "epochs": settings.train.epochs,
        "num_cells": len(prepared.cells),
        "num_features": len(feature_columns(embeddings)),
        "embeddings": hash_json(embeddings[feature_columns(embeddings)].sum().round(4).tolist()),
        **about,
        "scores": scores,
    }
    write_json(path, result)


def result_path(place: Path, name: str) -> Path:
    """Where a variant's result lies."""
    return place / "results" / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def embed_variant(
    name: str, settings: Settings, prepared: Prepared, place: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Embed a screen's cells; tell how long training took, and what it saw."""
    # not at the top: the processes that simulate a screen import this script, and need no torch
    from features import measure_features

    from cytoclr.learn import build_untrained_encoder, embed, load_encoder, train

    crops, cells = prepared.crops, prepared.cells
    if name == "intensities":
        return measure_intensities(crops, cells), {"seconds": None, "labels_seen": "none"}
    if name == "features":
        path = place / "features.parquet"
        if not path.is_file():
            write_table(path, measure_features(crops, cells))
        return read_table(path), {"seconds": None, "labels_seen": "none"}
    if name == "untrained":
        encoder = build_untrained_encoder(settings.train, len(crops.channels), settings.seed)
        return embed(crops, cells, encoder, settings.embed), {"seconds": None, "labels_seen": "none"}
    # what differs in embedding alone shares its training
    folder = place / "models" / hash_json([settings.train.model_dump(mode="json"), settings.seed])[:16]
    took = folder / "took.json"
    if not took.is_file():
        began_s = time.monotonic()
        train(crops, cells, settings.train, folder=folder, seed=settings.seed)
        write_json(took, {"seconds": round(time.monotonic() - began_s, 1)})
    encoder = load_encoder(folder, crops)
    seen = str(read_json(folder / "model.json")["labels_seen"]).split(",")[0]
    return embed(crops, cells, encoder, settings.embed), {**read_json(took), "labels_seen": seen}


def score(embeddings: pd.DataFrame, prepared: Prepared, settings: Settings, method: Normalisation) -> dict[str, Any]:
    """Profile and score one table by one normalisation: shares, and hits and mAP of every treatment."""
    profiles = profile(embeddings, settings.profile.model_copy(update={"normalise": (method,)}))
    evaluation = evaluate(
        profiles.well,
        prepared.mechanisms,
        settings.evaluate.model_copy(update={"probe": False, "bootstraps": 100, "permutations": 100}),
        seed=settings.seed,
        normalisation=method,
    )
    scores = evaluation.scores
    cases = {name: evaluation.matches[evaluation.matches["score"] == name] for name in ("nsc", "nscb")}
    values = {name: table[[*TREATMENT, "correct"]].to_numpy().tolist() for name, table in cases.items()}
    values["map"] = evaluation.activity[[*TREATMENT, "map"]].to_numpy().tolist()
    batch = scores["nuisance"]["after"]["batch"]
    return {
        "batch_told": None if batch is None else batch["balanced_accuracy"],
        "values": values,
    }


def shuffle_mechanisms(embeddings: pd.DataFrame, prepared: Prepared, settings: Settings) -> dict[str, float]:
    """Score NSCB with mechanisms shuffled over compounds: the mean of many, and chance in closed form."""
    mechanisms = prepared.mechanisms
    wells = profile(embeddings, settings.profile).well
    by_compound = mechanisms.drop_duplicates("Metadata_Compound").set_index("Metadata_Compound")[MECHANISM]
    rng = np.random.default_rng(settings.seed)
    shares = []
    for _ in range(NUM_SHUFFLES):
        dealt = pd.Series(rng.permutation(by_compound.to_numpy()), index=by_compound.index)
        shuffled = mechanisms.assign(**{MECHANISM: mechanisms["Metadata_Compound"].map(dealt)})
        across, _ = score_nscb(annotate_treatments(wells, shuffled, PROTOCOL))
        if across.answered.any():
            shares.append(across.correct[across.answered].mean())
    return {"shuffled": float(np.mean(shares)), "chance": compute_chance(pd.factorize(by_compound)[0])}


def hash_code() -> str:
    """Hash the package's sources: results of different code are not to be pooled unnoticed."""
    root = Path(pipeline.__file__).parent
    return hash_json({str(path.relative_to(root)): hash_file(path) for path in sorted(root.rglob("*.py"))})[:12]


def tell(text: str) -> None:
    """Say how far it is, beside the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# Pooling screens.


def read_results(place: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read what is finished of a screen."""
    paths = {name: result_path(place, name) for name in names}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def pool_values(found: Found, name: str, measure: Measure, method: Normalisation) -> pd.Series:
    """Each treatment's value, over all screens that have the variant."""
    parts = {
        key: pd.DataFrame(results[name]["scores"][method]["values"][measure], columns=["compound", "dose", "value"])
        for key, results in found.items()
        if name in results
    }
    table = pd.concat(parts, names=["screen", "seed", "row"]).reset_index()
    return table.set_index(["seed", "compound", "dose"])["value"].astype(float).sort_index()


def compare_pooled(
    found: Found, first: str, second: str, measure: Measure, method: Normalisation = NORMALISATIONS[0]
) -> dict[str, Any] | None:
    """Compare two variants on the screens and treatments that both have: first less second.

    Each screen counts the same. ``gain``, ``interval`` (see `bootstrap_gain`), ``p_value`` (`flip_signs`),
    ``verdict`` (better, worse, or not told apart: the interval holds nought), ``num_screens``, ``num_treatments``,
    ``num_compounds``. None if they have no screen in common.
    """
    common = {key: results for key, results in found.items() if first in results and second in results}
    if not common:
        return None
    pair = pd.concat(
        {name: pool_values(common, name, measure, method) for name in (first, second)}, axis=1, join="inner"
    )
    difference = pair[first] - pair[second]
    screens = pd.factorize(difference.index.get_level_values("seed"))[0]
    compounds = difference.groupby(level=["seed", "compound"]).ngroup().to_numpy()
    values = difference.to_numpy()
    low, high = bootstrap_gain(values, screens, compounds)
    return {
        "gain": float(np.mean([values[screens == screen].mean() for screen in np.unique(screens)])),
        "interval": [low, high],
        "p_value": flip_signs(values, compounds, permutations=PERMUTATIONS, rng=np.random.default_rng(0)),
        "verdict": "better" if low > 0 else "worse" if high < 0 else "not told apart",
        "num_screens": len(common),
        "num_treatments": len(values),
        "num_compounds": len(np.unique(compounds)),
    }


def bootstrap_gain(values: np.ndarray, screens: np.ndarray, compounds: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over screens of the mean over treatments.

    Screens are drawn with replacement, and anew for each drawn screen its compounds, whole. `compounds` are numbered
    through, so that those of two screens are different.
    """
    rng = np.random.default_rng(0)
    numbers = np.unique(screens)
    means = np.empty((len(numbers), len(numbers), BOOTSTRAPS))
    for index, screen in enumerate(numbers):
        here = screens == screen
        _, codes = np.unique(compounds[here], return_inverse=True)
        sums, counts = np.bincount(codes, weights=values[here]), np.bincount(codes)
        drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=(len(numbers), BOOTSTRAPS))
        means[index] = (drawn @ sums) / (drawn @ counts)
    chosen = rng.integers(len(numbers), size=(len(numbers), BOOTSTRAPS))
    slots = np.arange(len(numbers))[:, None]
    low, high = np.percentile(means[chosen, slots, np.arange(BOOTSTRAPS)].mean(axis=0), (2.5, 97.5))
    return float(low), float(high)


# Printing.


def warn_of_mixtures(found: Found) -> None:
    """Say where the results are not of one state of the code, or not of one number of epochs."""
    for what in ("code", "epochs"):
        states = {result[what] for results in found.values() for result in results.values()}
        if len(states) > 1:
            tell(f"these results are of {len(states)} different states of: {what}")


def print_main(screen: str, found: Found) -> bool:
    """Print the trained encoder against what it must beat; tell whether it does, and shuffles are at chance."""
    seeds = ", ".join(str(seed) for _, seed in found)
    first = next(iter(found.values()))[DEFAULT]
    total = len(first["scores"][NORMALISATIONS[0]]["values"]["nscb"])
    print(
        f"\n{screen}: seeds {seeds}; {total} treatments a screen, {first['num_cells']:,} cells in the first; protocol "
        f"{PROTOCOL.name}, {NORMALISATIONS[0]}; {first['epochs']} epochs\n"
    )
    print("| profiles of | features | NSC | NSCB | NSCB by screen | mAP of replicates | batch told |")
    print("|---|---|---|---|---|---|---|")
    names = [name for name in (DEFAULT, *BASELINES) if any(name in results for results in found.values())]
    for name in names:
        print(f"| {name} | {describe_variant(found, name, by_screen=True)} |")
    print("\n| trained less | normalisation | NSC | NSCB | mAP of replicates |\n|---|---|---|---|---|")
    holds = screen != "demo" or len(names) > 1
    for method in NORMALISATIONS:
        for name in names[1:]:
            gains = {of: compare_pooled(found, DEFAULT, name, of, method) for of in get_args(Measure)}
            print(f"| {name} | `{method}` | {' | '.join(map(describe_gain, gains.values()))} |")
            if screen == "demo" and method == NORMALISATIONS[0] and name in REQUIRED:
                nscb = gains["nscb"]
                holds &= nscb is not None and nscb["verdict"] == "better"
    return print_shuffles(found) and holds


def print_shuffles(found: Found) -> bool:
    """Print NSCB of shuffled mechanisms; tell whether its mean is within two points of chance on every screen."""
    defaults = [results[DEFAULT] for results in found.values()]
    texts = [f"{of['shuffled']:.3f} (chance in closed form {of['chance']:.3f})" for of in defaults]
    print(f"\nNSCB of {NUM_SHUFFLES} shuffles of the mechanisms, trained: {', '.join(texts)}")
    return all(abs(of["shuffled"] - of["chance"]) < 0.02 for of in defaults)


def print_variants(screen: str, found: Found, names: Sequence[str]) -> None:
    """Print what one changed setting does."""
    print(f"\n{screen}: the training with one thing changed, less the default\n")
    print(
        "| changed | sees | screens | NSC | NSCB | batch told | difference: NSC | NSCB | mAP of replicates | training |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for group, variants in {"": {DEFAULT: {}}, **VARIANTS}.items():
        for name in variants:
            if name in names and any(name in results for results in found.values()):
                print(describe_row(found, group, name))


def describe_row(found: Found, group: str, name: str) -> str:
    """One line of the table of variants."""
    results = [of[name] for of in found.values() if name in of]
    shares = [f"{100 * np.mean(share_by_screen(found, name, of)):.1f} %" for of in ("nsc", "nscb")]
    gains = [
        "" if name == DEFAULT else describe_gain(compare_pooled(found, name, DEFAULT, of)) for of in get_args(Measure)
    ]
    seconds = [f"{np.mean([of['seconds'] for of in results]):.0f} s"]
    seen = "/".join(sorted({of["labels_seen"] for of in results}))
    label = f"{group}: {name}" if group else "nothing"
    if all(of[name]["embeddings"] == of[DEFAULT]["embeddings"] for of in found.values() if name in of and group):
        label += "" if name == DEFAULT else " (did nothing: the very embeddings of the default)"
    cells = [label, seen, str(len(results)), *shares, describe_batches(results), *gains, *seconds]
    return f"| {' | '.join(cells)} |"


def describe_variant(found: Found, name: str, *, by_screen: bool) -> str:
    """Number of features, scores, how well batches are told."""
    results = [of[name] for of in found.values() if name in of]
    nsc, nscb, precision = (share_by_screen(found, name, of) for of in get_args(Measure))
    cells = [str(results[0]["num_features"]), *(f"{100 * np.mean(shares):.1f} %" for shares in (nsc, nscb))]
    if by_screen:
        cells.append(", ".join(f"{100 * share:.0f}" for share in nscb))
    return " | ".join([*cells, f"{np.mean(precision):.2f}", describe_batches(results)])


def share_by_screen(found: Found, name: str, measure: Measure) -> list[float]:
    """A variant's score on each screen."""
    return list(_means(found, name, measure))


def _means(found: Found, name: str, measure: Measure) -> Iterator[float]:
    for results in found.values():
        if name in results:
            values = results[name]["scores"][NORMALISATIONS[0]]["values"][measure]
            yield float(np.mean([float(value) for _, _, value in values]))


def describe_batches(results: Sequence[Mapping[str, Any]]) -> str:
    """How well the batch of untreated wells is told, after normalisation."""
    told = [of["scores"][NORMALISATIONS[0]]["batch_told"] for of in results]
    known = [value for value in told if value is not None]
    return f"{np.mean(known):.2f}" if known else "–"


def describe_gain(compared: Mapping[str, Any] | None) -> str:
    """A difference with its interval; in bold where that leaves nought out."""
    if compared is None:
        return "–"
    low, high = compared["interval"]
    text = f"{compared['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return text if compared["verdict"] == "not told apart" else f"**{text}**"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
