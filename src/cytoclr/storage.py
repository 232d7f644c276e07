"""Writing that survives a power cut: atomic files, checksums, manifests, folders replaced whole, one writer a run.

A file is written beside its place under a temporary name, flushed to the disk and renamed; a stage is finished
when its manifest, written last, names every file with its size and SHA-256.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cytoclr.errors import DamagedError, MachineError

__all__ = [
    "TEMPORARY",
    "FileRecord",
    "Manifest",
    "hash_file",
    "hash_json",
    "hash_tree",
    "hold_run",
    "open_atomic",
    "read_json",
    "read_table",
    "recover_folder",
    "replace_folder",
    "sync_folder",
    "sync_tree",
    "write_json",
    "write_table",
    "write_text",
]


#: What files are called (as a glob) that `open_atomic` has not finished; a killed process leaves them behind.
TEMPORARY = ".*.tmp"
#: Under this name a Parquet file's head says what its columns do not.
_ABOUT = b"cytoclr"


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name only once every byte is on the disk.

    Raises
    ------
    MachineError
        The place cannot be written, or the disk is full. What stood under the name before is intact.
    """
    # not by the process alone: several machines may write into one folder
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        reason = _explain(error, temporary) if isinstance(error, OSError) else ""
        with contextlib.suppress(OSError):
            temporary.unlink()
        if reason:
            raise MachineError(f"{path}: could not be written ({reason}, and run again).") from error
        raise


def _explain(error: OSError, temporary: Path) -> str:
    """Say what the system refused, where space is short how much is needed, and what to do."""
    reason = error.strerror or str(error)
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"{reason}; see to {'the disk' if error.errno == errno.EIO else 'the rights'} there"
    with contextlib.suppress(OSError):
        written, free = temporary.stat().st_size, shutil.disk_usage(temporary.parent).free
        reason += f"; it needs more than {written:,} bytes, and beside them {free:,} are free"
    return f"{reason}; free some"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with open_atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, indented, keys in the order given; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    DamagedError
        The file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: expected JSON ({error}). Delete it and run the stage again.") from error


def write_table(path: Path, frame: pd.DataFrame, *, about: Mapping[str, object] | None = None) -> None:
    """Write a Parquet file atomically, with a checksum on every page; `about` goes into its head, as JSON."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if about is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _ABOUT: json.dumps(about).encode()})
    with open_atomic(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file written by `write_table`, checking its pages.

    Raises
    ------
    DamagedError
        The file is not Parquet, or a page does not have the bytes that were written.
    """
    try:
        frame: pd.DataFrame = pq.read_table(path, page_checksum_verification=True).to_pandas()
        return frame
    except FileNotFoundError:
        raise
    except (
        pa.ArrowException,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # pandas' notes too
        raise DamagedError(f"{path}: damaged ({error}). Delete it and run the stage again.") from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(path: Path) -> dict[str, str]:
    """SHA-256 of a file (as ``sha256``), or of every file of a folder by its name in it; nothing if there is none."""
    if path.is_file():
        return {"sha256": hash_file(path)}
    return {file.relative_to(path).as_posix(): hash_file(file) for file in sorted(path.rglob("*")) if file.is_file()}


def hash_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def replace_folder(new: Path, place: Path) -> None:
    """Put a finished folder in its place; the old one is deleted only when the new one stands.

    If the power goes between the two renames, `recover_folder` puts the old one back.
    """
    old = _old_name(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(place: Path) -> None:
    """End a replacement that was cut short: put back the old folder, unless the new one stands already."""
    old = _old_name(place)
    if not old.exists():
        return
    if place.exists():
        shutil.rmtree(old)
    else:
        old.rename(place)


def _old_name(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries (names, renames) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring all that lies in a folder to the disk, whoever wrote it."""
    for path in [folder, *folder.rglob("*")]:
        sync_folder(path)


@dataclass(frozen=True)
class FileRecord:
    """A stored file as it was when its stage finished."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished stage wrote, from which inputs; written last.

    `key` is a hash of all that decides the result: the stage's version and settings, and its inputs' hashes.
    `report` is what the stage has to say of itself: counts, what was left out, warnings.
    """

    stage: str
    key: str
    files: Mapping[str, FileRecord]
    report: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def describe(
        stage: str,
        key: str,
        folder: Path,
        files: Sequence[Path],
        report: Mapping[str, Any],
        *,
        hashes: Mapping[str, str] | None = None,
    ) -> "Manifest":
        """Hash the files, named relative to the folder; `hashes` has those of files that were hashed when written."""
        records = {}
        for path in sorted(files):
            name = path.relative_to(folder).as_posix()
            records[name] = FileRecord(path.stat().st_size, (hashes or {}).get(name) or hash_file(path))
        return Manifest(stage, key, records, report)

    def write(self, path: Path) -> None:
        """Write the manifest atomically, with a hash of itself."""
        value = asdict(self)
        write_json(path, {**value, "sha256": hash_json(value)})

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read a manifest.

        Raises
        ------
        DamagedError
            It is not a manifest, or not as it was written.
        """
        try:
            value = read_json(path)
            # those of earlier versions have none
            if value.pop("sha256", None) not in {None, hash_json(value)}:
                raise DamagedError(f"{path}: other bytes than were written. Delete it and run the stage again.")
            files = {name: FileRecord(**record) for name, record in value["files"].items()}
            for name in files:
                # entries are removed by their names when a stage is done anew
                if not name or PurePath(name).is_absolute() or {"..", "."} & set(name.split("/")):
                    raise DamagedError(f"{path}: the name {name!r} leaves the run folder. Delete the file.")
            return Manifest(value["stage"], value["key"], files, value["report"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"{path}: not a manifest ({error}). Delete it and run the stage again.") from error

    def find_damage(
        self, folder: Path, *, read_all: bool = False, done: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Name the files that are missing or have another size, or (`read_all`) other bytes.

        `done` is told the bytes of each file that is done with.
        """
        damaged = []
        for name, record in self.files.items():
            path = folder / name
            if not path.is_file():
                damaged.append(f"{name}: missing")
            elif path.stat().st_size != record.bytes:
                damaged.append(f"{name}: {path.stat().st_size:,} bytes, expected {record.bytes:,}")
            elif read_all and hash_file(path) != record.sha256:
                damaged.append(f"{name}: other bytes than were written")
            done(record.bytes)
        return damaged


@contextlib.contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Be the only writer of a run folder; the lock goes with the process, however it ends.

    Raises
    ------
    MachineError
        Another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except filelock.Timeout:
        holder = folder / ".lock-holder"
        who = holder.read_text() if holder.exists() else "another process"
        raise MachineError(f"{folder}: in use by {who}. Wait for it, or choose another --out.") from None
    except NotImplementedError as error:
        raise MachineError(
            f"{folder}: its file system has no locks, so nothing would keep two runs apart. Choose another --out."
        ) from error
    except OSError as error:
        raise MachineError(f"{folder}: cannot be used as a run folder ({error.strerror or error}).") from error
    try:
        for leftover in folder.glob(TEMPORARY):  # of a process that was killed: nobody else writes here
            leftover.unlink()
        write_text(folder / ".lock-holder", f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        (folder / ".lock-holder").unlink(missing_ok=True)
        lock.release()
