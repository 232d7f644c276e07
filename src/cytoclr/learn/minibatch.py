"""A minibatch as it comes from the crop store, and how its crops are made ready for an encoder."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8, UInt16
from torch import Tensor

__all__ = ["Minibatch", "Transform", "prepare_crops"]

#: Of intensities 0..1, before anything else. ``legacy`` is for models of the 2020 project, and never trained with.
Transform = Literal["sqrt", "linear", "legacy"]


class Minibatch(NamedTuple):
    """Crops as they are stored: bytes or 16-bit numbers, to be moved to a GPU as they are.

    `rows` are the cells' numbers in the cells table; `low` and `high` are the stored values that become 0 and 1.
    """

    rows: Int[Tensor, " cell"]
    crops: UInt8[Tensor, "cell channel height width"] | UInt16[Tensor, "cell channel height width"]
    low: Float[Tensor, "cell channel"]
    high: Float[Tensor, "cell channel"]

    def take(self, cells: slice) -> "Minibatch":
        """Return a part of it; nothing is copied."""
        return Minibatch(*(part[cells] for part in self))

    def move_to(self, place: torch.device) -> "Minibatch":
        """Return it where something will be computed."""
        # not called `to`: Lightning would then call it, with arguments of its own, instead of moving each tensor
        return Minibatch(*(part.to(place) for part in self))


def prepare_crops(minibatch: Minibatch, transform: Transform) -> Float[Tensor, "cell channel height width"]:
    """Scale raw crops to 0..1 and transform them as the encoder expects, where they are.

    The square root makes the camera's photon noise alike in dark and bright parts (Anscombe 1948,
    doi:10.1093/biomet/35.3-4.246) and lifts dim structures. ``legacy`` is what the 2020 project's overflow made of a
    byte, nought for nought and 256 - x for x: dark becomes bright, but for the darkest.
    """
    low, high = minibatch.low[..., None, None], minibatch.high[..., None, None]
    scaled = minibatch.crops.to(torch.float32).sub_(low).div_(high - low).clamp_(0.0, 1.0)
    if transform == "legacy":
        return scaled.mul_(255.0).round_().neg_().remainder_(256.0).div_(255.0)
    return scaled.sqrt_() if transform == "sqrt" else scaled
