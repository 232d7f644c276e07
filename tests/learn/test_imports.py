"""Weights made elsewhere embed as they did there, and nothing in their files is run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from conftest import MakeScreen
from torch import Tensor, nn
from torch.nn import functional

from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError, SettingsError
from cytoclr.learn import embed, load_encoder
from cytoclr.learn.imports import LEGACY_DEVIATION, LEGACY_MEAN, ImportReport, import_model
from cytoclr.learn.minibatch import Minibatch, prepare_crops

CHANNELS = ("DNA", "Tubulin", "Actin")


class TakenApart(nn.Module):
    """A torchvision network as the 2020 project wrapped it: its children in a row, and a head of two layers."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*list(resnet.children())[:-1])
        self.l1, self.l2 = nn.Linear(512, 512), nn.Linear(512, 256)

    def forward(self, views: Tensor) -> Tensor:
        return self.features(views).flatten(1)


def make_teacher() -> TakenApart:
    torch.manual_seed(3)
    network = TakenApart(torchvision.models.resnet18())
    network(torch.rand(8, 3, 24, 24))  # batch norms have seen something
    return network.eval()


def read_bytes(crops: CropStore) -> np.ndarray:
    """What the 2020 project read of a crop: bytes."""
    rows = np.arange(len(crops))
    low, high = crops.read_ranges(rows)
    scaled = (crops.read(rows) - low[..., None, None]) / (high - low)[..., None, None]
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)


def import_resnet(weights: Path, folder: Path, **more: Any) -> ImportReport:
    values: dict[str, Any] = {"backbone": "resnet18", "channels": CHANNELS, "crop_size_px": 24}
    return import_model(weights, folder, **{**values, **more})


def test_a_checkpoint_of_2020_embeds_as_its_own_network_did(make_screen: MakeScreen, tmp_path: Path) -> None:
    teacher = make_teacher()
    optimiser = torch.optim.Adam(teacher.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5)  # an object, as that project saved it
    path = tmp_path / "model_latest.pth"
    state = {"epoch": 3, "state_dict": teacher.state_dict(), "scheduler": schedule}
    torch.save({**state, "optimizer_state_dict": optimiser.state_dict()}, path)
    told = import_resnet(path, tmp_path / "model", transform="legacy")
    assert (told.prefix, told.left_out) == ("features.", ("l1.bias", "l1.weight", "l2.bias", "l2.weight"))
    crops, cells = make_screen(num_channels=3)
    found = embed(crops, cells, load_encoder(tmp_path / "model", crops), device="cpu").filter(like="SSL")
    # its reading: floats times 255, cut off to a byte, which for a whole number x is 256 - x
    overflown = (read_bytes(crops).astype(np.int64) * 255 % 256).astype(np.float32) / 255
    mean, deviation = (np.array(values)[:, None, None] for values in (LEGACY_MEAN, LEGACY_DEVIATION))
    with torch.inference_mode():
        expected = teacher(torch.tensor((overflown - mean) / deviation, dtype=torch.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (about["transform"], about["standardise"]["mean"]) == ("legacy", list(LEGACY_MEAN))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "imported from model_latest.pth" in card
    assert "then legacy, less [0.7469" in card


def test_legacy_inverts_bytes_but_nought() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    whole = Minibatch(torch.zeros(1, dtype=torch.int64), numbers, torch.zeros(1, 1), torch.full((1, 1), 255.0))
    found = prepare_crops(whole, "legacy").flatten() * 255
    expected = [0.0, *(256.0 - x for x in range(1, 256))]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder."])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_prefixes_are_found_and_heads_left_out(tmp_path: Path, prefix: str, ending: str) -> None:
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=7, in_chans=2)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1}, path)
    told = import_model(
        path, tmp_path / "model", backbone="test_resnet", channels=["DNA", "ER"], crop_size_px=32, labels_seen="plates"
    )
    assert (told.prefix, told.left_out) == (prefix, (f"{prefix}fc.bias", f"{prefix}fc.weight"))
    written = safetensors.torch.load_file(tmp_path / "model" / "encoder.safetensors")
    assert all(torch.equal(value, state[prefix + name]) for name, value in written.items())
    assert json.loads((tmp_path / "model" / "model.json").read_text())["labels_seen"].startswith("plates,")


def test_the_small_network_of_2020_is_read_by_its_numbers(make_screen: MakeScreen, tmp_path: Path) -> None:
    torch.manual_seed(2)
    widths = [3, 16, 32, 64, 64]
    layers = {f"conv{n}": nn.Conv2d(widths[n - 1], widths[n], 3, padding=1) for n in (1, 2, 3, 4)}
    network = nn.ModuleDict({**layers, "l1": nn.Linear(64, 64), "l2": nn.Linear(64, 64)})
    torch.save(network.state_dict(), tmp_path / "model.pth", _use_new_zipfile_serialization=False)  # as torch 1.5 did
    import_resnet(tmp_path / "model.pth", tmp_path / "model", backbone="seed-cnn")
    crops, cells = make_screen(num_channels=3)
    found = embed(crops, cells, load_encoder(tmp_path / "model", crops), device="cpu").filter(like="SSL")
    rows = np.arange(len(crops))
    tensors = (torch.from_numpy(array) for array in (rows, crops.read(rows), *crops.read_ranges(rows)))
    views = prepare_crops(Minibatch(*tensors), "linear")
    with torch.inference_mode():
        for layer in layers.values():
            views = functional.max_pool2d(functional.relu(layer(views)), 2)
    np.testing.assert_allclose(found, views.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_of_two_networks_one_is_chosen(tmp_path: Path) -> None:
    networks = {}
    for number, name in enumerate(("student", "teacher")):
        torch.manual_seed(number)
        networks[name] = timm.create_model("test_resnet", num_classes=0, in_chans=1).state_dict()
    state = {f"{which}.{name}": value for which, weights in networks.items() for name, value in weights.items()}
    safetensors.torch.save_file(state, tmp_path / "both.safetensors")
    values: dict[str, Any] = {"backbone": "test_resnet", "channels": ["DNA"], "crop_size_px": 32}
    with pytest.raises(SettingsError, match=r"several such networks, under 'student\.', 'teacher\.'"):
        import_model(tmp_path / "both.safetensors", tmp_path / "model", **values)
    import_model(tmp_path / "both.safetensors", tmp_path / "model", prefix="teacher.", **values)
    written = safetensors.torch.load_file(tmp_path / "model" / "encoder.safetensors")
    assert all(torch.equal(written[name], value) for name, value in networks["teacher"].items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = make_teacher().state_dict()
    path = tmp_path / "weights.pth"

    def refuse(match: str, error: type[Exception] = DataError, **more: Any) -> None:
        with pytest.raises(error, match=match):
            import_resnet(path, tmp_path / "model", **more)
        assert not (tmp_path / "model").exists()

    refuse("no such file")
    torch.save(state, path)
    refuse(r"lacks \d+ of \d+ tensors, layer", backbone="resnet34")
    refuse(r"features\.0\.weight is 64 x 3 x 7 x 7, expected 64 x 2 x 7 x 7", channels=("DNA", "Actin"))
    refuse("2020 project standardised 3 channels", SettingsError, channels=("DNA", "Actin"), transform="legacy")
    refuse("mean: expected 3 numbers", SettingsError, mean=[0.5], deviation=[0.5])
    refuse("deviation: expected numbers above nought", SettingsError, mean=[0.5] * 3, deviation=[0.5, 0.0, 1.0])
    refuse("'resnet19' is neither", SettingsError, backbone="resnet19")
    torch.save({**state, "features.9.weight": torch.ones(1)}, path)
    refuse(r"1 tensors that such a network has not, features\.9\.weight")
    torch.save({**state, "features.1.bias": torch.full((64,), torch.nan)}, path)
    refuse("values that are not finite")
    torch.save([1, 2], path)
    refuse("holds no tensors by name")
    path.write_bytes(b"not a file of torch")
    refuse("cannot be read as tensors and plain values")
    (tmp_path / "there").mkdir()
    with pytest.raises(SettingsError, match="there: exists"):
        import_resnet(path, tmp_path / "there")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise AssertionError('code in weights was run')",))


@pytest.mark.promise("Nobody let in", "Code in weights that are imported is never run")
def test_code_in_weights_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": make_teacher().state_dict(), "scheduler": Bomb()}, path)
    import_resnet(path, tmp_path / "model")  # the object is passed over, not built
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(DataError, match="holds no tensors by name"):
        import_resnet(path, tmp_path / "other")
    torch.save({"state_dict": Bomb()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="cannot be read as tensors"):
        import_resnet(path, tmp_path / "other")
