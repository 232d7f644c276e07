"""Views by torch, a step at a time: the reference of what each nuisance is, and the way on GPUs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cytoclr.learn.augment.nuisances import Nuisances, weigh_bend_points

__all__ = ["make_views"]

Views = Float[Tensor, "cell channel view_height view_width"]


@torch.no_grad()
def make_views(
    crops: Float[Tensor, "cell channel height width"],
    nuisances: Nuisances,
    tape: Float[Tensor, " number"],
    *,
    view_size_px: int,
) -> Views:
    """Make one view of each prepared crop, where the crops are.

    Parameters
    ----------
    crops
        Intensities 0..1.
    nuisances
        What was drawn for the view of each.
    tape
        Normal numbers on the crops' device.
    view_size_px
        Height and width of a view.
    """
    drawn = {
        name: torch.from_numpy(values).to(crops.device, non_blocking=True) for name, values in vars(nuisances).items()
    }
    views = _resample(crops, drawn["matrices"], drawn["bends"], view_size_px)
    views = _blur(views, drawn["blurs"])
    if drawn["gammas"].numel():
        views = views.pow(drawn["gammas"][..., None, None])
    views = views * drawn["gains"][..., None, None]
    if drawn["row_lights"].numel():
        views *= drawn["row_lights"][:, None, :, None]
        views *= drawn["column_lights"][:, None, None, :]
    views = _empty_holes(views, drawn["holes"]).add_(drawn["offsets"][..., None, None])
    return _add_noise(views, drawn["noise_variances"], drawn["photon_variances"], drawn["noise_starts"], tape)


def _resample(
    crops: Float[Tensor, "cell channel height width"],
    matrices: Float[Tensor, "cell 2 3"],
    bends: Float[Tensor, "cell 2 row_point column_point"],
    view_size_px: int,
) -> Views:
    """Cut, turn, mirror and bend in one bilinear step; beyond its border a crop's own pixels are mirrored."""
    along = torch.arange(view_size_px, device=crops.device, dtype=crops.dtype)
    y, x = torch.meshgrid(along, along, indexing="ij")
    places = torch.einsum("cab,byx->cayx", matrices, torch.stack([x, y, torch.ones_like(x)]))
    if bends.numel():
        weights = torch.from_numpy(weigh_bend_points(view_size_px)).to(crops.device)
        places = places + torch.einsum("yi,caij,xj->cayx", weights, bends, weights)
    sizes = torch.tensor([crops.shape[3], crops.shape[2]], device=crops.device)
    grid = (2.0 * places.permute(0, 2, 3, 1) + 1.0) / sizes - 1.0
    return functional.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _blur(views: Views, halves: Float[Tensor, "cell tap"]) -> Views:
    """Blur each view by its own kernel, rows then columns, as one grouped convolution each."""
    radius = halves.shape[1] - 1
    if radius < 1:
        return views
    num_cells, num_channels, height, width = views.shape
    kernels = torch.cat([halves.flip(1), halves[:, 1:]], dim=1)
    kernels = kernels.repeat_interleave(num_channels, dim=0)[:, None, None, :]
    flat = views.reshape(1, num_cells * num_channels, height, width)
    for kernel, padding in ((kernels, (radius, radius, 0, 0)), (kernels.mT, (0, 0, radius, radius))):
        padded = functional.pad(flat, padding, mode="replicate")
        flat = functional.conv2d(padded, kernel, groups=num_cells * num_channels)
    return flat.reshape(views.shape)


def _empty_holes(views: Views, holes: Int[Tensor, "cell some"]) -> Views:
    """Set a square of each view to nought: background, once the offset is added."""
    if holes.numel() == 0:
        return views
    along = torch.arange(views.shape[-1], device=views.device)
    top, bottom, left, right = holes[:, :, None].unbind(dim=1)
    in_rows, in_columns = (along >= top) & (along < bottom), (along >= left) & (along < right)
    return views.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def _add_noise(
    views: Views,
    variances: Float[Tensor, "cell noisy"],
    photon_variances: Float[Tensor, "cell noisy"],
    starts: Int[Tensor, "cell channel"],
    tape: Float[Tensor, " number"],
) -> Views:
    """Add a piece of the tape of normal numbers to each channel, scaled by each pixel's own noise."""
    if variances.numel() == 0:
        return views
    num_pixels = views.shape[2] * views.shape[3]
    noise = tape.unfold(0, num_pixels, 1)[starts].reshape(views.shape)
    spread = variances[..., None, None] + photon_variances[..., None, None] * views.clamp(min=0.0)
    return views.addcmul_(noise, spread.sqrt_())
