"""Presets: where the settings of a config begin, for a kind of machine or as in the 2020 project.

``preset: gpu`` is no setting: it stands for settings, and they are what a run folder's ``config.yaml`` has.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "apply_preset"]

_GPU_TRAIN: dict[str, Any] = {
    "backbone": "resnet18",
    "view_size_px": 96,
    "projection_hidden": 512,
    "minibatch_size": 1024,
    "epochs": 100,
    "learning_rate": 2e-3,
    "warmup_epochs": 5.0,
    "precision": "bf16-mixed",
}

#: What each preset sets; the rest stays at its default.
PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "gpu": {
        "device": "gpu",
        "crop": {"size_px": 96},
        "train": _GPU_TRAIN,
        "embed": {"minibatch_size": 1024, "precision": "bf16"},
    },
    "multi-gpu": {
        "device": "gpu",
        "crop": {"size_px": 96},
        # Chen et al. 2020: LARS, 0.3 x minibatch / 256, weight decay 1e-6, 10 epochs of warm-up
        "train": {
            **_GPU_TRAIN,
            "backbone": "resnet50",
            "projection_hidden": 2048,
            "minibatch_size": 4096,
            "epochs": 200,
            "optimizer": "lars",
            "learning_rate": 4.8,
            "weight_decay": 1e-6,
            "warmup_epochs": 10.0,
            "devices": 4,
        },
        "embed": {"minibatch_size": 1024, "precision": "bf16"},
    },
    "seed-2020": {
        "crop": {"size_px": 96},
        "train": {
            "backbone": "resnet50",
            "pretrained": True,
            "view_size_px": 96,
            "transform": "linear",
            "projection_hidden": 2048,
            "projection_dim": 256,
            "temperature": 0.1,
            "minibatch_size": 256,
            "epochs": 600,
            "optimizer": "adam",
            "learning_rate": 3e-4,
            "weight_decay": 1e-5,
            "warmup_epochs": 10.0,
            "validation_fraction": 0.05,
            "sampler": "balanced",
            "checkpoint_every_n_epochs": 50,
            "augment": {"preset": "seed-2020"},
            "probe": {"every_n_epochs": 50, "classifier": "random-forest"},
        },
        "profile": {"normalise": "whitening"},
    },
}


def apply_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put a preset's settings under plain values that name it; what is set stays as it is set.

    Raises
    ------
    KeyError
        There is no such preset.

    Examples
    --------
    >>> apply_preset({"preset": "gpu", "train": {"epochs": 7}})["train"]["epochs"]
    7
    """
    above = {name: value for name, value in values.items() if name != "preset"}
    return _lay_under(above, PRESETS[values.get("preset", "laptop")])


def _lay_under(values: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in below.items():
        above = values.get(name)
        if name not in values:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(above, Mapping):
            merged[name] = _lay_under(above, value)
    return merged
