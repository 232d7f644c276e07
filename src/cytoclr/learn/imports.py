"""Weights made elsewhere become a model folder: of the 2020 project, of torchvision, of timm."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.learn.encoder import build_backbone
from cytoclr.learn.minibatch import Transform
from cytoclr.learn.model import ModelDescription, list_versions, refuse_packed, save_model, tell_why_unread
from cytoclr.storage import hash_file

__all__ = ["ImportReport", "import_model"]

#: By these numbers the code of the 2020 project standardised its three channels
#: (SamriddhiJain/SimCLR-for-cell-profiling, data_aug/dataset_wrapper_simclr.py).
LEGACY_MEAN = (0.7469, 0.7403, 0.7307)
LEGACY_DEVIATION = (0.1548, 0.1594, 0.1706)

#: Where a checkpoint may keep its weights among other things.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
#: Parts of a network that only its loss or its classes need, and which are left out.
_HEADS = ("fc", "l1", "l2", "head", "classifier", "projection", "projection_head", "projector", "predictor")
#: What others call the parts of a network: ours -> theirs. The 2020 project took torchvision's ResNet apart into a row
#: of children, the third and fourth of which have no weights; its small network numbered its convolutions.
_SPELLINGS: tuple[dict[str, str], ...] = (
    {},
    {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"},
    {"layers.0": "conv1", "layers.3": "conv2", "layers.6": "conv3", "layers.9": "conv4"},
)


@dataclass(frozen=True)
class ImportReport:
    """What became of a file's tensors: how many are the encoder's, under which prefix, and which were left out."""

    num_tensors: int
    prefix: str
    left_out: tuple[str, ...]


def import_model(
    weights: Path,
    folder: Path,
    *,
    backbone: str,
    channels: Sequence[str],
    crop_size_px: int,
    view_size_px: int | None = None,
    transform: Transform = "linear",
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
    pixel_size_um: float | None = None,
    labels_seen: str = "none",
    prefix: str | None = None,
) -> ImportReport:
    """Write a model folder of weights that another program has saved.

    Parameters
    ----------
    weights
        A file of tensors: ``.safetensors``, or what ``torch.save`` wrote of a state dict or of a checkpoint with one.
    folder
        The model folder to write; it must not be there.
    backbone
        ``small-cnn``, ``seed-cnn`` or the name of a timm model; timm's ResNets are torchvision's.
    channels
        The channels that the network was shown, in their order.
    crop_size_px, view_size_px
        Height and width of the crops it was trained on, and of what it was shown; None: whole crops as they are.
    transform
        Of intensities 0..1. ``legacy`` for models of the 2020 project: bytes, inverted as its overflow did.
    mean, deviation
        By which its intensities were then standardised: a number a channel. None: not at all, or with ``legacy`` and
        three channels the numbers of that project's code.
    pixel_size_um
        Of the crops, if it is known.
    labels_seen
        What the weights have been told of the wells they embed: none, plates, treatments, mechanisms.
    prefix
        Of the tensors' names, where the file holds several such networks; None: found.

    Returns
    -------
    ImportReport
        What was taken and what was left out.

    Raises
    ------
    SettingsError
        The folder is there, the backbone is unknown, or an argument does not fit another.
    DataError
        The file cannot be read without running code in it; it lacks tensors of the backbone, has others, or has them in
        other shapes or with values that are not finite.

    Notes
    -----
    No code in the file is run: whatever is not a tensor or a plain value (an optimiser, a schedule) is passed over.
    """
    if folder.exists():
        raise SettingsError(f"{folder}: exists. Choose another name; nothing was changed.")
    standardise = _choose_standardisation(mean, deviation, len(channels), transform)
    view_size_px = view_size_px or crop_size_px
    network = build_backbone(backbone, len(channels), view_size_px=view_size_px)
    tensors = read_tensors(weights)
    wanted = network.state_dict()
    names, prefix = _match(wanted, tensors, prefix, weights)
    _check_complete(wanted, names, tensors, f"{weights}: not the weights of a {backbone} of {len(channels)} channels")
    left_out = _list_left_out(tensors, set(names.values()), prefix, f"{weights}: not the weights of a {backbone} alone")
    network.load_state_dict({**wanted, **{name: tensors[theirs] for name, theirs in names.items()}})
    about = ModelDescription(
        backbone=backbone,
        channels=tuple(channels),
        stains={},
        bit_depth=None,
        crop_size_px=crop_size_px,
        view_size_px=view_size_px,
        pixel_size_um=pixel_size_um,
        intensity={},
        transform=transform,
        num_features=int(network.num_features),  # type: ignore[arg-type]
        labels_seen=labels_seen if labels_seen == "none" else f"{labels_seen}, as told at the import",
        num_cells=None,
        wells_trained=(),
        wells_validated=(),
        epochs=None,
        settings={},
        seed=None,
        versions=list_versions(),
        standardise=standardise,
        imported_from=f"{weights.name} (SHA-256 {hash_file(weights)})",
    )
    save_model(folder, network, about)
    return ImportReport(len(names), prefix, left_out)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, by name; of several entries, that of the network.

    Raises
    ------
    DataError
        It cannot be read, or holds no such thing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected weights: .safetensors, .pth, .pt, .ckpt.")
    try:
        found = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _load_inert(path)
    except Exception as error:  # torch raises whatever damaged bytes lead it to
        raise DataError(
            f"{path}: cannot be read as tensors and plain values ({tell_why_unread(error)}). Expected a state dict, or "
            "a checkpoint with one; code in a file is never run."
        ) from error
    for state in _list_states(found):
        tensors = {name: value for name, value in state.items() if isinstance(name, str) and _is_plain(value)}
        if tensors:
            return tensors
    raise DataError(f"{path}: holds no tensors by name, nor under {', '.join(_ENTRIES)}. Expected a state dict.")


def _is_plain(value: object) -> bool:
    """Tell a tensor that lies in memory as it is: neither sparse, nor quantised, nor a shape alone."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


class _PassedOver:
    """Stands in for anything in a checkpoint that is neither tensor nor plain value."""

    def __new__(cls, *args: object, **more: object) -> "_PassedOver":
        return super().__new__(cls)

    def __init__(self, *args: object, **more: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _load_inert(path: Path) -> Any:
    """Load what ``torch.save`` wrote; whatever would need a class of its own becomes a `_PassedOver`.

    Old checkpoints hold their learning rate's schedule as an object, which torch rightly refuses to build.
    """
    refuse_packed(path)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # before torch 1.6 files were no archives: plain ones are read
        foreign = []
    with torch.serialization.safe_globals([(_PassedOver, name) for name in foreign]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _list_states(found: Any) -> Iterator[Mapping[str, Any]]:
    """Say where to look for tensors by name: in the usual entries first."""
    if isinstance(found, Mapping):
        yield from (found[name] for name in _ENTRIES if isinstance(found.get(name), Mapping))
        yield found


def _choose_standardisation(
    mean: Sequence[float] | None, deviation: Sequence[float] | None, num_channels: int, transform: Transform
) -> dict[str, list[float]] | None:
    if mean is None and deviation is None:
        if transform != "legacy":
            return None
        if num_channels != len(LEGACY_MEAN):
            raise SettingsError(
                f"legacy: the 2020 project standardised {len(LEGACY_MEAN)} channels, this model has {num_channels}. "
                "Name the mean and deviation of each."
            )
        mean, deviation = LEGACY_MEAN, LEGACY_DEVIATION
    for name, values in (("mean", mean), ("deviation", deviation)):
        if values is None or len(values) != num_channels or not all(map(math.isfinite, values)):
            raise SettingsError(f"{name}: expected {num_channels} numbers, one a channel; found {values}.")
    assert mean is not None
    assert deviation is not None
    if min(deviation) <= 0.0:
        raise SettingsError(f"deviation: expected numbers above nought; found {list(deviation)}.")
    return {"mean": list(mean), "deviation": list(deviation)}


def _match(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str | None, path: Path
) -> tuple[dict[str, str], str]:
    """Find each tensor of the backbone under its name there: by the spelling and prefix that fit most of them."""
    best: dict[str, str] = {}
    chosen = ""
    others: list[str] = []
    for spelling in _SPELLINGS:
        spelled = {name: _spell(name, spelling) for name in wanted}
        for start in _list_prefixes(spelled, tensors) if prefix is None else [prefix]:
            found = {name: start + theirs for name, theirs in spelled.items() if start + theirs in tensors}
            if len(found) > len(best):
                best, chosen, others = found, start, []
            elif found and len(found) == len(best) and found != best:
                others.append(start)
    if others:
        raise SettingsError(
            f"{path}: holds several such networks, under {', '.join(map(repr, sorted({chosen, *others})))}. "
            "Choose one by its prefix."
        )
    return best, chosen


def _spell(name: str, spelling: Mapping[str, str]) -> str:
    for ours, theirs in spelling.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name


def _list_prefixes(spelled: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[str]:
    """List what stands before the first wanted weight's name: nothing, ``module.``, ``encoder.backbone.`` …"""
    first = next(iter(spelled.values()))
    return [name[: -len(first)] for name in tensors if name == first or name.endswith(f".{first}")]


def _check_complete(
    wanted: Mapping[str, Tensor], names: Mapping[str, str], tensors: Mapping[str, Tensor], problem: str
) -> None:
    missing = [name for name in wanted if name not in names and not name.endswith("num_batches_tracked")]
    if missing:
        raise DataError(
            f"{problem}: lacks {len(missing)} of {len(wanted)} tensors, {list_some(missing)}. Found: "
            f"{list_some(list(tensors))}."
        )
    for name, theirs in names.items():
        found, expected = tensors[theirs], wanted[name]
        if found.shape != expected.shape:
            raise DataError(
                f"{problem}: {theirs} is {_measure(found)}, expected {_measure(expected)}. Choose the backbone and the "
                "channels it was trained with."
            )
        if not bool(torch.isfinite(found).all()):
            raise DataError(f"{problem}: {theirs} has values that are not finite numbers.")


def _measure(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _list_left_out(tensors: Mapping[str, Tensor], taken: set[str], prefix: str, problem: str) -> tuple[str, ...]:
    """List the tensors of heads and of what lies outside the encoder; refuse others."""
    left_out = sorted(name for name in tensors if name not in taken)
    unknown = [name for name in left_out if name.startswith(prefix) and name[len(prefix) :].split(".")[0] not in _HEADS]
    if unknown:
        raise DataError(
            f"{problem}: has {len(unknown)} tensors that such a network has not, {list_some(unknown)}. Choose the "
            "backbone it was trained with."
        )
    return tuple(left_out)
