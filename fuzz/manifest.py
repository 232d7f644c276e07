"""Manifests: of a stage, of a store of crops, of a model."""

import contextlib

from cytoclr.data.crops import CropStore
from cytoclr.errors import CytoclrError
from cytoclr.learn.model import read_model
from cytoclr.storage import Manifest
from fuzz import make_workplace


def try_one(data: bytes) -> None:
    """Read JSON as each kind of manifest; what is named in it is looked for."""
    with make_workplace() as place:
        for name in ("manifest.json", "model.json"):
            (place / name).write_bytes(data)
        with contextlib.suppress(CytoclrError):
            Manifest.read(place / "manifest.json").find_damage(place, read_all=True)
        with contextlib.suppress(CytoclrError):
            CropStore(place)
        with contextlib.suppress(CytoclrError):
            read_model(place)
