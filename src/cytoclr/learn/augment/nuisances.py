"""What is random in views, as numbers: drawn here once, whichever back end then makes the views."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int64, Shaped

from cytoclr.config import AugmentSettings
from cytoclr.learn.draws import draw_uniforms

__all__ = ["Nuisances", "draw_nuisances", "weigh_bend_points"]

Uniforms = Float[np.ndarray, " cell"]

#: Control points of an elastic bend, along each side.
BEND_POINTS = 4
#: Numbers drawn for a whole view, for each of its channels, and for its bend.
PER_VIEW = 16
PER_CHANNEL = 5
PER_BEND = 2 * BEND_POINTS**2
#: A neighbour of less weight in a blur has none: numbers near the least that a float holds are slow to reckon with.
LEAST_WEIGHT = 1e-6
#: Kernels have at least so many taps beside the middle, if of nought: loops over them are then of one length.
LEAST_RADIUS = 3


@dataclass(frozen=True)
class Nuisances:
    """The numbers that make the views of some cells; what is off has a length of nought.

    `matrices` map a view's pixels (x, y, 1) to a crop's (x, y), to which `bends` add; `blurs` are the right halves of
    kernels, from the middle. Then, in this order, intensities are raised to `gammas`, multiplied by `gains` and by the
    lights of their row and column, emptied in `holes` (top, bottom, left, right), shifted by `offsets`, and noise is
    added with a variance of `noise_variances` + `photon_variances` x intensity, from `noise_starts` on the tape.
    """

    matrices: Float32[np.ndarray, "cell 2 3"]
    bends: Float32[np.ndarray, "cell 2 row_point column_point"]
    blurs: Float32[np.ndarray, "cell tap"]
    gammas: Float32[np.ndarray, "cell gamma_channel"]
    gains: Float32[np.ndarray, "cell channel"]
    offsets: Float32[np.ndarray, "cell channel"]
    row_lights: Float32[np.ndarray, "cell lit_row"]
    column_lights: Float32[np.ndarray, "cell lit_column"]
    holes: Int64[np.ndarray, "cell some"]
    noise_variances: Float32[np.ndarray, "cell noisy"]
    photon_variances: Float32[np.ndarray, "cell noisy"]
    noise_starts: Int64[np.ndarray, "cell channel"]


def draw_nuisances(
    cells: Int[np.ndarray, " cell"],
    settings: AugmentSettings,
    *,
    num_channels: int,
    crop_shape: tuple[int, int],
    view_size_px: int,
    tape_length: int,
    seed: int,
    epoch: int,
    view: int,
) -> Nuisances:
    """Draw all that is random in one view of each cell, decided by (seed, epoch, cell, view) and nothing else.

    Every nuisance has numbers of its own, drawn whether it is on or off, and each channel too: switching one on leaves
    the others as they were.

    Parameters
    ----------
    cells
        Rows of the cells table.
    settings
        Which nuisances, and how strong.
    num_channels, crop_shape, view_size_px
        What the views are made from and of; pixels.
    tape_length
        How many normal numbers there are to take noise from; at least the pixels of a channel.
    seed, epoch, view
        What else decides the numbers.
    """
    num = PER_VIEW + PER_CHANNEL * num_channels
    # float64 from here on: what two back ends compare is then the same to the last bit of float32
    drawn = draw_uniforms(cells, num + PER_BEND * (settings.elastic > 0.0), seed=seed, epoch=epoch, view=view)
    drawn = drawn.astype(np.float64)
    area, shift_x, shift_y, angle, mirror_x, mirror_y, *others = drawn[:, :PER_VIEW].T
    blurred, blur, jittered, light, light_angle, hole_size, hole_x, hole_y, noise, photons = others
    of_channel = drawn[:, PER_VIEW:num].reshape(len(cells), num_channels, PER_CHANNEL)
    gain, offset, gamma, kept, place = of_channel.transpose(2, 0, 1)

    strength = settings.strength
    jitter = (strength * (jittered < settings.jitter_probability))[:, None]
    blur_px = blur * (blurred < settings.blur_probability) * settings.blur_px * strength
    gammas = np.exp(_centre(gamma) * settings.gamma * jitter)
    gains = np.exp(_centre(gain) * settings.gain * jitter) * _keep(kept, settings.drop)
    row_lights, column_lights = _light(light * settings.gradient * strength, light_angle, view_size_px)
    has_noise = (settings.noise + settings.photon_noise) * strength > 0.0
    return Nuisances(
        matrices=_narrow(_place(settings, area, shift_x, shift_y, angle, mirror_x, mirror_y, crop_shape, view_size_px)),
        bends=_narrow(_bend(drawn[:, num:], settings.elastic, crop_shape)),
        blurs=_narrow(_weigh_taps(blur_px, settings.blur_px * strength, view_size_px)),
        gammas=_narrow(_only_if(settings.gamma * strength > 0.0, gammas)),
        gains=_narrow(gains),
        offsets=_narrow(_centre(offset) * settings.offset * jitter),
        row_lights=_narrow(_only_if(settings.gradient * strength > 0.0, row_lights)),
        column_lights=_narrow(_only_if(settings.gradient * strength > 0.0, column_lights)),
        holes=_only_if(settings.cut_out > 0.0, _cut_hole(hole_size * settings.cut_out, hole_x, hole_y, view_size_px)),
        noise_variances=_narrow(_only_if(has_noise, (noise * settings.noise * strength)[:, None] ** 2)),
        photon_variances=_narrow(_only_if(has_noise, (photons * settings.photon_noise * strength)[:, None] ** 2)),
        noise_starts=(place * (tape_length - view_size_px**2 + 1)).astype(np.int64),
    )


def weigh_bend_points(num_pixels: int) -> Float32[np.ndarray, "pixel point"]:
    """Weigh the control points of a bend for each pixel of a row: Bernstein's polynomials, smooth and no less than 0.

    Their sum is 1, so that no pixel moves further than a control point does (Sederberg and Parry 1986,
    doi:10.1145/15922.15903).
    """
    along = ((np.arange(num_pixels) + 0.5) / num_pixels)[:, None]
    number = np.arange(BEND_POINTS)
    ways = np.array([math.comb(BEND_POINTS - 1, point) for point in number])
    return _narrow(ways * along**number * (1.0 - along) ** (BEND_POINTS - 1 - number))


def _centre(uniforms: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """From 0..1 to -1..1."""
    return 2.0 * uniforms - 1.0


def _narrow(values: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _only_if(on: bool, values: Shaped[np.ndarray, "cell number"]) -> Shaped[np.ndarray, "cell some"]:
    return values if on else values[:, :0]


def _place(
    settings: AugmentSettings,
    area: Uniforms,
    shift_x: Uniforms,
    shift_y: Uniforms,
    angle: Uniforms,
    mirror_x: Uniforms,
    mirror_y: Uniforms,
    crop_shape: tuple[int, int],
    view_size_px: int,
) -> Float[np.ndarray, "cell 2 3"]:
    """Cut, turn and mirror in one matrix, of coordinates -1..1 first and then of pixels."""
    side = np.sqrt(settings.min_scale + (1.0 - settings.min_scale) * area)
    turn = 2.0 * math.pi * angle * settings.rotate
    sign_x = np.where((mirror_x < 0.5) & settings.flip, -1.0, 1.0)
    sign_y = np.where((mirror_y < 0.5) & settings.flip, -1.0, 1.0)
    cos, sin = side * np.cos(turn), side * np.sin(turn)
    height, width = crop_shape
    first = _to_pixels(cos * sign_x, -sin * sign_y, _centre(shift_x) * (1.0 - side), width, view_size_px)
    second = _to_pixels(sin * sign_x, cos * sign_y, _centre(shift_y) * (1.0 - side), height, view_size_px)
    return np.stack([first, second], axis=1)


def _to_pixels(
    by_x: Uniforms, by_y: Uniforms, shift: Uniforms, crop_px: int, view_px: int
) -> Float[np.ndarray, "cell 3"]:
    """A row of the matrix, from coordinates in which an image's borders are at -1 and 1 to pixels."""
    start = 0.5 * crop_px * ((by_x + by_y) * (1.0 / view_px - 1.0) + shift + 1.0) - 0.5
    return np.stack([by_x * crop_px / view_px, by_y * crop_px / view_px, start], axis=1)


def _bend(
    uniforms: Float[np.ndarray, "cell number"], largest: float, crop_shape: tuple[int, int]
) -> Float[np.ndarray, "cell 2 row_point column_point"]:
    """Displace control points, x and y, in the crop's pixels."""
    if uniforms.shape[1] == 0:
        return np.zeros((len(uniforms), 2, 0, 0))
    height, width = crop_shape
    points = _centre(uniforms).reshape(-1, 2, BEND_POINTS, BEND_POINTS)
    moved: np.ndarray = points * largest * np.array([width, height])[:, None, None]
    return moved


def _weigh_taps(sd_px: Uniforms, largest: float, view_size_px: int) -> Float[np.ndarray, "cell tap"]:
    """Weigh the middle and the right of Gaussian kernels as wide as the widest needs: to 3 s.d."""
    if largest == 0.0:
        return np.zeros((len(sd_px), 0))
    radius = min(math.ceil(3.0 * largest), view_size_px - 1)
    distance = np.arange(max(radius, LEAST_RADIUS) + 1)
    weights = np.exp(-0.5 * (distance / np.maximum(sd_px, 0.05)[:, None]) ** 2)
    weights[(weights < LEAST_WEIGHT) | (distance > radius)] = 0.0
    normed: np.ndarray = weights / (2.0 * weights.sum(axis=1, keepdims=True) - 1.0)
    return normed


def _keep(uniforms: Float[np.ndarray, "cell channel"], drop: float) -> Float[np.ndarray, "cell channel"]:
    """Tell the channels that stay (1) from those that are dropped (0); one at least stays."""
    last = uniforms == uniforms.max(axis=1, keepdims=True)
    kept: np.ndarray = ((uniforms >= drop) | last).astype(np.float64)
    return kept


def _light(
    slope: Uniforms, angle: Uniforms, view_size_px: int
) -> tuple[Float[np.ndarray, "cell row"], Float[np.ndarray, "cell column"]]:
    """Let light fall off along one direction: exp of a slope, so a product of a row's light and a column's."""
    along = (2.0 * np.arange(view_size_px) + 1.0) / view_size_px - 1.0
    turn = 2.0 * math.pi * angle
    rows, columns = (slope * np.sin(turn))[:, None] * along, (slope * np.cos(turn))[:, None] * along
    return np.exp(rows), np.exp(columns)


def _cut_hole(size: Uniforms, x: Uniforms, y: Uniforms, view_size_px: int) -> Int64[np.ndarray, "cell border"]:
    """Place a square anywhere inside a view: top, bottom, left, right, the second and fourth not in it."""
    side = np.rint(size * view_size_px).astype(np.int64)
    top, left = ((uniforms * (view_size_px - side + 1)).astype(np.int64) for uniforms in (y, x))
    return np.stack([top, top + side, left, left + side], axis=1)
