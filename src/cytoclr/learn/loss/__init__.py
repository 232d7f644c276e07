"""Losses: what training pulls together and pushes apart, and what is measured of the result."""

from cytoclr.learn.loss.build import NtXent, SupCon, build_loss
from cytoclr.learn.loss.contrast import nt_xent
from cytoclr.learn.loss.gather import gather_projections
from cytoclr.learn.loss.measures import measure_alignment, measure_rank, measure_uniformity
from cytoclr.learn.loss.spherical import SphericalClasses
from cytoclr.learn.loss.vicreg import VicReg, vicreg

__all__ = [
    "NtXent",
    "SphericalClasses",
    "SupCon",
    "VicReg",
    "build_loss",
    "gather_projections",
    "measure_alignment",
    "measure_rank",
    "measure_uniformity",
    "nt_xent",
    "vicreg",
]
