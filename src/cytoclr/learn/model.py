"""A trained encoder and what it expects of a crop; the model folder it is kept in."""

import importlib.metadata
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

from cytoclr.config import EmbedSettings, TrainSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DamagedError, DataError, SettingsError
from cytoclr.learn.draws import derive_seed
from cytoclr.learn.encoder import build_backbone, build_imagenet, build_projection
from cytoclr.storage import open_atomic, read_json, write_json, write_text

__all__ = [
    "Encoder",
    "ModelDescription",
    "build_imagenet_encoder",
    "build_untrained_encoder",
    "build_untrained_networks",
    "check_fine_tuning",
    "describe_model",
    "load_encoder",
    "read_checkpoint",
    "save_model",
]

log = logging.getLogger(__name__)

FORMAT = 1
#: Under this name a checkpoint carries the model's description and what identifies its run.
CHECKPOINT_ENTRY = "cytoclr"


@dataclass(frozen=True)
class ModelDescription:
    """What a model expects of a crop, and what it has seen: the content of ``model.json``."""

    backbone: str
    channels: tuple[str, ...]
    stains: dict[str, str]
    bit_depth: int | None
    crop_size_px: int
    view_size_px: int
    pixel_size_um: float | None
    intensity: dict[str, Any]
    transform: Literal["sqrt", "linear"]
    num_features: int
    labels_seen: str
    num_cells: int
    wells_trained: tuple[str, ...]
    wells_validated: tuple[str, ...]
    epochs: int
    settings: dict[str, Any]
    seed: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Encoder:
    """A backbone, and how a crop is made ready for it. Call `cytoclr.learn.embed.embed` with it."""

    network: nn.Module
    view_size_px: int
    transform: Literal["sqrt", "linear"]


def build_untrained_networks(settings: TrainSettings, num_channels: int, *, seed: int) -> tuple[nn.Module, nn.Module]:
    """Build the backbone and the projection head with the weights that training starts from.

    Raises
    ------
    SettingsError
        The backbone is unknown, or `fine_tune_from` is not a model of this backbone and number of channels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        backbone = build_backbone(
            settings.backbone, num_channels, view_size_px=settings.view_size_px, pretrained=settings.pretrained
        )
        num_features: int = backbone.num_features  # type: ignore[assignment]
        projection = build_projection(num_features, settings.projection_hidden, settings.projection_dim)
    if settings.fine_tune_from is not None:
        _load_weights(backbone, settings.fine_tune_from)
    return backbone, projection


def build_untrained_encoder(settings: TrainSettings, num_channels: int, seed: int) -> Encoder:
    """Build the encoder exactly as `train` starts from: random, pretrained or to be fine-tuned, as the settings say.

    Raises
    ------
    SettingsError
        As `build_untrained_networks`.
    """
    backbone, _ = build_untrained_networks(settings, num_channels, seed=seed)
    return Encoder(backbone.eval(), settings.view_size_px, settings.transform)


def build_imagenet_encoder(settings: EmbedSettings, num_channels: int, transform: Literal["sqrt", "linear"]) -> Encoder:
    """Build the encoder that ImageNet's pictures have made, as `settings.imagenet` names it.

    Raises
    ------
    SettingsError, MachineError
        As `cytoclr.learn.encoder.build_imagenet`.
    """
    assert settings.imagenet is not None
    network, view_size_px = build_imagenet(settings.imagenet, num_channels, weights=settings.imagenet_weights)
    return Encoder(network.eval(), view_size_px, transform)


def check_fine_tuning(settings: TrainSettings, crops: CropStore) -> None:
    """Refuse to go on with a model of other channels than the crops'.

    `settings.fine_tune_channels` says what the model's channels are called in the crops, where names differ.

    Raises
    ------
    SettingsError
        There is no model, or the mapping names a channel it does not have.
    DataError
        The channels differ in name or order.
    """
    source, renamed = settings.fine_tune_from, settings.fine_tune_channels
    if source is None:
        return
    description, _ = _read_model(source)
    unknown = [name for name in renamed if name not in description.channels]
    if unknown:
        raise SettingsError(
            f"train.fine_tune_channels names {', '.join(unknown)}; the model {source} has "
            f"{', '.join(description.channels)}. Expected {{the model's name: the crops' name}}.",
            code="CHAN002",
        )
    channels = tuple(renamed.get(name, name) for name in description.channels)
    stains = {renamed.get(name, name): stain for name, stain in description.stains.items()}
    _check_crops(replace(description, channels=channels, stains=stains), crops, source)


def _load_weights(backbone: nn.Module, source: Path) -> None:
    _, weights = _read_model(source)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise SettingsError(
            f"train.fine_tune_from: {source} does not fit the backbone ({str(error).splitlines()[-1].strip()}). "
            "Choose the backbone and number of channels it was trained with."
        ) from None


def describe_model(
    settings: TrainSettings,
    crops: CropStore,
    *,
    num_features: int,
    num_cells: int,
    wells_trained: Sequence[str],
    wells_validated: Sequence[str],
    seed: int,
) -> ModelDescription:
    """Put together what ``model.json`` says."""
    return ModelDescription(
        backbone=settings.backbone,
        channels=crops.channels,
        stains=crops.stains,
        bit_depth=crops.bit_depth,
        crop_size_px=crops.size_px,
        view_size_px=settings.view_size_px,
        pixel_size_um=crops.pixel_size_um,
        intensity=crops.intensity,
        transform=settings.transform,
        num_features=num_features,
        labels_seen="treatments, to balance minibatches" if settings.sampler == "balanced" else "none",
        num_cells=num_cells,
        wells_trained=tuple(wells_trained),
        wells_validated=tuple(wells_validated),
        epochs=settings.epochs,
        settings=settings.model_dump(mode="json"),
        seed=seed,
        versions={name: importlib.metadata.version(name) for name in ("cytoclr", "torch", "timm", "numpy")},
    )


def save_model(folder: Path, backbone: nn.Module, description: ModelDescription) -> None:
    """Write ``encoder.safetensors``, ``MODEL_CARD.md`` and, last, ``model.json``."""
    weights = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    with open_atomic(folder / "encoder.safetensors") as file:
        file.write(safetensors.torch.save(weights))
    write_text(folder / "MODEL_CARD.md", _write_card(description))
    write_json(folder / "model.json", {"format": FORMAT, **asdict(description)})


def load_encoder(source: Path, crops: CropStore) -> Encoder:
    """Load a trained encoder for these crops, from a model folder or one of its checkpoints.

    Parameters
    ----------
    source
        A folder with ``model.json`` and ``encoder.safetensors``, or a ``.ckpt`` file.
    crops
        What is to be embedded; its channels must be the model's, in the same order.

    Raises
    ------
    SettingsError
        There is no model there.
    DataError
        The channels differ in name or order.
    DamagedError
        The files are unreadable, or the weights are not those of the described backbone.

    Notes
    -----
    Only tensors and plain values are read: no code in a file is ever run.
    """
    description, weights = _read_model(source)
    _check_crops(description, crops, source)
    backbone = build_backbone(
        description.backbone, len(description.channels), view_size_px=description.view_size_px, pretrained=False
    )
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise DamagedError(
            f"{source}: the weights are not of a {description.backbone} ({error}). Train again."
        ) from None
    return Encoder(backbone.eval(), description.view_size_px, description.transform)


def _check_crops(model: ModelDescription, crops: CropStore, source: Path) -> None:
    """Refuse crops of other channels; say so where they were stained or imaged in another way."""
    if model.channels != crops.channels:
        raise DataError(
            f"{source}: the model was trained on the channels {', '.join(model.channels)}; the crops have "
            f"{', '.join(crops.channels)}. Expected the same names in the same order: crop the channels so "
            "(screen.channels), or where only names differ say so (train.fine_tune_channels).",
            code="CHAN001",
        )
    differing = {
        name: (model.stains[name], crops.stains[name])
        for name in crops.channels
        if name in model.stains and name in crops.stains and model.stains[name] != crops.stains[name]
    }
    for name, stains in differing.items():
        log.warning("%s: trained on %s stained by %s, in the crops it is %s", source, name, *stains)
    depths = (model.bit_depth, crops.bit_depth)
    if None not in depths and depths[0] != depths[1] and crops.intensity["rule"] == "full-range":
        log.warning("%s: trained on images of %d bit, the crops have %d bit", source, *depths)
    if model.intensity != crops.intensity:
        log.warning("%s: trained on intensities %s, the crops have %s", source, model.intensity, crops.intensity)
    if model.crop_size_px != crops.size_px:
        log.warning("%s: trained on crops of %d px, these have %d", source, model.crop_size_px, crops.size_px)
    sizes = (model.pixel_size_um, crops.pixel_size_um)
    if sizes[0] is not None and sizes[1] is not None and not math.isclose(sizes[0], sizes[1], rel_tol=1e-3):
        log.warning(
            "%s: trained on pixels of %g µm, the crops have %g µm: cells look larger or smaller", source, *sizes
        )


def _read_model(source: Path) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    if source.is_file():
        checkpoint = read_checkpoint(source)
        weights = {
            name.removeprefix("backbone."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("backbone.")
        }
        return _parse_description(checkpoint[CHECKPOINT_ENTRY]["model"], source), weights
    if not (source / "model.json").is_file():
        raise SettingsError(f"{source}: no model there. Expected a folder with model.json, or a .ckpt file.")
    weights_file = source / "encoder.safetensors"
    try:
        weights = safetensors.torch.load_file(weights_file)
    except (OSError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{weights_file}: cannot be read ({error}). Train again.") from error
    return _parse_description(read_json(source / "model.json"), source / "model.json"), weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; tensors and plain values only.

    Raises
    ------
    DamagedError
        It is unreadable, or none of ours.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint[CHECKPOINT_ENTRY]["model"], checkpoint["state_dict"]
    except Exception as error:  # torch raises whatever damaged bytes lead it to
        raise DamagedError(f"{path}: not a checkpoint of cytoclr, or damaged ({error}). Delete it.") from error
    return checkpoint


def _parse_description(values: dict[str, Any], source: Path) -> ModelDescription:
    try:
        values = {"stains": {}, "bit_depth": None, **values}  # models of 0.1 do not tell
        known = {field.name: values[field.name] for field in fields(ModelDescription)}
        lists = {name: tuple(known[name]) for name in ("channels", "wells_trained", "wells_validated")}
        return ModelDescription(**{**known, **lists})
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{source}: no description of a model ({error}). Train again.") from error


def _name_channel(name: str, stains: Mapping[str, str]) -> str:
    return f"{name} ({stains[name]})" if name in stains else name


def _write_card(about: ModelDescription) -> str:
    pixel = "unknown" if about.pixel_size_um is None else f"{about.pixel_size_um:g} µm"
    return f"""# Model card

An encoder of single cells, trained without mechanisms by SimCLR (Chen et al. 2020, arXiv:2002.05709) with cytoclr.

| | |
|---|---|
| Backbone | {about.backbone}, {about.num_features} features |
| Channels, in this order | {", ".join(_name_channel(name, about.stains) for name in about.channels)} |
| Crop | {about.crop_size_px} px of {pixel}; seen at {about.view_size_px} px |
| Intensities | {about.intensity}, then {about.transform} |
| Labels seen | {about.labels_seen} |
| Trained on | {about.num_cells:,} cells of {len(about.wells_trained):,} wells |
| Kept for validation | {len(about.wells_validated):,} wells |
| Epochs | {about.epochs} (the last is kept, whatever the validation said) |
| Seed | {about.seed} |
| Versions | {", ".join(f"{name} {version}" for name, version in about.versions.items())} |

It embeds cells of the screen it was trained on, and of screens stained, imaged and cropped alike. It has learnt
nothing of other stains, and what it tells apart is not all biology: check the profiles against batches and plate
positions. For research only; not for diagnosis.
"""
