"""Files by path or URL: anonymous S3, HTTP, and the disk alike."""

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

import fsspec

from cytoclr.errors import DataError, MachineError

__all__ = [
    "as_http",
    "as_s3",
    "exists",
    "expand_pattern",
    "has_open_scheme",
    "is_url",
    "list_folder",
    "list_tree",
    "open_filesystem",
    "read_bytes",
    "split_address",
]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: How long to wait before each further try, in seconds: a server that is busy has a moment to recover.
RETRY_WAITS_S = (1.0, 3.0, 9.0)
#: Answers of a web server that may be others a moment later.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
#: A bucket is named in the host (``bucket.s3.amazonaws.com``, also with a region), or first in the path.
_BUCKET_IN_HOST = re.compile(r"(?P<bucket>.+)\.s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com", re.IGNORECASE)
_BUCKET_IN_PATH = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com", re.IGNORECASE)


def is_url(place: str) -> bool:
    """Tell a URL from a path.

    >>> is_url("s3://cellpainting-gallery/cpg0016-jump"), is_url("C:/images")
    (True, False)
    """
    return "://" in place


def has_open_scheme(place: str) -> bool:
    """Tell the web and buckets from what fsspec opens besides: files of this machine, archives, one inside another.

    >>> has_open_scheme("s3://bucket/a.tif"), has_open_scheme("zip://a::file:///b.zip")
    (True, False)
    """
    return place.startswith(("http://", "https://", "s3://")) and "::" not in place


def split_address(place: str) -> SplitResult:
    """Take a URL apart.

    Raises
    ------
    DataError
        NAME006: it is none.
    """
    try:
        return urlsplit(place)
    except ValueError as error:
        raise DataError(f"{place}: not an address ({error}). Correct it.", code="NAME006") from None


def as_s3(place: str) -> str:
    """Write the web address of an object in an Amazon bucket as ``s3://``; other places stay as they are.

    >>> as_s3("https://cellpainting-gallery.s3.amazonaws.com/cpg0016-jump/source_4/a%20b.tiff")
    's3://cellpainting-gallery/cpg0016-jump/source_4/a b.tiff'
    >>> as_s3("https://data.broadinstitute.org/bbbc/BBBC021/")
    'https://data.broadinstitute.org/bbbc/BBBC021/'
    """
    if not place.startswith(("http://", "https://")):
        return place
    parts = split_address(place)
    if parts.query:  # a version or a signature, which s3:// has no place for
        return place
    host, key = parts.hostname or "", unquote(parts.path).lstrip("/")
    match = _BUCKET_IN_HOST.fullmatch(host)
    if match:
        return f"s3://{match['bucket']}/{key}"
    return f"s3://{key}" if _BUCKET_IN_PATH.fullmatch(host) and key else place


def as_http(place: str) -> str:
    """Write ``s3://bucket/key`` as the web address of the object, which anyone may read where the bucket is public.

    The environment's ``AWS_ENDPOINT_URL`` is heeded. Other places stay as they are.

    >>> as_http("s3://cellpainting-gallery/cpg0016-jump/a b.tiff")
    'https://cellpainting-gallery.s3.amazonaws.com/cpg0016-jump/a%20b.tiff'
    """
    if not place.startswith("s3://"):
        return place
    bucket, _, key = place.removeprefix("s3://").partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    if "." in bucket:  # the certificate holds for one name before s3
        return f"https://s3.amazonaws.com/{bucket}/{quote(key)}"
    return f"https://{bucket}.s3.amazonaws.com/{quote(key)}"


def open_filesystem(place: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it.

    S3 is asked without credentials, at the environment's ``AWS_ENDPOINT_URL`` where that is set.
    """
    place = as_s3(place)
    options: dict[str, Any] = {}
    if place.startswith("s3://"):
        options = {"anon": True, "use_listings_cache": False}
        if os.environ.get("AWS_ENDPOINT_URL"):
            options["endpoint_url"] = os.environ["AWS_ENDPOINT_URL"]
    filesystem, path = fsspec.core.url_to_fs(place, **options)
    return filesystem, path


def read_bytes(place: str) -> bytes:
    """Read a file, wherever it is. What the network refuses for a moment is asked for again (`RETRY_WAITS_S`).

    Raises
    ------
    DataError
        There is no such file.
    MachineError
        It cannot be reached or read.
    """
    if not is_url(place):
        return _read_local(Path(place))

    def read() -> bytes:
        filesystem, path = open_filesystem(place)
        content: bytes = filesystem.cat_file(path)
        return content

    return _ask(read, place)


def _read_local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.", code="IMG001") from None
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be read ({error.strerror or error}). Check the disk and its rights, and run again.",
            code="IMG002",
        ) from error


def exists(place: str) -> bool:
    """Tell whether there is a file or a folder of that name.

    Raises
    ------
    MachineError
        The place cannot be reached.
    """
    if not is_url(place):
        return Path(place).exists()

    def ask() -> bool:
        filesystem, path = open_filesystem(place)
        filesystem.info(path)  # unlike fsspec's own question, it tells "no" from "cannot be reached"
        return True

    try:
        return _ask(ask, place)
    except DataError:
        return False


def list_folder(place: str) -> dict[str, bool]:
    """Name what is in a folder, and tell of each whether it is a folder; nothing where there is no such folder.

    Raises
    ------
    MachineError
        The place cannot be reached, or does not let its folders be listed.
    """
    if not is_url(place):
        if not Path(place).is_dir():
            return {}
        with os.scandir(place) as entries:
            return {entry.name: entry.is_dir() for entry in entries}

    def ask() -> dict[str, bool]:
        filesystem, path = open_filesystem(place)
        entries = filesystem.ls(path.rstrip("/"), detail=True)
        named = {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] == "directory" for entry in entries}
        named.pop("", None)
        return named

    try:
        return _ask(ask, place)
    except DataError:
        return {}


def expand_pattern(place: str) -> list[str]:
    """Find the files that a pattern with ``*`` (in a name) or ``**`` (any folders) names, in order.

    Raises
    ------
    MachineError
        The place cannot be reached.
    """
    filesystem, path = open_filesystem(place)
    found = sorted(_ask(lambda: filesystem.glob(path), place))
    return [filesystem.unstrip_protocol(name) if is_url(place) else name for name in found]


def list_tree(place: str) -> dict[str, int]:
    """Name all files under a folder at any depth, relative to it, with their sizes in bytes; in the order of names.

    Raises
    ------
    MachineError
        The place cannot be reached, or does not let its folders be listed.
    """

    def ask() -> dict[str, int]:
        filesystem, path = open_filesystem(place)
        top = path.rstrip("/") + "/"
        found = filesystem.find(top, detail=True)
        return {
            name.removeprefix(top): int(entry["size"] or 0)
            for name, entry in sorted(found.items())
            if entry["type"] == "file" and name.startswith(top) and not name.endswith("/")
        }

    try:
        return _ask(ask, place)
    except DataError:
        return {}


def _ask(question: Callable[[], _Result], place: str) -> _Result:
    """Ask a server, again after a while where the trouble may pass, and put what it says into a sentence."""
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return question()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise DataError(f"{place}: no such file.", code="IMG001") from None
        except PermissionError as error:
            raise MachineError(
                f"{place}: the server does not let everybody read it, or it is not there ({error}). "
                "Expected a public file. Check the address.",
                code="NET001",
            ) from error
        except _network_errors() as error:
            status = getattr(error, "status", None)
            if wait_s is None or (status is not None and status not in PASSING_STATUS):
                raise MachineError(
                    f"{place}: cannot be read ({_describe(error)}). Check the address and the network, and run again.",
                    code="NET001",
                ) from error
            logger.info("%s: %s; asked again in %g s", place, _describe(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last try either returns or raises")


def _network_errors() -> tuple[type[Exception], ...]:
    """Name what fsspec's file systems raise; imported only when something was raised, for both are slow to import."""
    import aiohttp
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped, unused-ignore]

    return OSError, aiohttp.ClientError, BotoCoreError


def _describe(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
