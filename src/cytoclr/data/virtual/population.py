"""Cells of one virtual field before they are painted: where they lie, what state they are in, their traits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cytoclr.data.virtual.phenotypes import TRAITS

__all__ = ["MARGIN_PX", "STATES", "Population", "draw_population"]

#: Cells are placed this far beyond the field too, so that its border cuts cells as a camera does.
MARGIN_PX = 24.0
STATES = ("interphase", "metaphase", "anaphase", "monopolar", "apoptotic")
#: Radius of a rounded cell relative to a spread one, and how much brighter its cytoplasm is, by state.
_ROUNDED = np.array([1.0, 0.58, 0.66, 0.58, 0.42], dtype=np.float32)
_BRIGHTER = np.array([1.0, 1.2, 1.2, 1.2, 1.2], dtype=np.float32)
#: Cells closer than this part of the usual distance are not placed.
_CLOSEST = 0.66
_TRIES = 12


@dataclass(frozen=True)
class Population:
    """The cells of a field; `traits` holds an array per trait, `state` numbers of `STATES`."""

    x: Float[np.ndarray, " cell"]
    y: Float[np.ndarray, " cell"]
    angle: Float[np.ndarray, " cell"]
    state: Int[np.ndarray, " cell"]
    brightness: Float[np.ndarray, "channel cell"]
    traits: Mapping[str, Float[np.ndarray, " cell"]]

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.x)


def draw_population(
    rng: np.random.Generator, traits: Mapping[str, float], *, field_size_px: int, mean_cells: float
) -> Population:
    """Draw the cells of one field.

    Parameters
    ----------
    rng
        Decides everything.
    traits
        Values of the well, as `shift_traits` returns them.
    field_size_px, mean_cells
        Height and width of the field, and the mean number of cells whose centre lies in it.
    """
    area = ((field_size_px + 2 * MARGIN_PX) / field_size_px) ** 2
    wanted = int(rng.poisson(mean_cells * area))
    x, y = _place_cells(rng, wanted, field_size_px, traits["clustering"], 1.62 * traits["cell_radius_px"])
    num_cells = len(x)
    per_cell = {}
    for name, trait in TRAITS.items():
        spread = rng.standard_normal(num_cells) * trait.cell_spread
        per_cell[name] = (traits[name] * np.exp(spread)).astype(np.float32)
    state = _draw_states(rng, traits, num_cells)
    rounded = state > 0
    per_cell["cell_radius_px"] *= _ROUNDED[state]
    per_cell["cell_elongation"][rounded] = np.sqrt(per_cell["cell_elongation"][rounded])
    per_cell["spikiness"][rounded] *= 0.25
    # cells that have copied their DNA: a little larger and brighter
    copied = rng.random(num_cells) < 0.3
    per_cell["nucleus_radius_px"] *= np.where(copied, 1.1, 0.97).astype(np.float32)
    brightness = np.exp(rng.standard_normal((3, num_cells)) * np.array([[0.14], [0.28], [0.24]]))
    brightness[0] *= np.where(copied, 1.12, 0.97)
    brightness[1:] *= _BRIGHTER[state]
    angle = rng.uniform(0.0, np.pi, num_cells)
    return Population(x, y, angle, state, brightness.astype(np.float32), per_cell)


def _place_cells(
    rng: np.random.Generator, wanted: int, field_size_px: int, clustering: float, pitch_px: float
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """Place cells one after the other: next to an earlier one (islands) or anywhere, never on top of one."""
    low, high = -MARGIN_PX, field_size_px + MARGIN_PX
    placed = np.empty((wanted, 2))
    count = 0
    for _ in range(wanted):
        beside = count > 0 and rng.random() < clustering
        draws = rng.random((_TRIES, 3))
        if beside:
            parents = placed[(draws[:, 0] * count).astype(int)]
            turn, reach = draws[:, 1] * 2 * np.pi, pitch_px * (0.75 + 0.4 * draws[:, 2])
            tries = parents + np.stack([np.cos(turn) * reach, np.sin(turn) * reach], axis=1)
        else:
            tries = low + draws[:, :2] * (high - low)
        gaps = np.square(tries[:, None] - placed[None, :count]).sum(axis=2).min(axis=1, initial=np.inf)
        inside = ((tries > low) & (tries < high)).all(axis=1)
        free = np.flatnonzero(inside & (gaps > (_CLOSEST * pitch_px) ** 2))
        if len(free):
            placed[count] = tries[free[0]]
            count += 1
    return placed[:count, 0], placed[:count, 1]


def _draw_states(rng: np.random.Generator, traits: Mapping[str, float], num_cells: int) -> Int[np.ndarray, " cell"]:
    mitotic, apoptotic = traits["mitotic"], traits["apoptotic"]
    which, kind, late = rng.random((3, num_cells))
    dividing = np.where(kind < traits["monopolar"], 3, np.where(late < 0.3, 2, 1))
    state: np.ndarray = np.where(which < mitotic, dividing, np.where(which < mitotic + apoptotic, 4, 0))
    return state
