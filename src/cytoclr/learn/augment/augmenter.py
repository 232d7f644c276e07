"""Random views of crops: one resampling, then focus, stain, background and camera noise, each crop its own."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cytoclr.config import AugmentSettings
from cytoclr.learn.augment import reference
from cytoclr.learn.augment.nuisances import Nuisances, draw_nuisances
from cytoclr.learn.draws import derive_generator
from cytoclr.learn.minibatch import Minibatch, Transform, prepare_crops

__all__ = ["Augmenter"]

#: Normal numbers that camera noise is cut from: 16 MB, so that a view's noise costs a copy, not 12,000 draws.
TAPE_LENGTH = 1 << 22


class Augmenter:
    """Draws the views of a run: all that is random in a view follows from (seed, epoch, cell, view).

    A view is a random resized crop (without change of aspect: a cell's shape is what is studied), turned by any
    angle, mirrored and bent, in one bilinear resampling; beyond the crop's border its own pixels are mirrored. Then, in
    the order of a microscope, Gaussian blur, and for every channel on its own gamma and gain (nought where a channel is
    dropped); a gradient of light; an empty square; each channel's offset; then noise. A channel never changes another.

    Parameters
    ----------
    settings
        Which nuisances, and how strong.
    view_size_px
        Height and width of a view.
    transform
        Of intensities 0..1, before anything else.
    seed
        The run's seed.
    backend
        ``"numba"``: compiled, for crops in the computer's memory; ``"torch"``: the reference, for any device; None:
        numba there, torch elsewhere.

    Notes
    -----
    What is random is drawn once, whatever the back end; the back ends agree to 1e-4. With either, a view is the same
    whatever crops are drawn with it, and with numba bit for bit, whatever the number of threads (torch's is used).
    What is fast is told in ``docs/explanation/augmentation.md``.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton 2020, arXiv:2002.05709; what differs is listed in
    ``docs/explanation/departures.md``.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        *,
        view_size_px: int,
        transform: Transform,
        seed: int,
        backend: Literal["numba", "torch"] | None = None,
    ) -> None:
        self.settings = settings
        self.view_size_px = view_size_px
        self.transform = transform
        self.seed = seed
        self.backend = backend
        num = max(TAPE_LENGTH, 4 * view_size_px**2)
        self._tape = torch.from_numpy(derive_generator(seed, "noise").standard_normal(num, dtype=np.float32))

    def draw(
        self, minibatch: Minibatch, *, epoch: int, view: int
    ) -> Float[Tensor, "cell channel view_height view_width"]:
        """Draw one view of every crop.

        Parameters
        ----------
        minibatch
            Raw crops; the cells' numbers decide the draws.
        epoch, view
            Which view of the cell: the epoch, and 0 or 1 in it.

        Returns
        -------
        torch.Tensor
            float32, where the crops are. Not clipped: noise and background may leave 0..1.
        """
        return self._make(minibatch, epoch, (view,))[0]

    def draw_pair(
        self, minibatch: Minibatch, *, epoch: int
    ) -> Float[Tensor, "view cell channel view_height view_width"]:
        """Draw views 0 and 1 of every crop: what `draw` gives for each, but a crop is prepared once for both."""
        return self._make(minibatch, epoch, (0, 1))

    def _make(
        self, minibatch: Minibatch, epoch: int, views: tuple[int, ...]
    ) -> Float[Tensor, "view cell channel view_height view_width"]:
        drawn = [self._draw_nuisances(minibatch, epoch, view) for view in views]
        is_near = minibatch.crops.device.type == "cpu"
        if (self.backend or ("numba" if is_near else "torch")) == "numba":
            from cytoclr.learn.augment import compiled  # numba takes its time to import

            return compiled.make_views(
                minibatch, drawn, self._tape, view_size_px=self.view_size_px, transform=self.transform
            )
        if self._tape.device != minibatch.crops.device:
            self._tape = self._tape.to(minibatch.crops.device)
        crops = prepare_crops(minibatch, self.transform)
        made = [reference.make_views(crops, each, self._tape, view_size_px=self.view_size_px) for each in drawn]
        return torch.stack(made) if len(made) > 1 else made[0][None]

    def _draw_nuisances(self, minibatch: Minibatch, epoch: int, view: int) -> Nuisances:
        _, num_channels, height, width = minibatch.crops.shape
        return draw_nuisances(
            minibatch.rows.cpu().numpy(),
            self.settings,
            num_channels=num_channels,
            crop_shape=(height, width),
            view_size_px=self.view_size_px,
            tape_length=len(self._tape),
            seed=self.seed,
            epoch=epoch,
            view=view,
        )
