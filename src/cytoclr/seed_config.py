"""The 2020 project's ``config.yaml``: what each of its keys became.

Its code read most values through ``eval``; here ``(96,96,3)`` is read as a tuple of numbers and ``None``, quoted or
not, as nothing.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cytoclr.errors import SettingsError

__all__ = ["BECAME", "convert_seed_config", "is_seed_config"]

Value = Any

#: Key of 2020 -> (our key, how its value is read), or why it has none. The only place that knows both.
BECAME: dict[str, tuple[str, str] | str] = {
    "batch_size": ("train.minibatch_size", "integer"),
    "epochs": ("train.epochs", "integer"),
    "eval_every_n_epochs": ("train.validate_every_n_epochs", "integer"),
    "fine_tune_from": ("train.fine_tune_from", "model"),
    "continue_training_from": ("train.fine_tune_from", "model"),
    "log_every_n_steps": ("train.log_every_n_steps", "integer"),
    "weight_decay": ("train.weight_decay", "number"),
    "fp16_precision": ("train.precision", "precision"),
    "eval_classifier_n_epoch": ("train.probe.every_n_epochs", "integer"),
    "checkpoint_every_n_epochs": ("train.checkpoint_every_n_epochs", "integer"),
    "run_dir": "the run folder is given by --out; without it, runs/<name of the config file>",
    "model.out_dim": ("train.projection_dim", "integer"),
    "model.base_model": ("train.backbone", "backbone"),
    "dataset.path": ("screen.table", "text"),
    "dataset.root_dir": ("screen.images", "text"),
    "dataset.s": ("train.augment.strength", "number"),
    "dataset.input_shape": ("train.view_size_px", "height"),
    "dataset.num_workers": ("train.num_workers", "integer"),
    "dataset.valid_size": ("train.validation_fraction", "number"),
    "dataset.sampler": ("train.sampler", "sampler"),
    "dataset.preload": ("train.preload", "flag"),
    "eval_dataset.path": ("train.probe.screen.table", "text"),
    "eval_dataset.root_dir": ("train.probe.screen.images", "text"),
    "eval_dataset.input_shape": "crops to probe are resized to the same view as in training",
    "eval_dataset.num_workers": "crops to probe are memory-mapped: no loader processes",
    "eval_dataset.valid_size": ("train.probe.test_fraction", "number"),
    "eval_dataset.sampler": "the probe sees every crop once",
    "eval_dataset.preload": "crops to probe are memory-mapped",
    "loss.temperature": ("train.temperature", "number"),
    "loss.use_cosine_similarity": ("train.similarity", "similarity"),
}

#: What the 2020 code fixed, and its config did not name.
_FIXED: dict[str, Value] = {
    "screen.reader": "single-cell",
    "train.optimizer": "adam",
    "train.learning_rate": 3e-4,
    "train.warmup_epochs": 10.0,
    "profile.normalise": "whitening",
}


#: More than any microscope takes; each gets a name.
_MAX_CHANNELS = 64


def is_seed_config(value: Value) -> bool:
    """Tell whether plain values have the 2020 layout: its top-level keys, none of our sections."""
    keys = set(value) if isinstance(value, dict) else set()
    ours = {"screen", "crop", "train", "embed", "profile", "evaluate", "report"}
    return not keys & ours and bool(keys & {"batch_size", "dataset", "model", "loss", "eval_dataset"})


def convert_seed_config(value: dict[str, Value], *, source: str, folder: Path) -> tuple[dict[str, Value], list[str]]:
    """Turn a 2020 config into ours.

    Returns
    -------
    config
        Plain values for `cytoclr.config.check_settings`.
    notes
        A sentence a key: what it became, or why it is not needed.

    Raises
    ------
    SettingsError
        A key was not one of the 2020 project's, or a value is not what it took.
    """
    flat = _flatten(value, source)
    result: dict[str, Value] = dict(_FIXED)
    notes = [f"as in 2020's code: {key}: {fixed}" for key, fixed in _FIXED.items()]
    for key, found in flat.items():
        became = BECAME.get(key)
        if became is None:
            raise SettingsError(
                f"{source}: {key} is not a key of the 2020 project's config. Known: {', '.join(BECAME)}. "
                "A config of ours has the sections screen, crop, train, embed, profile, evaluate, report."
            )
        if isinstance(became, str):
            notes.append(f"{key}: not needed: {became}")
            continue
        ours, kind = became
        read = _READ[kind](found, f"{source}: {key}")
        if kind == "model" and read is not None and not (folder / read).exists():
            in_runs = Path("runs") / read
            if (folder / in_runs).exists():
                read = str(in_runs)
            else:
                notes.append(f"{key}: WARNING: no model at {read}: training from scratch, as the 2020 code did")
                read = None
        if ours == "train.fine_tune_from" and read is None:
            continue
        result[ours] = read
        notes.append(f"{key} -> {ours}: {read}")
    _name_channels(flat, result, source)
    _drop_twin_probe_screen(result)
    return _unflatten(result), notes


def _flatten(value: dict[str, Value], source: str) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, inner in value.items():
        if key in {"model", "dataset", "eval_dataset", "loss"}:
            if not isinstance(inner, dict):
                raise SettingsError(f"{source}: {key}: expected a section of keys, found {inner!r}.")
            flat.update({f"{key}.{name}": item for name, item in inner.items()})
        else:
            flat[key] = inner
    return flat


def _unflatten(flat: dict[str, Value]) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return result


def _name_channels(flat: dict[str, Value], result: dict[str, Value], source: str) -> None:
    """The 2020 crops had three unnamed channels; with another number they are numbered."""
    if "dataset.input_shape" not in flat:
        return
    count = _read_shape(flat["dataset.input_shape"], f"{source}: dataset.input_shape")[2]
    names = ["DNA", "Tubulin", "Actin"] if count == 3 else [f"channel{number}" for number in range(1, count + 1)]
    result["screen.channels"] = names
    if "train.probe.screen.table" in result:
        result["train.probe.screen.channels"] = names


def _drop_twin_probe_screen(result: dict[str, Value]) -> None:
    """A probe on the training's own crops needs no screen of its own."""
    names = ("table", "images", "channels")
    if all(result.get(f"train.probe.screen.{name}") == result.get(f"screen.{name}") for name in names):
        for name in names:
            result.pop(f"train.probe.screen.{name}", None)
    elif "train.probe.screen.table" in result:
        result["train.probe.screen.reader"] = "single-cell"


def _is_none(value: Value) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in {"none", "null", "~", ""})


def _read_number(value: Value, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{place}: expected a number, found {value!r}.")
    return number


def _read_integer(value: Value, place: str) -> int:
    number = _read_number(value, place)
    if number != int(number):
        raise SettingsError(f"{place}: expected a whole number, found {value!r}.")
    return int(number)


def _read_flag(value: Value, place: str) -> bool:
    words = {"true": True, "false": False, "yes": True, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    raise SettingsError(f"{place}: expected True or False, found {value!r}.")


def _read_shape(value: Value, place: str) -> tuple[int, int, int]:
    numbers = value if isinstance(value, list) else re.findall(r"\d+", str(value))
    if len(numbers) != 3 or (isinstance(value, str) and not re.fullmatch(r"\s*\(?[\d\s,]+\)?\s*", value)):
        raise SettingsError(f"{place}: expected (height, width, channels) as (96,96,3), found {value!r}.")
    height, width, channels = (_read_integer(number, place) for number in numbers)
    if height != width:
        raise SettingsError(f"{place}: expected a square, found {height} x {width}.")
    if not 0 < channels <= _MAX_CHANNELS:
        raise SettingsError(f"{place}: expected 1 to {_MAX_CHANNELS} channels, found {channels:,}.")
    return height, width, channels


def _read_sampler(value: Value, place: str) -> str:
    words = {"random": "random", "weighted": "balanced"}
    if str(value) not in words:
        raise SettingsError(f"{place}: expected random or weighted, found {value!r}.")
    return words[str(value)]


def _read_backbone(value: Value, place: str) -> str:
    words = {"cnn": "seed-cnn", "basic": "seed-cnn", "simple": "seed-cnn"}
    return words.get(str(value), str(value))


_READ: dict[str, Callable[[Value, str], Value]] = {
    "integer": _read_integer,
    "number": _read_number,
    "flag": _read_flag,
    "text": lambda value, place: str(value),
    "model": lambda value, place: None if _is_none(value) else str(value),
    "precision": lambda value, place: "16-mixed" if _read_flag(value, place) else "32",
    "similarity": lambda value, place: "cosine" if _read_flag(value, place) else "dot",
    "height": lambda value, place: _read_shape(value, place)[0],
    "sampler": _read_sampler,
    "backbone": _read_backbone,
}
