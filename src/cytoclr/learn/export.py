"""A model as ONNX, for programs without PyTorch."""

import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from cytoclr.errors import MachineError, SettingsError
from cytoclr.learn.model import ModelDescription, build_encoder, read_model
from cytoclr.storage import open_atomic

__all__ = ["export_onnx"]

#: Of 2022: the runtimes in use read it.
_OPSET = 17


def export_onnx(source: Path, out: Path) -> Path:
    """Write the encoder of a model folder or checkpoint to an ONNX file.

    Its input ``crops`` is ``[cell, channel, height, width]``, float32, of any number of cells: crops scaled to 0..1 by
    the intensity rule, transformed, and resampled to the view's size, as the file's metadata name them
    (``cytoclr.channels``, ``cytoclr.transform``, ``cytoclr.view_size_px`` …). Its output ``embeddings`` is ``[cell,
    feature]``. Standardisation, where a model has one, is part of the network.

    Raises
    ------
    SettingsError
        There is no model, the file is there already, or its name does not end in ``.onnx``.
    MachineError
        The package onnx is not installed.
    DamagedError
        The model cannot be read.
    """
    if out.suffix != ".onnx":
        raise SettingsError(f"{out}: expected a name that ends in .onnx.")
    if out.exists():
        raise SettingsError(f"{out}: exists. Choose another name; nothing was changed.")
    try:
        import onnx
    except ImportError:
        raise MachineError("onnx is not installed. Install it: pip install 'cytoclr[onnx]'.") from None
    about, weights = read_model(source)
    encoder = build_encoder(about, weights, source)
    model = onnx.load_model_from_string(_trace(encoder.network, about))
    onnx.helper.set_model_props(model, _describe(about))
    onnx.checker.check_model(model)
    with open_atomic(out) as file:
        file.write(model.SerializeToString())
    return out


def _trace(network: nn.Module, about: ModelDescription) -> bytes:
    """Follow the network through two crops, and write down what it does as ONNX."""
    views = torch.zeros(2, len(about.channels), about.view_size_px, about.view_size_px)
    written = io.BytesIO()
    with warnings.catch_warnings():
        # the newer exporter needs one more package, onnxscript; what tracing warns of, sizes, are fixed here but cells
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            network,
            (views,),
            written,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=_OPSET,
            input_names=["crops"],
            output_names=["embeddings"],
            dynamic_axes={"crops": {0: "cell"}, "embeddings": {0: "cell"}},
        )
    return written.getvalue()


def _describe(about: ModelDescription) -> dict[str, str]:
    """What of the model's description its user needs: texts, or JSON where it is more than one."""
    told: dict[str, object] = {
        "channels": list(about.channels),
        "transform": about.transform,
        "crop_size_px": about.crop_size_px,
        "view_size_px": about.view_size_px,
        "pixel_size_um": about.pixel_size_um,
        "intensity": about.intensity,
        "backbone": about.backbone,
        "num_features": about.num_features,
        "labels_seen": about.labels_seen,
        "versions": about.versions,
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    return {f"cytoclr.{name}": text for name, text in texts.items()}
