"""OME-Zarr (NGFF 0.4 and 0.5): the metadata of groups, and the planes of a field."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt

from cytoclr.data.planes import DTYPES, MAX_PIXELS, Planes
from cytoclr.data.remote import is_url, open_filesystem, read_bytes
from cytoclr.data.roots import Root, leaves
from cytoclr.errors import DataError

__all__ = ["find_channel_labels", "is_zarr", "open_ome_zarr", "read_ome_metadata"]

#: Where a group's attributes lie: Zarr 3 (OME-Zarr 0.5), Zarr 2 (0.4 and before).
_METADATA_FILES = ("zarr.json", ".zattrs")
#: Codecs of pixels: they compress or reorder bytes. There is one that unpickles what is stored, and so runs it.
_CODECS = frozenset(
    {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "packbits", "pcodec", "zfpy"}
    | {"astype", "bitround", "bytes", "delta", "fixedscaleoffset", "quantize", "shuffle", "transpose"}
    | {"adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3", "sharding_indexed"}
)
_MICROMETRES = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "meter": 1e6}


def is_zarr(place: str) -> bool:
    """Tell a Zarr by its name: a folder on the way ends in ``.zarr``.

    >>> is_zarr("s3://bucket/plate.ome.zarr/B/02/0"), is_zarr("plate/B02.tif")
    (True, False)
    """
    return any(part.lower().endswith(".zarr") for part in place.replace("\\", "/").split("/"))


def read_ome_metadata(places: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Read the OME attributes of groups, remote ones side by side; None: there is no group, or it has none.

    Raises
    ------
    DataError
        What is there is no JSON (IMG002).
    MachineError
        It cannot be reached (NET001).
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(places)
    for name in _METADATA_FILES:
        absent = [place for place in places if found[place] is None]
        for place, content in zip(absent, _read_all([f"{place.rstrip('/')}/{name}" for place in absent]), strict=True):
            if content is not None:
                found[place] = _parse(content, f"{place.rstrip('/')}/{name}")
    return found


def _read_all(files: list[str]) -> list[bytes | None]:
    if not files or not is_url(files[0]):
        return [_read_local(Path(file)) for file in files]
    filesystem, first = open_filesystem(files[0])
    paths = [first, *(open_filesystem(file)[1] for file in files[1:])]
    contents = filesystem.cat(paths, on_error="return")
    if not isinstance(contents, dict):  # of a single path, fsspec returns the content
        contents = {first: contents}
    results: list[bytes | None] = []
    for file, path in zip(files, paths, strict=True):
        content = contents[path]
        # A bucket that does not let its folders be listed says "forbidden" of what is not there.
        if isinstance(content, FileNotFoundError | NotADirectoryError | PermissionError):
            results.append(None)
        else:
            results.append(read_bytes(file) if isinstance(content, BaseException) else content)
    return results


def _read_local(file: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return file.read_bytes()
    return None


def _parse(content: bytes, file: str) -> dict[str, Any]:
    try:
        attributes = json.loads(content)
        if file.endswith("zarr.json"):
            attributes = attributes.get("attributes", {}).get("ome", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not readable metadata ({error}). Copy the group again.", code="IMG002") from None
    if not isinstance(attributes, dict):
        raise DataError(f"{file}: not readable metadata (no JSON object). Copy the group again.", code="IMG002")
    return attributes


def find_channel_labels(metadata: Mapping[str, Any]) -> list[str] | None:
    """Find the channels' labels in a field's metadata (``omero.channels``); one without is ``channel_<number>``."""
    omero = metadata.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not channels:
        return None
    labels = [str(channel.get("label", "")) if isinstance(channel, dict) else "" for channel in channels]
    return [label or f"channel_{number}" for number, label in enumerate(labels)]


@contextlib.contextmanager
def open_ome_zarr(place: str) -> Iterator[Planes]:
    """Open the group of a field: the full resolution of its first image; the channels are its planes.

    Raises
    ------
    DataError
        There is no such group (IMG001), its metadata or pixels cannot be read (IMG002), it has several times or
        z-planes, or its pixels are not of 8 or 16 bit without a sign (IMG004), or links in it lead out (NAME006).
    """
    metadata = read_ome_metadata([place])[place]
    if metadata is None:
        raise DataError(f"{place}: no such OME-Zarr group.", code="IMG001")
    axes, level, size_um = _find_level(metadata, place)
    try:
        _refuse_links(place)
        array = _open_array(f"{place.rstrip('/')}/{level}")
        _check_stored(array, place)
        yield _describe(array, axes or list("tczyx"[-array.ndim :]), size_um, place)
    except FileNotFoundError:
        raise DataError(f"{place}: no array {level} in this group. Copy it again.", code="IMG001") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{place}: its pixels cannot be read ({detail}). Copy the group again.", code="IMG002"
        ) from None


def _refuse_links(place: str) -> None:
    """Refuse a group of the disk that links lead out of: its chunks could be any files of this machine."""
    if is_url(place):
        return
    parts = PurePosixPath(place.replace("\\", "/"))
    plate = next((path for path in reversed([parts, *parts.parents]) if path.suffix.lower() == ".zarr"), parts)
    root = Root(str(plate))
    for folder, folders, files in os.walk(place):
        root.check_links(folder)
        for name in [*folders, *files]:
            root.check_links(folder, name)


def _check_stored(array: Any, place: str) -> None:
    """Refuse codecs that do more than compress, and chunks larger than any camera's field."""
    names = list(_list_codecs(array.metadata.to_dict()))
    unknown = [name for name in names if name.removeprefix("numcodecs.") not in _CODECS]
    if unknown:
        raise DataError(
            f"{place}: stored by the codec {unknown[0]!r}. Expected one that compresses pixels, as zstd or blosc.",
            code="IMG002",
        )
    stored = array.shards or array.chunks
    if math.prod(stored) > MAX_PIXELS:
        raise DataError(f"{place}: says its chunks are {stored}, more pixels than any camera takes.", code="IMG002")


def _list_codecs(about: Mapping[str, Any]) -> Iterator[str]:
    """Name the codecs of an array: of Zarr 2 (`compressor`, `filters`) and 3 (`codecs`, one inside another)."""
    codecs = [about.get("compressor"), *(about.get("filters") or ()), *(about.get("codecs") or ())]
    codecs += about.get("index_codecs") or ()
    for codec in codecs:
        if codec is not None:
            yield str(codec.get("id", codec.get("name")))
            yield from _list_codecs(codec.get("configuration") or {})


def _open_array(place: str) -> Any:
    import zarr  # slow to import, and most screens have none

    if not is_url(place):
        return zarr.open_array(place, mode="r")
    filesystem, path = open_filesystem(place)
    return zarr.open_array(zarr.storage.FsspecStore.from_mapper(filesystem.get_mapper(path), read_only=True), mode="r")


def _find_level(metadata: Mapping[str, Any], place: str) -> tuple[list[str], str, float | None]:
    """Find the axes' names (none in old versions), the path of the full resolution, and a pixel's width (µm)."""
    try:
        image = metadata["multiscales"][0]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])]
        level = image["datasets"][0]
        names, path = [str(axis["name"]).lower() for axis in axes], str(level["path"])
    except (KeyError, IndexError, TypeError, AttributeError):
        raise DataError(
            f"{place}: its metadata name no image (multiscales). Expected the group of a field.", code="IMG002"
        ) from None
    if leaves(path):
        raise DataError(f"{place}: the path {path!r} leaves the group.", code="NAME006")
    return names, path, _find_pixel_size(axes, level, image)


def _find_pixel_size(axes: list[dict[str, Any]], level: Any, image: Any) -> float | None:
    column = next((number for number, axis in enumerate(axes) if axis.get("name") == "x"), None)
    if column is None:
        return None
    try:
        scales = [
            float(transformation["scale"][column])
            for where in (level, image)
            for transformation in where.get("coordinateTransformations", ())
            if transformation.get("type") == "scale"
        ]
        factor = _MICROMETRES[axes[column]["unit"]] * math.prod(scales)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return factor if scales and math.isfinite(factor) and factor > 0 else None


def _describe(array: Any, axes: list[str], size_um: float | None, place: str) -> Planes:
    dtype = np.dtype(array.dtype).newbyteorder("=")
    sizes = dict(zip(axes, array.shape, strict=False))
    if len(axes) != array.ndim or axes[-2:] != ["y", "x"] or not set(axes) <= set("tczyx"):
        raise DataError(
            f"{place}: its axes are {', '.join(axes)} and its array has {array.ndim}. Expected t, c, z, y, x or some "
            "of them, in this order.",
            code="IMG004",
        )
    for axis, meaning in (("t", "times"), ("z", "z-planes")):
        if sizes.get(axis, 1) != 1:
            raise DataError(
                f"{place}: {sizes[axis]} {meaning}. Expected one: project or select them first.", code="IMG004"
            )
    if dtype not in DTYPES:
        raise DataError(
            f"{place}: {dtype} {array.shape}. Expected grey planes (rows, columns) of 8 or 16 bit.", code="IMG004"
        )
    shape = (sizes["y"], sizes["x"])
    if shape[0] * shape[1] > MAX_PIXELS:
        raise DataError(f"{place}: says it has {shape} pixels, more than any camera takes.", code="IMG002")

    def read(plane: int, out: UInt[np.ndarray, "row column"]) -> None:
        index: tuple[Any, ...] = tuple({"c": plane, "t": 0, "z": 0}.get(axis, slice(None)) for axis in axes)
        out[...] = array[index]

    return Planes(
        shape=shape,
        dtype=dtype,
        bits=dtype.itemsize * 8,
        number=sizes.get("c", 1),
        pages=sizes.get("c", 1),
        read=read,
        find_pixel_size=lambda: size_um,
    )
