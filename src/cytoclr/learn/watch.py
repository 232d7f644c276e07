"""What tells whether training goes well: how many dimensions embeddings fill, what cannot be, what views look like."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cytoclr.config import TrainSettings
from cytoclr.errors import SettingsError
from cytoclr.learn.loss import measure_rank

__all__ = ["explain_collapse", "lay_out_views", "measure_clouds", "measure_spread", "refuse_not_finite"]

#: Of a larger minibatch so many cells are measured: the singular values of more take seconds.
MAX_CELLS = 1024
#: Epochs after the warm-up that any training is given before it is judged.
EPOCHS_GIVEN = 3
#: A rank of one is one direction for all cells. With `laptop`'s settings on the demo's screen, epochs had 36 to 67 of
#: 128, also in a training of only 30 steps; below two nothing is left to tell treatments by.
MIN_RANK = 2.0
#: Projections whose spread is a hundredth have a mean cosine of 1 - 0.01²: at the lowest temperatures in use (0.05)
#: their logits differ by some 0.002, which bfloat16 does not resolve. In the same trainings judged epochs had 0.75 and
#: more.
MIN_SPREAD = 0.01
#: Share of the loss of guessing by which a loss differs that has learnt nothing. A loss at guessing is crossed on the
#: way down in the first steps, so it only counts after the epochs given.
GUESS_TOLERANCE = 0.01


def measure_clouds(
    embeddings: Float[Tensor, "cell feature"], projections: Float[Tensor, "view cell projected_feature"]
) -> dict[str, float]:
    """Measure how many dimensions a minibatch's embeddings and projections fill, and how far apart projections lie.

    Parameters
    ----------
    embeddings, projections
        Of the same minibatch; of both, the first view is measured, and at most `MAX_CELLS` cells.

    Returns
    -------
    dict
        ``embedding_rank`` and ``projection_rank`` (effective rank, RankMe, Garrido et al. 2023), from 1 to the
        features or cells, whichever are fewer; ``embedding_rank_share``, of the features; ``projection_spread``.
    """
    embeddings, projections = embeddings[:MAX_CELLS].float(), projections[0, :MAX_CELLS].float()
    embedding_rank = float(measure_rank(embeddings))
    return {
        "embedding_rank": embedding_rank,
        "embedding_rank_share": embedding_rank / embeddings.shape[1],
        "projection_rank": float(measure_rank(projections)),
        "projection_spread": float(measure_spread(projections)),
    }


def measure_spread(projections: Float[Tensor, "cell feature"]) -> Float[Tensor, ""]:
    """Standard deviation of projections scaled to length one, all features together: sqrt(1 - |their mean|²).

    Nought where all cells look alike, one where they lie around the sphere in all directions.
    """
    directions = functional.normalize(projections.double(), dim=1)
    return directions.var(dim=0, correction=0).sum().sqrt()


def explain_collapse(values: Mapping[str, float], *, epoch: int, num_cells: int, settings: TrainSettings) -> str | None:
    """Say in what an epoch's values show that the encoder tells no cells apart; None where it does, or it is too early.

    Parameters
    ----------
    values
        Of `measure_clouds`, and ``train_loss``.
    epoch
        From one.
    num_cells
        Cells of a minibatch, on all devices.
    """
    if epoch < math.ceil(settings.warmup_epochs) + EPOCHS_GIVEN:
        return None
    if values["embedding_rank"] < MIN_RANK:
        return (
            f"embeddings fill {values['embedding_rank']:.1f} dimensions (effective rank), expected {MIN_RANK:g} or more"
        )
    if values["projection_spread"] < MIN_SPREAD:
        return f"projections have a spread of {values['projection_spread']:.2g}, expected {MIN_SPREAD:g} or more"
    guessing = math.log(2 * num_cells - 1)
    # of other losses the terms differ
    is_plain = (settings.loss, settings.positives, settings.negatives) == ("nt-xent", "views", "all")
    if is_plain and abs(values["train_loss"] / guessing - 1.0) < GUESS_TOLERANCE:
        return f"the loss is {values['train_loss']:.3f}; it is {guessing:.3f} where all {num_cells} cells look alike"
    return None


def refuse_not_finite(
    what: str, value: float, *, epoch: int, step: int, settings: TrainSettings, kept: Path | None = None
) -> SettingsError:
    """Make the refusal to go on with a number that is none.

    Parameters
    ----------
    what, value
        The loss, the gradient's length …, and what it came to.
    epoch, step
        The epoch, from one, and how many steps were done.
    kept
        Where the minibatch is; None: it is not to blame alone.
    """
    where = "" if kept is None else f" {kept} has the minibatch: cytoclr.learn.replay does its step again."
    return SettingsError(
        f"train: the {what} is {value} after step {step} (epoch {epoch}), expected a finite number. Lower "
        f"train.learning_rate (now {settings.learning_rate:g}), raise train.temperature (now "
        f"{settings.temperature:g}), or compute more exactly: train.precision: 32 (now {settings.precision}). The last "
        f"whole epoch is in checkpoints/.{where}"
    )


def lay_out_views(
    crops: Float[Tensor, "cell channel height width"], views: Float[Tensor, "view cell channel height width"]
) -> UInt8[np.ndarray, "picture_height picture_width"]:
    """Lay out crops and their views, all 0..1, as one grey picture: a column a cell.

    From the top: the first channel's crops, their first views, their second views; then the second channel's.
    """
    pictures = torch.cat([crops[None], views]).clamp(0.0, 1.0).mul(255.0).round()
    num_views, num_cells, num_channels, height, width = pictures.shape
    rows = pictures.permute(2, 0, 3, 1, 4).reshape(num_channels * num_views * height, num_cells * width)
    found: np.ndarray = rows.to("cpu", torch.uint8).numpy()
    return found
