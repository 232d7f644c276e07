"""Painting of one virtual field: outlines, nuclei, microtubules and actin, as light before the camera."""

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from cytoclr.data.virtual.population import Population

__all__ = ["CHANNELS", "paint_field"]

CHANNELS = ("DAPI", "Tubulin", "Actin")
_BINS = 180
_NOISE_SIZE = 512
_OUTLINE_HALF_PX = 60
_NUCLEUS_HALF_PX = 22
_STEPS = 48
_METAPHASE, _ANAPHASE, _MONOPOLAR, _APOPTOTIC = 1, 2, 3, 4

Image = Float[np.ndarray, "height width"]


def paint_field(
    rng: np.random.Generator, cells: Population, field_size_px: int
) -> Float[np.ndarray, "channel height width"]:
    """Paint the three channels of a field; an average cytoplasm or nucleus has the brightness 1, no cell 0."""
    labels, depth = _outline_cells(rng, cells, field_size_px)
    dna = _paint_nuclei(rng, cells, field_size_px)
    tubulin = _paint_tubulin(rng, cells, labels, depth)
    tubulin *= 1 - 0.25 * np.minimum(dna, 1.0)
    actin = _paint_actin(rng, cells, labels, depth)
    areas = np.bincount(labels.ravel(), minlength=len(cells) + 1)[1:]
    # a cell has so much protein: spread wide it is thin
    thick = np.clip(1500.0 / np.maximum(areas, 300), 0.5, 2.0)
    tubulin = _even_out(tubulin, labels, cells.brightness[1] * thick)
    actin = _even_out(actin, labels, cells.brightness[2] * thick)
    actin += _paint_filopodia(rng, cells, field_size_px)
    return np.stack([dna, tubulin, actin])


def _even_out(image: Image, labels: Int[np.ndarray, "height width"], wanted: Float[np.ndarray, " cell"]) -> Image:
    """Give each cell the mean brightness wanted, so that mechanisms are not told by it."""
    count = np.bincount(labels.ravel(), minlength=len(wanted) + 1)
    total = np.bincount(labels.ravel(), weights=image.ravel(), minlength=len(wanted) + 1)
    factor = np.zeros(len(wanted) + 1, dtype=np.float32)
    factor[1:] = wanted * count[1:] / np.maximum(total[1:], 1e-6)
    evened: Image = image * factor[labels]
    return evened


@functools.cache
def _noise_tiles() -> Float[np.ndarray, "tile height width"]:
    """Periodic noise of three grains (0.8, 1.8 and 5 px), mean 0, s.d. 1: the same in every screen."""
    rng = np.random.default_rng(2012)
    tiles = []
    for grain_px in (0.8, 1.8, 5.0):
        tile = ndimage.gaussian_filter(rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE)), grain_px, mode="wrap")
        tiles.append((tile - tile.mean()) / tile.std())
    return np.array(tiles, dtype=np.float32)


def _draw_noise(rng: np.random.Generator, grain: int, size: int) -> Image:
    top, left = rng.integers(0, _NOISE_SIZE, 2)
    tile = _noise_tiles()[grain]
    rows, columns = (top + np.arange(size)) % _NOISE_SIZE, (left + np.arange(size)) % _NOISE_SIZE
    noise: Image = tile[rows][:, columns]
    return noise


def _windows(
    x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"], half: int, size: int
) -> Iterator[tuple[int, slice, slice, slice, slice]]:
    """Yield for each centre: its number, the part of the field its window covers, and the part of the window."""
    for index, (column, row) in enumerate(zip(np.floor(x).astype(int), np.floor(y).astype(int), strict=True)):
        top, bottom = max(row - half, 0), min(row + half, size)
        left, right = max(column - half, 0), min(column + half, size)
        if top < bottom and left < right:
            shift_row, shift_column = half - row, half - column
            yield (
                index,
                slice(top, bottom),
                slice(left, right),
                slice(top + shift_row, bottom + shift_row),
                slice(left + shift_column, right + shift_column),
            )


def _polar_windows(
    x: Float[np.ndarray, " cell"],
    y: Float[np.ndarray, " cell"],
    angle: Float[np.ndarray, " cell"],
    elongation: Float[np.ndarray, " cell"],
    half: int,
) -> tuple[Float[np.ndarray, "cell height width"], Float[np.ndarray, "cell height width"]]:
    """Distance from the centre and direction of each pixel of each window, in a frame where the ellipse is a circle."""
    ticks = np.arange(-half, half, dtype=np.float32)
    across = ticks[None, :] - (x - np.floor(x)).astype(np.float32)[:, None]
    down = ticks[None, :] - (y - np.floor(y)).astype(np.float32)[:, None]
    stretch = np.sqrt(elongation)[:, None]
    cos, sin = np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None]
    along = (cos * across / stretch)[:, None, :] + (sin * down / stretch)[:, :, None]
    aside = (-sin * across * stretch)[:, None, :] + (cos * down * stretch)[:, :, None]
    return np.sqrt(along * along + aside * aside), np.arctan2(aside, along)


def _outline_cells(
    rng: np.random.Generator, cells: Population, size: int
) -> tuple[Int[np.ndarray, "height width"], Image]:
    """Return which cell each pixel belongs to (0: none) and how deep inside it lies (0 at the edge, 1 at the centre).

    A cell alone has corners with hollow edges between them; cells that touch share a straight contact.
    """
    labels = np.zeros((size, size), dtype=np.int32)
    nearest = np.ones((size, size), dtype=np.float32)
    distance, direction = _polar_windows(
        cells.x, cells.y, cells.angle, cells.traits["cell_elongation"], _OUTLINE_HALF_PX
    )
    bins = ((direction + np.pi) * (_BINS / (2 * np.pi))).astype(np.int32) % _BINS
    radii = _draw_outlines(rng, cells)
    relative = distance / np.take(radii, bins + (np.arange(len(cells), dtype=np.int32) * _BINS)[:, None, None])
    for index, rows, columns, from_rows, from_columns in _windows(cells.x, cells.y, _OUTLINE_HALF_PX, size):
        here = relative[index, from_rows, from_columns]
        closer = here < nearest[rows, columns]
        nearest[rows, columns][closer] = here[closer]
        labels[rows, columns][closer] = index + 1
    return labels, 1 - nearest


def _draw_outlines(rng: np.random.Generator, cells: Population) -> Float[np.ndarray, "cell bin"]:
    """Radius of each cell in each direction: corners that stick out, and a fine unevenness."""
    num_cells = len(cells)
    directions = np.linspace(-np.pi, np.pi, _BINS, endpoint=False, dtype=np.float32)
    corners = 6
    turn = (np.arange(corners) + rng.uniform(-0.38, 0.38, (num_cells, corners))) * (2 * np.pi / corners)
    height = rng.gamma(2.0, 0.5, (num_cells, corners))
    away = np.abs((directions - turn[:, :, None] + np.pi) % (2 * np.pi) - np.pi)
    bump = (height[:, :, None] * np.exp(-away / 0.30)).max(axis=1)
    waves = np.arange(3, 12)
    phase = rng.uniform(0, 2 * np.pi, (num_cells, len(waves)))
    uneven = np.cos(directions[:, None] * waves + phase[:, None, :]).sum(axis=2) * 0.018
    shape = 0.88 + cells.traits["spikiness"][:, None] * bump + uneven
    radii: np.ndarray = cells.traits["cell_radius_px"][:, None] * shape
    return radii.astype(np.float32)


def _draw_nuclear_parts(rng: np.random.Generator, cells: Population) -> Float[np.ndarray, "cell part"]:
    """Return for each piece of DNA: cell, x, y, radius, elongation, angle, brightness, is it a resting nucleus."""
    parts: list[tuple[float, ...]] = []
    for cell in range(len(cells)):
        x, y, angle = cells.x[cell], cells.y[cell], cells.angle[cell] + rng.normal(0.0, 0.3)
        radius = cells.traits["nucleus_radius_px"][cell]
        # a nucleus has so much DNA: swollen it is dim
        bright = cells.brightness[0, cell] * np.clip((9.5 / radius) ** 1.5, 0.5, 1.6)
        elongation, state = cells.traits["nucleus_elongation"][cell], cells.state[cell]
        cos, sin = np.cos(angle), np.sin(angle)
        if state == _METAPHASE:
            parts.append((cell, x, y, 0.55 * radius, rng.uniform(2.6, 3.6), angle, 1.6 * bright, 0))
        elif state == _ANAPHASE:
            apart = rng.uniform(0.45, 0.85) * radius
            for side in (-apart, apart):
                parts.append((cell, x - sin * side, y + cos * side, 0.42 * radius, 2.6, angle, 1.6 * bright, 0))
        elif state == _MONOPOLAR:
            for turn in np.linspace(0, 2 * np.pi, 9, endpoint=False) + rng.uniform(-0.25, 0.25, 9):
                reach = radius * rng.uniform(0.45, 0.62)
                place = (x + np.cos(turn) * reach, y + np.sin(turn) * reach)
                parts.append((cell, *place, 0.3 * radius, rng.uniform(1.2, 2.0), turn, 1.4 * bright, 0))
        elif state == _APOPTOTIC:
            for _ in range(rng.integers(2, 6)):
                place = (x + rng.normal(0, 0.35) * radius, y + rng.normal(0, 0.35) * radius)
                parts.append((cell, *place, rng.uniform(0.18, 0.38) * radius, 1.1, angle, 1.9 * bright, 0))
        elif (kind := rng.random()) < cells.traits["fragmented"][cell]:
            for _ in range(rng.integers(3, 7)):
                reach, turn = radius * rng.uniform(0.2, 0.95), rng.uniform(0, 2 * np.pi)
                place = (x + np.cos(turn) * reach, y + np.sin(turn) * reach)
                parts.append((cell, *place, rng.uniform(0.3, 0.6) * radius, rng.uniform(1, 1.4), turn, bright, 1))
        elif kind < cells.traits["fragmented"][cell] + cells.traits["multinucleate"][cell]:
            count = rng.integers(2, 4)
            for turn in angle + np.arange(count) * (2 * np.pi / count) + rng.normal(0, 0.2, count):
                place = (x + np.cos(turn) * 0.72 * radius, y + np.sin(turn) * 0.72 * radius)
                parts.append((cell, *place, rng.uniform(0.58, 0.74) * radius, elongation, turn + 1.6, bright, 1))
        else:
            parts.append((cell, x, y, radius, elongation, angle, bright, 1))
    return np.array(parts, dtype=np.float64).reshape(len(parts), 8)


def _paint_nuclei(rng: np.random.Generator, cells: Population, size: int) -> Image:
    owner, x, y, radius, elongation, angle, bright, resting = _draw_nuclear_parts(rng, cells).T
    owner, radius, resting = owner.astype(int), radius.astype(np.float32), resting.astype(np.float32)
    distance, direction = _polar_windows(x, y, angle, elongation.astype(np.float32), _NUCLEUS_HALF_PX)
    lobes = (cells.traits["nucleus_lobes"][owner] * resting)[:, None, None]
    phases = rng.uniform(0, 2 * np.pi, (2, len(owner), 1, 1)).astype(np.float32)
    edge = 1 + lobes * (np.cos(2 * direction + phases[0]) + np.cos(3 * direction + phases[1]))
    inside = np.clip((edge - distance / radius[:, None, None]) * radius[:, None, None] / 1.6 + 0.5, 0, 1)
    # widefield: a nucleus is a lens, a little dimmer at its edge
    value = inside * (1.08 - 0.2 * np.minimum(distance / radius[:, None, None], 1) ** 2)
    value *= _draw_nucleoli(rng, cells, owner, radius * resting, distance, direction)
    texture = _draw_noise(rng, 0, size), _draw_noise(rng, 1, size)
    contrast = cells.traits["chromatin_contrast"][owner] * (0.4 + 0.6 * resting)
    coarse = np.minimum(cells.traits["chromatin_coarseness"][owner], 1.0)
    image = np.zeros((size, size), dtype=np.float32)
    for part, rows, columns, from_rows, from_columns in _windows(x, y, _NUCLEUS_HALF_PX, size):
        grain = (1 - coarse[part]) * texture[0][rows, columns] + coarse[part] * texture[1][rows, columns]
        light = value[part, from_rows, from_columns] * (bright[part] * np.maximum(1 + contrast[part] * grain, 0.2))
        np.maximum(image[rows, columns], light, out=image[rows, columns])
    return image


def _draw_nucleoli(
    rng: np.random.Generator,
    cells: Population,
    owner: Int[np.ndarray, " part"],
    radius: Float[np.ndarray, " part"],
    distance: Float[np.ndarray, "part height width"],
    direction: Float[np.ndarray, "part height width"],
) -> Float[np.ndarray, "part height width"]:
    """What the nucleoli leave of the DNA stain: 1 outside them, about half in their middle."""
    most = 5
    count = np.minimum(rng.poisson(cells.traits["nucleoli"][owner]), most)
    reach = radius[:, None] * 0.62 * np.sqrt(rng.random((len(owner), most), dtype=np.float32))
    turn = rng.uniform(-np.pi, np.pi, (len(owner), most)).astype(np.float32)
    left, up = distance * np.cos(direction), distance * np.sin(direction)
    remains = np.ones_like(distance)
    size = cells.traits["nucleolus_radius_px"][owner]
    for number in range(most):
        some = np.flatnonzero((number < count) & (radius > 4))
        across = left[some] - (reach * np.cos(turn))[some, number, None, None]
        down = up[some] - (reach * np.sin(turn))[some, number, None, None]
        remains[some] *= 1 - 0.6 * np.exp(-(across**2 + down**2) / (2 * (0.8 * size[some, None, None]) ** 2))
    return remains


def _walk(
    rng: np.random.Generator,
    x: Float[np.ndarray, " fibre"],
    y: Float[np.ndarray, " fibre"],
    heading: Float[np.ndarray, " fibre"],
    bend: Float[np.ndarray, " fibre"],
    leader: Int[np.ndarray, " fibre"] | None = None,
) -> tuple[Float[np.ndarray, "fibre step"], Float[np.ndarray, "fibre step"]]:
    """Points, a pixel apart, of fibres that begin at x, y and bend at random; followers repeat their leader's bends."""
    turns = rng.standard_normal((len(x), _STEPS), dtype=np.float32) * (0.45 * bend[:, None])
    turns += (rng.standard_normal(len(x)) * 0.6 * bend).astype(np.float32)[:, None]
    if leader is not None:
        turns = turns[leader]
    turns[:, 0] += heading
    directions = np.cumsum(turns, axis=1)
    points_x = x[:, None].astype(np.float32) + np.cumsum(np.cos(directions), axis=1)
    points_y = y[:, None].astype(np.float32) + np.cumsum(np.sin(directions), axis=1)
    return points_x, points_y


def _splat(
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    weight: Float[np.ndarray, " point"],
    size: int,
) -> Image:
    """Add points to an empty image, each shared among the four pixels around it."""
    seen = (x >= 0) & (y >= 0) & (x < size - 1) & (y < size - 1) & (weight > 0)
    x, y, weight = x[seen], y[seen], weight[seen]
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, below = x - column, y - row
    first = row * size + column
    places = np.concatenate([first, first + 1, first + size, first + size + 1])
    shares = np.concatenate(
        [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below]
    ) * np.tile(weight, 4)
    image = np.bincount(places, weights=shares, minlength=size * size)
    return image.reshape(size, size).astype(np.float32)


def _weigh_inside(
    x: Float[np.ndarray, "fibre step"],
    y: Float[np.ndarray, "fibre step"],
    owner: Int[np.ndarray, " fibre"],
    length_px: Float[np.ndarray, " fibre"],
    labels: Int[np.ndarray, "height width"],
) -> Float[np.ndarray, "fibre step"]:
    """1 where a fibre's point lies in its own cell and before the fibre's end, else 0."""
    size = len(labels)
    column, row = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
    seen = (column >= 0) & (row >= 0) & (column < size) & (row < size)
    place = np.where(seen, row * size + column, 0)
    own = seen & (labels.ravel()[place] == (owner + 1)[:, None])
    weight: np.ndarray = (own & (np.arange(_STEPS) < length_px[:, None])).astype(np.float32)
    return weight


def _paint_tubulin(
    rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"], depth: Image
) -> Image:
    """Microtubules that leave the nucleus's surroundings or circle it, spindles of dividing cells, and what is free."""
    size = len(labels)
    count = np.maximum(rng.poisson(cells.traits["filaments"]), 3)
    owner = np.repeat(np.arange(len(cells)), count)
    total = len(owner)
    state, radius = cells.state[owner], cells.traits["nucleus_radius_px"][owner]
    bend = cells.traits["filament_bend"][owner]
    turn = rng.uniform(0, 2 * np.pi, total)
    reach = radius * rng.uniform(0.4, 1.5, total)
    circling = rng.random(total) < cells.traits["perinuclear"][owner]
    side = np.where(rng.random(total) < 0.5, 1.0, -1.0)
    heading = turn + side * np.where(circling, 1.6, rng.normal(0.0, 0.9, total))
    bend = np.where(circling, np.maximum(bend, 0.08), bend)
    length = cells.traits["filament_length_px"][owner] * rng.uniform(0.5, 1.5, total)
    x, y = cells.x[owner] + np.cos(turn) * reach, cells.y[owner] + np.sin(turn) * reach

    # spindles: from two poles (metaphase, anaphase) towards the plate, or from one pole outwards
    across = cells.angle[owner] + np.pi / 2
    bipolar = (state == _METAPHASE) | (state == _ANAPHASE)
    pole = np.where(bipolar, side * radius * 0.95, 0.0)
    dividing = bipolar | (state == _MONOPOLAR)
    x = np.where(dividing, cells.x[owner] + np.cos(across) * pole, x)
    y = np.where(dividing, cells.y[owner] + np.sin(across) * pole, y)
    inwards = across + np.where(side > 0, np.pi, 0.0) + rng.normal(0, 0.45, total)
    heading = np.where(bipolar, inwards, np.where(dividing, turn, heading))
    length = np.where(dividing, radius * rng.uniform(0.6, 1.0, total), length)

    bundled = rng.random(total) < cells.traits["bundled"][owner]
    bundled[np.concatenate([[0], np.cumsum(count)[:-1]])] = False
    bundled &= ~dividing
    leader = np.maximum.accumulate(np.where(bundled, 0, np.arange(total)))
    x = x[leader] + bundled * rng.normal(0, 1.0, total)
    y = y[leader] + bundled * rng.normal(0, 1.0, total)
    length = np.where(bundled, 1.15 * length[leader], length)
    points_x, points_y = _walk(rng, x, y, heading[leader], bend, leader)
    weight = _weigh_inside(points_x, points_y, owner, length, labels)
    weight *= np.exp(rng.normal(0, 0.35, total)).astype(np.float32)[:, None]
    weight *= np.linspace(1.2, 0.5, _STEPS, dtype=np.float32)
    network = _splat(points_x.ravel(), points_y.ravel(), weight.ravel(), size)
    network += _paint_aggregates(rng, cells, labels)

    free = np.sqrt(depth) * np.maximum(1 + 0.25 * _draw_noise(rng, 0, size), 0.0)
    amount = np.concatenate([[0.0], np.minimum(cells.traits["tubulin_diffuse"], 0.95)]).astype(np.float32)
    even = np.ones(len(cells), dtype=np.float32)
    share = amount[labels]
    mixed: Image = share * _even_out(free, labels, even) + (1 - share) * _even_out(network, labels, even)
    return mixed


def _paint_aggregates(rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"]) -> Image:
    """Aggresomes: a dense spot of tubulin beside the nucleus of some resting cells."""
    having = np.flatnonzero((rng.random(len(cells)) < cells.traits["aggregate"]) & (cells.state == 0))
    owner = np.repeat(having, 60)
    turn = rng.uniform(0, 2 * np.pi, len(cells))[owner]
    reach = cells.traits["nucleus_radius_px"][owner] * 1.15
    x = cells.x[owner] + np.cos(turn) * reach + rng.normal(0, 2.2, len(owner))
    y = cells.y[owner] + np.sin(turn) * reach + rng.normal(0, 2.2, len(owner))
    return _splat(x, y, np.full(len(owner), 4.0), len(labels)) * (labels > 0)


def _paint_actin(
    rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"], depth: Image
) -> Image:
    """A mesh under the membrane, the rim at free edges, junctions between cells, stress fibres and dots."""
    size = len(labels)
    grain = 0.6 * _draw_noise(rng, 1, size) + 0.4 * _draw_noise(rng, 0, size)
    contrast = _of_pixels(cells.traits["mesh_contrast"], labels)
    image = (0.35 + 0.45 * np.sqrt(depth)) * np.maximum(1 + contrast * grain, 0.1) * (labels > 0)
    image += _paint_edges(rng, cells, labels)
    image += _paint_stress_fibres(rng, cells, labels)
    image += _paint_puncta(rng, cells, labels)
    painted: Image = image.astype(np.float32)
    return painted


def _of_pixels(values: Float[np.ndarray, " cell"], labels: Int[np.ndarray, "height width"]) -> Image:
    """Each pixel's cell's value; 0 where there is no cell."""
    spread: Image = np.concatenate([[0.0], values]).astype(np.float32)[labels]
    return spread


def _paint_edges(rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"]) -> Image:
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    free = np.zeros(labels.shape, dtype=bool)
    touching = np.zeros(labels.shape, dtype=bool)
    for beside in around:
        differs = (beside != labels) & (labels > 0)
        free |= differs & (beside == 0)
        touching |= differs & (beside > 0)
    line = 1.9 * free * _of_pixels(cells.traits["rim"], labels)
    line += 1.5 * touching * _of_pixels(cells.traits["junction"], labels)
    line *= np.maximum(1 + 0.5 * _draw_noise(rng, 2, len(labels)), 0.15)
    edges: Image = ndimage.gaussian_filter(line, 0.9, truncate=3.0) * (labels > 0)
    return edges


def _paint_stress_fibres(rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"]) -> Image:
    count = rng.poisson(cells.traits["stress_fibres"] * (cells.state == 0))
    owner = np.repeat(np.arange(len(cells)), count)
    radius, angle = cells.traits["cell_radius_px"][owner], cells.angle[owner]
    aside = radius * rng.uniform(-0.8, 0.8, len(owner))
    start = -radius * rng.uniform(0.5, 1.1, len(owner))
    x = cells.x[owner] + np.cos(angle) * start - np.sin(angle) * aside
    y = cells.y[owner] + np.sin(angle) * start + np.cos(angle) * aside
    heading = angle + rng.normal(0, 0.2, len(owner))
    points_x, points_y = _walk(rng, x, y, heading, np.full(len(owner), 0.015))
    weight = _weigh_inside(points_x, points_y, owner, radius * rng.uniform(0.9, 1.9, len(owner)), labels)
    weight *= rng.uniform(0.15, 0.7, len(owner)).astype(np.float32)[:, None]
    return _splat(points_x.ravel(), points_y.ravel(), weight.ravel(), len(labels))


def _paint_puncta(rng: np.random.Generator, cells: Population, labels: Int[np.ndarray, "height width"]) -> Image:
    count = rng.poisson(cells.traits["puncta"])
    owner = np.repeat(np.arange(len(cells)), count)
    reach = cells.traits["cell_radius_px"][owner] * np.sqrt(rng.uniform(0, 0.9, len(owner)))
    turn = rng.uniform(0, 2 * np.pi, len(owner))
    x, y = cells.x[owner] + np.cos(turn) * reach, cells.y[owner] + np.sin(turn) * reach
    dots = _splat(x, y, rng.gamma(3.0, 3.0, len(owner)), len(labels))
    puncta: Image = ndimage.gaussian_filter(dots, 0.8, truncate=3.0) * (labels > 0)
    return puncta


def _paint_filopodia(rng: np.random.Generator, cells: Population, size: int) -> Image:
    """Thin protrusions that leave the cell's edge."""
    count = rng.poisson(cells.traits["filopodia"])
    owner = np.repeat(np.arange(len(cells)), count)
    turn = rng.uniform(0, 2 * np.pi, len(owner))
    reach = cells.traits["cell_radius_px"][owner] * 0.85
    x, y = cells.x[owner] + np.cos(turn) * reach, cells.y[owner] + np.sin(turn) * reach
    points_x, points_y = _walk(rng, x, y, turn + rng.normal(0, 0.25, len(owner)), np.full(len(owner), 0.05))
    length = rng.uniform(3, 10, len(owner))[:, None]
    weight = (np.arange(_STEPS) < length) * rng.uniform(0.2, 0.6, len(owner))[:, None]
    return _splat(points_x.ravel(), points_y.ravel(), weight.ravel(), size)
