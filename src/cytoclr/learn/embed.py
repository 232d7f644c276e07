"""From crops to embeddings."""

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cytoclr.config import EmbedSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError, MachineError, SettingsError, list_some
from cytoclr.learn.dataset import read_minibatch
from cytoclr.learn.encoder import build_lean
from cytoclr.learn.minibatch import prepare_crops
from cytoclr.learn.model import Encoder
from cytoclr.progress import Progress, Silent
from cytoclr.tables import EMBEDDINGS, check_table, is_control, sort_naturally

__all__ = [
    "check_recalibration",
    "choose_device",
    "embed",
    "find_uncalibrated_plates",
    "has_batch_norms",
    "recalibrate",
    "resize_crops",
]

log = logging.getLogger(__name__)

#: Fewer control cells than this tell a plate's statistics too badly.
MIN_CONTROL_CELLS = 16
#: Cells whose statistics are taken together, whatever the minibatches of embedding.
_CALIBRATION_CELLS = 256


def embed(
    crops: CropStore,
    cells: pd.DataFrame,
    encoder: Encoder,
    settings: EmbedSettings | None = None,
    *,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Embed every crop: the table of embeddings, a row a cell.

    Parameters
    ----------
    crops, cells
        The crops, and their table in the same order.
    encoder
        Of `load_encoder` or `build_untrained_encoder`; it is left as it was.
    settings
        Crops at a time, precision, turned views that are averaged, and whether the statistics of batch norms are
        estimated anew on each plate's controls.
    device
        ``auto``: a GPU where there is one.
    progress
        Told of every minibatch.

    Returns
    -------
    pandas.DataFrame
        The cells' ``Metadata_`` columns and ``Cells_SSL_0000`` …, float32.

    Raises
    ------
    DataError
        Crops and cells differ in number, or the table of cells lacks a column.
    SettingsError
        Statistics are to be estimated anew, and the network has no batch norm.
    MachineError
        A GPU was asked for and there is none.

    Notes
    -----
    No randomness: crops are shown whole and unchanged, resampled where the encoder was trained at another size. Turns
    by quarters and mirrors move pixels and resample nothing. The size of the minibatch changes rounding alone.
    """
    settings, progress = settings or EmbedSettings(), progress or Silent()
    if len(crops) != len(cells):
        raise DataError(f"{crops.folder}: {len(crops):,} crops for {len(cells):,} cells. Run the crop stage again.")
    metadata = check_table(cells.filter(like="Metadata_").reset_index(drop=True), EMBEDDINGS, "cells")
    if settings.recalibrate == "plate-controls":
        check_recalibration(encoder.network)
    show = _Show(crops, encoder, choose_device(device))
    features = np.empty((len(crops), int(encoder.network.num_features)), dtype=np.float32)  # type: ignore[arg-type]
    progress.start("embed", len(crops), "cells")
    with torch.inference_mode():
        for network, rows in _divide(metadata, encoder.network, settings, show):
            infer = network if settings.precision == "32" else _build_half(network, show(rows[:2]))
            for start in range(0, len(rows), settings.minibatch_size):
                part = rows[start : start + settings.minibatch_size]
                features[part] = _embed_turned(infer, show(part), settings.rotations).cpu().numpy()
                progress.advance(len(part))
    progress.finish()
    names = [f"Cells_SSL_{number:04d}" for number in range(features.shape[1])]
    return pd.concat([metadata, pd.DataFrame(features, columns=names)], axis=1)


class _Show:
    """Shows an encoder the crops of some rows, as it is used to them, where it computes."""

    def __init__(self, crops: CropStore, encoder: Encoder, place: torch.device) -> None:
        self._crops, self._encoder, self.place = crops, encoder, place

    def __call__(self, rows: Int[np.ndarray, " cell"]) -> Float[Tensor, "cell channel view_height view_width"]:
        crops = prepare_crops(read_minibatch(self._crops, rows).move_to(self.place), self._encoder.transform)
        views = resize_crops(crops, self._encoder.view_size_px)
        return views.contiguous(memory_format=torch.channels_last)


def _divide(
    cells: pd.DataFrame, network: nn.Module, settings: EmbedSettings, show: _Show
) -> Iterator[tuple[nn.Module, Int[np.ndarray, " cell"]]]:
    """Say which network embeds which rows: one all of them, or each plate's own."""
    own = _copy_to(network, show.place)
    if settings.recalibrate == "none":
        yield own, np.arange(len(cells))
        return
    few = find_uncalibrated_plates(cells)
    if few:
        log.warning(
            "%d of %d plates have fewer than %d control cells and are embedded with the statistics of training: %s",
            len(few),
            cells["Metadata_Plate"].nunique(),
            MIN_CONTROL_CELLS,
            list_some([f"{plate} ({count})" for plate, count in few.items()]),
        )
    controls = is_control(cells).to_numpy()
    numbers, plates = pd.factorize(cells["Metadata_Plate"])
    for number, plate in enumerate(plates):
        rows = np.flatnonzero(numbers == number)
        yield (own if plate in few else recalibrate(own, show, rows[controls[rows]])), rows


def find_uncalibrated_plates(cells: pd.DataFrame) -> dict[str, int]:
    """Find the plates with too few control cells to estimate statistics on, and how many they have."""
    counts = is_control(cells).groupby(cells["Metadata_Plate"]).sum()
    return {plate: int(counts[plate]) for plate in sort_naturally(counts.index[counts < MIN_CONTROL_CELLS])}


def recalibrate(
    network: nn.Module,
    show: Callable[[Int[np.ndarray, " cell"]], Float[Tensor, "cell channel view_height view_width"]],
    controls: Int[np.ndarray, " control_cell"],
) -> nn.Module:
    """Return a copy of a network whose batch norms have the statistics of these cells, on which they were not trained.

    Parameters
    ----------
    network
        It stays as it is.
    show
        Returns the views of rows.
    controls
        Rows of untreated cells, two or more. They are taken in sets of up to 256 of much the same size, whose means and
        variances are averaged; each set has cells from all over.

    Notes
    -----
    Nothing but the running means and variances of batch norms changes. Deeper layers' statistics are those they have
    once the layers before them are normalised by the set's own.
    """
    own = copy.deepcopy(network)
    for norm in _list_batch_norms(own):
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the sets
        norm.train()
    num_sets = -(-len(controls) // _CALIBRATION_CELLS)
    with torch.no_grad():
        for number in range(num_sets):
            own(show(controls[number::num_sets]))
    return own.eval()


def has_batch_norms(network: nn.Module) -> bool:
    """Tell whether a network normalises by running statistics."""
    return bool(_list_batch_norms(network))


def check_recalibration(network: nn.Module) -> None:
    """Refuse to estimate statistics that a network does not have.

    Raises
    ------
    SettingsError
        It has no batch norm.
    """
    if not has_batch_norms(network):
        raise SettingsError(
            "embed.recalibrate: plate-controls estimates the statistics of batch norms, and this backbone has none. "
            "Set it to none, or choose another backbone."
        )


def _list_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]


def _copy_to(network: nn.Module, place: torch.device) -> nn.Module:
    """Copy a network to where it computes, in the order of axes that convolutions are fastest with."""
    return copy.deepcopy(network).to(place, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def _build_half(network: nn.Module, views: Float[Tensor, "cell channel height width"]) -> Callable[[Tensor], Tensor]:
    """Return what embeds views in half the precision; a few of them are given to try it on."""
    lean = build_lean(network, views)
    return lambda more: lean(more.to(torch.bfloat16)).float()


def _embed_turned(
    infer: Callable[[Tensor], Tensor], views: Float[Tensor, "cell channel height width"], rotations: int
) -> Float[Tensor, "cell feature"]:
    """Average the embeddings of turned views."""
    total = infer(views)
    for turned in _turn(views, rotations):
        total = total + infer(turned.contiguous(memory_format=torch.channels_last))
    return total / rotations


def _turn(views: Float[Tensor, "cell channel height width"], rotations: int) -> Iterator[Tensor]:
    """Yield the other ways up: half a turn, or quarter turns, and with 8 the mirror of each."""
    for quarters in {1: (), 2: (2,)}.get(rotations, (1, 2, 3)):
        yield torch.rot90(views, quarters, dims=(2, 3))
    if rotations == 8:
        mirrored = views.flip(3)
        yield mirrored
        yield from _turn(mirrored, 4)


def resize_crops(
    crops: Float[Tensor, "cell channel height width"], size_px: int
) -> Float[Tensor, "cell channel view_height view_width"]:
    """Resample whole crops to another size, smoothing where they shrink; the same size is left as it is."""
    if crops.shape[-1] == size_px:
        return crops
    return functional.interpolate(crops, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def choose_device(device: Literal["auto", "cpu", "gpu"]) -> torch.device:
    """Choose where to compute.

    Raises
    ------
    MachineError
        A GPU was asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise MachineError("device: gpu, but torch finds no CUDA GPU here. Use auto or cpu.")
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
