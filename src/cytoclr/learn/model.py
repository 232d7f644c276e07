"""A trained encoder and what it expects of a crop; the model folder it is kept in."""

import hashlib
import importlib.metadata
import logging
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import nn

from cytoclr.config import EmbedSettings, TrainSettings
from cytoclr.data.crops import MAX_SIZE_PX, CropStore
from cytoclr.errors import DamagedError, DataError, SettingsError
from cytoclr.learn.draws import derive_seed
from cytoclr.learn.encoder import Standardised, build_backbone, build_imagenet, build_projection
from cytoclr.learn.minibatch import Transform
from cytoclr.storage import hash_file, open_atomic, read_json, write_json, write_text

__all__ = [
    "Encoder",
    "ModelDescription",
    "build_encoder",
    "build_imagenet_encoder",
    "build_untrained_encoder",
    "build_untrained_networks",
    "build_untrained_peer",
    "check_fine_tuning",
    "describe_model",
    "list_versions",
    "load_encoder",
    "read_checkpoint",
    "read_model",
    "refuse_packed",
    "save_model",
    "tell_why_unread",
]

log = logging.getLogger(__name__)

FORMAT = 1
#: Under this name a checkpoint carries the model's description and what identifies its run.
CHECKPOINT_ENTRY = "cytoclr"
#: Under this name ``model.json`` has the SHA-256 of ``encoder.safetensors``.
WEIGHTS_ENTRY = "weights_sha256"


@dataclass(frozen=True)
class ModelDescription:
    """What a model expects of a crop, and what it has seen: the content of ``model.json``.

    `standardise` has ``mean`` and ``deviation``, a number a channel, for weights that were trained on standardised
    intensities. Of a model that was imported, `imported_from` names the file; what the file does not tell is None.
    """

    backbone: str
    channels: tuple[str, ...]
    stains: dict[str, str]
    bit_depth: int | None
    crop_size_px: int
    view_size_px: int
    pixel_size_um: float | None
    intensity: dict[str, Any]
    transform: Transform
    num_features: int
    labels_seen: str
    num_cells: int | None
    wells_trained: tuple[str, ...]
    wells_validated: tuple[str, ...]
    epochs: int | None
    settings: dict[str, Any]
    seed: int | None
    versions: dict[str, str]
    standardise: dict[str, list[float]] | None = None
    imported_from: str | None = None


_DESCRIPTION = TypeAdapter(ModelDescription)


@dataclass(frozen=True)
class Encoder:
    """A backbone, and how a crop is made ready for it. Call `cytoclr.learn.embed.embed` with it.

    `about` is what is known of a trained one.
    """

    network: nn.Module
    view_size_px: int
    transform: Transform
    about: ModelDescription | None = None


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


def build_untrained_peer(about: ModelDescription, *, seed: int) -> Encoder:
    """Build what a model of elsewhere must beat: its backbone, shown the same, with weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        backbone = build_backbone(about.backbone, len(about.channels), view_size_px=about.view_size_px)
    return _show(backbone, replace(about, labels_seen="none"))


def build_imagenet_encoder(settings: EmbedSettings, num_channels: int, transform: Transform) -> Encoder:
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
    description, _ = read_model(source)
    description = _rename_channels(description, renamed, source, setting="train.fine_tune_channels")
    _check_crops(description, crops, source, setting="train.fine_tune_channels")
    shown = (description.transform, description.standardise)
    if shown != (settings.transform, None):
        log.warning(
            "%s: was shown intensities %s, standardised by %s; training goes on with %s, not standardised",
            source,
            *shown,
            settings.transform,
        )


def _rename_channels(
    model: ModelDescription, renamed: Mapping[str, str], source: Path, *, setting: str
) -> ModelDescription:
    """Call the model's channels as they are called in the crops."""
    unknown = [name for name in renamed if name not in model.channels]
    if unknown:
        raise SettingsError(
            f"{setting} names {', '.join(unknown)}; the model {source} has {', '.join(model.channels)}. Expected "
            "{the model's name: the crops' name}.",
            code="CHAN002",
        )
    channels = tuple(renamed.get(name, name) for name in model.channels)
    stains = {renamed.get(name, name): stain for name, stain in model.stains.items()}
    return replace(model, channels=channels, stains=stains)


def _load_weights(backbone: nn.Module, source: Path) -> None:
    _, weights = read_model(source)
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
    labels_seen: str = "none",
) -> ModelDescription:
    """Put together what ``model.json`` says; `labels_seen` are those of the loss, to which the sampler's are added."""
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
        labels_seen=_add_labels(labels_seen, _SAMPLERS_SEE.get(settings.sampler)),
        num_cells=num_cells,
        wells_trained=tuple(wells_trained),
        wells_validated=tuple(wells_validated),
        epochs=settings.epochs,
        settings=settings.model_dump(mode="json"),
        seed=seed,
        versions=list_versions(),
    )


_SAMPLERS_SEE = {
    "balanced": "treatments, to balance minibatches",
    "batch-balanced": "plates, to balance minibatches by batch",
    "within-batch": "plates, to take minibatches from one batch",
}


def _add_labels(first: str, second: str | None) -> str:
    """Join what was seen in two ways, what tells most before the rest: scores are marked by the first word."""
    order = ["none", "plates", "treatments"]
    seen = [words for words in (first, second) if words is not None and words != "none"]
    seen.sort(key=lambda words: -order.index(words.split(",")[0]) if words.split(",")[0] in order else -len(order))
    return "; ".join(seen) or "none"


def list_versions() -> dict[str, str]:
    """List the versions of what decides embeddings."""
    return {name: importlib.metadata.version(name) for name in ("cytoclr", "torch", "timm", "numpy")}


def save_model(folder: Path, backbone: nn.Module, description: ModelDescription) -> None:
    """Write ``encoder.safetensors``, ``MODEL_CARD.md`` and, last, ``model.json``."""
    weights = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    content = safetensors.torch.save(weights)
    with open_atomic(folder / "encoder.safetensors") as file:
        file.write(content)
    write_text(folder / "MODEL_CARD.md", _write_card(description))
    # safetensors have no checksum of their own, and a model is passed on without its run
    sha256 = hashlib.sha256(content).hexdigest()
    write_json(folder / "model.json", {"format": FORMAT, **asdict(description), WEIGHTS_ENTRY: sha256})


def load_encoder(source: Path, crops: CropStore, *, channels: Mapping[str, str] | None = None) -> Encoder:
    """Load a trained encoder for these crops, from a model folder or one of its checkpoints.

    Parameters
    ----------
    source
        A folder with ``model.json`` and ``encoder.safetensors``, or a ``.ckpt`` file.
    crops
        What is to be embedded; its channels must be the model's, in the same order.
    channels
        What channels of the model are called in the crops, where names differ.

    Raises
    ------
    SettingsError
        There is no model there, or `channels` names one that it does not have.
    DataError
        The channels differ in name or order.
    DamagedError
        The files are unreadable, or the weights are not those of the described backbone.

    Notes
    -----
    Only tensors and plain values are read: no code in a file is ever run.
    """
    description, weights = read_model(source)
    description = _rename_channels(description, channels or {}, source, setting="embed.model_channels")
    _check_crops(description, crops, source, setting="embed.model_channels")
    return build_encoder(description, weights, source)


def build_encoder(about: ModelDescription, weights: Mapping[str, torch.Tensor], source: Path) -> Encoder:
    """Build the encoder that `read_model` has read.

    Raises
    ------
    DamagedError
        The weights are not those of the described backbone.
    """
    try:
        # in shapes alone first: a few bytes may name a network that no memory holds
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            _build_described(about).load_state_dict(weights, assign=True)
        backbone = _build_described(about)
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise DamagedError(f"{source}: the weights are not of a {about.backbone} ({error}). Train again.") from None
    return _show(backbone, about)


def _build_described(about: ModelDescription) -> nn.Module:
    return build_backbone(about.backbone, len(about.channels), view_size_px=about.view_size_px, pretrained=False)


def _show(backbone: nn.Module, about: ModelDescription) -> Encoder:
    """Put before a backbone what it is used to be shown."""
    network = backbone if about.standardise is None else Standardised(backbone, **about.standardise)
    return Encoder(network.eval(), about.view_size_px, about.transform, about)


def _check_crops(model: ModelDescription, crops: CropStore, source: Path, *, setting: str) -> None:
    """Refuse crops of other channels; say so where they were stained or imaged in another way."""
    if model.channels != crops.channels:
        raise DataError(
            f"{source}: the model was trained on the channels {', '.join(model.channels)}; the crops have "
            f"{', '.join(crops.channels)}. Expected the same names in the same order: crop the channels so "
            f"(screen.channels), or where only names differ say so ({setting}).",
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
    if model.intensity and model.intensity != crops.intensity:
        log.warning("%s: trained on intensities %s, the crops have %s", source, model.intensity, crops.intensity)
    if model.crop_size_px != crops.size_px:
        log.warning("%s: trained on crops of %d px, these have %d", source, model.crop_size_px, crops.size_px)
    sizes = (model.pixel_size_um, crops.pixel_size_um)
    if sizes[0] is not None and sizes[1] is not None and not math.isclose(sizes[0], sizes[1], rel_tol=1e-3):
        log.warning(
            "%s: trained on pixels of %g µm, the crops have %g µm: cells look larger or smaller", source, *sizes
        )


def read_model(source: Path) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Read what a model folder or a checkpoint says, and its encoder's weights.

    Raises
    ------
    SettingsError, DamagedError
        There is no model there; the files are unreadable.
    """
    if source.is_file():
        checkpoint = read_checkpoint(source)
        weights = {
            name.removeprefix("backbone."): value
            for name, value in checkpoint["state_dict"].items()
            if str(name).startswith("backbone.")
        }
        return _parse_description(checkpoint[CHECKPOINT_ENTRY]["model"], source), weights
    if not (source / "model.json").is_file():
        raise SettingsError(f"{source}: no model there. Expected a folder with model.json, or a .ckpt file.")
    about, weights_file = read_json(source / "model.json"), source / "encoder.safetensors"
    description = _parse_description(about, source / "model.json")
    try:
        if about.get(WEIGHTS_ENTRY) not in {None, hash_file(weights_file)}:  # models of 0.1 do not tell
            raise DamagedError(f"{weights_file}: other bytes than were written. Copy it anew, or train again.")
        weights = safetensors.torch.load_file(weights_file)
    except (OSError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{weights_file}: cannot be read ({error}). Train again.") from error
    return description, weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; tensors and plain values only.

    Raises
    ------
    DamagedError
        It is unreadable, or none of ours.
    """
    try:
        refuse_packed(path)
        with zipfile.ZipFile(path) as records:  # torch does not look at the checksums that it writes
            if (damaged := records.testzip()) is not None:
                raise ValueError(f"{damaged} has other bytes than were written")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint[CHECKPOINT_ENTRY]["model"], {**checkpoint["state_dict"]}
    except Exception as error:  # torch raises whatever damaged bytes lead it to
        reason = tell_why_unread(error)
        raise DamagedError(f"{path}: not a checkpoint of cytoclr, or damaged ({reason}). Delete it.") from error
    return checkpoint


def tell_why_unread(error: Exception) -> str:
    """Say in few words why a file of tensors was not read; torch says it in pages, and advises to run what is in it."""
    text = str(error).strip()
    if "weights_only" in text:
        called = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it would call {called[1]}, which no weights need" if called else "not tensors and plain values"
    return text.splitlines()[0] if text else type(error).__name__


def refuse_packed(path: Path) -> None:
    """Refuse an archive of torch whose records are compressed: torch writes none so, and would unpack any size.

    Raises
    ------
    ValueError
        Names the record.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{record.filename} is compressed, as torch writes none")


def _parse_description(values: Any, source: Path) -> ModelDescription:
    try:
        known = {field.name: values[field.name] for field in fields(ModelDescription) if field.name in values}
        known = {"stains": {}, "bit_depth": None, **known}  # models of 0.1 do not tell
        lists = {name: tuple(known[name]) for name in ("channels", "wells_trained", "wells_validated")}
        if known["transform"] not in get_args(Transform):
            raise TypeError(f"transform {known['transform']!r} is not one of {', '.join(get_args(Transform))}")
        about = _DESCRIPTION.validate_python({**known, **lists})
        sizes = (about.crop_size_px, about.view_size_px)
        if not 0 < min(sizes) <= max(sizes) <= MAX_SIZE_PX:
            raise TypeError(f"crops of {sizes[0]} px, seen at {sizes[1]}; expected 1 to {MAX_SIZE_PX:,}")
        told = about.standardise
        if told is not None and {name: len(told.get(name, ())) for name in told} != dict.fromkeys(
            ("mean", "deviation"), len(about.channels)
        ):
            raise TypeError(f"standardise is {told}; expected mean and deviation, a number a channel")
        return about
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{source}: no description of a model ({error}). Train again.") from error


def _name_channel(name: str, stains: Mapping[str, str]) -> str:
    return f"{name} ({stains[name]})" if name in stains else name


#: What trained a model, by its setting `loss`.
_LOSSES = {
    "nt-xent": "NT-Xent (SimCLR, Chen et al. 2020, arXiv:2002.05709)",
    "supcon": "SupCon (Khosla et al. 2020, arXiv:2004.11362)",
    "spc": "SPC (Nightingale et al. 2026)",
    "vicreg": "VICReg (Bardes, Ponce, LeCun 2022, arXiv:2105.04906)",
}
_OF_LOSS = ("similarity", "temperature", "positives", "negatives")


def _write_card(about: ModelDescription) -> str:
    pixel = "unknown" if about.pixel_size_um is None else f"{about.pixel_size_um:g} µm"
    came = "trained without mechanisms, with cytoclr"
    if about.imported_from is not None:
        came = f"imported from {about.imported_from}: what it was trained on, that file does not tell"
    shown = f"0 and 1 by {about.intensity or 'a rule that is not told'}, then {about.transform}"
    if about.standardise is not None:
        shown += f", less {about.standardise['mean']}, over {about.standardise['deviation']}"
    return f"""# Model card

An encoder of single cells, {came}.

| | |
|---|---|
| Backbone | {about.backbone}, {about.num_features} features |
| Channels, in this order | {", ".join(_name_channel(name, about.stains) for name in about.channels)} |
| Crop | {about.crop_size_px} px of {pixel}; seen at {about.view_size_px} px |
| Intensities | {shown} |
| Labels seen | {about.labels_seen} |
{_describe_training(about)}| Versions | {", ".join(f"{name} {version}" for name, version in about.versions.items())} |

It embeds cells of the screen it was trained on, and of screens stained, imaged and cropped alike: the same channels in
the same order, the same pixel size, intensities by the same rule. `cytoclr embed --model` refuses other channels and
warns of the rest.

It is not for other stains, of which it has learnt nothing; nor to tell what a treatment does without controls on the
same plates: what it tells apart is not all biology, so check the profiles against batches and plate positions. For
research only; not for diagnosis.
"""


def _describe_training(about: ModelDescription) -> str:
    """Rows of the card on how the weights came about."""
    if about.imported_from is not None:
        return ""
    settings = about.settings
    augment = settings.get("augment", {})
    rows = {
        "Trained on": f"{about.num_cells:,} cells of {len(about.wells_trained):,} wells",
        "Kept for validation": f"{len(about.wells_validated):,} wells",
        "Loss": f"{_LOSSES[settings.get('loss', 'nt-xent')]}; {_tell(settings, *_OF_LOSS)}",
        "Augmentation": _tell(augment, "preset", "strength"),
        "Minibatch": f"{_tell(settings, 'minibatch_size', 'sampler')}; {_describe_statistics(settings)}",
        "Optimiser": _tell(settings, "optimizer", "learning_rate", "weight_decay", "precision"),
        "Began from": str(settings.get("fine_tune_from") or ("ImageNet" if settings.get("pretrained") else "nothing")),
        "Epochs": f"{about.epochs} (the last is kept, whatever the validation said)",
        "Seed": str(about.seed),
    }
    return "".join(f"| {name} | {told} |\n" for name, told in rows.items())


def _tell(settings: Mapping[str, Any], *names: str) -> str:
    """Name some settings with their values; earlier versions had fewer."""
    return ", ".join(f"{name} {settings[name]}" for name in names if name in settings) or "not told"


def _describe_statistics(settings: Mapping[str, Any]) -> str:
    """Say of how many cells batch norms took their statistics."""
    size, chunk_size = settings.get("minibatch_size", 0), settings.get("chunk_size")
    num_processes = settings.get("devices", 1) * settings.get("nodes", 1)
    if chunk_size is not None and chunk_size < size:
        size = chunk_size
    if num_processes > 1 and not settings.get("sync_norm", True):
        size //= num_processes
    return f"statistics of batch norms, if there are such, of {size} cells, two views each"
