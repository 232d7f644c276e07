"""Settings: YAML of ours and of the 2020 project."""

import contextlib

from cytoclr.config import dump_settings, read_settings
from cytoclr.errors import CytoclrError
from fuzz import make_workplace


def try_one(data: bytes) -> None:
    """Read settings, and what is written of them."""
    with make_workplace() as place, contextlib.suppress(CytoclrError):
        path = place / "config.yaml"
        path.write_bytes(data)
        settings = read_settings(path)
        path.write_text(dump_settings(settings), encoding="utf-8")
        assert read_settings(path) == settings
