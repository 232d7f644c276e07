"""Files by path or URL: anonymous S3, HTTP, and the disk alike."""

from pathlib import Path
from typing import Any

import fsspec

from cytoclr.errors import DataError, MachineError

__all__ = ["is_url", "open_filesystem", "read_bytes"]


def is_url(place: str) -> bool:
    """Tell a URL from a path.

    >>> is_url("s3://cellpainting-gallery/cpg0016-jump"), is_url("C:/images")
    (True, False)
    """
    return "://" in place


def open_filesystem(place: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it. S3 is asked without credentials."""
    options = {"anon": True} if place.startswith("s3://") else {}
    filesystem, path = fsspec.core.url_to_fs(place, **options)
    return filesystem, path


def read_bytes(place: str) -> bytes:
    """Read a file, wherever it is.

    Raises
    ------
    DataError
        There is no such file.
    MachineError
        It cannot be reached or read.
    """
    if not is_url(place):
        place = str(Path(place).absolute())
    try:
        filesystem, path = open_filesystem(place)
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        raise DataError(f"{place}: no such file.", code="IMG001") from None
    except OSError as error:
        raise MachineError(
            f"{place}: cannot be read ({error}). Check the network, and run again.", code="NET001"
        ) from error
    return content
