"""How far conventions alone move a score: one table of profiles, under every normalisation and every protocol.

Measures NSC and NSCB with their intervals, and replicate mAP, of one table of profiles, first under each normalisation
by the default protocol, then by each protocol on profiles normalised plate by plate (or as the protocol demands).
Nothing is trained and nothing is chosen: the same profiles throughout.

Run: ``python benchmarks/conventions.py PROFILES SCREEN MECHANISMS`` (a minute on two cores with the per-well means of
Ljosa et al. 2013, BBBC021's image table and its mechanisms; they are in cytomining/cytominergallery).
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytoclr.config import EvaluateSettings, ProfileSettings
from cytoclr.external import evaluate_table

NORMALISATIONS = (
    "none",
    "batch-centre",
    "combat",
    "plate-zscore",
    "plate-percentile",
    "plate-mad",
    "whitening",
    "whitening-zca-cor",
    "tvn",
    "broad-notebook",
    "plate-mad, whitening",
    "plate-zscore, whitening",
)


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path)
    parser.add_argument("screen", type=Path)
    parser.add_argument("mechanisms", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| `normalise` | NSC | NSCB | mAP of replicates | batch told | plate told |\n|---|---|---|---|---|---|")
    for normalise in NORMALISATIONS:
        scores = score(arguments, normalise)
        nuisance = scores["nuisance"]["after"]
        told = [f"{nuisance[name]['balanced_accuracy']:.2f}" for name in ("batch", "plate")]
        active = scores["activity"]
        print(f"| `{normalise}` | {describe(scores)} | {active['map']:.2f} | {' | '.join(told)} |", flush=True)
    print("\n| protocol | normalisation | NSC | NSCB |\n|---|---|---|---|")
    for name, scored in score(arguments, "plate-zscore", all_protocols=True)["protocols"].items():
        print(f"| `{name}` | `{scored['normalisation']}` | {describe(scored)} |")


def score(arguments: argparse.Namespace, normalise: str, *, all_protocols: bool = False) -> dict[str, Any]:
    """Score the table once."""
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_table(
            arguments.profiles,
            Path(folder),
            screen=arguments.screen,
            mechanisms=arguments.mechanisms,
            profile_settings=ProfileSettings(normalise=normalise),
            evaluate_settings=EvaluateSettings(),
            positive_controls=("taxol",),
            all_protocols=all_protocols,
        )


def describe(scores: Mapping[str, Any]) -> str:
    """Both scores: hits of cases, interval."""
    texts = []
    for name in ("nsc", "nscb"):
        low, high = scores[name]["interval"]
        texts.append(f"{scores[name]['correct']} of {scores[name]['total']} ({100 * low:.0f}–{100 * high:.0f} %)")
    return " | ".join(texts)


if __name__ == "__main__":
    main()
