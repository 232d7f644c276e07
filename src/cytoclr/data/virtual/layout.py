"""The plan of a virtual screen: which compound lies at which dose, with which effect, in which well."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cytoclr.config import VirtualSettings
from cytoclr.data.virtual.phenotypes import MECHANISMS, TRAITS, draw_deviation
from cytoclr.errors import SettingsError

__all__ = ["CONTROL", "POSITIVE_CONTROL", "Compound", "plan_compounds", "plan_wells", "tabulate_planted"]

#: Named as in BBBC021, so that its reader knows them.
CONTROL = "DMSO"
POSITIVE_CONTROL = "taxol"
_POSITIVE_MECHANISM = "Microtubule stabilizers"
_POSITIVE_CONCENTRATION = 0.3
#: Rows and columns that hold samples on plates of 96, 384 and 1,536 wells, outermost wells left empty.
_PLATE_SHAPES = ((6, 10), (14, 22), (30, 46))
_HILL = 1.2
_TOP_DOSE = 8.0  # times the concentration of half effect
_DOSE_STEP = 3.0


@dataclass(frozen=True)
class Compound:
    """A compound: its mechanism, what it does at full effect, and its effect at each concentration (µM)."""

    name: str
    mechanism: str
    batches: tuple[int, ...]
    shifts: dict[str, float]
    effects: dict[float, float]


def plan_compounds(settings: VirtualSettings) -> list[Compound]:
    """Draw the compounds of a screen.

    A compound's shifts are its mechanism's, plus a small deviation of its own; its effect at concentration c
    is ``strength · c^h / (c^h + c50^h)`` (Hill) times ``settings.effect``. Each compound lives in one batch and the
    compounds of a mechanism in different ones, so that every mechanism can be found across batches; the
    positive control lives in all.
    """
    rng = np.random.default_rng([settings.screen_seed, 1])
    mechanisms = list(MECHANISMS)[: settings.num_mechanisms]
    total = len(mechanisms) * settings.compounds_per_mechanism
    # numbered at random: a name tells nothing
    numbers = iter(rng.permutation(total) + 1)
    compounds = []
    for index, mechanism in enumerate(mechanisms):
        for which in range(settings.compounds_per_mechanism):
            half = float(np.exp(rng.uniform(np.log(0.02), np.log(5.0))))
            doses = [_round(half * _TOP_DOSE / _DOSE_STEP**step) for step in reversed(range(settings.doses))]
            strength = settings.effect * float(np.exp(rng.normal(0.0, 0.1)))
            effects = {dose: strength * dose**_HILL / (dose**_HILL + half**_HILL) for dose in doses}
            batch = (index + which) % settings.num_batches
            name = f"VC-{next(numbers):03d}"
            compounds.append(Compound(name, mechanism, (batch,), _plant(rng, mechanism), effects))
    everywhere = tuple(range(settings.num_batches))
    effects = {_POSITIVE_CONCENTRATION: 0.9 * settings.effect}
    shifts = _plant(rng, _POSITIVE_MECHANISM)
    compounds.append(Compound(POSITIVE_CONTROL, _POSITIVE_MECHANISM, everywhere, shifts, effects))
    return compounds


def _plant(rng: np.random.Generator, mechanism: str) -> dict[str, float]:
    deviation = draw_deviation(rng)
    return {name: MECHANISMS[mechanism].get(name, 0.0) + deviation[name] for name in TRAITS}


def _round(concentration: float) -> float:
    """Two digits, as on a label."""
    return float(f"{concentration:.2g}")


def plan_wells(settings: VirtualSettings, compounds: list[Compound]) -> pd.DataFrame:
    """Lay out all plates: a row a well, plate by plate, in the order of the wells.

    Returns
    -------
    pandas.DataFrame
        ``batch`` and ``plate`` (numbers from 0), ``Metadata_Batch``, ``Metadata_Plate``, ``Metadata_Well``,
        ``Metadata_Compound``, ``Metadata_Concentration`` (µM), ``replicate`` (from 1), ``effect``, and ``row`` and
        ``column``: the place on the plate, -1 at one edge, 1 at the other. Plates of a batch are laid out alike.

    Raises
    ------
    SettingsError
        A batch has more treatments than the largest plate has wells.
    """
    wells = []
    for batch in range(settings.num_batches):
        samples = _list_samples(settings, compounds, batch)
        shape = next((shape for shape in _PLATE_SHAPES if len(samples) <= shape[0] * shape[1]), None)
        if shape is None:
            raise SettingsError(
                f"screen: a plate of this virtual screen needs {len(samples):,} wells, the largest has "
                f"{_PLATE_SHAPES[-1][0] * _PLATE_SHAPES[-1][1]:,}. Raise num_batches, or lower doses, "
                "compounds_per_mechanism or control_wells."
            )
        rng = np.random.default_rng([settings.screen_seed, 2, batch])
        places = np.sort(rng.permutation(shape[0] * shape[1])[: len(samples)])
        order = rng.permutation(len(samples))
        for replicate in range(settings.plates_per_batch):
            plate = batch * settings.plates_per_batch + replicate
            for place, sample in zip(places, order, strict=True):
                row, column = divmod(int(place), shape[1])
                compound, concentration, effect = samples[sample]
                wells.append(
                    {
                        "batch": batch,
                        "plate": plate,
                        "Metadata_Batch": f"Week{batch + 1}",
                        "Metadata_Plate": f"Week{batch + 1}_{10000 * (batch + 1) + replicate + 1}",
                        "Metadata_Well": f"{_row_letters(row + 1)}{column + 2:02d}",
                        "Metadata_Compound": compound,
                        "Metadata_Concentration": concentration,
                        "replicate": replicate + 1,
                        "effect": effect,
                        "row": 2 * row / (shape[0] - 1) - 1,
                        "column": 2 * column / (shape[1] - 1) - 1,
                    }
                )
    return pd.DataFrame(wells)


def _list_samples(settings: VirtualSettings, compounds: list[Compound], batch: int) -> list[tuple[str, float, float]]:
    """Compound, concentration and effect of every well of a plate of this batch."""
    samples = [(CONTROL, 0.0, 0.0)] * settings.control_wells
    for compound in compounds:
        copies = settings.positive_control_wells if compound.name == POSITIVE_CONTROL else 1
        if batch in compound.batches:
            samples += [(compound.name, dose, effect) for dose, effect in compound.effects.items()] * copies
    return samples


def _row_letters(row: int) -> str:
    """A for 0, B for 1 …, AA for 26."""
    return ("A" if row >= 26 else "") + chr(ord("A") + row % 26)


def tabulate_planted(compounds: list[Compound]) -> pd.DataFrame:
    """Return what was planted, a row a treatment: its mechanism, its effect, and the shift of every trait.

    The shifts are the table's only features, so it can be scored as profiles are: no encoder can do better.
    """
    return pd.DataFrame(
        [
            {
                "Metadata_Compound": compound.name,
                "Metadata_Concentration": concentration,
                "Metadata_Batch": f"Week{compound.batches[0] + 1}" if len(compound.batches) == 1 else "all",
                "Metadata_MoA": compound.mechanism,
                "Metadata_Effect": effect,
                **{name: effect * shift for name, shift in compound.shifts.items()},
            }
            for compound in compounds
            for concentration, effect in compound.effects.items()
        ]
    )
