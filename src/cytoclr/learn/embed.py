"""From crops to embeddings."""

import contextlib
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cytoclr.config import EmbedSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError, MachineError
from cytoclr.learn.dataset import read_minibatch
from cytoclr.learn.minibatch import Minibatch, prepare_crops
from cytoclr.learn.model import Encoder
from cytoclr.progress import Progress, Silent
from cytoclr.tables import EMBEDDINGS, check_table

__all__ = ["choose_device", "embed", "resize_crops"]


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
        Of `load_encoder` or `build_untrained_encoder`.
    settings
        Crops at a time, and precision.
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
    MachineError
        A GPU was asked for and there is none.

    Notes
    -----
    No randomness: crops are shown whole and unchanged, resampled where the encoder was trained at another size.
    """
    settings, progress = settings or EmbedSettings(), progress or Silent()
    if len(crops) != len(cells):
        raise DataError(f"{crops.folder}: {len(crops):,} crops for {len(cells):,} cells. Run the crop stage again.")
    metadata = check_table(cells.filter(like="Metadata_").reset_index(drop=True), EMBEDDINGS, "cells")
    place = choose_device(device)
    network = encoder.network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    was_training = network.training
    network.eval()
    precision = torch.autocast(place.type, torch.bfloat16) if settings.precision == "bf16" else contextlib.nullcontext()
    blocks: list[np.ndarray] = []
    progress.start("embed", len(crops), "cells")
    with torch.inference_mode(), precision:
        for start in range(0, len(crops), settings.minibatch_size):
            rows = np.arange(start, min(start + settings.minibatch_size, len(crops)))
            minibatch = Minibatch(*(tensor.to(place) for tensor in read_minibatch(crops, rows)))
            views = prepare_crops(minibatch, encoder.transform)
            views = resize_crops(views, encoder.view_size_px).contiguous(memory_format=torch.channels_last)
            blocks.append(network(views).float().cpu().numpy())
            progress.advance(len(rows))
    progress.finish()
    network.train(was_training)
    features = np.concatenate(blocks) if blocks else np.empty((0, network.num_features), dtype=np.float32)
    names = [f"Cells_SSL_{number:04d}" for number in range(features.shape[1])]
    return pd.concat([metadata, pd.DataFrame(features, columns=names)], axis=1)


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
