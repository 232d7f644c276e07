"""From the light of a virtual field to the numbers of a camera: what differs between plates but should not matter."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt16
from scipy import ndimage

from cytoclr.config import NUISANCES, VirtualSettings

__all__ = ["Conditions", "draw_conditions", "expose"]

#: Camera units above background of an average nucleus, microtubule and actin cytoplasm, and backgrounds: as BBBC021.
_LIGHT = np.array([3000.0, 2300.0, 4300.0])
_BACKGROUND = np.array([700.0, 560.0, 750.0])
#: The 12 bits of the camera are stored as multiples of 16, as in BBBC021.
_STEP = 16
_ELECTRONS_PER_UNIT = 0.12
_READ_NOISE = 12.0


@dataclass(frozen=True)
class Conditions:
    """What a well meets besides its treatment: microscope, staining, growth and segmentation.

    Arrays of three hold one value a channel; `gamma` bends the relation of light to stain; `tilt` is
    the slope of the light across the field along x and y; `offset_px` is how far a segmentation's centres lie from
    the true ones.
    """

    gain: Float[np.ndarray, " channel"]
    gamma: Float[np.ndarray, " channel"]
    background: Float[np.ndarray, " channel"]
    tilt: Float[np.ndarray, "channel axis"]
    vignette: float
    blur_px: Float[np.ndarray, " channel"]
    electrons_per_unit: float
    density: float
    shifts: Mapping[str, float]
    offset_px: Float[np.ndarray, " axis"]


def draw_conditions(
    settings: VirtualSettings, *, batch: int, plate: int, well: int, row: float, column: float
) -> Conditions:
    """Draw the conditions of one well; wells of a plate, and plates of a batch, share most of theirs.

    Parameters
    ----------
    settings
        `nuisance` scales every deviation; those not named in `nuisances` are left out without changing the others.
    batch, plate, well
        Numbers from 0; with the screen's seed they decide everything.
    row, column
        Place of the well on its plate, -1 at one edge, 1 at the other.
    """
    strength = {name: settings.nuisance * (name in settings.nuisances) for name in NUISANCES}
    seed = settings.screen_seed
    of_batch, of_plate, of_well = (
        np.random.default_rng(key).standard_normal(32)
        for key in ([seed, 3, batch], [seed, 4, plate], [seed, 5, plate, well])
    )
    # edge wells dry out; besides, each plate was dispensed from one side to the other
    edge = max(abs(row), abs(column)) ** 3
    slope = (of_plate[12] * row + of_plate[13] * column) / 2
    position = strength["position"] * np.array([edge, slope])

    stain = strength["stain"] * (0.50 * of_batch[:3] + 0.12 * of_plate[:3] + 0.32 * of_well[:3])
    stain = stain + 0.15 * position.sum()
    saturation = strength["stain"] * (0.14 * of_batch[28:31] + 0.14 * of_well[10:13])
    haze = strength["background"] * (0.50 * of_batch[3:6] + 0.10 * of_plate[3:6] + 0.22 * of_well[3:6])
    focus = strength["focus"] * (0.28 * of_batch[6] + 0.12 * of_plate[6] + 0.22 * of_well[6])
    focus_of_channel = focus + strength["focus"] * 0.10 * of_batch[7:10]
    crowd = strength["density"] * (0.28 * of_batch[10] + 0.10 * of_plate[10] + 0.30 * of_well[13])
    passage = strength["passage"] * of_batch[14:20]
    return Conditions(
        gain=np.exp(stain),
        gamma=np.exp(np.clip(saturation, -0.4, 0.4)),
        background=_BACKGROUND * np.exp(haze),
        tilt=strength["illumination"] * 0.16 * (of_batch[20:26] + 0.3 * of_plate[20:26]).reshape(3, 2),
        vignette=strength["illumination"] * min(abs(0.25 + 0.1 * of_batch[26]), 0.5),
        blur_px=0.75 * np.exp(np.clip(focus_of_channel, -0.2, 0.6)),
        electrons_per_unit=_ELECTRONS_PER_UNIT * float(np.exp(0.5 * strength["noise"] * of_batch[27])),
        density=float(np.clip(np.exp(crowd - 0.25 * position[0] + 0.15 * position[1]), 0.3, 1.9)),
        shifts={
            "cell_radius_px": 0.07 * passage[0] - 0.10 * position[0] + 0.05 * position[1],
            "cell_elongation": 0.08 * passage[1] + 0.05 * position[1],
            "nucleus_radius_px": 0.03 * passage[2] - 0.03 * position[0],
            "stress_fibres": 0.20 * passage[3] + 0.20 * position[0],
            "spikiness": 0.12 * passage[4],
            "clustering": 0.06 * passage[5],
            "apoptotic": 0.02 * position[0],
        },
        offset_px=strength["offset"] * (1.6 * of_plate[28:30] + 1.2 * of_well[28:30]),
    )


def expose(
    rng: np.random.Generator, light: Float[np.ndarray, "channel height width"], conditions: Conditions
) -> UInt16[np.ndarray, "channel height width"]:
    """Take the picture: blur, uneven light, background, photon and read noise, and the camera's steps."""
    size = light.shape[-1]
    ticks = np.linspace(-1, 1, size, dtype=np.float32)
    fall = conditions.vignette * (ticks[:, None] ** 2 + ticks[None, :] ** 2) / 2
    image = np.empty(light.shape, dtype=np.uint16)
    for channel, pixels in enumerate(light):
        sharp = ndimage.gaussian_filter(pixels, float(conditions.blur_px[channel]), truncate=3.0)
        # what is stained strongly may be stained more or less than in proportion
        sharp = np.maximum(sharp, 0.0) ** np.float32(conditions.gamma[channel])
        # what lies out of the focal plane: a faint, wide halo
        halo = ndimage.uniform_filter(ndimage.uniform_filter(sharp, 25), 25)
        across, down = conditions.tilt[channel].astype(np.float32)
        field = np.maximum(1 + across * ticks[None, :] + down * ticks[:, None] - fall, 0.3)
        signal = (0.92 * sharp + 0.08 * halo) * (field * np.float32(_LIGHT[channel] * conditions.gain[channel]))
        signal += np.float32(conditions.background[channel]) * (0.5 + 0.5 * field)
        spread = np.sqrt(signal / np.float32(conditions.electrons_per_unit) + np.float32(_READ_NOISE**2))
        signal += spread * rng.standard_normal(signal.shape, dtype=np.float32)
        image[channel] = np.clip(np.rint(signal / _STEP), 0, 4095).astype(np.uint16) * _STEP
    return image
