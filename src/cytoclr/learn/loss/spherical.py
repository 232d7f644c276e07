"""SPC, spherical phenotype clustering: every treatment has a vector on the sphere that follows its cells."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss.contrast import widen
from cytoclr.learn.loss.tiles import log_sum_exp

__all__ = ["SphericalClasses"]

#: How far a class vector moves for each of its cells in a minibatch: the authors' angle.
STEP_RADIANS = math.pi / 160


class SphericalClasses(nn.Module):
    """Cells are pulled to the vector of their treatment and pushed from other cells and other treatments' vectors.

    For each cell, in each view by itself: minus the log of exp(cosine to its own class vector / temperature) over the
    sum of the same for all class vectors of the minibatch, each counted once per cell of its class, and all other
    cells of the minibatch; averaged. No gradient flows into the class vectors: they are only ever attracted, so those
    of treatments that look alike may lie together. In training, after each loss, a class vector turns towards the mean
    direction of its cells, by pi/160 for each of them and never past it.

    Parameters
    ----------
    num_classes
        Treatments of the whole run.
    num_features
        Of the projection.
    temperature
        Above nought.

    Notes
    -----
    After the authors' code of 2024 (github.com/FrancisCrickInstitute/spherical-phenotype-clustering), where a vector
    turns towards one cell after the other; here the order of cells in a minibatch does not matter. The vectors start at
    random points of the whole sphere, always the same. They are buffers: they lie in checkpoints, in no optimiser, and
    are the same in all processes, since each sees the whole minibatch. Beside the projections, memory holds a matrix
    of cells by the minibatch's treatments.

    References
    ----------
    Nightingale et al., Spherical Phenotype Clustering, doi:10.1101/2024.04.19.590313; published in 2026 as Asymmetric
    Contrastive Objectives for Efficient Phenotypic Screening
    """

    labels_seen = "treatments, whose cells are pulled to a vector of their own"

    def __init__(self, num_classes: int, num_features: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        generator = torch.Generator().manual_seed(0)
        start = functional.normalize(torch.randn(num_classes, num_features, generator=generator), dim=1)
        self.class_vectors: Tensor
        self.register_buffer("class_vectors", start)

    def forward(self, projections: Float[Tensor, "view cell feature"], labels: CellLabels) -> Float[Tensor, ""]:
        """Compute the loss of the whole minibatch, and in training let the class vectors follow."""
        treatments = torch.as_tensor(labels.treatments, device=projections.device)
        present, own, counts = torch.unique(treatments, return_inverse=True, return_counts=True)
        with torch.autocast(projections.device.type, enabled=False):
            views = functional.normalize(widen(projections), dim=2)
            vectors = self.class_vectors[present].to(views.dtype)
            loss = torch.stack([self._compare(view, vectors, own, counts) for view in views]).mean()
            if self.training:
                moved = _follow(vectors, views.detach().sum(dim=0), own, counts)
                self.class_vectors[present] = moved.to(self.class_vectors.dtype)
        return loss

    def _compare(
        self,
        cells: Float[Tensor, "cell feature"],
        vectors: Float[Tensor, "treatment feature"],
        own: Int[Tensor, " cell"],
        counts: Int[Tensor, " treatment"],
    ) -> Float[Tensor, ""]:
        to_classes = cells @ vectors.T / self.temperature
        attraction = to_classes.gather(1, own[:, None]).squeeze(1)
        classes = (to_classes + counts.to(cells.dtype).log()).logsumexp(dim=1)
        others = log_sum_exp(cells * self.temperature**-0.5)
        return (torch.logaddexp(classes, others) - attraction).mean()


def _follow(
    vectors: Float[Tensor, "treatment feature"],
    cells: Float[Tensor, "cell feature"],
    own: Int[Tensor, " cell"],
    counts: Int[Tensor, " treatment"],
) -> Float[Tensor, "treatment feature"]:
    """Turn each vector along the great circle towards the mean direction of its cells."""
    centres = functional.normalize(torch.zeros_like(vectors).index_add(0, own, cells), dim=1)
    cosines = (vectors * centres).sum(dim=1).clamp(-1.0, 1.0)
    angles = torch.minimum(cosines.acos(), STEP_RADIANS * counts)[:, None]
    sideways = functional.normalize(centres - cosines[:, None] * vectors, dim=1)
    return functional.normalize(angles.cos() * vectors + angles.sin() * sideways, dim=1)
