"""Downloads that go on where they were cut, arrive whole, and unpack nothing that was not asked for.

A file grows under the name ``NAME.part`` and gets its own name once its size, and its MD5 where the server tells one,
are those that were promised. Beside it ``NAME.part.json`` says which version of the file it is a part of.
"""

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPMessage
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from cytoclr.data.arrays import MAX_RATIO, is_bomb
from cytoclr.data.remote import PASSING_STATUS, RETRY_WAITS_S, as_http
from cytoclr.data.roots import leaves
from cytoclr.errors import DamagedError, DataError, MachineError
from cytoclr.storage import open_atomic, read_json, sync_folder, write_json

__all__ = ["Unpacked", "ask_size", "check_space", "download", "unpack"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: How long a server may be silent, in seconds.
TIMEOUT_S = 60.0
#: What is kept free on the disk besides what is fetched, in bytes.
SPARE_BYTES = 2**28
#: More than any plate's images take: an archive that says more is not one of them.
MAX_UNPACKED_BYTES = 2**38
#: A plate has thousands of images.
MAX_MEMBERS = 2**18
_CHUNK = 2**20
#: Below this a part is not worth its note.
_SMALL = 2**20
_SYSTEM_NAMES = ("__MACOSX", ".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class _Version:
    """Which version of a file a server has: its size in bytes, and what tells it from another (empty: not told)."""

    size: int | None
    etag: str
    modified: str
    md5: str

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong ETag, or the time of the last change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _Cut(Exception):
    """The connection ended before the file did, or what arrived is not what was promised."""


def ask_size(place: str) -> int | None:
    """Ask a server how many bytes a file has; None where it does not say.

    Raises
    ------
    DataError
        There is no such file.
    MachineError
        The server cannot be reached, or refuses.
    """
    address = _check_address(place)

    def ask() -> int | None:
        try:
            with _open(address, method="HEAD") as response:
                return _read_version(response.headers).size
        except urllib.error.HTTPError as error:
            if error.code not in (405, 501):  # there are servers that know GET only
                raise
            error.close()
            return None

    return _retry(ask, place, lambda: 0)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises
    ------
    MachineError
        Tells what is free and what is needed, in GB.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + SPARE_BYTES > free:
        raise MachineError(
            f"{folder}: {what} need {(needed + SPARE_BYTES) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Free "
            "space there, fetch fewer plates, or choose another folder.",
            code="DISK001",
        )


def download(place: str, path: Path, *, advance: Callable[[int], None] = lambda count: None) -> int:
    """Fetch a file: all of it, or what is missing of it since the connection was cut.

    A part of another version of the file, or a server that sends files from their beginning only, makes it start anew.

    Parameters
    ----------
    place
        An address (http, https), or ``s3://``.
    path
        Where to write it; what stands there is replaced once the new file is whole.
    advance
        Told how many further bytes are there.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    DataError
        There is no such file.
    MachineError
        The server cannot be reached, refuses, or what arrives is damaged each time; or the disk is full.
    """
    address = _check_address(place)
    part = path.with_name(f"{path.name}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    reached = 0

    def tell(position: int) -> None:
        nonlocal reached
        if position > reached:
            advance(position - reached)
            reached = position

    _retry(lambda: _fetch_rest(address, path, part, tell), place, lambda: reached)
    with _writing(path):
        size = part.stat().st_size
        part.replace(path)
        _note_of(part).unlink(missing_ok=True)
        sync_folder(path.parent)
    return size


def _fetch_rest(address: str, path: Path, part: Path, tell: Callable[[int], None]) -> None:
    """Ask for what is missing of the part, and write it; raise `_Cut` if it does not become whole."""
    known = _read_note(part)
    start = part.stat().st_size if known is not None else 0
    headers = {}
    if known is not None and start:
        if start == known.size:
            return _check_whole(part, known)
        headers = {"Range": f"bytes={start}-", "If-Range": known.validator}
    try:
        response = _open(address, headers=headers)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the file is now shorter than the part
            error.close()
            _forget(part)
            raise _Cut("the file has changed") from error
        raise
    with response:
        version = _read_version(response.headers)
        if response.status == 206:
            if _first_byte(response.headers) != start or known is None:
                _forget(part)
                raise _Cut("the server sent another part than was asked for")
            version = known
        else:
            start = 0
            _begin(part, version)
        _write_stream(response, part, start, version, path, tell)
    return _check_whole(part, version)


def _begin(part: Path, version: _Version) -> None:
    """Empty the part, and note which version it will be of, if it is worth it."""
    _forget(part)
    if version.validator and (version.size is None or version.size > _SMALL):
        write_json(_note_of(part), asdict(version))


def _write_stream(
    response: Any, part: Path, start: int, version: _Version, path: Path, tell: Callable[[int], None]
) -> None:
    with _writing(path):
        file = part.open("r+b" if start else "wb")
    with file:
        position = file.seek(start)
        tell(position)
        while chunk := response.read(_CHUNK):
            if version.size is None:  # nobody has said how much will come: it must not fill the disk
                check_space(path.parent, len(chunk), f"what comes after {position:,} bytes of {path.name}")
            if version.size is not None and position + len(chunk) > version.size:
                _forget(part)
                raise _Cut(f"the server sent more than the {version.size:,} bytes it promised")
            with _writing(path):
                file.write(chunk)
            position += len(chunk)
            tell(position)
        with _writing(path):
            file.flush()
            os.fsync(file.fileno())


def _check_whole(part: Path, version: _Version) -> None:
    size = part.stat().st_size
    if version.size is not None and size != version.size:
        raise _Cut(f"the connection ended after {size:,} of {version.size:,} bytes")
    if version.md5:
        with part.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != version.md5:
            _forget(part)
            raise _Cut(f"it arrived damaged (MD5 {md5}, expected {version.md5})")


def _read_version(headers: HTTPMessage) -> _Version:
    length = headers.get("Content-Length") or ""
    etag = headers.get("ETag") or ""
    # Amazon's ETag of an object is its MD5, unless it was stored in pieces (then it has a hyphen) or is encrypted.
    is_amazon = any(name.lower().startswith("x-amz") for name in headers)
    encrypted = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms") or bool(
        headers.get("x-amz-server-side-encryption-customer-algorithm")
    )
    md5 = re.fullmatch(r'"([0-9a-f]{32})"', etag)
    return _Version(
        size=int(length) if length.isdecimal() and not headers.get("Content-Encoding") else None,
        etag=etag,
        modified=headers.get("Last-Modified") or "",
        md5=md5[1] if md5 and is_amazon and not encrypted else "",
    )


def _first_byte(headers: HTTPMessage) -> int | None:
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return int(match[1]) if match else None


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Version | None:
    """Read which version the part is of; None where there is no part, or no telling."""
    if not part.is_file() or not _note_of(part).is_file():
        return None
    try:
        version = _Version(**read_json(_note_of(part)))
    except (DamagedError, TypeError):
        return None
    return version if version.validator else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Put what the disk refuses into a sentence; what the network refuses is another matter."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path}: could not be written ({error.strerror or error}). Free space or rights there, and run again; "
            "what has arrived is kept.",
            code="DISK001" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "",
        ) from error


def _open(address: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
    request = urllib.request.Request(address, method=method, headers=dict(headers or {}))  # noqa: S310 - http(s) only
    return _OPENER.open(request, timeout=TIMEOUT_S)


def _make_opener() -> urllib.request.OpenerDirector:
    """Make what asks servers of the web and nothing else: wherever a server sends us, to no file and no FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _make_opener()


def _check_address(place: str) -> str:
    address = as_http(place)
    if not address.startswith(("http://", "https://")):
        raise DataError(f"{place}: expected an address that begins with https:// or s3://.", code="NET001")
    return address


def _retry(ask: Callable[[], _Result], place: str, how_far: Callable[[], int]) -> _Result:
    """Try again while it gets further, and a few times more."""
    waits, best = list(RETRY_WAITS_S), 0
    while True:
        try:
            return ask()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise DataError(f"{place}: no such file on the server ({error.code}).", code="NET001") from None
            if error.code not in PASSING_STATUS:
                raise MachineError(
                    f"{place}: the server refuses ({error.code} {error.reason}). Check the address.", code="NET001"
                ) from error
            trouble: Exception = error
        except (_Cut, http.client.HTTPException, OSError) as error:
            trouble = error
        if how_far() > best:
            waits, best = list(RETRY_WAITS_S), how_far()
        if not waits:
            raise MachineError(
                f"{place}: cannot be fetched ({trouble}). Check the network, and run again: it goes on where it was.",
                code="NET001",
            ) from trouble
        logger.info("%s: %s; asked again in %g s", place, trouble, waits[0])
        time.sleep(waits.pop(0))


@dataclass(frozen=True)
class Unpacked:
    """What an archive holds: the size of each file by its path in the folder; and how many were there already."""

    files: Mapping[str, int]
    num_kept: int


def unpack(
    archive: Path, folder: Path, *, top: str = "", advance: Callable[[int], None] = lambda count: None
) -> Unpacked:
    """Unpack a zip archive into a folder; a file that is there with its size is kept.

    Parameters
    ----------
    archive
        The zip file.
    folder
        Where to.
    top
        Folder for files that have none in the archive.
    advance
        Told how many further bytes are unpacked.

    Raises
    ------
    DataError
        The archive is none or damaged; or it has a path that leaves the folder, a link or a device, an encrypted file,
        a file twice, files that share their bytes, far more files than a plate has, or far more bytes than its size
        allows. Nothing is written then, unless the damage shows on the way.
    MachineError
        The disk cannot hold it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _check_members(opened, archive, folder, top)
            missing = {
                path: member
                for path, member in members.items()
                if not (folder / path).is_file() or (folder / path).stat().st_size != member.file_size
            }
            check_space(folder, sum(member.file_size for member in missing.values()), f"the files of {archive.name}")
            for path, member in members.items():
                if path in missing:
                    _extract(opened, member, folder / path)
                advance(member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{archive}: a damaged zip archive ({error}). Delete it, and fetch it again.", code="IMG002"
        ) from None
    sizes = {path: member.file_size for path, member in members.items()}
    return Unpacked(sizes, len(members) - len(missing))


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    # A file of another size is replaced; a name that is now a folder, or lies below a file, is the disk's to refuse.
    with opened.open(member) as source, open_atomic(path) as target:
        shutil.copyfileobj(source, target, _CHUNK)  # zipfile checks the CRC at the end, before the file gets its name


def _check_members(opened: zipfile.ZipFile, archive: Path, folder: Path, top: str) -> dict[str, zipfile.ZipInfo]:
    """Name the path of each file of an archive; refuse one that could do harm before anything is written."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(opened.infolist()) > MAX_MEMBERS:
        raise DataError(
            f"{archive}: {len(opened.infolist()):,} files. Expected at most {MAX_MEMBERS:,}; nothing was unpacked.",
            code="IMG002",
        )
    _refuse_overlaps(opened, archive)
    for member in opened.infolist():
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if leaves(member.orig_filename):
            raise DataError(
                f"{archive}: the path {member.filename!r} leaves {folder}. Expected paths below it; nothing was "
                "unpacked.",
                code="NAME006",
            )
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "a device"
            raise DataError(
                f"{archive}: {member.filename!r} is {what}. Expected files; nothing was unpacked.", code="NAME006"
            )
        if member.flag_bits & 1:
            raise DataError(f"{archive}: {member.filename!r} is encrypted. Expected open files.", code="IMG002")
        if member.is_dir() or not parts.parts or set(parts.parts) & set(_SYSTEM_NAMES):
            continue
        path = str(parts if len(parts.parts) > 1 or not top else PurePosixPath(top) / parts)
        if path in members:
            raise DataError(f"{archive}: {path!r} stands in it twice. Expected each file once.", code="NAME003")
        members[path] = member
    total = sum(member.file_size for member in members.values())
    size = archive.stat().st_size
    if total > MAX_UNPACKED_BYTES or is_bomb(total, size):
        raise DataError(
            f"{archive}: {size:,} bytes that would unpack to {total:,}. Expected images, at most {MAX_RATIO} times the "
            "archive; nothing was unpacked.",
            code="IMG002",
        )
    return members


def _refuse_overlaps(opened: zipfile.ZipFile, archive: Path) -> None:
    """Refuse files that share their bytes, by which an archive of no size unpacks to any (Fifield 2019)."""
    end = 0
    for member in sorted(opened.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise DataError(
                f"{archive}: {member.filename!r} shares its bytes with another. Expected each file its own; nothing "
                "was unpacked.",
                code="IMG002",
            )
        # the head of a file has 30 bytes and its name, a byte a letter at least
        end = member.header_offset + 30 + len(member.orig_filename) + member.compress_size
