"""How well a plate's illumination function is found, against the plain mean of all fields and a median filter.

Measures, on synthetic fields (640x512 px, round cells of 40 px and log-normal brightness on a background of a fifth of
theirs, debris in three of ten fields, photon noise) under a planted vignette that falls to half in one corner:

- largest and root-mean-square error of the function, in percent, by density of cells and number of fields, ours and the
  plain way's (mean of all fields, median filter of 39 % of the longer side: 500 of 1,280 px),
- the same with a constant of half the background that the camera adds and the light does not fall on,
- on the virtual screen (half of its background is such a constant): the ratio of mean intensity, outer to inner part of
  the field, as it is, corrected, and in a screen without uneven light.

Run: ``python benchmarks/illumination.py`` (under a minute on two cores).
"""

import numpy as np
from scipy import ndimage

from cytoclr.config import VirtualSettings
from cytoclr.data.illumination import correct_field, expand_illumination, fit_illumination, shrink_field
from cytoclr.data.virtual import simulate_field
from cytoclr.data.virtual.camera import draw_conditions

SHAPE = (512, 640)
BACKGROUND, CELL, OFFSET = 200.0, 1000.0, 100


def main() -> None:
    """Print the tables."""
    light = plant_light(SHAPE)
    planted = _shrink(light)
    print("| cells cover | fields | largest error, ours | plain | rms, ours | plain | with a constant, ours | plain |")
    print("|---|---|---|---|---|---|---|---|")
    for density in (0.05, 0.15, 0.4, 0.7):
        rng = np.random.default_rng(1)
        fields = np.stack([shrink_field(draw_field(rng, light, density)[None]) for _ in range(400)])
        for count in (5, 20, 100, 400):
            errors = []
            for added in (0, OFFSET):
                some = fields[-count:] + np.float32(added)
                errors += [measure_error(fit(some)[0], planted) for fit in (fit_illumination, fit_plainly)]
            ours, plain, ours_added, plain_added = errors
            print(
                f"| {density:.0%} | {count} | {ours[0]:.1f} % | {plain[0]:.1f} % | {ours[1]:.1f} % | {plain[1]:.1f} % "
                f"| {ours_added[0]:.1f} % | {plain_added[0]:.1f} % |",
                flush=True,
            )
    print("\n| virtual screen, outer to inner | DAPI | Tubulin | Actin |\n|---|---|---|---|")
    for name, ratios in measure_virtual_screen(30).items():
        print(f"| {name} | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |")


def plant_light(shape: tuple[int, int]) -> np.ndarray:
    """Draw a vignette off the middle, a slope and a bump; 1 at its brightest, nearly, and 0.52 in a corner."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None]
    vignette = 1 - 0.15 * ((x - 0.2) ** 2 + (y + 0.15) ** 2) + 0.04 * x - 0.03 * y
    return vignette + 0.02 * np.exp(-((x + 0.5) ** 2 + (y - 0.4) ** 2) / 0.18)


def draw_field(rng: np.random.Generator, light: np.ndarray, density: float) -> np.ndarray:
    """Photograph cells: a share of the field (`density`) is covered, with cells beyond its border too."""
    half = 20
    rows, columns = light.shape
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    cell = np.clip(1.3 - (y**2 + x**2) / half**2, 0, 1) * CELL
    canvas = np.zeros((rows + 4 * half, columns + 4 * half))
    count = rng.poisson(-np.log(1 - density) * canvas.size / np.count_nonzero(cell))
    brightness = list(rng.lognormal(0, 0.6, count)) + [20.0] * (rng.random() < 0.3)
    for bright in brightness:
        top, left = rng.integers(0, rows + 2 * half), rng.integers(0, columns + 2 * half)
        canvas[top : top + 2 * half + 1, left : left + 2 * half + 1] += bright * cell
    seen = canvas[2 * half : -2 * half, 2 * half : -2 * half] * rng.lognormal(0, 0.3)
    seen += BACKGROUND * rng.lognormal(0, 0.2)
    return np.minimum(rng.poisson(seen * light), 65535).astype(np.uint16)


def fit_plainly(fields: np.ndarray) -> np.ndarray:
    """Fit as is widely done: the mean of all fields, a median filter, the same rescaling."""
    width = int(0.39 * max(fields.shape[2:]))
    return np.stack([ndimage.median_filter(mean, width, mode="reflect") for mean in fields.mean(axis=0)])


def measure_error(function: np.ndarray, planted: np.ndarray) -> tuple[float, float]:
    """Largest and root-mean-square deviation of the ratio from its own median, in percent."""
    ratio = function / planted
    deviation = 100 * (ratio / np.median(ratio) - 1)
    return float(np.abs(deviation).max()), float(np.sqrt((deviation**2).mean()))


def measure_virtual_screen(wells: int) -> dict[str, np.ndarray]:
    """Mean intensity of the outer part of the field by that of the inner part, fields of one plate."""
    ratios = {}
    for name, nuisances in (("uneven light", ("illumination",)), ("even light", ())):
        settings = VirtualSettings(nuisances=nuisances, field_size_px=256, cells_per_site=16)
        fields = []
        for well in range(wells):
            conditions = draw_conditions(settings, batch=0, plate=0, well=well, row=0.0, column=0.0)
            fields.append(simulate_field(np.random.default_rng(well), settings, conditions, {})[0])
        function = fit_illumination(np.stack([shrink_field(field) for field in fields]))
        full = expand_illumination(function, fields[0].shape[1:])
        plain = fit_plainly(np.stack([shrink_field(field) for field in fields]))
        plainly = expand_illumination(
            np.ascontiguousarray(plain / plain.min(axis=(1, 2), keepdims=True)), full.shape[1:]
        )
        ratios[name] = compare_places(fields)
        ratios[f"{name}, corrected"] = compare_places([correct_field(field, full) for field in fields])
        ratios[f"{name}, corrected plainly"] = compare_places([correct_field(field, plainly) for field in fields])
    return ratios


def compare_places(fields: list[np.ndarray]) -> np.ndarray:
    """Divide the mean beyond three quarters of the half diagonal by the mean within a half of it."""
    mean = np.mean(fields, axis=0, dtype=float)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in mean.shape[1:]), indexing="ij")
    radius = np.hypot(y, x) / np.sqrt(2)
    return mean[:, radius > 0.75].mean(axis=1) / mean[:, radius < 0.5].mean(axis=1)


def _shrink(light: np.ndarray) -> np.ndarray:
    return shrink_field(np.rint(light[None] * 50000).astype(np.uint16))[0] / 50000


if __name__ == "__main__":
    main()
