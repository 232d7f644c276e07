"""VICReg: views of a cell agree, and every feature varies and says something of its own; no negatives."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss.contrast import widen

__all__ = ["VicReg", "vicreg"]

#: Weights of invariance, variance and covariance, and what is added to variances (Bardes et al. 2022, section 4.2).
INVARIANCE, VARIANCE, COVARIANCE, EPSILON = 25.0, 25.0, 1.0, 1e-4


class VicReg(nn.Module):
    """VICReg of a minibatch; see ``vicreg``."""

    labels_seen = "none"

    def forward(self, projections: Float[Tensor, "view cell feature"], labels: CellLabels) -> Float[Tensor, ""]:
        """Compute the loss of the whole minibatch."""
        first_view, second_view = projections
        return vicreg(first_view, second_view)


def vicreg(first_view: Float[Tensor, "cell feature"], second_view: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Compute variance-invariance-covariance regularisation of two views of the same cells.

    25 times the mean squared difference of the views, plus 25 times by how much features' standard deviations fall
    short of one, plus the squared covariances of different features.

    Parameters
    ----------
    first_view, second_view
        Projections, not normalised; row i of both is the same cell. At least two cells.

    Returns
    -------
    torch.Tensor
        Nought at best.

    Notes
    -----
    As in the authors' code, the squared difference is the mean over features and the variance term the mean of both
    views, where the paper's equations have sums. Memory grows with cells and with the square of features.

    References
    ----------
    Bardes, Ponce, LeCun 2022, arXiv:2105.04906

    Examples
    --------
    >>> import torch
    >>> float(vicreg(torch.zeros(4, 3), torch.zeros(4, 3)))  # collapsed: 25 x (1 - sqrt(0.0001))
    24.75
    """
    with torch.autocast(first_view.device.type, enabled=False):
        first_view, second_view = widen(first_view), widen(second_view)
        views = (first_view, second_view)
        variance = torch.stack([_fall_short(view) for view in views]).mean()
        covariance = torch.stack([_covary(view) for view in views]).sum()
        invariance = functional.mse_loss(first_view, second_view)
        return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


def _fall_short(view: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    return functional.relu(1.0 - (view.var(dim=0) + EPSILON).sqrt()).mean()


def _covary(view: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Sum the squared covariances of different features, by the number of features."""
    centred = view - view.mean(dim=0)
    covariance = centred.T @ centred / (len(view) - 1)
    different = covariance - torch.diag(covariance.diagonal())
    return different.square().sum() / view.shape[1]
