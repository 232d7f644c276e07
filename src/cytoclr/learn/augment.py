"""Random views of crops: one affine resampling, then focus, stain, background and camera noise, each crop its own."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cytoclr.config import AugmentSettings
from cytoclr.learn.draws import derive_generator, draw_uniforms
from cytoclr.learn.minibatch import Minibatch, Transform, prepare_crops

__all__ = ["Augmenter"]

#: Normal numbers that camera noise is cut from: 16 MB, so that a view's noise costs a copy, not 12,000 draws.
TAPE_LENGTH = 1 << 22
#: Numbers drawn for a whole view: area, two shifts, angle, two mirrors, blur, noise's size and place on the tape.
PER_VIEW = 9
#: Numbers drawn for each channel of it: gain, offset, gamma.
PER_CHANNEL = 3


class Augmenter:
    """Draws the views of a run: all that is random in a view follows from (seed, epoch, cell, view).

    A view is a random resized crop (without change of aspect: a cell's shape is what is studied), turned by any
    angle and mirrored, in one bilinear resampling; beyond the crop's border its own pixels are mirrored. Then, in the
    order of a microscope, Gaussian blur, and for every channel on its own gamma, gain and offset; then noise.

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

    Notes
    -----
    Bit for bit the same on one machine and number of threads, whatever crops are drawn together. Measured on one
    core for 64 px and three channels: some 4,000 views a second.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton 2020, arXiv:2002.05709; what differs is listed in
    ``docs/explanation/departures.md``.
    """

    def __init__(self, settings: AugmentSettings, *, view_size_px: int, transform: Transform, seed: int) -> None:
        self.settings = settings
        self.view_size_px = view_size_px
        self.transform = transform
        self.seed = seed
        tape = derive_generator(seed, "noise").standard_normal(TAPE_LENGTH, dtype=np.float32)
        self._tape = torch.from_numpy(tape)

    def draw(
        self,
        minibatch: Minibatch,
        *,
        epoch: int,
        view: int,
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
            Not clipped: noise and background may leave 0..1.
        """
        crops = prepare_crops(minibatch, self.transform)
        cells = minibatch.rows.cpu().numpy()
        num_channels = crops.shape[1]
        drawn = draw_uniforms(cells, PER_VIEW + PER_CHANNEL * num_channels, seed=self.seed, epoch=epoch, view=view)
        uniforms = torch.from_numpy(drawn).to(crops.device)
        of_view = uniforms[:, :PER_VIEW].unbind(dim=1)
        of_channel = uniforms[:, PER_VIEW:].reshape(len(cells), PER_CHANNEL, num_channels, 1, 1).unbind(dim=1)
        with torch.no_grad():
            views = self._resample(crops, *of_view[:6])
            views = self._blur(views, of_view[6])
            views = self._stain(views, *of_channel)
            return self._add_noise(views, of_view[7], of_view[8])

    def _resample(
        self,
        crops: Tensor,
        area: Tensor,
        shift_x: Tensor,
        shift_y: Tensor,
        angle: Tensor,
        mirror_x: Tensor,
        mirror_y: Tensor,
    ) -> Tensor:
        """Cut, turn and mirror in one step; theta maps the view's coordinates (-1..1) to the crop's."""
        settings = self.settings
        side = torch.sqrt(settings.min_scale + (1.0 - settings.min_scale) * area)
        turn = 2.0 * math.pi * angle * float(settings.rotate)
        sign_x = 1.0 - 2.0 * (mirror_x < 0.5).float() * float(settings.flip)
        sign_y = 1.0 - 2.0 * (mirror_y < 0.5).float() * float(settings.flip)
        cos, sin = side * torch.cos(turn), side * torch.sin(turn)
        free = 1.0 - side
        first_row = torch.stack([cos * sign_x, -sin * sign_y, (2.0 * shift_x - 1.0) * free], dim=1)
        second_row = torch.stack([sin * sign_x, cos * sign_y, (2.0 * shift_y - 1.0) * free], dim=1)
        theta = torch.stack([first_row, second_row], dim=1)
        shape = [*crops.shape[:2], self.view_size_px, self.view_size_px]
        grid = functional.affine_grid(theta, shape, align_corners=False)
        return functional.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _blur(self, views: Tensor, size: Tensor) -> Tensor:
        """Blur each view by its own Gaussian, rows then columns, as one grouped convolution each."""
        largest = self.settings.blur_px * self.settings.strength
        if largest == 0.0:
            return views
        radius = max(1, min(math.ceil(3.0 * largest), self.view_size_px - 1))
        distance = torch.arange(-radius, radius + 1, device=views.device, dtype=views.dtype)
        sigma = (size * largest).clamp(min=0.05)[:, None]
        kernels = torch.exp(-0.5 * (distance / sigma) ** 2)
        kernels = kernels / kernels.sum(dim=1, keepdim=True)
        num_cells, num_channels, height, width = views.shape
        kernels = kernels.repeat_interleave(num_channels, dim=0)[:, None, None, :]
        flat = views.reshape(1, num_cells * num_channels, height, width)
        for kernel, padding in ((kernels, (radius, radius, 0, 0)), (kernels.mT, (0, 0, radius, radius))):
            padded = functional.pad(flat, padding, mode="replicate")
            flat = functional.conv2d(padded, kernel, groups=num_cells * num_channels)
        return flat.reshape(views.shape)

    def _stain(self, views: Tensor, gain: Tensor, offset: Tensor, gamma: Tensor) -> Tensor:
        """Change each channel's contrast, brightness and background on its own."""
        settings = self.settings
        if settings.gamma * settings.strength > 0.0:
            views = views.pow(torch.exp((2.0 * gamma - 1.0) * settings.gamma * settings.strength))
        views = views * torch.exp((2.0 * gain - 1.0) * settings.gain * settings.strength)
        return views.add_((2.0 * offset - 1.0) * settings.offset * settings.strength)

    def _add_noise(self, views: Tensor, size: Tensor, place: Tensor) -> Tensor:
        """Add a piece of the tape of normal numbers, scaled by the view's own noise level."""
        largest = self.settings.noise * self.settings.strength
        if largest == 0.0:
            return views
        if self._tape.device != views.device:
            self._tape = self._tape.to(views.device)
        num_pixels = views[0].numel()
        starts = (place * (TAPE_LENGTH - num_pixels)).long()
        noise = self._tape.unfold(0, num_pixels, 1)[starts].reshape(views.shape)
        return views.addcmul_(noise, (size * largest)[:, None, None, None])
