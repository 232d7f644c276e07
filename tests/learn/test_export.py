"""A model as ONNX gives what it gives in PyTorch."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cytoclr.errors import MachineError, SettingsError
from cytoclr.learn.encoder import build_backbone
from cytoclr.learn.export import export_onnx
from cytoclr.learn.imports import import_model
from cytoclr.learn.model import build_encoder, read_model

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def write_model(folder: Path, backbone: str, num_channels: int, **more: Any) -> Path:
    torch.manual_seed(0)
    network = build_backbone(backbone, num_channels, view_size_px=48)
    network(torch.rand(8, num_channels, 48, 48))  # batch norms have seen something
    torch.save(network.state_dict(), folder / "weights.pth")
    names = ["DNA", "Tubulin", "Actin", "ER", "Mito"][:num_channels]
    import_model(folder / "weights.pth", folder / "model", backbone=backbone, channels=names, crop_size_px=48, **more)
    return folder / "model"


@pytest.mark.parametrize(
    ("backbone", "num_channels", "more"),
    [
        ("small-cnn", 2, {}),
        ("test_resnet", 5, {}),
        ("test_vit", 1, {}),
        ("seed-cnn", 3, {"transform": "legacy"}),
    ],
)
def test_onnx_embeds_any_number_of_cells_as_torch_does(
    tmp_path: Path, backbone: str, num_channels: int, more: dict[str, Any]
) -> None:
    model = write_model(tmp_path, backbone, num_channels, **more)
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "out" / "encoder.onnx"))
    encoder = build_encoder(*read_model(model), model)
    for num_cells in (1, 7):
        views = torch.rand(num_cells, num_channels, 48, 48)
        (found,) = session.run(["embeddings"], {"crops": views.numpy()})
        with torch.inference_mode():
            expected = encoder.network(views).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["cytoclr.channels"]) == ["DNA", "Tubulin", "Actin", "ER", "Mito"][:num_channels]
    assert (told["cytoclr.view_size_px"], told["cytoclr.transform"]) == ("48", more.get("transform", "linear"))


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path, "seed-cnn", 1)
    with pytest.raises(SettingsError, match=r"encoder\.pt: expected a name that ends in \.onnx"):
        export_onnx(model, tmp_path / "encoder.pt")
    (tmp_path / "there.onnx").touch()
    with pytest.raises(SettingsError, match=r"there\.onnx: exists"):
        export_onnx(model, tmp_path / "there.onnx")
    with pytest.raises(SettingsError, match="no model there"):
        export_onnx(tmp_path, tmp_path / "encoder.onnx")
    real_import = builtins.__import__

    def without_onnx(name: str, *args: Any, **more: Any) -> Any:
        if name == "onnx":
            raise ImportError(name)
        return real_import(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(MachineError, match=r"pip install 'cytoclr\[onnx\]'"):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert not (tmp_path / "encoder.onnx").exists()
