"""Random minibatches of crops, and how long a training step waits for them.

Measures, for minibatches of 256 random crops of 96x96x3, 16 bit, out of 20,000 (1.1 GB, made in a temporary folder and
deleted again), in one thread; a store of over 2 GB is read by other means, which are measured too:

- files in memory: cytoclr's crop store; a copy of the same bytes from one place to another (the machine's limit);
  NumPy's memory map with plain indexing; HDF5 and Zarr with a chunk a crop, uncompressed; and one 16-bit PNG strip a
  crop, the 2020 project's way, read by scikit-image (imageio), by Pillow, and by imagecodecs, the fastest at hand;
- files not in memory (each told to leave it before every run), as if the store were large: as it is, with every
  minibatch announced to the system before it is read, or the next one while one is read; the memory map;
- training: the share of a step's time that it waits for crops, with the loader, and if it read when asked to.

PNGs hold noise like a camera's over smooth cells, since noise is what makes them slow to unpack. Zarr's part is read
by its own random access (`oindex`), HDF5's crop by crop as its documentation advises for random places.
"""

import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from training import Times, interleave

NUM_CROPS, SHAPE, DTYPE = 20_000, (3, 96, 96), np.dtype(np.uint16)
NUM_PLATES, MINIBATCH, REPEATS = 4, 256, 7
CROP_BYTES = int(np.prod(SHAPE)) * DTYPE.itemsize


def measure() -> None:
    """Print the three tables."""
    folder = Path(tempfile.mkdtemp(prefix="cytoclr-bench-"))
    try:
        crops = paint_crops()
        write_store(folder / "store", crops)
        measure_warm(folder, crops)
        del crops
        measure_cold(folder / "store")
        measure_wait(folder / "store")
    finally:
        shutil.rmtree(folder)


# Making crops.


def paint_crops() -> np.ndarray:
    """Paint round cells, 12 of 16 bits, with the noise of light; a tile of 500 of them, each other time rolled."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[-48:48, -48:48]
    radii = draw.uniform(12, 30, (500, SHAPE[0], 1, 1))
    cells = 200 + draw.uniform(300, 2500, radii.shape) / (1 + np.exp((np.hypot(rows, columns) - radii) / 2))
    tile = draw.poisson(cells).clip(0, 4095).astype(DTYPE)
    return np.concatenate([np.roll(tile, number, axis=3) for number in range(NUM_CROPS // len(tile))])


def write_store(folder: Path, crops: np.ndarray) -> None:
    """Write a store of four plates."""
    from cytoclr.data.crops import Shard, open_shard, write_crop_manifest

    shards = []
    for number, part in enumerate(np.split(crops, NUM_PLATES)):
        with open_shard(folder / f"P{number}.npy", SHAPE[0], SHAPE[1], DTYPE) as writer:
            writer.append(part)
        shards.append(Shard(f"P{number}.npy", f"P{number}", len(part), (200.0,) * 3, (2500.0,) * 3))
    names = ("DNA", "Tubulin", "Actin")
    write_crop_manifest(
        folder, shards, channels=names, size_px=SHAPE[1], pixel_size_um=None, dtype=DTYPE, intensity={"rule": "fixed"}
    )


def open_as_large(folder: Path) -> Any:
    """Open a store as one that is too large to be mapped."""
    from cytoclr.data.crops import CropStore

    with mock.patch("cytoclr.data.crops.MAX_MAPPED_BYTES", 0):
        store = CropStore(folder)
        store.read(np.cumsum([shard.num_cells for shard in store.shards]) - 1)  # opens every file
    return store


def write_pngs(folder: Path, crops: np.ndarray) -> list[Path]:
    """Write one PNG strip a crop, channels side by side."""
    import imagecodecs

    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(crops))]
    for path, crop in zip(paths, crops, strict=True):
        path.write_bytes(imagecodecs.png_encode(np.concatenate(list(crop), axis=1)))
    return paths


# Files in memory.


def draw_rows(num_minibatches: int, num_crops: int = NUM_CROPS, seed: int = 0) -> list[np.ndarray]:
    """Draw minibatches of different crops."""
    order = np.random.default_rng(seed).permutation(num_crops)[: num_minibatches * MINIBATCH]
    return np.split(order, num_minibatches)


def each(read: Callable[[np.ndarray], object], rows: list[np.ndarray]) -> Callable[[], None]:
    """Read minibatch after minibatch."""

    def run() -> None:
        for some in rows:
            read(some)

    return run


def measure_warm(folder: Path, crops: np.ndarray) -> None:
    """Compare ways to read files that are in memory."""
    import h5py
    import imagecodecs
    import skimage.io
    import zarr
    from PIL import Image

    from cytoclr.data.crops import CropStore

    store, large = CropStore(folder / "store"), open_as_large(folder / "store")
    maps = [np.load(folder / "store" / f"P{number}.npy", mmap_mode="r") for number in range(NUM_PLATES)]
    per_plate = NUM_CROPS // NUM_PLATES
    num_chunked = NUM_CROPS // 5
    with h5py.File(folder / "crops.h5", "w") as file:
        file.create_dataset("crops", data=crops[:num_chunked], chunks=(1, *SHAPE))
    hdf5 = h5py.File(folder / "crops.h5", "r")["crops"]
    zarr_array = zarr.create_array(
        folder / "crops.zarr", shape=(num_chunked, *SHAPE), chunks=(1, *SHAPE), dtype=DTYPE, compressors=None
    )
    zarr_array[:] = crops[:num_chunked]
    pngs = write_pngs(folder / "png", crops[:1024])

    def read_map(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *SHAPE), dtype=DTYPE)
        for number, plate in enumerate(maps):
            here = rows // per_plate == number
            out[here] = plate[rows[here] % per_plate]
        return out

    def read_hdf5(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *SHAPE), dtype=DTYPE)
        for place, row in enumerate(rows):
            hdf5.read_direct(out, np.s_[row], np.s_[place])
        return out

    def read_pngs(decode: Callable[[Path], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: np.stack([np.stack(np.split(decode(pngs[row]), SHAPE[0], axis=1)) for row in rows])

    many, few = draw_rows(40), draw_rows(4, num_chunked)
    one = draw_rows(1, len(pngs))
    np.testing.assert_array_equal(store.read(many[0]), read_map(many[0]))
    np.testing.assert_array_equal(read_hdf5(few[0]), zarr_array.oindex[few[0]])
    np.testing.assert_array_equal(store.read(one[0]), read_pngs(lambda path: np.asarray(Image.open(path)))(one[0]))
    cases = {
        "cytoclr's store": (store.read, many),
        "cytoclr's store, as if it were large": (large.read, many),
        "copy of the same bytes": (lambda rows: crops[rows[0] % (NUM_CROPS - MINIBATCH) :][:MINIBATCH].copy(), many),
        "np.memmap, plain indexing": (read_map, many),
        "HDF5, a chunk a crop": (read_hdf5, few),
        "Zarr, a chunk a crop": (lambda rows: zarr_array.oindex[rows], few[:1]),
        "one PNG a crop, scikit-image": (read_pngs(skimage.io.imread), one),
        "one PNG a crop, Pillow": (read_pngs(lambda path: np.asarray(Image.open(path))), one),
        "one PNG a crop, imagecodecs": (read_pngs(lambda path: imagecodecs.png_decode(path.read_bytes())), one),
    }
    times = interleave({name: each(*case) for name, case in cases.items()}, REPEATS)
    seconds = {  # of one minibatch
        name: Times(tuple(second / len(cases[name][1]) for second in found.seconds)) for name, found in times.items()
    }
    print("| files in memory | crops a second | GB a second | time, in those of cytoclr's store |\n|---|---|---|---|")
    for name, found in seconds.items():
        speed = MINIBATCH / found.median
        ratio = found.times_slower_than(seconds["cytoclr's store"])
        print(f"| {name} | {speed:,.0f} | {speed * CROP_BYTES / 1e9:.2f} | {ratio} |", flush=True)


# Files not in memory.


def forget(folder: Path) -> None:
    """Let the system drop files from its memory; no map of them may be open."""
    gc.collect()
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_cold(folder: Path) -> None:
    """Compare ways to read files that are not in memory."""
    if not hasattr(os, "posix_fadvise"):
        print("\nFiles not in memory: this system cannot be told to forget them.")
        return
    from cytoclr.learn.dataset import CropDataset, build_loader

    def read(rows: list[np.ndarray]) -> None:
        store = open_as_large(folder)
        for some in rows:
            store.read(some)

    def read_announced(rows: list[np.ndarray]) -> None:
        store = open_as_large(folder)
        for some in rows:
            store.announce(some)
            store.read(some)

    def load(rows: list[np.ndarray]) -> None:
        for _ in build_loader(CropDataset(open_as_large(folder)), rows, num_workers=0):
            pass

    def read_map(rows: list[np.ndarray]) -> None:
        maps = [np.load(folder / f"P{number}.npy", mmap_mode="r") for number in range(NUM_PLATES)]
        for some in rows:
            for number, plate in enumerate(maps):
                here = some // (NUM_CROPS // NUM_PLATES) == number
                plate[some[here] % (NUM_CROPS // NUM_PLATES)]

    cases = {
        "cytoclr's loader: the next minibatch announced": load,
        "cytoclr's store, each minibatch announced": read_announced,
        "cytoclr's store": read,
        "np.memmap, plain indexing": read_map,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(5):
        for name, case in cases.items():
            forget(folder)
            rows = draw_rows(8, seed=number)
            started_s = time.perf_counter()
            case(rows)
            seconds[name].append((time.perf_counter() - started_s) / len(rows))
    times = {name: Times(tuple(found)) for name, found in seconds.items()}
    print("\n| files not in memory | crops a second | time, in those of the loader |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {MINIBATCH / found.median:,.0f} | {found.times_slower_than(next(iter(times.values())))} |")


# The wait.


def measure_wait(folder: Path) -> None:
    """Train a little, and add up what steps wait for crops."""
    print("\n| step | crops | time of a step | waited | of it, reading ahead | reading when asked |")
    print("|---|---|---|---|---|---|")
    for backbone, view_px, num_steps in (("resnet18", 96, 2), ("small-cnn", 64, 5)):
        step = build_step(backbone, view_px)
        for is_cold in (False, True):
            step_s, wait_s = time_steps(folder, step, num_steps, is_cold=is_cold)
            read_s = time_reading(folder, num_steps, is_cold=is_cold)
            place = "on disk" if is_cold else "in memory"
            print(
                f"| {backbone}, {view_px} px, minibatch {MINIBATCH} | {place} | {step_s:.2f} s | {wait_s * 1e3:.2f} ms "
                f"| {wait_s / (step_s + wait_s):.2%} | {read_s / (step_s + read_s):.2%} |",
                flush=True,
            )


def build_step(backbone: str, view_px: int) -> Callable[[object], None]:
    """Build a whole SimCLR step: two views, forward, loss, backward, Adam."""
    import torch

    from cytoclr.config import TrainSettings
    from cytoclr.learn.augment import Augmenter
    from cytoclr.learn.loss import nt_xent
    from cytoclr.learn.model import build_untrained_networks

    settings = TrainSettings(backbone=backbone, view_size_px=view_px)
    network, projection = build_untrained_networks(settings, SHAPE[0], seed=0)
    network = network.train().to(memory_format=torch.channels_last)
    augmenter = Augmenter(settings.augment, view_size_px=view_px, transform=settings.transform, seed=0)
    optimiser = torch.optim.Adam([*network.parameters(), *projection.parameters()])

    def step(minibatch: object) -> None:
        views = [augmenter.draw(minibatch, epoch=0, view=view) for view in (0, 1)]
        both = torch.cat(views).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        nt_xent(*projection(network(both)).chunk(2), temperature=0.1, similarity="cosine").backward()
        optimiser.step()

    return step


def time_steps(folder: Path, step: Callable[[object], None], num_steps: int, *, is_cold: bool) -> tuple[float, float]:
    """Return the median seconds of a step, and of its wait for the loader; the first step does not count."""
    from cytoclr.data.crops import CropStore
    from cytoclr.learn.dataset import CropDataset, build_loader

    if is_cold:
        forget(folder)
    rows = draw_rows(num_steps + 1)
    minibatches = iter(build_loader(CropDataset(CropStore(folder)), rows, num_workers=0))
    worked, waited = [], []
    for _ in rows:
        started_s = time.perf_counter()
        minibatch = next(minibatches)
        ready_s = time.perf_counter()
        step(minibatch)
        waited.append(ready_s - started_s)
        worked.append(time.perf_counter() - ready_s)
    return statistics.median(worked[1:]), statistics.median(waited[1:])


def time_reading(folder: Path, num_minibatches: int, *, is_cold: bool) -> float:
    """Return the median seconds of reading a minibatch when it is asked for; the first does not count."""
    from cytoclr.data.crops import CropStore
    from cytoclr.learn.dataset import CropDataset

    if is_cold:
        forget(folder)
    dataset, seconds = CropDataset(CropStore(folder)), []
    for rows in draw_rows(num_minibatches + 1):
        started_s = time.perf_counter()
        dataset[rows]
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds[1:])
