"""What a cell of the virtual screen looks like, and how mechanisms, compounds and doses change it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

__all__ = ["MECHANISMS", "TRAITS", "Trait", "draw_deviation", "shift_traits"]


@dataclass(frozen=True)
class Trait:
    """One property of a cell: its value when untreated, and how much it varies.

    A `ratio` is multiplied by ``exp(shift)`` and varies from cell to cell by a log-normal factor; a `share` is a
    probability: the shift is added and the result kept within 0..0.9.
    """

    untreated: float
    meaning: str
    is_share: bool = False
    cell_spread: float = 0.0
    compound_spread: float = 0.0


def _ratio(untreated: float, meaning: str, cell_spread: float, compound_spread: float = 0.08) -> Trait:
    return Trait(untreated, meaning, cell_spread=cell_spread, compound_spread=compound_spread)


def _share(untreated: float, meaning: str, compound_spread: float = 0.02) -> Trait:
    return Trait(untreated, meaning, is_share=True, compound_spread=compound_spread)


#: Lengths are in pixels of 0.65 µm: a nucleus of some 20 pixels, as MCF-7 cells at 20×.
TRAITS: Mapping[str, Trait] = MappingProxyType(
    {
        "nucleus_radius_px": _ratio(9.5, "half the nucleus's mean diameter", 0.10, 0.03),
        "nucleus_elongation": _ratio(1.22, "long over short axis of the nucleus", 0.09, 0.03),
        "nucleus_lobes": _ratio(0.04, "unevenness of the nucleus's outline", 0.30, 0.2),
        "chromatin_contrast": _ratio(0.20, "s.d. of the DNA stain inside a nucleus", 0.20),
        "chromatin_coarseness": _share(0.40, "coarse grain's part in the chromatin's texture", 0.05),
        "nucleoli": _ratio(2.4, "dark holes in a nucleus", 0.10),
        "nucleolus_radius_px": _ratio(1.9, "size of those holes", 0.15),
        "multinucleate": _share(0.02, "cells with two or three nuclei"),
        "fragmented": _share(0.01, "cells with a nucleus in many pieces"),
        "mitotic": _share(0.05, "cells in division"),
        "monopolar": _share(0.0, "dividing cells whose spindle has one pole"),
        "apoptotic": _share(0.015, "dying cells"),
        "cell_radius_px": _ratio(24.0, "half the mean diameter of a spread cell", 0.15, 0.04),
        "cell_elongation": _ratio(1.35, "long over short axis of a cell", 0.20, 0.06),
        "spikiness": _ratio(0.34, "how far corners stick out", 0.25, 0.10),
        "filaments": _ratio(95.0, "microtubules of a cell", 0.18),
        "filament_length_px": _ratio(27.0, "mean length of a microtubule", 0.12),
        "filament_bend": _ratio(0.10, "change of a microtubule's direction, rad per px", 0.12),
        "bundled": _share(0.04, "microtubules that run along another", 0.04),
        "tubulin_diffuse": _share(0.40, "part of the tubulin that is in no filament", 0.04),
        "perinuclear": _share(0.35, "microtubules that circle the nucleus", 0.04),
        "aggregate": _share(0.04, "cells with an aggresome beside the nucleus"),
        "stress_fibres": _ratio(6.0, "actin cables across a cell", 0.3),
        "rim": _ratio(1.0, "actin at the free edge", 0.25),
        "junction": _ratio(1.0, "actin where cells touch", 0.15),
        "puncta": _ratio(3.0, "actin dots in a cell", 0.35, 0.15),
        "filopodia": _ratio(4.0, "thin protrusions of a cell", 0.35),
        "mesh_contrast": _ratio(0.25, "s.d. of the actin mesh", 0.15),
        "clustering": _share(0.62, "cells that grow next to another", 0.05),
    }
)

#: Shift of each trait at full effect, modelled on what is known of such compounds; the order mixes easy and hard.
MECHANISMS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "Microtubule destabilizers": {
            "filament_length_px": -1.4,
            "filaments": -0.8,
            "tubulin_diffuse": 0.45,
            "multinucleate": 0.15,
            "fragmented": 0.45,
            "mitotic": 0.05,
            "cell_elongation": -0.15,
            "cell_radius_px": -0.10,
        },
        "Microtubule stabilizers": {
            "bundled": 0.66,
            "filament_bend": -0.8,
            "filament_length_px": 0.25,
            "tubulin_diffuse": -0.12,
            "multinucleate": 0.50,
            "fragmented": 0.12,
            "mitotic": 0.04,
        },
        "Actin disruptors": {
            "stress_fibres": -2.0,
            "puncta": 2.0,
            "rim": -1.2,
            "junction": -1.0,
            "spikiness": 0.60,
            "cell_radius_px": -0.15,
        },
        "Eg5 inhibitors": {"mitotic": 0.42, "monopolar": 0.85, "apoptotic": 0.04, "multinucleate": 0.03},
        "DNA damage": {
            "nucleus_radius_px": 0.30,
            "chromatin_contrast": -0.3,
            "nucleoli": 0.25,
            "cell_radius_px": 0.22,
            "mitotic": -0.04,
            "clustering": -0.10,
        },
        "Protein synthesis": {
            "nucleoli": -2.0,
            "chromatin_contrast": -0.6,
            "nucleus_radius_px": -0.10,
            "filopodia": -0.8,
            "mesh_contrast": -0.6,
            "stress_fibres": -0.6,
            "mitotic": -0.04,
        },
        "Protein degradation": {
            "aggregate": 0.75,
            "perinuclear": 0.40,
            "filament_length_px": -0.30,
            "nucleus_lobes": 1.3,
            "cell_elongation": 0.15,
            "apoptotic": 0.03,
        },
        "Epithelial": {
            "clustering": 0.12,
            "junction": 0.8,
            "spikiness": -0.7,
            "stress_fibres": -0.4,
            "filopodia": -0.6,
            "cell_radius_px": -0.08,
        },
        "Aurora kinase inhibitors": {
            "nucleus_radius_px": 0.40,
            "nucleus_lobes": 1.5,
            "multinucleate": 0.20,
            "cell_radius_px": 0.18,
        },
        "Kinase inhibitors": {
            "cell_elongation": 0.60,
            "stress_fibres": 0.9,
            "filament_bend": -0.4,
            "clustering": -0.15,
        },
        "Cholesterol-lowering": {
            "spikiness": 0.65,
            "filopodia": 1.2,
            "cell_elongation": 0.35,
            "rim": 0.3,
            "perinuclear": -0.20,
        },
        "DNA replication": {
            "nucleus_radius_px": 0.15,
            "chromatin_coarseness": 0.45,
            "chromatin_contrast": 0.6,
            "mitotic": -0.03,
        },
    }
)


def draw_deviation(rng: np.random.Generator) -> dict[str, float]:
    """Draw what sets one compound apart from its mechanism: a small shift of every trait, at full effect."""
    draws = rng.standard_normal(len(TRAITS))
    return {
        name: float(draw * trait.compound_spread) for (name, trait), draw in zip(TRAITS.items(), draws, strict=True)
    }


def shift_traits(shifts: Mapping[str, float]) -> dict[str, float]:
    """Return every trait's value, shifted from untreated: ratios by ``exp(shift)``, shares by adding.

    >>> shift_traits({"mitotic": 0.25})["mitotic"]
    0.3
    """
    values = {}
    for name, trait in TRAITS.items():
        shift = shifts.get(name, 0.0)
        if trait.is_share:
            values[name] = float(np.clip(trait.untreated + shift, 0.0, 0.9))
        else:
            values[name] = float(trait.untreated * np.exp(shift))
    return values
