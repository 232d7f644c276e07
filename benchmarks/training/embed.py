"""Embedding: crops a second in bf16, against float32 as a network comes, and as cytoclr runs it.

The cases embed the same crops, held in memory, by minibatches of 256:

- plain: the network as it was built, float32, channels first
- float32: as `embed.precision: 32` runs it, channels last
- autocast: the same under ``torch.autocast``, which casts weights with every minibatch
- bf16: as `embed.precision: bf16` runs it: converted once, batch norms folded into the convolutions before them

The least cosine is that between a cell's embedding and the same cell's of plain. Batch norms have seen 256 crops, so
that folding them changes weights.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cytoclr.learn.encoder import build_backbone, build_lean
from training import interleave

MINIBATCH = 256
ROUNDS = 7
CASES = (("resnet18", 96, 512), ("small-cnn", 64, 2048))

Embed = Callable[[Tensor], Tensor]


def measure() -> None:
    """Measure both networks."""
    print(f"{'':<17}{'':<10}{'crops/s':>8}  {'least cosine':>12}  times as fast as plain, as float32")
    for backbone, size_px, num_cells in CASES:
        _measure_network(backbone, size_px, num_cells)


def _measure_network(backbone: str, size_px: int, num_cells: int) -> None:
    torch.manual_seed(0)
    network = build_backbone(backbone, 3, view_size_px=size_px)
    crops = torch.rand(num_cells, 3, size_px, size_px)
    with torch.inference_mode():
        network.train()(crops[:MINIBATCH])
        cases = _build_cases(network.eval(), crops[:2])
        found = {name: _embed_all(embed, crops) for name, embed in cases.items()}
        times = interleave({name: partial(_embed_all, embed, crops) for name, embed in cases.items()}, ROUNDS)
    for name, taken in times.items():
        cosine = float(torch.cosine_similarity(found[name], found["plain"]).min())
        told = ", ".join(times[peer].times_slower_than(taken) for peer in ("plain", "float32"))
        rate = num_cells / taken.median
        print(f"{f'{backbone}, {size_px} px':<17}{name:<10}{rate:>8,.0f}  {cosine:>12.5f}  {told}", flush=True)


def _build_cases(network: nn.Module, views: Tensor) -> dict[str, Embed]:
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    lean = build_lean(network, views)

    def autocast(crops: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return last(_put_channels_last(crops))

    return {
        "plain": network,
        "float32": lambda crops: last(_put_channels_last(crops)),
        "autocast": autocast,
        "bf16": lambda crops: lean(_put_channels_last(crops).to(torch.bfloat16)),
    }


def _put_channels_last(crops: Tensor) -> Tensor:
    return crops.contiguous(memory_format=torch.channels_last)


def _embed_all(embed: Embed, crops: Tensor) -> Tensor:
    return torch.cat([embed(part).float() for part in crops.split(MINIBATCH)])
