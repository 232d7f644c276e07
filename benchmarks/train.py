"""Training, side by side with its peers: views, the loss, the loader, a step, embedding.

    python benchmarks/train.py            # all of it
    python benchmarks/train.py augment    # views a second and core: cytoclr, albumentations, kornia, torchvision
    python benchmarks/train.py loss       # time and peak memory by minibatch: cytoclr, lightly, pytorch-metric-learning
    python benchmarks/train.py loader     # random minibatches: the crop store, memcpy, one PNG a crop, HDF5, Zarr
    python benchmarks/train.py step       # a whole step: cells a second and memory, by preset
    python benchmarks/train.py embed      # crops a second: bf16 against float32

Each part is a module of `benchmarks/training` and says at its head what it measures. Cases of one comparison run by
turns in one process, or each in one of its own where memory is compared; a ratio is the median over the rounds, with
the lowest and the highest. All figures are of the machine that is named first.
"""

import argparse
import importlib

PARTS = ("augment", "loss", "loader", "step", "embed")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=[*PARTS, "all"])
    asked = parser.parse_args()
    print(importlib.import_module("training").describe_machine(), flush=True)
    for part in PARTS if asked.what == "all" else (asked.what,):
        print(f"\n## {part}\n", flush=True)
        importlib.import_module(f"training.{part}").measure()


if __name__ == "__main__":
    main()
