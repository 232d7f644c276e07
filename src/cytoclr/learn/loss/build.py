"""The loss that the settings ask for, and the labels it sees."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn.labels import CellLabels
from cytoclr.learn.loss.contrast import nt_xent
from cytoclr.learn.loss.spherical import SphericalClasses
from cytoclr.learn.loss.vicreg import VicReg

__all__ = ["NtXent", "SupCon", "build_loss"]


class NtXent(nn.Module):
    """NT-Xent of a minibatch, with positives and negatives chosen by labels; see ``nt_xent``.

    Parameters
    ----------
    temperature, similarity
        Of ``nt_xent``.
    positives
        ``views``: the cell's other view. ``cross-well``, ``cross-plate``: also both views of the cells of its treatment
        in other wells, or on other plates; where a minibatch has none for a cell, its other view is left.
    negatives
        ``all``, or those of ``other-wells`` or ``other-compounds``.
    """

    def __init__(
        self,
        *,
        temperature: float,
        similarity: Literal["cosine", "dot"] = "cosine",
        positives: Literal["views", "cross-well", "cross-plate"] = "views",
        negatives: Literal["all", "other-wells", "other-compounds"] = "all",
    ) -> None:
        super().__init__()
        self.temperature, self.similarity = temperature, similarity
        self.positives, self.negatives = positives, negatives
        self.labels_seen = _name_labels(positives, negatives)

    def forward(self, projections: Float[Tensor, "view cell feature"], labels: CellLabels) -> Float[Tensor, ""]:
        """Compute the loss of the whole minibatch."""
        first_view, second_view = projections
        places = {"views": None, "cross-well": labels.wells, "cross-plate": labels.plates}[self.positives]
        excused = {"all": None, "other-wells": labels.wells, "other-compounds": labels.compounds}[self.negatives]
        return nt_xent(
            first_view,
            second_view,
            temperature=self.temperature,
            similarity=self.similarity,
            alike=None if places is None else _send(labels.treatments, projections),
            places=_send(places, projections),
            excused=_send(excused, projections),
        )


class SupCon(nn.Module):
    """Supervised contrast of a minibatch: all views of all cells of a treatment are positives of each other.

    The form with the log inside the mean over positives, L_out (Khosla et al. 2020, arXiv:2004.11362, equation 2).
    """

    labels_seen = "treatments, whose cells are pulled together"

    def __init__(self, *, temperature: float, similarity: Literal["cosine", "dot"] = "cosine") -> None:
        super().__init__()
        self.temperature, self.similarity = temperature, similarity

    def forward(self, projections: Float[Tensor, "view cell feature"], labels: CellLabels) -> Float[Tensor, ""]:
        """Compute the loss of the whole minibatch."""
        first_view, second_view = projections
        return nt_xent(
            first_view,
            second_view,
            temperature=self.temperature,
            similarity=self.similarity,
            alike=_send(labels.treatments, projections),
        )


def build_loss(settings: TrainSettings, *, num_features: int, labels: CellLabels | None) -> nn.Module:
    """Build the loss of a run.

    Parameters
    ----------
    settings
        ``loss``, ``positives``, ``negatives``, ``temperature`` and ``similarity`` are used.
    num_features
        Of the projection.
    labels
        Of all cells of the run; none will do for a loss that sees no treatments.

    Returns
    -------
    torch.nn.Module
        Takes the projections of the global minibatch, both views, and its labels in the same order. Its
        ``labels_seen`` says which labels the loss uses and what for; the first word is none, plates or treatments.

    Raises
    ------
    SettingsError
        If settings have no effect together, or the labels cannot give what they ask for.
    """
    _check_settings(settings)
    if settings.loss == "vicreg":
        return VicReg()
    if settings.loss == "nt-xent":
        if settings.positives != "views":
            _check_positives(settings.positives, labels)
        return NtXent(
            temperature=settings.temperature,
            similarity=settings.similarity,
            positives=settings.positives,
            negatives=settings.negatives,
        )
    num_treatments = _count_treatments(settings.loss, labels)
    if settings.loss == "spc":
        return SphericalClasses(num_treatments, num_features, temperature=settings.temperature)
    return SupCon(temperature=settings.temperature, similarity=settings.similarity)


def _name_labels(positives: str, negatives: str) -> str:
    used = {
        "cross-well": "treatments, whose cells in other wells are pulled together",
        "cross-plate": "treatments, whose cells on other plates are pulled together",
        "other-compounds": "treatments, since cells of a compound are not pushed apart",
        "other-wells": "plates and wells, since cells of a well are not pushed apart",
    }
    return "; ".join(used[choice] for choice in (positives, negatives) if choice in used) or "none"


def _send(
    numbers: Int[np.ndarray, " cell"] | None, projections: Float[Tensor, "view cell feature"]
) -> Int[Tensor, " cell"] | None:
    return None if numbers is None else torch.as_tensor(numbers, device=projections.device)


def _check_settings(settings: TrainSettings) -> None:
    if settings.loss != "nt-xent":
        for name, without in (("positives", "views"), ("negatives", "all")):
            found = getattr(settings, name)
            if found != without:
                raise SettingsError(
                    f"train.{name} is {found}, which only train.loss nt-xent knows, and train.loss is {settings.loss}. "
                    f"Set train.{name}: {without}, or train.loss: nt-xent."
                )
    if settings.loss in {"spc", "vicreg"} and settings.similarity != "cosine":
        why = "lies on a sphere" if settings.loss == "spc" else "compares no cell with another"
        raise SettingsError(
            f"train.similarity is {settings.similarity}, but train.loss {settings.loss} {why}. "
            "Leave train.similarity at cosine."
        )


def _check_positives(positives: str, labels: CellLabels | None) -> None:
    """Refuse positives that no cell has."""
    name, kind = ("wells", "well") if positives == "cross-well" else ("plates", "plate")
    if labels is None:
        raise SettingsError(
            f"train.positives is {positives}, but the cells have no labels. Set train.positives: views."
        )
    pairs = np.unique(np.stack([labels.treatments, getattr(labels, name)], axis=1), axis=0)
    if len(pairs) == len(np.unique(labels.treatments)):
        raise SettingsError(
            f"train.positives is {positives}, but every one of the {len(pairs):,} treatments is in a single {kind}, so "
            f"there would be no such positive. Set train.positives: views, or give replicates on more {name}."
        )


def _count_treatments(loss: str, labels: CellLabels | None) -> int:
    found = 0 if labels is None or not len(labels.treatments) else int(labels.treatments.max()) + 1
    if found < 2:
        raise SettingsError(
            f"train.loss is {loss}, which tells treatments apart; found {found}, expected two or more. "
            "Set train.loss: nt-xent."
        )
    return found
