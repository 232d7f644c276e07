"""Views a second on one core: cytoclr's two back ends against three libraries, a crop being two views of it.

    python benchmarks/train.py augment
    python benchmarks/training/augment.py     # the same, alone

- cytoclr: the preset `fluorescence` on 16-bit crops; numba, and torch (the reference, meant for GPUs).
- the 2020 project: its pipeline in albumentations, a crop after another, 8 bit as it had them: resized crop, mirrors,
  elastic deformation, jitter of colours in 80 % of views, blur in half of them.
- kornia: the same steps on minibatches of 32 float crops; torchvision: on one 8-bit crop after another.

Jitter of colours is for three channels (albumentations: also for one); where a library has none, it is left out, which
makes that library faster. No peer adds noise. All end as float32 tensors. Cases run by turns, in one thread; times are
the processor's, so that other programs disturb them less. Ratios are medians over the rounds, with the lowest and
highest. The bound is what copying a crop's bytes in and its views' bytes out would take at memcpy's rate.
"""

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cytoclr.config import AugmentSettings
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.minibatch import Minibatch

ROUNDS = 7
#: Crops a round: the faster, the more, so that rounds last alike; the first is a training minibatch.
NUM_OURS, NUM_BATCHED, NUM_SINGLE = 256, 32, 24
SEED_PIPELINE = "albumentations, as in 2020"


def measure() -> None:
    """Print the table."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rate = measure_memcpy()
        print(f"memcpy on one core: {rate / 1e9:.1f} GB/s read and written\n")
        print("| channels | px | | crops/s, one core | slower than numba | of the bound |\n|---|---|---|---|---|---|")
        for size_px in (96, 64):
            for num_channels in (1, 3, 5):
                measure_case(num_channels, size_px, rate)
    finally:
        torch.set_num_threads(num_threads)


def measure_case(num_channels: int, size_px: int, memcpy_rate: float) -> None:
    """Print the lines for crops of one shape."""
    cases = build_cases(num_channels, size_px)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, (num_crops, draw) in cases.items():
            began_s = time.process_time()
            draw()
            if number:  # the first is for compiling and for caches
                rates[name].append(num_crops / (time.process_time() - began_s))
    best = rates["cytoclr, numba"]
    bound = memcpy_rate / (num_channels * size_px**2 * (2 + 2 * 4))
    for name, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(best, found, strict=True)]
        told = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        share = f"{statistics.median(found) / bound:.1%}"
        spread = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        print(f"| {num_channels} | {size_px} | {name} | {spread} | {told} | {share} |", flush=True)


def measure_memcpy() -> float:
    """Bytes read plus bytes written a second, by one core, of blocks that no cache holds."""
    source, target = torch.ones(1 << 26), torch.ones(1 << 26)
    rates = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        target.copy_(source)
        rates.append(2 * source.nbytes / (time.process_time() - began_s))
    return statistics.median(rates)


def build_cases(num_channels: int, size_px: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """How many crops, and what draws two views of each."""
    crops = np.random.default_rng(0).integers(0, 60000, (NUM_OURS, num_channels, size_px, size_px), dtype=np.uint16)
    bytes_ = torch.from_numpy((crops >> 8).astype(np.uint8))
    ours = build_ours(torch.from_numpy(crops), size_px)
    return {
        "cytoclr, numba": (NUM_OURS, ours["numba"]),
        "cytoclr, torch": (NUM_OURS, ours["torch"]),
        SEED_PIPELINE: (NUM_SINGLE, build_albumentations(bytes_[:NUM_SINGLE], size_px)),
        "kornia": (NUM_BATCHED, build_kornia(bytes_[:NUM_BATCHED], size_px)),
        "torchvision v2": (NUM_SINGLE, build_torchvision(bytes_[:NUM_SINGLE], size_px)),
    }


def build_ours(crops: Tensor, size_px: int) -> dict[str, Callable[[], object]]:
    """Both back ends."""
    ranges = torch.full(crops.shape[:2], 100.0), torch.full(crops.shape[:2], 50000.0)
    minibatch = Minibatch(torch.arange(len(crops)), crops, *ranges)

    def build(backend: str) -> Callable[[], object]:
        augmenter = Augmenter(AugmentSettings(), view_size_px=size_px, transform="sqrt", seed=0, backend=backend)
        return lambda: augmenter.draw_pair(minibatch, epoch=0)

    return {backend: build(backend) for backend in ("numba", "torch")}


def build_albumentations(crops: Tensor, size_px: int) -> Callable[[], object]:
    """The 2020 project's pipeline."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks the network for its newest version
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    steps = [
        albumentations.RandomResizedCrop(size=(size_px, size_px)),
        albumentations.HorizontalFlip(),
        albumentations.VerticalFlip(),
        albumentations.ElasticTransform(),
        albumentations.GaussianBlur(blur_limit=(3, 9), sigma_limit=(0.1, 2.0), p=0.5),
        albumentations.ToFloat(255.0),
        albumentations.ToTensorV2(),
    ]
    if crops.shape[1] in (1, 3):
        steps.insert(4, albumentations.ColorJitter(p=0.8))
    pipeline = albumentations.Compose(steps)
    images = [np.ascontiguousarray(crop) for crop in crops.permute(0, 2, 3, 1).numpy()]
    return lambda: [torch.stack([pipeline(image=image)["image"] for image in images]) for _ in range(2)]


def build_kornia(crops: Tensor, size_px: int) -> Callable[[], object]:
    """The same in kornia, on minibatches."""
    from kornia import augmentation

    steps = [
        augmentation.RandomResizedCrop((size_px, size_px)),
        augmentation.RandomHorizontalFlip(),
        augmentation.RandomVerticalFlip(),
        augmentation.RandomElasticTransform(),
        augmentation.RandomGaussianBlur((9, 9), (0.1, 2.0)),
    ]
    if crops.shape[1] == 3:
        steps.insert(4, augmentation.ColorJitter(0.2, 0.2, 0.2, 0.2, p=0.8))
    pipeline = torch.nn.Sequential(*steps)

    def draw() -> object:
        with torch.no_grad():
            return [pipeline(crops.float() / 255.0) for _ in range(2)]

    return draw


def build_torchvision(crops: Tensor, size_px: int) -> Callable[[], object]:
    """The same in torchvision, a crop after another, for each to have its own."""
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(size_px),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomApply([v2.ElasticTransform()]),
        v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))]),
        v2.ToDtype(torch.float32, scale=True),
    ]
    if crops.shape[1] == 3:
        steps.insert(4, v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.2)], p=0.8))
    pipeline = v2.Compose(steps)
    return lambda: [torch.stack([pipeline(crop) for crop in crops]) for _ in range(2)]


if __name__ == "__main__":
    measure()
